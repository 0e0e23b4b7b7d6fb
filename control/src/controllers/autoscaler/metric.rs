//! What each metric of an autoscaler comes to: a number of replicas and a status, or why there is none. Pure.
use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricStatus, ExternalMetricSource, ExternalMetricStatus, MetricIdentifier, MetricSpec,
    MetricStatus, MetricTarget, MetricValueStatus, ObjectMetricSource, ObjectMetricStatus, PodsMetricSource,
    PodsMetricStatus, ResourceMetricStatus,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::pods::Samples;
use super::readings::Reading;
use super::replicas::{self, Goal, Usage, Workload};
use crate::kinds::quantity::Quantity as Amount;
use crate::toolkit::quantity::milli;

/// What a metric comes to.
#[derive(Debug)]
pub struct Proposal {
    pub replicas: i32,
    /// What the metric is called in events and conditions.
    pub name: String,
    pub status: MetricStatus,
}

/// Why a metric comes to nothing.
#[derive(Debug, PartialEq)]
pub struct Refusal {
    /// Of the condition and of an event of the metric's own.
    pub reason: &'static str,
    pub cause: String,
    /// The cause as it is told among those of other metrics.
    pub whole: String,
}

/// A reading, or why there is none.
type Read = Result<Reading, String>;

pub fn propose(
    metric: &MetricSpec,
    reading: Read,
    workload: &Workload<'_>,
    namespace: &str,
) -> Result<Proposal, Refusal> {
    if let Some(source) = &metric.resource {
        let found = resource(&source.name, None, &source.target, reading, workload);
        let (replicas, name, current) = found.map_err(|cause| Refusal {
            reason: "FailedGetResourceMetric",
            whole: format!("failed to get {} resource metric value: {cause}", source.name),
            cause,
        })?;
        let mut status = of_type(metric);
        status.resource = Some(ResourceMetricStatus {
            current,
            name: source.name.clone(),
        });
        Ok(Proposal {
            replicas,
            name,
            status,
        })
    } else if let Some(source) = &metric.container_resource {
        let container = Some(source.container.as_str());
        let found = resource(&source.name, container, &source.target, reading, workload);
        let (replicas, name, current) = found.map_err(|cause| Refusal {
            reason: "FailedGetContainerResourceMetric",
            whole: format!(
                "failed to get {} container metric value: {cause}",
                source.container
            ),
            cause,
        })?;
        let mut status = of_type(metric);
        status.container_resource = Some(ContainerResourceMetricStatus {
            container: source.container.clone(),
            current,
            name: source.name.clone(),
        });
        Ok(Proposal {
            replicas,
            name,
            status,
        })
    } else if let Some(source) = &metric.pods {
        of_pods(metric, source, reading, workload)
    } else if let Some(source) = &metric.object {
        of_object(metric, source, reading, workload, namespace)
    } else if let Some(source) = &metric.external {
        external(metric, source, reading, workload, namespace)
    } else {
        let cause = format!("unknown metric source type {:?}", metric.type_);
        Err(Refusal {
            reason: "InvalidMetricSourceType",
            whole: cause.clone(),
            cause,
        })
    }
}

fn of_type(metric: &MetricSpec) -> MetricStatus {
    MetricStatus {
        type_: metric.type_.clone(),
        ..MetricStatus::default()
    }
}

fn samples(reading: Reading) -> Samples {
    match reading {
        Reading::Pods(samples) => samples,
        Reading::Values(_) => Samples::new(),
    }
}

/// The sum, as far as it can be counted.
fn total(reading: Reading) -> i64 {
    match reading {
        Reading::Pods(_) => 0,
        Reading::Values(values) => values.into_iter().fold(0, i64::saturating_add),
    }
}

fn resource(
    resource: &str,
    container: Option<&str>,
    target: &MetricTarget,
    reading: Read,
    workload: &Workload<'_>,
) -> Result<(i32, String, MetricValueStatus), String> {
    let cpu = resource == "cpu";
    let reading = reading.map_err(|why| format!("unable to get metrics for resource {resource}: {why}"));
    if let Some(wanted) = &target.average_value {
        let told = |why| format!("failed to get {resource} usage: {why}");
        let goal = || Ok(Goal::Average(milli(wanted)));
        let found = reading.and_then(|read| replicas::for_samples(workload, samples(read), cpu, goal));
        let (replicas, usage) = found.map_err(told)?;
        return Ok((replicas, format!("{resource} resource"), current(resource, usage)));
    }
    let Some(percent) = target.average_utilization else {
        let neither = "neither an average utilization target nor an average value (usage) target was set";
        return Err(format!("invalid resource metric source: {neither}"));
    };
    let told = |why| format!("failed to get {resource} utilization: {why}");
    let goal = || {
        let requests = super::pods::requests(workload.pods, container, resource)?;
        Ok(Goal::Utilization { percent, requests })
    };
    let found = reading.and_then(|read| replicas::for_samples(workload, samples(read), cpu, goal));
    let (replicas, usage) = found.map_err(told)?;
    let whose = if container.is_some() {
        "container resource"
    } else {
        "resource"
    };
    let name = format!("{resource} {whose} utilization (percentage of request)");
    Ok((replicas, name, current(resource, usage)))
}

fn current(resource: &str, usage: Usage) -> MetricValueStatus {
    // Memory is told as the resource metrics API tells it.
    let style = if resource == "memory" { "0Ki" } else { "0" };
    MetricValueStatus {
        average_utilization: usage.percent,
        average_value: Some(amount(usage.average, style)),
        value: None,
    }
}

/// Thousandths as a quantity, in the style of another.
fn amount(milli: i64, style: &str) -> Quantity {
    let amount = Amount::parse(&format!("{milli}m"));
    let sum = amount.and_then(|amount| Ok(Amount::parse(style)?.plus(amount)));
    Quantity(sum.map_or_else(|_| format!("{milli}m"), |sum| sum.to_string()))
}

fn plain(milli: i64) -> Option<Quantity> {
    Some(amount(milli, "0"))
}

fn of_pods(
    metric: &MetricSpec,
    source: &PodsMetricSource,
    reading: Read,
    workload: &Workload<'_>,
) -> Result<Proposal, Refusal> {
    let name = &source.metric.name;
    let wanted = source.target.average_value.as_ref().map_or(0, milli);
    let found = reading
        .map_err(|why| format!("unable to get metric {name}: {why}"))
        .and_then(|read| replicas::for_samples(workload, samples(read), false, || Ok(Goal::Average(wanted))));
    let (replicas, usage) = found.map_err(|cause| Refusal {
        reason: "FailedGetPodsMetric",
        whole: format!("failed to get pods metric value: {cause}"),
        cause,
    })?;
    let mut status = of_type(metric);
    status.pods = Some(PodsMetricStatus {
        current: average(usage.average),
        metric: source.metric.clone(),
    });
    let name = format!("pods metric {name}");
    Ok(Proposal {
        replicas,
        name,
        status,
    })
}

fn of_object(
    metric: &MetricSpec,
    source: &ObjectMetricSource,
    reading: Read,
    workload: &Workload<'_>,
    namespace: &str,
) -> Result<Proposal, Refusal> {
    let (name, object) = (&source.metric.name, &source.described_object);
    let refused = |cause: String, whole: String| Refusal {
        reason: "FailedGetObjectMetric",
        whole: format!("failed to get object metric value: {whole}"),
        cause,
    };
    let value = reading.map(total).map_err(|why| {
        format!(
            "unable to get metric {name}: {} on {namespace} {}/{why}",
            object.kind, object.name
        )
    });
    let mut status = ObjectMetricStatus {
        current: MetricValueStatus::default(),
        described_object: object.clone(),
        metric: source.metric.clone(),
    };
    let (replicas, name) = match wanted(&source.target) {
        Some(Wanted::Value(goal)) => {
            let found = value.and_then(|value| Ok((replicas::for_value(workload, value, goal)?, value)));
            let (replicas, value) = found.map_err(|why| refused(why.clone(), why))?;
            status.current.value = plain(value);
            (replicas, format!("{} metric {name}", object.kind))
        }
        Some(Wanted::Share(goal)) => {
            let value = value.map_err(|why| {
                let whole = format!("failed to get {name} object metric: {why}");
                refused(why, whole)
            })?;
            let (replicas, share) = replicas::for_share(workload, value, goal);
            status.current = average(share);
            (replicas, external_name(&source.metric))
        }
        None => {
            let why = format!("invalid object metric source: {NEITHER}");
            return Err(refused(why.clone(), why));
        }
    };
    let mut whole = of_type(metric);
    whole.object = Some(status);
    let status = whole;
    Ok(Proposal {
        replicas,
        name,
        status,
    })
}

fn external(
    metric: &MetricSpec,
    source: &ExternalMetricSource,
    reading: Read,
    workload: &Workload<'_>,
    namespace: &str,
) -> Result<Proposal, Refusal> {
    let name = &source.metric.name;
    let refused = |cause: String, whole: String| Refusal {
        reason: "FailedGetExternalMetric",
        whole: format!("failed to get {name} external metric value: {whole}"),
        cause,
    };
    let value = reading.map(total).map_err(|why| {
        let selector = go_selector(source.metric.selector.as_ref());
        format!("unable to get external metric {namespace}/{name}/{selector}: {why}")
    });
    let (replicas, current) = match wanted(&source.target) {
        Some(Wanted::Share(goal)) => {
            let value = value.map_err(|why| {
                let whole = format!("failed to get {name} external metric: {why}");
                refused(why, whole)
            })?;
            let (replicas, share) = replicas::for_share(workload, value, goal);
            (replicas, average(share))
        }
        Some(Wanted::Value(goal)) => {
            let found = value.and_then(|value| Ok((replicas::for_value(workload, value, goal)?, value)));
            let (replicas, value) = found.map_err(|why| {
                let whole = format!("failed to get external metric {name}: {why}");
                refused(why, whole)
            })?;
            let value = plain(value);
            let current = MetricValueStatus {
                value,
                ..MetricValueStatus::default()
            };
            (replicas, current)
        }
        None => {
            let why = format!("invalid external metric source: {NEITHER}");
            return Err(refused(why.clone(), why));
        }
    };
    let mut status = of_type(metric);
    status.external = Some(ExternalMetricStatus {
        current,
        metric: source.metric.clone(),
    });
    let name = external_name(&source.metric);
    Ok(Proposal {
        replicas,
        name,
        status,
    })
}

const NEITHER: &str = "neither a value target nor an average value target was set";

/// What is aimed at of a value that belongs to all Pods, in thousandths.
enum Wanted {
    Value(i64),
    Share(i64),
}

fn wanted(target: &MetricTarget) -> Option<Wanted> {
    let share = target.average_value.as_ref().map(|v| Wanted::Share(milli(v)));
    share.or_else(|| target.value.as_ref().map(|v| Wanted::Value(milli(v))))
}

fn average(milli: i64) -> MetricValueStatus {
    MetricValueStatus {
        average_value: plain(milli),
        ..MetricValueStatus::default()
    }
}

fn external_name(metric: &MetricIdentifier) -> String {
    format!(
        "external metric {}({})",
        metric.name,
        go_selector(metric.selector.as_ref())
    )
}

/// A selector as Go prints the type.
fn go_selector(selector: Option<&LabelSelector>) -> String {
    let Some(selector) = selector else {
        return "nil".into();
    };
    let labels = selector.match_labels.iter().flatten();
    let labels: String = labels.map(|(key, value)| format!("{key}: {value},")).collect();
    let requirements = selector.match_expressions.iter().flatten().map(|r| {
        let values = r.values.as_ref().map_or_else(String::new, |all| all.join(" "));
        format!(
            "LabelSelectorRequirement{{Key:{},Operator:{},Values:[{values}],}},",
            r.key, r.operator
        )
    });
    let requirements: String = requirements.collect();
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:[]LabelSelectorRequirement{{{requirements}}},}}"
    )
}

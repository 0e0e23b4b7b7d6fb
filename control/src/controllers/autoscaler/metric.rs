//! What each metric of an autoscaler comes to: a number of replicas and a status, or why there is none. Pure.
use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricSource, ContainerResourceMetricStatus, ExternalMetricSource, ExternalMetricStatus,
    MetricIdentifier, MetricSpec, MetricStatus, MetricTarget, MetricValueStatus, ObjectMetricSource,
    ObjectMetricStatus, PodsMetricSource, PodsMetricStatus, ResourceMetricSource, ResourceMetricStatus,
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
        of_resource(metric, source, reading, workload)
    } else if let Some(source) = &metric.container_resource {
        of_container(metric, source, reading, workload)
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

fn of_resource(
    metric: &MetricSpec,
    source: &ResourceMetricSource,
    reading: Read,
    workload: &Workload<'_>,
) -> Result<Proposal, Refusal> {
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
}

fn of_container(
    metric: &MetricSpec,
    source: &ContainerResourceMetricSource,
    reading: Read,
    workload: &Workload<'_>,
) -> Result<Proposal, Refusal> {
    let container = source.container.as_str();
    let found = resource(&source.name, Some(container), &source.target, reading, workload);
    let (replicas, name, current) = found.map_err(|cause| Refusal {
        reason: "FailedGetContainerResourceMetric",
        whole: format!("failed to get {container} container metric value: {cause}"),
        cause,
    })?;
    let mut status = of_type(metric);
    status.container_resource = Some(ContainerResourceMetricStatus {
        container: container.to_owned(),
        current,
        name: source.name.clone(),
    });
    Ok(Proposal {
        replicas,
        name,
        status,
    })
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
    let styled = amount.and_then(|amount| Ok(amount.in_style_of(Amount::parse(style)?)));
    Quantity(styled.map_or_else(|_| format!("{milli}m"), |amount| amount.to_string()))
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
    let value = reading.map(total).map_err(|why| {
        let whose = format!("{} on {namespace} {}", object.kind, object.name);
        format!("unable to get metric {name}: {whose}/{why}")
    });
    let wanted = wanted(&source.target);
    let (replicas, current) = sized(wanted, value, workload, "object").map_err(|cause| {
        let before = match wanted {
            Some(Wanted::Share(_)) => format!("failed to get {name} object metric: "),
            _ => String::new(),
        };
        Refusal {
            reason: "FailedGetObjectMetric",
            whole: format!("failed to get object metric value: {before}{cause}"),
            cause,
        }
    })?;
    let name = match wanted {
        Some(Wanted::Share(_)) => external_name(&source.metric),
        _ => format!("{} metric {name}", object.kind),
    };
    let mut status = of_type(metric);
    status.object = Some(ObjectMetricStatus {
        current,
        described_object: object.clone(),
        metric: source.metric.clone(),
    });
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
    let value = reading.map(total).map_err(|why| {
        let selector = go_selector(source.metric.selector.as_ref());
        format!("unable to get external metric {namespace}/{name}/{selector}: {why}")
    });
    let wanted = wanted(&source.target);
    let (replicas, current) = sized(wanted, value, workload, "external").map_err(|cause| {
        let before = match wanted {
            Some(Wanted::Share(_)) => format!("failed to get {name} external metric: "),
            Some(Wanted::Value(_)) => format!("failed to get external metric {name}: "),
            None => String::new(),
        };
        Refusal {
            reason: "FailedGetExternalMetric",
            whole: format!("failed to get {name} external metric value: {before}{cause}"),
            cause,
        }
    })?;
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

/// What is aimed at of a value that belongs to all Pods, in thousandths.
#[derive(Clone, Copy)]
enum Wanted {
    Value(i64),
    Share(i64),
}

fn wanted(target: &MetricTarget) -> Option<Wanted> {
    let share = target.average_value.as_ref().map(|v| Wanted::Share(milli(v)));
    share.or_else(|| target.value.as_ref().map(|v| Wanted::Value(milli(v))))
}

/// How many Pods there should be for the value, and how the value is shown. `source` is what the metric is called where nothing is
/// aimed at.
fn sized(
    wanted: Option<Wanted>,
    value: Result<i64, String>,
    workload: &Workload<'_>,
    source: &str,
) -> Result<(i32, MetricValueStatus), String> {
    let neither = "neither a value target nor an average value target was set";
    let wanted = wanted.ok_or_else(|| format!("invalid {source} metric source: {neither}"))?;
    let value = value?;
    match wanted {
        Wanted::Value(goal) => {
            let current = MetricValueStatus {
                value: plain(value),
                ..MetricValueStatus::default()
            };
            Ok((replicas::for_value(workload, value, goal)?, current))
        }
        Wanted::Share(goal) => {
            let (replicas, share) = replicas::for_share(workload, value, goal);
            Ok((replicas, average(share)))
        }
    }
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

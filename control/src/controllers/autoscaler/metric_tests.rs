//! Tests of what metrics come to, and of what is said of them.
use super::metric::{Proposal, Refusal, propose};
use super::pods::Sample;
use super::readings::Reading;
use super::replicas::{Tolerances, Workload};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::MetricSpec;
use serde_json::{Value, json};

/// Two Pods that run; one container, which asks for half a processor and 1 MiB.
fn pods() -> Vec<Value> {
    let requests = json!({"cpu": "500m", "memory": "1Mi"});
    let one = |name| {
        json!({"metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "resources": {"requests": requests.clone()}}]},
        "status": {"phase": "Running", "startTime": "1969-12-31T23:00:00Z", "conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": "1969-12-31T23:00:01Z"}]}})
    };
    ["p", "q"].map(one).to_vec()
}

fn used(values: [i64; 2]) -> Result<Reading, String> {
    let sample = |value| Sample {
        value,
        at: Some(Timestamp::UNIX_EPOCH),
        window: SignedDuration::from_secs(15),
    };
    let named = [("p", values[0]), ("q", values[1])];
    let samples = named.map(|(name, value)| (name.to_owned(), sample(value)));
    Ok(Reading::Pods(samples.into_iter().collect()))
}

fn come_to(metric: &Value, reading: Result<Reading, String>) -> Result<Proposal, Refusal> {
    let metric: MetricSpec = serde_json::from_value(metric.clone()).expect("a metric");
    let pods = pods();
    let workload = Workload {
        pods: &pods,
        wanted: 2,
        present: 2,
        tolerances: Tolerances { down: 0.1, up: 0.1 },
        now: Timestamp::UNIX_EPOCH,
    };
    propose(&metric, reading, &workload, "ns")
}

fn metrics() -> [Value; 8] {
    let cpu = json!({"type": "Utilization", "averageUtilization": 50});
    let (metric, object) = (
        json!({"name": "m"}),
        json!({"kind": "Service", "name": "s", "apiVersion": "v1"}),
    );
    let selected = json!({"name": "m", "selector": {"matchLabels": {"a": "b"}}});
    let share = json!({"type": "AverageValue", "averageValue": "10"});
    let value = json!({"type": "Value", "value": "10"});
    [
        json!({"type": "Resource", "resource": {"name": "cpu", "target": cpu}}),
        json!({"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Mi"}}}),
        json!({"type": "ContainerResource", "containerResource": {"name": "cpu", "container": "c", "target": cpu}}),
        json!({"type": "Pods", "pods": {"metric": metric, "target": share}}),
        json!({"type": "Object", "object": {"metric": metric, "describedObject": object, "target": value}}),
        json!({"type": "Object", "object": {"metric": metric, "describedObject": object, "target": share}}),
        json!({"type": "External", "external": {"metric": selected, "target": value}}),
        json!({"type": "External", "external": {"metric": metric, "target": share}}),
    ]
}

#[test]
fn what_metrics_come_to() {
    let values = |value| Ok(Reading::Values(vec![value, value]));
    let mib = 1 << 20;
    let readings = [
        used([500, 500]),
        used([3_000 * mib, 1_000 * mib]),
        used([300, 200]),
        used([15_500, 15_500]),
        values(10_000),
        values(10_000),
        values(15_000),
        values(15_001),
    ];
    let percent = |percent, average| json!({"averageUtilization": percent, "averageValue": average});
    let average = |amount| json!({"averageValue": amount});
    let expected = [
        (
            4,
            "cpu resource utilization (percentage of request)",
            percent(100, "500m"),
        ),
        (4, "memory resource", average("2Mi")),
        (
            2,
            "cpu container resource utilization (percentage of request)",
            percent(50, "250m"),
        ),
        (4, "pods metric m", average("15500m")),
        (4, "Service metric m", json!({"value": "20"})),
        (2, "external metric m(nil)", average("10")),
        (
            6,
            "external metric m(&LabelSelector{MatchLabels:map[string]string{a: b,},MatchExpressions:[]LabelSelectorRequirement{},})",
            json!({"value": "30"}),
        ),
        (4, "external metric m(nil)", average("15001m")),
    ];
    for ((metric, reading), (replicas, name, current)) in metrics().iter().zip(readings).zip(expected) {
        let found = come_to(metric, reading).expect("a number");
        let status = serde_json::to_value(&found.status).expect("a status");
        let source = status
            .as_object()
            .and_then(|s| s.values().find(|v| v.is_object()));
        let shown = source.map(|source| &source["current"]);
        assert_eq!(
            (found.replicas, found.name.as_str(), shown),
            (replicas, name, Some(&current)),
            "{metric}"
        );
    }
}

#[test]
fn why_metrics_come_to_nothing() {
    let expected = [
        (
            "FailedGetResourceMetric",
            "failed to get cpu utilization: unable to get metrics for resource cpu: why",
            "failed to get cpu resource metric value: ",
        ),
        (
            "FailedGetResourceMetric",
            "failed to get memory usage: unable to get metrics for resource memory: why",
            "failed to get memory resource metric value: ",
        ),
        (
            "FailedGetContainerResourceMetric",
            "failed to get cpu utilization: unable to get metrics for resource cpu: why",
            "failed to get c container metric value: ",
        ),
        (
            "FailedGetPodsMetric",
            "unable to get metric m: why",
            "failed to get pods metric value: ",
        ),
        (
            "FailedGetObjectMetric",
            "unable to get metric m: Service on ns s/why",
            "failed to get object metric value: ",
        ),
        (
            "FailedGetObjectMetric",
            "unable to get metric m: Service on ns s/why",
            "failed to get object metric value: failed to get m object metric: ",
        ),
        (
            "FailedGetExternalMetric",
            "unable to get external metric ns/m/&LabelSelector{MatchLabels:map[string]string{a: b,},MatchExpressions:[]LabelSelectorRequirement{},}: why",
            "failed to get m external metric value: failed to get external metric m: ",
        ),
        (
            "FailedGetExternalMetric",
            "unable to get external metric ns/m/nil: why",
            "failed to get m external metric value: failed to get m external metric: ",
        ),
    ];
    for (metric, (reason, cause, before)) in metrics().iter().zip(expected) {
        let refusal = come_to(metric, Err("why".into())).expect_err("nothing");
        let expected = Refusal {
            reason,
            cause: cause.into(),
            whole: format!("{before}{cause}"),
        };
        assert_eq!(refusal, expected, "{metric}");
    }
}

//! `autoscaling/v1` as another view of the HorizontalPodAutoscalers that are stored as `autoscaling/v2`.
//!
//! What v1 has no field for travels in its annotations, as upstream's conversion does it.
use serde_json::{Map, Value, json};

use super::defaults::scaling::cpu_metric;
use super::table;
use super::view::{View, object_mut};

pub(super) const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
/// Members of a v2 status that v1 keeps as they are.
const STATUS: [&str; 4] = [
    "observedGeneration",
    "lastScaleTime",
    "currentReplicas",
    "desiredReplicas",
];

/// A row of a v1 object.
pub fn row(object: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let mut newer = object.clone();
    to_v2(&mut newer);
    table::scaling::row(&newer, now)
}

/// Validation of a v1 object, by the rules of the version that is stored.
pub fn validate(object: &Value) -> super::FieldErrors {
    let mut newer = object.clone();
    to_v2(&mut newer);
    super::validate::scaling::autoscaler(&newer)
}

pub fn validate_update(subresource: Option<&str>, new: &Value, old: &Value) -> super::FieldErrors {
    let (mut now, mut before) = (new.clone(), old.clone());
    to_v2(&mut now);
    to_v2(&mut before);
    super::validate::scaling::autoscaler_update(subresource, &now, &before)
}

/// v1 → v2.
pub fn to_v2(object: &mut Value) {
    let mut kept = take_annotations(object);
    let cpu = object.int("spec.targetCPUUtilizationPercentage");
    let now = object.int("status.currentCPUUtilizationPercentage");
    let mut metrics: Vec<Value> = list(kept.remove(METRICS)).iter().map(newer).collect();
    metrics.extend(cpu.map(cpu_metric));
    if let Some(spec) = object_mut(object, "spec") {
        spec.remove("targetCPUUtilizationPercentage");
        if metrics.is_empty() {
            metrics.push(cpu_metric(80));
        }
        spec.insert("metrics".into(), metrics.into());
        if let Some(behavior) = kept.remove(BEHAVIOR) {
            spec.insert("behavior".into(), lower_keys(behavior));
        }
    }
    let mut current: Vec<Value> = list(kept.remove(CURRENT));
    if current.is_empty() {
        current.extend(now.map(|percent| {
            json!({"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": percent}}})
        }));
    }
    if let Some(status) = object_mut(object, "status") {
        status.remove("currentCPUUtilizationPercentage");
        if !current.is_empty() {
            status.insert("currentMetrics".into(), current.into());
        }
        if let Some(conditions) = kept.remove(CONDITIONS) {
            status.insert("conditions".into(), conditions);
        }
    }
    set_version(object, "autoscaling/v2");
}

/// v2 → v1.
pub fn to_v1(object: &mut Value) {
    let spec = object.at("spec");
    let is_cpu = |m: &&Value| m.text("resource.name") == "cpu" && m.has("resource.target.averageUtilization");
    let all = spec.list("metrics");
    let cpu = all
        .iter()
        .find(is_cpu)
        .map(|m| m.at("resource.target.averageUtilization").clone());
    let others: Vec<Value> = all.iter().filter(|m| !is_cpu(m)).map(older).collect();
    let status = object.at("status");
    let current = status.list("currentMetrics").to_vec();
    let used = current
        .iter()
        .find(|m| m.text("resource.name") == "cpu")
        .map(|m| m.at("resource.current.averageUtilization").clone());
    let mut old_status: Map<String, Value> = STATUS
        .iter()
        .filter(|key| status.has(key))
        .map(|key| ((*key).to_owned(), status.at(key).clone()))
        .collect();
    if let Some(used) = used.filter(|used| !used.is_null()) {
        old_status.insert("currentCPUUtilizationPercentage".into(), used);
    }
    let carried = [
        (METRICS, Value::from(others)),
        (CURRENT, Value::from(current)),
        (CONDITIONS, status.at("conditions").clone()),
        (BEHAVIOR, upper_keys(spec.at("behavior").clone())),
    ];
    carry(object, carried);
    if let Some(spec) = object_mut(object, "spec") {
        spec.remove("metrics");
        spec.remove("behavior");
        if let Some(cpu) = cpu {
            spec.insert("targetCPUUtilizationPercentage".into(), cpu);
        }
    }
    if let Some(map) = object.as_object_mut() {
        map.insert("status".into(), old_status.into());
    }
    set_version(object, "autoscaling/v1");
}

fn set_version(object: &mut Value, version: &str) {
    if let Some(map) = object.as_object_mut() {
        map.insert("apiVersion".into(), version.into());
    }
}

fn list(value: Option<Value>) -> Vec<Value> {
    match value {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    }
}

/// Takes the conversion's annotations out of the object, decoded.
fn take_annotations(object: &mut Value) -> Map<String, Value> {
    let mut taken = Map::new();
    let annotations = object
        .pointer_mut("/metadata/annotations")
        .and_then(Value::as_object_mut);
    let Some(annotations) = annotations else {
        return taken;
    };
    for key in [METRICS, CURRENT, CONDITIONS, BEHAVIOR] {
        let decoded = annotations.remove(key);
        let decoded = decoded.and_then(|text| serde_json::from_str(text.as_str()?).ok());
        taken.extend(decoded.map(|value| (key.to_owned(), value)));
    }
    if annotations.is_empty()
        && let Some(meta) = object_mut(object, "metadata")
    {
        meta.remove("annotations");
    }
    taken
}

/// Writes what is not empty into annotations.
fn carry(object: &mut Value, values: [(&str, Value); 4]) {
    for (key, value) in values {
        let empty = match &value {
            Value::Null => true,
            Value::Array(items) => items.is_empty(),
            Value::Object(members) => members.is_empty(),
            _ => false,
        };
        if !empty && let Some(annotations) = object_mut(object, "metadata.annotations") {
            annotations.insert(key.into(), value.to_string().into());
        }
    }
}

/// The annotation has the names of Go's fields.
fn upper_keys(value: Value) -> Value {
    rename(value, |key| {
        let mut chars = key.chars();
        chars
            .next()
            .map(|first| first.to_ascii_uppercase().to_string() + chars.as_str())
    })
}

fn lower_keys(value: Value) -> Value {
    rename(value, |key| {
        let mut chars = key.chars();
        chars
            .next()
            .map(|first| first.to_ascii_lowercase().to_string() + chars.as_str())
    })
}

fn rename(value: Value, name: fn(&str) -> Option<String>) -> Value {
    match value {
        Value::Object(members) => {
            let renamed = members
                .into_iter()
                .map(|(key, value)| (name(&key).unwrap_or(key), rename(value, name)));
            Value::Object(renamed.collect())
        }
        Value::Array(items) => items.into_iter().map(|item| rename(item, name)).collect(),
        other => other,
    }
}

/// The parts of a metric: its source, where they stand in v2, and where in v1.
const PARTS: [(&str, &str, &str); 19] = [
    ("object", "describedObject", "target"),
    ("object", "metric.name", "metricName"),
    ("object", "metric.selector", "selector"),
    ("object", "target.value", "targetValue"),
    ("object", "target.averageValue", "averageValue"),
    ("pods", "metric.name", "metricName"),
    ("pods", "metric.selector", "selector"),
    ("pods", "target.averageValue", "targetAverageValue"),
    ("resource", "name", "name"),
    (
        "resource",
        "target.averageUtilization",
        "targetAverageUtilization",
    ),
    ("resource", "target.averageValue", "targetAverageValue"),
    ("containerResource", "name", "name"),
    ("containerResource", "container", "container"),
    (
        "containerResource",
        "target.averageUtilization",
        "targetAverageUtilization",
    ),
    ("containerResource", "target.averageValue", "targetAverageValue"),
    ("external", "metric.name", "metricName"),
    ("external", "metric.selector", "metricSelector"),
    ("external", "target.value", "targetValue"),
    ("external", "target.averageValue", "targetAverageValue"),
];

/// What a target is called by the amount it has.
const TARGETS: [(&str, &str); 3] = [
    ("averageUtilization", "Utilization"),
    ("averageValue", "AverageValue"),
    ("value", "Value"),
];

fn newer(metric: &Value) -> Value {
    let mut out = json!({"type": metric.text("type")});
    for (source, new, old) in PARTS {
        put(&mut out, source, new, metric.at(source).at(old));
    }
    for (source, _, _) in PARTS {
        let target = out.at(source).at("target").clone();
        let named = TARGETS.iter().find(|(key, _)| target.has(key));
        if let Some((_, name)) = named {
            put(&mut out, source, "target.type", &json!(name));
        }
    }
    out
}

fn older(metric: &Value) -> Value {
    let mut out = json!({"type": metric.text("type")});
    for (source, new, old) in PARTS {
        put(&mut out, source, old, metric.at(source).at(new));
    }
    out
}

/// Sets a member below `source` at a dotted path, unless there is nothing to set.
fn put(out: &mut Value, source: &str, path: &str, value: &Value) {
    if value.is_null() {
        return;
    }
    let full = format!("{source}.{path}");
    if let Some((parents, key)) = full.rsplit_once('.')
        && let Some(map) = object_mut(out, parents)
    {
        map.insert(key.to_owned(), value.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let stored = json!({"apiVersion": "autoscaling/v2", "metadata": {"name": "h"}, "spec": {
            "maxReplicas": 5, "metrics": [
                {"type": "Pods", "pods": {"metric": {"name": "m"}, "target": {"type": "AverageValue", "averageValue": "5"}}},
                cpu_metric(50)],
            "behavior": {"scaleUp": {"selectPolicy": "Max"}}},
            "status": {"currentReplicas": 1}});
        let mut old = stored.clone();
        to_v1(&mut old);
        assert_eq!(old["spec"]["targetCPUUtilizationPercentage"], 50);
        let metrics = old["metadata"]["annotations"][METRICS].as_str().expect("carried");
        assert!(metrics.contains("\"metricName\":\"m\""), "{metrics}");
        to_v2(&mut old);
        assert_eq!(old, stored);
    }
}

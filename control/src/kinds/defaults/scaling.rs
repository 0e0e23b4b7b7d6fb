//! Defaults of HorizontalPodAutoscalers.
use serde_json::{Value, json};

use crate::kinds::autoscaling::METRICS;
use crate::kinds::view::{View, existing_mut, object_mut, set_missing};

/// Average use of the requested CPU that is aimed at when no metric is named, in percent.
const CPU: i64 = 80;

pub fn v1(object: &mut Value) {
    if let Some(spec) = object_mut(object, "spec") {
        set_missing(spec, "minReplicas", 1);
    }
    // Metrics that v1 cannot show are in an annotation.
    if object.at("metadata.annotations").get(METRICS).is_none()
        && let Some(spec) = object_mut(object, "spec")
    {
        set_missing(spec, "targetCPUUtilizationPercentage", CPU);
    }
}

pub fn v2(object: &mut Value) {
    let bare = object.list("spec.metrics").is_empty();
    let Some(spec) = object_mut(object, "spec") else {
        return;
    };
    set_missing(spec, "minReplicas", 1);
    if bare {
        spec.insert("metrics".into(), json!([cpu_metric(CPU)]));
    }
    let Some(behavior) = existing_mut(object, "spec.behavior") else {
        return;
    };
    for (key, rules) in [("scaleUp", scale_up()), ("scaleDown", scale_down())] {
        let mut merged = rules;
        if let (Some(Value::Object(said)), Some(map)) = (behavior.get(key), merged.as_object_mut()) {
            let said = said.iter().filter(|(_, v)| !v.is_null());
            map.extend(said.map(|(k, v)| (k.clone(), v.clone())));
        }
        behavior.insert(key.into(), merged);
    }
}

/// The metric that `targetCPUUtilizationPercentage` of v1 stands for.
pub(in crate::kinds) fn cpu_metric(percent: i64) -> Value {
    json!({"type": "Resource", "resource": {
        "name": "cpu", "target": {"type": "Utilization", "averageUtilization": percent}}})
}

fn scale_up() -> Value {
    json!({"stabilizationWindowSeconds": 0, "selectPolicy": "Max", "policies": [
        {"type": "Pods", "value": 4, "periodSeconds": 15},
        {"type": "Percent", "value": 100, "periodSeconds": 15}]})
}

fn scale_down() -> Value {
    json!({"selectPolicy": "Max", "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}]})
}

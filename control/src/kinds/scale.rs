//! The `autoscaling/v1` Scale view of Deployments and ReplicaSets.
use serde_json::{Value, json};

use super::error::{FieldError, FieldErrors};
use super::labels::selector_string;
use super::view::{View, object_mut};

const METADATA: [&str; 5] = ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"];

/// The Scale of an object with `spec.replicas` and `spec.selector`.
pub fn get(object: &Value) -> Value {
    let mut scale = json!({
        "apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {}, "spec": {},
        "status": {"replicas": object.int("status.replicas").unwrap_or(0)},
    });
    for key in METADATA.iter().filter(|k| object.at("metadata").has(k)) {
        scale["metadata"][*key] = object.at("metadata")[*key].clone();
    }
    if let Some(replicas) = object.int("spec.replicas").filter(|r| *r != 0) {
        scale["spec"]["replicas"] = replicas.into();
    }
    match selector_string(object.at("spec.selector")) {
        empty if empty.is_empty() => {}
        selector => scale["status"]["selector"] = selector.into(),
    }
    scale
}

/// Sets the object's replicas from a Scale; without a number there are none.
pub fn set(object: &mut Value, scale: &Value) {
    let replicas = scale.int("spec.replicas").unwrap_or(0);
    if let Some(spec) = object_mut(object, "spec") {
        spec.insert("replicas".into(), replicas.into());
    }
}

/// Everything wrong with a Scale.
pub fn validate(scale: &Value) -> FieldErrors {
    let negative = scale.int("spec.replicas").filter(|r| *r < 0);
    let error = |r| FieldError::invalid("spec.replicas", r, "must be greater than or equal to 0");
    negative.map(error).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_reads_and_writes_replicas() {
        let mut object = json!({"metadata": {"name": "d", "namespace": "n", "labels": {"x": "y"}},
            "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "a"}}}});
        assert_eq!(
            get(&object),
            json!({
            "apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d", "namespace": "n"},
            "spec": {"replicas": 2}, "status": {"replicas": 0, "selector": "app=a"}})
        );
        set(&mut object, &json!({"spec": {"replicas": 5}}));
        assert_eq!(object["spec"]["replicas"], 5);
        assert_eq!(validate(&json!({"spec": {"replicas": -1}})).len(), 1);
    }
}

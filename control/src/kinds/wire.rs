//! The form in which objects are stored and served: which zero values are written and which are left out.
//!
//! A client that compares objects byte for byte sees what upstream's encoder would have written.
use serde_json::{Map, Value};

use super::decode::zero;
use super::schema::{Definition, Schemas, Type, Wire};

/// Brings `object` into wire form, in place. Idempotent.
pub fn normalise(schemas: &Schemas, definition: &Definition, object: &mut Value) {
    if let Value::Object(map) = object {
        members(schemas, definition, map);
    }
}

/// Looks at what is there, not at what could be: most fields of most objects are absent.
fn members(schemas: &Schemas, definition: &Definition, map: &mut Map<String, Value>) {
    map.retain(|key, value| {
        let Some(field) = definition.field(key) else {
            return true;
        };
        match field.wire {
            Wire::Always if value.is_null() => *value = zero(&field.ty),
            Wire::Null if value.is_null() => return true,
            _ if value.is_null() => return false,
            _ => {}
        }
        descend(schemas, &field.ty, value);
        field.wire != Wire::OmitZero || !is_zero(value)
    });
    for field in definition.always() {
        if !map.contains_key(&field.name) {
            let mut value = match field.wire {
                Wire::Null => Value::Null,
                _ => zero(&field.ty),
            };
            descend(schemas, &field.ty, &mut value);
            map.insert(field.name.clone(), value);
        }
    }
}

fn descend(schemas: &Schemas, ty: &Type, value: &mut Value) {
    match (ty, value) {
        (Type::List(item), Value::Array(items)) => items.iter_mut().for_each(|v| descend(schemas, item, v)),
        (Type::Map(item), Value::Object(map)) => map.values_mut().for_each(|v| descend(schemas, item, v)),
        (Type::Ref(_), Value::Object(map)) => {
            if let Some(definition) = schemas.resolve(ty) {
                members(schemas, definition, map);
            }
        }
        _ => {}
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(definition: &str, mut object: Value, want: Value) {
        let schemas = Schemas::builtin();
        let definition = schemas.get(definition).expect("definition");
        normalise(schemas, definition, &mut object);
        assert_eq!(object, want);
        normalise(schemas, definition, &mut object);
        assert_eq!(object, want, "second time");
    }

    #[test]
    fn zeros_are_left_out_or_written_as_the_encoder_does() {
        check(
            "io.k8s.api.core.v1.PodSpec",
            json!({"hostNetwork": false, "nodeName": "", "containers": [{"name": "c", "command": []}], "priority": 0}),
            json!({"containers": [{"name": "c", "resources": {}}], "priority": 0}),
        );
        check(
            "io.k8s.api.apps.v1.ReplicaSet",
            json!({"metadata": {"labels": {}, "creationTimestamp": null}}),
            json!({"metadata": {}, "spec": {"selector": null, "template": {"metadata": {}, "spec": {"containers": null}}},
                   "status": {"replicas": 0}}),
        );
        check(
            "io.k8s.api.core.v1.TypedLocalObjectReference",
            json!({"kind": "PersistentVolumeClaim", "name": "c"}),
            json!({"apiGroup": null, "kind": "PersistentVolumeClaim", "name": "c"}),
        );
        check(
            "io.k8s.api.resource.v1.OpaqueDeviceConfiguration",
            json!({}),
            json!({"driver": "", "parameters": null}),
        );
        check(
            "io.k8s.api.core.v1.PodCondition",
            json!({"type": "Ready", "status": "True", "observedGeneration": 0}),
            json!({"type": "Ready", "status": "True", "lastProbeTime": null, "lastTransitionTime": null}),
        );
    }
}

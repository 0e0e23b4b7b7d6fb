//! Defaults of PersistentVolumes and claims, StorageClasses and CSI drivers.
use serde_json::{Map, Value};

use super::{resources, volumes};
use crate::kinds::view::{existing_mut, items_mut, object_mut, set_missing, set_zero};

pub fn volume(object: &mut Value) {
    if let Some(status) = object_mut(object, "status") {
        set_zero(status, "phase", "Pending");
    }
    let Some(spec) = object_mut(object, "spec") else {
        return;
    };
    set_zero(spec, "persistentVolumeReclaimPolicy", "Retain");
    set_missing(spec, "volumeMode", "Filesystem");
    if let Some(capacity) = spec.get_mut("capacity") {
        resources::round_up(capacity);
    }
    volumes::source(spec);
}

pub fn claim(object: &mut Value) {
    if let Some(status) = object_mut(object, "status") {
        set_zero(status, "phase", "Pending");
    }
    if let Some(spec) = object_mut(object, "spec") {
        set_missing(spec, "volumeMode", "Filesystem");
        resources::round_up_requirements(spec);
    }
}

/// A claim inside a StatefulSet is served as a whole object.
pub(super) fn claim_template(template: &mut Map<String, Value>) {
    let mut object = Value::Object(std::mem::take(template));
    claim(&mut object);
    if let Value::Object(mut map) = object {
        map.insert("apiVersion".into(), "v1".into());
        map.insert("kind".into(), "PersistentVolumeClaim".into());
        *template = map;
    }
}

pub fn class(object: &mut Value) {
    if let Some(map) = object.as_object_mut() {
        set_missing(map, "reclaimPolicy", "Delete");
        set_missing(map, "volumeBindingMode", "Immediate");
    }
}

pub fn csi_driver(object: &mut Value) {
    let Some(spec) = object_mut(object, "spec") else {
        return;
    };
    set_missing(spec, "attachRequired", true);
    set_missing(spec, "podInfoOnMount", false);
    set_missing(spec, "storageCapacity", false);
    set_missing(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
    if spec
        .get("volumeLifecycleModes")
        .and_then(Value::as_array)
        .is_none_or(Vec::is_empty)
    {
        spec.insert("volumeLifecycleModes".into(), serde_json::json!(["Persistent"]));
    }
    set_missing(spec, "requiresRepublish", false);
    set_missing(spec, "seLinuxMount", false);
}

/// Limits and requests of a LimitRange's containers complete one another: the maximum is the default limit, the default
/// limit the default request, and what is left the minimum.
pub fn limit_range(object: &mut Value) {
    let Some(spec) = existing_mut(object, "spec") else {
        return;
    };
    for limit in items_mut(spec, "limits") {
        for key in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
            if let Some(list) = limit.get_mut(key) {
                resources::round_up(list);
            }
        }
        if limit.get("type").is_some_and(|t| t == "Container") {
            complete(limit, "max", "default");
            complete(limit, "default", "defaultRequest");
            complete(limit, "min", "defaultRequest");
        }
    }
}

/// Copies the amounts that `to` lacks.
fn complete(limit: &mut Map<String, Value>, from: &str, to: &str) {
    let Some(Value::Object(given)) = limit.get(from).cloned() else {
        return;
    };
    let target = limit.entry(to).or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(target) = target {
        for (name, amount) in given {
            target.entry(name).or_insert(amount);
        }
    }
}

pub fn quota(object: &mut Value) {
    for path in ["spec", "status"] {
        for key in ["hard", "used"] {
            if let Some(list) = existing_mut(object, path).and_then(|part| part.get_mut(key)) {
                resources::round_up(list);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::view::View;

    #[test]
    fn limits_complete_one_another() {
        let mut object = json!({"spec": {"limits": [{
            "type": "Container", "max": {"cpu": "2"}, "min": {"memory": "1Mi"}, "default": {"memory": "4Mi"}}]}});
        limit_range(&mut object);
        let limit = &object["spec"]["limits"][0];
        assert_eq!(limit["default"], json!({"cpu": "2", "memory": "4Mi"}));
        assert_eq!(limit["defaultRequest"], json!({"cpu": "2", "memory": "4Mi"}));
        assert!(!object.has("spec.limits.1"));
    }
}

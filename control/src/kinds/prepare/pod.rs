//! Pods: first status, quality of service, and what a status update may not touch.
use serde_json::{Map, Value, json};

use super::{STATUS, label_keys};
use crate::kinds::app_armor;
use crate::kinds::quantity::Quantity;
use crate::kinds::view::{View, copy_member, object_mut};

const COMPUTE: [&str; 2] = ["cpu", "memory"];

pub fn create(object: &mut Value) {
    let mut status = json!({"phase": "Pending", "qosClass": qos_class(object)});
    if !object.list("spec.schedulingGates").is_empty() {
        status["conditions"] = json!([{
            "type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates",
            "lastTransitionTime": crate::kinds::time::now(),
        }]);
    }
    if let Some(map) = object.as_object_mut() {
        map.insert(STATUS.into(), status);
    }
    label_keys::join(object);
    app_armor::carry(object);
}

pub fn update(subresource: Option<&str>, new: &mut Value, old: &Value) {
    match subresource {
        Some(STATUS) => status_update(new, old),
        // Binding names the node and says so in the conditions; an eviction says there that it comes.
        Some("binding" | "eviction") => {}
        Some("ephemeralcontainers") => ephemeral_update(new, old),
        Some("resize") => resize_update(new, old),
        _ => copy_member(new, old, STATUS),
    }
}

fn status_update(new: &mut Value, old: &Value) {
    copy_member(new, old, "spec");
    if let Some(meta) = new.get_mut("metadata") {
        copy_member(meta, old.at("metadata"), "ownerReferences");
    }
    let class = match old.text("status.qosClass") {
        "" => qos_class(old),
        class => class,
    };
    if let Some(status) = object_mut(new, STATUS) {
        status.insert("qosClass".into(), class.into());
    }
}

/// Only ephemeral containers, and who owns them, are the request's. KEP-277.
fn ephemeral_update(new: &mut Value, old: &Value) {
    let wanted = new.at("spec.ephemeralContainers").clone();
    keep_all(new, old);
    if let Some(spec) = object_mut(new, "spec") {
        put(spec, "ephemeralContainers", wanted);
    }
}

/// Only resources and resize policies are the request's, container by container. Where containers were added, taken
/// away or renamed nothing is kept: validation refuses that. KEP-1287.
fn resize_update(new: &mut Value, old: &Value) {
    let same_length = |list: &str| new.list(list).len() == old.list(list).len();
    if !["spec.containers", "spec.initContainers"]
        .into_iter()
        .all(same_length)
    {
        return;
    }
    let wanted = new.at("spec").clone();
    keep_all(new, old);
    let Some(spec) = object_mut(new, "spec") else {
        return;
    };
    put(spec, "resources", wanted.at("resources").clone());
    for list in ["containers", "initContainers"] {
        let merged = resized(wanted.list(list), old.at("spec").list(list));
        if !merged.is_empty() {
            spec.insert(list.into(), merged.into());
        }
    }
}

fn resized(wanted: &[Value], old: &[Value]) -> Vec<Value> {
    let renamed = wanted
        .iter()
        .zip(old)
        .any(|(w, o)| w.text("name") != o.text("name"));
    if renamed {
        return wanted.to_vec();
    }
    let merge = |(wanted, old): (&Value, &Value)| {
        let mut container = old.clone();
        if let Some(map) = container.as_object_mut() {
            for key in ["resources", "resizePolicy"] {
                put(map, key, wanted.at(key).clone());
            }
        }
        container
    };
    wanted.iter().zip(old).map(merge).collect()
}

/// Spec, status and the metadata that a subresource does not write (`ResetObjectMetaForStatus`).
fn keep_all(new: &mut Value, old: &Value) {
    copy_member(new, old, "spec");
    copy_member(new, old, STATUS);
    if let Some(meta) = new.get_mut("metadata") {
        for key in ["labels", "annotations", "finalizers", "ownerReferences"] {
            copy_member(meta, old.at("metadata"), key);
        }
    }
}

fn put(map: &mut Map<String, Value>, key: &str, value: Value) {
    match value {
        Value::Null => drop(map.remove(key)),
        value => drop(map.insert(key.into(), value)),
    }
}

/// `Guaranteed`, `Burstable` or `BestEffort`, by the requests and limits of all containers.
pub fn qos_class(pod: &Value) -> &'static str {
    if pod.has("spec.resources.requests") || pod.has("spec.resources.limits") {
        return class_of(std::iter::once(pod.at("spec.resources")));
    }
    let containers = pod
        .list("spec.containers")
        .iter()
        .chain(pod.list("spec.initContainers"));
    class_of(containers.map(|c| c.at("resources")))
}

fn class_of<'a>(resources: impl Iterator<Item = &'a Value>) -> &'static str {
    let (mut asks, mut guaranteed) = (false, true);
    for resources in resources {
        let (requests, limits) = (amounts(resources.at("requests")), amounts(resources.at("limits")));
        asks |= !requests.is_empty() || !limits.is_empty();
        guaranteed &= limits.len() == COMPUTE.len() && requests.iter().all(|r| limits.contains(r));
    }
    match (asks, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// Compute resources above zero, by name and amount.
fn amounts(list: &Value) -> Vec<(&'static str, i128)> {
    let empty = Map::new();
    let list = list.as_object().unwrap_or(&empty);
    let amount = |name| {
        Quantity::parse(list.get(name)?.as_str()?)
            .ok()
            .map(|q| q.nanos())
            .filter(|n| *n > 0)
    };
    COMPUTE
        .into_iter()
        .filter_map(|name| amount(name).map(|a| (name, a)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subresources_change_their_part_only() {
        let old = json!({"metadata": {"labels": {"a": "1"}}, "status": {"phase": "Running"},
            "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i", "resources": {}}]}});
        let wanted = json!({"metadata": {"labels": {"a": "2"}, "managedFields": []}, "status": {},
            "spec": {"ephemeralContainers": [{"name": "e"}],
                "containers": [{"name": "c", "image": "j", "resources": {"limits": {"cpu": "1"}}}]}});
        let after = |subresource| {
            let mut new = wanted.clone();
            update(Some(subresource), &mut new, &old);
            assert_eq!(
                new["metadata"],
                json!({"labels": {"a": "1"}, "managedFields": []})
            );
            assert_eq!(new["status"], old["status"]);
            new["spec"].clone()
        };
        let mut ephemeral = old["spec"].clone();
        ephemeral["ephemeralContainers"] = json!([{"name": "e"}]);
        assert_eq!(after("ephemeralcontainers"), ephemeral);
        let mut resized = old["spec"].clone();
        resized["containers"][0]["resources"] = json!({"limits": {"cpu": "1"}});
        assert_eq!(after("resize"), resized);
    }

    #[test]
    fn a_gated_pod_says_since_when_it_is() {
        let condition = |gates: Value| {
            let mut pod = json!({"spec": {"containers": [], "schedulingGates": gates}});
            create(&mut pod);
            pod["status"]["conditions"][0].clone()
        };
        let gated = condition(json!([{"name": "e.com/g"}]));
        assert_eq!(gated["reason"], "SchedulingGated");
        assert!(
            gated["lastTransitionTime"]
                .as_str()
                .is_some_and(|t| t.ends_with('Z'))
        );
        assert_eq!(condition(json!([])), Value::Null);
    }

    #[test]
    fn quality_of_service() {
        let cases = [
            (json!([{"name": "a"}]), "BestEffort"),
            (json!([{"resources": {"requests": {"cpu": "1"}}}]), "Burstable"),
            (
                json!([{"resources": {"requests": {"cpu": "1", "memory": "1"}, "limits": {"cpu": "1000m", "memory": "1"}}}]),
                "Guaranteed",
            ),
            (
                json!([{"resources": {"limits": {"cpu": "1", "memory": "1"}}}, {"name": "b"}]),
                "Burstable",
            ),
            (json!([{"resources": {"requests": {"cpu": "0"}}}]), "BestEffort"),
        ];
        for (containers, want) in cases {
            assert_eq!(
                qos_class(&json!({"spec": {"containers": containers}})),
                want,
                "{containers}"
            );
        }
    }
}

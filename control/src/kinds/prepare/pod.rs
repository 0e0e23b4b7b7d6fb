//! Pods: first status, quality of service, and what a status update may not touch.
use serde_json::{Map, Value, json};

use super::STATUS;
use crate::kinds::quantity::Quantity;
use crate::kinds::view::{View, copy_member, object_mut};

const COMPUTE: [&str; 2] = ["cpu", "memory"];

pub fn create(object: &mut Value) {
    let mut status = json!({"phase": "Pending", "qosClass": qos_class(object)});
    if !object.list("spec.schedulingGates").is_empty() {
        status["conditions"] = json!([{
            "type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates"
        }]);
    }
    if let Some(map) = object.as_object_mut() {
        map.insert(STATUS.into(), status);
    }
}

pub fn update(subresource: Option<&str>, new: &mut Value, old: &Value) {
    match subresource {
        Some(STATUS) => status_update(new, old),
        // Binding names the node and says so in the conditions.
        Some("binding") => {}
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

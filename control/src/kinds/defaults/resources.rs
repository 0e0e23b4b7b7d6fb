//! Defaults of resource requests and limits.
use serde_json::{Map, Value};

use crate::kinds::quantity::Quantity;

type Object = Map<String, Value>;

/// Resources a Pod may ask for as a whole. KEP-2837.
fn is_pod_level(name: &str) -> bool {
    name == "cpu" || name == "memory" || name.starts_with("hugepages-")
}

/// A request that is missing is the limit. Not so in templates.
pub(super) fn requests_from_limits(container: &mut Object) {
    if let Some(Value::Object(resources)) = container.get_mut("resources") {
        fill_requests(resources, |_| true);
    }
}

fn fill_requests(resources: &mut Object, wanted: impl Fn(&str) -> bool) {
    let Some(Value::Object(limits)) = resources.get("limits").cloned() else {
        return;
    };
    let requests = resources
        .entry("requests")
        .or_insert_with(|| Value::Object(Object::new()));
    let Value::Object(requests) = requests else { return };
    for (name, limit) in limits.into_iter().filter(|(name, _)| wanted(name)) {
        requests.entry(name).or_insert(limit);
    }
}

/// Pod-level requests: the sum of the containers' where they ask, else the Pod's own limit.
pub(super) fn pod_level(spec: &mut Object) {
    let has_limits = |r: &Value| {
        r.get("limits")
            .and_then(Value::as_object)
            .is_some_and(|l| !l.is_empty())
    };
    if !spec.get("resources").is_some_and(has_limits) {
        return;
    }
    let sums = container_requests(spec);
    let Some(Value::Object(resources)) = spec.get_mut("resources") else {
        return;
    };
    let requests = resources
        .entry("requests")
        .or_insert_with(|| Value::Object(Object::new()));
    if let Value::Object(requests) = requests {
        for (name, sum) in sums {
            requests.entry(name).or_insert(sum);
        }
    }
    fill_requests(resources, is_pod_level);
}

/// Requests of cpu and memory over all containers that run side by side.
fn container_requests(spec: &Object) -> Object {
    let containers = spec
        .get("containers")
        .and_then(Value::as_array)
        .map_or(&[][..], Vec::as_slice);
    let mut sums = Object::new();
    for name in ["cpu", "memory"] {
        let asked = containers
            .iter()
            .filter_map(|c| c.pointer(&format!("/resources/requests/{name}"))?.as_str());
        let amounts: Vec<Quantity> = asked.filter_map(|q| Quantity::parse(q).ok()).collect();
        if let Some(sum) = amounts.into_iter().reduce(Quantity::plus) {
            sums.insert(name.into(), sum.to_string().into());
        }
    }
    sums
}

/// Amounts finer than a thousandth are rounded up to one.
pub(super) fn round_up(list: &mut Value) {
    for amount in list.as_object_mut().into_iter().flat_map(Map::values_mut) {
        if let Some(quantity) = amount.as_str().and_then(|q| Quantity::parse(q).ok()) {
            *amount = quantity.round_up_to_milli().to_string().into();
        }
    }
}

pub(super) fn round_up_requirements(container: &mut Object) {
    if let Some(Value::Object(resources)) = container.get_mut("resources") {
        for key in ["limits", "requests"] {
            if let Some(list) = resources.get_mut(key) {
                round_up(list);
            }
        }
    }
}

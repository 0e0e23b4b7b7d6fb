//! Defaults of what shapes a cluster: priorities, flow control, network policies, device claims.
use serde_json::{Map, Value, json};

use super::resources;
use crate::kinds::view::{View, existing_mut, items_mut, object_mut, set_missing, set_zero};

type Object = Map<String, Value>;

pub fn priority_class(object: &mut Value) {
    if let Some(map) = object.as_object_mut() {
        set_missing(map, "preemptionPolicy", "PreemptLowerPriority");
    }
}

pub fn runtime_class(object: &mut Value) {
    if let Some(list) = existing_mut(object, "overhead").and_then(|o| o.get_mut("podFixed")) {
        resources::round_up(list);
    }
}

pub fn flow_schema(object: &mut Value) {
    if let Some(spec) = object_mut(object, "spec") {
        set_zero(spec, "matchingPrecedence", 1000);
    }
}

pub fn priority_level(object: &mut Value) {
    if let Some(exempt) = existing_mut(object, "spec.exempt") {
        set_missing(exempt, "nominalConcurrencyShares", 0);
        set_missing(exempt, "lendablePercent", 0);
    }
    if let Some(limited) = existing_mut(object, "spec.limited") {
        set_missing(limited, "nominalConcurrencyShares", 30);
        set_missing(limited, "lendablePercent", 0);
    }
    if let Some(queuing) = existing_mut(object, "spec.limited.limitResponse.queuing") {
        set_zero(queuing, "handSize", 8);
        set_zero(queuing, "queues", 64);
        set_zero(queuing, "queueLengthLimit", 50);
    }
}

pub fn network_policy(object: &mut Value) {
    let egress = !object.list("spec.egress").is_empty();
    let untyped = object.list("spec.policyTypes").is_empty();
    let Some(spec) = object_mut(object, "spec") else {
        return;
    };
    if untyped {
        let types = if egress {
            json!(["Ingress", "Egress"])
        } else {
            json!(["Ingress"])
        };
        spec.insert("policyTypes".into(), types);
    }
    for direction in ["ingress", "egress"] {
        for rule in items_mut(spec, direction) {
            items_mut(rule, "ports").for_each(|port| set_missing(port, "protocol", "TCP"));
        }
    }
}

pub fn ingress_class(object: &mut Value) {
    if let Some(parameters) = existing_mut(object, "spec.parameters") {
        set_missing(parameters, "scope", "Cluster");
    }
}

pub fn resource_claim(object: &mut Value) {
    if let Some(devices) = existing_mut(object, "spec.devices") {
        device_requests(devices);
    }
}

/// A taint has been there since it was first seen.
pub fn resource_slice(object: &mut Value) {
    let now = crate::kinds::time::now();
    if let Some(spec) = existing_mut(object, "spec") {
        items_mut(spec, "devices")
            .flat_map(|device| items_mut(device, "taints"))
            .for_each(|taint| set_missing(taint, "timeAdded", now.as_str()));
    }
}

pub fn resource_claim_template(object: &mut Value) {
    if let Some(devices) = existing_mut(object, "spec.spec.devices") {
        device_requests(devices);
    }
}

fn device_requests(devices: &mut Object) {
    for request in items_mut(devices, "requests") {
        if let Some(Value::Object(exact)) = request.get_mut("exactly") {
            device_count(exact);
        }
        items_mut(request, "firstAvailable").for_each(device_count);
    }
}

fn device_count(request: &mut Object) {
    items_mut(request, "tolerations").for_each(|toleration| set_zero(toleration, "operator", "Equal"));
    set_zero(request, "allocationMode", "ExactCount");
    if request
        .get("allocationMode")
        .is_some_and(|mode| mode == "ExactCount")
    {
        set_zero(request, "count", 1);
    }
}

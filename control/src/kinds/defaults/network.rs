//! Defaults of Services, Endpoints and EndpointSlices.
use serde_json::{Map, Value, json};

use crate::kinds::view::{View, items_mut, object_mut, set_missing, set_zero};

type Object = Map<String, Value>;

/// How long a client sticks to one endpoint: three hours.
const CLIENT_IP_SECONDS: i64 = 10_800;

pub fn service(object: &mut Value) {
    let Some(spec) = object_mut(object, "spec") else {
        return;
    };
    set_zero(spec, "sessionAffinity", "None");
    set_zero(spec, "type", "ClusterIP");
    affinity(spec);
    items_mut(spec, "ports").for_each(service_port);
    traffic_policies(spec);
    if spec.get("type").is_some_and(|t| t == "LoadBalancer") {
        set_missing(spec, "allocateLoadBalancerNodePorts", true);
        ingress_mode(object);
    }
}

fn affinity(spec: &mut Object) {
    match spec.get("sessionAffinity").and_then(Value::as_str) {
        Some("None") => {
            spec.remove("sessionAffinityConfig");
        }
        Some("ClientIP")
            if spec
                .get("sessionAffinityConfig")
                .is_none_or(|c| !c.has("clientIP.timeoutSeconds")) =>
        {
            spec.insert(
                "sessionAffinityConfig".into(),
                json!({"clientIP": {"timeoutSeconds": CLIENT_IP_SECONDS}}),
            );
        }
        _ => {}
    }
}

fn service_port(port: &mut Object) {
    set_zero(port, "protocol", "TCP");
    let number = port.get("port").cloned().unwrap_or(Value::Null);
    set_zero(port, "targetPort", number);
}

fn traffic_policies(spec: &mut Object) {
    let ty = spec
        .get("type")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    let external_ips = spec
        .get("externalIPs")
        .and_then(Value::as_array)
        .is_some_and(|a| !a.is_empty());
    if ty == "NodePort" || ty == "LoadBalancer" || ty == "ClusterIP" && external_ips {
        set_zero(spec, "externalTrafficPolicy", "Cluster");
    }
    if ["NodePort", "LoadBalancer", "ClusterIP"].contains(&ty.as_str()) {
        set_missing(spec, "internalTrafficPolicy", "Cluster");
    }
}

fn ingress_mode(object: &mut Value) {
    let Some(balancer) = object
        .pointer_mut("/status/loadBalancer")
        .and_then(Value::as_object_mut)
    else {
        return;
    };
    for ingress in items_mut(balancer, "ingress") {
        if ingress
            .get("ip")
            .and_then(Value::as_str)
            .is_some_and(|ip| !ip.is_empty())
        {
            set_missing(ingress, "ipMode", "VIP");
        }
    }
}

pub fn endpoints(object: &mut Value) {
    let Some(map) = object.as_object_mut() else { return };
    for subset in items_mut(map, "subsets") {
        items_mut(subset, "ports").for_each(|port| set_zero(port, "protocol", "TCP"));
    }
}

pub fn endpoint_slice(object: &mut Value) {
    let Some(map) = object.as_object_mut() else { return };
    for port in items_mut(map, "ports") {
        set_missing(port, "name", "");
        set_missing(port, "protocol", "TCP");
    }
}

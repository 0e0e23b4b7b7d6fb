//! Services, and addresses in a form that few expect.
use std::net::IpAddr;

use serde_json::Value;

use crate::kinds::view::View;

const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
const MODE: &str = "service.kubernetes.io/topology-mode";

pub(super) fn warnings(service: &Value) -> Vec<String> {
    let spec = service.at("spec");
    let (kind, cluster_ip) = (spec.text("type"), spec.text("clusterIP"));
    let headless = kind == "ClusterIP" && cluster_ip == "None";
    let external = spec.list("externalIPs");
    let mut told = Vec::new();
    if service.at("metadata.annotations").get(HINTS).is_some() {
        told.push(format!(
            "annotation {HINTS} is deprecated, please use {MODE} instead"
        ));
    }
    if !["", "None"].contains(&cluster_ip) {
        told.extend(odd_ips(spec, "clusterIPs"));
    }
    if headless {
        told.extend(ignored_when_headless(spec));
    }
    told.extend(odd_ips(spec, "externalIPs"));
    if !external.is_empty() && !headless && kind != "ExternalName" {
        told.push(
            "spec.externalIPs is deprecated and may no longer be implemented in some clusters".to_owned(),
        );
    }
    let balancer = spec.text("loadBalancerIP");
    if !balancer.is_empty() {
        told.extend(odd_ip("spec.loadBalancerIP", balancer));
    }
    if kind == "ExternalName" && !external.is_empty() {
        told.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    if kind != "ExternalName" && !spec.text("externalName").is_empty() {
        told.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
    }
    if spec.text("trafficDistribution") == "PreferClose" {
        told.push(
            "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"".to_owned(),
        );
    }
    told
}

fn ignored_when_headless(spec: &Value) -> Vec<String> {
    let facts = [
        (!spec.text("loadBalancerIP").is_empty(), "loadBalancerIP"),
        (!spec.list("externalIPs").is_empty(), "externalIPs"),
        (spec.text("sessionAffinity") != "None", "SessionAffinity"),
    ];
    let told = facts.iter().filter(|(told, _)| *told);
    told.map(|(_, field)| format!("spec.{field} is ignored for headless services"))
        .collect()
}

fn odd_ips(spec: &Value, key: &str) -> Vec<String> {
    let ips = spec.list(key).iter().filter_map(Value::as_str).enumerate();
    ips.filter_map(|(i, ip)| odd_ip(&format!("spec.{key}[{i}]"), ip))
        .collect()
}

/// An IPv6 address is best written as RFC 5952 has it.
pub(super) fn odd_ip(path: &str, text: &str) -> Option<String> {
    let address: IpAddr = text.parse().ok()?;
    let shown = address.to_string();
    (address.is_ipv6() && shown != text).then(|| {
        format!("{path}: IPv6 address \"{text}\" should be in RFC 5952 canonical format (\"{shown}\")")
    })
}

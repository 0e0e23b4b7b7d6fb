//! Services.
use serde_json::Value;

use super::{PROTOCOLS, Seen, cidr, complain, complain_number, ip, one_of, port};
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::prepare::service::{needs_cluster_ip, needs_health_check};
use crate::kinds::view::View;
use crate::kinds::{meta, names};

const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const POLICIES: [&str; 2] = ["Cluster", "Local"];
const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];
const FAMILY_POLICIES: [&str; 3] = ["PreferDualStack", "RequireDualStack", "SingleStack"];
const NOT_EXTERNAL_NAME: &str = "may not be set for ExternalName services";
const BALANCER_ONLY: &str = "may only be used when `type` is 'LoadBalancer'";
/// A client sticks to an endpoint for a day at most, in seconds.
const MAX_AFFINITY: i64 = 86_400;

pub fn update(subresource: Option<&str>, new: &Value, old: &Value) -> FieldErrors {
    if subresource == Some("status") {
        return Vec::new();
    }
    let mut errors: FieldErrors = kept_addresses(new, old).into_iter().collect();
    errors.extend(kept_families(new, old));
    if needs_health_check(old) && needs_health_check(new) {
        let path = "spec.healthCheckNodePort";
        let moved = new.at(path) != old.at(path);
        errors.extend(moved.then(|| FieldError::forbidden(path, super::IMMUTABLE)));
    }
    errors.extend(validate(new));
    errors
}

fn kept_addresses(new: &Value, old: &Value) -> Option<FieldError> {
    if !needs_cluster_ip(new) || !needs_cluster_ip(old) {
        return None;
    }
    let (before, after) = (old.list("spec.clusterIPs").first()?, new.list("spec.clusterIPs"));
    let detail = match after.first() {
        None => "primary clusterIP can not be unset",
        Some(now) if now != before => "may not change once set",
        Some(_) => return None,
    };
    Some(FieldError::invalid("spec.clusterIPs[0]", after.to_vec(), detail))
}

fn kept_families(new: &Value, old: &Value) -> Option<FieldError> {
    if !needs_cluster_ip(new) || !needs_cluster_ip(old) {
        return None;
    }
    let (before, after) = (old.list("spec.ipFamilies").first()?, new.list("spec.ipFamilies"));
    let detail = match after.first() {
        None => "primary ipFamily can not be unset",
        Some(now) if now != before => "may not change once set",
        Some(_) => return None,
    };
    Some(FieldError::invalid("spec.ipFamilies[0]", after.to_vec(), detail))
}

fn is_headless(service: &Value) -> bool {
    service.text("spec.clusterIP") == "None"
}

pub fn validate(service: &Value) -> FieldErrors {
    let ports = service.list("spec.ports");
    let ty = service.text("spec.type");
    let (mut errors, mut seen) = (Vec::new(), Seen::default());
    if ports.is_empty() && !is_headless(service) && ty != "ExternalName" {
        errors.push(FieldError::required("spec.ports", ""));
    }
    errors.extend(type_rules(service, ty));
    for (i, p) in ports.iter().enumerate() {
        errors.extend(service_port(
            p,
            &mut seen,
            ports.len() > 1,
            &format!("spec.ports[{i}]"),
        ));
    }
    errors.extend(meta::labels(service.at("spec.selector"), "spec.selector"));
    errors.extend(affinity(service));
    errors.extend(addresses(service));
    for (i, address) in service
        .list("spec.externalIPs")
        .iter()
        .filter_map(Value::as_str)
        .enumerate()
    {
        errors.extend(external_ip(address, &format!("spec.externalIPs[{i}]")));
    }
    errors.extend(one_of("spec.type".into(), ty, &TYPES));
    errors.extend(node_ports(ports, ty));
    errors.extend(balancer(service, ty));
    errors.extend(traffic(service, ty));
    errors
}

fn type_rules(service: &Value, ty: &str) -> FieldErrors {
    match ty {
        "LoadBalancer" | "NodePort" if is_headless(service) => {
            let detail = format!("may not be set to 'None' for {ty} services");
            vec![FieldError::invalid("spec.clusterIPs[0]", "None", detail)]
        }
        "ExternalName" => external_name(service),
        _ => Vec::new(),
    }
}

fn external_name(service: &Value) -> FieldErrors {
    let mut errors = Vec::new();
    for key in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        let path = format!("spec.{key}");
        if service.has(&path) {
            errors.push(FieldError::forbidden(path, NOT_EXTERNAL_NAME));
        }
    }
    let name = service.text("spec.externalName");
    match name.strip_suffix('.').unwrap_or(name) {
        "" => errors.push(FieldError::required("spec.externalName", "")),
        name => errors.extend(complain("spec.externalName", name, names::subdomain(name))),
    }
    errors
}

fn service_port(port: &Value, seen: &mut Seen, name_needed: bool, path: &str) -> FieldErrors {
    let (name, at) = (port.text("name"), format!("{path}.name"));
    let mut errors = Vec::new();
    if name.is_empty() {
        errors.extend(name_needed.then(|| FieldError::required(at, "")));
    } else {
        errors.extend(complain(&at, name, names::label(name)));
        if seen.again(name) {
            errors.push(FieldError::duplicate(at, name));
        }
    }
    let number = port.int("port").unwrap_or(0);
    errors.extend(complain_number(
        &format!("{path}.port"),
        number,
        names::port_number(number),
    ));
    errors.extend(one_of(
        format!("{path}.protocol"),
        port.text("protocol"),
        &PROTOCOLS,
    ));
    errors.extend(self::port(&format!("{path}.targetPort"), port.at("targetPort")));
    if let Some(protocol) = port.at("appProtocol").as_str() {
        errors.extend(complain(
            &format!("{path}.appProtocol"),
            protocol,
            names::qualified(protocol),
        ));
    }
    errors
}

fn affinity(service: &Value) -> FieldErrors {
    let kind = service.text("spec.sessionAffinity");
    let mut errors: FieldErrors = one_of("spec.sessionAffinity".into(), kind, &["ClientIP", "None"])
        .into_iter()
        .collect();
    let config = "spec.sessionAffinityConfig";
    match (
        kind,
        service.int("spec.sessionAffinityConfig.clientIP.timeoutSeconds"),
    ) {
        ("ClientIP", Some(seconds)) if !(1..=MAX_AFFINITY).contains(&seconds) => {
            let detail = format!("must be greater than 0 and less than {MAX_AFFINITY}");
            errors.push(FieldError::invalid(
                format!("{config}.clientIP.timeoutSeconds"),
                seconds,
                detail,
            ));
        }
        ("ClientIP", None) => {
            errors.push(FieldError::required(
                config,
                "when session affinity type is ClientIP",
            ));
        }
        _ => {}
    }
    errors
}

/// Cluster IPs and families.
fn addresses(service: &Value) -> FieldErrors {
    if service.text("spec.type") == "ExternalName" {
        return Vec::new();
    }
    let ips: Vec<&str> = service
        .list("spec.clusterIPs")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let mut errors = Vec::new();
    match (service.text("spec.clusterIP"), ips.first()) {
        ("", Some(_)) => {
            let detail = "clusterIPs must be empty when `clusterIP` is not specified";
            errors.push(FieldError::invalid(
                "spec.clusterIPs",
                service.at("spec.clusterIPs").clone(),
                detail,
            ));
        }
        (ip, Some(first)) if ip != *first => {
            let detail = "first value must match `clusterIP`";
            errors.push(FieldError::invalid(
                "spec.clusterIPs",
                service.at("spec.clusterIPs").clone(),
                detail,
            ));
        }
        _ => {}
    }
    errors.extend(families(service));
    for (i, address) in ips.iter().enumerate().filter(|(_, a)| !["", "None"].contains(*a)) {
        errors.extend(ip(&format!("spec.clusterIPs[{i}]"), address));
    }
    if ips.len() > 2 || ips.len() > 1 && is_headless(service) {
        let detail = "may only hold up to 2 values";
        errors.push(FieldError::invalid(
            "spec.clusterIPs",
            service.at("spec.clusterIPs").clone(),
            detail,
        ));
    }
    errors
}

fn families(service: &Value) -> FieldErrors {
    let families: Vec<&str> = service
        .list("spec.ipFamilies")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let mut errors = Vec::new();
    for (i, family) in families.iter().enumerate() {
        let path = format!("spec.ipFamilies[{i}]");
        match FAMILIES.contains(family) {
            false => errors.push(FieldError::not_supported(path, *family, &FAMILIES)),
            true if families[..i].contains(family) => errors.push(FieldError::duplicate(path, *family)),
            true => {}
        }
    }
    errors.extend(super::maybe_one_of(
        service.at("spec"),
        "ipFamilyPolicy",
        "spec",
        &FAMILY_POLICIES,
    ));
    errors
}

fn external_ip(address: &str, path: &str) -> FieldErrors {
    let Ok(parsed) = address.parse::<std::net::IpAddr>() else {
        return ip(path, address).into_iter().collect();
    };
    let mut errors = Vec::new();
    let link_local = match parsed {
        std::net::IpAddr::V4(v4) => v4.is_link_local(),
        std::net::IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    let facts = [
        (
            parsed.is_unspecified(),
            "may not be unspecified (0.0.0.0 or ::)".to_owned(),
        ),
        (
            parsed.is_loopback(),
            "may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned(),
        ),
        (
            link_local,
            "may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned(),
        ),
    ];
    for (_, detail) in facts.into_iter().filter(|(bad, _)| *bad) {
        errors.push(FieldError::invalid(path, address, detail));
    }
    errors
}

fn node_ports(ports: &[Value], ty: &str) -> FieldErrors {
    let node_port = |p: &Value| p.int("nodePort").filter(|n| *n != 0);
    let (mut errors, mut node_ports, mut own_ports) = (Vec::new(), Seen::default(), Seen::default());
    for (i, port) in ports.iter().enumerate() {
        if ty == "ClusterIP" && node_port(port).is_some() {
            let detail = "may not be used when `type` is 'ClusterIP'";
            errors.push(FieldError::forbidden(format!("spec.ports[{i}].nodePort"), detail));
        }
    }
    for (i, port) in ports.iter().enumerate() {
        let number = node_port(port);
        if let Some(number) = number.filter(|n| node_ports.again(format!("{n}/{}", port.text("protocol")))) {
            errors.push(FieldError::duplicate(format!("spec.ports[{i}].nodePort"), number));
        }
    }
    for (i, port) in ports.iter().enumerate() {
        if own_ports.again(format!("{}/{}", port.at("port"), port.text("protocol"))) {
            let key = serde_json::json!({"port": port.at("port"), "protocol": port.at("protocol")});
            errors.push(FieldError::duplicate(format!("spec.ports[{i}]"), key));
        }
    }
    errors
}

fn balancer(service: &Value, ty: &str) -> FieldErrors {
    let mut errors = Vec::new();
    let ranges = service.list("spec.loadBalancerSourceRanges");
    let path = "spec.LoadBalancerSourceRanges";
    if !ranges.is_empty() && ty != "LoadBalancer" {
        errors.push(FieldError::forbidden(path, BALANCER_ONLY));
    }
    for (i, range) in ranges.iter().filter_map(Value::as_str).enumerate() {
        errors.extend(cidr(&format!("{path}[{i}]"), range.trim()));
    }
    if service.has("spec.allocateLoadBalancerNodePorts") && ty != "LoadBalancer" {
        errors.push(FieldError::forbidden(
            "spec.allocateLoadBalancerNodePorts",
            BALANCER_ONLY,
        ));
    }
    if let Some(class) = service.at("spec.loadBalancerClass").as_str() {
        if ty != "LoadBalancer" {
            errors.push(FieldError::forbidden("spec.loadBalancerClass", BALANCER_ONLY));
        }
        errors.extend(complain("spec.loadBalancerClass", class, names::qualified(class)));
    }
    errors
}

fn traffic(service: &Value, ty: &str) -> FieldErrors {
    let external = service.text("spec.externalTrafficPolicy");
    let reachable = ["NodePort", "LoadBalancer"].contains(&ty)
        || ty == "ClusterIP" && !service.list("spec.externalIPs").is_empty();
    let path = "spec.externalTrafficPolicy";
    let mut errors = Vec::new();
    if reachable {
        errors.extend(one_of(path.into(), external, &POLICIES));
    } else if !external.is_empty() {
        errors.push(FieldError::invalid(
            path,
            external,
            "may only be set for externally-accessible services",
        ));
    }
    let check = service.int("spec.healthCheckNodePort").unwrap_or(0);
    if !needs_health_check(service) && check != 0 {
        let detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        errors.push(FieldError::invalid("spec.healthCheckNodePort", check, detail));
    }
    errors.extend(super::maybe_one_of(
        service.at("spec"),
        "internalTrafficPolicy",
        "spec",
        &POLICIES,
    ));
    let distributions = ["PreferClose", "PreferSameNode", "PreferSameZone"];
    errors.extend(super::maybe_one_of(
        service.at("spec"),
        "trafficDistribution",
        "spec",
        &distributions,
    ));
    errors
}

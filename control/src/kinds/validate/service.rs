//! Services.
use std::net::IpAddr;

use serde_json::Value;

use super::{PROTOCOLS, Seen, cidr, complain, complain_number, ip, one_of, port, service_addresses};
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::prepare::service::needs_health_check;
use crate::kinds::view::View;
use crate::kinds::{meta, names};

const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const POLICIES: [&str; 2] = ["Cluster", "Local"];
const NOT_EXTERNAL_NAME: &str = "may not be set for ExternalName services";
const BALANCED_ONLY: &str = "may only be used when `spec.type` is 'LoadBalancer'";
const NO_ADDRESS: &str = "must be a DNS name, not an IP address";
const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
const MODE: &str = "service.kubernetes.io/topology-mode";
const BALANCER_ONLY: &str = "may only be used when `type` is 'LoadBalancer'";
/// A client sticks to an endpoint for a day at most, in seconds.
const MAX_AFFINITY: i64 = 86_400;

pub fn update(subresource: Option<&str>, new: &Value, old: &Value) -> FieldErrors {
    if subresource == Some("status") {
        return balancer_status(new);
    }
    // Upstream asks first whether there can be such addresses at all, as it chooses them before it judges the rest.
    let impossible = service_addresses::validate(new);
    if !impossible.is_empty() {
        return impossible;
    }
    let mut errors = service_addresses::kept(new, old);
    errors.extend(kept_class(new, old));
    if needs_health_check(old) && needs_health_check(new) {
        let path = "spec.healthCheckNodePort";
        let moved = new.at(path) != old.at(path);
        errors.extend(moved.then(|| FieldError::forbidden(path, super::IMMUTABLE)));
    }
    errors.extend(validate(new));
    errors
}

/// Who balances the load is settled once.
fn kept_class(new: &Value, old: &Value) -> FieldErrors {
    let path = "spec.loadBalancerClass";
    let balanced = |service: &Value| service.text("spec.type") == "LoadBalancer";
    let mut errors = Vec::new();
    if balanced(old) && balanced(new) && old.at(path) != new.at(path) {
        let now = new.at(path).clone();
        errors.push(FieldError::invalid(path, now, "may not change once set"));
    }
    errors.extend(balancer_class(new));
    errors
}

fn balancer_class(service: &Value) -> FieldErrors {
    let path = "spec.loadBalancerClass";
    match service.at(path).as_str() {
        None => Vec::new(),
        Some(class) if service.text("spec.type") == "LoadBalancer" => {
            complain(path, class, names::qualified(class))
        }
        Some(_) => vec![FieldError::forbidden(path, BALANCER_ONLY)],
    }
}

/// Addresses that a load balancer reports.
fn balancer_status(service: &Value) -> FieldErrors {
    let mut errors = Vec::new();
    let ingresses = service.list("status.loadBalancer.ingress");
    if !ingresses.is_empty() && service.text("spec.type") != "LoadBalancer" {
        errors.push(FieldError::forbidden(
            "status.loadBalancer.ingress",
            BALANCED_ONLY,
        ));
        return errors;
    }
    for (i, ingress) in ingresses.iter().enumerate() {
        let at = format!("status.loadBalancer.ingress[{i}]");
        let (address, name) = (ingress.text("ip"), ingress.text("hostname"));
        if !address.is_empty() {
            errors.extend(ip(format_args!("{at}.ip"), address));
        }
        match ingress.at("ipMode").as_str() {
            None if !address.is_empty() => {
                let detail = "must be specified when `ip` is set";
                errors.push(FieldError::required(format!("{at}.ipMode"), detail));
            }
            Some(_) if address.is_empty() => {
                let detail = "may not be specified when `ip` is not set";
                errors.push(FieldError::forbidden(format!("{at}.ipMode"), detail));
            }
            Some(mode) if !["Proxy", "VIP"].contains(&mode) => {
                errors.push(FieldError::not_supported(
                    format!("{at}.ipMode"),
                    mode,
                    &["Proxy", "VIP"],
                ));
            }
            _ => {}
        }
        if !name.is_empty() {
            let at = format!("{at}.hostname");
            errors.extend(complain(&at, name, names::subdomain(name)));
            if name.parse::<std::net::IpAddr>().is_ok() {
                errors.push(FieldError::invalid(at, name, NO_ADDRESS));
            }
        }
    }
    errors
}

/// Whether a Service leads straight to its endpoints.
pub(super) fn is_headless(service: &Value) -> bool {
    service.list("spec.clusterIPs") == [Value::from("None")]
}

pub fn validate(service: &Value) -> FieldErrors {
    let ports = service.list("spec.ports");
    let ty = service.text("spec.type");
    let (mut errors, mut seen) = (hints(service), Seen::default());
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
    errors.extend(service_addresses::validate(service));
    for (i, address) in service
        .list("spec.externalIPs")
        .iter()
        .filter_map(Value::as_str)
        .enumerate()
    {
        errors.extend(external_ip(address, &format!("spec.externalIPs[{i}]")));
    }
    errors.extend(one_of("spec.type", ty, &TYPES));
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
        format_args!("{path}.port"),
        number,
        names::port_number(number),
    ));
    errors.extend(one_of(
        format_args!("{path}.protocol"),
        port.text("protocol"),
        &PROTOCOLS,
    ));
    errors.extend(self::port(
        format_args!("{path}.targetPort"),
        port.at("targetPort"),
    ));
    if let Some(protocol) = port.at("appProtocol").as_str() {
        errors.extend(complain(
            format_args!("{path}.appProtocol"),
            protocol,
            names::qualified(protocol),
        ));
    }
    errors
}

fn affinity(service: &Value) -> FieldErrors {
    let kind = service.text("spec.sessionAffinity");
    let mut errors: FieldErrors = one_of("spec.sessionAffinity", kind, &["ClientIP", "None"])
        .into_iter()
        .collect();
    let config = "spec.sessionAffinityConfig";
    let seconds = service.int("spec.sessionAffinityConfig.clientIP.timeoutSeconds");
    match (kind, seconds) {
        ("None", _) if service.has(config) => {
            let detail = "must not be set when session affinity is None";
            errors.push(FieldError::forbidden(config, detail));
        }
        ("ClientIP", Some(seconds)) if !(1..=MAX_AFFINITY).contains(&seconds) => {
            let detail = format!("must be greater than 0 and less than {MAX_AFFINITY}");
            errors.push(FieldError::invalid(
                format!("{config}.clientIP.timeoutSeconds"),
                seconds,
                detail,
            ));
        }
        ("ClientIP", None) => {
            let missing = ["", ".clientIP", ".clientIP.timeoutSeconds"].map(|part| format!("{config}{part}"));
            let missing = missing.into_iter().find(|path| !service.has(path));
            let detail = "when session affinity type is ClientIP";
            errors.extend(missing.map(|path| FieldError::required(path, detail)));
        }
        _ => {}
    }
    errors
}

/// An address that others can reach.
pub(super) fn external_ip(address: &str, path: &str) -> FieldErrors {
    let mut errors = ip(path, address);
    let Some(parsed) = address.parse().ok().filter(|_| errors.is_empty()) else {
        return errors;
    };
    let (link_local, multicast) = match parsed {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.segments()[0] & 0xff0f == 0xff02),
    };
    let facts = [
        (
            parsed.is_unspecified(),
            format!("may not be unspecified ({address})"),
        ),
        (
            parsed.is_loopback(),
            "may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned(),
        ),
        (
            link_local,
            "may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned(),
        ),
        (
            multicast,
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned(),
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
            errors.push(FieldError {
                bad_value: port_shown(port),
                ..FieldError::duplicate_part(format!("spec.ports[{i}]"))
            });
        }
    }
    errors
}

/// What makes two ports the same, as upstream shows it.
fn port_shown(port: &Value) -> String {
    format!(
        "{{\"Name\":\"\",\"Protocol\":{},\"AppProtocol\":null,\"Port\":{},\"TargetPort\":0,\"NodePort\":0}}",
        port.at("protocol"),
        port.at("port")
    )
}

/// The old and the new annotation of one meaning.
fn hints(service: &Value) -> FieldErrors {
    let annotation = |key: &str| {
        service
            .at("metadata.annotations")
            .get(key)
            .and_then(Value::as_str)
    };
    let (old, new) = (annotation(HINTS), annotation(MODE));
    match (old, new) {
        (Some(old), Some(new)) if old != new => {
            let detail = format!("must match annotations[{HINTS}] when both are specified");
            vec![FieldError::invalid(
                format!("metadata.annotations[{MODE}]"),
                new,
                detail,
            )]
        }
        _ => Vec::new(),
    }
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
    errors.extend(balancer_class(service));
    errors
}

fn traffic(service: &Value, ty: &str) -> FieldErrors {
    let external = service.text("spec.externalTrafficPolicy");
    let reachable = ["NodePort", "LoadBalancer"].contains(&ty)
        || ty == "ClusterIP" && !service.list("spec.externalIPs").is_empty();
    let path = "spec.externalTrafficPolicy";
    let mut errors = Vec::new();
    if reachable {
        errors.extend(one_of(path, external, &POLICIES));
    } else if !external.is_empty() {
        errors.push(FieldError::invalid(
            path,
            external,
            "may only be set for externally-accessible services",
        ));
    }
    let check = service.int("spec.healthCheckNodePort").unwrap_or(0);
    if needs_health_check(service) && check != 0 {
        let path = "spec.healthCheckNodePort";
        errors.extend(complain_number(path, check, names::port_number(check)));
    } else if check != 0 {
        let detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        errors.push(FieldError::invalid("spec.healthCheckNodePort", check, detail));
    }
    errors.extend(super::maybe_one_of(
        service.at("spec"),
        "internalTrafficPolicy",
        "spec",
        &POLICIES,
    ));
    let distributions = ["PreferClose", "PreferSameZone", "PreferSameNode"];
    errors.extend(super::maybe_one_of(
        service.at("spec"),
        "trafficDistribution",
        "spec",
        &distributions,
    ));
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn addresses_that_cannot_be_are_told_before_what_may_not_change() {
        let old = json!({"spec": {"type": "ClusterIP", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"],
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "sessionAffinity": "None",
            "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}]}});
        let told = |changes: Value| {
            let mut new = old.clone();
            json_patch::merge(&mut new["spec"], &changes);
            let told = update(None, &new, &old);
            told.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let impossible = "spec.clusterIPs[0]: Invalid value: \"10.0.0.1\": expected an IPv6 value as indicated by `ipFamilies[0]`";
        assert_eq!(told(json!({"ipFamilies": ["IPv6"]})), [impossible]);
        let moved = "spec.clusterIPs[0]: Invalid value: [\"10.0.0.2\"]: may not change once set";
        let other = json!({"clusterIP": "10.0.0.2", "clusterIPs": ["10.0.0.2"]});
        assert_eq!(told(other), [moved]);
    }
}

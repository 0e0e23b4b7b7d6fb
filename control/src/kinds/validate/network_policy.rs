//! NetworkPolicies.
use ipnet::IpNet;
use serde_json::Value;

use super::cidr;
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::view::View;
use crate::kinds::{labels, names};

const TYPES: [&str; 2] = ["Ingress", "Egress"];

pub fn policy(object: &Value) -> FieldErrors {
    let spec = object.at("spec");
    let mut errors = labels::validate_selector(spec.at("podSelector"), "spec.podSelector");
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for (i, rule) in spec.list(direction).iter().enumerate() {
            let path = format!("spec.{direction}[{i}]");
            for (j, port) in rule.list("ports").iter().enumerate() {
                errors.extend(policy_port(port, &format!("{path}.ports[{j}]")));
            }
            for (j, peer) in rule.list(peers).iter().enumerate() {
                errors.extend(policy_peer(peer, &format!("{path}.{peers}[{j}]")));
            }
        }
    }
    errors.extend(types(spec.list("policyTypes")));
    errors
}

pub fn policy_update(_: Option<&str>, new: &Value, _: &Value) -> FieldErrors {
    policy(new)
}

fn types(types: &[Value]) -> FieldErrors {
    let path = "spec.policyTypes";
    if types.len() > TYPES.len() {
        let detail = "may not specify more than two policyTypes";
        return vec![FieldError::invalid(path, types.to_vec(), detail)];
    }
    let unknown = types
        .iter()
        .enumerate()
        .filter(|(_, t)| !TYPES.iter().any(|known| t == known));
    unknown
        .map(|(i, t)| FieldError::not_supported(format!("{path}[{i}]"), t.clone(), &TYPES))
        .collect()
}

fn policy_port(port: &Value, path: &str) -> FieldErrors {
    let mut errors = Vec::new();
    let protocol = port.text("protocol");
    if port.has("protocol") && !["TCP", "UDP", "SCTP"].contains(&protocol) {
        let at = format!("{path}.protocol");
        errors.push(FieldError::not_supported(at, protocol, &["TCP", "UDP", "SCTP"]));
    }
    let (at, end_at, end) = (
        format!("{path}.port"),
        format!("{path}.endPort"),
        port.int("endPort"),
    );
    match (port.at("port"), end) {
        (Value::Null, Some(end)) => {
            let detail = "may not be specified when `port` is not specified";
            errors.push(FieldError::invalid(end_at, end, detail));
        }
        (Value::String(name), end) => {
            let detail = "may not be specified when `port` is non-numeric";
            errors.extend(end.map(|end| FieldError::invalid(end_at, end, detail)));
            errors.extend(super::complain(&at, name, names::port_name(name)));
        }
        (number, end) => {
            let number = number.as_i64().unwrap_or(0);
            if port.has("port") {
                errors.extend(super::complain_number(&at, number, names::port_number(number)));
            }
            if let Some(end) = end {
                if end < number {
                    let detail = "must be greater than or equal to `port`";
                    errors.push(FieldError::invalid(end_at.as_str(), number, detail));
                }
                errors.extend(super::complain_number(&end_at, end, names::port_number(end)));
            }
        }
    }
    errors
}

fn policy_peer(peer: &Value, path: &str) -> FieldErrors {
    let mut errors = Vec::new();
    for key in ["podSelector", "namespaceSelector"] {
        if peer.has(key) {
            errors.extend(labels::validate_selector(peer.at(key), &format!("{path}.{key}")));
        }
    }
    if peer.has("ipBlock") {
        errors.extend(block(peer.at("ipBlock"), &format!("{path}.ipBlock")));
    }
    let selectors = peer.has("podSelector") || peer.has("namespaceSelector");
    match (selectors, peer.has("ipBlock")) {
        (false, false) => errors.push(FieldError::required(path, "must specify a peer")),
        (true, true) => {
            let detail = "may not specify both ipBlock and another peer";
            errors.push(FieldError::forbidden(path, detail));
        }
        _ => {}
    }
    errors
}

fn block(block: &Value, path: &str) -> FieldErrors {
    let text = block.text("cidr");
    if text.is_empty() {
        return vec![FieldError::required(format!("{path}.cidr"), "")];
    }
    let mut errors: FieldErrors = cidr(&format!("{path}.cidr"), text).into_iter().collect();
    let Ok(whole) = text.parse::<IpNet>() else {
        return errors;
    };
    for (i, except) in block.list("except").iter().filter_map(Value::as_str).enumerate() {
        let at = format!("{path}.except[{i}]");
        errors.extend(cidr(&at, except));
        let Ok(part) = except.parse::<IpNet>() else {
            continue;
        };
        if !whole.contains(&part.network()) || whole.prefix_len() >= part.prefix_len() {
            let detail = "must be a strict subset of `cidr`";
            errors.push(FieldError::invalid(at, except, detail));
        }
    }
    errors
}

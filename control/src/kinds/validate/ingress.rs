//! Ingresses, IngressClasses, and the addresses of `networking.k8s.io`.
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::address::{BAD_IP, strict_cidr};
use super::{IMMUTABLE, complain, immutable, maybe_one_of};
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::view::View;
use crate::kinds::{domain_path, names};

const CLASS: &str = "kubernetes.io/ingress.class";
const ABSOLUTE: &str = "must be an absolute path";
const NO_IP: &str = "must be a DNS name, not an IP address";
const SEQUENCES: [&str; 5] = ["//", "/./", "/../", "%2f", "%2F"];
const SUFFIXES: [&str; 2] = ["/..", "/."];
const WILDCARD: &str = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which \
    must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. \
    '*.example.com', regex used for validation is \
    '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
/// Bytes of a controller's name.
const CONTROLLER: usize = 250;

pub fn ingress(object: &Value) -> FieldErrors {
    let mut errors = spec(object.at("spec"));
    let annotated = object
        .at("metadata.annotations")
        .get(CLASS)
        .and_then(Value::as_str);
    let named = object.at("spec.ingressClassName").as_str();
    if let (Some(annotated), Some(named)) = (annotated, named)
        && annotated != named
    {
        let detail = "must match `ingressClassName` when both are specified";
        errors.push(FieldError::invalid(
            format!("annotations.{CLASS}"),
            annotated,
            detail,
        ));
    }
    errors
}

pub fn ingress_update(subresource: Option<&str>, new: &Value, _: &Value) -> FieldErrors {
    match subresource {
        Some("status") => status(new.list("status.loadBalancer.ingress")),
        _ => spec(new.at("spec")),
    }
}

fn spec(spec: &Value) -> FieldErrors {
    let rules = spec.list("rules");
    let mut errors = Vec::new();
    if rules.is_empty() && !spec.has("defaultBackend") {
        let detail = "either `defaultBackend` or `rules` must be specified";
        errors.push(FieldError::invalid("spec", spec.at("rules").clone(), detail));
    }
    if spec.has("defaultBackend") {
        errors.extend(backend(spec.at("defaultBackend"), "spec.defaultBackend"));
    }
    for (i, rule) in rules.iter().enumerate() {
        errors.extend(rule_errors(rule, &format!("spec.rules[{i}]")));
    }
    for (i, tls) in spec.list("tls").iter().enumerate() {
        errors.extend(tls_errors(tls, &format!("spec.tls[{i}]")));
    }
    if let Some(class) = spec.at("ingressClassName").as_str() {
        errors.extend(complain("spec.ingressClassName", class, names::subdomain(class)));
    }
    errors
}

fn tls_errors(tls: &Value, path: &str) -> FieldErrors {
    let hosts = tls.list("hosts").iter().filter_map(Value::as_str).enumerate();
    let mut errors: FieldErrors = hosts
        .flat_map(|(i, name)| host(name, &format!("{path}.hosts[{i}]")))
        .collect();
    let secret = tls.text("secretName");
    if !secret.is_empty() {
        errors.extend(complain(
            format_args!("{path}.secretName"),
            secret,
            names::subdomain(secret),
        ));
    }
    errors
}

/// A host name, perhaps with a wildcard as its first label.
fn host(name: &str, path: &str) -> FieldErrors {
    if !name.contains('*') {
        return complain(path, name, names::subdomain(name));
    }
    let good = name
        .strip_prefix("*.")
        .is_some_and(|rest| names::subdomain(rest).is_empty());
    match good {
        true => Vec::new(),
        false => vec![FieldError::invalid(path, name, WILDCARD)],
    }
}

fn rule_errors(rule: &Value, path: &str) -> FieldErrors {
    let (mut errors, name) = (Vec::new(), rule.text("host"));
    if !name.is_empty() {
        let at = format!("{path}.host");
        if name.parse::<IpAddr>().is_ok() {
            errors.push(FieldError::invalid(at.as_str(), name, NO_IP));
        }
        errors.extend(host(name, &at));
    }
    if rule.has("http") {
        let (at, paths) = (format!("{path}.http.paths"), rule.list("http.paths"));
        if paths.is_empty() {
            errors.push(FieldError::required(at.as_str(), ""));
        }
        for (i, one) in paths.iter().enumerate() {
            errors.extend(http_path(one, &format!("{at}[{i}]")));
        }
    }
    errors
}

fn http_path(http: &Value, path: &str) -> FieldErrors {
    let (at, value) = (format!("{path}.path"), http.text("path"));
    let Some(kind) = http.at("pathType").as_str() else {
        let detail = "pathType must be specified";
        return vec![FieldError::required(format!("{path}.pathType"), detail)];
    };
    let mut errors = Vec::new();
    match kind {
        "Exact" | "Prefix" => {
            if !value.starts_with('/') {
                errors.push(FieldError::invalid(at.as_str(), value, ABSOLUTE));
            }
            let sequences = SEQUENCES.iter().filter(|s| value.contains(**s));
            errors.extend(
                sequences.map(|s| FieldError::invalid(at.as_str(), value, format!("must not contain '{s}'"))),
            );
            let suffixes = SUFFIXES.iter().filter(|s| value.ends_with(**s));
            errors.extend(
                suffixes.map(|s| FieldError::invalid(at.as_str(), value, format!("cannot end with '{s}'"))),
            );
        }
        "ImplementationSpecific" => {
            if !value.is_empty() && !value.starts_with('/') {
                errors.push(FieldError::invalid(at, value, ABSOLUTE));
            }
        }
        other => errors.push(FieldError::not_supported(
            format!("{path}.pathType"),
            other,
            &["Exact", "ImplementationSpecific", "Prefix"],
        )),
    }
    errors.extend(backend(http.at("backend"), &format!("{path}.backend")));
    errors
}

fn backend(backend: &Value, path: &str) -> FieldErrors {
    match (backend.has("service"), backend.has("resource")) {
        (true, true) => {
            let detail = "cannot set both resource and service backends";
            vec![FieldError::invalid(path, "", detail)]
        }
        (false, true) => typed_reference(backend.at("resource"), &format!("{path}.resource")),
        (true, false) => service(backend.at("service"), path),
        (false, false) => {
            let detail = "resource or service backend is required";
            vec![FieldError::invalid(path, "", detail)]
        }
    }
}

/// A reference by group, kind and name.
fn typed_reference(reference: &Value, path: &str) -> FieldErrors {
    let group = reference.at("apiGroup").as_str();
    let mut errors: FieldErrors = group
        .into_iter()
        .flat_map(|group| complain(format_args!("{path}.apiGroup"), group, names::subdomain(group)))
        .collect();
    for key in ["kind", "name"] {
        errors.extend(segment(reference, key, path));
    }
    errors
}

/// A text that must be there and can be part of a path.
fn segment(object: &Value, key: &str, path: &str) -> FieldErrors {
    let (at, text) = (format!("{path}.{key}"), object.text(key));
    match text {
        "" => vec![FieldError::required(at, "")],
        text => complain(&at, text, names::path_segment(text)),
    }
}

/// A Service of a backend at `path`.
fn service(service: &Value, path: &str) -> FieldErrors {
    let (at, name) = (format!("{path}.service.name"), service.text("name"));
    // KEP-5311.
    let mut errors = match name {
        "" => vec![FieldError::required(at, "")],
        _ => complain(&at, name, names::label(name)),
    };
    let (port_name, number) = (service.text("port.name"), service.int("port.number").unwrap_or(0));
    match (port_name, number) {
        ("", 0) => errors.push(FieldError::required(path, "port name or number is required")),
        ("", number) => {
            let at = format!("{path}.service.port.number");
            errors.extend(super::complain_number(&at, number, names::port_number(number)));
        }
        (name, 0) => errors.extend(complain(
            format_args!("{path}.service.port.name"),
            name,
            names::port_name(name),
        )),
        _ => {
            let detail = "cannot set both port name & port number";
            errors.push(FieldError::invalid(path, "", detail));
        }
    }
    errors
}

fn status(ingresses: &[Value]) -> FieldErrors {
    let mut errors = Vec::new();
    for (i, ingress) in ingresses.iter().enumerate() {
        let path = format!("status.loadBalancer.ingress[{i}]");
        let (ip, name) = (ingress.text("ip"), ingress.text("hostname"));
        if !ip.is_empty() {
            errors.extend(super::ip(format_args!("{path}.ip"), ip));
        }
        if !name.is_empty() {
            let at = format!("{path}.hostname");
            errors.extend(complain(&at, name, names::subdomain(name)));
            if name.parse::<IpAddr>().is_ok() {
                errors.push(FieldError::invalid(at, name, NO_IP));
            }
        }
    }
    errors
}

pub fn class(object: &Value) -> FieldErrors {
    let controller = object.text("spec.controller");
    let mut errors = Vec::new();
    let path = "spec.controller";
    if controller.len() > CONTROLLER {
        errors.push(FieldError::too_long(path, CONTROLLER));
    }
    errors.extend(domain_path(path, controller));
    if object.has("spec.parameters") {
        errors.extend(parameters(object.at("spec.parameters")));
    }
    errors
}

fn parameters(parameters: &Value) -> FieldErrors {
    let path = "spec.parameters";
    let mut errors = typed_reference(parameters, path);
    errors.extend(maybe_one_of(parameters, "scope", path, &["Cluster", "Namespace"]));
    let at = format!("{path}.namespace");
    match (parameters.text("scope"), parameters.at("namespace").as_str()) {
        ("Namespace", None) => errors.push(FieldError::required(
            at,
            "`parameters.scope` is set to 'Namespace'",
        )),
        ("Namespace", Some(namespace)) => errors.extend(complain(&at, namespace, names::label(namespace))),
        ("Cluster", Some(_)) => errors.push(FieldError::forbidden(
            at,
            "`parameters.scope` is set to 'Cluster'",
        )),
        _ => {}
    }
    errors
}

pub fn class_update(_: Option<&str>, new: &Value, old: &Value) -> FieldErrors {
    let (now, before) = (new.text("spec.controller"), old.text("spec.controller"));
    let mut errors = Vec::new();
    if now != before {
        errors.push(FieldError::invalid("spec.controller", now, IMMUTABLE));
    }
    errors.extend(class(new));
    errors
}

/// An IPAddress is named by its address, in canonical form.
pub fn address(object: &Value) -> FieldErrors {
    let name = object.text("metadata.name");
    let mut errors = match name.parse::<IpAddr>() {
        Ok(ip) if ip.to_string() == name => Vec::new(),
        Ok(_) => {
            let detail = "must be in canonical form";
            vec![FieldError::invalid("metadata.name", name, detail)]
        }
        Err(_) => vec![FieldError::invalid("metadata.name", name, BAD_IP)],
    };
    let path = "spec.parentRef";
    match object.has(path) {
        false => errors.push(FieldError::required(path, "")),
        true => {
            let parent = object.at(path);
            let group = parent.text("group");
            if !group.is_empty() {
                errors.extend(complain(
                    format_args!("{path}.group"),
                    group,
                    names::subdomain(group),
                ));
            }
            errors.extend(segment(parent, "resource", path));
            errors.extend(segment(parent, "name", path));
            let namespace = parent.text("namespace");
            errors.extend(complain(
                format_args!("{path}.namespace"),
                namespace,
                names::path_segment(namespace),
            ));
        }
    }
    errors
}

pub fn address_update(_: Option<&str>, new: &Value, old: &Value) -> FieldErrors {
    let mut errors = address(new);
    errors.extend(immutable(new, old, "spec.parentRef"));
    errors
}

pub fn service_cidr(object: &Value) -> FieldErrors {
    let (path, cidrs) = ("spec.cidrs", object.list("spec.cidrs"));
    match cidrs.len() {
        0 => return vec![FieldError::required(path, "at least one CIDR required")],
        1 | 2 => {}
        _ => {
            let detail = "may only hold up to 2 values";
            return vec![FieldError::invalid(path, cidrs.to_vec(), detail)];
        }
    }
    let texts: Vec<&str> = cidrs.iter().filter_map(Value::as_str).collect();
    let mut errors: FieldErrors = texts
        .iter()
        .enumerate()
        .flat_map(|(i, text)| strict_cidr(&format!("{path}[{i}]"), text))
        .collect();
    let nets: Vec<IpNet> = texts.iter().filter_map(|t| t.parse().ok()).collect();
    if let [first, second] = nets[..]
        && first.addr().is_ipv4() == second.addr().is_ipv4()
    {
        let detail =
            "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        errors.push(FieldError::invalid(path, cidrs.to_vec(), detail));
    }
    errors
}

pub fn service_cidr_update(subresource: Option<&str>, new: &Value, old: &Value) -> FieldErrors {
    if subresource == Some("status") {
        return Vec::new();
    }
    let (now, before) = (new.list("spec.cidrs"), old.list("spec.cidrs"));
    let changed = |(i, (now, before)): (usize, (&Value, &Value))| {
        (now != before).then(|| FieldError::invalid(format!("spec.cidrs[{i}]"), now.clone(), IMMUTABLE))
    };
    let mut errors: FieldErrors = now.iter().zip(before).enumerate().filter_map(changed).collect();
    match (before.len(), now.len()) {
        (a, b) if a == b => {}
        // The second family may come later.
        (1, 2) => errors.extend(service_cidr(new)),
        _ => {
            errors = vec![FieldError::invalid(
                "spec.cidrs",
                new.at("spec.cidrs").clone(),
                IMMUTABLE,
            )]
        }
    }
    errors
}

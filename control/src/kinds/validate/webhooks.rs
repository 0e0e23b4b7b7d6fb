//! Webhook configurations.
use std::collections::HashSet;

use serde_json::Value;

use super::{Seen, complain, maybe_one_of};
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::view::View;
use crate::kinds::{labels, names, policy};

const REVIEWS: [&str; 2] = ["v1", "v1beta1"];
const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const SIDE_EFFECTS: [&str; 2] = ["None", "NoneOnDryRun"];
const SCOPES: [&str; 3] = ["*", "Cluster", "Namespaced"];
const URL_FORM: &str = "'https' is the only allowed URL scheme; desired format: https://host[/path]";

pub fn validating(object: &Value) -> FieldErrors {
    configuration(object)
}

pub fn mutating(object: &Value) -> FieldErrors {
    let mut errors = configuration(object);
    for (i, webhook) in object.list("webhooks").iter().enumerate() {
        errors.extend(maybe_one_of(
            webhook,
            "reinvocationPolicy",
            &format!("webhooks[{i}]"),
            &["IfNeeded", "Never"],
        ));
    }
    errors
}

pub fn validating_update(_: Option<&str>, new: &Value, _: &Value) -> FieldErrors {
    validating(new)
}

pub fn mutating_update(_: Option<&str>, new: &Value, _: &Value) -> FieldErrors {
    mutating(new)
}

fn configuration(object: &Value) -> FieldErrors {
    let (mut errors, mut seen) = (Vec::new(), Seen::default());
    for (i, webhook) in object.list("webhooks").iter().enumerate() {
        let path = format!("webhooks[{i}]");
        errors.extend(webhook_errors(webhook, &path));
        errors.extend(review_versions(
            webhook.list("admissionReviewVersions"),
            &format!("{path}.admissionReviewVersions"),
        ));
        let name = webhook.text("name");
        if !name.is_empty() && seen.again(name) {
            errors.push(FieldError::duplicate(format!("{path}.name"), name));
        }
    }
    errors
}

fn webhook_errors(webhook: &Value, path: &str) -> FieldErrors {
    let mut errors = full_name(webhook.text("name"), &format!("{path}.name"));
    for (i, rule) in webhook.list("rules").iter().enumerate() {
        errors.extend(rule_errors(rule, &format!("{path}.rules[{i}]")));
    }
    errors.extend(maybe_one_of(webhook, "failurePolicy", path, &["Fail", "Ignore"]));
    errors.extend(maybe_one_of(
        webhook,
        "matchPolicy",
        path,
        &["Equivalent", "Exact"],
    ));
    match webhook.at("sideEffects").as_str() {
        None => errors.push(FieldError::required(
            format!("{path}.sideEffects"),
            "must specify one of None, NoneOnDryRun",
        )),
        Some(_) => errors.extend(maybe_one_of(webhook, "sideEffects", path, &SIDE_EFFECTS)),
    }
    if let Some(seconds) = webhook.int("timeoutSeconds").filter(|n| !(1..=30).contains(n)) {
        let detail = "the timeout value must be between 1 and 30 seconds";
        errors.push(FieldError::invalid(
            format!("{path}.timeoutSeconds"),
            seconds,
            detail,
        ));
    }
    for key in ["namespaceSelector", "objectSelector"] {
        if webhook.has(key) {
            errors.extend(labels::validate_selector(
                webhook.at(key),
                &format!("{path}.{key}"),
            ));
        }
    }
    errors.extend(client_config(
        webhook.at("clientConfig"),
        &format!("{path}.clientConfig"),
    ));
    let conditions = webhook.list("matchConditions");
    let compiled = policy::compile_conditions(conditions);
    errors.extend(policy::conditions(
        conditions,
        &compiled,
        &format!("{path}.matchConditions"),
    ));
    errors
}

/// A domain name of at least three labels.
fn full_name(name: &str, path: &str) -> FieldErrors {
    if name.is_empty() {
        return vec![FieldError::required(path, "")];
    }
    let mut errors = complain(path, name, names::subdomain(name));
    if errors.is_empty() && name.split('.').count() < 3 {
        let detail = "should be a domain with at least three segments separated by dots";
        errors.push(FieldError::invalid(path, name, detail));
    }
    errors
}

fn review_versions(versions: &[Value], path: &str) -> FieldErrors {
    if versions.is_empty() {
        return vec![FieldError::required(path, "must specify one of v1, v1beta1")];
    }
    let (mut errors, mut seen) = (Vec::new(), Seen::default());
    for (i, version) in versions.iter().filter_map(Value::as_str).enumerate() {
        let at = format!("{path}[{i}]");
        match seen.again(version) {
            true => errors.push(FieldError::invalid(at, version, "duplicate version")),
            false => errors.extend(complain(&at, version, names::label_1035(version))),
        }
    }
    if !versions.iter().any(|v| REVIEWS.iter().any(|known| v == known)) {
        let detail = "must include at least one of v1, v1beta1";
        errors.push(FieldError::invalid(path, versions.to_vec(), detail));
    }
    errors
}

fn rule_errors(rule: &Value, path: &str) -> FieldErrors {
    let operations = rule.list("operations");
    let at = format!("{path}.operations");
    let mut errors = Vec::new();
    if operations.is_empty() {
        errors.push(FieldError::required(at.as_str(), ""));
    }
    if operations.len() > 1 && operations.iter().any(|o| o == "*") {
        let detail = "if '*' is present, must not specify other operations";
        errors.push(FieldError::invalid(at.as_str(), operations.to_vec(), detail));
    }
    for (i, operation) in operations.iter().enumerate() {
        if !OPERATIONS.iter().any(|known| operation == known) {
            let at = format!("{at}[{i}]");
            errors.push(FieldError::not_supported(at, operation.clone(), &OPERATIONS));
        }
    }
    for (key, what) in [("apiGroups", "API groups"), ("apiVersions", "API versions")] {
        errors.extend(list_errors(rule.list(key), key, what, path));
    }
    errors.extend(resource_list(
        rule.list("resources"),
        &format!("{path}.resources"),
    ));
    errors.extend(maybe_one_of(rule, "scope", path, &SCOPES));
    errors
}

fn list_errors(list: &[Value], key: &str, what: &str, path: &str) -> FieldErrors {
    let at = format!("{path}.{key}");
    let mut errors = Vec::new();
    if list.is_empty() {
        errors.push(FieldError::required(at.as_str(), ""));
    }
    if list.len() > 1 && list.iter().any(|v| v == "*") {
        let detail = format!("if '*' is present, must not specify other {what}");
        errors.push(FieldError::invalid(at.as_str(), list.to_vec(), detail));
    }
    if key == "apiVersions" {
        let empty = list.iter().enumerate().filter(|(_, v)| *v == "");
        errors.extend(empty.map(|(i, _)| FieldError::required(format!("{at}[{i}]"), "")));
    }
    errors
}

pub(in crate::kinds) fn resource_list(resources: &[Value], path: &str) -> FieldErrors {
    let texts: Vec<&str> = resources.iter().filter_map(Value::as_str).collect();
    if texts.is_empty() {
        return vec![FieldError::required(path, "")];
    }
    let (mut errors, mut before) = (Vec::new(), HashSet::new());
    for (i, resource) in texts.iter().enumerate() {
        let at = format!("{path}[{i}]");
        let covered = covered_by(resource, &before);
        before.insert(*resource);
        if resource.is_empty() {
            errors.push(FieldError::required(at, ""));
            continue;
        }
        for pattern in covered {
            let detail = format!("if '{pattern}' is present, must not specify {resource}");
            errors.push(FieldError::invalid(at.as_str(), *resource, detail));
        }
    }
    if texts.contains(&"*/*") && texts.len() > 1 {
        let detail = "if '*/*' is present, must not specify other resources";
        errors.push(FieldError::invalid(path, resources.to_vec(), detail));
    }
    // As upstream has it, the last of those without a subresource decides.
    let last_whole = texts.iter().rev().find(|t| !t.is_empty() && !t.contains('/'));
    if texts.contains(&"*") && last_whole.is_some_and(|last| *last != "*") {
        let detail = "if '*' is present, must not specify other resources without subresources";
        errors.push(FieldError::invalid(path, resources.to_vec(), detail));
    }
    errors
}

/// The patterns that a subresource is covered by: only what came before covers.
fn covered_by(resource: &str, before: &HashSet<&str>) -> Vec<String> {
    let Some((main, sub)) = resource.split_once('/') else {
        return Vec::new();
    };
    let patterns = [format!("{main}/*"), format!("*/{sub}")].into_iter();
    patterns
        .filter(|pattern| before.contains(pattern.as_str()))
        .collect()
}

/// Where a webhook is.
pub(in crate::kinds) fn client_config(config: &Value, path: &str) -> FieldErrors {
    match (config.at("url").as_str(), config.has("service")) {
        (Some(url), false) => url_errors(url, &format!("{path}.url")),
        (None, true) => service(config.at("service"), &format!("{path}.service")),
        _ => vec![FieldError::required(
            path,
            "exactly one of url or service is required",
        )],
    }
}

fn url_errors(url: &str, path: &str) -> FieldErrors {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", ""));
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = rest.split('/').next().unwrap_or_default();
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    let mut errors = Vec::new();
    if scheme != "https" {
        errors.push(FieldError::invalid(path, scheme, URL_FORM));
    }
    if host.is_empty() {
        let detail = "host must be specified; desired format: https://host[/path]";
        errors.push(FieldError::invalid(path, host, detail));
    }
    for (part, detail) in [
        (user, "user information is not permitted in the URL"),
        (fragment, "fragments are not permitted in the URL"),
        (query, "query parameters are not permitted in the URL"),
    ] {
        if !part.is_empty() {
            errors.push(FieldError::invalid(path, part, detail));
        }
    }
    errors
}

fn service(service: &Value, path: &str) -> FieldErrors {
    let mut errors = Vec::new();
    // Upstream hands the two over in the other order.
    for (key, shown) in [("namespace", "name"), ("name", "namespace")] {
        if service.text(key).is_empty() {
            errors.push(FieldError::required(format!("{path}.{shown}"), ""));
        }
    }
    if let Some(port) = service.int("port").filter(|p| !(1..=65_535).contains(p)) {
        let detail = "port is not valid: must be between 1 and 65535, inclusive";
        errors.push(FieldError::invalid(format!("{path}.port"), port, detail));
    }
    let at = format!("{path}.path");
    let told = service_path(service.text("path"));
    errors.extend(complain(&at, service.text("path"), told));
    errors
}

fn service_path(text: &str) -> Vec<String> {
    if matches!(text, "" | "/") {
        return Vec::new();
    }
    let mut told = Vec::new();
    if !text.starts_with('/') {
        told.push("must start with a '/'".to_owned());
    }
    // Upstream looks at what follows the first character, whichever it is.
    let rest: String = text.chars().skip(1).collect();
    let rest = rest.strip_suffix('/').unwrap_or(&rest);
    for (i, step) in rest.split('/').enumerate() {
        match step {
            "" => told.push(format!("segment[{i}] may not be empty")),
            step => told.extend(
                names::subdomain(step)
                    .iter()
                    .map(|why| format!("segment[{i}]: {why}")),
            ),
        }
    }
    told
}

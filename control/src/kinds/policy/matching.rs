//! Which requests a policy is about: `matchConstraints` and `matchResources`.
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::validate::webhooks;
use crate::kinds::view::{View, items_mut, set_missing};
use crate::kinds::{labels, names};
use serde_json::{Map, Value, json};
use std::collections::HashSet;

const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];

pub(super) fn default_resources(resources: &mut Map<String, Value>) {
    set_missing(resources, "matchPolicy", "Equivalent");
    for key in ["namespaceSelector", "objectSelector"] {
        set_missing(resources, key, json!({}));
    }
    for key in ["resourceRules", "excludeResourceRules"] {
        items_mut(resources, key).for_each(|rule| set_missing(rule, "scope", "*"));
    }
}

pub(super) fn resources(resources: &Value, path: &str, rules_required: bool) -> FieldErrors {
    let mut errors = Vec::new();
    let policy = resources.text("matchPolicy");
    if !matches!(policy, "Exact" | "Equivalent") {
        errors.push(FieldError::not_supported(
            format!("{path}.matchPolicy"),
            policy,
            &["Equivalent", "Exact"],
        ));
    }
    for key in ["namespaceSelector", "objectSelector"] {
        errors.extend(labels::validate_selector(
            resources.at(key),
            &format!("{path}.{key}"),
        ));
    }
    if rules_required && resources.list("resourceRules").is_empty() {
        errors.push(FieldError::required(format!("{path}.resourceRules"), ""));
    }
    for key in ["resourceRules", "excludeResourceRules"] {
        for (i, rule) in resources.list(key).iter().enumerate() {
            errors.extend(self::rule(rule, &format!("{path}.{key}[{i}]")));
        }
    }
    errors
}

fn rule(rule: &Value, path: &str) -> FieldErrors {
    let mut errors = Vec::new();
    for key in ["operations", "apiGroups", "apiVersions"] {
        let list = rule.list(key);
        if list.is_empty() {
            errors.push(FieldError::required(format!("{path}.{key}"), ""));
        }
        if list.len() > 1 && list.iter().any(|v| v == "*") {
            let why = "if '*' is present, must not specify other ";
            let what = match key {
                "operations" => "operations",
                "apiGroups" => "API groups",
                _ => "API versions",
            };
            errors.push(FieldError::invalid(
                format!("{path}.{key}"),
                list.to_vec(),
                format!("{why}{what}"),
            ));
        }
    }
    for (i, operation) in rule
        .list("operations")
        .iter()
        .filter_map(Value::as_str)
        .enumerate()
    {
        if !OPERATIONS.contains(&operation) {
            errors.push(FieldError::not_supported(
                format!("{path}.operations[{i}]"),
                operation,
                &OPERATIONS,
            ));
        }
    }
    let empty = rule
        .list("apiVersions")
        .iter()
        .enumerate()
        .filter(|(_, v)| *v == "");
    errors.extend(empty.map(|(i, _)| FieldError::required(format!("{path}.apiVersions[{i}]"), "")));
    errors.extend(webhooks::resource_list(
        rule.list("resources"),
        &format!("{path}.resources"),
    ));
    errors.extend(resource_names(
        rule.list("resourceNames"),
        &format!("{path}.resourceNames"),
    ));
    let scope = rule.text("scope");
    if !matches!(scope, "*" | "Cluster" | "Namespaced") {
        errors.push(FieldError::not_supported(
            format!("{path}.scope"),
            scope,
            &["*", "Cluster", "Namespaced"],
        ));
    }
    errors
}

fn resource_names(names: &[Value], path: &str) -> FieldErrors {
    let (mut errors, mut seen) = (Vec::new(), HashSet::new());
    for (i, name) in names.iter().filter_map(Value::as_str).enumerate() {
        let at = format!("{path}[{i}]");
        let told = names::path_segment(name).into_iter();
        errors.extend(told.map(|why| FieldError::invalid(at.as_str(), name, why)));
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(at, name));
        }
    }
    errors
}

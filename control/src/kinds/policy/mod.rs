//! ValidatingAdmissionPolicy and its binding as kinds: defaults, validation in upstream's words, table rows.
//!
//! Also a policy's expressions, compiled: judged here when it is written, run by admission.
mod mutating;
mod program;
mod typing;

pub(super) use mutating::{BINDING as MUTATING_BINDING, POLICY as MUTATING_POLICY};
pub use program::{Compiled, Mutation, Policy, Validation, compile_conditions};
pub use typing::warnings;

use std::collections::HashSet;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::error::{ErrorKind, FieldError, FieldErrors};
use super::prepare;
use super::rules::Rules;
use super::validate::conditions::all as meta_conditions;
use super::validate::webhooks;
use super::view::{View, items_mut, object_mut, set_missing};
use super::{labels, names};

const CONDITIONS: usize = 64;
const ANNOTATIONS: usize = 20;
const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const ACTIONS: [&str; 3] = ["Audit", "Deny", "Warn"];
const REASONS: [&str; 4] = ["Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized"];

pub(super) static POLICY: Rules = Rules {
    generation: true,
    default: default_policy,
    prepare_create: prepare::without_status,
    prepare_update: prepare::split_status,
    validate_create: policy,
    validate_update: |subresource, new, _| match subresource {
        Some(_) => status(new.at("status")),
        None => policy(new),
    },
    row: Some(policy_row),
    ..Rules::PLAIN
};

pub(super) static BINDING: Rules = Rules {
    generation: true,
    default: default_binding,
    validate_create: binding,
    validate_update: |_, new, _| binding(new),
    row: Some(binding_row),
    ..Rules::PLAIN
};

fn default_policy(object: &mut Value) {
    if let Some(spec) = object_mut(object, "spec") {
        set_missing(spec, "failurePolicy", "Fail");
        if let Some(resources) = spec.get_mut("matchConstraints").and_then(Value::as_object_mut) {
            default_resources(resources);
        }
    }
}

fn default_binding(object: &mut Value) {
    let resources = object
        .pointer_mut("/spec/matchResources")
        .and_then(Value::as_object_mut);
    resources.into_iter().for_each(default_resources);
}

fn default_resources(resources: &mut Map<String, Value>) {
    set_missing(resources, "matchPolicy", "Equivalent");
    for key in ["namespaceSelector", "objectSelector"] {
        set_missing(resources, key, json!({}));
    }
    for key in ["resourceRules", "excludeResourceRules"] {
        items_mut(resources, key).for_each(|rule| set_missing(rule, "scope", "*"));
    }
}

fn policy(object: &Value) -> FieldErrors {
    let spec = object.at("spec");
    let mut errors = failure_policy(spec);
    if spec.has("paramKind") {
        errors.extend(param_kind(spec.at("paramKind")));
    }
    match spec.has("matchConstraints") {
        false => errors.push(FieldError::required("spec.matchConstraints", "")),
        true => errors.extend(resources(
            spec.at("matchConstraints"),
            "spec.matchConstraints",
            true,
        )),
    }
    let compiled = Policy::compile(spec);
    let rows = spec.list("matchConditions");
    errors.extend(conditions(rows, &compiled.conditions, "spec.matchConditions"));
    errors.extend(variables(spec, &compiled));
    let (validations, annotations) = (spec.list("validations"), spec.list("auditAnnotations"));
    if validations.is_empty() && annotations.is_empty() {
        let why = "validations or auditAnnotations must contain at least one item";
        errors.push(FieldError::required("spec.validations", why));
        errors.push(FieldError::required("spec.auditAnnotations", why));
    }
    for (i, (row, validation)) in validations.iter().zip(&compiled.validations).enumerate() {
        errors.extend(self::validation(
            row,
            validation,
            &format!("spec.validations[{i}]"),
        ));
    }
    let name = object.text("metadata.name");
    errors.extend(audit_annotations(name, annotations, &compiled));
    errors
}

/// What the type checker and others say of a policy.
fn status(status: &Value) -> FieldErrors {
    let mut errors = Vec::new();
    let warnings = status.list("typeChecking.expressionWarnings").iter().enumerate();
    for (i, warning) in warnings {
        for key in ["warning", "fieldRef"]
            .into_iter()
            .filter(|key| warning.text(key).is_empty())
        {
            let path = format!("status.typeChecking.expressionWarnings[{i}].{key}");
            errors.push(FieldError::required(path, ""));
        }
    }
    errors.extend(meta_conditions(status.list("conditions"), "status.conditions"));
    errors
}

fn failure_policy(spec: &Value) -> FieldErrors {
    match spec.text("failurePolicy") {
        "Fail" | "Ignore" => Vec::new(),
        other => {
            let supported = ["Fail", "Ignore"];
            vec![FieldError::not_supported("spec.failurePolicy", other, &supported)]
        }
    }
}

fn param_kind(kind: &Value) -> FieldErrors {
    let (version, name) = (kind.text("apiVersion"), kind.text("kind"));
    let (at, kind_at) = ("spec.paramKind.apiVersion", "spec.paramKind.kind");
    let mut errors = match version {
        "" => vec![FieldError::required(at, "")],
        version => group_version(version, at),
    };
    if name.is_empty() {
        errors.push(FieldError::required(kind_at, ""));
    }
    let told = names::label_1035(&name.to_lowercase());
    if !name.is_empty() && !told.is_empty() {
        let detail = format!(
            "may have mixed case, but should otherwise match: {}",
            told.join(",")
        );
        errors.push(FieldError::invalid(kind_at, name, detail));
    }
    errors
}

fn group_version(text: &str, path: &str) -> FieldErrors {
    let (group, version) = text.split_once('/').unwrap_or(("", text));
    if version.contains('/') {
        let detail = format!("unexpected GroupVersion string: {text}");
        return vec![FieldError::invalid(path, text, detail)];
    }
    let mut errors = Vec::new();
    let mut told = |shown: &str, told: Vec<String>| {
        if !told.is_empty() {
            errors.push(FieldError::invalid(path, shown, told.join(",")));
        }
    };
    if !group.is_empty() {
        told(group, names::subdomain(group));
    }
    match version {
        "" => told(text, vec!["version must be specified".to_owned()]),
        version => told(version, names::label_1035(version)),
    }
    errors
}

fn resources(resources: &Value, path: &str, rules_required: bool) -> FieldErrors {
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

/// What is wrong with an expression at a path, where a missing one is told so.
fn named_expression(what: &str, source: &str, compiled: &Compiled, path: String) -> Option<FieldError> {
    let error = expression(source, compiled, path)?;
    Some(match error.kind {
        ErrorKind::Required => FieldError::required(error.field, format!("{what} is not specified")),
        _ => error,
    })
}

/// What is wrong with an expression at a path.
fn expression(source: &str, compiled: &Compiled, path: String) -> Option<FieldError> {
    match compiled {
        _ if source.trim().is_empty() => Some(FieldError::required(path, "")),
        Err(why) => Some(FieldError::invalid(path, source, why.clone())),
        // Objects have no schema here, so that every loop looks endless: costs are limited when it runs.
        Ok(_) => None,
    }
}

/// What is wrong with match conditions, of a policy or of a webhook.
pub(super) fn conditions(rows: &[Value], compiled: &[(String, Compiled)], path: &str) -> FieldErrors {
    let mut errors = Vec::new();
    if rows.len() > CONDITIONS {
        errors.push(FieldError::too_many(path, rows.len(), CONDITIONS));
    }
    let mut seen = HashSet::new();
    for (i, (row, (name, program))) in rows.iter().zip(compiled).enumerate() {
        let path = format!("{path}[{i}]");
        let source = row.text("expression");
        errors.extend(expression(source, program, format!("{path}.expression")));
        match name.as_str() {
            "" => errors.push(FieldError::required(format!("{path}.name"), "")),
            name => {
                let complaints = names::qualified(name).into_iter();
                errors.extend(complaints.map(|m| FieldError::invalid(format!("{path}.name"), name, m)));
                if !seen.insert(name) {
                    errors.push(FieldError::duplicate(format!("{path}.name"), name));
                }
            }
        }
    }
    errors
}

fn variables(spec: &Value, compiled: &Policy) -> FieldErrors {
    let mut errors = Vec::new();
    for (i, (row, (name, program))) in spec.list("variables").iter().zip(&compiled.variables).enumerate() {
        let path = format!("spec.variables[{i}]");
        let identifier = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if name.is_empty() {
            errors.push(FieldError::required(
                format!("{path}.name"),
                "name is not specified",
            ));
        } else if !identifier {
            let why = "must be a valid CEL identifier";
            errors.push(FieldError::invalid(format!("{path}.name"), name.as_str(), why));
        }
        errors.extend(named_expression(
            "expression",
            row.text("expression"),
            program,
            format!("{path}.expression"),
        ));
    }
    errors
}

fn validation(row: &Value, compiled: &Validation, path: &str) -> FieldErrors {
    let mut errors = Vec::new();
    let (text, message) = (row.text("expression").trim(), row.text("message"));
    let broken = |text: &str| text.contains(['\n', '\r']);
    if text.is_empty() {
        errors.push(FieldError::required(
            format!("{path}.expression"),
            "expression is not specified",
        ));
    } else {
        errors.extend(expression(text, &compiled.program, format!("{path}.expression")));
    }
    if !message.is_empty() && message.trim().is_empty() {
        errors.push(FieldError::invalid(
            format!("{path}.message"),
            message,
            "message must be non-empty if specified",
        ));
    } else if broken(message.trim()) {
        errors.push(FieldError::invalid(
            format!("{path}.message"),
            message,
            "message must not contain line breaks",
        ));
    } else if broken(text) && message.is_empty() {
        let why = "message must be specified if expression contains line breaks";
        errors.push(FieldError::required(format!("{path}.message"), why));
    }
    if let Some(Err(why)) = &compiled.message_program {
        let source = row.text("messageExpression");
        errors.push(FieldError::invalid(
            format!("{path}.messageExpression"),
            source,
            why.clone(),
        ));
    }
    if let Some(reason) = row
        .at("reason")
        .as_str()
        .filter(|reason| !REASONS.contains(reason))
    {
        // Upstream does not tell of the last one.
        errors.push(FieldError::not_supported(
            format!("{path}.reason"),
            reason,
            &REASONS[..3],
        ));
    }
    errors
}

fn audit_annotations(policy: &str, rows: &[Value], compiled: &Policy) -> FieldErrors {
    let mut errors = Vec::new();
    if rows.len() > ANNOTATIONS {
        errors.push(FieldError::too_many(
            "spec.auditAnnotations",
            rows.len(),
            ANNOTATIONS,
        ));
    }
    let mut seen = HashSet::new();
    for (i, (row, (key, program))) in rows.iter().zip(&compiled.annotations).enumerate() {
        let path = format!("spec.auditAnnotations[{i}]");
        // It is written under the policy's name.
        let full = format!("{policy}/{key}");
        let complaints = names::qualified(&full).into_iter();
        errors.extend(complaints.map(|m| FieldError::invalid(format!("{path}.key"), full.as_str(), m)));
        if !seen.insert(key) {
            errors.push(FieldError::duplicate(format!("{path}.key"), key.as_str()));
        }
        errors.extend(named_expression(
            "valueExpression",
            row.text("valueExpression"),
            program,
            format!("{path}.valueExpression"),
        ));
    }
    errors
}

fn binding(object: &Value) -> FieldErrors {
    let mut errors = bound(object);
    errors.extend(actions(object.list("spec.validationActions")));
    errors
}

/// What bindings of both sorts say: which policy, with which parameters, where.
fn bound(object: &Value) -> FieldErrors {
    let spec = object.at("spec");
    let mut errors = Vec::new();
    match spec.text("policyName") {
        "" => errors.push(FieldError::required("spec.policyName", "")),
        name => {
            let complaints = names::subdomain(name).into_iter();
            errors.extend(complaints.map(|m| FieldError::invalid("spec.policyName", name, m)));
        }
    }
    errors.extend(param_ref(spec.at("paramRef")));
    if spec.has("matchResources") {
        errors.extend(resources(spec.at("matchResources"), "spec.matchResources", false));
    }
    errors
}

fn param_ref(reference: &Value) -> FieldErrors {
    if reference.is_null() {
        return Vec::new();
    }
    let path = "spec.paramRef";
    let mut errors = Vec::new();
    match (reference.text("name").is_empty(), reference.has("selector")) {
        (true, false) => {
            let why = "one of name or selector must be specified";
            errors.push(FieldError::required(path, why));
        }
        (false, true) => {
            let why = "name and selector are mutually exclusive";
            errors.push(FieldError::forbidden(format!("{path}.name"), why));
        }
        _ => {}
    }
    errors.extend(labels::validate_selector(
        reference.at("selector"),
        &format!("{path}.selector"),
    ));
    let name = reference.text("name");
    let told = names::path_segment(name).into_iter();
    errors.extend(told.map(|why| FieldError::invalid(format!("{path}.name"), name, why)));
    match reference.text("parameterNotFoundAction") {
        "" => errors.push(FieldError::required(
            format!("{path}.parameterNotFoundAction"),
            "",
        )),
        "Allow" | "Deny" => {}
        other => {
            let path = format!("{path}.parameterNotFoundAction");
            errors.push(FieldError::not_supported(path, other, &["Deny", "Allow"]));
        }
    }
    errors
}

fn actions(actions: &[Value]) -> FieldErrors {
    let path = "spec.validationActions";
    if actions.is_empty() {
        let why = "at least one validation action is required";
        return vec![FieldError::required(path, why)];
    }
    let mut errors = Vec::new();
    let mut seen = HashSet::new();
    for (i, action) in actions.iter().filter_map(Value::as_str).enumerate() {
        let path = format!("{path}[{i}]");
        if !ACTIONS.contains(&action) {
            errors.push(FieldError::not_supported(path.clone(), action, &ACTIONS));
        }
        if !seen.insert(action) {
            errors.push(FieldError::duplicate(path, action));
        }
    }
    if seen.contains("Deny") && seen.contains("Warn") {
        let why = "must not contain both Deny and Warn (repeating the same validation failure information in the API \
                   response and headers serves no purpose)";
        errors.push(FieldError::invalid(path, actions.to_vec(), why));
    }
    errors
}

fn param_kind_shown(object: &Value) -> String {
    let kind = object.at("spec.paramKind");
    match kind.is_null() {
        true => "<unset>".to_owned(),
        false => format!("{}/{}", kind.text("apiVersion"), kind.text("kind")),
    }
}

fn policy_row(object: &Value, now: Timestamp) -> Vec<Value> {
    let shown = param_kind_shown(object);
    let count = object.list("spec.validations").len();
    vec![
        super::table::name(object),
        count.into(),
        shown.into(),
        super::table::age(object, now),
    ]
}

fn binding_row(object: &Value, now: Timestamp) -> Vec<Value> {
    let reference = object.at("spec.paramRef");
    let shown = match (
        reference.is_null(),
        reference.text("namespace"),
        reference.text("name"),
    ) {
        (true, _, _) => "<unset>".to_owned(),
        (_, "", name) => name.to_owned(),
        (_, namespace, name) => format!("{namespace}/{name}"),
    };
    let policy = object.text("spec.policyName");
    vec![
        super::table::name(object),
        policy.into(),
        shown.into(),
        super::table::age(object, now),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Registry;
    use crate::kinds::error::join;

    fn errors(plural: &str, spec: Value) -> String {
        let kind = Registry::builtin()
            .resource("admissionregistration.k8s.io", "v1", plural)
            .expect("served");
        let mut object = json!({"metadata": {"name": "p"}, "spec": spec});
        kind.default(&mut object);
        join(&kind.validate_create(&object))
    }

    fn rules() -> Value {
        json!({"resourceRules": [{"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["deployments"]}]})
    }

    #[test]
    fn policies_are_judged_in_upstreams_words() {
        let policies = "validatingadmissionpolicies";
        let good = json!({"matchConstraints": rules(), "variables": [{"name": "r", "expression": "object.spec.replicas"}],
            "validations": [{"expression": "variables.r <= 5"}]});
        assert_eq!(errors(policies, good), "[]");
        for (spec, want) in [
            (
                json!({"validations": [{"expression": "true"}]}),
                "spec.matchConstraints: Required value",
            ),
            (
                json!({"matchConstraints": rules()}),
                "spec.validations: Required value: validations or auditAnnotations must contain at least one item",
            ),
            (
                json!({"matchConstraints": rules(), "validations": [{"expression": "variables.x"}]}),
                "undeclared reference to 'variables'",
            ),
            (
                json!({"matchConstraints": rules(), "validations": [{"expression": "1"}]}),
                "spec.validations[0].expression: Invalid value: \"1\": must evaluate to bool",
            ),
            (
                json!({"matchConstraints": rules(), "validations": [{"expression": ""}]}),
                "spec.validations[0].expression: Required value: expression is not specified",
            ),
        ] {
            let found = errors(policies, spec);
            assert!(found.contains(want), "{found}");
        }
    }

    #[test]
    fn bindings_say_what_is_to_be_done() {
        let bindings = "validatingadmissionpolicybindings";
        assert_eq!(
            errors(
                bindings,
                json!({"policyName": "p", "validationActions": ["Deny"]})
            ),
            "[]"
        );
        let both = errors(
            bindings,
            json!({"policyName": "p", "validationActions": ["Deny", "Warn"]}),
        );
        assert!(both.contains("must not contain both Deny and Warn"), "{both}");
        assert!(
            errors(bindings, json!({"policyName": "p"})).contains("spec.validationActions: Required value")
        );
    }
}

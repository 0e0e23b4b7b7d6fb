//! ValidatingAdmissionPolicy as a kind: defaults, validation in upstream's words, table rows.
//!
//! Also a policy's expressions, compiled: judged here when it is written, run by admission.
mod binding;
#[cfg(test)]
mod checked_tests;
mod matching;
mod mutating;
mod program;
pub mod seen;
mod typing;

pub(super) use binding::BINDING;
pub(super) use mutating::{BINDING as MUTATING_BINDING, POLICY as MUTATING_POLICY};
pub use program::{Compiled, Mutation, Policy, Unusable, Validation, compile_conditions};
pub use typing::warnings;

use std::collections::HashSet;

use jiff::Timestamp;
use serde_json::Value;

use super::error::{ErrorKind, FieldError, FieldErrors};
use super::names;
use super::prepare;
use super::rules::Rules;
use super::validate::conditions::all as meta_conditions;
use super::view::{View, object_mut, set_missing};

const CONDITIONS: usize = 64;
const ANNOTATIONS: usize = 20;
const REASONS: [&str; 3] = ["Forbidden", "Invalid", "RequestEntityTooLarge"];

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
use matching::{default_resources, resources};

fn default_policy(object: &mut Value) {
    if let Some(spec) = object_mut(object, "spec") {
        set_missing(spec, "failurePolicy", "Fail");
        if let Some(resources) = spec.get_mut("matchConstraints").and_then(Value::as_object_mut) {
            default_resources(resources);
        }
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
        Err(why) => Some(unusable(source, why, path)),
        // Objects have no schema here, so that every loop looks endless: costs are limited when it runs.
        Ok(_) => None,
    }
}

fn unusable(source: &str, why: &Unusable, path: String) -> FieldError {
    match why {
        Unusable::Invalid(why) => FieldError::invalid(path, source, why.clone()),
        Unusable::Planned(_) => FieldError::internal(path, why.to_string()),
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
        let source = row.text("expression").trim();
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
    let (source, message) = (row.text("messageExpression"), row.text("message"));
    errors.extend(named_expression(
        "expression",
        row.text("expression"),
        &compiled.program,
        format!("{path}.expression"),
    ));
    let empty = |text: &str| !text.is_empty() && text.trim().is_empty();
    let why = "must be non-empty if specified";
    match &compiled.message_program {
        _ if empty(source) => {
            errors.push(FieldError::invalid(
                format!("{path}.messageExpression"),
                source,
                why,
            ));
        }
        Some(Err(why)) => errors.push(unusable(source, why, format!("{path}.messageExpression"))),
        _ => {}
    }
    // Upstream means to ask for a message where the expression has several lines, and does not.
    if empty(message) {
        errors.push(FieldError::invalid(format!("{path}.message"), message, why));
    } else if message.trim().contains(['\n', '\r']) {
        let why = "must not contain line breaks";
        errors.push(FieldError::invalid(format!("{path}.message"), message, why));
    }
    if let Some(reason) = row
        .at("reason")
        .as_str()
        .filter(|reason| !REASONS.contains(reason))
    {
        errors.push(FieldError::not_supported(
            format!("{path}.reason"),
            reason,
            &REASONS,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Registry;
    use crate::kinds::error::join;
    use serde_json::json;

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
                "spec.validations[0].expression: Invalid value: \"1\": must evaluate to bool but got int",
            ),
            (
                json!({"matchConstraints": rules(), "validations": [{"expression": ""}]}),
                "spec.validations[0].expression: Required value: expression is not specified",
            ),
            (
                json!({"matchConstraints": rules(), "validations": [{"expression": "object.a == 1 && "}]}),
                "spec.validations[0].expression: Invalid value: \"object.a == 1 && \": compilation failed",
            ),
            (
                json!({"matchConstraints": rules(),
                    "validations": [{"expression": "true", "message": " ", "messageExpression": "\t"}]}),
                "[spec.validations[0].messageExpression: Invalid value: \"\\t\": must be non-empty if specified, \
                 spec.validations[0].message: Invalid value: \" \": must be non-empty if specified]",
            ),
            (
                json!({"matchConstraints": rules(), "validations": [{"expression": "true &&\ntrue"}]}),
                "[]",
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

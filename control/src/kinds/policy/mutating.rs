//! MutatingAdmissionPolicy and its binding as kinds (KEP-3962): defaults, validation in upstream's words, table rows.
use jiff::Timestamp;
use serde_json::Value;

use super::matching::{default_resources, resources};
use super::{Policy, conditions, expression, failure_policy, param_kind, variables};
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::rules::Rules;
use crate::kinds::table;
use crate::kinds::view::{View, object_mut, set_missing};

/// Only what is about to be stored can be changed.
const OPERATIONS: [&str; 4] = ["*", "CONNECT", "CREATE", "UPDATE"];
const REINVOCATION: [&str; 2] = ["IfNeeded", "Never"];
const TYPES: [&str; 2] = ["ApplyConfiguration", "JSONPatch"];

pub(in crate::kinds) static POLICY: Rules = Rules {
    generation: true,
    default: default_policy,
    validate_create: policy,
    validate_update: |_, new, _| policy(new),
    row: Some(policy_row),
    ..Rules::PLAIN
};

pub(in crate::kinds) static BINDING: Rules = Rules {
    generation: true,
    default: super::binding::default_binding,
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

fn policy(object: &Value) -> FieldErrors {
    let spec = object.at("spec");
    let mut errors = failure_policy(spec);
    if spec.has("paramKind") {
        errors.extend(param_kind(spec.at("paramKind")));
    }
    match spec.has("matchConstraints") {
        false => errors.push(FieldError::required("spec.matchConstraints", "")),
        true => {
            let constraints = spec.at("matchConstraints");
            errors.extend(resources(constraints, "spec.matchConstraints", true));
            errors.extend(operations(constraints, "spec.matchConstraints"));
        }
    }
    let compiled = Policy::compile(spec);
    let rows = spec.list("matchConditions");
    errors.extend(conditions(rows, &compiled.conditions, "spec.matchConditions"));
    errors.extend(variables(spec, &compiled));
    let rows = spec.list("mutations");
    if rows.is_empty() {
        let why = "mutations must contain at least one item";
        errors.push(FieldError::required("spec.mutations", why));
    }
    for (i, (row, mutation)) in rows.iter().zip(&compiled.mutations).enumerate() {
        errors.extend(self::mutation(row, mutation, &format!("spec.mutations[{i}]")));
    }
    match spec.text("reinvocationPolicy") {
        "" => errors.push(FieldError::required("spec.reinvocationPolicy", "")),
        known if REINVOCATION.contains(&known) => {}
        other => errors.push(FieldError::not_supported(
            "spec.reinvocationPolicy",
            other,
            &REINVOCATION,
        )),
    }
    errors
}

fn operations(resources: &Value, path: &str) -> FieldErrors {
    let rules = resources.list("resourceRules").iter();
    let operations = rules
        .flat_map(|rule| rule.list("operations"))
        .filter_map(Value::as_str);
    operations
        .filter(|operation| !OPERATIONS.contains(operation))
        .map(|operation| {
            FieldError::not_supported(format!("{path}.resourceRules.operations"), operation, &OPERATIONS)
        })
        .collect()
}

fn mutation(row: &Value, compiled: &super::Mutation, path: &str) -> FieldErrors {
    let (own, other) = match row.text("patchType") {
        "" => return vec![FieldError::required(format!("{path}.patchType"), "")],
        "JSONPatch" => ("jsonPatch", "applyConfiguration"),
        "ApplyConfiguration" => ("applyConfiguration", "jsonPatch"),
        unknown => {
            let path = format!("{path}.patchType");
            return vec![FieldError::not_supported(path, unknown, &TYPES)];
        }
    };
    let kind = row.text("patchType");
    let mut errors = Vec::new();
    match row.has(own) {
        false => {
            let why = format!("must be specified when patchType is {kind}");
            errors.push(FieldError::required(format!("{path}.{own}"), why));
        }
        true => {
            let source = row.at(own).text("expression").trim();
            errors.extend(expression(
                source,
                compiled.program(),
                format!("{path}.{own}.expression"),
            ));
        }
    }
    if row.has(other) {
        let why = format!("must not be specified when patchType is {kind}");
        errors.push(FieldError::invalid(
            format!("{path}.{other}"),
            format!("{{{other}}}"),
            why,
        ));
    }
    errors
}

fn binding(object: &Value) -> FieldErrors {
    let mut errors = super::binding::bound(object);
    let narrowed = object.at("spec.matchResources");
    if !narrowed.is_null() {
        errors.extend(operations(narrowed, "spec.matchResources"));
    }
    errors
}

fn policy_row(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        table::name(object),
        object.list("spec.mutations").len().into(),
        super::param_kind_shown(object).into(),
        table::age(object, now),
    ]
}

fn binding_row(object: &Value, now: Timestamp) -> Vec<Value> {
    let reference = object.at("spec.paramRef");
    let (namespace, name) = (reference.text("namespace"), reference.text("name"));
    let shown = match (reference.is_null(), namespace, name) {
        (true, _, _) => "<unset>".to_owned(),
        (false, _, "") => String::new(),
        (false, "", name) => format!("*/{name}"),
        (false, namespace, name) => format!("{namespace}/{name}"),
    };
    vec![
        table::name(object),
        object.text("spec.policyName").into(),
        shown.into(),
        table::age(object, now),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Registry;
    use crate::kinds::error::join;
    use serde_json::json;

    fn errors(more: Value) -> String {
        let kind = Registry::builtin()
            .resource("admissionregistration.k8s.io", "v1", "mutatingadmissionpolicies")
            .expect("served");
        let mut object = json!({"metadata": {"name": "p"}, "spec": {"reinvocationPolicy": "Never", "matchConstraints":
            {"resourceRules": [{"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE"],
                "resources": ["deployments"]}]}}});
        json_patch::merge(&mut object["spec"], &more);
        kind.default(&mut object);
        join(&kind.validate_create(&object))
    }

    fn applies(expression: &str) -> Value {
        json!({"mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}]})
    }

    #[test]
    fn policies_are_judged_in_upstreams_words() {
        assert_eq!(errors(applies("Object{spec: Object.spec{replicas: 3}}")), "[]");
        let patch = json!({"mutations": [{"patchType": "JSONPatch", "jsonPatch":
            {"expression": "[JSONPatch{op: 'remove', path: '/spec/paused'}]"}}]});
        assert_eq!(errors(patch), "[]");
        for (spec, want) in [
            (
                json!({}),
                "spec.mutations: Required value: mutations must contain at least one item",
            ),
            (
                applies(""),
                "spec.mutations[0].applyConfiguration.expression: Required value",
            ),
            (applies("1"), "must evaluate to Object"),
            (
                json!({"mutations": [{"patchType": "JSONPatch"}]}),
                "spec.mutations[0].jsonPatch: Required value: must be specified when patchType is JSONPatch",
            ),
            (
                json!({"mutations": [{"patchType": "Other"}]}),
                "supported values: \"ApplyConfiguration\", \"JSONPatch\"",
            ),
        ] {
            let found = errors(spec);
            assert!(found.contains(want), "{found}");
        }
    }
}

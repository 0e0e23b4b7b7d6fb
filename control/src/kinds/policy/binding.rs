//! ValidatingAdmissionPolicyBinding as a kind, and what bindings of mutating policies have in common with it.
use super::matching::{default_resources, resources};
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::rules::Rules;
use crate::kinds::view::View;
use crate::kinds::{labels, names};
use jiff::Timestamp;
use serde_json::Value;
use std::collections::HashSet;

const ACTIONS: [&str; 3] = ["Audit", "Deny", "Warn"];

pub(in crate::kinds) static BINDING: Rules = Rules {
    generation: true,
    default: default_binding,
    validate_create: binding,
    validate_update: |_, new, _| binding(new),
    row: Some(binding_row),
    ..Rules::PLAIN
};

pub(super) fn default_binding(object: &mut Value) {
    let resources = object
        .pointer_mut("/spec/matchResources")
        .and_then(Value::as_object_mut);
    resources.into_iter().for_each(default_resources);
}

fn binding(object: &Value) -> FieldErrors {
    let mut errors = bound(object);
    errors.extend(actions(object.list("spec.validationActions")));
    errors
}

/// What bindings of both sorts say: which policy, with which parameters, where.
pub(super) fn bound(object: &Value) -> FieldErrors {
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
        crate::kinds::table::name(object),
        policy.into(),
        shown.into(),
        crate::kinds::table::age(object, now),
    ]
}

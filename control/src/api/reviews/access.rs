//! `SubjectAccessReview` and its sisters: whether somebody may do something.
use super::super::Call;
use super::super::status::{ApiError, Result};
use crate::auth::attributes::{Attributes, Resource};
use crate::auth::{Identity, Verdict};
use crate::kinds::{FieldError, FieldErrors};
use serde_json::{Value, json};
use std::collections::BTreeMap;

const GROUP: &str = "authorization.k8s.io";

/// About anybody.
pub fn of_subject(call: &Call, question: &Value) -> Result<Value> {
    let spec = &question["spec"];
    let mut errors = one_of_two(spec);
    if text(spec, "user").is_empty() && spec["groups"].as_array().is_none_or(Vec::is_empty) {
        let why = "at least one of user or group must be specified";
        errors.push(FieldError::invalid("spec.user", "", why));
    }
    checked(&errors)?;
    decide(call, &subject(spec), spec)
}

/// About anybody, in the namespace of the path.
pub fn of_subject_here(call: &Call, question: &Value) -> Result<Value> {
    let here = call.target.namespace.as_deref().unwrap_or_default();
    let attributes = &question["spec"]["resourceAttributes"];
    if attributes.is_object() && text(attributes, "namespace") != here {
        let why = format!("spec.resourceAttributes.namespace must match namespace: {here}");
        return Err(ApiError::bad_request(why));
    }
    if question["spec"]["nonResourceAttributes"].is_object() {
        let why = "disallowed on this kind of request";
        let error = FieldError::invalid("spec.nonResourceAttributes", Value::Null, why);
        checked(&vec![error])?;
    }
    of_subject(call, question)
}

/// About the one who asks.
pub fn of_self(call: &Call, question: &Value) -> Result<Value> {
    checked(&one_of_two(&question["spec"]))?;
    decide(call, &call.who, &question["spec"])
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or_default()
}

fn checked(errors: &FieldErrors) -> Result<()> {
    match errors.is_empty() {
        true => Ok(()),
        false => Err(ApiError::invalid("", GROUP, "", errors)),
    }
}

fn one_of_two(spec: &Value) -> FieldErrors {
    let has = |key: &str| spec[key].is_object();
    let error = match (has("resourceAttributes"), has("nonResourceAttributes")) {
        (true, true) => FieldError::invalid(
            "spec.nonResourceAttributes",
            spec["nonResourceAttributes"].clone(),
            "cannot be specified in combination with resourceAttributes",
        ),
        (false, false) => FieldError::invalid(
            "spec.resourceAttributes",
            Value::Null,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        ),
        _ => return Vec::new(),
    };
    vec![error]
}

/// The user as he is described: no group is added.
fn subject(spec: &Value) -> Identity {
    let groups = spec["groups"].as_array().into_iter().flatten();
    let extra: BTreeMap<String, Vec<String>> =
        serde_json::from_value(spec["extra"].clone()).unwrap_or_default();
    Identity {
        user: text(spec, "user").into(),
        groups: groups.filter_map(|g| g.as_str().map(str::to_owned)).collect(),
        uid: text(spec, "uid").to_owned(),
        extra: extra.into(),
    }
}

fn decide(call: &Call, who: &Identity, spec: &Value) -> Result<Value> {
    let verdict = call.api.authorizer.authorize(who, &attributes(spec));
    Ok(match verdict {
        Verdict::Allowed { reason } => json!({"allowed": true, "reason": reason}),
        Verdict::Refused { reason, error } => {
            json!({"allowed": false, "reason": reason, "evaluationError": error})
        }
    })
}

fn attributes(spec: &Value) -> Attributes<'_> {
    let asked = &spec["nonResourceAttributes"];
    if asked.is_object() {
        return Attributes::path(text(asked, "verb"), text(asked, "path"));
    }
    let asked = &spec["resourceAttributes"];
    let some = |key: &str| Some(text(asked, key)).filter(|text| !text.is_empty());
    let resource = Resource {
        group: text(asked, "group"),
        resource: text(asked, "resource"),
        subresource: some("subresource"),
        namespace: some("namespace"),
        name: some("name"),
        on_node: on_node(&asked["fieldSelector"]),
    };
    Attributes::resource(text(asked, "verb"), resource)
}

/// The node that a described field selector limits the request to.
fn on_node(selector: &Value) -> Option<&str> {
    let requirements = selector["requirements"].as_array()?;
    let one = requirements
        .iter()
        .find(|r| r["key"] == "spec.nodeName" && r["operator"] == "In")?;
    match one["values"].as_array()?.as_slice() {
        [value] => value.as_str(),
        _ => None,
    }
}

//! `SubjectAccessReview` and its sisters: whether somebody may do something.
use super::super::Call;
use super::super::status::{ApiError, Result};
use super::selected;
use crate::auth::attributes::{Attributes, Resource};
use crate::auth::{Identity, Verdict};
use crate::kinds::view::View;
use crate::kinds::{FieldError, FieldErrors, names};
use serde_json::{Value, json};
use std::collections::BTreeMap;

const GROUP: &str = "authorization.k8s.io";

/// About anybody.
pub fn of_subject(call: &Call, question: &Value) -> Result<Value> {
    let mut errors = of_spec(&question["spec"]);
    errors.extend(metadata(question, false));
    checked(&errors)?;
    decide(call, &subject(&question["spec"]), &question["spec"])
}

/// About anybody, in the namespace of the path.
pub fn of_subject_here(call: &Call, question: &Value) -> Result<Value> {
    let here = call.target.namespace.as_deref().unwrap_or_default();
    let spec = &question["spec"];
    let mut errors = of_spec(spec);
    errors.extend(metadata(question, true));
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    if resource.is_object() && text(resource, "namespace") != here {
        let said = text(resource, "namespace");
        let why = "must match metadata.namespace";
        errors.push(FieldError::invalid(
            "spec.resourceAttributes.namespace",
            said,
            why,
        ));
    }
    if path.is_object() {
        let why = "disallowed on this kind of request";
        errors.push(FieldError::invalid(
            "spec.nonResourceAttributes",
            internal(path),
            why,
        ));
    }
    checked(&errors)?;
    decide(call, &subject(spec), spec)
}

/// About the one who asks.
pub fn of_self(call: &Call, question: &Value) -> Result<Value> {
    let mut errors = one_of_two(&question["spec"]);
    errors.extend(selectors(&question["spec"]));
    errors.extend(metadata(question, false));
    checked(&errors)?;
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
            internal(&spec["nonResourceAttributes"]),
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

/// Attributes as upstream prints its internal form.
fn internal(path: &Value) -> Value {
    json!({"Path": text(path, "path"), "Verb": text(path, "verb")})
}

fn of_spec(spec: &Value) -> FieldErrors {
    let mut errors = one_of_two(spec);
    if text(spec, "user").is_empty() && spec["groups"].as_array().is_none_or(Vec::is_empty) {
        let why = "at least one of user or group must be specified";
        errors.push(FieldError::invalid("spec.user", "", why));
    }
    errors.extend(selectors(spec));
    errors
}

/// A question has no name: nothing of it is kept.
fn metadata(question: &Value, local: bool) -> Option<FieldError> {
    let meta = &question["metadata"];
    let beside = match local {
        true => " except for namespace",
        false => "",
    };
    let own = |key: &str| key == "managedFields" || local && key == "namespace";
    let said = |value: &Value| match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        _ => true,
    };
    let full = meta
        .as_object()?
        .iter()
        .any(|(key, value)| !own(key) && said(value));
    full.then(|| FieldError::invalid("metadata", meta.clone(), format!("must be empty{beside}")))
}

/// What is wrong with the selectors that the request would have. Operators may be newer than we are.
fn selectors(spec: &Value) -> FieldErrors {
    let mut errors = Vec::new();
    for key in ["fieldSelector", "labelSelector"] {
        let selector = &spec["resourceAttributes"][key];
        if !selector.is_object() {
            continue;
        }
        let path = format!("spec.resourceAttributes.{key}");
        let (raw, requirements) = (text(selector, "rawSelector"), selector.list("requirements"));
        if !raw.is_empty() && !requirements.is_empty() {
            let why = "may not specified at the same time as requirements";
            errors.push(FieldError::invalid(format!("{path}.rawSelector"), raw, why));
        }
        if raw.is_empty() && requirements.is_empty() {
            let why = format!("when {path} is specified, requirements or rawSelector is required");
            errors.push(FieldError::required(format!("{path}.requirements"), why));
        }
        for (i, one) in requirements.iter().enumerate() {
            requirement(
                one,
                key == "labelSelector",
                &format!("{path}.requirements[{i}]"),
                &mut errors,
            );
        }
    }
    errors
}

fn requirement(one: &Value, of_labels: bool, path: &str, errors: &mut FieldErrors) {
    let (key, values) = (text(one, "key"), one.list("values"));
    if !of_labels && key.is_empty() {
        errors.push(FieldError::required(format!("{path}.key"), "must be specified"));
    }
    let at = format!("{path}.values");
    match text(one, "operator") {
        "In" | "NotIn" if values.is_empty() => {
            let why = "must be specified when `operator` is 'In' or 'NotIn'";
            errors.push(FieldError::required(at, why));
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.push(FieldError::forbidden(at, why));
        }
        _ => {}
    }
    if of_labels {
        let invalid = |why| FieldError::invalid(format!("{path}.key"), key, why);
        errors.extend(names::qualified(key).into_iter().map(invalid));
        for (i, value) in values.iter().enumerate() {
            let value = value.as_str().unwrap_or_default();
            let invalid = |why| FieldError::invalid(format!("{path}.values[{i}]"), value, why);
            errors.extend(names::label_value(value).into_iter().map(invalid));
        }
    }
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
    let selected = selected::read(&spec["resourceAttributes"]);
    let attributes = attributes(spec, selected.on_node.as_deref());
    let (allowed, reason, error) = match call.api.authorizer.authorize(who, &attributes) {
        Verdict::Allowed { reason } => (true, reason, String::new()),
        Verdict::Refused { reason, error } => (false, reason, error),
    };
    let errors = [error].into_iter().filter(|error| !error.is_empty());
    let errors: Vec<String> = errors.chain(selected.ignored).collect();
    Ok(json!({"allowed": allowed, "reason": reason, "evaluationError": errors.join("; ")}))
}

fn attributes<'s>(spec: &'s Value, on_node: Option<&'s str>) -> Attributes<'s> {
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
        on_node,
    };
    Attributes::resource(text(asked, "verb"), resource)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::error::join;

    #[test]
    fn questions_are_judged_in_upstreams_words() {
        let asks = |selector: Value| json!({"user": "u", "resourceAttributes": {"fieldSelector": selector}});
        let field = "spec.resourceAttributes.fieldSelector";
        for (selector, want) in [
            (
                json!({"rawSelector": "a=b", "requirements": [{"key": "a", "operator": "Exists"}]}),
                format!(
                    "{field}.rawSelector: Invalid value: \"a=b\": may not specified at the same time as requirements"
                ),
            ),
            (
                json!({}),
                format!(
                    "{field}.requirements: Required value: when {field} is specified, requirements or rawSelector is required"
                ),
            ),
            (
                json!({"requirements": [{"operator": "In"}]}),
                format!(
                    "[{field}.requirements[0].key: Required value: must be specified, {field}.requirements[0].values: \
                     Required value: must be specified when `operator` is 'In' or 'NotIn']"
                ),
            ),
            (
                json!({"requirements": [{"key": "a", "operator": "Foo"}]}),
                "[]".to_owned(),
            ),
        ] {
            assert_eq!(join(&of_spec(&asks(selector))), want);
        }
    }

    #[test]
    fn questions_have_no_names() {
        let of = |meta: Value, local| metadata(&json!({"metadata": meta}), local).map(|e| e.to_string());
        assert_eq!(
            of(json!({"name": "x"}), false).as_deref(),
            Some("metadata: Invalid value: {\"name\":\"x\"}: must be empty")
        );
        assert_eq!(
            of(json!({"managedFields": [{}], "creationTimestamp": null}), false),
            None
        );
        assert_eq!(of(json!({"namespace": "n"}), true), None);
    }
}

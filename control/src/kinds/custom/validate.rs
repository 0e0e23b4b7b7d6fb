//! Validation of an object by its structural schema, in upstream's words.
//!
//! What an update leaves as it was is not judged again (KEP-4008, ratcheting; see `correlated`).
use serde_json::{Map, Value};

use super::correlated::Correlated;
use super::lists::below;
use super::numeric;
use super::schema::{Checks, Structural};
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::formats;
use crate::kinds::numbers::equal;

/// Everything wrong with `object`, but for what it `was` already.
pub(super) fn validate(schema: &Structural, object: &Value, was: Option<Correlated<'_>>) -> FieldErrors {
    let mut errors = Vec::new();
    node(schema, object, was, "", &mut errors);
    errors
}

fn node<'v>(
    schema: &Structural,
    value: &'v Value,
    was: Option<Correlated<'v>>,
    path: &str,
    errors: &mut FieldErrors,
) {
    if was.is_some_and(Correlated::is_unchanged) {
        return;
    }
    // A number of another type is measured all the same.
    if !typed(schema, value, path, errors) && !value.is_number() {
        return;
    }
    junctors(&schema.checks, value, path, errors);
    match value {
        Value::String(text) => string(&schema.checks, text, path, errors),
        Value::Number(number) => numeric::validate(schema, number, path, errors),
        Value::Array(items) => array(schema, items, was, path, errors),
        _ => {}
    }
    enumeration(&schema.checks, value, path, errors);
    if let Value::Object(map) = value {
        object(schema, map, was, path, errors);
    }
}

/// Whether the value has the schema's type, so that further checks make sense.
fn typed(schema: &Structural, value: &Value, path: &str, errors: &mut FieldErrors) -> bool {
    let found = type_of(value);
    let fits = match (schema.ty.as_str(), found) {
        _ if schema.int_or_string => {
            matches!(found, "integer" | "string")
                || numeric::is_integral(value)
                || value.is_null() && schema.nullable
        }
        ("", _) => true,
        (_, "null") => schema.nullable,
        ("number", "integer") => true,
        ("integer", "number") => numeric::is_integral(value),
        (wanted, found) => wanted == found,
    };
    if !fits {
        let (wanted, found) = match numeric::format(schema) {
            _ if schema.int_or_string => ("integer,string", found),
            Some(format) if !matches!(found, "null" | "string" | "array") => {
                (format, numeric::inferred(value))
            }
            _ => (schema.ty.as_str(), found),
        };
        let detail = format!("{} in body must be of type {wanted}: {found:?}", shown(path));
        errors.push(FieldError::type_invalid(path, found, detail));
    }
    fits && !value.is_null()
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// A path as messages name it: the root has no name.
fn shown(path: &str) -> &str {
    path
}

fn string(checks: &Checks, text: &str, path: &str, errors: &mut FieldErrors) {
    errors.extend(shape(checks, text, path));
    if let Some(format) = checks.format.as_ref().filter(|f| !formats::is(f, text)) {
        let detail = format!(
            "{path} in body must be of type {format}: {}",
            crate::kinds::error::quote(text)
        );
        errors.push(FieldError::type_invalid(path, text, detail));
    }
}

/// What is wrong with a text by its length and its pattern: the first of it.
fn shape(checks: &Checks, text: &str, path: &str) -> Option<FieldError> {
    let length = text.chars().count() as u64;
    let invalid = |detail: String| Some(FieldError::invalid(path, text, detail));
    if let Some(max) = checks.max_length.filter(|max| length > *max) {
        let max = usize::try_from(max).unwrap_or(usize::MAX);
        return Some(FieldError::too_long(path, max));
    }
    if let Some(min) = checks.min_length.filter(|min| length < *min) {
        return invalid(format!("{path} in body should be at least {min} chars long"));
    }
    let pattern = checks.pattern.as_ref().filter(|p| !p.is_match(text))?;
    invalid(format!("{path} in body should match '{}'", pattern.source))
}

fn array<'v>(
    schema: &Structural,
    items: &'v [Value],
    was: Option<Correlated<'v>>,
    path: &str,
    errors: &mut FieldErrors,
) {
    let length = items.len() as u64;
    if let Some(element) = schema.items.as_deref() {
        for (i, item) in items.iter().enumerate() {
            let before = was.and_then(|was| was.element(item));
            node(element, item, before, &format!("{path}[{i}]"), errors);
        }
    }
    let limit = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    if let Some(min) = schema.checks.min_items.filter(|min| length < *min) {
        let detail = format!("{path} in body should have at least {min} items");
        errors.push(FieldError::invalid(path, length, detail));
    }
    if let Some(max) = schema.checks.max_items.filter(|max| length > *max) {
        errors.push(FieldError::too_many(path, items.len(), limit(max)));
    }
}

fn enumeration(checks: &Checks, value: &Value, path: &str, errors: &mut FieldErrors) {
    if checks.allowed.is_empty() || checks.allowed.iter().any(|one| equal(one, value)) {
        return;
    }
    let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    let supported: Vec<String> = checks.allowed.iter().map(text).collect();
    let supported: Vec<&str> = supported.iter().map(String::as_str).collect();
    errors.push(FieldError::not_supported(path, value.clone(), &supported));
}

fn object<'v>(
    schema: &Structural,
    map: &'v Map<String, Value>,
    was: Option<Correlated<'v>>,
    path: &str,
    errors: &mut FieldErrors,
) {
    let (checks, count) = (&schema.checks, map.len() as u64);
    if let Some(min) = checks.min_properties.filter(|min| count < *min) {
        let detail = format!("{path} in body should have at least {min} properties");
        errors.push(FieldError::invalid(path, count, detail));
    }
    if let Some(max) = checks.max_properties.filter(|max| count > *max) {
        errors.push(FieldError::too_many(
            path,
            map.len(),
            usize::try_from(max).unwrap_or(usize::MAX),
        ));
    }
    let missing = checks.required.iter().filter(|key| !map.contains_key(*key));
    errors.extend(missing.map(|key| FieldError::required(below(path, key), "")));
    for (key, value) in map {
        if let Some(member) = schema.member(key) {
            let before = was.and_then(|was| was.member(key));
            node(member, value, before, &below(path, key), errors);
        }
    }
}

fn junctors(checks: &Checks, value: &Value, path: &str, errors: &mut FieldErrors) {
    let attempt = |schema: &Structural| {
        let mut found = Vec::new();
        node(schema, value, None, path, &mut found);
        found
    };
    let failed = |why: String| FieldError::invalid("<nil>", "", why);
    let best = |attempts: Vec<FieldErrors>| attempts.into_iter().min_by_key(Vec::len).unwrap_or_default();
    if !checks.any_of.is_empty() {
        let attempts: Vec<FieldErrors> = checks.any_of.iter().map(attempt).collect();
        if attempts.iter().all(|a| !a.is_empty()) {
            errors.push(failed(format!(
                "{path:?} must validate at least one schema (anyOf)"
            )));
            errors.extend(best(attempts));
        }
    }
    if !checks.one_of.is_empty() {
        let attempts: Vec<FieldErrors> = checks.one_of.iter().map(attempt).collect();
        let valid = attempts.iter().filter(|a| a.is_empty()).count();
        let one = format!("{path:?} must validate one and only one schema (oneOf).");
        match valid {
            0 => {
                errors.push(failed(format!("{one} Found none valid")));
                errors.extend(best(attempts));
            }
            1 => {}
            several => errors.push(failed(format!("{one} Found {several} valid alternatives"))),
        }
    }
    let all: Vec<FieldErrors> = checks.all_of.iter().map(attempt).collect();
    if all.iter().any(|a| !a.is_empty()) {
        errors.extend(all.into_iter().flatten());
        errors.push(failed(format!("{path:?} must validate all the schemas (allOf)")));
    }
    if let Some(not) = &checks.not
        && attempt(not).is_empty()
    {
        errors.push(failed(format!("{path:?} must not validate the schema (not)")));
    }
}

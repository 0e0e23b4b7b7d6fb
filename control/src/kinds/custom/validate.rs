//! Validation of an object by its structural schema, in upstream's words.
//!
//! What an update leaves as it was is not judged again (KEP-4008, ratcheting; see `correlated`).
use serde_json::{Map, Value};

use super::correlated::Correlated;
use super::numeric;
use super::place::Place;
use super::schema::{Checks, Structural};
use crate::kinds::bounded::Found;
use crate::kinds::error::FieldError;
use crate::kinds::formats;

/// Everything wrong with `object`, but for what it `was` already.
pub(super) fn validate(schema: &Structural, object: &Value, was: Option<Correlated<'_>>) -> Found {
    let mut errors = Found::default();
    node(schema, object, was, Place::Root, &mut errors);
    errors
}

fn node<'v>(
    schema: &Structural,
    value: &'v Value,
    was: Option<Correlated<'v>>,
    path: Place<'_>,
    errors: &mut Found,
) {
    if errors.is_full() || was.is_some_and(Correlated::is_unchanged) {
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
fn typed(schema: &Structural, value: &Value, path: Place<'_>, errors: &mut Found) -> bool {
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
        let detail = format!("{path} in body must be of type {wanted}: {found:?}");
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

fn string(checks: &Checks, text: &str, path: Place<'_>, errors: &mut Found) {
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
fn shape(checks: &Checks, text: &str, path: Place<'_>) -> Option<FieldError> {
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
    path: Place<'_>,
    errors: &mut Found,
) {
    let length = items.len() as u64;
    if let Some(element) = schema.items.as_deref() {
        for (i, item) in items.iter().enumerate() {
            let before = was.and_then(|was| was.element(item));
            node(element, item, before, Place::Item(&path, i), errors);
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

fn enumeration(checks: &Checks, value: &Value, path: Place<'_>, errors: &mut Found) {
    if checks.allowed.values.is_empty() || checks.allowed.has(value) {
        return;
    }
    let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    let supported: Vec<String> = checks.allowed.values.iter().map(text).collect();
    let supported: Vec<&str> = supported.iter().map(String::as_str).collect();
    errors.push(FieldError::not_supported(path, value.clone(), &supported));
}

fn object<'v>(
    schema: &Structural,
    map: &'v Map<String, Value>,
    was: Option<Correlated<'v>>,
    path: Place<'_>,
    errors: &mut Found,
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
    let below = |own: bool| {
        map.iter()
            .filter(move |(key, _)| schema.properties.contains_key(*key) == own)
    };
    for (key, value) in below(false).chain(below(true)) {
        if let Some(member) = schema.member(key) {
            let before = was.and_then(|was| was.member(key));
            node(member, value, before, Place::Member(&path, key), errors);
        }
    }
    let missing = checks.required.iter().filter(|key| !map.contains_key(*key));
    errors.extend(missing.map(|key| FieldError::required(Place::Member(&path, key), "")));
}

fn junctors(checks: &Checks, value: &Value, path: Place<'_>, errors: &mut Found) {
    let attempt = |schema: &Structural| {
        let mut found = Found::default();
        node(schema, value, None, path, &mut found);
        found
    };
    let failed = |why: String| FieldError::invalid("<nil>", "", why);
    let best = |attempts: Vec<Found>| {
        let best = attempts.into_iter().min_by_key(Found::len);
        best.unwrap_or_default().into_iter()
    };
    let quoted = || format!("{:?}", path.to_string());
    if !checks.any_of.is_empty() {
        let attempts: Vec<Found> = checks.any_of.iter().map(attempt).collect();
        if attempts.iter().all(|a| !a.is_empty()) {
            errors.push(failed(format!(
                "{} must validate at least one schema (anyOf)",
                quoted()
            )));
            errors.extend(best(attempts));
        }
    }
    if !checks.one_of.is_empty() {
        let attempts: Vec<Found> = checks.one_of.iter().map(attempt).collect();
        let valid = attempts.iter().filter(|a| a.is_empty()).count();
        let one = || format!("{} must validate one and only one schema (oneOf).", quoted());
        match valid {
            0 => {
                errors.push(failed(format!("{} Found none valid", one())));
                errors.extend(best(attempts));
            }
            1 => {}
            several => errors.push(failed(format!("{} Found {several} valid alternatives", one()))),
        }
    }
    let all: Vec<Found> = checks.all_of.iter().map(attempt).collect();
    if all.iter().any(|a| !a.is_empty()) {
        errors.extend(all.into_iter().flatten());
        errors.push(failed(format!(
            "{} must validate all the schemas (allOf)",
            quoted()
        )));
    }
    if let Some(not) = &checks.not
        && attempt(not).is_empty()
    {
        errors.push(failed(format!("{} must not validate the schema (not)", quoted())));
    }
}

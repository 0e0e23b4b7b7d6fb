//! Requests and limits.
use serde_json::Value;

use super::{NOT_NEGATIVE, complain};
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::names;
use crate::kinds::quantity::Quantity;
use crate::kinds::view::View;

const STANDARD: [&str; 3] = ["cpu", "ephemeral-storage", "memory"];

fn amount(list: &Value, name: &str) -> Option<Quantity> {
    Quantity::parse(list.get(name)?.as_str()?).ok()
}

/// Requests and limits of a container at `path`.
pub(super) fn requirements(resources: &Value, path: &str) -> FieldErrors {
    let (limits, requests) = (resources.at("limits"), resources.at("requests"));
    let mut errors = Vec::new();
    for name in names_of(limits) {
        errors.extend(entry(limits, name, &format!("{path}.limits[{name}]")));
    }
    for name in names_of(requests) {
        errors.extend(entry(requests, name, &format!("{path}.requests[{name}]")));
        errors.extend(against_limit(limits, requests, name, path));
    }
    errors
}

fn names_of(list: &Value) -> Vec<&str> {
    list.as_object()
        .map_or_else(Vec::new, |l| l.keys().map(String::as_str).collect())
}

fn entry(list: &Value, name: &str, path: &str) -> FieldErrors {
    let mut errors = complain(path, name, names::qualified(name));
    if errors.is_empty()
        && !name.contains('/')
        && !STANDARD.contains(&name)
        && !name.starts_with("hugepages-")
    {
        errors.push(FieldError::invalid(
            path,
            name,
            "must be a standard resource for containers",
        ));
    }
    let Some(quantity) = amount(list, name) else {
        return errors;
    };
    if quantity.is_negative() {
        errors.push(FieldError::invalid(path, quantity.to_string(), NOT_NEGATIVE));
    }
    if is_whole(name) && !quantity.is_integer() {
        errors.push(FieldError::invalid(
            path,
            quantity.to_string(),
            "must be an integer",
        ));
    }
    errors
}

/// Resources counted in pieces: devices and other extended resources.
fn is_whole(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/")
}

/// Whether more may be asked for in all than a node has.
fn overcommits(name: &str) -> bool {
    !is_whole(name) && !name.starts_with("hugepages-")
}

fn against_limit(limits: &Value, requests: &Value, name: &str, path: &str) -> Option<FieldError> {
    let request = amount(requests, name)?;
    let at = format!("{path}.requests");
    match amount(limits, name) {
        Some(limit) if !overcommits(name) && request.nanos() != limit.nanos() => Some(FieldError::invalid(
            at,
            request.to_string(),
            format!("must be equal to {name} limit of {limit}"),
        )),
        Some(limit) if request > limit => {
            let detail = format!("must be less than or equal to {name} limit of {limit}");
            Some(FieldError::invalid(at, request.to_string(), detail))
        }
        None if !overcommits(name) => {
            let detail = "Limit must be set for non overcommitable resources";
            Some(FieldError::required(format!("{path}.limits"), detail))
        }
        _ => None,
    }
}

/// Requests and limits of the Pod as a whole. KEP-2837.
pub(super) fn pod_level(spec: &Value, path: &str) -> FieldErrors {
    let resources = spec.at("resources");
    if resources.is_null() {
        return Vec::new();
    }
    let at = format!("{path}.resources");
    let mut errors = Vec::new();
    if resources.has("claims") {
        let detail = "claims cannot be set for Resources at pod-level";
        errors.push(FieldError::forbidden(format!("{at}.claims"), detail));
    }
    errors.extend(requirements(resources, &at));
    for name in STANDARD {
        errors.extend(at_least_the_sum(spec, name, &at));
    }
    errors
}

fn at_least_the_sum(spec: &Value, name: &str, path: &str) -> Option<FieldError> {
    let own = amount(spec.at("resources.requests"), name)?;
    let asked = spec
        .list("containers")
        .iter()
        .filter_map(|c| amount(c.at("resources.requests"), name));
    let sum = asked.reduce(Quantity::plus)?;
    let detail = format!("must be greater than or equal to aggregate container requests of {sum}");
    (sum > own).then(|| FieldError::invalid(format!("{path}.requests[{name}]"), own.to_string(), detail))
}

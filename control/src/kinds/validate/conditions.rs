//! Conditions as `meta/v1` has them, and the plainer ones of older kinds.
use serde_json::Value;

use super::{Seen, complain};
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::names;
use crate::kinds::view::View;

const STATUSES: [&str; 3] = ["False", "True", "Unknown"];
const REASON: &str = "a condition reason must start with alphabetic character, optionally followed by a string of \
    alphanumeric characters or '_,:', and must end with an alphanumeric character or '_' (e.g. 'my_name',  or \
    'MY_NAME',  or 'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for validation is \
    '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')";
/// Bytes.
const LONGEST_REASON: usize = 1024;
const LONGEST_MESSAGE: usize = 32 * 1024;

/// A list of `meta/v1` conditions.
pub(in crate::kinds) fn all(conditions: &[Value], path: &str) -> FieldErrors {
    let (mut errors, mut seen) = (Vec::new(), Seen::default());
    for (i, condition) in conditions.iter().enumerate() {
        let at = format!("{path}[{i}]");
        let kind = condition.text("type");
        if seen.again(kind) {
            errors.push(FieldError::duplicate(format!("{at}.type"), kind));
        }
        errors.extend(one(condition, &at));
    }
    errors
}

fn one(condition: &Value, path: &str) -> FieldErrors {
    let kind = condition.text("type");
    let mut errors = complain(format_args!("{path}.type"), kind, names::qualified(kind));
    let status = condition.text("status");
    if !STATUSES.contains(&status) {
        let at = format!("{path}.status");
        errors.push(FieldError::not_supported(at, status, &STATUSES));
    }
    if let Some(seen) = condition.int("observedGeneration").filter(|n| *n < 0) {
        let detail = "must be greater than or equal to zero";
        errors.push(FieldError::invalid(
            format!("{path}.observedGeneration"),
            seen,
            detail,
        ));
    }
    if !condition.has("lastTransitionTime") {
        errors.push(FieldError::required(format!("{path}.lastTransitionTime"), ""));
    }
    errors.extend(reason(condition.text("reason"), &format!("{path}.reason")));
    if condition.text("message").len() > LONGEST_MESSAGE {
        errors.push(FieldError::too_long(format!("{path}.message"), LONGEST_MESSAGE));
    }
    errors
}

fn reason(reason: &str, path: &str) -> FieldErrors {
    if reason.is_empty() {
        return vec![FieldError::required(path, "")];
    }
    let mut errors = Vec::new();
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ',' | ':');
    let ends = reason.starts_with(|c: char| c.is_ascii_alphabetic())
        && reason.ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    if !ends || !reason.chars().all(good) {
        errors.push(FieldError::invalid(path, reason, REASON));
    }
    if reason.len() > LONGEST_REASON {
        errors.push(FieldError::too_long(path, LONGEST_REASON));
    }
    errors
}

/// Conditions of which only the type is judged: it is there, and once.
pub(super) fn typed(conditions: &[Value], path: &str) -> FieldErrors {
    let (mut errors, mut seen) = (Vec::new(), Seen::default());
    for (i, condition) in conditions.iter().enumerate() {
        let (at, kind) = (format!("{path}[{i}].type"), condition.text("type"));
        if seen.again(kind) {
            errors.push(FieldError::duplicate(at.as_str(), kind));
        }
        if kind.is_empty() {
            errors.push(FieldError::required(at, ""));
        }
    }
    errors
}

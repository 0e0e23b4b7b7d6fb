//! Events of both versions.
use serde_json::Value;

use super::{complain, immutable, present};
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::names;
use crate::kinds::view::View;

/// Namespace whose events old clients leave without one.
const DEFAULT_NAMESPACE: &str = "default";
/// Bytes of the fields a new-style Event must have, and of its note.
const MAX_FIELD: usize = 128;
const MAX_NOTE: usize = 1024;

/// A core Event.
pub fn core(event: &Value) -> FieldErrors {
    let (own, involved) = (
        event.text("metadata.namespace"),
        event.text("involvedObject.namespace"),
    );
    let mismatch = match involved {
        "" => !own.is_empty() && own != DEFAULT_NAMESPACE,
        involved => involved != own,
    };
    let mut errors = Vec::new();
    if mismatch {
        let detail = "does not match event.namespace";
        errors.push(FieldError::invalid("involvedObject.namespace", involved, detail));
    }
    if event.has("eventTime") {
        errors.extend(new_style(
            event,
            "reportingComponent",
            "reportingController",
            "message",
        ));
    }
    errors
}

pub fn core_update(_: Option<&str>, new: &Value, _: &Value) -> FieldErrors {
    core(new)
}

/// An `events.k8s.io` Event.
pub fn new(event: &Value) -> FieldErrors {
    let mut errors = Vec::new();
    if !event.has("eventTime") {
        errors.push(FieldError::required("eventTime", ""));
    }
    errors.extend(new_style(
        event,
        "reportingController",
        "reportingController",
        "note",
    ));
    if !["Normal", "Warning"].contains(&event.text("type")) {
        errors.push(FieldError::invalid(
            "type",
            "",
            format!("has invalid value: {}", event.text("type")),
        ));
    }
    for key in [
        "deprecatedCount",
        "deprecatedFirstTimestamp",
        "deprecatedLastTimestamp",
    ] {
        if event.has(key) {
            errors.push(FieldError::invalid(
                key.trim_start_matches("deprecated"),
                "",
                "needs to be unset",
            ));
        }
    }
    errors
}

/// Fields every Event with an event time has.
fn new_style(event: &Value, controller: &str, shown: &str, note: &str) -> FieldErrors {
    let mut errors = Vec::new();
    match event.text(controller) {
        "" => errors.push(FieldError::required(shown, "")),
        name => errors.extend(complain(shown, name, names::qualified(name))),
    }
    for key in ["reportingInstance", "action", "reason"] {
        errors.extend(present(event, key, "").map(|e| FieldError {
            field: key.to_owned(),
            ..e
        }));
        if event.text(key).len() > MAX_FIELD {
            errors.push(FieldError::invalid(
                key,
                "",
                format!("can have at most {MAX_FIELD} characters"),
            ));
        }
    }
    if event.text(note).len() > MAX_NOTE {
        errors.push(FieldError::invalid(
            note,
            "",
            format!("can have at most {MAX_NOTE} characters"),
        ));
    }
    errors
}

/// Of an `events.k8s.io` Event only the series moves on.
pub fn new_update(_: Option<&str>, new: &Value, old: &Value) -> FieldErrors {
    let fixed = [
        "regarding",
        "related",
        "reason",
        "action",
        "eventTime",
        "reportingController",
        "reportingInstance",
        "note",
        "type",
    ];
    fixed.iter().filter_map(|key| immutable(new, old, key)).collect()
}

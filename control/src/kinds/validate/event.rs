//! Events of both versions.
use serde_json::Value;

use super::{IMMUTABLE, complain, present};
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::view::View;

/// Namespace whose events old clients leave without one.
const DEFAULT_NAMESPACE: &str = "default";
/// Bytes of the fields a new-style Event must have, and of its note.
const MAX_FIELD: usize = 128;
const MAX_NOTE: usize = 1024;
/// Namespace of events about what has none.
const SYSTEM_NAMESPACE: &str = "kube-system";
/// What an update of an `events.k8s.io` Event keeps, and what the core calls it.
const FIXED: [(&str, &str); 9] = [
    ("regarding", "involvedObject"),
    ("reason", "reason"),
    ("note", "message"),
    ("type", "type"),
    ("eventTime", "eventTime"),
    ("action", "action"),
    ("related", "related"),
    ("reportingController", "reportingController"),
    ("reportingInstance", "reportingInstance"),
];

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
        return new_style(event, &CORE);
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
    errors.extend(new_style(event, &NEW));
    errors.extend(series(event));
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

/// What a version calls the parts of an Event.
struct Names {
    about: &'static str,
    controller: &'static str,
    note: &'static str,
}

const CORE: Names = Names {
    about: "involvedObject",
    controller: "reportingComponent",
    note: "message",
};
const NEW: Names = Names {
    about: "regarding",
    controller: "reportingController",
    note: "note",
};

fn series(event: &Value) -> FieldErrors {
    let (series, mut errors) = (event.at("series"), Vec::new());
    if !series.is_object() {
        return errors;
    }
    if series.int("count").unwrap_or(0) < 2 {
        errors.push(FieldError::invalid("series.count", "", "should be at least 2"));
    }
    if !series.has("lastObservedTime") {
        errors.push(FieldError::required("series.lastObservedTime", ""));
    }
    errors
}

/// Fields every Event with an event time has. In errors they have the names of the core's.
fn new_style(event: &Value, names: &Names) -> FieldErrors {
    let mut errors = Vec::new();
    let own = event.text("metadata.namespace");
    let about = event.at(names.about).text("namespace");
    if about.is_empty() && ![DEFAULT_NAMESPACE, SYSTEM_NAMESPACE].contains(&own) {
        let detail = "does not match event.namespace";
        errors.push(FieldError::invalid("involvedObject.namespace", about, detail));
    }
    let (shown, name) = (names.controller, event.text(names.controller));
    if name.is_empty() {
        errors.push(FieldError::required(shown, ""));
    }
    errors.extend(complain(shown, name, crate::kinds::names::qualified(name)));
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
    if event.text(names.note).len() > MAX_NOTE {
        errors.push(FieldError::invalid(
            CORE.note,
            "",
            format!("can have at most {MAX_NOTE} characters"),
        ));
    }
    errors
}

/// Of an `events.k8s.io` Event only the series moves on.
pub fn new_update(_: Option<&str>, new: &Value, old: &Value) -> FieldErrors {
    let mut errors = new_style(new, &NEW);
    if new.at("series") != old.at("series") {
        errors.extend(series(new));
    }
    for (key, shown) in FIXED.into_iter().filter(|(key, _)| new.at(key) != old.at(key)) {
        let now = match new.at(key) {
            Value::Null if !["regarding", "related", "eventTime"].contains(&key) => Value::from(""),
            now => now.clone(),
        };
        errors.push(FieldError::invalid(shown, now, IMMUTABLE));
    }
    errors
}

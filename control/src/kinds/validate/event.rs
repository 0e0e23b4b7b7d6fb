//! Events of both versions.
use serde_json::Value;

use super::{IMMUTABLE, complain, present};
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::meta;
use crate::kinds::names::NameRule;
use crate::kinds::view::View;

/// Namespace whose events old clients leave without one.
const DEFAULT_NAMESPACE: &str = "default";
/// Bytes of the fields a new-style Event must have, and of its note.
const MAX_FIELD: usize = 128;
const MAX_NOTE: usize = 1024;
/// Namespace of events about what has none.
const SYSTEM_NAMESPACE: &str = "kube-system";
/// What an `events.k8s.io` Event has of the old form only, and what the core calls it.
const OLD: [(&str, &str); 4] = [
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
    ("deprecatedSource", "source"),
];
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
    either(event, &CORE)
}

/// What is asked of an Event of either version (upstream's `legacyValidateEvent`).
fn either(event: &Value, names: &Names) -> FieldErrors {
    if event.has("eventTime") {
        return new_style(event, names);
    }
    let own = event.text("metadata.namespace");
    let involved = event.at(names.about).text("namespace");
    let mismatch = match involved {
        "" => !own.is_empty() && own != DEFAULT_NAMESPACE,
        involved => involved != own,
    };
    match mismatch {
        true => vec![mismatched(involved)],
        false => Vec::new(),
    }
}

pub fn core_update(_: Option<&str>, new: &Value, _: &Value) -> FieldErrors {
    core(new)
}

/// An `events.k8s.io` Event, its metadata too.
pub fn new(event: &Value) -> FieldErrors {
    let mut errors = either(event, &NEW);
    errors.extend(meta::validate(event, true, NameRule::Subdomain));
    errors.extend(meta::foreign_finalizers(event));
    errors.extend(series(event));
    if !event.has("eventTime") {
        errors.push(FieldError::required("eventTime", ""));
    }
    if !["Normal", "Warning"].contains(&event.text("type")) {
        errors.push(FieldError::invalid(
            "type",
            "",
            format!("has invalid value: {}", event.text("type")),
        ));
    }
    let said = |(key, _): &(&str, &str)| match event.at(key) {
        Value::Object(source) => source.values().any(|text| text != ""),
        value => !value.is_null() && *value != 0,
    };
    let old = OLD.into_iter().filter(said);
    errors.extend(old.map(|(_, shown)| FieldError::invalid(shown, "", "needs to be unset")));
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

fn mismatched(namespace: &str) -> FieldError {
    FieldError::invalid(
        "involvedObject.namespace",
        namespace,
        "does not match event.namespace",
    )
}

/// Fields every Event with an event time has. In errors they have the names of the core's.
fn new_style(event: &Value, names: &Names) -> FieldErrors {
    let mut errors = Vec::new();
    let own = event.text("metadata.namespace");
    let about = event.at(names.about).text("namespace");
    if about.is_empty() && ![DEFAULT_NAMESPACE, SYSTEM_NAMESPACE].contains(&own) {
        errors.push(mismatched(about));
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
    let mut errors = either(new, &NEW);
    errors.extend(meta::validate_update(new, old));
    errors.extend(meta::foreign_finalizers(new));
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::kinds::Registry;

    /// Upstream's order, and that metadata of a core Event is looked at when nothing else is wrong.
    #[test]
    fn metadata_is_judged_where_upstream_does() {
        let labels = json!({"bad key": ""});
        let core = json!({"metadata": {"name": "Up", "namespace": "a", "labels": labels}, "involvedObject": {"namespace": "b"}});
        let mut good = core.clone();
        good["involvedObject"]["namespace"] = "a".into();
        let mut named = good.clone();
        named["metadata"]["labels"] = json!({});
        let mut slashed = named.clone();
        slashed["metadata"]["name"] = "a/b".into();
        let new = json!({"metadata": {"name": "Up", "namespace": "a"}, "regarding": {"namespace": "b"}, "type": "Odd",
            "series": {"count": 1}, "deprecatedCount": 2, "deprecatedSource": {"host": "h"},
            "deprecatedFirstTimestamp": "2023-11-14T22:13:20Z"});
        for (group, event, fields) in [
            ("", &core, &["involvedObject.namespace"][..]),
            ("", &good, &["metadata.labels"]),
            ("", &named, &[]),
            ("", &slashed, &["metadata.name"]),
            (
                "events.k8s.io",
                &new,
                &[
                    "involvedObject.namespace",
                    "metadata.name",
                    "series.count",
                    "series.lastObservedTime",
                    "eventTime",
                    "type",
                    "firstTimestamp",
                    "count",
                    "source",
                ],
            ),
        ] {
            let kind = Registry::builtin().resource(group, "v1", "events").unwrap();
            let errors = kind.validate_create(event);
            let found: Vec<&str> = errors.iter().map(|error| error.field.as_str()).collect();
            assert_eq!(found, fields, "{event}");
        }
    }
}

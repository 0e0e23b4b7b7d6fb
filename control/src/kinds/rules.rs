//! What a kind brings of its own: a row of functions, with a default for each that does nothing.
//!
//! Owns the shape of a row. The functions live with their subject (`defaults`, `prepare`, `validate`, …).
use jiff::Timestamp;
use serde_json::Value;

use super::error::FieldErrors;
use super::names::NameRule;

/// Hand-written behaviour of a kind.
#[derive(Debug)]
pub(super) struct Rules {
    /// How `metadata.name` is checked.
    pub name_rule: NameRule,
    /// Whether `metadata.generation` counts changes.
    pub generation: bool,
    pub default: fn(&mut Value),
    pub prepare_create: fn(&mut Value),
    pub prepare_update: fn(Option<&str>, &mut Value, &Value),
    /// Whether the desired state differs, so that the generation grows.
    pub desired_changed: fn(&Value, &Value) -> bool,
    pub validate_create: fn(&Value) -> FieldErrors,
    pub validate_update: fn(Option<&str>, &Value, &Value) -> FieldErrors,
    /// The cells after the name, without the age when the table ends in one; `None` for a generic row.
    pub row: Option<fn(&Value, Timestamp) -> Vec<Value>>,
    pub selectable: fn(&Value) -> Vec<(String, String)>,
    pub to_storage: fn(&mut Value),
    pub from_storage: fn(&mut Value),
    pub stored_as_served: bool,
}

impl Rules {
    /// The row of a kind that brings nothing of its own.
    pub const PLAIN: Rules = Rules {
        name_rule: NameRule::Subdomain,
        generation: false,
        default: |_| {},
        prepare_create: |_| {},
        prepare_update: |_, _, _| {},
        desired_changed: spec_changed,
        validate_create: |_| Vec::new(),
        validate_update: |_, _, _| Vec::new(),
        row: None,
        selectable: |_| Vec::new(),
        to_storage: |_| {},
        from_storage: |_| {},
        stored_as_served: true,
    };
}

fn spec_changed(new: &Value, old: &Value) -> bool {
    new.get("spec") != old.get("spec")
}

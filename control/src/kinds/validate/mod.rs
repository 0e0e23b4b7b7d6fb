//! Validation: what makes an object of a served kind invalid, in Kubernetes' words and order.
//!
//! One module per subject; every function takes the value and its path and returns all complaints. Metadata common to
//! all kinds is `meta`'s.
mod address;
pub(super) mod apps;
pub(super) mod certificates;
pub(super) mod cluster;
pub(super) mod conditions;
pub(super) mod config;
mod container;
pub(super) mod cron_job;
pub(super) mod devices;
mod env;
pub(super) mod event;
mod indexes;
pub(super) mod ingress;
pub(super) mod job;
mod job_policy;
mod job_status;
pub(super) mod job_update;
mod lifecycle;
mod mandatory;
mod mounts;
pub(super) mod network;
pub(super) mod network_policy;
pub(super) mod node;
mod old_volume_sources;
mod pem;
pub(super) mod pod;
mod pod_annotations;
#[cfg(test)]
mod pod_tests;
pub(super) mod pod_update;
pub(super) mod policy;
mod projected;
pub(super) mod quota;
pub(super) mod rbac;
mod resize;
mod resources;
mod restarts;
pub(super) mod scaling;
mod scheduling;
mod security;
pub(super) mod service;
pub(super) mod service_addresses;
pub(super) mod sets;
pub(super) mod storage;
pub(super) mod storage_api;
#[cfg(test)]
mod tests;
mod volume_affinity;
mod volume_sources;
mod volumes;
pub(super) mod webhooks;
mod windows;

pub(super) use security::app_armor_errors;
use std::collections::HashSet;
use std::fmt::Display;

use serde_json::Value;

use address::{cidr, ip};

use super::error::{FieldError, FieldErrors};
use super::names;
use super::view::View;

pub(super) const NOT_NEGATIVE: &str = "must be greater than or equal to 0";
pub(super) const IMMUTABLE: &str = "field is immutable";
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];

/// Complaints about a text, as errors of the field at `path`. Most fields are good: only of others the path becomes a text.
fn complain(path: impl Display, value: &str, complaints: Vec<String>) -> FieldErrors {
    complaints
        .into_iter()
        .map(|message| FieldError::invalid(path.to_string(), value, message))
        .collect()
}

/// Complaints about a number, as errors of the field at `path`.
fn complain_number(path: impl Display, value: i64, complaints: Vec<String>) -> FieldErrors {
    complaints
        .into_iter()
        .map(|message| FieldError::invalid(path.to_string(), value, message))
        .collect()
}

/// A number that may be missing but not negative.
fn not_negative(object: &Value, key: &str, path: impl Display + Copy) -> Option<FieldError> {
    let value = object.int(key).filter(|n| *n < 0)?;
    Some(FieldError::invalid(format!("{path}.{key}"), value, NOT_NEGATIVE))
}

/// A text that must be one of `supported`; empty is told as missing.
fn one_of(path: impl Display, value: &str, supported: &[&str]) -> Option<FieldError> {
    match value {
        "" => Some(FieldError::required(path.to_string(), "")),
        value if supported.contains(&value) => None,
        value => Some(FieldError::not_supported(path.to_string(), value, supported)),
    }
}

/// A text that may be missing, else one of `supported`.
fn maybe_one_of(
    object: &Value,
    key: &str,
    path: impl Display + Copy,
    supported: &[&str],
) -> Option<FieldError> {
    let value = object.at(key).as_str()?;
    (!supported.contains(&value))
        .then(|| FieldError::not_supported(format!("{path}.{key}"), value, supported))
}

/// A text that must not be empty.
fn present(object: &Value, key: &str, path: impl Display + Copy) -> Option<FieldError> {
    object
        .text(key)
        .is_empty()
        .then(|| FieldError::required(format!("{path}.{key}"), ""))
}

/// The members that two objects do not have alike, before and after, a line each.
fn changed_members(before: &Value, after: &Value) -> String {
    let empty = serde_json::Map::new();
    let (before, after) = (
        before.as_object().unwrap_or(&empty),
        after.as_object().unwrap_or(&empty),
    );
    let mut keys: Vec<&String> = before.keys().chain(after.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    let mut lines = String::new();
    for key in keys.into_iter().filter(|k| before.get(*k) != after.get(*k)) {
        for (sign, side) in [('-', before), ('+', after)] {
            let value = side.get(key).map_or_else(|| "null".to_owned(), Value::to_string);
            lines.push_str(&format!("{sign} {key}: {value}\n"));
        }
    }
    lines
}

/// A field that an update may not change.
fn immutable(new: &Value, old: &Value, path: &str) -> Option<FieldError> {
    (new.at(path) != old.at(path)).then(|| FieldError::invalid(path, new.at(path).clone(), IMMUTABLE))
}

/// The metadata of an object that is made from a template: labels and annotations, and nothing else.
fn meta_of_template(meta: &Value, path: impl Display + Copy) -> FieldErrors {
    let mut errors =
        crate::kinds::meta::annotations(meta.at("annotations"), format_args!("{path}.annotations"));
    errors.extend(crate::kinds::meta::labels(
        meta.at("labels"),
        format_args!("{path}.labels"),
    ));
    let others = meta.as_object().into_iter().flatten();
    let others =
        others.filter(|(key, value)| !["annotations", "labels"].contains(&key.as_str()) && !value.is_null());
    errors.extend(others.map(|(key, _)| FieldError::forbidden(format!("{path}.{key}"), "cannot be set")));
    errors
}

/// A port by number or by name.
fn port(path: impl Display, value: &Value) -> FieldErrors {
    match value {
        Value::String(name) => complain(path, name, names::port_name(name)),
        number => {
            let number = number.as_i64().unwrap_or(0);
            complain_number(path, number, names::port_number(number))
        }
    }
}

/// Remembers what was there before, so that long lists are checked in one pass.
#[derive(Debug, Default)]
struct Seen(HashSet<String>);

impl Seen {
    /// Whether this value came before.
    fn again(&mut self, value: impl Into<String>) -> bool {
        !self.0.insert(value.into())
    }
}

/// Values seen twice, each told at its later place.
fn duplicates<'a>(values: impl Iterator<Item = (String, &'a str)>) -> FieldErrors {
    let mut seen = Seen::default();
    values
        .filter_map(|(path, value)| seen.again(value).then(|| FieldError::duplicate(path, value)))
        .collect()
}

/// A path below some root: relative, and never upwards.
fn descending(path: impl Display + Copy, value: &str) -> FieldErrors {
    let mut errors = Vec::new();
    if value.starts_with('/') {
        errors.push(FieldError::invalid(path, value, "must be a relative path"));
    }
    errors.extend(no_backsteps(path, value));
    errors
}

fn no_backsteps(path: impl Display + Copy, value: &str) -> Option<FieldError> {
    let back = value.split('/').any(|part| part == "..");
    back.then(|| FieldError::invalid(path, value, "must not contain '..'"))
}

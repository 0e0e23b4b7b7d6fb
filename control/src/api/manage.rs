//! Field ownership at the edge of the API: who the manager is, and on which path.
//!
//! Refuses to know the rules; those are `kinds::managed`.
use super::Call;
use super::decode;
use super::negotiate::{self, PatchType};
use super::others::{settled, versions};
use super::query::Query;
use super::status::{ApiError, Result};
use crate::kinds::managed::{self, ApplyError, Convert, Operation, Rescaling, Writer};
use crate::kinds::view::View;
use crate::kinds::{FieldError, FieldErrors, Kind, posted, scale, time};
use serde_json::Value;

/// Upstream's `FieldManagerMaxLength`.
const NAME_LENGTH: usize = 128;
/// Set by way of another object, or without a trace.
const SCALE: &str = "scale";
const BINDING: &str = "binding";
const EVICTION: &str = "eviction";

/// What is wrong with the manager's name in the query.
pub fn check_name(query: &Query) -> FieldErrors {
    let name = query.get("fieldManager").unwrap_or_default();
    if name.len() > NAME_LENGTH {
        return vec![FieldError::too_long("fieldManager", NAME_LENGTH)];
    }
    let control = name.chars().enumerate().find(|(_, c)| c.is_control());
    let complain = |(at, c): (usize, char)| {
        let why = format!("invalid character U+{:04X} (at position {at})", u32::from(c));
        FieldError::invalid("fieldManager", name, why)
    };
    control.map(complain).into_iter().collect()
}

/// The manager that the query names, else the program that the user agent begins with.
fn name(call: &Call) -> String {
    if let Some(name) = call.query.get("fieldManager") {
        return name.to_owned();
    }
    let agent = call
        .headers
        .get(http::header::USER_AGENT)
        .and_then(|v| v.to_str().ok());
    let program = agent.unwrap_or_default().split('/').next().unwrap_or_default();
    program
        .chars()
        .filter(|c| !c.is_control())
        .take(NAME_LENGTH)
        .collect()
}

/// As [`note`] for a new object that nobody is shown before it is stored: as text beside it, where it is that plain.
pub async fn note_unseen(call: &Call, new: &mut Value) -> Option<String> {
    let (name, now) = (name(call), time::now());
    let writer = Writer {
        name: &name,
        subresource: call.target.subresource.as_deref().unwrap_or_default(),
        now: &now,
    };
    let owners = managed::first(&call.target.kind, writer, new);
    if owners.is_none() {
        note(call, None, new).await;
    }
    owners
}

/// Notes who owns what of an object that is about to be stored. It has its defaults; `old` is what it replaces.
pub async fn note(call: &Call, old: Option<&Value>, new: &mut Value) {
    let kind = &call.target.kind;
    let subresource = call.target.subresource.as_deref().unwrap_or_default();
    let name = name(call);
    match (subresource, old) {
        (BINDING | EVICTION, _) => {}
        (SCALE, Some(old)) => rescaled(call, &name, old, new),
        _ => {
            let now = time::now();
            let writer = Writer {
                name: &name,
                subresource,
                now: &now,
            };
            if kind.converter().is_none() {
                return managed::update(kind, writer, old, new, &versions(call));
            }
            let noted = settled(call, || {
                let mut noted = new.clone();
                managed::update(kind, writer, old, &mut noted, &versions(call));
                noted
            });
            match noted.await {
                Ok(noted) => *new = noted,
                Err(error) => forget(new, &error),
            }
        }
    }
}

/// Notes on what was posted below an object, which is stored nowhere, who posted it.
pub fn note_posted(call: &Call, kind: &Kind, posted: &mut Value) {
    let (name, now) = (name(call), time::now());
    let writer = Writer {
        name: &name,
        subresource: call.target.subresource.as_deref().unwrap_or_default(),
        now: &now,
    };
    managed::update(kind, writer, None, posted, &versions(call));
}

/// As upstream does: who owns what cannot be known while the converter fails, and the write does not fail for it.
fn forget(object: &mut Value, error: &ApiError) {
    tracing::warn!(
        error = error.message(),
        "nobody owns the fields of an object any more"
    );
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("managedFields");
    }
}

fn rescaled(call: &Call, name: &str, old: &Value, new: &mut Value) {
    let paths = call.target.kind.scale_paths();
    let applies = negotiate::patch(&call.headers).is_ok_and(|patch| patch == PatchType::Apply);
    let rescaling = Rescaling {
        writer: name,
        operation: if applies {
            Operation::Apply
        } else {
            Operation::Update
        },
        version: &call.target.kind.api_version(),
        path: paths.map(|paths| paths.spec_replicas.as_slice()),
        says: !applies || decode::config(&call.body).is_ok_and(|config| says_replicas(&config.value)),
        changes: scale::replicas(old, paths) != scale::replicas(new, paths),
    };
    let before = &old["metadata"]["managedFields"];
    if let Some(entries) = managed::rescaled(before, &rescaling) {
        new["metadata"]["managedFields"] = entries;
    }
}

fn says_replicas(scale: &Value) -> bool {
    scale.at("spec").has("replicas")
}

/// Whether an applied configuration is a Scale, and may have its replicas. Answers whether it takes back those that its
/// manager alone has applied.
pub fn check_scale(call: &Call, object: &Value, config: &Value) -> Result<bool> {
    check_config(&posted::SCALE, config)?;
    managed::fits(&posted::SCALE, config).map_err(refusal)?;
    let paths = call.target.kind.scale_paths();
    let rescaling = Rescaling {
        writer: &name(call),
        operation: Operation::Apply,
        version: &call.target.kind.api_version(),
        path: paths.map(|paths| paths.spec_replicas.as_slice()),
        says: says_replicas(config),
        changes: scale::replicas(object, paths) != scale::replicas(config, None),
    };
    let entries = &object["metadata"]["managedFields"];
    let conflicts = managed::scale_conflicts(entries, &rescaling);
    match conflicts.is_empty() || call.query.flag("force") {
        true => Ok(managed::scale_given_up(entries, &rescaling)),
        false => Err(ApiError::apply_conflict(&conflicts, conflicts.len())),
    }
}

/// Keeps the entries of `old` where nothing but their times would change, so that a write that changes nothing is none.
pub fn settle(old: &Value, new: &mut Value) {
    let (before, after) = (
        &old["metadata"]["managedFields"],
        &new["metadata"]["managedFields"],
    );
    if before == after || !managed::same_but_times(before, after) {
        return;
    }
    let mut quiet = new.clone();
    quiet["metadata"]["managedFields"] = before.clone();
    let version = &old["metadata"]["resourceVersion"];
    quiet["metadata"]["resourceVersion"] = version.clone();
    if quiet == *old {
        new["metadata"]["managedFields"] = before.clone();
    }
}

/// The query of an apply: its manager must have a name, and it alone may be forced.
pub fn check_apply(query: &Query, applies: bool) -> Result<()> {
    let mut errors = Vec::new();
    if applies && query.get("fieldManager").is_none() {
        errors.push(FieldError::required(
            "fieldManager",
            "is required for apply patch",
        ));
    }
    if !applies && query.tristate("force").is_some() {
        errors.push(FieldError::forbidden(
            "force",
            "may not be specified for non-apply patch",
        ));
    }
    match errors.is_empty() {
        true => Ok(()),
        false => Err(ApiError::invalid_options("PatchOptions", &errors)),
    }
}

/// What applying `config` makes of the object; none is there yet when `old` is none.
pub fn apply(call: &Call, old: Option<&Value>, config: &Value) -> Result<Value> {
    let kind = &call.target.kind;
    check_config(kind, config)?;
    let (name, now) = (name(call), time::now());
    let writer = Writer {
        name: &name,
        subresource: call.target.subresource.as_deref().unwrap_or_default(),
        now: &now,
    };
    let convert = versions(call);
    let convert: &Convert<'_> = &convert;
    let applied = managed::apply(kind, writer, call.query.flag("force"), old, config, convert);
    applied.map_err(refusal)
}

fn refusal(error: ApplyError) -> ApiError {
    match error {
        ApplyError::Conflicts(told, count) => ApiError::apply_conflict(&told, count),
        other => ApiError::bad_request(other.to_string()),
    }
}

/// An applied configuration says of which kind and version it is, and not who owns what.
fn check_config(kind: &Kind, config: &Value) -> Result<()> {
    right_kind(kind, config)?;
    match config["metadata"]["managedFields"].is_null() {
        true => Ok(()),
        false => Err(ApiError::bad_request("metadata.managedFields must be nil")),
    }
}

fn right_kind(kind: &Kind, config: &Value) -> Result<()> {
    let text = |key: &str| config[key].as_str().unwrap_or_default();
    let (group, version) = match text("apiVersion") {
        "" => ("", ""),
        both => both.split_once('/').unwrap_or(("", both)),
    };
    if (group, version, text("kind")) == (&kind.group, &kind.version, &kind.kind) {
        return Ok(());
    }
    Err(ApiError::bad_request(format!(
        "invalid object type: {group}/{version}, Kind={}",
        text("kind")
    )))
}

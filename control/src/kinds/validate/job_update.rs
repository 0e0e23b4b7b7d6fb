//! What an update of a Job may change.
use serde_json::Value;

use super::immutable;
use super::job::{PREFIXED, generated, host_names, selector, spec};
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::view::{View, copy_member};

pub fn update(subresource: Option<&str>, new: &Value, old: &Value) -> FieldErrors {
    if subresource == Some("status") {
        return super::job_status::update(new, old);
    }
    let mut again = spec(new.at("spec"), "spec");
    again.extend(selector(new.at("spec")));
    // Upstream judges it as a new one first, and its spec once more.
    let had = old.at("spec.template.metadata.labels");
    let prefixed = PREFIXED.iter().all(|key| had.get(key).is_some());
    let mut errors = generated(new, prefixed);
    errors.extend(again.clone());
    errors.extend(host_names(new));
    errors.extend(again);
    errors.extend(completions(new, old));
    errors.extend(immutable(new, old, "spec.selector"));
    errors.extend(template(new, old));
    for key in [
        "completionMode",
        "podFailurePolicy",
        "backoffLimitPerIndex",
        "managedBy",
        "successPolicy",
    ] {
        errors.extend(immutable(new, old, &format!("spec.{key}")));
    }
    errors
}

/// An indexed Job grows and shrinks with its parallelism (KEP-3715).
fn completions(new: &Value, old: &Value) -> Option<FieldError> {
    let path = "spec.completions";
    if new.text("spec.completionMode") != "Indexed" {
        return immutable(new, old, path);
    }
    let now = new.int(path)?;
    let apart = new.at(path) != old.at(path) && new.int("spec.parallelism") != Some(now);
    let detail = "can only be modified in tandem with spec.parallelism";
    apart.then(|| FieldError::invalid(path, now, detail))
}

/// The template of a suspended Job that has no Pods may still be moved to other nodes and get other resources
/// (KEP-2926, KEP-5440).
fn template(new: &Value, old: &Value) -> Option<FieldError> {
    let (now, mut before) = (new.at("spec.template"), old.at("spec.template").clone());
    if resting(old) {
        for key in ["nodeSelector", "tolerations", "schedulingGates"] {
            copy_member(&mut before["spec"], now.at("spec"), key);
        }
        before["spec"]["affinity"] = affinity(now.at("spec.affinity"), before.at("spec.affinity"));
        for list in ["containers", "initContainers"] {
            copy_resources(&mut before["spec"], now.at("spec"), list);
        }
    }
    let (path, now, before) = match resting(old) {
        true => ("spec.template.spec", now.at("spec"), before.at("spec")),
        false => ("spec.template", now, &before),
    };
    let same = without_null(now) == without_null(before);
    (!same).then(|| FieldError::invalid(path, now.clone(), super::IMMUTABLE))
}

/// Suspended, and with no Pods of its own.
fn resting(job: &Value) -> bool {
    let mut conditions = job.list("status.conditions").iter();
    let said = conditions.any(|c| c.text("type") == "Suspended" && c.text("status") == "True");
    let never = !job.has("status.startTime");
    job.flag("spec.suspend") && (never || said) && job.int("status.active").unwrap_or(0) == 0
}

/// The resources of containers that have kept their place and name.
fn copy_resources(before: &mut Value, now: &Value, list: &str) {
    let Some(before) = before.get_mut(list).and_then(Value::as_array_mut) else {
        return;
    };
    let now = now.list(list);
    if now.len() == before.len() {
        let pairs = before.iter_mut().zip(now);
        let kept = pairs.filter(|(old, new)| old.text("name") == new.text("name"));
        kept.for_each(|(old, new)| copy_member(old, new, "resources"));
    }
}

/// The old affinity with the new one's nodes.
fn affinity(now: &Value, before: &Value) -> Value {
    let mut merged = before.clone();
    if !merged.is_object() {
        merged = Value::Object(Default::default());
    }
    copy_member(&mut merged, now, "nodeAffinity");
    match merged.as_object().is_some_and(serde_json::Map::is_empty) && !now.is_object() {
        true => Value::Null,
        false => merged,
    }
}

/// What is null, here or in a spec below, is not there.
fn without_null(value: &Value) -> Value {
    let mut value = value.clone();
    for path in ["", "/spec"] {
        if let Some(map) = value.pointer_mut(path).and_then(Value::as_object_mut) {
            map.retain(|_, v| !v.is_null());
        }
    }
    value
}

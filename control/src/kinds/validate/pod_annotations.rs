//! Annotations of Pods that Kubernetes itself reads.
use std::collections::HashSet;

use serde_json::Value;

use super::container;
use super::{Seen, descending, scheduling};
use crate::kinds::app_armor::ANNOTATION as APP_ARMOR;
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::view::View;

const MIRROR: &str = "kubernetes.io/config.mirror";
const TOLERATIONS: &str = "scheduler.alpha.kubernetes.io/tolerations";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";

/// Those of a Pod or a template, whose annotations are told at `path`.
pub(super) fn of(pod: &Value, path: &str) -> FieldErrors {
    let Some(annotations) = pod.map("metadata.annotations") else {
        return Vec::new();
    };
    let text = |key: &str| annotations.get(key).and_then(Value::as_str);
    let mut errors = Vec::new();
    if let Some(value) = text(MIRROR).filter(|_| pod.text("spec.nodeName").is_empty()) {
        let detail = "must set spec.nodeName if mirror pod annotation is set";
        errors.push(FieldError::invalid(format!("{path}[{MIRROR}]"), value, detail));
    }
    if let Some(value) = text(TOLERATIONS).filter(|v| !v.is_empty()) {
        let list: Vec<Value> = serde_json::from_str(value).unwrap_or_default();
        errors.extend(scheduling::tolerations(&list, &format!("{path}.{TOLERATIONS}")));
    }
    let cost = text(DELETION_COST).filter(|c| c.parse::<i32>().is_err() || c.starts_with('+'));
    errors.extend(cost.map(|cost| {
        FieldError::invalid(
            format!("{path}[{DELETION_COST}]"),
            cost,
            "must be a 32bit integer",
        )
    }));
    errors.extend(
        text(SECCOMP_POD)
            .map(|p| seccomp(p, &format!("{path}.{SECCOMP_POD}")))
            .unwrap_or_default(),
    );
    let names: HashSet<&str> = container::all(pod.at("spec"), "")
        .map(|(container, _)| container.text("name"))
        .collect();
    for (key, value) in annotations {
        let value = value.as_str().unwrap_or_default();
        if key.starts_with(SECCOMP_CONTAINER) {
            errors.extend(seccomp(value, &format!("{path}.{key}")));
        }
        if let Some(name) = key.strip_prefix(APP_ARMOR) {
            errors.extend(app_armor(&names, name, value, &format!("{path}[{key}]")));
        }
    }
    errors
}

fn seccomp(profile: &str, path: &str) -> FieldErrors {
    match profile.strip_prefix("localhost/") {
        Some(local) => descending(path, local),
        None if ["runtime/default", "docker/default", "unconfined"].contains(&profile) => Vec::new(),
        None => vec![FieldError::invalid(
            path,
            profile,
            "must be a valid seccomp profile",
        )],
    }
}

fn app_armor(containers: &HashSet<&str>, name: &str, profile: &str, path: &str) -> FieldErrors {
    let mut errors = Vec::new();
    if !containers.contains(name) {
        errors.push(FieldError::invalid(path, name, "container not found"));
    }
    let known = ["", "runtime/default", "unconfined"].contains(&profile) || profile.starts_with("localhost/");
    if !known {
        let detail = format!("invalid AppArmor profile name: \"{profile}\"");
        errors.push(FieldError::invalid(path, profile, detail));
    }
    errors
}

/// What an update may not do to the annotations of a Pod.
pub(super) fn update(new: &Value, old: &Value) -> FieldErrors {
    let all = |pod: &Value| pod.map("metadata.annotations").cloned().unwrap_or_default();
    let (now, before) = (all(new), all(old));
    let kept = |key: &str| key == MIRROR || key.starts_with(APP_ARMOR);
    let what = |key: &str| {
        if key == MIRROR {
            "mirror pod annotation"
        } else {
            "AppArmor annotations"
        }
    };
    let told = |verb: &str, key: &str| {
        let at = format!("metadata.annotations[{key}]");
        FieldError::forbidden(at, format!("may not {verb} {}", what(key)))
    };
    let mut seen = Seen::default();
    let changed = before
        .iter()
        .filter(|(key, value)| now.get(*key) != Some(value) && kept(key));
    let mut errors: FieldErrors = changed.map(|(key, _)| told("remove or update", key)).collect();
    seen.0.extend(before.keys().cloned());
    let added = now.keys().filter(|key| kept(key) && !seen.0.contains(*key));
    errors.extend(added.map(|key| told("add", key)));
    errors.extend(of(new, "metadata.annotations"));
    errors
}

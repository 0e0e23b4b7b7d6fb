//! Deployments and ReplicaSets.
use serde_json::Value;

use super::{IMMUTABLE, NOT_NEGATIVE, not_negative, pod};
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::labels;
use crate::kinds::view::View;

const PERCENT: &str = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or \
    '93%', regex used for validation is '[0-9]+%')";

const DEPLOYMENT_COUNTS: [&str; 8] = [
    "observedGeneration",
    "replicas",
    "updatedReplicas",
    "readyReplicas",
    "availableReplicas",
    "unavailableReplicas",
    "terminatingReplicas",
    "collisionCount",
];
const SET_COUNTS: [&str; 6] = [
    "replicas",
    "fullyLabeledReplicas",
    "readyReplicas",
    "availableReplicas",
    "observedGeneration",
    "terminatingReplicas",
];

pub fn deployment(object: &Value) -> FieldErrors {
    let spec = object.at("spec");
    let mut errors: FieldErrors = not_negative(spec, "replicas", "spec").into_iter().collect();
    errors.extend(selector_and_template(object));
    errors.extend(strategy(spec.at("strategy"), "spec.strategy"));
    errors.extend(not_negative(spec, "minReadySeconds", "spec"));
    errors.extend(not_negative(spec, "revisionHistoryLimit", "spec"));
    if let Some(deadline) = spec.int("progressDeadlineSeconds") {
        errors.extend(not_negative(spec, "progressDeadlineSeconds", "spec"));
        if deadline <= spec.int("minReadySeconds").unwrap_or(0) {
            let detail = "must be greater than minReadySeconds";
            errors.push(FieldError::invalid(
                "spec.progressDeadlineSeconds",
                deadline,
                detail,
            ));
        }
    }
    errors
}

pub fn deployment_update(subresource: Option<&str>, new: &Value, old: &Value) -> FieldErrors {
    match subresource {
        Some("status") => {
            let mut errors = status(
                new,
                &DEPLOYMENT_COUNTS,
                &["updatedReplicas", "readyReplicas", "availableReplicas"],
            );
            errors.extend(collisions(new, old));
            errors
        }
        _ => {
            let mut errors = deployment(new);
            errors.extend(kept_selector(new, old));
            errors
        }
    }
}

pub fn replica_set(object: &Value) -> FieldErrors {
    let spec = object.at("spec");
    let mut errors: FieldErrors = not_negative(spec, "replicas", "spec").into_iter().collect();
    errors.extend(not_negative(spec, "minReadySeconds", "spec"));
    errors.extend(selector_and_template(object));
    errors
}

pub fn replica_set_update(subresource: Option<&str>, new: &Value, old: &Value) -> FieldErrors {
    match subresource {
        Some("status") => {
            let parts = ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"];
            status(new, &SET_COUNTS, &parts)
        }
        _ => {
            let mut errors = replica_set(new);
            errors.extend(kept_selector(new, old));
            errors
        }
    }
}

pub(super) fn kept_selector(new: &Value, old: &Value) -> Option<FieldError> {
    let (now, before) = (new.at("spec.selector"), old.at("spec.selector"));
    (now != before).then(|| FieldError::invalid("spec.selector", now.clone(), IMMUTABLE))
}

fn selector_and_template(object: &Value) -> FieldErrors {
    let selector = object.at("spec.selector");
    let mut errors = Vec::new();
    if selector.is_null() {
        errors.push(FieldError::required("spec.selector", ""));
    } else {
        errors.extend(labels::validate_selector(selector, "spec.selector"));
        if is_empty(selector) {
            let detail = "empty selector is invalid for deployment";
            errors.push(FieldError::invalid("spec.selector", selector.clone(), detail));
        }
    }
    match labels::is_usable(selector) {
        true => errors.extend(template(object, selector)),
        false => errors.push(FieldError::invalid(
            "spec.selector",
            selector.clone(),
            "invalid label selector",
        )),
    }
    errors
}

pub(super) fn is_empty(selector: &Value) -> bool {
    selector.map("matchLabels").is_none_or(serde_json::Map::is_empty)
        && selector.list("matchExpressions").is_empty()
}

fn template(object: &Value, selector: &Value) -> FieldErrors {
    let template = object.at("spec.template");
    let own = template.at("metadata.labels");
    let mut errors = Vec::new();
    if !labels::matches(selector, own) {
        let detail = "`selector` does not match template `labels`";
        errors.push(FieldError::invalid(
            "spec.template.metadata.labels",
            own.clone(),
            detail,
        ));
    }
    errors.extend(pod::template(template, "spec.template"));
    errors.extend(template_only_always(template, "ReplicaSet"));
    errors
}

/// Containers that a controller keeps running are restarted always, and for ever.
pub(super) fn template_only_always(template: &Value, kind: &str) -> FieldErrors {
    let (mut errors, policy) = (Vec::new(), template.text("spec.restartPolicy"));
    if policy != "Always" {
        let path = "spec.template.spec.restartPolicy";
        errors.push(FieldError::not_supported(path, policy, &["Always"]));
    }
    if template.has("spec.activeDeadlineSeconds") {
        errors.push(FieldError::forbidden(
            "spec.template.spec.activeDeadlineSeconds",
            format!("activeDeadlineSeconds in {kind} is not Supported"),
        ));
    }
    errors
}

fn strategy(strategy: &Value, path: &str) -> FieldErrors {
    let at = format!("{path}.rollingUpdate");
    match strategy.text("type") {
        "Recreate" if strategy.has("rollingUpdate") => {
            let detail = "may not be specified when strategy `type` is 'Recreate'";
            vec![FieldError::forbidden(at, detail)]
        }
        "Recreate" => Vec::new(),
        "RollingUpdate" => rolling_update(strategy.at("rollingUpdate"), &at),
        _ => vec![FieldError {
            bad_value: strategy_shown(strategy),
            ..FieldError::not_supported(path, Value::Null, &["Recreate", "RollingUpdate"])
        }],
    }
}

/// A strategy as upstream shows it: by the names of its own structs.
pub(super) fn strategy_shown(strategy: &Value) -> String {
    let rolling = match strategy.at("rollingUpdate") {
        Value::Null => "null".to_owned(),
        rolling => {
            let amount = |key: &str| match rolling.at(key) {
                Value::Null => Value::from(0),
                amount => amount.clone(),
            };
            format!(
                "{{\"MaxUnavailable\":{},\"MaxSurge\":{}}}",
                amount("maxUnavailable"),
                amount("maxSurge")
            )
        }
    };
    let kind = Value::from(strategy.text("type"));
    format!("{{\"Type\":{kind},\"RollingUpdate\":{rolling}}}")
}

fn rolling_update(rolling: &Value, path: &str) -> FieldErrors {
    let (unavailable, surge) = (rolling.at("maxUnavailable"), rolling.at("maxSurge"));
    let at = format!("{path}.maxUnavailable");
    let mut errors = count_or_percent(unavailable, &at);
    errors.extend(count_or_percent(surge, &format!("{path}.maxSurge")));
    if amount(unavailable) == Some(0) && amount(surge) == Some(0) {
        let detail = "may not be 0 when `maxSurge` is 0";
        errors.push(FieldError::invalid(at.clone(), unavailable.clone(), detail));
    }
    errors.extend(over_all(unavailable, &at));
    errors
}

/// A percentage above all there is.
pub(super) fn over_all(value: &Value, path: &str) -> Option<FieldError> {
    let over = value.is_string() && amount(value).is_some_and(|n| n > 100);
    over.then(|| FieldError::invalid(path, value.clone(), "must not be greater than 100%"))
}

/// The number in a count or a percentage.
pub(super) fn amount(value: &Value) -> Option<i64> {
    match value {
        Value::String(text) => text.strip_suffix('%')?.parse().ok(),
        number => number.as_i64(),
    }
}

pub(super) fn count_or_percent(value: &Value, path: &str) -> FieldErrors {
    let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
    match value {
        Value::String(text) if !text.strip_suffix('%').is_some_and(digits) => {
            vec![FieldError::invalid(path, text.as_str(), PERCENT)]
        }
        Value::Number(n) if n.as_i64().is_some_and(|n| n < 0) => {
            vec![FieldError::invalid(path, value.clone(), NOT_NEGATIVE)]
        }
        _ => Vec::new(),
    }
}

/// Counts of a status: none negative, and no part above the whole.
fn status(object: &Value, counts: &[&str], parts: &[&str]) -> FieldErrors {
    let status = object.at("status");
    let count = |key: &str| status.int(key).unwrap_or(0);
    let negative = counts
        .iter()
        .filter_map(|key| not_negative(status, key, "status"));
    let mut errors: FieldErrors = negative.collect();
    for key in parts.iter().filter(|key| count(key) > count("replicas")) {
        let detail = "cannot be greater than status.replicas";
        errors.push(FieldError::invalid(format!("status.{key}"), count(key), detail));
    }
    let available = count("availableReplicas");
    if available > count("readyReplicas") {
        let detail = "cannot be greater than readyReplicas";
        errors.push(FieldError::invalid("status.availableReplicas", available, detail));
    }
    errors
}

/// How often names collided is only counted up.
pub(super) fn collisions(new: &Value, old: &Value) -> Option<FieldError> {
    let path = "status.collisionCount";
    let (now, before) = (new.int(path).unwrap_or(0), old.int(path)?);
    (now < before).then(|| FieldError::invalid(path, now, "cannot be decremented"))
}

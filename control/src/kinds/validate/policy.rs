//! PodDisruptionBudgets.
use serde_json::Value;

use super::apps::{count_or_percent, over_all};
use super::{conditions, maybe_one_of, not_negative};
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::labels;
use crate::kinds::view::View;

pub fn budget(object: &Value) -> FieldErrors {
    let spec = object.at("spec");
    let mut errors = Vec::new();
    if spec.has("minAvailable") && spec.has("maxUnavailable") {
        let detail = "minAvailable and maxUnavailable cannot be both set";
        errors.push(FieldError::invalid("spec", spec.clone(), detail));
    }
    for key in ["minAvailable", "maxUnavailable"] {
        let at = format!("spec.{key}");
        errors.extend(count_or_percent(spec.at(key), &at));
        errors.extend(over_all(spec.at(key), &at));
    }
    errors.extend(labels::validate_selector(spec.at("selector"), "spec.selector"));
    errors.extend(maybe_one_of(
        spec,
        "unhealthyPodEvictionPolicy",
        "spec",
        &["AlwaysAllow", "IfHealthyBudget"],
    ));
    errors
}

pub fn budget_update(subresource: Option<&str>, new: &Value, _: &Value) -> FieldErrors {
    if subresource != Some("status") {
        return budget(new);
    }
    let status = new.at("status");
    let mut errors = conditions::all(status.list("conditions"), "status.conditions");
    let counts = [
        "disruptionsAllowed",
        "currentHealthy",
        "desiredHealthy",
        "expectedPods",
    ];
    errors.extend(
        counts
            .iter()
            .filter_map(|key| not_negative(status, key, "status")),
    );
    errors
}

//! When a container is started again: its own policy and rules (KEP-5307, KEP-5532), and what a change of its resources asks
//! for (KEP-1287).
use std::fmt::Display;

use serde_json::Value;

use super::Seen;
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::view::View;

const POLICIES: [&str; 3] = ["Always", "Never", "OnFailure"];
const RESTART_ALL: &str = "RestartAllContainers";
const ACTIONS: [&str; 2] = ["Restart", RESTART_ALL];
const OPERATORS: [&str; 2] = ["In", "NotIn"];
const MOST_RULES: usize = 20;
const MOST_CODES: usize = 255;
const RESIZED: [&str; 2] = ["cpu", "memory"];
const RESIZE_POLICIES: [&str; 2] = ["NotRequired", "RestartContainer"];

/// A container's own restart policy and the rules that go with it.
pub(super) fn rules(container: &Value, path: impl Display + Copy) -> FieldErrors {
    let (rules, at) = (
        container.list("restartPolicyRules"),
        format_args!("{path}.restartPolicy"),
    );
    let mut errors = Vec::new();
    match container.at("restartPolicy").as_str() {
        None if rules.is_empty() => return errors,
        None => {
            let detail = "must specify restartPolicy when restart rules are used";
            errors.push(FieldError::required(at, detail));
        }
        Some(policy) if !POLICIES.contains(&policy) => {
            errors.push(FieldError::not_supported(at, policy, &POLICIES));
        }
        Some(_) => {}
    }
    let at = format_args!("{path}.restartPolicyRules");
    if rules.len() > MOST_RULES {
        errors.push(FieldError::too_many(at, rules.len(), MOST_RULES));
    }
    for (i, each) in rules.iter().enumerate() {
        errors.extend(rule(each, format_args!("{at}[{i}]")));
    }
    errors
}

fn rule(rule: &Value, path: impl Display + Copy) -> FieldErrors {
    let mut errors = Vec::new();
    let action = rule.text("action");
    if !ACTIONS.contains(&action) {
        errors.push(FieldError::not_supported(
            format!("{path}.action"),
            action,
            &ACTIONS,
        ));
    }
    let (codes, at) = (rule.at("exitCodes"), format_args!("{path}.exitCodes"));
    if codes.is_null() {
        errors.push(FieldError::required(at, "must be specified"));
        return errors;
    }
    let operator = codes.text("operator");
    if !OPERATORS.contains(&operator) {
        errors.push(FieldError::not_supported(
            format!("{at}.operator"),
            operator,
            &OPERATORS,
        ));
    }
    let values = codes.list("values").len();
    if values > MOST_CODES {
        errors.push(FieldError::too_many(format!("{at}.values"), values, MOST_CODES));
    }
    errors
}

/// Whether some container's end can start all of the Pod anew, those that ended for good among them.
pub(super) fn all_may_restart(spec: &Value) -> bool {
    let all = ["initContainers", "containers"]
        .into_iter()
        .flat_map(|list| spec.list(list));
    all.flat_map(|container| container.list("restartPolicyRules"))
        .any(|rule| rule.text("action") == RESTART_ALL)
}

/// What a change of each resource does to the container.
pub(super) fn resize(container: &Value, pod_policy: &str, path: impl Display + Copy) -> FieldErrors {
    let (mut errors, mut seen) = (Vec::new(), Seen::default());
    for (i, policy) in container.list("resizePolicy").iter().enumerate() {
        let (resource, restart) = (policy.text("resourceName"), policy.text("restartPolicy"));
        if seen.again(resource) {
            errors.push(FieldError::duplicate(format!("{path}[{i}]"), resource));
        }
        errors.extend(super::one_of(path, resource, &RESIZED));
        errors.extend(super::one_of(path, restart, &RESIZE_POLICIES));
        if pod_policy == "Never" && restart != "NotRequired" {
            let detail = "must be 'NotRequired' when pod `restartPolicy` is 'Never'";
            errors.push(FieldError::invalid(path, restart, detail));
        }
    }
    errors
}

/// An init container that ends is not restarted for its resources.
pub(super) fn init_resize(container: &Value, path: impl Display + Copy) -> FieldErrors {
    if container.text("restartPolicy") == "Always" {
        return Vec::new();
    }
    let policies = container.list("resizePolicy").iter().enumerate();
    let restarting = policies.filter(|(_, p)| p.text("restartPolicy") == "RestartContainer");
    let detail = "must not be set to 'RestartContainer' for non-sidecar initContainers";
    restarting
        .map(|(i, _)| {
            let at = format_args!("{path}.resizePolicy[{i}].restartPolicy");
            FieldError::invalid(at, "RestartContainer", detail)
        })
        .collect()
}

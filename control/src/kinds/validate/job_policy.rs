//! When a Job fails or succeeds before its counts say so: `podFailurePolicy` (KEP-3329) and `successPolicy` (KEP-3998).
use serde_json::Value;

use super::job::INDEXED;
use super::{Seen, complain, indexes, not_negative};
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::names;
use crate::kinds::view::View;

/// Upstream's limits.
const RULES: usize = 20;
const CODES: usize = 255;
const SUCCEEDED_TEXT: usize = 64 * 1024;
const ACTIONS: [&str; 4] = ["Count", "FailIndex", "FailJob", "Ignore"];
const STATUSES: [&str; 3] = ["False", "True", "Unknown"];

pub(super) fn failure_policy(spec: &Value, path: &str) -> FieldErrors {
    let rules = spec.list("podFailurePolicy.rules");
    let mut errors = Vec::new();
    if rules.len() > RULES {
        errors.push(FieldError::too_many(format!("{path}.rules"), rules.len(), RULES));
    }
    for (i, rule) in rules.iter().enumerate() {
        errors.extend(failure_rule(spec, rule, &format!("{path}.rules[{i}]")));
    }
    errors
}

fn failure_rule(spec: &Value, rule: &Value, path: &str) -> FieldErrors {
    let (action, at) = (rule.text("action"), format!("{path}.action"));
    let mut errors = Vec::new();
    match action {
        "" => errors.push(FieldError::required(
            at,
            format!("valid values: {}", go_list(&ACTIONS)),
        )),
        "FailIndex" if !spec.has("backoffLimitPerIndex") => errors.push(FieldError::invalid(
            at,
            action,
            "requires the backoffLimitPerIndex to be set",
        )),
        _ if !ACTIONS.contains(&action) => errors.push(FieldError::not_supported(at, action, &ACTIONS)),
        _ => {}
    }
    let (codes, conditions) = (rule.has("onExitCodes"), rule.list("onPodConditions"));
    if codes {
        errors.extend(exit_codes(
            spec,
            rule.at("onExitCodes"),
            &format!("{path}.onExitCodes"),
        ));
    }
    errors.extend(pod_conditions(conditions, &format!("{path}.onPodConditions")));
    let detail = match (codes, conditions.is_empty()) {
        (true, false) => "specifying both OnExitCodes and OnPodConditions is not supported",
        (false, true) => "specifying one of OnExitCodes and OnPodConditions is required",
        _ => return errors,
    };
    errors.push(FieldError::without_value(path, detail));
    errors
}

/// Texts as Go's `%q` prints a list of them.
fn go_list(texts: &[&str]) -> String {
    let quoted: Vec<String> = texts.iter().map(|t| format!("{t:?}")).collect();
    format!("[{}]", quoted.join(" "))
}

fn exit_codes(spec: &Value, on: &Value, path: &str) -> FieldErrors {
    const OPERATORS: [&str; 2] = ["In", "NotIn"];
    let operator = on.text("operator");
    let mut errors = Vec::new();
    match operator {
        "" => {
            let detail = format!("valid values: {}", go_list(&OPERATORS));
            errors.push(FieldError::required(format!("{path}.operator"), detail));
        }
        other if !OPERATORS.contains(&other) => errors.push(FieldError::not_supported(
            format!("{path}.operator"),
            other,
            &OPERATORS,
        )),
        _ => {}
    }
    if let Some(name) = on.at("containerName").as_str() {
        let lists = [
            spec.list("template.spec.containers"),
            spec.list("template.spec.initContainers"),
        ];
        if !lists.iter().copied().flatten().any(|c| c.text("name") == name) {
            let detail = "must be one of the container or initContainer names in the pod template";
            errors.push(FieldError::invalid(format!("{path}.containerName"), name, detail));
        }
    }
    errors.extend(code_values(operator, on.at("values"), &format!("{path}.values")));
    errors
}

fn code_values(operator: &str, shown: &Value, path: &str) -> FieldErrors {
    let (mut errors, values) = (Vec::new(), shown.as_array().map_or(&[][..], Vec::as_slice));
    if values.is_empty() {
        errors.push(FieldError::invalid(
            path,
            shown.clone(),
            "at least one value is required",
        ));
    } else if values.len() > CODES {
        errors.push(FieldError::too_many(path, values.len(), CODES));
    }
    let numbers: Vec<i64> = values.iter().filter_map(Value::as_i64).collect();
    let mut seen = Seen::default();
    for (i, code) in numbers.iter().enumerate() {
        let at = format!("{path}[{i}]");
        if operator == "In" && *code == 0 {
            errors.push(FieldError::invalid(
                at.as_str(),
                0,
                "must not be 0 for the In operator",
            ));
        }
        if seen.again(code.to_string()) {
            errors.push(FieldError::duplicate(at, *code));
        }
    }
    if !numbers.is_sorted() {
        errors.push(FieldError::invalid(path, values.to_vec(), "must be ordered"));
    }
    errors
}

fn pod_conditions(patterns: &[Value], path: &str) -> FieldErrors {
    let mut errors = Vec::new();
    if patterns.len() > RULES {
        errors.push(FieldError::too_many(path, patterns.len(), RULES));
    }
    for (i, pattern) in patterns.iter().enumerate() {
        let (kind, status) = (pattern.text("type"), pattern.text("status"));
        errors.extend(complain(
            format_args!("{path}[{i}].type"),
            kind,
            names::qualified(kind),
        ));
        let at = format!("{path}[{i}].status");
        match status {
            "" => errors.push(FieldError::required(
                at,
                format!("valid values: {}", go_list(&STATUSES)),
            )),
            other if !STATUSES.contains(&other) => {
                errors.push(FieldError::not_supported(at, other, &STATUSES));
            }
            _ => {}
        }
    }
    errors
}

pub(super) fn success_policy(spec: &Value, path: &str) -> FieldErrors {
    if spec.text("completionMode") != "Indexed" {
        let policy = spec.at("successPolicy").clone();
        return vec![FieldError::invalid(path, policy, INDEXED)];
    }
    let rules = spec.list("successPolicy.rules");
    let at = format!("{path}.rules");
    let mut errors = Vec::new();
    if rules.is_empty() {
        let detail = "at least one rules must be specified when the successPolicy is specified";
        errors.push(FieldError::required(at.as_str(), detail));
    }
    if rules.len() > RULES {
        errors.push(FieldError::too_many(at.as_str(), rules.len(), RULES));
    }
    let all = spec.int("completions").unwrap_or(0);
    for (i, rule) in rules.iter().enumerate() {
        errors.extend(success_rule(rule, all, &format!("{at}[{i}]")));
    }
    errors
}

fn success_rule(rule: &Value, all: i64, path: &str) -> FieldErrors {
    let (count, text) = (rule.int("succeededCount"), rule.at("succeededIndexes").as_str());
    let mut errors = Vec::new();
    if count.is_none() && text.is_none() {
        let detail = "at least one of succeededCount or succeededIndexes must be specified";
        errors.push(FieldError::required(path, detail));
    }
    let mut named = 0;
    if let Some(text) = text {
        let at = format!("{path}.succeededIndexes");
        if text.len() > SUCCEEDED_TEXT {
            errors.push(FieldError::too_long(at.as_str(), SUCCEEDED_TEXT));
        }
        match indexes::count(text, all) {
            Ok(count) => named = count,
            Err(why) => {
                let detail = format!("error parsing succeededIndexes: {why}");
                errors.push(FieldError::invalid(at, text, detail));
            }
        }
    }
    if let Some(count) = count {
        let at = format!("{path}.succeededCount");
        errors.extend(not_negative(rule, "succeededCount", path));
        for (limit, what) in [
            (Some(all), "the number of specified completions"),
            (
                text.map(|_| named),
                "the number of indexes in the specified succeededIndexes field",
            ),
        ] {
            if let Some(limit) = limit.filter(|limit| count > *limit) {
                let detail = format!("must be less than or equal to {limit} ({what})");
                errors.push(FieldError::invalid(at.as_str(), count, detail));
            }
        }
    }
    errors
}

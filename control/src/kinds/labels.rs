//! Labels and label selectors as values: matching, the string form, and what makes a selector invalid.
use std::fmt::Display;

use serde_json::{Map, Value};

use super::error::{FieldError, FieldErrors};
use super::names;
use super::view::View;

/// `a=1,b=2`, or `<none>`.
pub fn format_labels(labels: &Value) -> String {
    match labels.as_object().filter(|l| !l.is_empty()) {
        Some(labels) => pairs(labels).join(","),
        None => "<none>".into(),
    }
}

fn pairs(labels: &Map<String, Value>) -> Vec<String> {
    let mut pairs: Vec<String> = labels
        .iter()
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
        .collect();
    pairs.sort_unstable();
    pairs
}

/// A `LabelSelector` as the selector string that means the same; empty selects everything.
pub fn selector_string(selector: &Value) -> String {
    let mut terms: Vec<(String, String)> = Vec::new();
    for (key, value) in selector.map("matchLabels").into_iter().flatten() {
        terms.push((
            key.clone(),
            format!("{key}={}", value.as_str().unwrap_or_default()),
        ));
    }
    for requirement in selector.list("matchExpressions") {
        terms.push((requirement.text("key").to_owned(), expression(requirement)));
    }
    terms.sort();
    terms
        .into_iter()
        .map(|(_, term)| term)
        .collect::<Vec<_>>()
        .join(",")
}

fn expression(requirement: &Value) -> String {
    let key = requirement.text("key");
    let mut values: Vec<&str> = requirement
        .list("values")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    values.sort_unstable();
    let values = values.join(",");
    match requirement.text("operator") {
        "In" => format!("{key} in ({values})"),
        "NotIn" => format!("{key} notin ({values})"),
        "Exists" => key.to_owned(),
        "DoesNotExist" => format!("!{key}"),
        other => format!("{key} {other} ({values})"),
    }
}

/// A `LabelSelector` as a table cell.
pub fn format_selector(selector: &Value) -> String {
    match selector_string(selector) {
        text if text.is_empty() => "<none>".into(),
        text => text,
    }
}

/// Whether a `LabelSelector` picks these labels. A missing selector picks nothing, an empty one everything.
pub fn matches(selector: &Value, labels: &Value) -> bool {
    let empty = Map::new();
    let labels = labels.as_object().unwrap_or(&empty);
    let equal = |(key, value): (&String, &Value)| labels.get(key) == Some(value);
    selector.is_object()
        && selector.map("matchLabels").is_none_or(|m| m.iter().all(equal))
        && selector.list("matchExpressions").iter().all(|r| holds(r, labels))
}

fn holds(requirement: &Value, labels: &Map<String, Value>) -> bool {
    let value = labels.get(requirement.text("key"));
    let listed = || value.is_some_and(|v| requirement.list("values").contains(v));
    match requirement.text("operator") {
        "In" => listed(),
        "NotIn" => !listed(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        _ => false,
    }
}

/// Whether a `LabelSelector` can be asked at all.
pub(super) fn is_usable(selector: &Value) -> bool {
    validate_selector(selector, "").is_empty()
}

/// Everything wrong with a `LabelSelector` at `path`.
pub(super) fn validate_selector(selector: &Value, path: impl Display + Copy) -> FieldErrors {
    let mut errors = super::meta::labels(selector.at("matchLabels"), format_args!("{path}.matchLabels"));
    for (i, requirement) in selector.list("matchExpressions").iter().enumerate() {
        errors.extend(validate_requirement(
            requirement,
            format_args!("{path}.matchExpressions[{i}]"),
        ));
    }
    errors
}

fn validate_requirement(requirement: &Value, path: impl Display + Copy) -> FieldErrors {
    let values = requirement.list("values");
    let mut errors = Vec::new();
    match requirement.text("operator") {
        "In" | "NotIn" if values.is_empty() => {
            let detail = "must be specified when `operator` is 'In' or 'NotIn'";
            errors.push(FieldError::required(format!("{path}.values"), detail));
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.push(FieldError::forbidden(format!("{path}.values"), detail));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        other => errors.push(FieldError::invalid(
            format!("{path}.operator"),
            other,
            "not a valid selector operator",
        )),
    }
    let key = requirement.text("key");
    errors.extend(
        names::qualified(key)
            .into_iter()
            .map(|m| FieldError::invalid(format!("{path}.key"), key, m)),
    );
    for (i, value) in values.iter().filter_map(Value::as_str).enumerate() {
        let complaints = names::label_value(value).into_iter();
        errors.extend(complaints.map(|m| FieldError::invalid(format!("{path}.values[{i}]"), value, m)));
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors() {
        let selector = json!({"matchLabels": {"a": "1"}, "matchExpressions": [
            {"key": "b", "operator": "In", "values": ["y", "x"]}, {"key": "c", "operator": "DoesNotExist"}]});
        assert_eq!(selector_string(&selector), "a=1,b in (x,y),!c");
        assert!(matches(&selector, &json!({"a": "1", "b": "x"})));
        assert!(!matches(&selector, &json!({"a": "1", "b": "z"})));
        assert!(!matches(&selector, &json!({"a": "1", "b": "x", "c": ""})));
        assert!(matches(&json!({}), &json!({})) && !matches(&Value::Null, &json!({})));
    }
}

//! Affinity, tolerations and topology spread.
use std::collections::{HashMap, HashSet};
use std::fmt::Display;

use serde_json::Value;

use super::{complain, one_of};
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::labels::validate_selector;
use crate::kinds::names;
use crate::kinds::view::View;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const BAD_OPERATOR: &str = "not a valid selector operator";
pub(super) const TAINT_EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

pub(super) fn affinity(affinity: &Value, path: impl Display + Copy) -> FieldErrors {
    let mut errors = node_affinity(affinity.at("nodeAffinity"), format_args!("{path}.nodeAffinity"));
    for key in ["podAffinity", "podAntiAffinity"] {
        let at = format_args!("{path}.{key}");
        let terms = affinity.at(key);
        for (i, term) in terms.list(REQUIRED).iter().enumerate() {
            errors.extend(pod_term(term, format_args!("{at}.{REQUIRED}[{i}]")));
        }
        for (i, weighted) in terms.list(PREFERRED).iter().enumerate() {
            let at = format_args!("{at}.{PREFERRED}[{i}]");
            errors.extend(weight(weighted, at));
            errors.extend(pod_term(
                weighted.at("podAffinityTerm"),
                format_args!("{at}.podAffinityTerm"),
            ));
        }
    }
    errors
}

fn node_affinity(affinity: &Value, path: impl Display + Copy) -> FieldErrors {
    let mut errors = Vec::new();
    if affinity.has(REQUIRED) {
        errors.extend(required_terms(
            affinity.at(REQUIRED),
            format_args!("{path}.{REQUIRED}"),
        ));
    }
    for (i, preferred) in affinity.list(PREFERRED).iter().enumerate() {
        let at = format_args!("{path}.{PREFERRED}[{i}]");
        errors.extend(weight(preferred, at));
        errors.extend(node_term(
            preferred.at("preference"),
            format_args!("{at}.preference"),
            false,
        ));
    }
    errors
}

/// A `NodeSelector` at `path`.
pub(super) fn required_terms(selector: &Value, path: impl Display + Copy) -> FieldErrors {
    let at = format_args!("{path}.nodeSelectorTerms");
    let terms = selector.list("nodeSelectorTerms");
    let mut errors = Vec::new();
    if terms.is_empty() {
        let detail = "must have at least one node selector term";
        errors.push(FieldError::required(at, detail));
    }
    for (i, term) in terms.iter().enumerate() {
        errors.extend(node_term(term, format_args!("{at}[{i}]"), true));
    }
    errors
}

fn weight(term: &Value, path: impl Display + Copy) -> Option<FieldError> {
    let weight = term.int("weight").unwrap_or(0);
    let bad = !(1..=100).contains(&weight);
    bad.then(|| FieldError::invalid(format!("{path}.weight"), weight, "must be in the range 1-100"))
}

fn node_term(term: &Value, path: impl Display + Copy, strict: bool) -> FieldErrors {
    let mut errors = Vec::new();
    for (i, requirement) in term.list("matchExpressions").iter().enumerate() {
        errors.extend(node_requirement(
            requirement,
            format_args!("{path}.matchExpressions[{i}]"),
            strict,
        ));
    }
    for (i, requirement) in term.list("matchFields").iter().enumerate() {
        errors.extend(field_requirement(
            requirement,
            format_args!("{path}.matchFields[{i}]"),
        ));
    }
    errors
}

fn node_requirement(requirement: &Value, path: impl Display + Copy, strict: bool) -> FieldErrors {
    let (values, at) = (requirement.list("values"), format_args!("{path}.values"));
    let mut errors = Vec::new();
    match requirement.text("operator") {
        "In" | "NotIn" if values.is_empty() => {
            errors.push(FieldError::required(
                at,
                "must be specified when `operator` is 'In' or 'NotIn'",
            ));
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.push(FieldError::forbidden(at, detail));
        }
        "Gt" | "Lt" if values.len() != 1 => {
            let detail = "must be specified single value when `operator` is 'Lt' or 'Gt'";
            errors.push(FieldError::required(at, detail));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => errors.push(FieldError::invalid(
            format!("{path}.operator"),
            other,
            BAD_OPERATOR,
        )),
    }
    let key = requirement.text("key");
    errors.extend(complain(format_args!("{path}.key"), key, names::qualified(key)));
    if strict {
        for (i, value) in values.iter().filter_map(Value::as_str).enumerate() {
            errors.extend(complain(
                format_args!("{at}[{i}]"),
                value,
                names::label_value(value),
            ));
        }
    }
    errors
}

/// A requirement on a field of a Node; only its name can be asked for.
fn field_requirement(requirement: &Value, path: impl Display + Copy) -> FieldErrors {
    let values = requirement.list("values");
    let mut errors = Vec::new();
    match requirement.text("operator") {
        "In" | "NotIn" if values.len() != 1 => {
            let detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
            errors.push(FieldError::required(format!("{path}.values"), detail));
        }
        "In" | "NotIn" => {}
        other => errors.push(FieldError::invalid(
            format!("{path}.operator"),
            other,
            BAD_OPERATOR,
        )),
    }
    match requirement.text("key") {
        "metadata.name" => {
            for (i, name) in values.iter().filter_map(Value::as_str).enumerate() {
                errors.extend(complain(
                    format_args!("{path}.values[{i}]"),
                    name,
                    names::subdomain(name),
                ));
            }
        }
        other => {
            errors.push(FieldError::invalid(
                format!("{path}.key"),
                other,
                "not a valid field selector key",
            ));
        }
    }
    errors
}

fn pod_term(term: &Value, path: impl Display + Copy) -> FieldErrors {
    let mut errors = validate_selector(term.at("labelSelector"), format_args!("{path}.labelSelector"));
    errors.extend(validate_selector(
        term.at("namespaceSelector"),
        format_args!("{path}.namespaceSelector"),
    ));
    for name in term.list("namespaces").iter().filter_map(Value::as_str) {
        errors.extend(complain(
            format_args!("{path}.namespace"),
            name,
            names::label(name),
        ));
    }
    errors.extend(label_keys(term, path));
    let (key, at) = (term.text("topologyKey"), format_args!("{path}.topologyKey"));
    if key.is_empty() {
        errors.push(FieldError::required(at, "can not be empty"));
    }
    errors.extend(complain(at, key, names::qualified(key)));
    errors
}

pub(super) fn tolerations(tolerations: &[Value], path: impl Display + Copy) -> FieldErrors {
    tolerations
        .iter()
        .enumerate()
        .flat_map(|(i, t)| toleration(t, format_args!("{path}[{i}]")))
        .collect()
}

fn toleration(toleration: &Value, path: impl Display + Copy) -> FieldErrors {
    let (key, operator) = (toleration.text("key"), toleration.text("operator"));
    let (value, effect) = (toleration.text("value"), toleration.text("effect"));
    let at = format_args!("{path}.operator");
    let mut errors = Vec::new();
    if !key.is_empty() {
        errors.extend(complain(format_args!("{path}.key"), key, names::qualified(key)));
    }
    if key.is_empty() && operator != "Exists" {
        let detail =
            "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        errors.push(FieldError::invalid(at, operator, detail));
    }
    if toleration.has("tolerationSeconds") && effect != "NoExecute" {
        let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        errors.push(FieldError::invalid(format!("{path}.effect"), effect, detail));
    }
    match operator {
        "" | "Equal" => {
            let complaints = names::label_value(value);
            let joined = (!complaints.is_empty()).then(|| vec![complaints.join(";")]);
            errors.extend(complain(at, value, joined.unwrap_or_default()));
        }
        "Exists" if !value.is_empty() => {
            errors.push(FieldError::invalid(
                at,
                value,
                "value must be empty when `operator` is 'Exists'",
            ));
        }
        "Exists" => {}
        // Behind the gate `TaintTolerationComparisonOperators`; upstream names them all the same.
        "Lt" | "Gt" => {
            let known = ["Equal", "Exists", "Lt", "Gt"];
            errors.push(FieldError::not_supported(at, operator, &known));
        }
        other => errors.push(FieldError::not_supported(at, other, &["Equal", "Exists"])),
    }
    if !effect.is_empty() {
        errors.extend(one_of(format_args!("{path}.effect"), effect, &TAINT_EFFECTS));
    }
    errors
}

/// Keys whose values of the Pod itself join the selector. KEP-3633, KEP-3243.
fn label_keys(term: &Value, path: impl Display + Copy) -> FieldErrors {
    let texts = |key: &str| {
        term.list(key)
            .iter()
            .filter_map(Value::as_str)
            .collect::<Vec<_>>()
    };
    let (same, other) = (texts("matchLabelKeys"), texts("mismatchLabelKeys"));
    let selector = term.at("labelSelector");
    let mut errors = Vec::new();
    for (key, keys) in [("matchLabelKeys", &same), ("mismatchLabelKeys", &other)] {
        let at = format_args!("{path}.{key}");
        if !keys.is_empty() && selector.is_null() {
            let detail = "must not be specified when labelSelector is not set";
            errors.push(FieldError::forbidden(at, detail));
            continue;
        }
        for (i, key) in keys.iter().enumerate() {
            errors.extend(complain(format_args!("{at}[{i}]"), key, names::qualified(key)));
        }
    }
    errors.extend(said_twice(&same, selector, path));
    let other: HashSet<&str> = other.into_iter().collect();
    for (i, key) in same.iter().enumerate().filter(|(_, key)| other.contains(*key)) {
        let detail = "exists in both matchLabelKeys and mismatchLabelKeys";
        errors.push(FieldError::invalid(
            format!("{path}.matchLabelKeys[{i}]"),
            *key,
            detail,
        ));
    }
    errors
}

/// Keys that were in the selector before they were added to it.
fn said_twice(keys: &[&str], selector: &Value, path: impl Display + Copy) -> FieldErrors {
    let labels = selector.map("matchLabels").into_iter().flatten();
    let mut before: HashSet<&str> = labels.map(|(key, _)| key.as_str()).collect();
    let mut places = HashMap::new();
    for (i, key) in keys.iter().enumerate() {
        places.entry(*key).or_insert(i);
    }
    let mut errors = Vec::new();
    for key in selector.list("matchExpressions").iter().map(|e| e.text("key")) {
        if let Some(i) = places.get(key).filter(|_| before.contains(key)) {
            let detail = "exists in both matchLabelKeys and labelSelector";
            errors.push(FieldError::invalid(format!("{path}[{i}]"), key, detail));
        }
        before.insert(key);
    }
    errors
}

/// Topology spread constraints. KEP-895.
pub(super) fn spread<'a>(constraints: &'a [Value], path: impl Display + Copy) -> FieldErrors {
    let pair = |constraint: &'a Value| {
        (
            constraint.text("topologyKey"),
            constraint.text("whenUnsatisfiable"),
        )
    };
    let last: HashMap<_, usize> = constraints
        .iter()
        .enumerate()
        .map(|(i, constraint)| (pair(constraint), i))
        .collect();
    let mut errors = Vec::new();
    for (i, constraint) in constraints.iter().enumerate() {
        let at = format_args!("{path}[{i}]");
        let (key, when) = pair(constraint);
        errors.extend(positive(
            constraint.int("maxSkew").unwrap_or(0),
            format_args!("{at}.maxSkew"),
        ));
        if key.is_empty() {
            let at = format_args!("{at}.topologyKey");
            errors.push(FieldError::required(at, "can not be empty"));
        }
        if !["DoNotSchedule", "ScheduleAnyway"].contains(&when) {
            let supported = ["DoNotSchedule", "ScheduleAnyway"];
            let at = format_args!("{at}.whenUnsatisfiable");
            errors.push(FieldError::not_supported(at, when, &supported));
        }
        // The last of a kind has no duplicate after it.
        if last.get(&(key, when)).is_some_and(|last| *last > i) {
            let at = format_args!("{at}.{{topologyKey, whenUnsatisfiable}}");
            errors.push(FieldError::duplicate(at, format!("{{{key}, {when}}}")));
        }
        errors.extend(domains(constraint, when, at));
        for key in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            errors.extend(super::maybe_one_of(constraint, key, at, &["Honor", "Ignore"]));
        }
        errors.extend(label_keys(constraint, at));
        errors.extend(validate_selector(
            constraint.at("labelSelector"),
            format_args!("{at}.labelSelector"),
        ));
    }
    errors
}

fn positive(number: i64, path: impl Display + Copy) -> Option<FieldError> {
    (number <= 0).then(|| FieldError::invalid(path, number, "must be greater than zero"))
}

fn domains(constraint: &Value, when: &str, path: impl Display + Copy) -> FieldErrors {
    let Some(domains) = constraint.int("minDomains") else {
        return Vec::new();
    };
    let at = format_args!("{path}.minDomains");
    let mut errors: FieldErrors = positive(domains, at).into_iter().collect();
    if when != "DoNotSchedule" {
        let detail = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {when}");
        errors.push(FieldError::invalid(at, domains, detail));
    }
    errors
}

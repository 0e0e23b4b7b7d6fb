//! HorizontalPodAutoscalers, in the form of `autoscaling/v2`.
use serde_json::Value;

use super::{NOT_NEGATIVE, complain, maybe_one_of, not_negative, resources};
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::names;
use crate::kinds::quantity::Quantity;
use crate::kinds::view::View;

const SOURCES: [(&str, &str); 5] = [
    ("Object", "object"),
    ("External", "external"),
    ("Pods", "pods"),
    ("Resource", "resource"),
    ("ContainerResource", "containerResource"),
];
const TYPES: [&str; 5] = ["ContainerResource", "External", "Object", "Pods", "Resource"];
/// Seconds.
const LONGEST_WINDOW: i64 = 3600;
const LONGEST_PERIOD: i64 = 1800;

pub fn autoscaler(object: &Value) -> FieldErrors {
    spec_of(object, &Value::Null)
}

fn spec_of(object: &Value, old: &Value) -> FieldErrors {
    let spec = object.at("spec");
    let (min, max) = (spec.int("minReplicas"), spec.int("maxReplicas").unwrap_or(0));
    let mut errors = Vec::new();
    if let Some(min) = min.filter(|n| *n < 1) {
        let detail = "must be greater than or equal to 1";
        errors.push(FieldError::invalid("spec.minReplicas", min, detail));
    }
    if max == 0 {
        let detail = "must be set and greater than 0";
        errors.push(FieldError::required("spec.maxReplicas", detail));
    } else if max < 0 {
        let detail = "must be greater than or equal to 1";
        errors.push(FieldError::invalid("spec.maxReplicas", max, detail));
    }
    if min.is_some_and(|min| max < min) {
        let detail = "must be greater than or equal to `minReplicas`";
        errors.push(FieldError::invalid("spec.maxReplicas", max, detail));
    }
    let target = spec.at("scaleTargetRef");
    let version = target_version(target, old.at("spec.scaleTargetRef"));
    errors.extend(reference(target, version, "spec.scaleTargetRef"));
    for (i, metric) in spec.list("metrics").iter().enumerate() {
        errors.extend(metric_spec(metric, &format!("spec.metrics[{i}]")));
    }
    let elsewhere = |metric: &Value| metric.has("object") || metric.has("external");
    if min == Some(0) && !spec.list("metrics").iter().any(elsewhere) {
        let detail =
            "must specify at least one Object or External metric to support scaling to zero replicas";
        errors.push(FieldError::forbidden("spec.metrics", detail));
    }
    for key in ["scaleUp", "scaleDown"] {
        let rules = spec.at("behavior").at(key);
        if !rules.is_null() {
            errors.extend(scaling_rules(rules, &format!("spec.behavior.{key}")));
        }
    }
    errors
}

pub fn autoscaler_update(subresource: Option<&str>, new: &Value, old: &Value) -> FieldErrors {
    if subresource != Some("status") {
        return spec_of(new, old);
    }
    ["currentReplicas", "desiredReplicas"]
        .iter()
        .filter_map(|key| not_negative(new.at("status"), key, "status"))
        .collect()
}

/// What the `apiVersion` of a reference may be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    /// Anything: it was there before.
    Any,
    /// Also one of the core group.
    Known,
    Grouped,
}

/// The only scalable kind of the core group is the ReplicationController.
fn target_version(target: &Value, old: &Value) -> Version {
    let same = |key: &str| target.text(key) == old.text(key);
    if !old.is_null() && same("apiVersion") && same("kind") {
        return Version::Any;
    }
    match target.text("kind") {
        "ReplicationController" => Version::Known,
        _ => Version::Grouped,
    }
}

fn reference(reference: &Value, wanted: Version, path: &str) -> FieldErrors {
    let mut errors = Vec::new();
    for key in ["kind", "name"] {
        let (at, text) = (format!("{path}.{key}"), reference.text(key));
        match text {
            "" => errors.push(FieldError::required(at, "")),
            _ => errors.extend(path_segment(&at, text)),
        }
    }
    let version = reference.text("apiVersion");
    let group = version.split_once('/').map_or("", |(group, _)| group);
    let why = match version.matches('/').count() {
        _ if wanted == Version::Any => return errors,
        0 | 1 if wanted == Version::Grouped && group.is_empty() => {
            "apiVersion must specify API group".to_owned()
        }
        0 | 1 => return errors,
        _ => format!("unexpected GroupVersion string: {version}"),
    };
    errors.push(FieldError::invalid(format!("{path}.apiVersion"), version, why));
    errors
}

fn path_segment(path: &str, text: &str) -> FieldErrors {
    let complaint = |detail: &str| FieldError::invalid(path, text, detail);
    match text {
        "." => vec![complaint("may not be '.'")],
        ".." => vec![complaint("may not be '..'")],
        _ => {
            let bad = ['/', '%'].into_iter().filter(|c| text.contains(*c));
            bad.map(|c| complaint(&format!("may not contain '{c}'")))
                .collect()
        }
    }
}

fn metric_spec(metric: &Value, path: &str) -> FieldErrors {
    let (kind, mut errors) = (metric.text("type"), Vec::new());
    let at = format!("{path}.type");
    if kind.is_empty() {
        errors.push(FieldError::required(
            at.as_str(),
            "must specify a metric source type",
        ));
    }
    if !TYPES.contains(&kind) {
        errors.push(FieldError::not_supported(at, kind, &TYPES));
    }
    let present: Vec<&str> = SOURCES
        .iter()
        .map(|(_, key)| *key)
        .filter(|key| metric.has(key))
        .collect();
    if let Some(first) = present.first() {
        errors.extend(source(first, metric.at(first), &format!("{path}.{first}")));
    }
    let expected = SOURCES
        .iter()
        .find(|(name, _)| *name == kind)
        .map(|(_, key)| *key);
    if let Some(expected) = expected.filter(|key| !metric.has(key)) {
        let detail = "must populate information for the given metric source";
        errors.push(FieldError::required(format!("{path}.{expected}"), detail));
    }
    if present.len() > 1 {
        let others = present.iter().filter(|key| Some(**key) != expected);
        let detail = "must populate the given metric source only";
        errors.extend(others.map(|key| FieldError::forbidden(format!("{path}.{key}"), detail)));
    }
    errors
}

fn source(kind: &str, source: &Value, path: &str) -> FieldErrors {
    let mut errors = Vec::new();
    if kind == "object" {
        errors.extend(reference(
            source.at("describedObject"),
            Version::Known,
            &format!("{path}.describedObject"),
        ));
    }
    if matches!(kind, "object" | "external" | "pods") {
        errors.extend(identifier(source.at("metric"), &format!("{path}.metric")));
    } else if source.text("name").is_empty() {
        let detail = "must specify a resource name";
        errors.push(FieldError::required(format!("{path}.name"), detail));
    } else if kind == "containerResource" {
        errors.extend(resources::of_container(
            source.text("name"),
            format_args!("{path}.name"),
        ));
    }
    if kind == "containerResource" {
        let (at, container) = (format!("{path}.container"), source.text("container"));
        match container {
            "" => errors.push(FieldError::required(at, "must specify a container")),
            _ => errors.extend(complain(&at, container, names::label(container))),
        }
    }
    errors.extend(target(source.at("target"), &format!("{path}.target")));
    errors.extend(one_target(kind, source.at("target"), &format!("{path}.target")));
    errors
}

fn identifier(metric: &Value, path: &str) -> FieldErrors {
    let at = format!("{path}.name");
    match metric.text("name") {
        "" => vec![FieldError::required(at, "must specify a metric name")],
        name => path_segment(&at, name),
    }
}

fn target(target: &Value, path: &str) -> FieldErrors {
    let mut errors = Vec::new();
    if target.text("type").is_empty() {
        errors.push(FieldError::required(
            format!("{path}.type"),
            "must specify a metric target type",
        ));
    }
    match target.text("type") {
        "Utilization" | "Value" | "AverageValue" => {}
        other => errors.push(FieldError::invalid(
            format!("{path}.type"),
            other,
            "must be either Utilization, Value, or AverageValue",
        )),
    }
    for key in ["value", "averageValue"] {
        let amount = target.at(key).as_str().and_then(|q| Quantity::parse(q).ok());
        if let Some(amount) = amount.filter(|q| q.is_negative() || q.is_zero()) {
            let at = format!("{path}.{key}");
            errors.push(FieldError::invalid(at, amount.to_string(), "must be positive"));
        }
    }
    if let Some(percent) = target.int("averageUtilization").filter(|n| *n < 1) {
        let at = format!("{path}.averageUtilization");
        errors.push(FieldError::invalid(at, percent, "must be greater than 0"));
    }
    errors
}

/// Which of the targets a source needs, and which exclude one another.
fn one_target(kind: &str, target: &Value, path: &str) -> FieldErrors {
    let has = |key: &str| target.has(key);
    let (key, detail) = match kind {
        "object" if !has("value") && !has("averageValue") => {
            ("averageValue", "must set either a target value or averageValue")
        }
        "external" if !has("value") && !has("averageValue") => (
            "averageValue",
            "must set either a target value for metric or a per-pod target",
        ),
        "external" if has("value") && has("averageValue") => {
            let detail = "may not set both a target value for metric and a per-pod target";
            return vec![FieldError::forbidden(format!("{path}.value"), detail)];
        }
        "pods" if !has("averageValue") => ("averageValue", "must specify a positive target averageValue"),
        "resource" | "containerResource" if !has("averageUtilization") && !has("averageValue") => (
            "averageUtilization",
            "must set either a target raw value or a target utilization",
        ),
        "resource" | "containerResource" if has("averageUtilization") && has("averageValue") => {
            let detail = "may not set both a target raw value and a target utilization";
            return vec![FieldError::forbidden(format!("{path}.averageValue"), detail)];
        }
        _ => return Vec::new(),
    };
    vec![FieldError::required(format!("{path}.{key}"), detail)]
}

fn scaling_rules(rules: &Value, path: &str) -> FieldErrors {
    let mut errors = Vec::new();
    if let Some(window) = rules.int("stabilizationWindowSeconds") {
        let at = format!("{path}.stabilizationWindowSeconds");
        if window < 0 {
            let detail = "must be greater than or equal to zero";
            errors.push(FieldError::invalid(at, window, detail));
        } else if window > LONGEST_WINDOW {
            let detail = format!("must be less than or equal to {LONGEST_WINDOW}");
            errors.push(FieldError::invalid(at, window, detail));
        }
    }
    errors.extend(maybe_one_of(
        rules,
        "selectPolicy",
        path,
        &["Disabled", "Max", "Min"],
    ));
    let policies = rules.list("policies");
    if policies.is_empty() {
        let detail = "must specify at least one Policy";
        errors.push(FieldError::required(format!("{path}.policies"), detail));
    }
    for (i, policy) in policies.iter().enumerate() {
        errors.extend(scaling_policy(policy, &format!("{path}.policies[{i}]")));
    }
    let tolerance = rules.at("tolerance").as_str();
    let tolerance = tolerance.and_then(|text| Quantity::parse(text).ok());
    if let Some(amount) = tolerance.filter(Quantity::is_negative) {
        let at = format!("{path}.tolerance");
        errors.push(FieldError::invalid(at, amount.to_string(), NOT_NEGATIVE));
    }
    errors
}

fn scaling_policy(policy: &Value, path: &str) -> FieldErrors {
    let mut errors = Vec::new();
    let kind = policy.text("type");
    if !["Pods", "Percent"].contains(&kind) {
        let at = format!("{path}.type");
        errors.push(FieldError::not_supported(at, kind, &["Percent", "Pods"]));
    }
    for key in ["value", "periodSeconds"] {
        let number = policy.int(key).unwrap_or(0);
        if number <= 0 {
            let detail = "must be greater than zero";
            errors.push(FieldError::invalid(format!("{path}.{key}"), number, detail));
        }
    }
    if let Some(period) = policy.int("periodSeconds").filter(|n| *n > LONGEST_PERIOD) {
        let detail = format!("must be less than or equal to {LONGEST_PERIOD}");
        errors.push(FieldError::invalid(
            format!("{path}.periodSeconds"),
            period,
            detail,
        ));
    }
    errors
}

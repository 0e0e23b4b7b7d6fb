//! ResourceQuotas and LimitRanges.
use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{NOT_NEGATIVE, Seen, complain};
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::names;
use crate::kinds::quantity::Quantity;
use crate::kinds::view::View;

/// Resources without a domain that a quota may name.
const QUOTA: [&str; 19] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "persistentvolumeclaims",
    "configmaps",
    "services.nodeports",
    "services.loadbalancers",
];
/// Counts of objects: whole numbers.
const COUNTS: [&str; 9] = [
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];
const POD_COMPUTE: [&str; 7] = [
    "pods",
    "cpu",
    "memory",
    "limits.cpu",
    "limits.memory",
    "requests.cpu",
    "requests.memory",
];
const CONTAINER: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
const SCOPES: [&str; 7] = [
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "VolumeAttributesClass",
    "CrossNamespacePodAffinity",
];
const CONFLICTS: [[&str; 2]; 2] = [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]];
const EXISTS_ONLY: &str = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, \
    ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or \
    ResourceQuotaScopeCrossNamespacePodAffinity";

pub fn quota(object: &Value) -> FieldErrors {
    let spec = object.at("spec");
    let mut errors = amounts(spec.at("hard"), "spec.hard");
    errors.extend(scopes(spec));
    errors.extend(scope_selector(spec));
    errors
}

pub fn quota_update(subresource: Option<&str>, new: &Value, old: &Value) -> FieldErrors {
    if subresource == Some("status") {
        let mut errors = amounts(new.at("status.hard"), "status.hard");
        errors.extend(amounts(new.at("status.used"), "status.used"));
        return errors;
    }
    let set = |quota: &Value| -> BTreeSet<String> {
        let scopes = quota.list("spec.scopes").iter().filter_map(Value::as_str);
        scopes.map(str::to_owned).collect()
    };
    let mut errors = quota(new);
    if set(new) != set(old) {
        let now = new.at("spec.scopes").clone();
        errors.push(FieldError::invalid("spec.scopes", now, super::IMMUTABLE));
    }
    errors
}

fn amounts(list: &Value, path: &str) -> FieldErrors {
    let mut errors = Vec::new();
    for (name, amount) in list.as_object().into_iter().flatten() {
        let at = format!("{path}[{name}]");
        errors.extend(resource_name(
            name,
            &at,
            &QUOTA,
            "must be a standard resource for quota",
        ));
        let Some(quantity) = quantity(amount) else {
            continue;
        };
        if quantity.is_negative() {
            let detail = NOT_NEGATIVE;
            errors.push(FieldError::invalid(at.as_str(), quantity.to_string(), detail));
        }
        let whole = COUNTS.contains(&name.as_str()) || name.starts_with("count/") || is_extended(name);
        if whole && !quantity.is_integer() {
            errors.push(FieldError::invalid(
                at,
                quantity.to_string(),
                "must be an integer",
            ));
        }
    }
    errors
}

fn quantity(amount: &Value) -> Option<Quantity> {
    Quantity::parse(amount.as_str()?).ok()
}

fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/") && !name.starts_with("requests.")
}

/// A qualified name that, without a domain, is one of `standard`.
fn resource_name(name: &str, path: &str, standard: &[&str], otherwise: &str) -> FieldErrors {
    let mut errors = complain(path, name, names::qualified(name));
    let plain = !name.contains('/') && !is_hugepages(name);
    if errors.is_empty() && plain && !QUOTA.contains(&name) && name != "storage" {
        let detail = "must be a standard resource type or fully qualified";
        errors.push(FieldError::invalid(path, name, detail));
    }
    if plain && !otherwise.is_empty() && !standard.contains(&name) {
        errors.push(FieldError::invalid(path, name, otherwise));
    }
    errors
}

fn is_hugepages(name: &str) -> bool {
    name.starts_with("hugepages-") || name.starts_with("requests.hugepages-")
}

fn scopes(spec: &Value) -> FieldErrors {
    let list = spec.list("scopes");
    let shown = || FieldError::invalid("spec.scopes", list.to_vec(), "");
    let said: Vec<&str> = list.iter().filter_map(Value::as_str).collect();
    let mut errors = Vec::new();
    for scope in &said {
        if !SCOPES.contains(scope) {
            errors.push(with_detail(shown(), "unsupported scope"));
        }
        let misapplied = misapplied(spec, scope);
        errors.extend((0..misapplied).map(|_| with_detail(shown(), "unsupported scope applied to resource")));
    }
    if conflicting(&said) {
        errors.push(with_detail(shown(), "conflicting scopes"));
    }
    errors
}

fn with_detail(error: FieldError, detail: &str) -> FieldError {
    FieldError {
        detail: detail.into(),
        ..error
    }
}

/// How many resources of the quota a scope cannot apply to.
fn misapplied(spec: &Value, scope: &str) -> usize {
    let fits = |name: &str| match scope {
        "BestEffort" => name == "pods",
        "VolumeAttributesClass" => name == "persistentvolumeclaims" || name == "requests.storage",
        scope if SCOPES.contains(&scope) => POD_COMPUTE.contains(&name),
        _ => true,
    };
    let names = spec
        .map("hard")
        .into_iter()
        .flatten()
        .map(|(name, _)| name.as_str());
    names.filter(|name| QUOTA.contains(name) && !fits(name)).count()
}

fn conflicting(scopes: &[&str]) -> bool {
    CONFLICTS
        .iter()
        .any(|pair| pair.iter().all(|s| scopes.contains(s)))
}

fn scope_selector(spec: &Value) -> FieldErrors {
    let path = "spec.scopeSelector.matchExpressions";
    let mut errors = Vec::new();
    let expressions = spec.list("scopeSelector.matchExpressions");
    for expression in expressions {
        let (scope, operator) = (expression.text("scopeName"), expression.text("operator"));
        let values = expression.list("values");
        if !SCOPES.contains(&scope) {
            let at = format!("{path}.scopeName");
            errors.push(FieldError::invalid(at, scope, "unsupported scope"));
        }
        let selector = spec.at("scopeSelector");
        let detail = "unsupported scope applied to resource";
        errors.extend(
            (0..misapplied(spec, scope)).map(|_| FieldError::invalid(path, selector.clone(), detail)),
        );
        let valued = matches!(scope, "PriorityClass" | "VolumeAttributesClass");
        if SCOPES.contains(&scope) && !valued && operator != "Exists" {
            let at = format!("{path}.operator");
            errors.push(FieldError::invalid(at, operator, EXISTS_ONLY));
        }
        errors.extend(operator_values(operator, values, path));
    }
    let said: Vec<&str> = expressions.iter().map(|e| e.text("scopeName")).collect();
    if conflicting(&said) {
        let now = spec.list("scopes").to_vec();
        errors.push(FieldError::invalid(path, now, "conflicting scopes"));
    }
    errors
}

fn operator_values(operator: &str, values: &[Value], path: &str) -> Option<FieldError> {
    let at = format!("{path}.values");
    match operator {
        "In" | "NotIn" if values.is_empty() => Some(FieldError::required(
            at,
            "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
        )),
        "Exists" | "DoesNotExist" if !values.is_empty() => Some(FieldError::invalid(
            at,
            values.to_vec(),
            "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector",
        )),
        "In" | "NotIn" | "Exists" | "DoesNotExist" => None,
        other => Some(FieldError::invalid(
            format!("{path}.operator"),
            other,
            "not a valid selector operator",
        )),
    }
}

pub fn limit_range(object: &Value) -> FieldErrors {
    let (mut errors, mut seen) = (Vec::new(), Seen::default());
    for (i, limit) in object.list("spec.limits").iter().enumerate() {
        let (path, kind) = (format!("spec.limits[{i}]"), limit.text("type"));
        errors.extend(limit_type(kind, &format!("{path}.type")));
        if seen.again(kind) {
            errors.push(FieldError::duplicate(format!("{path}.type"), kind));
        }
        errors.extend(limit_names(limit, kind, &path));
        errors.extend(limit_amounts(limit, &path));
    }
    errors
}

pub fn limit_range_update(_: Option<&str>, new: &Value, _: &Value) -> FieldErrors {
    limit_range(new)
}

fn limit_type(kind: &str, path: &str) -> FieldErrors {
    let mut errors = complain(path, kind, names::qualified(kind));
    let standard = ["Pod", "Container", "PersistentVolumeClaim"].contains(&kind);
    if errors.is_empty() && !kind.contains('/') && !standard {
        let detail = "must be a standard limit type or fully qualified";
        errors.push(FieldError::invalid(path, kind, detail));
    }
    errors
}

fn limit_names(limit: &Value, kind: &str, path: &str) -> FieldErrors {
    let mut errors = Vec::new();
    let mut check = |key: &str| {
        for (name, _) in limit.map(key).into_iter().flatten() {
            let at = format!("{path}.{key}[{name}]");
            errors.extend(match kind {
                "Pod" | "Container" => resource_name(
                    name,
                    &at,
                    &CONTAINER,
                    "must be a standard resource for containers",
                ),
                _ => resource_name(name, &at, &[QUOTA.as_slice(), &["storage"]].concat(), ""),
            });
        }
    };
    check("max");
    check("min");
    if kind != "Pod" {
        check("default");
        check("defaultRequest");
    }
    check("maxLimitRequestRatio");
    if kind == "Pod" {
        for key in ["default", "defaultRequest"] {
            if limit.map(key).is_some_and(|map| !map.is_empty()) {
                let detail = "may not be specified when `type` is 'Pod'";
                errors.push(FieldError::forbidden(format!("{path}.{key}"), detail));
            }
        }
    }
    let storage = |key: &str| limit.at(key).get("storage").is_some();
    if kind == "PersistentVolumeClaim" && !storage("min") && !storage("max") {
        let detail = "either minimum or maximum storage value is required, but neither was provided";
        errors.push(FieldError::required(format!("{path}.limits"), detail));
    }
    errors
}

/// The amounts of one resource, by where they stand.
type Amounts = BTreeMap<&'static str, Quantity>;

const PLACES: [&str; 5] = ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"];

fn limit_amounts(limit: &Value, path: &str) -> FieldErrors {
    let mut resources: BTreeMap<&str, Amounts> = BTreeMap::new();
    for place in PLACES {
        for (name, amount) in limit.map(place).into_iter().flatten() {
            if let Some(quantity) = quantity(amount) {
                resources.entry(name).or_default().insert(place, quantity);
            }
        }
    }
    let checked = resources.iter().flat_map(|(name, amounts)| {
        let mut errors = order(name, amounts, path);
        errors.extend(ratio(name, amounts, path));
        errors.extend(exact(name, amounts, path));
        errors
    });
    checked.collect()
}

/// The smaller, the greater, where the complaint belongs, and how upstream names both.
const ORDER: [(&str, &str, &str, &str, &str); 6] = [
    ("min", "max", "min", "min value", "max value"),
    (
        "min",
        "defaultRequest",
        "defaultRequest",
        "min value",
        "default request value",
    ),
    (
        "defaultRequest",
        "max",
        "defaultRequest",
        "default request value",
        "max value",
    ),
    (
        "defaultRequest",
        "default",
        "defaultRequest",
        "default request value",
        "default limit value",
    ),
    ("min", "default", "default", "min value", "default value"),
    ("default", "max", "default", "default value", "max value"),
];

fn order(name: &str, amounts: &Amounts, path: &str) -> FieldErrors {
    let mut errors = Vec::new();
    for (small, great, place, small_name, great_name) in ORDER {
        let (Some(low), Some(high)) = (amounts.get(small), amounts.get(great)) else {
            continue;
        };
        if low > high {
            let shown = match (small, great) {
                ("default", "max") => high,
                ("min", "defaultRequest") => high,
                _ => low,
            };
            let detail = format!("{small_name} {low} is greater than {great_name} {high}");
            let at = format!("{path}.{place}[{name}]");
            errors.push(FieldError::invalid(at, shown.to_string(), detail));
        }
    }
    errors
}

/// What cannot be overcommitted is granted as it is asked for.
fn exact(name: &str, amounts: &Amounts, path: &str) -> Option<FieldError> {
    let (default, request) = (amounts.get("default")?, amounts.get("defaultRequest")?);
    let native = !name.contains('/') || name.contains("kubernetes.io/");
    if native && !is_hugepages(name) || default.nanos() == request.nanos() {
        return None;
    }
    let why = format!("default value {default} must equal to defaultRequest value {request} in {name}");
    let at = format!("{path}.defaultRequest[{name}]");
    Some(FieldError::invalid(at, request.to_string(), why))
}

fn ratio(name: &str, amounts: &Amounts, path: &str) -> FieldErrors {
    let Some(ratio) = amounts.get("maxLimitRequestRatio") else {
        return Vec::new();
    };
    let at = format!("{path}.maxLimitRequestRatio[{name}]");
    let mut errors = Vec::new();
    if ratio.nanos() < 1_000_000_000 {
        let detail = format!("ratio {ratio} is less than 1");
        errors.push(FieldError::invalid(at.as_str(), ratio.to_string(), detail));
    }
    if let (Some(min), Some(max)) = (amounts.get("min"), amounts.get("max")) {
        let limit = as_float(max) / as_float(min);
        if as_float(ratio) / 1000.0 > limit {
            let detail = format!("ratio {ratio} is greater than max/min = {limit:.6}");
            errors.push(FieldError::invalid(at, ratio.to_string(), detail));
        }
    }
    errors
}

/// Thousandths, as far as a float holds them: ratios are compared, not stored.
fn as_float(quantity: &Quantity) -> f64 {
    quantity.milli_value().to_string().parse().unwrap_or(f64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::error::join;
    use serde_json::json;

    #[test]
    fn quotas() {
        let check = |spec: Value| join(&quota(&json!({"spec": spec})));
        assert_eq!(
            check(json!({"hard": {"pods": "1", "count/jobs.batch": "2", "requests.cpu": "1500m"}})),
            "[]"
        );
        assert_eq!(
            check(json!({"hard": {"pods": "1500m"}})),
            "spec.hard[pods]: Invalid value: \"1500m\": must be an integer"
        );
        assert!(
            check(json!({"hard": {"cpu": "1"}, "scopes": ["BestEffort"]})).contains("applied to resource")
        );
        assert!(check(json!({"scopes": ["BestEffort", "NotBestEffort"]})).contains("conflicting scopes"));
    }

    #[test]
    fn limits() {
        let check = |limit: Value| join(&limit_range(&json!({"spec": {"limits": [limit]}})));
        assert_eq!(
            check(json!({"type": "Container", "min": {"cpu": "1"}, "max": {"cpu": "2"}})),
            "[]"
        );
        assert_eq!(
            check(json!({"type": "Container", "min": {"cpu": "3"}, "max": {"cpu": "2"}})),
            "spec.limits[0].min[cpu]: Invalid value: \"3\": min value 3 is greater than max value 2"
        );
        assert!(check(json!({"type": "Pod", "default": {"cpu": "1"}})).contains("may not be specified"));
    }
}

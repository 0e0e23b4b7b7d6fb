//! Nodes.
use std::cmp::Ordering;

use ipnet::IpNet;
use serde_json::Value;

use super::pod_update::taint_effects;
use super::{NOT_NEGATIVE, Seen, cidr, complain, one_of};
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::names;
use crate::kinds::quantity::Quantity;
use crate::kinds::view::View;

const LONGEST_FEATURE: usize = 253;
const FEATURE: &str = "must start with an UpperCamelCase segment, with subsequent segments separated by '/' (e.g., \
    MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes";

pub fn create(node: &Value) -> FieldErrors {
    let mut errors = taints(node.list("spec.taints"));
    errors.extend(declared_features(node));
    errors.extend(amounts(node, "capacity"));
    errors.extend(amounts(node, "allocatable"));
    let ranges = node.list("spec.podCIDRs");
    let texts: Vec<&str> = ranges.iter().filter_map(Value::as_str).collect();
    for (i, range) in texts.iter().enumerate() {
        errors.extend(cidr(&format!("spec.podCIDRs[{i}]"), range));
    }
    let nets: Vec<IpNet> = texts.iter().filter_map(|text| text.parse().ok()).collect();
    let both = [true, false]
        .iter()
        .all(|v4| nets.iter().any(|net| net.addr().is_ipv4() == *v4));
    if texts.len() > 1 && (!both || texts.len() > 2) {
        let detail = "may specify no more than one CIDR for each IP family";
        errors.push(FieldError::invalid("spec.podCIDRs", ranges.to_vec(), detail));
    }
    errors
}

pub fn update(_: Option<&str>, new: &Value, old: &Value) -> FieldErrors {
    let mut errors = amounts(new, "capacity");
    errors.extend(amounts(new, "allocatable"));
    errors.extend(declared_features(new));
    let mut seen = Seen::default();
    for (i, address) in new.list("status.addresses").iter().enumerate() {
        if seen.again(address.to_string()) {
            errors.push(FieldError {
                bad_value: format!(
                    "{{\"Type\":{},\"Address\":{}}}",
                    address["type"], address["address"]
                ),
                ..FieldError::duplicate_part(format!("status.addresses[{i}]"))
            });
        }
    }
    for (key, field) in [("podCIDRs", "podCIDR"), ("providerID", "providerID")] {
        let path = format!("spec.{key}");
        if old.has(&path) && new.at(&path) != old.at(&path) {
            let detail = format!("node updates may not change {field} except from \"\" to valid");
            errors.push(FieldError::forbidden(path, detail));
        }
    }
    errors.extend(taints(new.list("spec.taints")));
    errors
}

/// What the node says it can do: names in order, each once (KEP-5328).
fn declared_features(node: &Value) -> FieldErrors {
    let mut errors = Vec::new();
    let names: Vec<&str> = node
        .list("status.declaredFeatures")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    for (i, name) in names.iter().enumerate() {
        let at = format!("status.declaredFeatures[{i}]");
        match i.checked_sub(1).map(|before| names[before].cmp(name)) {
            Some(Ordering::Equal) => errors.push(FieldError::duplicate(&at, *name)),
            Some(Ordering::Greater) => {
                errors.push(FieldError::invalid(
                    &at,
                    *name,
                    "list must be sorted alphabetically",
                ));
            }
            Some(Ordering::Less) | None => {}
        }
        if let Some(complaint) = bad_feature(name) {
            errors.push(FieldError::invalid(&at, *name, complaint));
        }
    }
    errors
}

fn bad_feature(name: &str) -> Option<String> {
    let letters = |part: &str| part.chars().all(|c| c.is_ascii_alphanumeric());
    let begins = |part: &str| part.starts_with(|c: char| c.is_ascii_alphabetic());
    let is_good = name.starts_with(|c: char| c.is_ascii_uppercase())
        && name.split('/').all(|part| begins(part) && letters(part));
    let complaint = match (name.len() > LONGEST_FEATURE, is_good) {
        (true, _) => format!("must be no more than {LONGEST_FEATURE} characters"),
        (false, false) => FEATURE.to_owned(),
        (false, true) => return None,
    };
    Some(format!("invalid feature name {name:?}: {complaint}"))
}

/// Upstream looks for taints in the metadata.
fn taints(taints: &[Value]) -> FieldErrors {
    let (mut errors, mut seen) = (Vec::new(), Seen::default());
    for (i, taint) in taints.iter().enumerate() {
        let at = format!("metadata.taints[{i}]");
        let (key, value, effect) = (taint.text("key"), taint.text("value"), taint.text("effect"));
        errors.extend(complain(format_args!("{at}.key"), key, names::qualified(key)));
        let complaints = names::label_value(value);
        if !complaints.is_empty() {
            let at = format!("{at}.value");
            errors.push(FieldError::invalid(at, value, complaints.join(";")));
        }
        errors.extend(one_of(format_args!("{at}.effect"), effect, taint_effects()));
        if seen.again(format!("{key}:{effect}")) {
            let texts = [key, value, effect].map(Value::from);
            errors.push(FieldError {
                bad_value: format!(
                    "{{\"Key\":{},\"Value\":{},\"Effect\":{},\"TimeAdded\":{}}}",
                    texts[0], texts[1], texts[2], taint["timeAdded"]
                ),
                detail: "taints must be unique by key and effect pair".to_owned(),
                ..FieldError::duplicate_part(at)
            });
        }
    }
    errors
}

fn amounts(node: &Value, list: &str) -> FieldErrors {
    let mut errors = Vec::new();
    for (name, amount) in node.at("status").map(list).into_iter().flatten() {
        let quantity = amount.as_str().and_then(|a| Quantity::parse(a).ok());
        if let Some(quantity) = quantity.filter(Quantity::is_negative) {
            let path = format!("status.{list}.{name}");
            errors.push(FieldError::invalid(path, quantity.to_string(), NOT_NEGATIVE));
        }
    }
    errors
}

//! Nodes.
use serde_json::Value;

use super::pod_update::taint_effects;
use super::{NOT_NEGATIVE, Seen, cidr, complain, one_of};
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::names;
use crate::kinds::quantity::Quantity;
use crate::kinds::view::View;

pub fn create(node: &Value) -> FieldErrors {
    let mut errors = taints(node.list("spec.taints"));
    errors.extend(amounts(node, "capacity"));
    errors.extend(amounts(node, "allocatable"));
    for (i, range) in node
        .list("spec.podCIDRs")
        .iter()
        .filter_map(Value::as_str)
        .enumerate()
    {
        errors.extend(cidr(&format!("spec.podCIDRs[{i}]"), range));
    }
    errors
}

pub fn update(subresource: Option<&str>, new: &Value, old: &Value) -> FieldErrors {
    let (mut errors, mut seen) = (Vec::new(), Seen::default());
    let addresses = new.list("status.addresses");
    for (i, address) in addresses.iter().enumerate() {
        if seen.again(address.to_string()) {
            errors.push(FieldError::duplicate(
                format!("status.addresses[{i}]"),
                address.clone(),
            ));
        }
    }
    if subresource == Some("status") {
        errors.extend(amounts(new, "capacity"));
        errors.extend(amounts(new, "allocatable"));
        return errors;
    }
    for (key, field) in [("podCIDRs", "podCIDR"), ("providerID", "providerID")] {
        let path = format!("spec.{key}");
        if old.has(&path) && new.at(&path) != old.at(&path) {
            let detail = format!("node updates may not change {field} except from \"\" to valid");
            errors.push(FieldError::forbidden(path, detail));
        }
    }
    errors.extend(create(new));
    errors
}

fn taints(taints: &[Value]) -> FieldErrors {
    let (mut errors, mut seen) = (Vec::new(), Seen::default());
    for (i, taint) in taints.iter().enumerate() {
        let at = format!("spec.taints[{i}]");
        let (key, value, effect) = (taint.text("key"), taint.text("value"), taint.text("effect"));
        errors.extend(complain(&format!("{at}.key"), key, names::qualified(key)));
        let complaints = names::label_value(value);
        if !complaints.is_empty() {
            errors.push(FieldError::invalid(
                format!("{at}.value"),
                value,
                complaints.join(";"),
            ));
        }
        errors.extend(one_of(format!("{at}.effect"), effect, taint_effects()));
        if seen.again(format!("{key}:{effect}")) {
            errors.push(FieldError::duplicate(at, taint.clone()));
        }
    }
    errors
}

fn amounts(node: &Value, list: &str) -> FieldErrors {
    let mut errors = Vec::new();
    for (name, amount) in node.at("status").map(list).into_iter().flatten() {
        let quantity = amount.as_str().and_then(|a| Quantity::parse(a).ok());
        if let Some(quantity) = quantity.filter(Quantity::is_negative) {
            let path = format!("status.{list}[{name}]");
            errors.push(FieldError::invalid(path, quantity.to_string(), NOT_NEGATIVE));
        }
    }
    errors
}

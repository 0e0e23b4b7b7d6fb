//! Defaults of Namespaces, Nodes and Secrets.
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::resources;
use crate::kinds::view::{View, existing_mut, object_mut, set_zero};

/// Label with a namespace's own name. KEP-2161.
const NAMESPACE_LABEL: &str = "kubernetes.io/metadata.name";

pub fn namespace(object: &mut Value) {
    let name = object.text("metadata.name").to_owned();
    if !name.is_empty()
        && let Some(labels) = object_mut(object, "metadata.labels")
    {
        labels.insert(NAMESPACE_LABEL.into(), name.into());
    }
    if let Some(status) = object_mut(object, "status") {
        set_zero(status, "phase", "Active");
    }
}

pub fn node(object: &mut Value) {
    let Some(status) = object.get_mut("status") else {
        return;
    };
    if !status.has("allocatable") && status.has("capacity") {
        let capacity = status.clone();
        if let Some(map) = status.as_object_mut() {
            map.insert("allocatable".into(), capacity.at("capacity").clone());
        }
    }
    for key in ["capacity", "allocatable"] {
        if let Some(list) = status.get_mut(key) {
            resources::round_up(list);
        }
    }
    if object.text("spec.podCIDR").is_empty() && !object.list("spec.podCIDRs").is_empty() {
        first_pod_cidr(object);
    } else if object.has("spec.podCIDR") && object.list("spec.podCIDRs").is_empty() {
        pod_cidrs(object);
    }
}

fn first_pod_cidr(object: &mut Value) {
    let first = object.list("spec.podCIDRs")[0].clone();
    if let Some(spec) = existing_mut(object, "spec") {
        spec.insert("podCIDR".into(), first);
    }
}

fn pod_cidrs(object: &mut Value) {
    let only = object.at("spec.podCIDR").clone();
    if let Some(spec) = existing_mut(object, "spec") {
        spec.insert("podCIDRs".into(), Value::Array(vec![only]));
    }
}

/// Type, and `stringData` folded into `data`: it is only ever written, never served.
pub fn secret(object: &mut Value) {
    let Some(map) = object.as_object_mut() else { return };
    set_zero(map, "type", "Opaque");
    let Some(Value::Object(plain)) = map.remove("stringData") else {
        return;
    };
    if plain.is_empty() {
        return;
    }
    if let Some(data) = object_mut(object, "data") {
        for (key, value) in plain {
            let encoded = STANDARD.encode(value.as_str().unwrap_or_default());
            data.insert(key, encoded.into());
        }
    }
}

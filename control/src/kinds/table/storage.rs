//! Rows of PersistentVolumes, claims, quotas and limits, and of what `storage.k8s.io` has.
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{age, name};
use crate::kinds::view::View;

/// Access modes in the order in which they are listed, and their short forms.
const ACCESS: [(&str, &str); 4] = [
    ("ReadWriteOnce", "RWO"),
    ("ReadOnlyMany", "ROX"),
    ("ReadWriteMany", "RWX"),
    ("ReadWriteOncePod", "RWOP"),
];
const UNSET: &str = "<unset>";

fn access(modes: &[Value]) -> String {
    let short = ACCESS
        .iter()
        .filter(|(long, _)| modes.iter().any(|m| m == long))
        .map(|(_, short)| *short);
    short.collect::<Vec<_>>().join(",")
}

fn or_unset(value: &Value) -> Value {
    json!(value.as_str().unwrap_or(UNSET))
}

fn phase(object: &Value) -> Value {
    match object.has("metadata.deletionTimestamp") {
        true => json!("Terminating"),
        false => json!(object.text("status.phase")),
    }
}

/// The class in the spec, or in the annotation that came before it.
fn class(object: &Value) -> Value {
    let old = object
        .at("metadata.annotations")
        .get("volume.beta.kubernetes.io/storage-class");
    match old.and_then(Value::as_str) {
        Some(class) => json!(class),
        None => json!(object.text("spec.storageClassName")),
    }
}

pub fn volume(object: &Value, now: Timestamp) -> Vec<Value> {
    let claim = match object.at("spec.claimRef") {
        Value::Null => String::new(),
        claim => format!("{}/{}", claim.text("namespace"), claim.text("name")),
    };
    vec![
        name(object),
        json!(object.text("spec.capacity.storage")),
        json!(access(object.list("spec.accessModes"))),
        json!(object.text("spec.persistentVolumeReclaimPolicy")),
        phase(object),
        json!(claim),
        class(object),
        or_unset(object.at("spec.volumeAttributesClassName")),
        json!(object.text("status.reason")),
        age(object, now),
        or_unset(object.at("spec.volumeMode")),
    ]
}

pub fn claim(object: &Value, now: Timestamp) -> Vec<Value> {
    let volume = object.text("spec.volumeName");
    let (capacity, modes) = match (volume, object.text("status.capacity.storage")) {
        ("", _) => ("", String::new()),
        (_, capacity) => (
            if capacity.is_empty() { "0" } else { capacity },
            access(object.list("status.accessModes")),
        ),
    };
    vec![
        name(object),
        phase(object),
        json!(volume),
        json!(capacity),
        json!(modes),
        class(object),
        or_unset(object.at("spec.volumeAttributesClassName")),
        age(object, now),
        or_unset(object.at("spec.volumeMode")),
    ]
}

pub fn quota(object: &Value, now: Timestamp) -> Vec<Value> {
    let line = |wanted: &dyn Fn(&str) -> bool| {
        let used = |name: &str| {
            object
                .at("status.used")
                .get(name)
                .and_then(Value::as_str)
                .unwrap_or("0")
        };
        let hard = object.map("status.hard").into_iter().flatten();
        let mut limited: Vec<(&String, &Value)> = hard.filter(|(name, _)| wanted(name)).collect();
        limited.sort_by_key(|(name, _)| *name);
        let parts = limited
            .into_iter()
            .map(|(name, hard)| format!("{name}: {}/{}", used(name), hard.as_str().unwrap_or("0")));
        json!(parts.collect::<Vec<_>>().join(", "))
    };
    let is_limit = |name: &str| name.starts_with("limits.");
    vec![
        name(object),
        line(&|name| !is_limit(name)),
        line(&is_limit),
        age(object, now),
    ]
}

fn yes_or_no(value: &Value) -> Value {
    json!(value.as_bool().unwrap_or(false))
}

pub fn storage_class(object: &Value, now: Timestamp) -> Vec<Value> {
    let annotations = object.at("metadata.annotations");
    let default = annotations
        .get("storageclass.kubernetes.io/is-default-class")
        .is_some_and(|v| v == "true")
        || annotations
            .get("storageclass.beta.kubernetes.io/is-default-class")
            .is_some_and(|v| v == "true");
    let mark = if default { " (default)" } else { "" };
    vec![
        json!(format!("{}{mark}", object.text("metadata.name"))),
        json!(object.text("provisioner")),
        json!(object.text("reclaimPolicy")),
        json!(object.text("volumeBindingMode")),
        yes_or_no(object.at("allowVolumeExpansion")),
        age(object, now),
    ]
}

pub fn csi_driver(object: &Value, now: Timestamp) -> Vec<Value> {
    let spec = object.at("spec");
    let texts = |items: &[Value], key: Option<&str>| {
        let texts = items
            .iter()
            .map(|i| key.map_or(i.as_str().unwrap_or_default(), |k| i.text(k)));
        texts.collect::<Vec<_>>().join(",")
    };
    let audiences = texts(spec.list("tokenRequests"), Some("audience"));
    let modes = texts(spec.list("volumeLifecycleModes"), None);
    vec![
        name(object),
        json!(spec.at("attachRequired").as_bool().unwrap_or(true)),
        yes_or_no(spec.at("podInfoOnMount")),
        yes_or_no(spec.at("storageCapacity")),
        json!(if audiences.is_empty() { UNSET } else { &audiences }),
        yes_or_no(spec.at("requiresRepublish")),
        json!(if modes.is_empty() { "<none>" } else { &modes }),
        age(object, now),
    ]
}

pub fn csi_node(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        json!(object.list("spec.drivers").len()),
        age(object, now),
    ]
}

pub fn attachment(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        json!(object.text("spec.attacher")),
        json!(object.text("spec.source.persistentVolumeName")),
        json!(object.text("spec.nodeName")),
        yes_or_no(object.at("status.attached")),
        age(object, now),
    ]
}

pub fn attributes_class(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), json!(object.text("driverName")), age(object, now)]
}

//! PersistentVolumes and PersistentVolumeClaims.
use serde_json::{Map, Value};

use super::scheduling::required_terms;
use super::{NOT_NEGATIVE, complain, maybe_one_of, volumes};
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::quantity::Quantity;
use crate::kinds::view::View;
use crate::kinds::{labels, names};

const MODES: [&str; 2] = ["Block", "Filesystem"];
const ACCESS: [&str; 4] = [
    "ReadOnlyMany",
    "ReadWriteMany",
    "ReadWriteOnce",
    "ReadWriteOncePod",
];
const POSITIVE: &str = "must be greater than zero";
/// Members of a volume's spec that are not its source.
const NOT_SOURCES: [&str; 9] = [
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];
const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
const CLAIM_FROZEN: &str = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";

pub fn volume(object: &Value) -> FieldErrors {
    let spec = object.at("spec");
    let mut errors = Vec::new();
    if spec.list("accessModes").is_empty() {
        errors.push(FieldError::required("spec.accessModes", ""));
    }
    errors.extend(access_modes(spec, "spec"));
    errors.extend(capacity(spec.at("capacity")));
    errors.extend(maybe_one_of(
        spec,
        "persistentVolumeReclaimPolicy",
        "spec",
        &["Delete", "Recycle", "Retain"],
    ));
    if spec.has("nodeAffinity") {
        errors.extend(node_affinity(spec.at("nodeAffinity")));
    }
    errors.extend(source(spec));
    errors.extend(class_name(spec, "storageClassName", "spec"));
    errors.extend(maybe_one_of(spec, "volumeMode", "spec", &MODES));
    errors.extend(attributes_class(spec));
    errors
}

fn access_modes(spec: &Value, path: &str) -> FieldErrors {
    let at = format!("{path}.accessModes");
    let modes: Vec<&str> = spec
        .list("accessModes")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let mut errors: FieldErrors = modes
        .iter()
        .filter(|mode| !ACCESS.contains(mode))
        .map(|mode| FieldError::not_supported(at.as_str(), *mode, &ACCESS))
        .collect();
    let single = |mode: &&str| *mode == "ReadWriteOncePod";
    if modes.iter().any(single) && modes.iter().any(|m| !single(m) && ACCESS.contains(m)) {
        let detail = "may not use ReadWriteOncePod with other access modes";
        errors.push(FieldError::forbidden(at, detail));
    }
    errors
}

fn capacity(capacity: &Value) -> FieldErrors {
    let (path, empty) = ("spec.capacity", Map::new());
    let list = capacity.as_object().unwrap_or(&empty);
    let mut errors = Vec::new();
    if list.is_empty() {
        errors.push(FieldError::required(path, ""));
    }
    if list.len() != 1 || !list.contains_key("storage") {
        let shown = if list.is_empty() {
            Value::Null
        } else {
            capacity.clone()
        };
        errors.push(FieldError::not_supported(path, shown, &["storage"]));
    }
    for (name, amount) in list {
        errors.extend(positive(amount, &format!("{path}[{name}]")));
    }
    errors
}

fn positive(amount: &Value, path: &str) -> Option<FieldError> {
    let quantity = Quantity::parse(amount.as_str()?).ok()?;
    let bad = quantity.is_negative() || quantity.is_zero();
    bad.then(|| FieldError::invalid(path, quantity.to_string(), POSITIVE))
}

fn node_affinity(affinity: &Value) -> FieldErrors {
    let path = "spec.nodeAffinity.required";
    match affinity.has("required") {
        true => required_terms(affinity.at("required"), path),
        false => vec![FieldError::required(
            path,
            "must specify required node constraints",
        )],
    }
}

/// Exactly one source, and that one valid.
fn source(spec: &Value) -> FieldErrors {
    let members = spec.as_object().into_iter().flatten();
    let sources: Vec<&str> = members
        .filter(|(key, value)| !NOT_SOURCES.contains(&key.as_str()) && !value.is_null())
        .map(|(key, _)| key.as_str())
        .collect();
    let Some(first) = sources.first() else {
        return vec![FieldError::required("spec", "must specify a volume type")];
    };
    let mut errors = source_body(spec, first);
    for extra in &sources[1..] {
        let detail = "may not specify more than 1 volume type";
        errors.push(FieldError::forbidden(format!("spec.{extra}"), detail));
    }
    if spec.text("hostPath.path") == "/" && spec.text("persistentVolumeReclaimPolicy") == "Recycle" {
        let detail = "may not be 'recycle' for a hostPath mount of '/'";
        errors.push(FieldError::forbidden(
            "spec.persistentVolumeReclaimPolicy",
            detail,
        ));
    }
    errors
}

fn source_body(spec: &Value, kind: &str) -> FieldErrors {
    let (body, path) = (spec.at(kind), format!("spec.{kind}"));
    match kind {
        "local" => local(spec, body, &path),
        "csi" => csi(body, &path),
        _ => volumes::source_body(kind, body, &path),
    }
}

fn local(spec: &Value, body: &Value, path: &str) -> FieldErrors {
    let mut errors: FieldErrors = super::present(body, "path", path).into_iter().collect();
    errors.extend(super::no_backsteps(&format!("{path}.path"), body.text("path")));
    if !spec.has("nodeAffinity") {
        let detail = "Local volume requires node affinity";
        errors.push(FieldError::required("spec.nodeAffinity", detail));
    }
    errors
}

fn csi(body: &Value, path: &str) -> FieldErrors {
    let driver = body.text("driver");
    let mut errors = match driver {
        "" => vec![FieldError::required(format!("{path}.driver"), "")],
        _ => complain(
            &format!("{path}.driver"),
            driver,
            names::subdomain(&driver.to_lowercase()),
        ),
    };
    errors.extend(super::present(body, "volumeHandle", path));
    errors
}

fn class_name(spec: &Value, key: &str, path: &str) -> FieldErrors {
    match spec.text(key) {
        "" => Vec::new(),
        name => complain(&format!("{path}.{key}"), name, names::subdomain(name)),
    }
}

fn attributes_class(spec: &Value) -> FieldErrors {
    let key = "volumeAttributesClassName";
    let path = format!("spec.{key}");
    let Some(name) = spec.at(key).as_str() else {
        return Vec::new();
    };
    let mut errors = match name {
        "" => vec![FieldError::required(path, "an empty string is disallowed")],
        _ => class_name(spec, key, "spec"),
    };
    if !spec.has("csi") {
        let detail = "has to be specified when using volumeAttributesClassName";
        errors.push(FieldError::required("spec.csi", detail));
    }
    errors
}

pub fn volume_update(subresource: Option<&str>, new: &Value, old: &Value) -> FieldErrors {
    if subresource == Some("status") {
        return Vec::new();
    }
    let mut errors = volume(new);
    if source_of(new) != source_of(old) {
        errors.push(FieldError::forbidden(
            "spec.persistentvolumesource",
            "spec.persistentvolumesource is immutable after creation",
        ));
    }
    if new.at("spec.volumeMode") != old.at("spec.volumeMode") {
        let now = new.at("spec.volumeMode").clone();
        errors.push(FieldError::invalid("volumeMode", now, super::IMMUTABLE));
    }
    if old.has("spec.nodeAffinity") && new.at("spec.nodeAffinity") != old.at("spec.nodeAffinity") {
        let now = new.at("spec.nodeAffinity").clone();
        errors.push(FieldError::invalid("nodeAffinity", now, super::IMMUTABLE));
    }
    if old.has("spec.volumeAttributesClassName") && !new.has("spec.volumeAttributesClassName") {
        errors.push(FieldError::forbidden(
            "spec.volumeAttributesClassName",
            "update from non-nil value to nil is forbidden",
        ));
    }
    errors
}

fn source_of(volume: &Value) -> Map<String, Value> {
    let mut spec = volume.map("spec").cloned().unwrap_or_default();
    spec.retain(|key, _| !NOT_SOURCES.contains(&key.as_str()));
    spec
}

pub fn claim(object: &Value) -> FieldErrors {
    claim_spec(object.at("spec"), "spec")
}

/// The spec of a claim, also inside templates.
pub(super) fn claim_spec(spec: &Value, path: &str) -> FieldErrors {
    let mut errors = Vec::new();
    if spec.list("accessModes").is_empty() {
        let detail = "at least 1 access mode is required";
        errors.push(FieldError::required(format!("{path}.accessModes"), detail));
    }
    if spec.has("selector") {
        errors.extend(labels::validate_selector(
            spec.at("selector"),
            &format!("{path}.selector"),
        ));
    }
    errors.extend(access_modes(spec, path));
    let at = format!("{path}.resources[storage]");
    match spec.at("resources.requests").get("storage") {
        None => errors.push(FieldError::required(at, "")),
        Some(amount) => errors.extend(positive(amount, &at)),
    }
    errors.extend(class_name(spec, "storageClassName", path));
    errors.extend(maybe_one_of(spec, "volumeMode", path, &MODES));
    for key in ["dataSource", "dataSourceRef"] {
        if spec.has(key) {
            errors.extend(data_source(spec.at(key), &format!("{path}.{key}")));
        }
    }
    errors.extend(class_name(spec, "volumeAttributesClassName", path));
    errors
}

fn data_source(source: &Value, path: &str) -> FieldErrors {
    let mut errors: FieldErrors = super::present(source, "name", path).into_iter().collect();
    errors.extend(super::present(source, "kind", path));
    let (group, kind) = (source.text("apiGroup"), source.text("kind"));
    if group.is_empty() && kind != "PersistentVolumeClaim" {
        let detail = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
        errors.push(FieldError::invalid(path, kind, detail));
    }
    if !group.is_empty() {
        errors.extend(complain(
            &format!("{path}.apiGroup"),
            group,
            names::subdomain(group),
        ));
    }
    let namespace = source.text("namespace");
    if !namespace.is_empty() {
        errors.extend(complain(
            &format!("{path}.namespace"),
            namespace,
            names::label(namespace),
        ));
    }
    errors
}

pub fn claim_update(subresource: Option<&str>, new: &Value, old: &Value) -> FieldErrors {
    if subresource == Some("status") {
        return claim_status(new);
    }
    let mut errors = claim(new);
    let class = |claim: &Value| claim.at("metadata.annotations").get(BETA_CLASS).cloned();
    if class(new) != class(old) && !class_from_annotation(new, old) {
        let at = format!("metadata.annotations[{BETA_CLASS}]");
        let now = class(new).unwrap_or_else(|| "".into());
        errors.push(FieldError::invalid(at, now, super::IMMUTABLE));
    }
    if fixed_claim(new, old) != *old.at("spec") {
        errors.push(FieldError::forbidden("spec", CLAIM_FROZEN));
    }
    errors.extend(shrunk(new, old));
    if new.at("spec.volumeMode") != old.at("spec.volumeMode") {
        let now = new.at("spec.volumeMode").clone();
        errors.push(FieldError::invalid("volumeMode", now, super::IMMUTABLE));
    }
    errors
}

/// The class moved from the old annotation into the spec.
fn class_from_annotation(new: &Value, old: &Value) -> bool {
    let before = old.at("metadata.annotations").get(BETA_CLASS);
    before.is_some()
        && !old.has("spec.storageClassName")
        && Some(new.at("spec.storageClassName")) == before
        && !new
            .at("metadata.annotations")
            .as_object()
            .is_some_and(|a| a.contains_key(BETA_CLASS))
}

/// The new spec with what a claim may change put back as it was.
fn fixed_claim(new: &Value, old: &Value) -> Value {
    let (mut spec, before) = (new.at("spec").clone(), old.at("spec"));
    let bound = new.text("status.phase") == "Bound";
    let mut free = Vec::new();
    if before.text("volumeName").is_empty() {
        free.push("volumeName");
    }
    if !before.has("storageClassName") && spec.has("storageClassName") {
        free.push("storageClassName");
    }
    if bound {
        free.push("volumeAttributesClassName");
    }
    for key in free {
        crate::kinds::view::copy_member(&mut spec, before, key);
    }
    if bound && let Some(requests) = spec.pointer_mut("/resources/requests") {
        crate::kinds::view::copy_member(requests, before.at("resources.requests"), "storage");
    }
    spec
}

/// A claim may ask for less than it asked only while it has not got it.
fn shrunk(new: &Value, old: &Value) -> Option<FieldError> {
    let amount = |claim: &Value, path: &str| Quantity::parse(claim.text(path)).ok();
    let path = "spec.resources.requests.storage";
    let (now, before) = (amount(new, path)?, amount(old, path)?);
    if now >= before {
        return None;
    }
    let given = amount(old, "status.capacity.storage");
    let detail = "field can not be less than status.capacity";
    given
        .is_some_and(|given| now <= given)
        .then(|| FieldError::forbidden(path, detail))
}

fn claim_status(new: &Value) -> FieldErrors {
    let amounts = new.map("status.capacity").into_iter().flatten();
    let negative = amounts.filter_map(|(name, amount)| {
        let quantity = Quantity::parse(amount.as_str()?).ok()?;
        let at = format!("status.capacity[{name}]");
        quantity
            .is_negative()
            .then(|| FieldError::invalid(at, quantity.to_string(), NOT_NEGATIVE))
    });
    negative.collect()
}

//! PersistentVolumes and PersistentVolumeClaims.
use serde_json::{Map, Value};

use super::scheduling::required_terms;
use super::{complain, maybe_one_of, volume_affinity, volume_sources};
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
/// Secrets that a CSI driver is given.
const SECRETS: [&str; 4] = [
    "controllerPublishSecretRef",
    "controllerExpandSecretRef",
    "nodePublishSecretRef",
    "nodeExpandSecretRef",
];
/// How far the growth of a volume may be.
const RESIZES: [&str; 5] = [
    "ControllerResizeInProgress",
    "ControllerResizeInfeasible",
    "NodeResizeInProgress",
    "NodeResizeInfeasible",
    "NodeResizePending",
];
const GROUPS_OF_SOURCES: [&str; 2] = ["spec.dataSource.apiGroup", "spec.dataSourceRef.apiGroup"];
const DRIVER_NAME: usize = 63;
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
    errors.extend(volume_sources::of_volume(
        spec,
        object.text("metadata.name"),
        "spec",
    ));
    errors.extend(recycled_root(spec));
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
        errors.push(FieldError::not_supported(path, capacity.clone(), &["storage"]));
    }
    for (name, amount) in list {
        let at = format!("{path}[{name}]");
        errors.extend(basic(amount, &at));
        errors.extend(positive(amount, &at));
    }
    errors
}

fn basic(amount: &Value, path: &str) -> Option<FieldError> {
    let quantity = Quantity::parse(amount.as_str()?).ok()?;
    let shown = i64::try_from(quantity.value()).unwrap_or(i64::MIN);
    quantity
        .is_negative()
        .then(|| FieldError::invalid(path, shown, "must be a valid resource quantity"))
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

/// A volume that an attachment describes instead of naming one.
pub(super) fn inline_volume(spec: &Value, path: &str) -> FieldErrors {
    let detail = "may not be specified in the context of inline volumes";
    let mut errors: FieldErrors = ["claimRef", "capacity"]
        .into_iter()
        .filter(|key| spec.map(key).is_some_and(|said| !said.is_empty()))
        .map(|key| FieldError::forbidden(format!("{path}.{key}"), detail))
        .collect();
    if !spec.has("csi") {
        let detail = "has to be specified in the context of inline volumes";
        errors.push(FieldError::required(format!("{path}.csi"), detail));
    }
    if spec.list("accessModes").is_empty() {
        errors.push(FieldError::required(format!("{path}.accessModes"), ""));
    }
    errors.extend(access_modes(spec, path));
    if !["", "Retain"].contains(&spec.text("persistentVolumeReclaimPolicy")) {
        errors.push(FieldError::forbidden(
            format!("{path}.persistentVolumeReclaimPolicy"),
            "may only be Retain in the context of inline volumes",
        ));
    }
    if spec.has("nodeAffinity") {
        errors.push(FieldError::forbidden(format!("{path}.nodeAffinity"), detail));
    }
    errors.extend(volume_sources::of_volume(spec, "", path));
    errors.extend(maybe_one_of(spec, "volumeMode", path, &MODES));
    errors
}

/// A directory of one node.
pub(super) fn local(spec: &Value, body: &Value, path: &str) -> FieldErrors {
    let mut errors: FieldErrors = match body.text("path") {
        "" => vec![FieldError::required(format!("{path}.path"), "")],
        value => super::no_backsteps(&format!("{path}.path"), value)
            .into_iter()
            .collect(),
    };
    if !spec.has("nodeAffinity") {
        let detail = "Local volume requires node affinity";
        errors.push(FieldError::required("spec.nodeAffinity", detail));
    }
    errors
}

pub(super) fn csi(body: &Value, path: &str) -> FieldErrors {
    let mut errors = driver_name(body.text("driver"), &format!("{path}.driver"));
    errors.extend(super::present(body, "volumeHandle", path));
    for key in SECRETS.into_iter().filter(|key| body.has(key)) {
        errors.extend(secret_reference(body.at(key), &format!("{path}.{key}")));
    }
    errors
}

fn secret_reference(reference: &Value, path: &str) -> FieldErrors {
    let mut errors = Vec::new();
    for (key, check) in [
        ("name", names::subdomain as fn(&str) -> Vec<String>),
        ("namespace", names::label),
    ] {
        let at = format!("{path}.{key}");
        match reference.text(key) {
            "" => errors.push(FieldError::required(at, "")),
            text => errors.extend(complain(&at, text, check(text))),
        }
    }
    errors
}

/// The name of a CSI driver: a domain, however written.
pub(super) fn driver_name(name: &str, path: &str) -> FieldErrors {
    if name.is_empty() {
        return vec![FieldError::required(path, "")];
    }
    let mut errors = Vec::new();
    if name.len() > DRIVER_NAME {
        errors.push(FieldError::too_long(path, DRIVER_NAME));
    }
    errors.extend(complain(path, name, names::subdomain(&name.to_lowercase())));
    errors
}

/// What a Recycle would wipe.
fn recycled_root(spec: &Value) -> Option<FieldError> {
    let root = spec.text("hostPath.path").trim_end_matches('/').is_empty() && spec.has("hostPath.path");
    let detail = "may not be 'recycle' for a hostPath mount of '/'";
    (root && spec.text("persistentVolumeReclaimPolicy") == "Recycle")
        .then(|| FieldError::forbidden("spec.persistentVolumeReclaimPolicy", detail))
}

fn class_name(spec: &Value, key: &str, path: &str) -> FieldErrors {
    match spec.text(key) {
        "" => Vec::new(),
        name => complain(format_args!("{path}.{key}"), name, names::subdomain(name)),
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
    let now = new.at("spec.nodeAffinity");
    if old.has("spec.nodeAffinity") && !volume_affinity::is_kept(now, old.at("spec.nodeAffinity")) {
        let now = now.clone();
        let detail = format!("{}, except for updating from beta label to GA", super::IMMUTABLE);
        errors.push(FieldError::invalid("nodeAffinity", now, detail));
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
    errors.extend(one_data_source(spec, path));
    errors.extend(class_name(spec, "volumeAttributesClassName", path));
    errors
}

/// The old and the new way to name a source must name the same.
fn one_data_source(spec: &Value, path: &str) -> Option<FieldError> {
    let (old, new) = (spec.at("dataSource"), spec.at("dataSourceRef"));
    if old.is_null() || new.is_null() {
        return None;
    }
    // Upstream shows a path here, which prints as nothing.
    let told = |detail: &str| FieldError::invalid_shown(path, "{}", detail);
    let same = ["apiGroup", "kind", "name"]
        .iter()
        .all(|key| old.at(key) == new.at(key));
    match new.text("namespace") {
        "" => (!same).then(|| told("must match dataSourceRef")),
        _ => Some(told(
            "may not be specified when dataSourceRef.namespace is specified",
        )),
    }
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
            format_args!("{path}.apiGroup"),
            group,
            names::subdomain(group),
        ));
    }
    let namespace = source.text("namespace");
    if !namespace.is_empty() {
        errors.extend(complain(
            format_args!("{path}.namespace"),
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
    if ["dataSource", "dataSourceRef"]
        .into_iter()
        .any(|key| old.at("spec").at(key).has("apiGroup"))
    {
        // What was once accepted may stay.
        errors.retain(|error| !GROUPS_OF_SOURCES.contains(&error.field.as_str()));
    }
    let class = |claim: &Value| claim.at("metadata.annotations").get(BETA_CLASS).cloned();
    if class(new) != class(old) && !class_from_annotation(new, old) {
        let at = format!("metadata.annotations[{BETA_CLASS}]");
        let now = class(new).unwrap_or_else(|| "".into());
        errors.push(FieldError::invalid(at, now, super::IMMUTABLE));
    }
    let fixed = fixed_claim(new, old);
    if fixed != *old.at("spec") {
        let changed = super::changed_members(old.at("spec"), &fixed);
        errors.push(FieldError::forbidden(
            "spec",
            format!("{CLAIM_FROZEN}\n{changed}"),
        ));
    }
    errors.extend(shrunk(new, old));
    if new.at("spec.volumeMode") != old.at("spec.volumeMode") {
        let now = new.at("spec.volumeMode").clone();
        errors.push(FieldError::invalid("volumeMode", now, super::IMMUTABLE));
    }
    errors.extend(kept_attributes(new, old));
    errors
}

/// A volume that got attributes has attributes.
fn kept_attributes(new: &Value, old: &Value) -> Option<FieldError> {
    let path = "spec.volumeAttributesClassName";
    if new.at(path) == old.at(path) || !old.has("status.currentVolumeAttributesClassName") {
        return None;
    }
    let what = match new.at(path).as_str() {
        None => "nil",
        Some("") => "empty string",
        Some(_) => return None,
    };
    let detail =
        format!("update to {what} is forbidden when status.currentVolumeAttributesClassName is not nil");
    Some(FieldError::forbidden(path, detail))
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
    let path = "spec.resources.requests.storage";
    let of = |claim: &Value, path: &str| Quantity::parse(claim.text(path)).map_or(0, |q| q.nanos());
    let (now, before) = (of(new, path), of(old, path));
    let detail = "field can not be less than status.capacity";
    (now < before && now <= of(old, "status.capacity.storage")).then(|| FieldError::forbidden(path, detail))
}

fn claim_status(new: &Value) -> FieldErrors {
    let mut errors = Vec::new();
    for (name, amount) in new.map("status.capacity").into_iter().flatten() {
        errors.extend(basic(amount, &format!("status.capacity[{name}]")));
    }
    let path = "status.allocatedResourceStatuses";
    for (name, state) in new.map(path).into_iter().flatten() {
        if !RESIZES.iter().any(|known| state == known) {
            errors.push(FieldError::not_supported(path, name.as_str(), &RESIZES));
        }
    }
    for (name, amount) in new.map("status.allocatedResources").into_iter().flatten() {
        errors.extend(basic(amount, &format!("status.allocatedResources[{name}]")));
    }
    errors
}

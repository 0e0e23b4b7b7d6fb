//! PersistentVolumes and claims.
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{STATUS, split_status, without_status};
use crate::kinds::meta;
use crate::kinds::time::format_seconds;
use crate::kinds::view::{View, object_mut};

const TRANSITION: &str = "lastPhaseTransitionTime";

/// A new volume is pending since it was made.
pub fn volume_create(object: &mut Value) {
    let made = object.text("metadata.creationTimestamp").to_owned();
    if let Some(map) = object.as_object_mut() {
        map.insert(STATUS.into(), json!({"phase": "Pending", TRANSITION: made}));
    }
}

/// The time of a phase's change is kept when a client leaves it out, and told when the phase changed (KEP-3762).
pub fn volume_update(subresource: Option<&str>, new: &mut Value, old: &Value) {
    split_status(subresource, new, old);
    if subresource != Some(STATUS) {
        return;
    }
    let (now, before) = (new.at("status"), old.at("status"));
    let same_time = now.at(TRANSITION) == before.at(TRANSITION);
    let time = match now.text("phase") == before.text("phase") {
        true if !now.has(TRANSITION) => before.at(TRANSITION).clone(),
        false if !now.has(TRANSITION) || same_time => format_seconds(Timestamp::now()).into(),
        _ => return,
    };
    if let Some(status) = object_mut(new, STATUS)
        && !time.is_null()
    {
        status.insert(TRANSITION.into(), time);
    }
}

/// A driver's generation counts from nothing.
pub fn driver_update(_: Option<&str>, new: &mut Value, old: &Value) {
    if new.at("spec") != old.at("spec") {
        meta::set_generation(new, meta::generation(old) + 1);
    }
}

pub fn claim_create(object: &mut Value) {
    without_status(object);
    if let Some(status) = object_mut(object, STATUS) {
        status.insert("phase".into(), "Pending".into());
    }
    known_source(object);
    same_source(object);
}

pub fn claim_update(subresource: Option<&str>, new: &mut Value, old: &Value) {
    split_status(subresource, new, old);
    if !old.has("spec.dataSource") && !old.has("spec.dataSourceRef") {
        known_source(new);
    }
    same_source(new);
}

/// What the older field may not name is as if it was not there.
fn known_source(claim: &mut Value) {
    if !claim.has("spec.dataSourceRef")
        && !is_known_source(claim.at("spec.dataSource"))
        && let Some(spec) = object_mut(claim, "spec")
    {
        spec.remove("dataSource");
    }
}

/// `dataSource` and `dataSourceRef` are one unless the reference is to another namespace (KEP-1495).
fn same_source(claim: &mut Value) {
    if !claim.text("spec.dataSourceRef.namespace").is_empty() {
        return;
    }
    let (source, reference) = (
        claim.at("spec.dataSource").clone(),
        claim.at("spec.dataSourceRef").clone(),
    );
    let (key, value) = match (source.is_null(), reference.is_null()) {
        (false, true) => ("dataSourceRef", source),
        (true, false) => ("dataSource", reference),
        _ => return,
    };
    if let Some(spec) = object_mut(claim, "spec") {
        spec.insert(key.into(), value);
    }
}

/// The kinds that the older field may name.
fn is_known_source(reference: &Value) -> bool {
    matches!(
        (reference.text("apiGroup"), reference.text("kind")),
        ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
    )
}

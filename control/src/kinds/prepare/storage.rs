//! PersistentVolumes and claims.
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{STATUS, split_status, without_status};
use crate::kinds::meta;
use crate::kinds::time::format_seconds;
use crate::kinds::view::{View, existing_mut, object_mut};

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

pub fn driver_create(object: &mut Value) {
    scaled_limits(object, &Value::Null);
}

/// A driver's generation counts from nothing.
pub fn driver_update(_: Option<&str>, new: &mut Value, old: &Value) {
    scaled_limits(new, old);
    if new.at("spec") != old.at("spec") {
        meta::set_generation(new, meta::generation(old) + 1);
    }
}

/// The gate `VolumeLimitScaling` is off in this version: a driver that does not have what is behind it does not get it.
fn scaled_limits(new: &mut Value, old: &Value) {
    const FIELD: &str = "preventPodSchedulingIfMissing";
    if !old.at("spec").has(FIELD)
        && let Some(spec) = existing_mut(new, "spec")
    {
        spec.remove(FIELD);
    }
}

pub fn claim_create(object: &mut Value) {
    without_status(object);
    if let Some(status) = object_mut(object, STATUS) {
        status.insert("phase".into(), "Pending".into());
    }
    foreign_source(object, &Value::Null);
    known_source(object);
    same_source(object);
}

pub fn claim_update(subresource: Option<&str>, new: &mut Value, old: &Value) {
    split_status(subresource, new, old);
    foreign_source(new, old);
    if !old.has("spec.dataSource") && !old.has("spec.dataSourceRef") {
        known_source(new);
    }
    same_source(new);
}

/// References to other namespaces are behind the gate `CrossNamespaceVolumeDataSource`, which is off in this version.
fn foreign_source(new: &mut Value, old: &Value) {
    if !new.text("spec.dataSourceRef.namespace").is_empty()
        && !old.has("spec.dataSourceRef")
        && let Some(spec) = existing_mut(new, "spec")
    {
        spec.remove("dataSourceRef");
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_gates_are_off_for_is_not_given_to_who_has_none() {
        let driver = |spec: Value| json!({"spec": spec});
        let (with, without) = (
            driver(json!({"preventPodSchedulingIfMissing": true})),
            driver(json!({})),
        );
        for (old, want) in [(&Value::Null, &without), (&without, &without), (&with, &with)] {
            let mut new = with.clone();
            driver_update(None, &mut new, old);
            assert_eq!(new["spec"], want["spec"], "{old}");
        }
        let source = json!({"kind": "PersistentVolumeClaim", "name": "x", "namespace": "other"});
        let mut claim = json!({"spec": {"dataSourceRef": source}});
        let old = claim.clone();
        claim_create(&mut claim);
        assert_eq!(claim["spec"], json!({}));
        let mut kept = old.clone();
        claim_update(None, &mut kept, &old);
        assert_eq!(kept["spec"], old["spec"]);
    }
}

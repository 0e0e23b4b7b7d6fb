//! Workloads, namespaces, nodes.
use serde_json::{Value, json};

use super::{STATUS, split_status, without_status};
use crate::kinds::view::{View, copy_member, object_mut};

/// The finalizer that holds a namespace until it is empty.
const NAMESPACE_FINALIZER: &str = "kubernetes";

/// A status update of a Deployment leaves its labels alone too.
pub fn deployment_update(subresource: Option<&str>, new: &mut Value, old: &Value) {
    split_status(subresource, new, old);
    if subresource == Some(STATUS)
        && let Some(meta) = new.get_mut("metadata")
    {
        copy_member(meta, old.at("metadata"), "labels");
    }
}

/// A Deployment's generation counts annotations as well.
pub fn deployment_changed(new: &Value, old: &Value) -> bool {
    new.at("spec") != old.at("spec") || new.at("metadata.annotations") != old.at("metadata.annotations")
}

/// An EndpointSlice has no spec: everything but its metadata, and its labels, is desired state.
pub fn endpoint_slice_changed(new: &Value, old: &Value) -> bool {
    let body = ["addressType", "endpoints", "ports"];
    body.iter().any(|k| new.at(k) != old.at(k)) || new.at("metadata.labels") != old.at("metadata.labels")
}

pub fn namespace_create(object: &mut Value) {
    without_status(object);
    if let Some(status) = object_mut(object, STATUS) {
        status.insert("phase".into(), "Active".into());
    }
    let mut finalizers = object.list("spec.finalizers").to_vec();
    if !finalizers.iter().any(|f| f == NAMESPACE_FINALIZER) {
        finalizers.push(NAMESPACE_FINALIZER.into());
    }
    if let Some(spec) = object_mut(object, "spec") {
        spec.insert("finalizers".into(), json!(finalizers));
    }
}

/// Only `finalize` changes the spec's finalizers, only `status` the status.
pub fn namespace_update(subresource: Option<&str>, new: &mut Value, old: &Value) {
    if subresource != Some("finalize") {
        copy_member(new, old, "spec");
    }
    if subresource != Some(STATUS) {
        copy_member(new, old, STATUS);
    }
}

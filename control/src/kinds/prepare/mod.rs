//! What a create or an update may set: the rest is reset, or copied from the stored object.
//!
//! The strategies of Kubernetes' registries as pure functions. Refuses to judge: that is validation's.
pub(super) mod certificates;
mod label_keys;
pub(super) mod objects;
pub(super) mod pod;
pub(super) mod service;
pub(super) mod storage;
pub(super) mod workloads;

use serde_json::Value;

use super::view::copy_member;

/// Subresource that writes what is, not what should be.
pub(super) const STATUS: &str = "status";

/// An object whose status only its `status` subresource writes.
pub(super) fn without_status(object: &mut Value) {
    if let Some(map) = object.as_object_mut() {
        map.remove(STATUS);
    }
}

/// An update of the object keeps the status; one of the status keeps the spec.
pub(super) fn split_status(subresource: Option<&str>, new: &mut Value, old: &Value) {
    match subresource {
        Some(STATUS) => copy_member(new, old, "spec"),
        _ => copy_member(new, old, STATUS),
    }
}

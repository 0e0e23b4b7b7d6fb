//! Defaults of role bindings: the group of roles and subjects.
use serde_json::Value;

use crate::kinds::view::{items_mut, object_mut, set_zero};

const GROUP: &str = "rbac.authorization.k8s.io";

pub fn binding(object: &mut Value) {
    if let Some(role) = object_mut(object, "roleRef") {
        set_zero(role, "apiGroup", GROUP);
    }
    let Some(map) = object.as_object_mut() else { return };
    for subject in items_mut(map, "subjects") {
        if matches!(
            subject.get("kind").and_then(Value::as_str),
            Some("User" | "Group")
        ) {
            set_zero(subject, "apiGroup", GROUP);
        }
    }
}

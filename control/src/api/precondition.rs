//! Which object, and which version of it, a writer means to replace.
use super::query::parse_revision;
use super::status::{ApiError, Result};
use super::write::{Options, name_of};
use crate::kinds::view::View;
use crate::kinds::{FieldError, Kind};
use serde_json::Value;

/// Takes the resource version off what is to be written, and gives it.
pub fn forget_version(value: &mut Value) -> Option<Value> {
    let meta = value.get_mut("metadata").and_then(Value::as_object_mut)?;
    meta.remove("resourceVersion")
}

/// Gives it back, for those who are shown the object.
pub fn recall_version(value: &mut Value, version: Option<Value>) {
    let version = version.filter(|version| *version != "" && !version.is_null());
    if let (Some(version), Some(meta)) = (version, value.get_mut("metadata").and_then(Value::as_object_mut)) {
        meta.insert("resourceVersion".to_owned(), version);
    }
}

/// Checks uid and resource version of an update against what is there. When this writer then loses a race it is asked
/// again, about what is there by then.
pub fn check(kind: &Kind, options: Options, new: &Value, old: &Value) -> Result<()> {
    let name = name_of(old);
    let (uid, is) = (new.text("metadata.uid"), old.text("metadata.uid"));
    let another = !uid.is_empty() && uid != is;
    let patches = options.patched || options.applied;
    if another && !patches {
        return Err(another_uid(kind, name, uid, is));
    }
    let version = |object| View::text(object, "metadata.resourceVersion");
    check_version(kind, name, version(new), version(old))?;
    if another {
        let errors = vec![FieldError::invalid("metadata.uid", uid, "field is immutable")];
        return Err(ApiError::invalid(&kind.kind, &kind.group, name, &errors));
    }
    Ok(())
}

/// The refusal of a write that is meant for another object of the name.
pub fn another_uid(kind: &Kind, name: &str, uid: &str, is: &str) -> ApiError {
    ApiError::conflict(kind, name, &failed(uid, is))
}

/// Why the object of this uid is not the one that was meant.
pub fn failed(uid: &str, is: &str) -> String {
    format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {is}")
}

/// The version 0 is none.
fn check_version(kind: &Kind, name: &str, said: &str, is: &str) -> Result<()> {
    let version = match said {
        "" => 0,
        said => parse_revision(said)?,
    };
    if version == 0 && !kind.updates_unconditionally() {
        let why = "must be specified for an update";
        let errors = vec![FieldError::invalid("metadata.resourceVersion", 0, why)];
        return Err(ApiError::invalid(&kind.plural, &kind.group, name, &errors));
    }
    match version == 0 || version.to_string() == is {
        true => Ok(()),
        false => Err(ApiError::modified(kind, name)),
    }
}

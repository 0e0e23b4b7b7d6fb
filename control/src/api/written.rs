//! What a write left behind, as it is answered.
use super::object;
use super::status::{ApiError, Result};
use crate::kinds::Kind;
use crate::store::Revision;
use bytes::Bytes;
use serde_json::Value;

/// What a write left behind.
pub struct Written {
    pub object: Left,
    pub warnings: Vec<String>,
    pub created: bool,
}

/// The object as it is served.
pub enum Left {
    /// What was stored, and the same as a value where there is one.
    Bytes(Bytes, Option<Value>),
    Value(Value),
}

impl Left {
    pub fn of(kind: &Kind, stored: &[u8], value: Option<Value>, revision: Revision) -> Self {
        match (served(kind, stored, revision), value) {
            (Some(bytes), value) => Left::Bytes(bytes, value.map(|value| at(value, revision))),
            (None, value) => Left::Value(at(value.unwrap_or_default(), revision)),
        }
    }

    pub fn value(self) -> Result<Value> {
        match self {
            Left::Bytes(_, Some(value)) | Left::Value(value) => Ok(value),
            Left::Bytes(bytes, None) => serde_json::from_slice(&bytes).map_err(ApiError::internal),
        }
    }
}

impl Written {
    /// With what was to be warned of before it was written.
    pub fn after(mut self, mut warnings: Vec<String>) -> Self {
        warnings.append(&mut self.warnings);
        Written { warnings, ..self }
    }
}

/// What readers will be served, where that is what was stored.
fn served(kind: &Kind, stored: &[u8], revision: Revision) -> Option<Bytes> {
    match kind.stored_as_served() {
        true => object::served(stored, revision),
        false => None,
    }
}

/// The object under the revision that wrote it.
pub fn at(mut value: Value, revision: Revision) -> Value {
    value["metadata"]["resourceVersion"] = revision.to_string().into();
    value
}

//! The types that expressions of MutatingAdmissionPolicies make: `Object` with what is below it, and `JSONPatch`.
use std::collections::BTreeMap;
use std::sync::Arc;

use super::types::{Structure, Type};

/// What making an object costs beside its fields (cel-go's).
pub(super) const COST: u64 = 40;
pub const OBJECT: &str = "Object";
pub const PATCH: &str = "JSONPatch";

/// Whether `Object`, `Object.spec` and so on, or `JSONPatch`.
pub(super) fn is_type(name: &str) -> bool {
    name == OBJECT
        || name == PATCH
        || name
            .strip_prefix(OBJECT)
            .is_some_and(|rest| rest.starts_with('.'))
}

/// The type of that name.
pub fn of(name: &str) -> Type {
    Type::Object(Arc::new(Structure {
        name: name.to_owned(),
        fields: BTreeMap::new(),
    }))
}

/// What is wrong with a value in a field: a part of an object must be named after its place, a JSON patch has the
/// members of RFC 6902.
pub(super) fn check(name: &str, field: &str, ty: &Type) -> Result<(), String> {
    if name != PATCH {
        return match part(ty) {
            Some(found) if found != format!("{name}.{field}") => Err(format!(
                "unexpected type name {found:?}, expected {:?}, which matches field name path from root Object type",
                format!("{name}.{field}")
            )),
            _ => Ok(()),
        };
    }
    match field {
        "op" | "path" | "from" if ty.fits(&Type::String) => Ok(()),
        "op" | "path" | "from" => Err(format!(
            "expected type of field '{field}' is 'string' but provided type is '{ty}'"
        )),
        "value" => Ok(()),
        _ => Err(format!("undefined field '{field}'")),
    }
}

/// The name of the objects that a value consists of.
fn part(ty: &Type) -> Option<&str> {
    match ty {
        Type::Object(structure) if is_type(&structure.name) => Some(&structure.name),
        Type::List(item) | Type::Optional(item) => part(item),
        _ => None,
    }
}

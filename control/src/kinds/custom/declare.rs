//! A structural schema as a type of expressions, with the sizes that bound what a rule can cost.
use std::collections::BTreeMap;
use std::sync::Arc;

use super::schema::{Additional, Structural};
use crate::cel::{Structure, Type, escape};

/// What a request can hold (upstream's `MaxRequestSizeBytes`).
pub(super) const REQUEST: u64 = 3 << 20;

/// The type of `self` in the rules of this part; `root` is the object itself. A part of which nothing is said is
/// anything to its own rules, and nothing to those of its parents.
pub(super) fn declare(schema: &Structural, root: bool) -> Type {
    declared(schema, root).unwrap_or(Type::Dyn)
}

fn declared(schema: &Structural, root: bool) -> Option<Type> {
    if schema.int_or_string {
        return Some(Type::Dyn);
    }
    let ty = match schema.ty.as_str() {
        "string" => string(schema),
        "integer" => Type::Int,
        "number" => Type::Double,
        "boolean" => Type::Bool,
        "array" => list(schema)?,
        "object" => object(schema, root)?,
        _ => return None,
    };
    // What may be null compares with null, whatever else it is.
    Some(match (schema.nullable, &ty) {
        (true, Type::Object(_)) | (false, _) => ty,
        (true, _) => Type::Dyn,
    })
}

fn string(schema: &Structural) -> Type {
    let longest = schema
        .checks
        .allowed
        .values
        .iter()
        .filter_map(|v| v.as_str())
        .map(|s| s.len() as u64)
        .max();
    match schema.checks.format.as_deref() {
        Some("date" | "date-time" | "datetime") => Type::Timestamp,
        Some("duration") => Type::Duration,
        Some("byte") => Type::Bytes,
        _ => {
            // A character takes up to four bytes.
            let declared = schema.checks.max_length.map(|n| n.saturating_mul(4));
            Type::String(Some(longest.or(declared).unwrap_or(REQUEST - 2)))
        }
    }
}

fn list(schema: &Structural) -> Option<Type> {
    let items = schema.items.as_deref()?;
    let item = declared(items, false)?;
    let fit = (REQUEST - 2) / (smallest(items) + 1);
    Some(Type::List(
        Arc::new(item),
        Some(schema.checks.max_items.unwrap_or(fit)),
    ))
}

fn object(schema: &Structural, root: bool) -> Option<Type> {
    if let Additional::Schema(value) = &schema.additional {
        let fit = (REQUEST - 2) / (smallest(value) + 6);
        let count = Some(schema.checks.max_properties.unwrap_or(fit));
        // Upstream counts nothing for keys.
        let key = Type::String(Some(0));
        let value = declared(value, false)?;
        return Some(Type::Map(Arc::new(key), Arc::new(value), count));
    }
    let mut fields = BTreeMap::new();
    if root || schema.embedded {
        for name in ["apiVersion", "kind"] {
            fields.insert(name.to_owned(), Type::String(Some(REQUEST - 2)));
        }
        fields.insert("metadata".to_owned(), metadata());
    }
    for (name, member) in &schema.properties {
        let own = (root || schema.embedded) && super::TYPE_AND_META.contains(&name.as_str());
        if let (Some(name), Some(member)) = (escape(name).filter(|_| !own), declared(member, false)) {
            fields.insert(name, member);
        }
    }
    Some(Type::Object(Arc::new(Structure {
        name: "object".to_owned(),
        fields,
    })))
}

/// Of the metadata, rules see what they may rely on.
fn metadata() -> Type {
    let fields = ["name", "generateName"].map(|name| (name.to_owned(), Type::String(Some(253))));
    Type::Object(Arc::new(Structure {
        name: "object.metadata".to_owned(),
        fields: fields.into(),
    }))
}

/// The fewest bytes that a value can take as JSON.
pub(super) fn smallest(schema: &Structural) -> u64 {
    match schema.ty.as_str() {
        "boolean" => 4,
        "integer" | "number" => 1,
        "object" => {
            let required = schema.checks.required.iter();
            let members = required
                .filter_map(|name| Some(name.len() as u64 + 4 + smallest(schema.properties.get(name)?)));
            2 + members.sum::<u64>()
        }
        _ => 2,
    }
}

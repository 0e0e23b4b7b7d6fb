//! A structural schema as a type of expressions, and what rules may take for granted of how large its values are.
use std::collections::BTreeMap;
use std::sync::Arc;

use super::schema::{Additional, Structural};
use crate::cel::{Extent, Structure, Type, escape};

/// What a request can hold (upstream's `MaxRequestSizeBytes`).
pub(super) const REQUEST: u64 = 3 << 20;
/// Characters of a text of which nothing is said: as many as a request can hold.
const TEXT: u64 = REQUEST - 2;
/// Characters of a moment, a day and a duration as JSON.
const MOMENT: u64 = 32;
const DAY: u64 = 12;
const DURATION: u64 = 32;

/// The type of `self` in the rules of this part; `root` is the object itself. A part of which nothing is said is
/// anything to its own rules, and nothing to those of its parents.
pub(super) fn declare(schema: &Structural, root: bool) -> Type {
    declared(schema, root).unwrap_or(Type::Dyn)
}

fn declared(schema: &Structural, root: bool) -> Option<Type> {
    if schema.int_or_string {
        return Some(Type::Dyn);
    }
    Some(match schema.ty.as_str() {
        "string" => string(schema),
        "integer" => Type::Int,
        "number" => Type::Double,
        "boolean" => Type::Bool,
        "array" => Type::list(declared(schema.items.as_deref()?, false)?),
        "object" => object(schema, root)?,
        _ => return None,
    })
}

fn string(schema: &Structural) -> Type {
    match schema.checks.format.as_deref() {
        Some("date" | "date-time") => Type::Timestamp,
        Some("duration") => Type::Duration,
        Some("byte") => Type::Bytes,
        _ => Type::String,
    }
}

fn object(schema: &Structural, root: bool) -> Option<Type> {
    if let Additional::Schema(value) = &schema.additional {
        return Some(Type::map(Type::String, declared(value, false)?));
    }
    let mut fields = BTreeMap::new();
    if root || schema.embedded {
        for name in ["apiVersion", "kind"] {
            fields.insert(name.to_owned(), Type::String);
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
    let fields = ["name", "generateName"].map(|name| (name.to_owned(), Type::String));
    Type::Object(Arc::new(Structure {
        name: "object.metadata".to_owned(),
        fields: fields.into(),
    }))
}

/// How large `self` can be in the rules of this part.
pub(super) fn extent(schema: &Structural, root: bool) -> Arc<Extent> {
    Arc::new(extended(schema, root).unwrap_or_default())
}

fn extended(schema: &Structural, root: bool) -> Option<Extent> {
    if schema.int_or_string {
        return Some(Extent::of(characters(schema).unwrap_or(TEXT)));
    }
    match schema.ty.as_str() {
        "string" => Some(Extent::of(longest(schema))),
        "integer" | "number" | "boolean" => Some(Extent::default()),
        "array" => listed(schema),
        "object" => match &schema.additional {
            Additional::Schema(value) => mapped(schema, value),
            _ => Some(fields(schema, root)),
        },
        _ => None,
    }
}

/// A character takes up to four bytes.
fn characters(schema: &Structural) -> Option<u64> {
    schema.checks.max_length.map(|most| most.saturating_mul(4))
}

fn longest(schema: &Structural) -> u64 {
    match schema.checks.format.as_deref() {
        Some("date") => return DAY,
        Some("date-time") => return MOMENT,
        Some("duration") => return DURATION,
        Some("byte") => return schema.checks.max_length.unwrap_or(TEXT),
        _ => {}
    }
    let allowed = schema.checks.allowed.values.iter();
    let allowed = allowed.filter_map(|value| value.as_str().map(|text| text.len() as u64));
    match schema.checks.allowed.values.is_empty() {
        true => characters(schema).unwrap_or(TEXT),
        false => characters(schema).or(allowed.max()).unwrap_or(0),
    }
}

fn listed(schema: &Structural) -> Option<Extent> {
    let items = schema.items.as_deref()?;
    let fit = TEXT / (smallest(items) + 1);
    Some(Extent {
        most: schema.checks.max_items.unwrap_or(fit),
        items: Some(Arc::new(extended(items, false)?)),
        ..Extent::default()
    })
}

fn mapped(schema: &Structural, value: &Structural) -> Option<Extent> {
    let fit = TEXT / (smallest(value) + 6);
    Some(Extent {
        most: schema.checks.max_properties.unwrap_or(fit),
        // Upstream counts nothing for keys.
        keys: Some(Arc::default()),
        items: Some(Arc::new(extended(value, false)?)),
        ..Extent::default()
    })
}

fn fields(schema: &Structural, root: bool) -> Extent {
    let mut fields = BTreeMap::new();
    for (name, member) in &schema.properties {
        if let (Some(name), Some(member)) = (escape(name), extended(member, false)) {
            fields.insert(name, Arc::new(member));
        }
    }
    if root || schema.embedded {
        let text = || Arc::new(Extent::of(TEXT));
        let names = ["name", "generateName"].map(|name| (name.to_owned(), text()));
        let metadata = Extent {
            fields: names.into(),
            ..Extent::default()
        };
        fields.insert("metadata".to_owned(), Arc::new(metadata));
        fields.extend(["apiVersion", "kind"].map(|name| (name.to_owned(), text())));
    }
    Extent {
        fields,
        ..Extent::default()
    }
}

/// The fewest bytes that a value can take as JSON: what has a default need not be there.
pub(super) fn smallest(schema: &Structural) -> u64 {
    match (schema.ty.as_str(), schema.checks.format.as_deref()) {
        _ if schema.int_or_string => 1,
        ("boolean", _) => 4,
        ("integer" | "number", _) => 1,
        ("string", Some("duration")) => 3,
        ("string", Some("date")) => 12,
        ("string", Some("date-time")) => 21,
        ("object", _) if matches!(schema.additional, Additional::Schema(_)) => 2,
        ("object", _) => 2 + required(schema).sum::<u64>(),
        _ => 2,
    }
}

fn required(schema: &Structural) -> impl Iterator<Item = u64> + '_ {
    let names = schema.checks.required.iter();
    let members = names.filter_map(|name| Some((name, schema.properties.get(name)?)));
    let members = members.filter(|(_, member)| member.default.is_none() && declared(member, false).is_some());
    members.map(|(name, member)| name.len() as u64 + 4 + smallest(member))
}

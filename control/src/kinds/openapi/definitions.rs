//! Definitions as OpenAPI schemas.
use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::words;
use crate::kinds::kind::{Kind, Subresource};
use crate::kinds::schema::{Definition, Field, Schemas, Type};

/// Which OpenAPI is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    V2,
    V3,
}

impl Dialect {
    pub(super) fn reference(self, name: &str) -> Value {
        match self {
            Dialect::V2 => json!({"$ref": format!("#/definitions/{name}")}),
            Dialect::V3 => json!({"$ref": format!("#/components/schemas/{name}")}),
        }
    }
}

/// The definition of a subresource's body, when it differs from the kind's own.
pub(super) fn of_kind(kind: &Kind, sub: &Subresource) -> Option<String> {
    let wanted = (sub.group.clone(), sub.version.clone(), sub.kind.clone());
    let found = kind
        .schemas
        .iter()
        .find(|d| d.group_version_kinds.contains(&wanted));
    found.map(|d| d.name.clone())
}

/// These definitions and all they refer to.
pub(super) fn closure(schemas: &Schemas, names: BTreeSet<String>) -> Vec<Arc<Definition>> {
    let mut seen = BTreeSet::new();
    let mut open: Vec<String> = names.into_iter().collect();
    while let Some(name) = open.pop() {
        let Some(definition) = schemas.get(&name) else {
            continue;
        };
        if seen.insert(name) {
            open.extend(definition.fields.iter().filter_map(|f| named(&f.ty)));
        }
    }
    seen.iter()
        .filter_map(|name| schemas.get(name).cloned())
        .collect()
}

fn named(ty: &Type) -> Option<String> {
    match ty {
        Type::List(inner) | Type::Map(inner) => named(inner),
        other => other.definition_name().map(str::to_owned),
    }
}

pub(super) fn render(definition: &Definition, dialect: Dialect) -> Value {
    let mut out = match (&definition.alias, special(&definition.name, dialect)) {
        (_, Some(schema)) => schema,
        (Some(alias), None) => schema(alias, dialect),
        (None, None) => object(definition, dialect),
    };
    extension(&mut out, "x-kubernetes-map-type", definition.map_type.clone());
    extension(&mut out, "x-kubernetes-unions", definition.unions.clone());
    if !definition.group_version_kinds.is_empty() {
        let kinds = definition.group_version_kinds.iter();
        let kinds: Vec<Value> = kinds
            .map(|(g, v, k)| json!({"group": g, "version": v, "kind": k}))
            .collect();
        extension(&mut out, "x-kubernetes-group-version-kind", Some(kinds));
    }
    out
}

/// Scalars that are more than their type.
fn special(name: &str, dialect: Dialect) -> Option<Value> {
    match (name.rsplit('.').next(), dialect) {
        (Some("Time" | "MicroTime"), _) => Some(json!({"type": "string", "format": "date-time"})),
        (Some("Quantity"), Dialect::V2) => Some(json!({"type": "string"})),
        (Some("IntOrString"), Dialect::V2) => Some(json!({"type": "string", "format": "int-or-string"})),
        (Some("Quantity"), Dialect::V3) => Some(json!({"oneOf": [{"type": "string"}, {"type": "number"}]})),
        (Some("IntOrString"), Dialect::V3) => {
            Some(json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}))
        }
        _ => None,
    }
}

fn object(definition: &Definition, dialect: Dialect) -> Value {
    let properties: Map<String, Value> = definition
        .fields
        .iter()
        .map(|f| (f.name.clone(), worded(definition, f, dialect)))
        .collect();
    let mut out = json!({"type": "object"});
    if !properties.is_empty() {
        extension(&mut out, "properties", Some(properties));
    }
    let required: Vec<&str> = definition
        .fields
        .iter()
        .filter(|f| f.required)
        .map(|f| f.name.as_str())
        .collect();
    if !required.is_empty() {
        extension(&mut out, "required", Some(required));
    }
    out
}

/// A field with its description; version 3.0 allows none beside a `$ref`.
fn worded(definition: &Definition, field: &Field, dialect: Dialect) -> Value {
    let mut out = property(field, dialect);
    let words = words::of(&definition.name, &field.name);
    if dialect == Dialect::V3 && words.is_some() && out.get("$ref").is_some() {
        out = json!({"allOf": [out]});
    }
    extension(&mut out, "description", words);
    out
}

fn property(field: &Field, dialect: Dialect) -> Value {
    let mut out = schema(&field.ty, dialect);
    // Upstream's documents of version 2 have no defaults.
    let default = field.default.clone().filter(|_| dialect == Dialect::V3);
    if out.get("$ref").is_some() && default.is_some() {
        out = json!({"allOf": [out]});
    }
    extension(&mut out, "default", default);
    if !field.enum_values.is_empty() {
        extension(&mut out, "enum", Some(&field.enum_values));
    }
    if !field.item_enum.is_empty() {
        let of_items = if out.get("items").is_some() {
            "items"
        } else {
            "additionalProperties"
        };
        extension(&mut out[of_items], "enum", Some(&field.item_enum));
    }
    extension(&mut out, "x-kubernetes-list-type", field.list_type.clone());
    if !field.list_map_keys.is_empty() {
        extension(&mut out, "x-kubernetes-list-map-keys", Some(&field.list_map_keys));
    }
    extension(&mut out, "x-kubernetes-map-type", field.map_type.clone());
    extension(&mut out, "x-kubernetes-patch-merge-key", field.merge_key.clone());
    extension(
        &mut out,
        "x-kubernetes-patch-strategy",
        field.patch_strategy.clone(),
    );
    out
}

fn extension(out: &mut Value, key: &str, value: Option<impl serde::Serialize>) {
    if let (Some(map), Some(value)) = (out.as_object_mut(), value) {
        map.insert(key.to_owned(), json!(value));
    }
}

/// A type as a schema.
pub(super) fn schema(ty: &Type, dialect: Dialect) -> Value {
    if let Some(name) = ty.definition_name() {
        return dialect.reference(name);
    }
    match ty {
        Type::String => json!({"type": "string"}),
        Type::Bool => json!({"type": "boolean"}),
        Type::Int32 => json!({"type": "integer", "format": "int32"}),
        Type::Int64 => json!({"type": "integer", "format": "int64"}),
        Type::Float => json!({"type": "number", "format": "double"}),
        Type::Bytes => json!({"type": "string", "format": "byte"}),
        Type::List(item) => json!({"type": "array", "items": schema(item, dialect)}),
        Type::Map(item) => map_schema(item, dialect),
        _ => json!({}),
    }
}

fn map_schema(item: &Type, dialect: Dialect) -> Value {
    match item {
        Type::Any => json!({"type": "object"}),
        item => json!({"type": "object", "additionalProperties": schema(item, dialect)}),
    }
}

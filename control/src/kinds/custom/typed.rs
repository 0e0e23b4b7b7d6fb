//! A structural schema as the definitions that typed merging (server-side apply) works on.
use std::sync::Arc;

use super::OBJECT_META;
use super::schema::{Additional, Structural};
use crate::kinds::schema::{Definition, Field, Schemas, Type};

/// The definitions of one version of a custom resource, on top of the built-in ones, and its root.
pub(super) fn definitions(
    model: &str,
    gvk: (String, String, String),
    schema: &Structural,
) -> (Arc<Schemas>, Arc<Definition>) {
    let mut made = Vec::new();
    let mut fields = vec![
        Field::plain("apiVersion", Type::String),
        Field::plain("kind", Type::String),
        Field::plain("metadata", Type::Ref(OBJECT_META.to_owned())),
    ];
    let own = schema.properties.iter();
    let own = own.filter(|(name, _)| !super::TYPE_AND_META.contains(&name.as_str()));
    fields.extend(own.map(|(name, s)| field(model, name, s, &mut made)));
    let mut root = Definition::object(model, fields);
    root.group_version_kinds = vec![gvk];
    root.open = schema.preserve_unknown;
    let root = Arc::new(root);
    made.push(root.clone());
    (Arc::new(Schemas::extending(Schemas::builtin(), made)), root)
}

fn field(model: &str, name: &str, schema: &Structural, made: &mut Vec<Arc<Definition>>) -> Field {
    let ty = ty(&format!("{model}.{name}"), schema, made);
    let mut field = Field::plain(name, ty);
    field.list_type = schema.list_type.clone();
    field.list_map_keys = schema.list_map_keys.clone();
    field.map_type = schema.map_type.clone();
    field.default = schema.default.clone();
    field
}

fn ty(model: &str, schema: &Structural, made: &mut Vec<Arc<Definition>>) -> Type {
    if schema.int_or_string {
        return Type::IntOrString;
    }
    match (schema.ty.as_str(), &schema.additional) {
        ("string", _) => Type::String,
        ("boolean", _) => Type::Bool,
        ("integer", _) => Type::Int64,
        ("number", _) => Type::Float,
        ("array", _) => {
            let item = schema.items.as_deref();
            let item = item.map_or(Type::Any, |s| ty(&format!("{model}.items"), s, made));
            Type::List(Box::new(item))
        }
        ("object", Additional::Schema(value)) if schema.properties.is_empty() => {
            Type::Map(Box::new(ty(&format!("{model}.values"), value, made)))
        }
        ("object", _) if !schema.properties.is_empty() || schema.embedded => structure(model, schema, made),
        _ => Type::Any,
    }
}

fn structure(model: &str, schema: &Structural, made: &mut Vec<Arc<Definition>>) -> Type {
    let mut fields: Vec<Field> = schema
        .properties
        .iter()
        .map(|(name, s)| field(model, name, s, made))
        .collect();
    if schema.embedded {
        let has = |name: &str, fields: &[Field]| fields.iter().any(|f| f.name == name);
        for name in ["apiVersion", "kind"] {
            if !has(name, &fields) {
                fields.push(Field::plain(name, Type::String));
            }
        }
        fields.retain(|f| f.name != "metadata");
        fields.push(Field::plain("metadata", Type::Ref(OBJECT_META.to_owned())));
    }
    let mut definition = Definition::object(model, fields);
    definition.map_type = schema.map_type.clone();
    definition.open = schema.preserve_unknown || matches!(schema.additional, Additional::Any);
    made.push(Arc::new(definition));
    Type::Ref(model.to_owned())
}

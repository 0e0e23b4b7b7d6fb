//! A custom resource's schema as its OpenAPI document publishes it.
//!
//! The author's schema with what every object has; in version 2 without what Swagger cannot say or `kubectl` would
//! misread (upstream's `ToStructuralOpenAPIV2`).
use serde_json::{Map, Value, json};

use super::Custom;
use crate::kinds::kind::Kind;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
/// Keywords that version 2 does not have.
const NOT_IN_V2: [&str; 6] = ["oneOf", "anyOf", "allOf", "not", "nullable", "default"];
/// Served to clients as facts about fields, but none of the types.
const NEVER: [&str; 1] = ["$schema"];

/// The schema of the kind. `reference` makes a `$ref` to a named schema.
pub fn definition(kind: &Kind, custom: &Custom, v2: bool, reference: &dyn Fn(&str) -> Value) -> Value {
    if v2 && custom.schema.preserve_unknown {
        // With any properties, clients would refuse all others.
        return marked(kind, &kind.kind, custom, json!({"type": "object"}));
    }
    let mut schema = custom.source.clone();
    clean(&mut schema, v2);
    embedded(&mut schema, v2, reference);
    if let Some(map) = schema.as_object_mut() {
        map.insert("type".into(), "object".into());
        if let Some(properties) = map
            .entry("properties")
            .or_insert_with(|| Value::Object(Map::new()))
            .as_object_mut()
        {
            let metadata = reference(&format!("{META}ObjectMeta"));
            properties.insert("apiVersion".into(), text(API_VERSION));
            properties.insert("kind".into(), text(KIND));
            properties.insert("metadata".into(), described(metadata, METADATA, v2));
        }
    }
    marked(kind, &kind.kind, custom, schema)
}

/// With what kind it is, and by which fields it can be selected.
fn marked(kind: &Kind, name: &str, custom: &Custom, mut schema: Value) -> Value {
    schema["x-kubernetes-group-version-kind"] = gvk(kind, name);
    let labels = custom.selectable.iter().map(|(label, _)| label);
    let fields: Vec<Value> = labels.map(|label| json!({"fieldPath": label})).collect();
    if !fields.is_empty() {
        schema["x-kubernetes-selectable-fields"] = fields.into();
    }
    schema
}

/// Whole objects within the object have what every object has.
fn embedded(schema: &mut Value, v2: bool, reference: &dyn Fn(&str) -> Value) {
    let Some(map) = schema.as_object_mut() else { return };
    for key in ["items", "additionalProperties"] {
        map.get_mut(key)
            .into_iter()
            .for_each(|s| embedded(s, v2, reference));
    }
    let members = map.get_mut("properties").and_then(Value::as_object_mut);
    members
        .into_iter()
        .flatten()
        .for_each(|(_, s)| embedded(s, v2, reference));
    let says = |key: &str| map.get(key) == Some(&Value::Bool(true));
    // Clients would refuse what the server keeps.
    let open = v2 && says("x-kubernetes-preserve-unknown-fields");
    if open || !says("x-kubernetes-embedded-resource") {
        return;
    }
    let metadata = described(reference(&format!("{META}ObjectMeta")), METADATA, v2);
    let own = [
        ("apiVersion", text(API_VERSION)),
        ("kind", text(KIND)),
        ("metadata", metadata),
    ];
    let properties = map.entry("properties").or_insert_with(|| json!({}));
    for (name, property) in own {
        properties[name] = property;
    }
    let required = map.entry("required").or_insert_with(|| json!([]));
    for name in ["kind", "apiVersion"] {
        match required.as_array_mut() {
            Some(required) if !required.contains(&name.into()) => required.push(name.into()),
            _ => {}
        }
    }
}

/// The schema of a list of the kind.
pub fn list(kind: &Kind, custom: &Custom, v2: bool, reference: &dyn Fn(&str) -> Value) -> Value {
    let metadata = described(reference(&format!("{META}ListMeta")), LIST_METADATA, v2);
    let list = json!({
        "description": format!("{} is a list of {}", kind.list_kind, kind.kind),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": text(API_VERSION),
            "kind": text(KIND),
            "metadata": metadata,
            "items": {
                "description": format!("List of {}.", kind.plural),
                "type": "array",
                "items": reference(&custom.model),
            },
        },
    });
    marked(kind, &kind.list_kind, custom, list)
}

const API_VERSION: &str = "APIVersion defines the versioned schema of this representation of an object.";
const KIND: &str = "The REST resource this object represents.";
const METADATA: &str = "Standard object's metadata.";
const LIST_METADATA: &str = "Standard list metadata.";

fn text(description: &str) -> Value {
    json!({"type": "string", "description": description})
}

/// A reference with words of its own: version 3.0 allows nothing beside `$ref`.
fn described(reference: Value, description: &str, v2: bool) -> Value {
    match v2 {
        true => {
            let mut out = reference;
            out["description"] = description.into();
            out
        }
        false => json!({"allOf": [reference], "description": description}),
    }
}

fn gvk(kind: &Kind, name: &str) -> Value {
    json!([{"group": kind.group, "version": kind.version, "kind": name}])
}

fn clean(schema: &mut Value, v2: bool) {
    let Some(map) = schema.as_object_mut() else { return };
    map.retain(|key, _| !NEVER.contains(&key.as_str()));
    if v2 {
        simplify(map);
    }
    if !v2 && map.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) {
        let either = || json!([{"type": "integer"}, {"type": "string"}]);
        map.entry("anyOf").or_insert_with(either);
    }
    for key in ["items", "additionalProperties", "not"] {
        map.get_mut(key).into_iter().for_each(|s| clean(s, v2));
    }
    let members = map.get_mut("properties").and_then(Value::as_object_mut);
    members.into_iter().flatten().for_each(|(_, s)| clean(s, v2));
    for key in ["allOf", "anyOf", "oneOf"] {
        let list = map.get_mut(key).and_then(Value::as_array_mut);
        list.into_iter().flatten().for_each(|s| clean(s, v2));
    }
}

/// Takes out of a schema what version 2 cannot say. What has no type there is anything: `kubectl` would refuse nulls, fields
/// that are kept though nobody knows them, and lists of it knows not what.
fn simplify(map: &mut Map<String, Value>) {
    let says = |map: &Map<String, Value>, key: &str| map.get(key) == Some(&Value::Bool(true));
    let (null, open) = (
        says(map, "nullable"),
        says(map, "x-kubernetes-preserve-unknown-fields"),
    );
    if null || open {
        map.remove("items");
        map.remove("properties");
    }
    let ty = map.get("type").and_then(Value::as_str).unwrap_or_default();
    if null || open && ty == "object" || ty == "array" && !map.contains_key("items") {
        map.remove("type");
    }
    let may_be_null = |schema: Option<&Value>| schema.is_some_and(|schema| schema["nullable"] == true);
    let properties = map.get("properties").cloned().unwrap_or_default();
    let values = may_be_null(map.get("additionalProperties"));
    if let Some(required) = map.get_mut("required").and_then(Value::as_array_mut) {
        required.retain(|name| !values && !may_be_null(name.as_str().and_then(|name| properties.get(name))));
        if required.is_empty() {
            map.remove("required");
        }
    }
    map.retain(|key, _| !NOT_IN_V2.contains(&key.as_str()));
}

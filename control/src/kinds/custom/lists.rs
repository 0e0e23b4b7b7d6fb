//! List types: elements of sets and maps are unique (`x-kubernetes-list-type`). Embedded objects say what they are.
use std::collections::HashSet;

use serde_json::{Map, Value};

use super::schema::Structural;
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::view::View;

/// Everything wrong with lists and embedded objects; what an update left as it was is not told again.
pub(super) fn validate(schema: &Structural, object: &Value, old: Option<&Value>) -> FieldErrors {
    let mut errors = Vec::new();
    if old != Some(object) {
        walk(schema, object, "", true, &mut errors);
    }
    match old {
        None => errors,
        Some(old) => {
            let mut before = Vec::new();
            walk(schema, old, "", true, &mut before);
            errors.retain(|e| !before.contains(e));
            errors
        }
    }
}

fn walk(schema: &Structural, value: &Value, path: &str, root: bool, errors: &mut FieldErrors) {
    match value {
        Value::Object(map) => {
            if schema.embedded && !root {
                embedded(value, path, errors);
            }
            for (key, v) in map {
                if let Some(member) = schema.member(key) {
                    walk(member, v, &below(path, key), false, errors);
                }
            }
        }
        Value::Array(items) => {
            unique(schema, items, path, errors);
            if let Some(schema) = schema.items.as_deref() {
                for (i, v) in items.iter().enumerate() {
                    walk(schema, v, &format!("{path}[{i}]"), false, errors);
                }
            }
        }
        _ => {}
    }
}

pub(super) fn below(path: &str, key: &str) -> String {
    match path {
        "" => key.to_owned(),
        path => format!("{path}.{key}"),
    }
}

fn embedded(value: &Value, path: &str, errors: &mut FieldErrors) {
    for key in ["apiVersion", "kind"] {
        if value.text(key).is_empty() {
            errors.push(FieldError::required(below(path, key), "must not be empty"));
        }
    }
}

fn unique(schema: &Structural, items: &[Value], path: &str, errors: &mut FieldErrors) {
    let mut seen = HashSet::new();
    for (i, item) in items.iter().enumerate() {
        let identity = match schema.list_type.as_deref() {
            Some("set") => item.clone(),
            Some("map") => keys(schema, item),
            _ => return,
        };
        if !seen.insert(identity.to_string()) {
            errors.push(FieldError::duplicate(format!("{path}[{i}]"), identity));
        }
    }
}

/// The members that tell elements of a map list apart.
fn keys(schema: &Structural, item: &Value) -> Value {
    let key = |key: &String| Some((key.clone(), item.get(key)?.clone()));
    Value::Object(schema.list_map_keys.iter().filter_map(key).collect::<Map<_, _>>())
}

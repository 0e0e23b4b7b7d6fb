//! List types: elements of sets and maps are unique (`x-kubernetes-list-type`). Embedded objects say what they are.
use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use serde_json::{Map, Value};

use super::place::Place;
use super::schema::Structural;
use crate::kinds::bounded::Found;
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::view::View;
use crate::kinds::{meta, names};

/// Everything wrong with lists and embedded objects; what an update left as it was is not told again.
pub(super) fn validate(schema: &Structural, object: &Value, old: Option<&Value>) -> FieldErrors {
    let mut found = Found::default();
    if old != Some(object) {
        walk(schema, object, Place::Root, &mut |error| found.push(error));
    }
    let Some(old) = old.filter(|_| !found.is_empty()) else {
        return found.told();
    };
    // Of all that was wrong before a few bytes each are kept: there may be gigabytes of it.
    let (hashes, mut before, mut found) = (RandomState::new(), HashSet::new(), Found::default());
    walk(schema, old, Place::Root, &mut |error| {
        before.insert(hashes.hash_one(error));
    });
    walk(schema, object, Place::Root, &mut |error| {
        if !before.contains(&hashes.hash_one(&error)) {
            found.push(error);
        }
    });
    found.told()
}

fn walk(schema: &Structural, value: &Value, path: Place<'_>, tell: &mut dyn FnMut(FieldError)) {
    let root = matches!(path, Place::Root);
    match value {
        Value::Object(map) => {
            if schema.embedded && !root {
                embedded(value, path, tell);
            }
            for (key, v) in map {
                if let Some(member) = schema.member(key) {
                    walk(member, v, Place::Member(&path, key), tell);
                }
            }
        }
        Value::Array(items) => {
            unique(schema, items, path, tell);
            if let Some(schema) = schema.items.as_deref() {
                for (i, v) in items.iter().enumerate() {
                    walk(schema, v, Place::Item(&path, i), tell);
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

/// An object within an object has a version, a kind and metadata as any (upstream's `validateEmbeddedResource`).
fn embedded(value: &Value, path: Place<'_>, tell: &mut dyn FnMut(FieldError)) {
    for key in ["apiVersion", "kind"] {
        let at = Place::Member(&path, key);
        let why = match value.get(key) {
            None => {
                tell(FieldError::required(at, ""));
                continue;
            }
            Some(Value::String(text)) if text.is_empty() => Some("must not be empty".to_owned()),
            Some(Value::String(text)) => misnamed(key, text),
            Some(_) => Some("must be a string".to_owned()),
        };
        if let Some(why) = why {
            tell(FieldError::invalid(at, value.at(key).clone(), why));
        }
    }
    if let Some(meta) = value.get("metadata").filter(|meta| meta.is_object()) {
        for error in meta::validate_embedded(meta, "metadata") {
            tell(FieldError {
                field: Place::Member(&path, &error.field).to_string(),
                ..error
            });
        }
    }
}

fn misnamed(key: &str, text: &str) -> Option<String> {
    if key == "apiVersion" {
        let parts = text.matches('/').count();
        return (parts > 1).then(|| format!("unexpected GroupVersion string: {text}"));
    }
    let complaints = names::label_1035(&text.to_lowercase());
    let why = "may have mixed case, but should otherwise match: ";
    (!complaints.is_empty()).then(|| format!("{why}{}", complaints.join(",")))
}

fn unique(schema: &Structural, items: &[Value], path: Place<'_>, tell: &mut dyn FnMut(FieldError)) {
    let mut seen = HashSet::new();
    for (i, item) in items.iter().enumerate() {
        let identity = match schema.list_type.as_deref() {
            Some("set") => item.clone(),
            Some("map") => keys(schema, item),
            _ => return,
        };
        if !seen.insert(identity.to_string()) {
            tell(FieldError::duplicate(Place::Item(&path, i), identity));
        }
    }
}

/// The members that tell elements of a map list apart.
pub(super) fn keys(schema: &Structural, item: &Value) -> Value {
    let key = |key: &String| Some((key.clone(), item.get(key)?.clone()));
    Value::Object(schema.list_map_keys.iter().filter_map(key).collect::<Map<_, _>>())
}

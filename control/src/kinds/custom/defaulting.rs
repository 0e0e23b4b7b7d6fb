//! Defaulting by a structural schema, and what becomes of nulls.
use serde_json::Value;

use super::schema::{Additional, Structural};

/// Fills in defaults. A null where none may be becomes the default, or is dropped when there is none.
pub(super) fn default(schema: &Structural, value: &mut Value) {
    drop_nulls(Some(schema), value);
    fill(schema, value);
}

fn drop_nulls(schema: Option<&Structural>, value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|key, v| {
                let member = schema.and_then(|s| s.member(key));
                !(v.is_null() && member.is_some_and(|m| !m.nullable && m.default.is_none()))
            });
            for (key, v) in map.iter_mut() {
                drop_nulls(schema.and_then(|s| s.member(key)), v);
            }
        }
        Value::Array(items) => {
            let schema = schema.and_then(|s| s.items.as_deref());
            items.iter_mut().for_each(|v| drop_nulls(schema, v));
        }
        _ => {}
    }
}

fn fill(schema: &Structural, value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (key, member) in &schema.properties {
                let missing = map.get(key).is_none_or(|v| v.is_null() && !member.nullable);
                if let (true, Some(default)) = (missing, &member.default) {
                    map.insert(key.clone(), default.clone());
                }
            }
            for (key, v) in map.iter_mut() {
                match (schema.properties.get(key), &schema.additional) {
                    (Some(member), _) => fill(member, v),
                    (None, Additional::Schema(member)) => element(member, v),
                    (None, _) => {}
                }
            }
        }
        Value::Array(list) => {
            if let Some(items) = schema.items.as_deref() {
                list.iter_mut().for_each(|v| element(items, v));
            }
        }
        _ => {}
    }
}

fn element(schema: &Structural, value: &mut Value) {
    if let (true, Some(default)) = (value.is_null() && !schema.nullable, &schema.default) {
        *value = default.clone();
    }
    fill(schema, value);
}

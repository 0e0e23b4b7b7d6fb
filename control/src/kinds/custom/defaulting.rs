//! Defaulting by a structural schema, and what becomes of nulls.
use serde_json::Value;

use super::schema::{Additional, Structural};

/// Bytes of defaults that an object is given: a default of each item of a list multiplies what was sent. As much as may be sent.
const ROOM: usize = 3 << 20;

/// Fills in defaults. A null where none may be becomes the default, or is dropped when there is none. False when there was not enough
/// room for all.
pub(super) fn default(schema: &Structural, value: &mut Value) -> bool {
    drop_nulls(Some(schema), value);
    default_merged(schema, value)
}

/// As above, of what nobody decodes: a null that has no default stays, to be judged.
pub(super) fn default_merged(schema: &Structural, value: &mut Value) -> bool {
    let mut room = ROOM;
    fill(schema, value, &mut room);
    room > 0
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

fn fill(schema: &Structural, value: &mut Value, room: &mut usize) {
    match value {
        Value::Object(map) => {
            for (key, member) in &schema.properties {
                let missing = map.get(key).is_none_or(|v| v.is_null() && !member.nullable);
                if let (true, Some(default)) = (missing, &member.default) {
                    if *room == 0 {
                        return;
                    }
                    *room = room.saturating_sub(key.len() + size(default));
                    map.insert(key.clone(), default.clone());
                }
            }
            for (key, v) in map.iter_mut() {
                match (schema.properties.get(key), &schema.additional) {
                    (Some(member), _) => fill(member, v, room),
                    (None, Additional::Schema(member)) => element(member, v, room),
                    (None, _) => {}
                }
            }
        }
        Value::Array(list) => {
            if let Some(items) = schema.items.as_deref() {
                list.iter_mut().for_each(|v| element(items, v, room));
            }
        }
        _ => {}
    }
}

fn element(schema: &Structural, value: &mut Value, room: &mut usize) {
    if let (true, Some(default)) = (value.is_null() && !schema.nullable, &schema.default) {
        if *room == 0 {
            return;
        }
        *room = room.saturating_sub(size(default));
        *value = default.clone();
    }
    fill(schema, value, room);
}

/// Bytes of a value in JSON, or a few less.
fn size(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len() + 2,
        Value::Array(items) => items.iter().map(|item| size(item) + 1).sum::<usize>() + 1,
        Value::Object(members) => {
            members
                .iter()
                .map(|(key, member)| key.len() + size(member) + 4)
                .sum::<usize>()
                + 2
        }
        _ => 1,
    }
}

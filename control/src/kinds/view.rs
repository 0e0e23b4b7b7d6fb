//! Reading JSON objects by path without unwrapping: what is absent or of another type reads as empty.
use serde_json::{Map, Value};

static EMPTY: Value = Value::Null;

/// Typed looks into a JSON value.
pub(crate) trait View {
    /// The member at a dotted path, or null.
    fn at(&self, path: &str) -> &Value;
    fn text(&self, path: &str) -> &str;
    fn int(&self, path: &str) -> Option<i64>;
    fn flag(&self, path: &str) -> bool;
    fn list(&self, path: &str) -> &[Value];
    fn map(&self, path: &str) -> Option<&Map<String, Value>>;
    fn has(&self, path: &str) -> bool;
}

impl View for Value {
    fn at(&self, path: &str) -> &Value {
        // Paths are short, and most are a single key: by hand this is many times faster than a search for dots.
        let (mut value, mut from) = (self, 0);
        for (at, byte) in path.bytes().enumerate() {
            if byte == b'.' {
                value = value.get(&path[from..at]).unwrap_or(&EMPTY);
                from = at + 1;
            }
        }
        value.get(&path[from..]).unwrap_or(&EMPTY)
    }

    fn text(&self, path: &str) -> &str {
        self.at(path).as_str().unwrap_or_default()
    }

    fn int(&self, path: &str) -> Option<i64> {
        self.at(path).as_i64()
    }

    fn flag(&self, path: &str) -> bool {
        self.at(path).as_bool().unwrap_or(false)
    }

    fn list(&self, path: &str) -> &[Value] {
        self.at(path).as_array().map_or(&[], Vec::as_slice)
    }

    fn map(&self, path: &str) -> Option<&Map<String, Value>> {
        self.at(path).as_object()
    }

    fn has(&self, path: &str) -> bool {
        !self.at(path).is_null()
    }
}

/// The object at a dotted path, made where it is missing. `None` when something else stands in the way.
pub(crate) fn object_mut<'a>(value: &'a mut Value, path: &str) -> Option<&'a mut Map<String, Value>> {
    let mut map = as_object(value)?;
    for key in path.split('.').filter(|k| !k.is_empty()) {
        map = as_object(map.entry(key).or_insert(Value::Null))?;
    }
    Some(map)
}

fn as_object(value: &mut Value) -> Option<&mut Map<String, Value>> {
    if value.is_null() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut()
}

/// The object at a dotted path when it is there.
pub(crate) fn existing_mut<'a>(value: &'a mut Value, path: &str) -> Option<&'a mut Map<String, Value>> {
    let mut at = value;
    for key in path.split('.').filter(|k| !k.is_empty()) {
        at = at.get_mut(key)?;
    }
    at.as_object_mut()
}

/// The list at a key of a map, for changing its elements.
pub(crate) fn items_mut<'a>(
    map: &'a mut Map<String, Value>,
    key: &str,
) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    map.get_mut(key)
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
}

/// Sets a member that is missing or null.
pub(crate) fn set_missing(map: &mut Map<String, Value>, key: &str, value: impl Into<Value>) {
    if map.get(key).is_none_or(Value::is_null) {
        map.insert(key.to_owned(), value.into());
    }
}

/// Sets a member that is missing, null or its zero value.
pub(crate) fn set_zero(map: &mut Map<String, Value>, key: &str, value: impl Into<Value>) {
    let zero = match map.get(key) {
        None | Some(Value::Null) => true,
        Some(Value::String(s)) => s.is_empty(),
        Some(Value::Number(n)) => n.as_i64() == Some(0),
        Some(_) => false,
    };
    if zero {
        map.insert(key.to_owned(), value.into());
    }
}

/// Copies a member from `old`, removing it when `old` has none.
pub(crate) fn copy_member(new: &mut Value, old: &Value, key: &str) {
    let Some(map) = new.as_object_mut() else { return };
    match old.get(key) {
        Some(value) if !value.is_null() => map.insert(key.to_owned(), value.clone()),
        _ => map.remove(key),
    };
}

//! What a patch says beside values: what is to go, to be replaced or kept, and in which order a list is to be.
use std::collections::HashSet;

use serde_json::Value;

use super::lists::identity;
use super::{Object, PatchError};
use crate::kinds::schema::Definition;

pub(super) const PATCH: &str = "$patch";
pub(super) const RETAIN_KEYS: &str = "$retainKeys";
pub(super) const ORDER: &str = "$setElementOrder/";
pub(super) const ORDER_WORD: &str = "$setElementOrder";
pub(super) const DELETE: &str = "$deleteFromPrimitiveList/";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Directive {
    Delete,
    Replace,
}

pub(super) fn directive(patch: &Object) -> Result<Option<Directive>, PatchError> {
    match patch.get(PATCH) {
        None => Ok(None),
        Some(Value::String(s)) if s == "delete" => Ok(Some(Directive::Delete)),
        Some(Value::String(s)) if s == "replace" => Ok(Some(Directive::Replace)),
        Some(other) => Err(PatchError::Directive(other.to_string())),
    }
}

/// Whether a list holds the element `{"$patch": "replace"}`.
pub(super) fn replaces_list(new: &[Value]) -> Result<bool, PatchError> {
    for element in new.iter().filter_map(Value::as_object) {
        if directive(element)? == Some(Directive::Replace) {
            return Ok(true);
        }
    }
    Ok(false)
}

pub(super) fn without_directives(patch: &Object) -> Object {
    let kept = patch.iter().filter(|(k, v)| !k.starts_with('$') && !v.is_null());
    kept.map(|(k, v)| (k.clone(), v.clone())).collect()
}

pub(super) fn retain_keys(current: &mut Object, retained: &Value, patch: &Object) -> Result<(), PatchError> {
    let names = retained.as_array().ok_or(PatchError::Shape {
        path: RETAIN_KEYS.into(),
        wanted: "a list",
        got: kind_of(retained),
    })?;
    let names: HashSet<&str> = names.iter().filter_map(Value::as_str).collect();
    let listed = |key: &str| names.contains(key);
    if let Some(stray) = patch
        .iter()
        .find(|(k, v)| !k.starts_with('$') && !v.is_null() && !listed(k))
    {
        return Err(PatchError::Directive(format!(
            "{} is not in {RETAIN_KEYS}",
            stray.0
        )));
    }
    current.retain(|key, _| listed(key));
    Ok(())
}

pub(super) fn deletions<'a>(patch: &'a Object, name: &str) -> &'a [Value] {
    patch
        .get(&format!("{DELETE}{name}"))
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

pub(super) fn order_of<'a>(patch: &'a Object, name: &str) -> Result<Option<&'a [Value]>, PatchError> {
    let key = format!("{ORDER}{name}");
    match patch.get(&key) {
        None => Ok(None),
        Some(Value::Array(order)) => Ok(Some(order)),
        Some(other) => Err(PatchError::Shape {
            path: key,
            wanted: "a list",
            got: kind_of(other),
        }),
    }
}

/// What is put into an order is a field.
pub(super) fn check_ordered(definition: Option<&Definition>, patch: &Object) -> Result<(), PatchError> {
    let Some(definition) = definition.filter(|definition| !definition.open) else {
        return Ok(());
    };
    let unknown = |name: &&str| definition.field(name).is_none();
    match patch
        .keys()
        .filter_map(|key| key.strip_prefix(ORDER))
        .find(unknown)
    {
        None => Ok(()),
        Some(name) => Err(PatchError::UnknownField {
            of: definition.name.rsplit('.').next().unwrap_or_default().to_owned(),
            field: name.to_owned(),
        }),
    }
}

/// What a patch adds or changes comes in the order that it asks for.
pub(super) fn check_order(new: &[Value], order: &[Value], key: Option<&str>) -> Result<(), PatchError> {
    if new.is_empty() || order.is_empty() {
        return Ok(());
    }
    let of = |value: &Value| match key {
        None => Ok(identity(value)),
        Some(key) => keyed_by(value, key),
    };
    let order_of = order.iter().map(of).collect::<Result<Vec<_>, _>>()?;
    let mut rest = order_of.iter();
    for element in new.iter().filter(|element| element.get(PATCH).is_none()) {
        let id = of(element)?;
        if !rest.any(|next| *next == id) {
            return Err(PatchError::Order {
                patch: Value::from(new.to_vec()).to_string(),
                order: Value::from(order.to_vec()).to_string(),
            });
        }
    }
    Ok(())
}

/// What an element of a keyed list is known by.
fn keyed_by(element: &Value, key: &str) -> Result<String, PatchError> {
    let missing = || PatchError::MissingKey {
        element: element.to_string(),
        key: key.to_owned(),
    };
    element.get(key).map(identity).ok_or_else(missing)
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

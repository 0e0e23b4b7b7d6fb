//! An object without some of its fields.
use super::element::Element;
use super::set::{Node, Set};
use super::shape::{Form, Shape};
use serde_json::{Map, Value};

/// The object without these fields. What is emptied by it becomes null, which decoding drops.
pub fn remove(shape: Shape<'_>, value: &Value, gone: &Set) -> Value {
    if gone.is_empty() {
        return value.clone();
    }
    match value {
        Value::Object(_) | Value::Array(_) if shape.is_leaf(value) => Value::Null,
        Value::Object(map) => or_null(members(shape, map, gone), Map::is_empty, Value::Object),
        Value::Array(list) => or_null(items(shape, list, gone), Vec::is_empty, Value::Array),
        scalar => scalar.clone(),
    }
}

fn or_null<T>(inner: T, empty: fn(&T) -> bool, wrap: fn(T) -> Value) -> Value {
    if empty(&inner) { Value::Null } else { wrap(inner) }
}

fn members(shape: Shape<'_>, map: &Map<String, Value>, gone: &Set) -> Map<String, Value> {
    let mut out = Map::new();
    for (name, value) in map {
        match gone.get(&Element::field(name)) {
            None => drop(out.insert(name.clone(), value.clone())),
            Some(node) if node.member => {}
            Some(node) => {
                let kept = match shape.member(name) {
                    Some(inner) => remove(inner, value, &node.below),
                    None => value.clone(),
                };
                out.insert(name.clone(), kept);
            }
        }
    }
    out
}

fn items(shape: Shape<'_>, list: &[Value], gone: &Set) -> Vec<Value> {
    let mut out = Vec::with_capacity(list.len());
    for item in list {
        match shape.element(item).ok().and_then(|element| gone.get(&element)) {
            None => out.push(item.clone()),
            Some(node) if node.member => {}
            Some(node) => out.push(remove(shape.item(), item, &node.below)),
        }
    }
    out
}

/// The set with every field that the schema names and that has something of the set below it. Sets as they are
/// recorded leave those out.
pub fn with_named(shape: Option<Shape<'_>>, set: &Set) -> Set {
    let mut out = Set::default();
    for (element, node) in set.iter() {
        let (inner, named) = match (shape, element) {
            (Some(shape), Element::Field(name)) => (shape.member(name), shape.names(name)),
            (Some(shape), Element::Key(_)) if matches!(shape.form, Form::List(..)) => {
                (Some(shape.item()), false)
            }
            _ => (None, false),
        };
        let node = Node {
            member: node.member || (named && !node.below.is_empty()),
            below: with_named(inner, &node.below),
        };
        out.put(element.clone(), node);
    }
    out
}

//! The fields that an object has.
use super::element::Element;
use super::set::{Node, Set};
use super::shape::Shape;
use serde_json::Value;

/// Every field of an object.
pub fn fields(shape: Shape<'_>, value: &Value) -> Set {
    node(shape, value).below
}

fn node(shape: Shape<'_>, value: &Value) -> Node {
    if shape.is_leaf(value) {
        return Node::leaf();
    }
    let below = match value {
        Value::Object(map) => members(shape, map),
        Value::Array(list) => items(shape, list),
        _ => Set::default(),
    };
    Node { member: false, below }
}

fn members(shape: Shape<'_>, map: &serde_json::Map<String, Value>) -> Set {
    let mut set = Set::default();
    for (name, value) in map {
        let Some(inner) = shape.member(name) else { continue };
        let mut node = node(inner, value);
        let bare = value.is_null() || value.as_object().is_some_and(serde_json::Map::is_empty);
        node.member |= bare || !shape.names(name);
        set.put(Element::field(name), node);
    }
    set
}

/// Items that share their element are owned together, as one.
fn items(shape: Shape<'_>, list: &[Value]) -> Set {
    let found = grouped(shape, list).into_iter();
    found
        .map(|(element, found)| match found.as_slice() {
            [only] => {
                let below = node(shape.item(), only).below;
                (element, Node { member: true, below })
            }
            _ => (element, Node::leaf()),
        })
        .collect()
}

/// The items by element, in order of appearance of the first of each. Items without one are left out.
pub fn grouped<'v>(shape: Shape<'_>, list: &'v [Value]) -> Vec<(Element, Vec<&'v Value>)> {
    let mut index = std::collections::BTreeMap::new();
    let mut out: Vec<(Element, Vec<&Value>)> = Vec::with_capacity(list.len());
    for item in list {
        let Ok(element) = shape.element(item) else {
            continue;
        };
        let at = *index.entry(element.clone()).or_insert(out.len());
        match out.get_mut(at) {
            Some((_, found)) => found.push(item),
            None => out.push((element, vec![item])),
        }
    }
    out
}

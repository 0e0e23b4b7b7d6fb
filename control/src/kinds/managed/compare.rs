//! How two states of an object differ, field by field.
use super::element::Element;
use super::fields::grouped;
use super::set::{Node, Set};
use super::shape::Shape;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// No field is in more than one of the three.
#[derive(Debug, Default)]
pub struct Comparison {
    pub added: Set,
    pub modified: Set,
    pub removed: Set,
}

impl Comparison {
    /// What an owner of a field loses it by.
    pub fn taken(&self) -> Set {
        let mut taken = self.modified.clone();
        taken.add(self.added.clone());
        taken
    }

    pub fn into_taken(self) -> Set {
        let mut taken = self.modified;
        taken.add(self.added);
        taken
    }

    pub fn is_same(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }

    fn put(&mut self, element: &dyn Fn() -> Element, diff: Diff) {
        for (set, node) in [
            (&mut self.added, diff.added),
            (&mut self.modified, diff.modified),
            (&mut self.removed, diff.removed),
        ] {
            if !node.is_empty() {
                set.put(element(), node);
            }
        }
    }
}

/// A comparison seen from the element above.
#[derive(Default)]
struct Diff {
    added: Node,
    modified: Node,
    removed: Node,
}

/// What `new` adds to, changes in and removes from `old`.
pub fn compare(shape: Shape<'_>, old: &Value, new: &Value) -> Comparison {
    let Diff {
        added,
        modified,
        removed,
    } = value(shape, Some(old), Some(new));
    Comparison {
        added: added.below,
        modified: modified.below,
        removed: removed.below,
    }
}

/// One of both is there.
fn value(shape: Shape<'_>, old: Option<&Value>, new: Option<&Value>) -> Diff {
    if let (None, Some(new)) = (old, new) {
        return Diff {
            added: whole(shape, new),
            ..Diff::default()
        };
    }
    let either = new
        .filter(|v| !v.is_null())
        .or(old)
        .or(new)
        .unwrap_or(&Value::Null);
    if shape.is_leaf(either) || (is_bare(old) && is_bare(new)) || mixed(old, new) {
        return leaf(old, new);
    }
    let inner = match either {
        Value::Object(_) => members(shape, map(old), map(new)),
        Value::Array(_) => items(shape, list(old), list(new)),
        _ => Comparison::default(),
    };
    let node = |below, member| Node { member, below };
    Diff {
        added: node(inner.added, old.is_none()),
        modified: node(inner.modified, false),
        removed: node(inner.removed, new.is_none()),
    }
}

/// Everything of a value where there was none: most of what is created.
fn whole(shape: Shape<'_>, new: &Value) -> Node {
    if shape.is_leaf(new) {
        return Node::leaf();
    }
    let below = match new {
        Value::Object(map) => {
            let known = map.iter().filter_map(|(name, member)| {
                let inner = shape.member(name)?;
                Some((Element::field(name), whole(inner, member)))
            });
            known.collect()
        }
        Value::Array(list) => {
            let known = grouped(shape, list).into_iter().map(|(element, found)| {
                let node = match found.as_slice() {
                    [only] => whole(shape.item(), only),
                    _ => Node::leaf(),
                };
                (element, node)
            });
            known.collect()
        }
        _ => Set::default(),
    };
    Node { member: true, below }
}

fn leaf(old: Option<&Value>, new: Option<&Value>) -> Diff {
    let mut diff = Diff::default();
    match (old, new) {
        (None, _) => diff.added.member = true,
        (_, None) => diff.removed.member = true,
        (old, new) => diff.modified.member = old != new,
    }
    diff
}

/// Nothing, null, an empty object or an empty list: a leaf where the other side is as bare.
pub(super) fn is_bare(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::Object(map)) => map.is_empty(),
        Some(Value::Array(list)) => list.is_empty(),
        Some(_) => false,
    }
}

/// Values of different make cannot be compared below.
pub(super) fn mixed(old: Option<&Value>, new: Option<&Value>) -> bool {
    match (old, new) {
        (Some(Value::Null) | None, _) | (_, Some(Value::Null) | None) => false,
        (Some(a), Some(b)) => a.is_object() != b.is_object() || a.is_array() != b.is_array(),
    }
}

fn map(value: Option<&Value>) -> Option<&Map<String, Value>> {
    value.and_then(Value::as_object)
}

fn list(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn members<'v>(
    shape: Shape<'_>,
    old: Option<&'v Map<String, Value>>,
    new: Option<&'v Map<String, Value>>,
) -> Comparison {
    let mut out = Comparison::default();
    let keys = |map: Option<&'v Map<String, Value>>| map.into_iter().flat_map(Map::keys);
    let mut names: Vec<&String> = keys(old).chain(keys(new)).collect();
    // Two sorted runs: sets are made in order.
    names.sort();
    names.dedup();
    for name in names {
        let Some(inner) = shape.member(name) else { continue };
        let diff = value(
            inner,
            old.and_then(|m| m.get(name)),
            new.and_then(|m| m.get(name)),
        );
        out.put(&|| Element::field(name), diff);
    }
    out
}

fn items(shape: Shape<'_>, old: &[Value], new: &[Value]) -> Comparison {
    let mut out = Comparison::default();
    if old == new {
        return out;
    }
    let mut both: BTreeMap<Element, (Vec<&Value>, Vec<&Value>)> = BTreeMap::new();
    for (element, before) in grouped(shape, old) {
        both.entry(element).or_default().0 = before;
    }
    for (element, after) in grouped(shape, new) {
        both.entry(element).or_default().1 = after;
    }
    for (element, (before, after)) in both {
        out.put(&|| element.clone(), item(shape.item(), &before, &after));
    }
    out
}

/// Duplicates are compared as one leaf; a change from or to them removes the one and adds the other.
fn item(shape: Shape<'_>, old: &[&Value], new: &[&Value]) -> Diff {
    let mut diff = match (old, new) {
        ([] | [_], [] | [_]) => return value(shape, old.first().copied(), new.first().copied()),
        ([_, _, ..], [_, _, ..]) => Diff::default(),
        ([_, _, ..], [only]) => value(shape, None, Some(only)),
        ([only], _) => value(shape, Some(only), None),
        _ => Diff::default(),
    };
    match (old.len() > 1, new.len() > 1) {
        (true, true) => diff.modified.member = old != new,
        (true, false) => diff.removed.member = true,
        _ => diff.added.member = true,
    }
    diff
}

//! An applied configuration merged into the object: what it names replaces or joins, what it does not stays.
use super::element::Element;
use super::fields::grouped;
use super::shape::Shape;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// The object with the configuration merged in. The configuration has been checked (see `check`).
pub fn merge(shape: Shape<'_>, object: &Value, config: &Value) -> Value {
    value(shape, Some(object), Some(config)).unwrap_or_else(|| Value::Object(Map::new()))
}

fn value(shape: Shape<'_>, left: Option<&Value>, right: Option<&Value>) -> Option<Value> {
    let (a, b) = match (left, right) {
        (Some(left), None) => return Some(left.clone()),
        (None, Some(right)) => return Some(right.clone()),
        (None, None) => return None,
        (Some(a), Some(b)) => (a, b),
    };
    let whole = shape.is_leaf(b) || shape.is_leaf(a) && !b.is_null();
    match (a, b) {
        _ if whole || (bare(a) && bare(b)) => Some(b.clone()),
        (Value::Object(a), Value::Object(b)) => Some(members(shape, a, b)),
        (Value::Array(a), Value::Array(b)) => Some(Value::Array(items(shape, a, b))),
        // An explicit null takes nothing away from what has members.
        (a, Value::Null) => Some(a.clone()),
        _ => Some(b.clone()),
    }
}

fn bare(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

fn members(shape: Shape<'_>, left: &Map<String, Value>, right: &Map<String, Value>) -> Value {
    let mut out = left.clone();
    for (name, theirs) in right {
        let merged = match shape.member(name) {
            Some(inner) => value(inner, left.get(name), Some(theirs)),
            None => Some(theirs.clone()),
        };
        if let Some(merged) = merged {
            out.insert(name.clone(), merged);
        }
    }
    Value::Object(out)
}

/// The items of both. Those that both have come in the configuration's order; what only the object has keeps its
/// place among them.
fn items(shape: Shape<'_>, left: &[Value], right: &[Value]) -> Vec<Value> {
    let theirs: BTreeMap<Element, &Value> = elements(shape, right).into_iter().collect();
    let mine: BTreeMap<Element, Vec<&Value>> = grouped(shape, left).into_iter().collect();
    let mut merging = Merging {
        shape: shape.item(),
        left: elements(shape, left),
        right: elements(shape, right),
        shared: Vec::new(),
        mine,
        theirs,
        done: BTreeSet::new(),
        out: Vec::new(),
    };
    let in_both = merging.right.iter().map(|(e, _)| e);
    merging.shared = in_both
        .filter(|e| merging.mine.contains_key(e))
        .cloned()
        .rev()
        .collect();
    merging.run();
    merging.out
}

fn elements<'v>(shape: Shape<'_>, list: &'v [Value]) -> Vec<(Element, &'v Value)> {
    let found = list
        .iter()
        .filter_map(|item| Some((shape.element(item).ok()?, item)));
    found.collect()
}

/// The walk over two lists at once.
struct Merging<'s, 'v> {
    shape: Shape<'s>,
    left: Vec<(Element, &'v Value)>,
    right: Vec<(Element, &'v Value)>,
    /// What both have and is still to come, in the right order, the next one last.
    shared: Vec<Element>,
    mine: BTreeMap<Element, Vec<&'v Value>>,
    theirs: BTreeMap<Element, &'v Value>,
    done: BTreeSet<Element>,
    out: Vec<Value>,
}

impl Merging<'_, '_> {
    fn run(&mut self) {
        let (mut l, mut r) = (0, 0);
        while l < self.left.len() || r < self.right.len() {
            let wanted = self.right.get(r).map(|(e, _)| e.clone());
            if let Some((element, item)) = self.left.get(l).cloned() {
                if wanted.as_ref() == Some(&element) {
                    self.take(&element);
                    (l, r) = (l + 1, r + 1);
                    continue;
                }
                if !self.theirs.contains_key(&element) {
                    self.out.push(item.clone());
                    l += 1;
                    continue;
                }
                let out_of_turn = wanted.is_some() && self.shared.last().is_some_and(|next| *next != element);
                if out_of_turn || self.done.contains(&element) {
                    l += 1;
                    continue;
                }
            }
            if let Some(element) = wanted {
                self.take(&element);
                r += 1;
            }
        }
    }

    /// Merges an item of the right list with that of the left, if it has exactly one.
    fn take(&mut self, element: &Element) {
        self.done.insert(element.clone());
        if self.shared.last() == Some(element) {
            self.shared.pop();
        }
        let left = match self.mine.get(element).map(Vec::as_slice) {
            Some([only]) => Some(*only),
            _ => None,
        };
        self.out
            .extend(value(self.shape, left, self.theirs.get(element).copied()));
    }
}

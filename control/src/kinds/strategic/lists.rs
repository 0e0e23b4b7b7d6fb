//! Lists while they are merged: found by key in one step, and put into the order the client asked for.
use std::collections::HashMap;

use serde_json::Value;

/// What a key or scalar is compared by.
pub(super) fn identity(value: &Value) -> String {
    value.to_string()
}

/// Where each identity stands first.
pub(super) fn places(identities: impl Iterator<Item = String>) -> HashMap<String, usize> {
    let mut places = HashMap::new();
    for (at, identity) in identities.enumerate() {
        places.entry(identity).or_insert(at);
    }
    places
}

/// A list of objects indexed by their merge key.
#[derive(Debug)]
pub(super) struct Keyed {
    /// Removed elements leave a hole.
    slots: Vec<Option<Value>>,
    at: HashMap<String, Vec<usize>>,
}

impl Keyed {
    pub(super) fn new(list: Vec<Value>, id: impl Fn(&Value) -> String) -> Keyed {
        let mut at: HashMap<String, Vec<usize>> = HashMap::new();
        for (i, value) in list.iter().enumerate() {
            at.entry(id(value)).or_default().push(i);
        }
        Keyed {
            slots: list.into_iter().map(Some).collect(),
            at,
        }
    }

    /// The first element of this identity.
    pub(super) fn first(&self, id: &str) -> Option<&Value> {
        self.slots[*self.at.get(id)?.first()?].as_ref()
    }

    /// Replaces the first element of this identity, or appends.
    pub(super) fn put(&mut self, id: String, value: Value) {
        match self.at.get(&id).and_then(|at| at.first()) {
            Some(at) => self.slots[*at] = Some(value),
            None => {
                self.at.insert(id, vec![self.slots.len()]);
                self.slots.push(Some(value));
            }
        }
    }

    /// Removes every element of this identity.
    pub(super) fn remove(&mut self, id: &str) {
        for at in self.at.remove(id).unwrap_or_default() {
            self.slots[at] = None;
        }
    }

    pub(super) fn into_list(self) -> Vec<Value> {
        self.slots.into_iter().flatten().collect()
    }
}

/// Elements the client ordered come in its order; those only the server has keep their place relative to the
/// neighbours they had `before`.
pub(super) fn in_order(
    merged: Vec<Value>,
    before: &HashMap<String, usize>,
    order: &HashMap<String, usize>,
    id: impl Fn(&Value) -> String,
) -> Vec<Value> {
    let (mut ordered, server_only): (Vec<Value>, Vec<Value>) =
        merged.into_iter().partition(|v| order.contains_key(&id(v)));
    ordered.sort_by_cached_key(|v| order.get(&id(v)).copied());
    let was = |v: &Value| before.get(&id(v)).copied();
    let mut out: Vec<Value> = Vec::with_capacity(ordered.len() + server_only.len());
    let (mut left, mut right) = (ordered.into_iter().peekable(), server_only.into_iter().peekable());
    while let (Some(l), Some(r)) = (left.peek(), right.peek()) {
        let server_first = matches!((was(l), was(r)), (Some(a), Some(b)) if b < a);
        let next = if server_first { right.next() } else { left.next() };
        out.extend(next);
    }
    out.extend(left);
    out.extend(right);
    out
}

//! Which objects have a value in the one field that clients choose a kind by: Pods by their node, as upstream's storage indexes
//! them. Without it each of 5,000 agents would have the server look at every Pod there is. Refuses to know who asks.
use super::super::object::Object;
use super::super::texts::Lookup;
use crate::kinds::Kind;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// The keys of a resource's objects by one of their fields.
pub struct Index {
    field: Option<&'static str>,
    keys: HashMap<Box<str>, BTreeSet<Arc<str>>>,
}

/// The field that objects of a kind are looked up by.
pub fn field(kind: &Kind) -> Option<&'static str> {
    match (kind.group.as_str(), kind.plural.as_str()) {
        ("", "pods") => Some("spec.nodeName"),
        _ => None,
    }
}

impl Index {
    pub fn of(kind: &Kind) -> Self {
        Index {
            field: field(kind),
            keys: HashMap::new(),
        }
    }

    /// Objects with nothing in the field are in no list: before they are bound all Pods are such.
    pub fn value<'a>(&self, object: &'a Object) -> Option<&'a str> {
        object.fields.find(self.field?).filter(|value| !value.is_empty())
    }

    pub fn replace(&mut self, before: Option<&Object>, now: Option<&Object>) {
        let was = before.and_then(|object| self.value(object));
        let is = now.and_then(|object| self.value(object));
        if was == is {
            return;
        }
        if let (Some(value), Some(object)) = (was, before) {
            self.remove(value, &object.key);
        }
        if let (Some(value), Some(object)) = (is, now) {
            self.keys
                .entry(value.into())
                .or_default()
                .insert(object.key.clone());
        }
    }

    fn remove(&mut self, value: &str, key: &str) {
        if let Some(keys) = self.keys.get_mut(value) {
            keys.remove(key);
            if keys.is_empty() {
                self.keys.remove(value);
            }
        }
    }

    pub fn clear(&mut self) {
        self.keys.clear();
    }

    /// The keys of those with this value, in order.
    pub fn keys(&self, value: &str) -> impl Iterator<Item = &Arc<str>> {
        self.keys.get(value).into_iter().flatten()
    }
}

//! An object and what it was before an update, followed together (KEP-4008, ratcheting): elements of map lists by their
//! keys, those of other lists not at all.
//!
//! Checks and rules ask again and again, of a part and of those above it: a pair of values is compared once and a list
//! is indexed once, so that the whole costs what the two objects are long.
use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::rc::Rc;

use serde_json::Value;

use super::lists;
use super::schema::Structural;

/// What was found out about one object and its old state, by the addresses of their parts.
#[derive(Default)]
pub(super) struct Memory {
    unchanged: RefCell<HashMap<[usize; 2], bool>>,
    indexes: RefCell<HashMap<usize, Rc<Index>>>,
    #[cfg(test)]
    looked_at: std::cell::Cell<usize>,
}

/// Where the elements of a map list are, by their keys; of equal ones the first.
type Index = HashMap<String, usize>;

impl Memory {
    /// The object and what it was. A memory is for one pair of objects only.
    pub fn of<'v>(&'v self, schema: &'v Structural, value: &'v Value, old: &'v Value) -> Correlated<'v> {
        Correlated {
            schema,
            value,
            old,
            memory: self,
        }
    }

    fn index(&self, schema: &Structural, list: &[Value]) -> Rc<Index> {
        let mut indexes = self.indexes.borrow_mut();
        let index = indexes.entry(list.as_ptr().addr()).or_insert_with(|| {
            self.note(list.len());
            let mut index = Index::new();
            for (i, element) in list.iter().enumerate() {
                if let Entry::Vacant(place) = index.entry(identity(schema, element)) {
                    place.insert(i);
                }
            }
            Rc::new(index)
        });
        index.clone()
    }

    /// Counts the values that are looked at.
    #[cfg(test)]
    fn note(&self, values: usize) {
        self.looked_at.set(self.looked_at.get() + values);
    }

    #[cfg(not(test))]
    fn note(&self, _: usize) {}
}

fn identity(schema: &Structural, element: &Value) -> String {
    lists::keys(schema, element).to_string()
}

fn address(value: &Value) -> usize {
    std::ptr::from_ref(value).addr()
}

/// A part of an object, by its schema, and what it was.
#[derive(Clone, Copy)]
pub(super) struct Correlated<'v> {
    schema: &'v Structural,
    value: &'v Value,
    pub old: &'v Value,
    memory: &'v Memory,
}

impl<'v> Correlated<'v> {
    /// A member that was there before, if its schema is known.
    pub fn member(self, key: &str) -> Option<Self> {
        let schema = self.schema.member(key)?;
        let (value, old) = (self.value.get(key)?, self.old.get(key)?);
        Some(self.memory.of(schema, value, old))
    }

    /// An element of a map list that was there before, wherever.
    pub fn element(self, element: &'v Value) -> Option<Self> {
        if self.schema.list_type.as_deref() != Some("map") {
            return None;
        }
        let (schema, old) = (self.schema.items.as_deref()?, self.old.as_array()?);
        let index = self.memory.index(self.schema, old);
        let place = index.get(&identity(self.schema, element))?;
        Some(self.memory.of(schema, element, old.get(*place)?))
    }

    /// Whether it is what it was, but for the order of lists that are maps.
    pub fn is_unchanged(self) -> bool {
        let parts = [address(self.value), address(self.old)];
        let known = self.memory.unchanged.borrow().get(&parts).copied();
        known.unwrap_or_else(|| {
            let unchanged = self.compare();
            self.memory.unchanged.borrow_mut().insert(parts, unchanged);
            unchanged
        })
    }

    fn compare(self) -> bool {
        self.memory.note(1);
        match (self.value, self.old) {
            (Value::Object(new), Value::Object(old)) => {
                let kept = |(key, value): (&String, &Value)| match self.member(key) {
                    Some(member) => member.is_unchanged(),
                    None => old.get(key) == Some(value),
                };
                new.len() == old.len() && new.iter().all(kept)
            }
            (Value::Array(new), Value::Array(old)) if self.schema.list_type.as_deref() == Some("map") => {
                let kept = |element| self.element(element).is_some_and(Self::is_unchanged);
                new.len() == old.len() && new.iter().all(kept)
            }
            (new, old) => new == old,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::custom::{rules, validate};
    use serde_json::json;

    /// Map lists in map lists, with a rule that no element keeps.
    fn schema() -> Structural {
        let list = |element: Value| {
            json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
            "items": {"type": "object", "properties": {"k": {"type": "integer"}, "e": element}}})
        };
        let rule = json!([{"rule": "self == 'never'"}]);
        let text = json!({"type": "string", "pattern": "^never$", "x-kubernetes-validations": rule});
        let plain = json!({"type": "array", "items": text});
        Structural::parse(&list(list(plain)))
    }

    /// `n` elements of `n` elements of two texts; the other way round if they are to be.
    fn object(n: usize, reversed: bool) -> Value {
        let list = |element: &Value| {
            let mut list: Vec<Value> = (0..n).map(|k| json!({"k": k, "e": element})).collect();
            if reversed {
                list.reverse();
            }
            Value::from(list)
        };
        list(&list(&json!(["a", "b"])))
    }

    /// How many values are looked at when an object is judged.
    fn looked_at(new: &Value, old: &Value) -> usize {
        let (schema, memory) = (schema(), Memory::default());
        let was = Some(memory.of(&schema, new, old));
        validate::validate(&schema, new, was);
        rules::validate(&schema, new, was);
        memory.looked_at.get()
    }

    #[test]
    fn each_value_is_looked_at_once() {
        for n in [4, 16] {
            // Elements, their keys and what they hold, and what the lists of both depths are indexed with.
            let lists = n * n + n;
            let limit = 1 + 3 * lists + lists;
            let (old, mut new) = (object(n, false), object(n, true));
            assert!(looked_at(&new, &old) <= limit);
            let last = new.pointer_mut(&format!("/{0}/e/{0}/e/1", n - 1)).expect("there");
            *last = "changed".into();
            assert!(looked_at(&new, &old) <= limit);
        }
    }

    #[test]
    fn what_is_where_it_was_or_elsewhere_in_a_map_list_is_unchanged() {
        let old = json!([{"k": 1, "e": [{"k": 1}, {"k": 2, "e": ["a", "b"]}]}, {"k": 2}]);
        for (new, unchanged) in [
            (old.clone(), true),
            (
                json!([{"k": 2}, {"e": [{"k": 2, "e": ["a", "b"]}, {"k": 1}], "k": 1}]),
                true,
            ),
            (
                json!([{"k": 2}, {"k": 1, "e": [{"k": 2, "e": ["b", "a"]}, {"k": 1}]}]),
                false,
            ),
            (json!([{"k": 1, "e": [{"k": 1}, {"k": 3}]}, {"k": 2}]), false),
            (json!([{"k": 2}]), false),
            (json!({}), false),
        ] {
            let (schema, memory) = (schema(), Memory::default());
            let correlated = memory.of(&schema, &new, &old);
            assert_eq!(correlated.is_unchanged(), unchanged, "{new}");
            assert_eq!(correlated.is_unchanged(), unchanged, "the second time");
        }
    }
}

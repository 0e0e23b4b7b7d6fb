//! A YAML text as a JSON value, with the lines of keys that come twice in a mapping; the last of them wins.
//!
//! Refuses to know limits and bodies.
use super::decode::Decoded;
use crate::kinds::{FieldIssue, numbers};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use serde_yaml::Spanned;
use std::fmt;

/// A part of a text and what is wrong inside it, inner parts first.
pub(super) struct Node(pub(super) Decoded);

impl Node {
    fn of(value: impl Into<Value>) -> Self {
        Node(Decoded {
            value: value.into(),
            issues: Vec::new(),
        })
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, v: bool) -> Result<Node, E> {
        Ok(Node::of(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Node, E> {
        Ok(Node::of(v))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Node, E> {
        Ok(Node::of(v))
    }

    /// A whole number is one however it is written: `3.0` and `1e2` are `3` and `100` in JSON.
    fn visit_f64<E>(self, v: f64) -> Result<Node, E> {
        Ok(numbers::exact(v).map_or_else(|| Node::of(v), Node::of))
    }

    fn visit_str<E>(self, v: &str) -> Result<Node, E> {
        Ok(Node::of(v))
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::of(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::of(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let (mut items, mut issues) = (Vec::new(), Vec::new());
        while let Some(Node(item)) = seq.next_element()? {
            items.push(item.value);
            issues.extend(item.issues);
        }
        let value = items.into();
        Ok(Node(Decoded { value, issues }))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let (mut members, mut issues) = (Map::new(), Vec::new());
        while let Some((key, member)) = map.next_entry::<String, Spanned<Node>>()? {
            let line = member.defined.line();
            let Node(member) = member.value;
            issues.extend(member.issues);
            if members.insert(key.clone(), member.value).is_some() {
                issues.push(FieldIssue::Repeated { line, key });
            }
        }
        let value = Value::Object(members);
        Ok(Node(Decoded { value, issues }))
    }
}

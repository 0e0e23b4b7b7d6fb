//! A stored object without what no label and no field label can come from: parsed for the watch cache at every change,
//! so that most of a Pod is only skipped over.
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;
use std::ops::Range;

/// Where in metadata it is told who owns the fields.
const OWNERS: &str = "managedFields";
/// Members of an object that nothing is selected by.
const SKIPPED: [&str; 5] = ["apiVersion", "binaryData", "data", "kind", "rules"];
/// What of metadata is selected by.
const NAMES: [&str; 3] = ["labels", "name", "namespace"];
/// Lists and objects inside `spec` and `status` that built-in kinds are selected by (see `kinds/selectable.rs`).
const KEPT: [&str; 2] = ["parentRef", "podIPs"];

/// What was seen of an object.
#[derive(Debug)]
pub struct Glance {
    pub value: Value,
    /// Where the value of `metadata.managedFields` lies in the text.
    pub owners: Option<Range<usize>>,
}

/// The object at a glance; for built-in kinds.
pub fn glance(json: &[u8]) -> serde_json::Result<Glance> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    let owners = Cell::new(None);
    let seed = Looking {
        part: Part::Object,
        owners: &owners,
    };
    let value = seed.deserialize(&mut reader)?;
    reader.end()?;
    let place = |owners: &RawValue| {
        let start = owners.get().as_ptr().addr() - json.as_ptr().addr();
        start..start + owners.get().len()
    };
    Ok(Glance {
        value,
        owners: owners.get().map(place),
    })
}

/// Reads a part of an object, and keeps where its owners are.
struct Looking<'c, 'de> {
    part: Part,
    owners: &'c Cell<Option<&'de RawValue>>,
}

/// What is being read.
#[derive(Clone, Copy)]
enum Part {
    Object,
    Metadata,
    /// `spec` or `status`.
    State,
    /// Kept when it is a scalar.
    Scalar,
}

impl Part {
    /// What a member is; none when it is kept whole.
    fn of(self, key: &str) -> Option<Part> {
        match (self, key) {
            (Part::Object, "metadata") => Some(Part::Metadata),
            (Part::Object, "spec" | "status") => Some(Part::State),
            (Part::State, key) if !KEPT.contains(&key) => Some(Part::Scalar),
            _ => None,
        }
    }

    fn skips(self, key: &str) -> bool {
        match self {
            Part::Object => SKIPPED.contains(&key),
            Part::Metadata => !NAMES.contains(&key),
            Part::State => false,
            Part::Scalar => true,
        }
    }
}

/// A member's key, in the text itself where it is written plainly: most are only looked at.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Cow<'de, str>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Borrowed(key))
    }

    fn visit_str<E>(self, key: &str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Owned(key.to_owned()))
    }
}

impl<'de> DeserializeSeed<'de> for Looking<'_, 'de> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Looking<'_, 'de> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::Null)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some(key) = map.next_key_seed(Key)? {
            if matches!(self.part, Part::Metadata) && key == OWNERS {
                self.owners.set(Some(map.next_value()?));
                continue;
            }
            if self.part.skips(&key) {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let value = match self.part.of(&key) {
                Some(part) => map.next_value_seed(Looking { part, ..self })?,
                None => map.next_value()?,
            };
            if !value.is_null() {
                members.insert(key.into_owned(), value);
            }
        }
        Ok(match self.part {
            Part::Scalar => Value::Null,
            _ => Value::Object(members),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_selects_is_kept_and_the_rest_is_not() {
        let pod = json!({
            "kind": "Pod", "data": {"a": "b"},
            "metadata": {"name": "p", "labels": {"app": "web"}, "annotations": {"a": "b"}, "managedFields": [{"a": 1}]},
            "spec": {"nodeName": "n", "hostNetwork": true, "containers": [{"name": "c"}], "affinity": {"a": {}}},
            "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}], "conditions": [{"type": "Ready"}]},
        });
        let want = json!({
            "metadata": {"name": "p", "labels": {"app": "web"}},
            "spec": {"nodeName": "n", "hostNetwork": true},
            "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}]},
        });
        let text = pod.to_string();
        let seen = glance(text.as_bytes()).unwrap();
        assert_eq!(seen.value, want);
        assert_eq!(&text[seen.owners.unwrap()], r#"[{"a":1}]"#);
    }

    #[test]
    fn what_is_damaged_is_told() {
        for text in ["", "{", "{}x", r#"{"spec":{"a":[}}"#, r#"{"data":{"a"}}"#] {
            assert!(glance(text.as_bytes()).is_err(), "{text}");
        }
    }
}

//! A stored object without what no label and no field label can come from: parsed for the watch cache at every change,
//! so that most of a Pod is only skipped over.
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::fmt;

/// Members that nothing is selected by, wherever in an object's first two levels they are.
const SKIPPED: [&str; 7] = [
    "annotations",
    "binaryData",
    "data",
    "finalizers",
    "managedFields",
    "ownerReferences",
    "rules",
];
/// Lists and objects inside `spec` and `status` that built-in kinds are selected by (see `kinds/selectable.rs`).
const KEPT: [&str; 2] = ["parentRef", "podIPs"];

/// The object at a glance; for built-in kinds.
pub fn glance(json: &[u8]) -> serde_json::Result<Value> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    let value = Part::Object.deserialize(&mut reader)?;
    reader.end()?;
    Ok(value)
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
        matches!(self, Part::Object | Part::Metadata) && SKIPPED.contains(&key)
    }
}

impl<'de> DeserializeSeed<'de> for Part {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Part {
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
        while let Some(key) = map.next_key::<String>()? {
            if matches!(self, Part::Scalar) || self.skips(&key) {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let value = match self.of(&key) {
                Some(part) => map.next_value_seed(part)?,
                None => map.next_value()?,
            };
            members.insert(key, value);
        }
        Ok(Value::Object(members))
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
            "kind": "Pod",
            "metadata": {"name": "p", "labels": {"app": "web"}},
            "spec": {"nodeName": "n", "hostNetwork": true, "containers": null, "affinity": {}},
            "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}], "conditions": null},
        });
        assert_eq!(glance(pod.to_string().as_bytes()).unwrap(), want);
    }

    #[test]
    fn what_is_damaged_is_told() {
        for text in ["", "{", "{}x", r#"{"spec":{"a":[}}"#, r#"{"data":{"a"}}"#] {
            assert!(glance(text.as_bytes()).is_err(), "{text}");
        }
    }
}

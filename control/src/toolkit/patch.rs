//! Merge patches (RFC 7386) from a typed before and after.
//!
//! Typed objects are never written back whole: a field the types do not know would be lost. The difference is.
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde_json::{Map, Value, json};

/// The merge patch that turns `before` into `after`; `None` when they are equal.
pub fn difference(before: &Value, after: &Value) -> Option<Value> {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => object_difference(before, after),
        (before, after) if before == after => None,
        (_, after) => Some(after.clone()),
    }
}

fn object_difference(before: &Map<String, Value>, after: &Map<String, Value>) -> Option<Value> {
    let mut patch = Map::new();
    for (key, value) in after {
        let change = match before.get(key) {
            Some(old) => difference(old, value),
            None => Some(value.clone()),
        };
        if let Some(change) = change {
            patch.insert(key.clone(), change);
        }
    }
    for key in before.keys().filter(|key| !after.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

/// A patch of `field` (say `status`) from `before` to `after` that only applies to the version `meta` describes.
pub fn versioned<S: Serialize>(meta: &ObjectMeta, field: &str, before: &S, after: &S) -> Option<Value> {
    let change = difference(&to_value(before), &to_value(after))?;
    Some(guarded(meta, json!({ field: change })))
}

/// Adds the precondition "still this object at this version" to a patch.
pub fn guarded(meta: &ObjectMeta, mut patch: Value) -> Value {
    if !patch["metadata"].is_object() {
        patch["metadata"] = json!({});
    }
    patch["metadata"]["resourceVersion"] = json!(meta.resource_version);
    patch["metadata"]["uid"] = json!(meta.uid);
    patch
}

/// JSON of an API type. These types hold only strings, numbers, lists and string-keyed maps, so they always convert;
/// were one not to, the patch would be empty and nothing would be written.
pub fn to_value<S: Serialize>(value: &S) -> Value {
    serde_json::to_value(value).unwrap_or(Value::Null)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn removed_keys_become_null_and_lists_are_replaced() {
        let cases = [
            (json!({"a": 1}), json!({"a": 1}), None),
            (json!({"a": 1}), json!({"a": 2}), Some(json!({"a": 2}))),
            (json!({"a": 1, "b": 1}), json!({"b": 1}), Some(json!({"a": null}))),
            (json!({"c": [1, 2]}), json!({"c": [2]}), Some(json!({"c": [2]}))),
            (
                json!({"m": {"x": 1, "y": 2}}),
                json!({"m": {"x": 1, "y": 3}}),
                Some(json!({"m": {"y": 3}})),
            ),
        ];
        for (before, after, expected) in cases {
            assert_eq!(difference(&before, &after), expected, "{before} -> {after}");
        }
    }

    fn documents() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<i32>().prop_map(Value::from),
            "[a-c]{0,2}".prop_map(Value::from)
        ];
        let value = leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[a-d]", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        });
        prop::collection::btree_map("[a-d]", value, 0..4)
            .prop_map(|map| Value::Object(map.into_iter().collect()))
    }

    proptest! {
        #[test]
        fn applying_the_difference_gives_the_after(before in documents(), after in documents()) {
            let mut got = before.clone();
            if let Some(patch) = difference(&before, &after) {
                json_patch::merge(&mut got, &patch);
            }
            prop_assert_eq!(got, after);
        }
    }
}

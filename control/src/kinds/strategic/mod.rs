//! Strategic merge patch: a merge patch that joins lists by key, as the schema says.
//!
//! Directives: `$patch: delete|replace`, `$retainKeys`, `$setElementOrder/FIELD`, `$deleteFromPrimitiveList/FIELD`.
//! Follows the behaviour kubectl and the API server share (`sigs.k8s.io`'s strategicpatch); refuses to know kinds.
mod directives;
mod lists;

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::schema::{Definition, Field, Schemas, Type};
use directives::{
    DELETE, Directive, ORDER, ORDER_WORD, PATCH, RETAIN_KEYS, check_order, check_ordered, deletions,
    directive, order_of, replaces_list, retain_keys, without_directives,
};
use lists::{Keyed, identity, in_order, places};

/// Why a patch cannot be applied; a 400 or 422 by upstream's reckoning, its text for the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    #[error("a strategic merge patch must be a JSON object")]
    NotAnObject,
    #[error("unrecognized patch directive: {0}")]
    Directive(String),
    #[error("map: {element} does not contain declared merge key: {key}")]
    MissingKey { element: String, key: String },
    #[error("The order in patch list:\n{patch}\n doesn't match {ORDER_WORD} list:\n{order}\n")]
    Order { patch: String, order: String },
    #[error("unable to find api field in struct {of} for the json field {field:?}")]
    UnknownField { of: String, field: String },
    #[error("expected {wanted} at {path}, got {got}")]
    Shape {
        path: String,
        wanted: &'static str,
        got: &'static str,
    },
}

/// Applies `patch` to `current`.
pub fn merge(
    schemas: &Schemas,
    root: &Definition,
    current: &Value,
    patch: &Value,
) -> Result<Value, PatchError> {
    let (Value::Object(current), Value::Object(patch)) = (current, patch) else {
        return Err(PatchError::NotAnObject);
    };
    let merger = Merger { schemas };
    Ok(Value::Object(merger.object(
        Some(root),
        current.clone(),
        patch,
    )?))
}

struct Merger<'a> {
    schemas: &'a Schemas,
}

type Object = Map<String, Value>;

impl Merger<'_> {
    fn object(
        &self,
        definition: Option<&Definition>,
        current: Object,
        patch: &Object,
    ) -> Result<Object, PatchError> {
        let mut current = match directive(patch)? {
            Some(Directive::Replace) => return Ok(without_directives(patch)),
            Some(Directive::Delete) => return Ok(Object::new()),
            None => current,
        };
        if let Some(retained) = patch.get(RETAIN_KEYS) {
            retain_keys(&mut current, retained, patch)?;
        }
        check_ordered(definition, patch)?;
        for (key, value) in patch.iter().filter(|(k, _)| !k.starts_with('$')) {
            let field = definition.and_then(|d| d.field(key));
            self.member(field, &mut current, key, value, patch)?;
        }
        self.bare_list_directives(definition, &mut current, patch)?;
        Ok(current)
    }

    fn member(
        &self,
        field: Option<&Field>,
        current: &mut Object,
        key: &str,
        value: &Value,
        patch: &Object,
    ) -> Result<(), PatchError> {
        if value.is_null() {
            current.remove(key);
            return Ok(());
        }
        let merged = match (current.remove(key), value) {
            (_, value) if field.is_some_and(Field::replaces) => value.clone(),
            (Some(Value::Object(old)), Value::Object(new)) => {
                Value::Object(self.object(self.inner(field), old, new)?)
            }
            (Some(Value::Array(old)), Value::Array(new)) => {
                Value::Array(self.list(field, old, new, patch, key)?)
            }
            (None | Some(Value::Null), Value::Object(new)) => {
                Value::Object(self.object(self.inner(field), Object::new(), new)?)
            }
            (None | Some(Value::Null), Value::Array(new)) => {
                Value::Array(self.list(field, Vec::new(), new, patch, key)?)
            }
            (_, value) => value.clone(),
        };
        current.insert(key.to_owned(), merged);
        Ok(())
    }

    /// The definition of a field's object, its list's elements or its map's values.
    fn inner(&self, field: Option<&Field>) -> Option<&Definition> {
        let ty = match &field?.ty {
            Type::List(item) | Type::Map(item) => item,
            ty => ty,
        };
        self.schemas.resolve(ty).map(AsRef::as_ref)
    }

    /// Directives for lists that the patch does not otherwise name.
    fn bare_list_directives(
        &self,
        definition: Option<&Definition>,
        current: &mut Object,
        patch: &Object,
    ) -> Result<(), PatchError> {
        for name in patch
            .keys()
            .filter_map(|k| k.strip_prefix(ORDER).or_else(|| k.strip_prefix(DELETE)))
        {
            if patch.contains_key(name) {
                continue;
            }
            if let Some(Value::Array(old)) = current.remove(name) {
                let field = definition.and_then(|d| d.field(name));
                let list = self.list(field, old, &[], patch, name)?;
                current.insert(name.to_owned(), Value::Array(list));
            }
        }
        Ok(())
    }

    fn list(
        &self,
        field: Option<&Field>,
        old: Vec<Value>,
        new: &[Value],
        patch: &Object,
        name: &str,
    ) -> Result<Vec<Value>, PatchError> {
        let Some(field) = field.filter(|f| f.merges()) else {
            return Ok(plain_list(old, new, patch, name));
        };
        let order = order_of(patch, name)?;
        if let Some(order) = order {
            check_order(new, order, field.merge_key.as_deref())?;
        }
        match field.merge_key.as_deref() {
            Some(key) => self.keyed_list(field, key, old, new, order),
            None => Ok(primitive_list(old, new, order, deletions(patch, name))),
        }
    }

    fn keyed_list(
        &self,
        field: &Field,
        key: &str,
        old: Vec<Value>,
        new: &[Value],
        order: Option<&[Value]>,
    ) -> Result<Vec<Value>, PatchError> {
        if replaces_list(new)? {
            return Ok(new.iter().filter(|v| v.get(PATCH).is_none()).cloned().collect());
        }
        let definition = self.inner(Some(field));
        let id = |v: &Value| v.get(key).map_or_else(String::new, identity);
        let before = places(old.iter().map(id));
        let mut merged = Keyed::new(old, id);
        for element in new {
            self.keyed_element(definition, key, &mut merged, element)?;
        }
        let order = places(order.unwrap_or(new).iter().map(id));
        Ok(in_order(merged.into_list(), &before, &order, id))
    }

    fn keyed_element(
        &self,
        definition: Option<&Definition>,
        key: &str,
        merged: &mut Keyed,
        element: &Value,
    ) -> Result<(), PatchError> {
        let missing = || PatchError::MissingKey {
            element: element.to_string(),
            key: key.to_owned(),
        };
        let patch = element.as_object().ok_or_else(missing)?;
        let id = identity(patch.get(key).ok_or_else(missing)?);
        if directive(patch)? == Some(Directive::Delete) {
            merged.remove(&id);
            return Ok(());
        }
        let current = merged
            .first(&id)
            .and_then(Value::as_object)
            .cloned()
            .unwrap_or_default();
        merged.put(id, Value::Object(self.object(definition, current, patch)?));
        Ok(())
    }
}

/// A list of scalars that a patch adds to and deletes from.
fn primitive_list(old: Vec<Value>, new: &[Value], order: Option<&[Value]>, gone: &[Value]) -> Vec<Value> {
    let gone: HashSet<String> = gone.iter().map(identity).collect();
    let before = places(old.iter().map(identity));
    let mut merged: Vec<Value> = old.into_iter().filter(|v| !gone.contains(&identity(v))).collect();
    merged.extend(new.iter().cloned());
    let mut present = HashSet::new();
    merged.retain(|v| present.insert(identity(v)));
    in_order(
        merged,
        &before,
        &places(order.unwrap_or(new).iter().map(identity)),
        identity,
    )
}

/// A list without a merge strategy is replaced; only its deletion directive can leave it partly.
fn plain_list(old: Vec<Value>, new: &[Value], patch: &Object, name: &str) -> Vec<Value> {
    if patch.contains_key(name) {
        return new.to_vec();
    }
    let gone: HashSet<String> = deletions(patch, name).iter().map(identity).collect();
    old.into_iter().filter(|v| !gone.contains(&identity(v))).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn apply(current: &Value, patch: &Value) -> Result<Value, PatchError> {
        let schemas = Schemas::builtin();
        merge(
            schemas,
            schemas.get("io.k8s.api.core.v1.Pod").expect("definition"),
            current,
            patch,
        )
    }

    fn check(current: Value, patch: Value, want: Value) {
        assert_eq!(apply(&current, &patch).expect("applies"), want);
    }

    #[test]
    fn lists_join_by_their_key() {
        check(
            json!({"spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "2"}]}}),
            json!({"spec": {"containers": [{"name": "b", "image": "3"}, {"name": "c", "image": "4"}]}}),
            json!({"spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "3"}, {"name": "c", "image": "4"}]}}),
        );
    }

    #[test]
    fn directives() {
        check(
            json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}}),
            json!({"spec": {"containers": [{"name": "a", "$patch": "delete"}]}}),
            json!({"spec": {"containers": [{"name": "b"}]}}),
        );
        check(
            json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}}),
            json!({"spec": {"containers": [{"name": "z"}, {"$patch": "replace"}]}}),
            json!({"spec": {"containers": [{"name": "z"}]}}),
        );
        check(
            json!({"spec": {"securityContext": {"runAsUser": 1, "runAsGroup": 2}}}),
            json!({"spec": {"securityContext": {"$patch": "replace", "fsGroup": 3}}}),
            json!({"spec": {"securityContext": {"fsGroup": 3}}}),
        );
        check(
            json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}}),
            json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]}}),
            json!({"spec": {"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]}}),
        );
        check(
            json!({"metadata": {"finalizers": ["a", "b", "c"]}}),
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["b"], "$setElementOrder/finalizers": ["d", "a"], "finalizers": ["d"]}}),
            json!({"metadata": {"finalizers": ["d", "a", "c"]}}),
        );
    }

    #[test]
    fn what_a_patch_joins_has_no_repeats() {
        check(
            json!({"metadata": {"finalizers": ["a", "b", "a"]}}),
            json!({"metadata": {"finalizers": ["c"]}}),
            json!({"metadata": {"finalizers": ["c", "a", "b"]}}),
        );
    }

    #[test]
    fn order_of_elements() {
        check(
            json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}}),
            json!({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}], "containers": [{"name": "a", "image": "x"}]}}),
            json!({"spec": {"containers": [{"name": "b"}, {"name": "a", "image": "x"}]}}),
        );
        check(
            json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}}),
            json!({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}}),
            json!({"spec": {"containers": [{"name": "b"}, {"name": "a"}]}}),
        );
    }

    #[test]
    fn atomic_lists_nulls_and_unknown_fields() {
        check(
            json!({"spec": {"tolerations": [{"key": "a"}], "nodeName": "n", "x": {"y": 1, "z": 2}}}),
            json!({"spec": {"tolerations": [{"key": "b"}], "nodeName": null, "x": {"y": null}}}),
            json!({"spec": {"tolerations": [{"key": "b"}], "x": {"z": 2}}}),
        );
    }

    #[test]
    fn what_cannot_be_applied() {
        let current = json!({"spec": {"containers": [{"name": "a"}]}});
        for patch in [
            json!({"spec": {"containers": [{"image": "x"}]}}),
            json!({"spec": {"containers": ["x"]}}),
            json!({"spec": {"$patch": "explode"}}),
            json!({"spec": {"$patch": "merge", "nodeName": "n"}}),
            json!({"spec": {"$setElementOrder/containers": [{"name": "b"}], "containers": [{"name": "a"}]}}),
            json!({"spec": {"$setElementOrder/containers": [{"name": "a"}, {"name": "b"}],
                "containers": [{"name": "b"}, {"name": "a"}]}}),
            json!({"spec": {"$setElementOrder/containers": [{"nam": "a"}], "containers": [{"name": "a"}]}}),
            json!({"spec": {"$setElementOrder/nothing": [{"name": "a"}]}}),
            json!({"metadata": {"$setElementOrder/finalizers": ["a"], "finalizers": ["b"]}}),
            json!({"spec": {"$setElementOrder/containers": 1, "containers": []}}),
            json!([]),
        ] {
            assert!(apply(&current, &patch).is_err(), "{patch}");
        }
    }

    fn pod() -> impl Strategy<Value = Value> {
        let container = ("[a-d]", "[x-z]", prop::option::of("[0-9]"));
        let containers = prop::collection::btree_map("[a-d]", container, 0..4);
        let finalizers = prop::collection::btree_set("[a-d]", 0..4);
        (containers, finalizers).prop_map(|(containers, finalizers)| {
            let list: Vec<Value> = containers
                .into_iter()
                .map(|(name, (_, image, command))| json!({"name": name, "image": image, "command": command.into_iter().collect::<Vec<_>>()}))
                .collect();
            json!({"metadata": {"finalizers": finalizers}, "spec": {"containers": list}})
        })
    }

    proptest! {
        #[test]
        fn applying_twice_is_applying_once(current in pod(), patch in pod()) {
            let once = apply(&current, &patch).expect("applies");
            prop_assert_eq!(&apply(&once, &patch).expect("applies"), &once);
        }

        #[test]
        fn the_empty_patch_changes_nothing(current in pod()) {
            prop_assert_eq!(apply(&current, &json!({})).expect("applies"), current);
        }

        #[test]
        fn an_object_patched_by_itself_stays(current in pod()) {
            prop_assert_eq!(apply(&current, &current).expect("applies"), current);
        }

        #[test]
        fn keys_stay_unique(current in pod(), patch in pod()) {
            let merged = apply(&current, &patch).expect("applies");
            let names: Vec<&Value> = merged["spec"]["containers"].as_array().expect("list").iter().map(|c| &c["name"]).collect();
            let mut unique = names.clone();
            unique.sort_by_key(|n| n.to_string());
            unique.dedup();
            prop_assert_eq!(unique.len(), names.len());
        }
    }
}

//! `ObjectMeta` of every kind: what a client may set, what an update keeps, and what makes it invalid.
use std::collections::{BTreeMap, HashSet};
use std::fmt::Display;

use serde_json::{Map, Value, json};

use super::error::{FieldError, FieldErrors, quote};
use super::names::{self, NameRule};
use super::view::{View, copy_member, object_mut};

/// All annotation keys and values of an object together, in bytes.
const MAX_ANNOTATIONS: usize = 256 * 1024;
const IMMUTABLE: &str = "field is immutable";
const STANDARD_FINALIZERS: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];
const EVENT: (&str, &str) = ("v1", "Event");

/// Drops what only the server sets.
pub(super) fn prepare_create(object: &mut Value) {
    if let Some(meta) = object_mut(object, "metadata") {
        for key in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"] {
            meta.remove(key);
        }
    }
}

/// Copies what an update cannot change and may leave out.
pub(super) fn prepare_update(new: &mut Value, old: &Value) {
    let (Some(old), Some(_)) = (old.get("metadata"), object_mut(new, "metadata")) else {
        return;
    };
    let Some(meta) = new.get_mut("metadata") else {
        return;
    };
    for key in ["generation", "creationTimestamp", "selfLink"] {
        copy_member(meta, old, key);
    }
    let said = [
        ("uid", !meta.text("uid").is_empty()),
        ("deletionTimestamp", false),
        (
            "deletionGracePeriodSeconds",
            meta.has("deletionGracePeriodSeconds"),
        ),
    ];
    for (key, said) in said {
        if old.has(key) && !said {
            copy_member(meta, old, key);
        }
    }
}

/// `metadata.generation`, 0 when there is none.
pub(super) fn generation(object: &Value) -> i64 {
    object.int("metadata.generation").unwrap_or(0)
}

pub(super) fn set_generation(object: &mut Value, generation: i64) {
    if let Some(meta) = object_mut(object, "metadata") {
        meta.insert("generation".into(), generation.into());
    }
}

/// Marks an object as being deleted since `time` (RFC 3339) with `grace` seconds left, as graceful deletion does.
pub fn mark_deleted(object: &mut Value, time: &str, grace: i64) {
    let generation = generation(object);
    let Some(meta) = object_mut(object, "metadata") else {
        return;
    };
    meta.insert("deletionTimestamp".into(), time.into());
    meta.insert("deletionGracePeriodSeconds".into(), grace.into());
    if generation > 0 {
        meta.insert("generation".into(), (generation + 1).into());
    }
}

/// Field labels that every kind has.
pub(super) fn selectable(object: &Value, namespaced: bool) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::from([(
        "metadata.name".to_owned(),
        object.text("metadata.name").to_owned(),
    )]);
    if namespaced {
        fields.insert(
            "metadata.namespace".into(),
            object.text("metadata.namespace").to_owned(),
        );
    }
    fields
}

/// Everything wrong with the metadata of a new object.
pub(super) fn validate(object: &Value, namespaced: bool, rule: NameRule) -> FieldErrors {
    let empty = Value::Object(Map::new());
    let meta = object.get("metadata").unwrap_or(&empty);
    let mut errors = validate_name(meta, rule);
    errors.extend(validate_namespace(meta, namespaced));
    errors.extend(validate_body(meta, "metadata"));
    errors
}

fn validate_name(meta: &Value, rule: NameRule) -> FieldErrors {
    let (name, prefix) = (meta.text("name"), meta.text("generateName"));
    let mut errors = Vec::new();
    if !prefix.is_empty() {
        let complaints = rule.check(prefix, true);
        errors.extend(
            complaints
                .into_iter()
                .map(|m| FieldError::invalid("metadata.generateName", prefix, m)),
        );
    }
    if name.is_empty() {
        errors.push(FieldError::required(
            "metadata.name",
            "name or generateName is required",
        ));
    } else {
        let complaints = rule.check(name, false);
        errors.extend(
            complaints
                .into_iter()
                .map(|m| FieldError::invalid("metadata.name", name, m)),
        );
    }
    errors
}

fn validate_namespace(meta: &Value, namespaced: bool) -> FieldErrors {
    let namespace = meta.text("namespace");
    match (namespaced, namespace.is_empty()) {
        (true, true) => vec![FieldError::required("metadata.namespace", "")],
        (true, false) => {
            let complaints = names::label(namespace).into_iter();
            complaints
                .map(|m| FieldError::invalid("metadata.namespace", namespace, m))
                .collect()
        }
        (false, false) => vec![FieldError::forbidden(
            "metadata.namespace",
            "not allowed on this type",
        )],
        (false, true) => Vec::new(),
    }
}

/// Everything wrong with the metadata at `path` of an object within another one, which need have no name.
pub(super) fn validate_embedded(meta: &Value, path: &str) -> FieldErrors {
    let complain = |key: &str, complaints: Vec<String>| {
        let (at, value) = (format!("{path}.{key}"), meta.text(key));
        let error = move |why| FieldError::invalid(at.clone(), value, why);
        complaints.into_iter().map(error)
    };
    let mut errors = Vec::new();
    for key in ["generateName", "name"] {
        errors.extend(complain(key, names::path_segment(meta.text(key))));
    }
    if !meta.text("namespace").is_empty() {
        errors.extend(complain("namespace", names::label(meta.text("namespace"))));
    }
    errors.extend(validate_body(meta, path));
    errors
}

/// Labels, annotations, owner references and finalizers of a metadata at `path`.
fn validate_body(meta: &Value, path: impl Display + Copy) -> FieldErrors {
    let mut errors = Vec::new();
    if meta.int("generation").is_some_and(|g| g < 0) {
        let detail = "must be greater than or equal to 0";
        errors.push(FieldError::invalid(
            format!("{path}.generation"),
            meta.at("generation").clone(),
            detail,
        ));
    }
    errors.extend(labels(meta.at("labels"), format_args!("{path}.labels")));
    errors.extend(annotations(
        meta.at("annotations"),
        format_args!("{path}.annotations"),
    ));
    errors.extend(owners(
        meta.list("ownerReferences"),
        format_args!("{path}.ownerReferences"),
    ));
    errors.extend(finalizers(
        meta.list("finalizers"),
        format_args!("{path}.finalizers"),
    ));
    errors
}

/// Keys and values of a label map at `path`.
pub(super) fn labels(labels: &Value, path: impl Display + Copy) -> FieldErrors {
    let mut errors = Vec::new();
    for (key, value) in labels.as_object().into_iter().flatten() {
        errors.extend(
            names::qualified(key)
                .into_iter()
                .map(|m| FieldError::invalid(path, key.as_str(), m)),
        );
        let value = value.as_str().unwrap_or_default();
        errors.extend(
            names::label_value(value)
                .into_iter()
                .map(|m| FieldError::invalid(path, value, m)),
        );
    }
    errors
}

/// Keys and the total size of an annotation map at `path`.
pub(super) fn annotations(annotations: &Value, path: impl Display + Copy) -> FieldErrors {
    let (mut errors, mut size) = (Vec::new(), 0);
    for (key, value) in annotations.as_object().into_iter().flatten() {
        let complaints = names::qualified(&key.to_ascii_lowercase());
        errors.extend(
            complaints
                .into_iter()
                .map(|m| FieldError::invalid(path, key.as_str(), m)),
        );
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > MAX_ANNOTATIONS {
        errors.push(FieldError::too_long(path, MAX_ANNOTATIONS));
    }
    errors
}

fn owners(owners: &[Value], path: impl Display + Copy) -> FieldErrors {
    let mut errors: FieldErrors = owners.iter().flat_map(|o| owner(o, path)).collect();
    let controllers: Vec<&Value> = owners.iter().filter(|o| o.flag("controller")).collect();
    for pair in controllers.windows(2) {
        let name = |o: &Value| format!("{}/{}", o.text("kind"), o.text("name"));
        let detail = format!(
            "Only one reference can have Controller set to true. Found \"true\" in references for {} and {}",
            name(controllers[0]),
            name(pair[1])
        );
        errors.push(FieldError::invalid_shown(path, owners_shown(owners), detail));
    }
    errors
}

fn owner(owner: &Value, path: impl Display + Copy) -> FieldErrors {
    let mut errors = Vec::new();
    let version = owner.text("apiVersion");
    if version.is_empty() {
        errors.push(FieldError::invalid(
            format!("{path}.apiVersion"),
            version,
            "version must not be empty",
        ));
    }
    for key in ["kind", "name", "uid"] {
        if owner.text(key).is_empty() {
            errors.push(FieldError::invalid(
                format!("{path}.{key}"),
                "",
                "must not be empty",
            ));
        }
    }
    if (version, owner.text("kind")) == EVENT {
        let detail = "/v1, Kind=Event is disallowed from being an owner";
        errors.push(FieldError::invalid_shown(path, owner_shown(owner), detail));
    }
    errors
}

fn owners_shown(owners: &[Value]) -> String {
    format!(
        "[{}]",
        owners.iter().map(owner_shown).collect::<Vec<_>>().join(",")
    )
}

/// In the order of the Go struct.
fn owner_shown(owner: &Value) -> String {
    let keys = [
        "apiVersion",
        "kind",
        "name",
        "uid",
        "controller",
        "blockOwnerDeletion",
    ];
    let members = keys
        .iter()
        .filter(|k| owner.has(k))
        .map(|k| format!("{}:{}", quote(k), owner[*k]));
    format!("{{{}}}", members.collect::<Vec<_>>().join(","))
}

fn finalizers(finalizers: &[Value], path: impl Display + Copy) -> FieldErrors {
    let mut errors = Vec::new();
    for finalizer in finalizers.iter().filter_map(Value::as_str) {
        let complaints = names::qualified(finalizer);
        errors.extend(
            complaints
                .into_iter()
                .map(|m| FieldError::invalid(path, finalizer, m)),
        );
    }
    let has = |name: &str| finalizers.iter().any(|f| f == name);
    if has("orphan") && has("foregroundDeletion") {
        let detail = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.push(FieldError::invalid(path, json!(finalizers), detail));
    }
    errors
}

/// Finalizers without a domain that Kubernetes does not know. Only the kinds of its own core mind.
pub(super) fn foreign_finalizers(object: &Value) -> FieldErrors {
    let finalizers = object
        .list("metadata.finalizers")
        .iter()
        .filter_map(Value::as_str);
    let foreign = finalizers.enumerate().filter(|(_, name)| {
        names::qualified(name).is_empty() && !name.contains('/') && !STANDARD_FINALIZERS.contains(name)
    });
    let detail = "name is neither a standard finalizer name nor is it fully qualified";
    foreign
        .map(|(i, name)| FieldError::invalid(format!("metadata.finalizers[{i}]"), name, detail))
        .collect()
}

/// Everything wrong with the metadata of an update.
pub(super) fn validate_update(new: &Value, old: &Value) -> FieldErrors {
    let (new, old) = (new.at("metadata"), old.at("metadata"));
    let mut errors = Vec::new();
    if old.has("deletionTimestamp") {
        errors.extend(new_finalizers(new.list("finalizers"), old.list("finalizers")));
    }
    for key in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ] {
        if new.at(key) != old.at(key) {
            errors.push(FieldError::invalid(
                format!("metadata.{key}"),
                new.at(key).clone(),
                IMMUTABLE,
            ));
        }
    }
    errors.extend(validate_body(new, "metadata"));
    errors
}

fn new_finalizers(new: &[Value], old: &[Value]) -> Option<FieldError> {
    let old: HashSet<&Value> = old.iter().collect();
    let mut added: Vec<&str> = new
        .iter()
        .filter(|f| !old.contains(f))
        .filter_map(Value::as_str)
        .collect();
    added.sort_unstable();
    let list = added.iter().map(|f| quote(f)).collect::<Vec<_>>().join(", ");
    let detail = format!(
        "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{list}}}"
    );
    (!added.is_empty()).then(|| FieldError::forbidden("metadata.finalizers", detail))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::error::join;

    fn errors(meta: Value) -> String {
        join(&validate(&json!({"metadata": meta}), true, NameRule::Subdomain))
    }

    #[test]
    fn good_metadata_has_no_errors() {
        assert_eq!(
            errors(json!({"name": "a", "namespace": "n", "finalizers": ["x.io/a", "orphan"]})),
            "[]"
        );
    }

    #[test]
    fn owners_and_finalizers() {
        let reference = json!([{"apiVersion": "v1", "kind": "ConfigMap"}]);
        assert_eq!(
            errors(json!({"name": "a", "namespace": "n", "ownerReferences": reference})),
            "[metadata.ownerReferences.name: Invalid value: \"\": must not be empty, \
             metadata.ownerReferences.uid: Invalid value: \"\": must not be empty]"
        );
        assert_eq!(
            super::super::error::join(&foreign_finalizers(&json!({"metadata": {"finalizers": ["bad"]}}))),
            "metadata.finalizers[0]: Invalid value: \"bad\": name is neither a standard finalizer name nor is it fully \
             qualified"
        );
    }

    #[test]
    fn an_update_keeps_identity_and_adds_no_finalizer_while_deleted() {
        let old = json!({"metadata": {"name": "a", "uid": "1", "creationTimestamp": "T", "deletionTimestamp": "D"}});
        let mut new = json!({"metadata": {"name": "a", "finalizers": ["x/b"], "deletionTimestamp": null}});
        prepare_update(&mut new, &old);
        assert_eq!(new["metadata"]["uid"], "1");
        let found = join(&validate_update(&new, &old));
        assert!(
            found.ends_with("found new finalizers []string{\"x/b\"}"),
            "{found}"
        );
        let grace = |seconds: Value| json!({"metadata": {"name": "a", "deletionTimestamp": "D", "deletionGracePeriodSeconds": seconds}});
        for (said, error) in [
            (json!(null), "[]"),
            (json!(30), "[]"),
            (
                json!(5),
                "metadata.deletionGracePeriodSeconds: Invalid value: 5: field is immutable",
            ),
        ] {
            let (old, mut new) = (grace(json!(30)), grace(said));
            prepare_update(&mut new, &old);
            assert_eq!(join(&validate_update(&new, &old)), error);
        }
    }

    #[test]
    fn deletion_counts_as_a_change() {
        let mut object = json!({"metadata": {"generation": 1}});
        mark_deleted(&mut object, "T", 30);
        assert_eq!(object["metadata"]["generation"], 2);
    }
}

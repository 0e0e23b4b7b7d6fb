//! The `autoscaling/v1` Scale view of what has replicas, built in or custom.
use jiff::Timestamp;
use serde_json::{Value, json};

use super::custom::ScalePaths;
use super::error::{FieldError, FieldErrors};
use super::labels::selector_string;
use super::table::age;
use super::view::{View, object_mut};

/// A number that nobody means: none was said (upstream's `invalidSpecReplicas`).
const UNSAID: i64 = i32::MIN as i64;
const METADATA: [&str; 5] = ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"];

/// The Scale of an object with `spec.replicas` and `spec.selector`, or with what it has at `paths`.
pub fn get(object: &Value, paths: Option<&ScalePaths>) -> Value {
    let wanted = replicas(object, paths);
    let current = paths.map_or_else(
        || object.int("status.replicas"),
        |p| number(object, &p.status_replicas),
    );
    let selector = match paths {
        None => selector(object.at("spec.selector")),
        Some(paths) => text(object, paths.selector.as_deref().unwrap_or_default()),
    };
    let mut scale = json!({
        "apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {}, "spec": {},
        "status": {"replicas": current.unwrap_or(0)},
    });
    for key in METADATA.iter().filter(|k| object.at("metadata").has(k)) {
        scale["metadata"][*key] = object.at("metadata")[*key].clone();
    }
    if let Some(replicas) = wanted.filter(|r| *r != 0) {
        scale["spec"]["replicas"] = replicas.into();
    }
    if !selector.is_empty() {
        scale["status"]["selector"] = selector.into();
    }
    scale
}

/// The Scale as a patch meets it: that of a custom resource without a number has [`UNSAID`].
pub fn patchable(object: &Value, paths: Option<&ScalePaths>) -> Value {
    let mut scale = get(object, paths);
    if paths.is_some() && replicas(object, paths).is_none() {
        scale["spec"]["replicas"] = UNSAID.into();
    }
    scale
}

/// Takes the number out of a Scale.
pub fn forget(scale: &mut Value) {
    if let Some(spec) = object_mut(scale, "spec") {
        spec.remove("replicas");
    }
}

/// Where a custom resource that does not say how many it wants would say it, if that is what the Scale tells.
pub fn unsaid(scale: &Value, paths: Option<&ScalePaths>) -> Option<String> {
    let paths = paths.filter(|_| scale.int("spec.replicas") == Some(UNSAID))?;
    Some(place(paths))
}

/// The same of the custom resource itself.
pub fn absent(object: &Value, paths: Option<&ScalePaths>) -> Option<String> {
    let none = replicas(object, paths).is_none();
    paths.filter(|_| none).map(place)
}

fn place(paths: &ScalePaths) -> String {
    format!(".{}", paths.spec_replicas.join("."))
}

/// How many an object wants.
pub fn replicas(object: &Value, paths: Option<&ScalePaths>) -> Option<i64> {
    match paths {
        None => object.int("spec.replicas"),
        Some(paths) => number(object, &paths.spec_replicas),
    }
}

/// Of a label selector, or of plain labels, as a ReplicationController has them.
fn selector(selector: &Value) -> String {
    let plain = selector
        .as_object()
        .is_some_and(|labels| labels.values().all(Value::is_string));
    match plain {
        true => selector_string(&json!({ "matchLabels": selector })),
        false => selector_string(selector),
    }
}

/// The columns of a Table of Scales: name, type and format.
const COLUMNS: [(&str, &str, &str); 4] = [
    ("Name", "string", ""),
    ("Desired", "integer", ""),
    ("Available", "integer", ""),
    ("Age", "string", ""),
];

/// The columns as a Table has them.
pub fn columns() -> Value {
    let column = |(name, ty, format)| json!({"name": name, "type": ty, "format": format, "description": "", "priority": 0});
    COLUMNS.into_iter().map(column).collect()
}

/// A Scale's cells.
pub fn cells(scale: &Value, now: Timestamp) -> Vec<Value> {
    let count = |path: &str| scale.int(path).unwrap_or(0).into();
    vec![
        scale.text("metadata.name").into(),
        count("spec.replicas"),
        count("status.replicas"),
        age(scale, now),
    ]
}

fn member<'a>(object: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(object, |value, key| value.get(key))
}

fn number(object: &Value, path: &[String]) -> Option<i64> {
    member(object, path)?.as_i64()
}

fn text(object: &Value, path: &[String]) -> String {
    let found = member(object, path).filter(|_| !path.is_empty());
    found.and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// Sets the object's replicas from a Scale, which has been decoded; one without a number wants none.
pub fn set(object: &mut Value, scale: &Value, paths: Option<&ScalePaths>) {
    let replicas = scale.int("spec.replicas").unwrap_or(0);
    let (parent, name) = match paths.and_then(|p| p.spec_replicas.split_last()) {
        Some((name, parent)) => (parent.join("."), name.as_str()),
        None => ("spec".to_owned(), "replicas"),
    };
    if let Some(spec) = object_mut(object, &parent) {
        spec.insert(name.to_owned(), replicas.into());
    }
}

/// Everything wrong with a Scale.
pub fn validate(scale: &Value) -> FieldErrors {
    let negative = scale.int("spec.replicas").filter(|r| *r < 0);
    let error = |r| FieldError::invalid("spec.replicas", r, "must be greater than or equal to 0");
    negative.map(error).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_labels_are_a_selector_too() {
        for (selector, want) in [
            (json!({"b": "2", "a": "1"}), json!("a=1,b=2")),
            (json!({"matchLabels": {"a": "1"}}), json!("a=1")),
            (json!({}), Value::Null),
        ] {
            let object = json!({"spec": {"selector": selector}});
            assert_eq!(get(&object, None)["status"]["selector"], want, "{selector}");
        }
    }

    #[test]
    fn a_scale_reads_and_writes_replicas() {
        let mut object = json!({"metadata": {"name": "d", "namespace": "n", "labels": {"x": "y"}},
            "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "a"}}}});
        assert_eq!(
            get(&object, None),
            json!({
            "apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d", "namespace": "n"},
            "spec": {"replicas": 2}, "status": {"replicas": 0, "selector": "app=a"}})
        );
        set(&mut object, &json!({"spec": {"replicas": 5}}), None);
        assert_eq!(object["spec"]["replicas"], 5);
        assert_eq!(validate(&json!({"spec": {"replicas": -1}})).len(), 1);
    }
}

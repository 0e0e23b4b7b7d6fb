//! Fields laid over an object as server-side apply would, without owners: what a MutatingAdmissionPolicy applies.
use super::check::check;
use super::merge::merge;
use super::shape::{Form, Shape};
use crate::kinds::Kind;
use serde_json::Value;

/// The object with the patch merged in. What is owned as a whole may not be in the patch: it would take away what the
/// patch does not mention.
pub fn overlay(kind: &Kind, object: &Value, patch: &Value) -> Result<Value, String> {
    let shape = Shape::of(kind);
    check(shape, patch).map_err(|why| format!("failed to convert patch object to typed object: {why}"))?;
    let mut wholes = Vec::new();
    find_wholes(shape, patch, &mut String::new(), &mut wholes);
    match wholes.is_empty() {
        true => Ok(merge(shape, object, patch)),
        false => Err(format!(
            "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {}",
            wholes.join(", ")
        )),
    }
}

fn find_wholes(shape: Shape<'_>, value: &Value, path: &mut String, found: &mut Vec<String>) {
    let scalar = matches!(shape.form, Form::Scalar(_));
    let granular = value.is_object() || value.is_array();
    if granular && !scalar && shape.is_leaf(value) {
        return found.push(path.clone());
    }
    let length = path.len();
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                if let Some(inner) = shape.member(name) {
                    path.extend([".", name]);
                    find_wholes(inner, value, path, found);
                    path.truncate(length);
                }
            }
        }
        Value::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                path.extend(["[", &i.to_string(), "]"]);
                find_wholes(shape.item(), item, path, found);
                path.truncate(length);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Registry;
    use serde_json::json;

    #[test]
    fn granular_fields_are_laid_over_and_wholes_refused() {
        let kind = Registry::builtin()
            .resource("apps", "v1", "deployments")
            .expect("served");
        let object = json!({"metadata": {"labels": {"a": "1"}}, "spec": {"replicas": 1, "template": {"spec":
            {"containers": [{"name": "a", "image": "i"}]}}}});
        let laid = |patch: Value| overlay(kind, &object, &patch);
        let done = laid(
            json!({"metadata": {"labels": {"b": "2"}}, "spec": {"replicas": 3, "template": {"spec":
            {"containers": [{"name": "a", "tty": true}, {"name": "b"}]}}}}),
        );
        let done = done.expect("laid over");
        assert_eq!(done["metadata"]["labels"], json!({"a": "1", "b": "2"}));
        assert_eq!(done["spec"]["replicas"], 3);
        let containers = json!([{"name": "a", "image": "i", "tty": true}, {"name": "b"}]);
        assert_eq!(done["spec"]["template"]["spec"]["containers"], containers);
        let args = json!({"spec": {"template": {"spec": {"containers": [{"name": "a", "args": ["x"]}]}}}});
        let why = laid(args).expect_err("a list that is owned as a whole");
        assert!(why.ends_with(".spec.template.spec.containers[0].args"), "{why}");
        assert!(laid(json!({"spec": {"nope": 1}})).is_err());
    }
}

//! The way from client-side apply to server-side apply: `kubectl` does not conflict with what it applied itself, as the
//! annotation it left says, and the annotation is kept true.
use super::apply::Conflicting;
use super::check::check;
use super::compare::compare;
use super::fields::fields;
use super::set::Set;
use super::shape::Shape;
use crate::kinds::Kind;
use crate::kinds::view::object_mut;
use serde_json::{Value, json};

const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// The one manager that this is for.
const KUBECTL: &str = "kubectl";

/// The conflicts that are with others than client-side apply.
pub fn conflicts_left(kind: &Kind, manager: &str, live: &Value, mut conflicts: Conflicting) -> Conflicting {
    if manager != KUBECTL {
        return conflicts;
    }
    let Some(allowed) = applied_and_unchanged(kind, live) else {
        return conflicts;
    };
    conflicts.iter_mut().for_each(|(_, set)| set.subtract(&allowed));
    conflicts.retain(|(_, set)| !set.is_empty());
    conflicts
}

/// The fields that client-side apply set and that still are as it set them.
fn applied_and_unchanged(kind: &Kind, live: &Value) -> Option<Set> {
    let text = annotation(live)?;
    let last: Value = serde_json::from_str(text).ok()?;
    if last["apiVersion"] != kind.api_version() {
        return None;
    }
    let shape = Shape::of(kind);
    check(shape, &last).ok()?;
    let mut set = fields(shape, &last);
    let changes = compare(shape, &last, live);
    for gone in [&changes.modified, &changes.added, &changes.removed] {
        set.subtract(gone);
    }
    Some(set)
}

fn annotation(object: &Value) -> Option<&str> {
    let text = object["metadata"]["annotations"][ANNOTATION].as_str()?;
    (!text.is_empty()).then_some(text)
}

/// Brings the annotation, where there is one, to what was applied now.
pub fn refresh(manager: &str, object: &mut Value, config: &Value) {
    if manager != KUBECTL || annotation(object).is_none() {
        return;
    }
    let mut config = config.clone();
    if let Some(meta) = object_mut(&mut config, "metadata")
        && let Some(Value::Object(annotations)) = meta.get_mut("annotations")
    {
        annotations.remove(ANNOTATION);
        if annotations.is_empty() {
            meta.remove("annotations");
        }
    }
    object["metadata"]["annotations"][ANNOTATION] = json!(format!("{config}\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_applied_is_noted_without_the_note() {
        let applied = |annotations: Value| {
            let mut config = json!({"metadata": {"name": "c"}, "data": {"a": "2"}});
            if !annotations.is_null() {
                config["metadata"]["annotations"] = annotations;
            }
            let mut object = json!({"metadata": {"annotations": {ANNOTATION: "{}"}}});
            refresh(KUBECTL, &mut object, &config);
            let text = annotation(&object).expect("a note").to_owned();
            serde_json::from_str::<Value>(&text).expect("JSON")["metadata"].clone()
        };
        for (annotations, noted) in [
            (Value::Null, json!({"name": "c"})),
            (json!({ANNOTATION: "{}"}), json!({"name": "c"})),
            (
                json!({ANNOTATION: "{}", "x": "y"}),
                json!({"name": "c", "annotations": {"x": "y"}}),
            ),
        ] {
            assert_eq!(applied(annotations), noted);
        }
    }
}

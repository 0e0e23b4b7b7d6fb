//! The specs of flow control's objects that are nobody's to change (upstream's mandatory bootstrap objects).
use std::sync::LazyLock;

use serde_json::{Value, json};

use crate::facts;
use crate::kinds::Registry;
use crate::kinds::error::FieldError;
use crate::kinds::view::View;

/// What each must be, as it is stored.
static FIXED: LazyLock<Vec<Value>> = LazyLock::new(|| {
    let all = facts::flow_control();
    let fixed = all.filter(|object| facts::MANDATORY.contains(&object.text("metadata.name")));
    fixed.map(settled).collect()
});

/// What is wrong with the spec of a FlowSchema or a PriorityLevelConfiguration that must have a certain one.
pub(super) fn check(kind: &str, object: &Value) -> Option<FieldError> {
    let (spec, name) = (object.at("spec"), object.text("metadata.name"));
    let same = |fixed: &&Value| (fixed.text("kind"), fixed.text("metadata.name")) == (kind, name);
    let fixed = FIXED.iter().find(same)?;
    let own = json!({"apiVersion": fixed["apiVersion"], "kind": kind, "spec": spec});
    let mut own = settled(own)["spec"].take();
    // What the exempt level has and lends is the administrator's.
    let exempt = fixed.at("spec.exempt");
    let mut except = "";
    if let Some(own) = own.as_object_mut().filter(|_| !exempt.is_null()) {
        own.insert("exempt".to_owned(), exempt.clone());
        except = " except the 'spec.exempt' field";
    }
    let detail = format!("spec of '{name}'{except} must equal the fixed value");
    (own != fixed["spec"]).then(|| FieldError::invalid("spec", spec.clone(), detail))
}

/// With its defaults, in wire form.
fn settled(mut object: Value) -> Value {
    let kinds = Registry::builtin();
    if let Some(kind) = kinds.object(object.text("apiVersion"), object.text("kind")) {
        kind.default(&mut object);
        kind.normalise(&mut object);
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMA: &str = "FlowSchema";
    const LEVEL: &str = "PriorityLevelConfiguration";

    #[test]
    fn what_the_cluster_begins_with_must_stay() {
        assert_eq!(FIXED.len(), 4);
        for object in facts::flow_control() {
            assert_eq!(check(object.text("kind"), &object), None, "{object}");
        }
        for (kind, name, path, value, refused) in [
            (SCHEMA, "exempt", "matchingPrecedence", json!(7), true),
            (SCHEMA, "catch-all", "matchingPrecedence", json!(7), true),
            (SCHEMA, "catch-all", "rules", json!([]), true),
            (SCHEMA, "probes", "matchingPrecedence", json!(7), false),
            (
                LEVEL,
                "catch-all",
                "limited",
                json!({"nominalConcurrencyShares": 7}),
                true,
            ),
            (LEVEL, "exempt", "exempt", json!({"lendablePercent": 7}), false),
            (LEVEL, "exempt", "type", json!("Limited"), true),
            (
                LEVEL,
                "exempt",
                "limited",
                json!({"nominalConcurrencyShares": 7}),
                true,
            ),
            (
                LEVEL,
                "system",
                "limited",
                json!({"nominalConcurrencyShares": 7}),
                false,
            ),
        ] {
            let same = |o: &Value| (o.text("kind"), o.text("metadata.name")) == (kind, name);
            let mut object = facts::flow_control().find(same).expect("there");
            object["spec"][path] = value;
            let told = check(kind, &object);
            assert_eq!(told.is_some(), refused, "{kind} {name} {path}");
        }
    }
}

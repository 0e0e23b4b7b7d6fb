//! What is told of an object has an end, however many of its parts are wrong and however long the way to them is.
use super::super::{lists, prune, rules, validate};
use super::*;
use crate::kinds::bounded::{MOST, ROOM};
use crate::kinds::error::FieldErrors;

/// Lists below keys that the client chooses, of which nothing is ever as it should be.
fn schema(allowed: &[String]) -> Structural {
    let never = json!([{"rule": "self == 'never'"}]);
    let item = json!({"type": "string", "enum": allowed, "x-kubernetes-validations": never});
    let list = json!({"type": "array", "x-kubernetes-list-type": "set", "items": item});
    Structural::parse(&json!({"type": "object", "additionalProperties": list}))
}

fn size(errors: &FieldErrors) -> usize {
    let of = |error: &FieldError| error.field.len() + error.bad_value.len() + error.detail.len();
    errors.iter().map(of).sum()
}

#[test]
fn many_errors_far_below_are_told_to_an_end() {
    let long = "k".repeat(ROOM / 8);
    let many: Vec<String> = (0..1000).map(|n| format!("allowed {n}")).collect();
    for (key, allowed) in [("k", &many[..1]), (&long, &many[..1]), ("k", &many[..])] {
        let (schema, object) = (schema(allowed), json!({key: vec!["b"; 3 * MOST]}));
        let before = json!({"other": ["b"]});
        let judged = rules::validate(&schema, &object, None);
        for told in [
            validate::validate(&schema, &object, None).told(),
            lists::validate(&schema, &object, None),
            lists::validate(&schema, &object, Some(&before)),
            judged.errors.told(),
        ] {
            assert!(!told.is_empty() && told.len() <= MOST + 1, "{}", told.len());
            assert!(size(&told) <= 2 * ROOM, "{}", size(&told));
        }
    }
}

#[test]
fn an_update_is_told_what_is_new_behind_many_errors_that_are_not() {
    let schema = schema(&[]);
    let (old, mut new) = (
        json!({"a": vec!["b"; 2 * MOST]}),
        json!({"a": vec!["b"; 2 * MOST]}),
    );
    assert_eq!(lists::validate(&schema, &new, Some(&old)), []);
    new["z"] = json!(["c", "c"]);
    let told = lists::validate(&schema, &new, Some(&old));
    assert_eq!(told, [FieldError::duplicate("z[1]", "c")]);
}

#[test]
fn what_is_pruned_is_told_to_an_end() {
    let key = "k".repeat(1 << 20);
    let below = json!({"type": "object", "additionalProperties": {"type": "object"}});
    let members: serde_json::Map<String, Value> = (0..1000).map(|n| (n.to_string(), json!(1))).collect();
    let mut object = json!({&key: members});
    let issues = prune::prune(&Structural::parse(&below), &mut object).issues;
    assert_eq!(object, json!({&key: {}}));
    assert_eq!(issues.len(), 16);
}

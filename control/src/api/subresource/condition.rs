//! Conditions that the API server itself puts on a Pod, or on the budget of one. Pure.
use crate::kinds::view::View;
use serde_json::{Value, json};

/// Puts the condition in the place of the one of its type. One that says the same began when that did (upstream's
/// `UpdatePodCondition`).
pub(in crate::api) fn set(object: &mut Value, mut condition: Value) {
    let mut conditions = object.list("status.conditions").to_vec();
    match conditions.iter_mut().find(|old| old["type"] == condition["type"]) {
        Some(old) => {
            if old["status"] == condition["status"] {
                condition["lastTransitionTime"] = old["lastTransitionTime"].clone();
            }
            *old = condition;
        }
        None => conditions.push(condition),
    }
    object["status"]["conditions"] = json!(conditions);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_each_type_since_its_status_changed() {
        let condition =
            |status: &str, since: &str| json!({"type": "A", "status": status, "lastTransitionTime": since});
        let mut pod = json!({"status": {"conditions": [{"type": "B"}]}});
        for (said, want) in [
            (condition("True", "1"), condition("True", "1")),
            (condition("True", "2"), condition("True", "1")),
            (condition("False", "3"), condition("False", "3")),
        ] {
            set(&mut pod, said);
            assert_eq!(pod["status"]["conditions"], json!([{"type": "B"}, want]));
        }
    }
}

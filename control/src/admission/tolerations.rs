//! Pods outlive a short failure of their node, unless they say how long (KEP-166; the DefaultTolerationSeconds plugin).
use super::{Action, Review};
use serde_json::{Value, json};

/// Taints of a node that fails.
const FAILING: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

/// Seconds a Pod stays on such a node.
const SECONDS: u64 = 300;

/// Adds what is missing, also when an update took it away.
pub(super) fn pod(review: &Review<'_>, object: &mut Value) {
    if matches!(review.action, Action::Delete { .. }) {
        return;
    }
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else {
        return;
    };
    let tolerations = spec
        .entry("tolerations")
        .or_insert_with(|| Value::Array(Vec::new()));
    if tolerations.is_null() {
        *tolerations = Value::Array(Vec::new());
    }
    let Some(tolerations) = tolerations.as_array_mut() else {
        return;
    };
    for key in FAILING {
        if !tolerations.iter().any(|toleration| covers(toleration, key)) {
            tolerations.push(json!({
                "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS
            }));
        }
    }
}

fn covers(toleration: &Value, key: &str) -> bool {
    let text = |name: &str| toleration.get(name).and_then(Value::as_str).unwrap_or_default();
    let (tolerated, effect) = (text("key"), text("effect"));
    (tolerated.is_empty() || tolerated == key) && (effect.is_empty() || effect == "NoExecute")
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::review;
    use super::*;

    fn keys(action: Action<'_>, spec: Value) -> Vec<String> {
        let mut object = json!({"spec": spec});
        pod(&review("pods", action), &mut object);
        pod(&review("pods", action), &mut object);
        let tolerations = object["spec"]["tolerations"].as_array().into_iter().flatten();
        tolerations
            .map(|t| t["key"].as_str().unwrap_or_default().to_owned())
            .collect()
    }

    #[test]
    fn what_is_missing_is_added_once() {
        let old = Value::Null;
        for (action, spec, expected) in [
            (Action::Create, json!({}), FAILING.to_vec()),
            (
                Action::Create,
                json!({"tolerations": [{"key": FAILING[1], "operator": "Exists"}]}),
                vec![FAILING[1], FAILING[0]],
            ),
            (
                Action::Create,
                json!({"tolerations": [{"operator": "Exists"}]}),
                vec![""],
            ),
            (
                Action::Update { old: &old },
                json!({"tolerations": [{"key": "k", "operator": "Exists"}]}),
                vec!["k", FAILING[0], FAILING[1]],
            ),
        ] {
            assert_eq!(keys(action, spec.clone()), expected, "{spec}");
        }
    }
}

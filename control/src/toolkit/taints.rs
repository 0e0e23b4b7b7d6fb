//! Taints and tolerations (the scheduler's filter and the eviction of Pods from tainted nodes read them alike).
use crate::toolkit::Pod;
use k8s_openapi::api::core::v1::{Node, Taint, Toleration};

pub const NO_SCHEDULE: &str = "NoSchedule";
pub const PREFER_NO_SCHEDULE: &str = "PreferNoSchedule";
pub const NO_EXECUTE: &str = "NoExecute";

/// Whoever set this taint says that the node is off: its Pods and volumes may go at once (KEP-2268).
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

pub fn is_out_of_service(node: &Node) -> bool {
    of_node(node).iter().any(|taint| taint.key == OUT_OF_SERVICE)
}

pub fn of_node(node: &Node) -> &[Taint] {
    node.spec
        .as_ref()
        .and_then(|spec| spec.taints.as_deref())
        .unwrap_or_default()
}

pub fn tolerations(pod: &Pod) -> &[Toleration] {
    pod.spec
        .as_ref()
        .and_then(|spec| spec.tolerations.as_deref())
        .unwrap_or_default()
}

pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let empty = |field: &Option<String>| field.as_deref().unwrap_or_default().is_empty();
    let effect_matches = empty(&toleration.effect) || toleration.effect.as_deref() == Some(&taint.effect);
    let key_matches = empty(&toleration.key) || toleration.key.as_deref() == Some(&taint.key);
    effect_matches && key_matches && value_matches(toleration, taint)
}

fn value_matches(toleration: &Toleration, taint: &Taint) -> bool {
    match toleration.operator.as_deref().unwrap_or_default() {
        "Exists" => true,
        "" | "Equal" => {
            toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default()
        }
        _ => false,
    }
}

pub fn tolerated(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|toleration| tolerates(toleration, taint))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_toleration_matches_effect_key_and_value() {
        let taint: Taint =
            serde_json::from_value(json!({"key": "k", "value": "v", "effect": NO_EXECUTE})).expect("taint");
        let cases: [(Value, bool); 9] = [
            (
                json!({"key": "k", "operator": "Equal", "value": "v", "effect": "NoExecute"}),
                true,
            ),
            (json!({"key": "k", "value": "v"}), true),
            (json!({"key": "k", "value": "other"}), false),
            (json!({"key": "k"}), false),
            (json!({"key": "k", "operator": "Exists"}), true),
            (json!({"operator": "Exists"}), true),
            (json!({"operator": "Exists", "effect": "NoSchedule"}), false),
            (json!({"key": "other", "operator": "Exists"}), false),
            (json!({"key": "k", "operator": "Gt", "value": "v"}), false),
        ];
        for (toleration, expected) in cases {
            let parsed: Toleration = serde_json::from_value(toleration.clone()).expect("toleration");
            assert_eq!(tolerates(&parsed, &taint), expected, "{toleration}");
        }
    }
}

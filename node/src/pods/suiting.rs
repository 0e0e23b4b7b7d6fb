//! Whether a Node is one that a Pod may be on: its labels, and its taints that end Pods. The scheduler's rules (Concepts, Assigning
//! Pods to Nodes; Taints and Tolerations), for Pods that came to the node without it. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Node, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration,
};

/// Whether the Node has the labels that `nodeSelector` and the required node affinity ask for.
pub fn has_labels(spec: &PodSpec, node: &Node) -> bool {
    let labels = node.metadata.labels.clone().unwrap_or_default();
    let mut selected = spec.node_selector.iter().flatten();
    selected.all(|(key, value)| labels.get(key) == Some(value)) && has_affinity(spec, node, &labels)
}

fn has_affinity(spec: &PodSpec, node: &Node, labels: &BTreeMap<String, String>) -> bool {
    let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    required.is_none_or(|required| {
        let name = node.metadata.name.as_deref();
        required
            .node_selector_terms
            .iter()
            .any(|term| is_met(term, name, labels))
    })
}

/// A term that asks for nothing is met by no Node.
fn is_met(term: &NodeSelectorTerm, name: Option<&str>, labels: &BTreeMap<String, String>) -> bool {
    let (expressions, fields) = (
        term.match_expressions.as_deref().unwrap_or_default(),
        term.match_fields.as_deref().unwrap_or_default(),
    );
    let of_label = |r: &NodeSelectorRequirement| holds(r, labels.get(&r.key).map(String::as_str));
    let of_field = |r: &NodeSelectorRequirement| r.key == "metadata.name" && holds(r, name);
    !(expressions.is_empty() && fields.is_empty())
        && expressions.iter().all(of_label)
        && fields.iter().all(of_field)
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let is_among = || value.is_some_and(|value| values.iter().any(|v| v == value));
    let compared = |holds: fn(i64, i64) -> bool| {
        let number = |text: Option<&str>| text.and_then(|text| text.parse::<i64>().ok());
        let bound = number(values.first().map(String::as_str));
        number(value)
            .zip(bound)
            .is_some_and(|(value, bound)| holds(value, bound))
    };
    match requirement.operator.as_str() {
        "In" => is_among(),
        "NotIn" => !is_among(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compared(|value, bound| value > bound),
        "Lt" => compared(|value, bound| value < bound),
        _ => false,
    }
}

/// Whether the Pod bears the Node's taints that would end it.
pub fn bears_taints(spec: &PodSpec, node: &Node) -> bool {
    let taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
    let mut ending = taints.filter(|taint| taint.effect == "NoExecute");
    ending.all(|taint| tolerates(spec, taint))
}

/// Whether one of the Pod's tolerations is for the taint.
pub fn tolerates(spec: &PodSpec, taint: &Taint) -> bool {
    let mut tolerations = spec.tolerations.iter().flatten();
    tolerations.any(|toleration| is_for(toleration, taint))
}

fn is_for(toleration: &Toleration, taint: &Taint) -> bool {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let number = |text: &Option<String>| text.as_ref().and_then(|text| text.parse::<i64>().ok());
    let compared = |holds: fn(i64, i64) -> bool| {
        let pair = number(&taint.value).zip(number(&toleration.value));
        pair.is_some_and(|(taint, toleration)| holds(taint, toleration))
    };
    given(&toleration.effect).is_none_or(|effect| effect == taint.effect)
        && given(&toleration.key).is_none_or(|key| key == taint.key)
        && match toleration.operator.as_deref().unwrap_or_default() {
            "Exists" => true,
            "" | "Equal" => {
                given(&toleration.key).is_some() && given(&toleration.value) == given(&taint.value)
            }
            "Gt" => compared(|taint, toleration| taint > toleration),
            "Lt" => compared(|taint, toleration| taint < toleration),
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node() -> Node {
        serde_json::from_value(
            json!({"metadata": {"name": "n", "labels": {"zone": "a", "cores": "8"}},
            "spec": {"taints": [{"key": "k", "value": "v", "effect": "NoExecute"},
                {"key": "other", "effect": "NoSchedule"}]}}),
        )
        .unwrap()
    }

    fn spec(mut spec: Value) -> PodSpec {
        spec["containers"] = json!([]);
        serde_json::from_value(spec).unwrap()
    }

    #[test]
    fn labels_that_are_asked_for() {
        assert!(has_labels(&spec(json!({})), &node()));
        for (selector, suits) in [(json!({"zone": "a"}), true), (json!({"zone": "b"}), false)] {
            assert_eq!(
                has_labels(&spec(json!({"nodeSelector": selector})), &node()),
                suits
            );
        }
        let expression = |key: &str, operator: &str, values: Value| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
        for (terms, suits) in [
            (json!([]), false),
            (json!([{}]), false),
            (
                json!([
                    expression("zone", "In", json!(["b"])),
                    expression("zone", "In", json!(["a"]))
                ]),
                true,
            ),
            (json!([expression("zone", "NotIn", json!(["a"]))]), false),
            (json!([expression("none", "NotIn", json!(["a"]))]), true),
            (json!([expression("none", "DoesNotExist", json!(null))]), true),
            (json!([expression("zone", "Exists", json!(null))]), true),
            (json!([expression("cores", "Gt", json!(["7"]))]), true),
            (json!([expression("cores", "Lt", json!(["8"]))]), false),
            (json!([expression("zone", "Gt", json!(["1"]))]), false),
            (
                json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}]),
                true,
            ),
            (
                json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["m"]}]}]),
                false,
            ),
        ] {
            let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
                {"nodeSelectorTerms": terms}}});
            assert_eq!(
                has_labels(&spec(json!({"affinity": affinity})), &node()),
                suits,
                "{terms}"
            );
        }
    }

    #[test]
    fn taints_that_end_pods_must_be_borne() {
        for (toleration, bears) in [
            (json!({"operator": "Exists"}), true),
            (json!({"key": "k", "value": "v"}), true),
            (json!({"key": "k", "operator": "Equal", "value": "w"}), false),
            (
                json!({"key": "k", "operator": "Exists", "effect": "NoSchedule"}),
                false,
            ),
            (json!({"key": "other", "operator": "Exists"}), false),
        ] {
            let spec = spec(json!({"tolerations": [toleration]}));
            assert_eq!(bears_taints(&spec, &node()), bears, "{toleration}");
        }
        assert!(!bears_taints(&spec(json!({})), &node()));
    }
}

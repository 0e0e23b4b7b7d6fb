//! nodeSelector and node affinity: which nodes a Pod asks for, and which it would rather have.
use crate::toolkit::Pod;
use crate::toolkit::node_selector::{is_empty, matches, term_matches};
use k8s_openapi::api::core::v1::{Node, NodeAffinity};
use kube::ResourceExt;

fn node_affinity(pod: &Pod) -> Option<&NodeAffinity> {
    pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()
}

/// nodeSelector and every required term's alternatives: all of the first and one of the second.
pub fn required(pod: &Pod, node: &Node) -> bool {
    let selector = pod.spec.as_ref().and_then(|spec| spec.node_selector.as_ref());
    let selected = selector
        .into_iter()
        .flatten()
        .all(|(key, value)| node.labels().get(key) == Some(value));
    let required = node_affinity(pod).and_then(|affinity| {
        affinity
            .required_during_scheduling_ignored_during_execution
            .as_ref()
    });
    let wanted = required.is_none_or(|required| matches(required, node));
    selected && wanted
}

/// The sum of the weights of the preferred terms that match.
pub fn preferred(pod: &Pod, node: &Node) -> i64 {
    let preferred = node_affinity(pod).and_then(|affinity| {
        affinity
            .preferred_during_scheduling_ignored_during_execution
            .as_ref()
    });
    preferred
        .into_iter()
        .flatten()
        .filter(|term| is_empty(&term.preference) || term_matches(&term.preference, node))
        .map(|term| i64::from(term.weight))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node() -> Node {
        serde_json::from_value(json!({"metadata": {"name": "n1", "labels": {"zone": "a", "cores": "8"}}}))
            .expect("a node")
    }

    fn pod(spec: Value) -> Pod {
        let mut pod = json!({"metadata": {}, "spec": {"containers": []}});
        json_patch::merge(&mut pod["spec"], &spec);
        serde_json::from_value(pod).expect("a pod")
    }

    fn requires(terms: Value) -> Value {
        json!({"affinity": {"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}})
    }

    fn expression(key: &str, operator: &str, values: Value) -> Value {
        json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]})
    }

    #[test]
    fn required_terms_and_selectors() {
        let cases = [
            ("nothing asked", json!({}), true),
            ("selector matches", json!({"nodeSelector": {"zone": "a"}}), true),
            ("selector does not", json!({"nodeSelector": {"zone": "b"}}), false),
            (
                "in",
                requires(json!([expression("zone", "In", json!(["a", "b"]))])),
                true,
            ),
            (
                "not in",
                requires(json!([expression("zone", "NotIn", json!(["a"]))])),
                false,
            ),
            (
                "not in, absent",
                requires(json!([expression("disk", "NotIn", json!(["a"]))])),
                true,
            ),
            (
                "exists",
                requires(json!([expression("zone", "Exists", json!([]))])),
                true,
            ),
            (
                "does not exist",
                requires(json!([expression("zone", "DoesNotExist", json!([]))])),
                false,
            ),
            (
                "greater",
                requires(json!([expression("cores", "Gt", json!(["4"]))])),
                true,
            ),
            (
                "less",
                requires(json!([expression("cores", "Lt", json!(["4"]))])),
                false,
            ),
            (
                "one alternative suffices",
                requires(json!([
                    expression("zone", "In", json!(["z"])),
                    expression("zone", "Exists", json!([]))
                ])),
                true,
            ),
            ("an empty term matches nothing", requires(json!([{}])), false),
            (
                "by name",
                requires(
                    json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}]),
                ),
                true,
            ),
        ];
        for (name, spec, expected) in cases {
            assert_eq!(required(&pod(spec), &node()), expected, "{name}");
        }
    }

    #[test]
    fn preferred_terms_add_their_weights() {
        let preference = json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 5, "preference": expression("zone", "In", json!(["a"]))},
            {"weight": 7, "preference": expression("zone", "In", json!(["b"]))},
            {"weight": 2, "preference": expression("cores", "Exists", json!([]))}]}}});
        assert_eq!(preferred(&pod(preference), &node()), 7);
    }
}

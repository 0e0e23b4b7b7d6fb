//! Which labels a node may give to its own Node object. Pure.
use serde_json::Value;
use std::collections::BTreeSet;

const RESTRICTED: &str = "node-restriction.kubernetes.io";
/// Reserved for Kubernetes itself …
const RESERVED: [&str; 2] = ["kubernetes.io", "k8s.io"];
/// … except what agents say about their machine …
const OWN: [&str; 11] = [
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];
/// … and what is in these namespaces.
const OWN_SPACES: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];

/// Labels that differ and are not the node's to change, joined by commas; none when all is well.
pub(super) fn forbidden(new: &Value, old: &Value) -> Option<String> {
    let (new, old) = (&new["metadata"]["labels"], &old["metadata"]["labels"]);
    let keys = |labels: &Value| {
        let labels = labels.as_object().into_iter().flatten();
        labels.map(|(key, _)| key.clone()).collect::<Vec<_>>()
    };
    let all: BTreeSet<String> = keys(new).into_iter().chain(keys(old)).collect();
    let bad: Vec<String> = all
        .into_iter()
        .filter(|key| new.get(key) != old.get(key) && is_forbidden(key))
        .collect();
    (!bad.is_empty()).then(|| bad.join(", "))
}

fn is_forbidden(key: &str) -> bool {
    let space = key.split_once('/').map_or("", |(space, _)| space);
    let own = OWN.contains(&key) || OWN_SPACES.iter().any(|root| is_below(space, root));
    is_below(space, RESTRICTED) || (RESERVED.iter().any(|root| is_below(space, root)) && !own)
}

fn is_below(space: &str, root: &str) -> bool {
    space
        .strip_suffix(root)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_node_names_its_machine_and_no_more() {
        let of = |labels: Value| json!({"metadata": {"labels": labels}});
        let old = of(json!({"node-role.kubernetes.io/worker": "", "kubernetes.io/os": "linux"}));
        for (labels, want) in [
            (
                json!({"node-role.kubernetes.io/worker": "", "kubernetes.io/hostname": "a", "mine": "x"}),
                None,
            ),
            (json!({}), Some("node-role.kubernetes.io/worker")),
            (
                json!({"node-role.kubernetes.io/worker": "", "node-restriction.kubernetes.io/x": "", "a.k8s.io/b": ""}),
                Some("a.k8s.io/b, node-restriction.kubernetes.io/x"),
            ),
            (
                json!({"node-role.kubernetes.io/worker": "", "x.kubelet.kubernetes.io/y": ""}),
                None,
            ),
        ] {
            assert_eq!(forbidden(&of(labels.clone()), &old).as_deref(), want, "{labels}");
        }
    }
}

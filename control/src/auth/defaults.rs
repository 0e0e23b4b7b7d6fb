//! Upstream's default roles and bindings, from the table that `data/extract_policy.py` made of a recorded cluster; and
//! what is ours. Refuses to know how they get into the store.
use super::rbac::{GROUP, Rule};
use serde_json::{Value, json};

/// See `data/extract_policy.py` for the form.
const POLICY: &str = include_str!("data/policy.jsonl");
/// A role that says `false` here is left as its owner made it.
pub const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
const MARK: (&str, &str) = ("kubernetes.io/bootstrapping", "rbac-defaults");

/// A node's agent also does what kube-proxy does elsewhere.
const NODE_PROXIERS: &str = r#"{"k":"ClusterRoleBinding","n":"amphipod:node-proxier","t":["ClusterRole","system:node-proxier"],"u":[["Group","system:nodes"]]}"#;

/// And what a network plugin's agent does, which elsewhere has an account for it on every node: it must know all Pods to make those
/// of its node keep to NetworkPolicies. The Node authorizer stays as narrow as upstream's; whoever has no policies may delete
/// the binding.
const NETWORK_POLICIES: [&str; 2] = [
    r#"{"k":"ClusterRole","n":"amphipod:network-policies","r":[[["list","watch"],[""],["namespaces","pods"]],[["list","watch"],["networking.k8s.io"],["networkpolicies"]]]}"#,
    r#"{"k":"ClusterRoleBinding","n":"amphipod:network-policies","t":["ClusterRole","amphipod:network-policies"],"u":[["Group","system:nodes"]]}"#,
];

/// Who may read Pods may read what they use; metrics-server brings this role along.
const METRICS_READER: &str = r#"{"k":"ClusterRole","n":"system:aggregated-metrics-reader","l":{"rbac.authorization.k8s.io/aggregate-to-view":"true","rbac.authorization.k8s.io/aggregate-to-edit":"true","rbac.authorization.k8s.io/aggregate-to-admin":"true"},"r":[[["get","list","watch"],["metrics.k8s.io"],["pods","nodes"]]]}"#;

/// All of them, roles before what binds them.
pub fn objects() -> Vec<Value> {
    let ours = [METRICS_READER, NODE_PROXIERS]
        .into_iter()
        .chain(NETWORK_POLICIES);
    let lines = POLICY.lines().chain(ours);
    lines
        .filter_map(|line| serde_json::from_str(line).ok())
        .map(|line: Value| object(&line))
        .collect()
}

/// What every node may do, before its objects are told apart.
pub fn node_rules() -> Vec<Rule> {
    let role = objects()
        .into_iter()
        .find(|object| object["kind"] == "ClusterRole" && object["metadata"]["name"] == "system:node");
    role.map(|role| Rule::read_all(&role)).unwrap_or_default()
}

fn object(line: &Value) -> Value {
    let mut labels = line.get("l").cloned().unwrap_or_else(|| json!({}));
    labels[MARK.0] = MARK.1.into();
    let mut object = json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": line["k"],
        "metadata": {"name": line["n"], "labels": labels, "annotations": {AUTOUPDATE: "true"}},
    });
    if line["s"].is_string() {
        object["metadata"]["namespace"] = line["s"].clone();
    }
    if let Some(rules) = line["r"].as_array() {
        object["rules"] = rules.iter().map(rule).collect();
    }
    if line["a"].is_object() {
        object["aggregationRule"] = line["a"].clone();
    }
    if line["t"].is_array() {
        object["roleRef"] = json!({"apiGroup": GROUP, "kind": line["t"][0], "name": line["t"][1]});
        let subjects = line["u"].as_array().into_iter().flatten();
        object["subjects"] = subjects.map(subject).collect();
    }
    object
}

fn rule(row: &Value) -> Value {
    let mut rule = json!({});
    let keys = [
        "verbs",
        "apiGroups",
        "resources",
        "resourceNames",
        "nonResourceURLs",
    ];
    for (key, list) in keys.iter().zip(row.as_array().into_iter().flatten()) {
        if list.as_array().is_some_and(|list| !list.is_empty()) {
            rule[*key] = list.clone();
        }
    }
    rule
}

fn subject(row: &Value) -> Value {
    match row[0].as_str() {
        Some("ServiceAccount") => json!({"kind": row[0], "name": row[1], "namespace": row[2]}),
        _ => json!({"kind": row[0], "name": row[1], "apiGroup": GROUP}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstreams_names_are_there() {
        let objects = objects();
        let find = |kind: &str, name: &str| {
            let found = objects
                .iter()
                .find(|o| o["kind"] == kind && o["metadata"]["name"] == name);
            found.unwrap_or_else(|| panic!("{kind} {name}"))
        };
        assert_eq!(
            find("ClusterRole", "cluster-admin")["rules"][1]["nonResourceURLs"],
            json!(["*"])
        );
        assert_eq!(
            find("ClusterRoleBinding", "cluster-admin")["subjects"][0]["name"],
            "system:masters"
        );
        assert_eq!(
            find("Role", "extension-apiserver-authentication-reader")["metadata"]["namespace"],
            "kube-system"
        );
        assert!(find("ClusterRole", "admin")["aggregationRule"].is_object());
        assert!(
            find("ClusterRole", "edit")["metadata"]["labels"]
                .as_object()
                .unwrap()
                .len()
                == 2
        );
        assert!(node_rules().len() > 20);
        let followed = &find("ClusterRole", "amphipod:network-policies")["rules"];
        assert_eq!(followed[1]["resources"], json!(["networkpolicies"]));
    }
}

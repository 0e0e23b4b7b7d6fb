//! Which nodes cannot take a Pod, and why, in upstream's words and order.
//!
//! The first filter that objects gives the reasons for its node, as in upstream's scheduling framework.
use k8s_openapi::api::core::v1::{Node, Taint};
use kube::ResourceExt;

use super::footprint::{Footprint, PODS};
use super::ledger::NodeState;
use super::node_affinity;
use super::volumes::Needs;
use crate::toolkit::{Pod, pods, taints};

const UNSCHEDULABLE_TAINT: &str = "node.kubernetes.io/unschedulable";

/// A Pod with what the filters need of it, worked out once for all nodes.
pub struct Wanted<'a> {
    pub pod: &'a Pod,
    pub footprint: Footprint,
    pub needs: &'a Needs,
}

type Filter = fn(&Wanted, &Node, &NodeState) -> Vec<String>;

/// What a node declares that can start all of a Pod's containers anew (KEP-5532), and the action that asks for it.
const RESTARTS_ALL: &str = "RestartAllContainersOnContainerExits";
const RESTART_ALL: &str = "RestartAllContainers";

const FILTERS: [Filter; 8] = [
    node_unschedulable,
    node_name,
    taint_toleration,
    node_selection,
    node_ports,
    node_resources_fit,
    volume_binding,
    declared_features,
];

/// Why `node` cannot take the Pod; empty when it can.
pub fn objections(wanted: &Wanted, node: &Node, state: &NodeState) -> Vec<String> {
    FILTERS
        .iter()
        .map(|filter| filter(wanted, node, state))
        .find(|reasons| !reasons.is_empty())
        .unwrap_or_default()
}

fn because(objects: bool, reason: &str) -> Vec<String> {
    if objects {
        vec![reason.to_owned()]
    } else {
        Vec::new()
    }
}

fn node_unschedulable(wanted: &Wanted, node: &Node, _: &NodeState) -> Vec<String> {
    let cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true);
    let taint = Taint {
        key: UNSCHEDULABLE_TAINT.into(),
        effect: taints::NO_SCHEDULE.into(),
        ..Default::default()
    };
    because(
        cordoned && !taints::tolerated(taints::tolerations(wanted.pod), &taint),
        "node(s) were unschedulable",
    )
}

fn node_name(wanted: &Wanted, node: &Node, _: &NodeState) -> Vec<String> {
    let other = pods::node_name(wanted.pod).is_some_and(|name| name != node.name_any());
    because(other, "node(s) didn't match the requested node name")
}

fn taint_toleration(wanted: &Wanted, node: &Node, _: &NodeState) -> Vec<String> {
    let tolerations = taints::tolerations(wanted.pod);
    let repels = |taint: &Taint| matches!(taint.effect.as_str(), taints::NO_SCHEDULE | taints::NO_EXECUTE);
    let untolerated = taints::of_node(node)
        .iter()
        .any(|taint| repels(taint) && !taints::tolerated(tolerations, taint));
    because(untolerated, "node(s) had untolerated taint(s)")
}

fn node_selection(wanted: &Wanted, node: &Node, _: &NodeState) -> Vec<String> {
    because(
        !node_affinity::required(wanted.pod, node),
        "node(s) didn't match Pod's node affinity/selector",
    )
}

fn node_ports(wanted: &Wanted, _: &Node, state: &NodeState) -> Vec<String> {
    let taken = wanted
        .footprint
        .host_ports
        .iter()
        .any(|port| !state.port_is_free(port));
    because(
        taken,
        "node(s) didn't have free ports for the requested pod ports",
    )
}

/// Every resource that is short is named.
fn node_resources_fit(wanted: &Wanted, _: &Node, state: &NodeState) -> Vec<String> {
    let allowed = state.allocatable.get(PODS).copied().unwrap_or(0);
    let mut reasons = because(state.pods + 1 > allowed, "Too many pods");
    for (name, amount) in wanted
        .footprint
        .requests
        .iter()
        .filter(|(_, amount)| **amount > 0)
    {
        let offered = state.allocatable.get(name).copied().unwrap_or(0);
        let taken = state.requested.get(name).copied().unwrap_or(0);
        if *amount > offered.saturating_sub(taken) {
            reasons.push(format!("Insufficient {name}"));
        }
    }
    reasons
}

fn volume_binding(wanted: &Wanted, node: &Node, _: &NodeState) -> Vec<String> {
    wanted.needs.objections(node)
}

/// Nodes of an older version do not know what some Pods ask for (KEP-5328).
fn declared_features(wanted: &Wanted, node: &Node, _: &NodeState) -> Vec<String> {
    let spec = wanted.pod.spec.iter();
    let containers = spec.flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()));
    let mut rules = containers.flat_map(|c| c.restart_policy_rules.iter().flatten());
    let asks = rules.any(|rule| rule.action == RESTART_ALL);
    let status = node.status.as_ref();
    let mut declared = status.iter().flat_map(|s| s.declared_features.iter().flatten());
    because(
        asks && !declared.any(|feature| feature == RESTARTS_ALL),
        "node(s) didn't match Pod's required features",
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::footprint;
    use super::super::ledger::Ledger;
    use super::*;
    use serde_json::{Value, json};

    fn pod(uid: &str, spec: Value) -> Pod {
        let mut pod = json!({"metadata": {"uid": uid}, "spec": {"containers": [{"name": "c"}]}});
        json_patch::merge(&mut pod["spec"], &spec);
        serde_json::from_value(pod).expect("a pod")
    }

    fn asks(requests: Value) -> Value {
        json!({"containers": [{"name": "c", "resources": {"requests": requests}}]})
    }

    fn objections_of(node: Value, running: &[Pod], pod: &Pod) -> Vec<String> {
        let mut base = json!({"metadata": {"name": "n1"}, "spec": {},
            "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "2"}}});
        json_patch::merge(&mut base, &node);
        let mut ledger = Ledger::default();
        ledger.set_node(Arc::new(serde_json::from_value(base).expect("a node")));
        for other in running {
            ledger.place(other, "n1");
        }
        let wanted = Wanted {
            pod,
            footprint: footprint::of_pod(pod),
            needs: &Needs::default(),
        };
        let (node, state) = ledger.nodes().next().expect("one node");
        objections(&wanted, node, state)
    }

    #[test]
    fn each_filter_objects_in_upstreams_words() {
        let tainted = json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}});
        let host_port =
            json!({"containers": [{"name": "c", "ports": [{"containerPort": 1, "hostPort": 80}]}]});
        let other = [pod("other", host_port.clone())];
        let two = [pod("x", json!({})), pod("y", json!({}))];
        let restarts_all = json!({"containers": [{"name": "c",
            "restartPolicyRules": [{"action": "RestartAllContainers"}]}]});
        let cases: [(Value, &[Pod], Value, &[&str]); 12] = [
            (json!({}), &[], json!({}), &[]),
            (
                json!({"spec": {"unschedulable": true}}),
                &[],
                json!({}),
                &["node(s) were unschedulable"],
            ),
            (
                tainted.clone(),
                &[],
                json!({}),
                &["node(s) had untolerated taint(s)"],
            ),
            (
                tainted,
                &[],
                json!({"tolerations": [{"operator": "Exists"}]}),
                &[],
            ),
            (
                json!({}),
                &[],
                json!({"nodeSelector": {"a": "b"}}),
                &["node(s) didn't match Pod's node affinity/selector"],
            ),
            (
                json!({}),
                &other,
                host_port,
                &["node(s) didn't have free ports for the requested pod ports"],
            ),
            (json!({}), &two, json!({}), &["Too many pods"]),
            (json!({}), &[], asks(json!({"cpu": "3"})), &["Insufficient cpu"]),
            (
                json!({}),
                &two,
                asks(json!({"cpu": "3", "memory": "2Gi"})),
                &["Too many pods", "Insufficient cpu", "Insufficient memory"],
            ),
            (
                json!({}),
                &[],
                asks(json!({"example.com/gpu": "1"})),
                &["Insufficient example.com/gpu"],
            ),
            (
                json!({}),
                &[],
                restarts_all.clone(),
                &["node(s) didn't match Pod's required features"],
            ),
            (
                json!({"status": {"declaredFeatures": ["A", RESTARTS_ALL]}}),
                &[],
                restarts_all,
                &[],
            ),
        ];
        for (node, running, spec, expected) in cases {
            let pod = pod("new", spec.clone());
            assert_eq!(objections_of(node, running, &pod), expected, "{spec}");
        }
    }
}

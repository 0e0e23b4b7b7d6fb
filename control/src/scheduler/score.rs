//! How well each feasible node suits a Pod: upstream's default plugins and weights that need only the Pod and the node.
use k8s_openapi::api::core::v1::{Node, Taint, Toleration};

use super::filters::Wanted;
use super::footprint::{CPU, MEMORY};
use super::ledger::NodeState;
use super::node_affinity;
use crate::toolkit::Pod;
use crate::toolkit::taints;

/// Best value of one score.
const MAX: i64 = 100;
const LEAST_ALLOCATED_WEIGHT: i64 = 1;
const BALANCED_WEIGHT: i64 = 1;
const AFFINITY_WEIGHT: i64 = 2;
const TAINT_WEIGHT: i64 = 3;

/// The total for each node, in the order given; only comparable with each other.
pub fn totals(wanted: &Wanted, nodes: &[(&Node, &NodeState)]) -> Vec<i64> {
    let affinity = upwards(
        nodes
            .iter()
            .map(|(node, _)| node_affinity::preferred(wanted.pod, node))
            .collect(),
    );
    let repelled = downwards(
        nodes
            .iter()
            .map(|(node, _)| intolerable(wanted.pod, node))
            .collect(),
    );
    nodes
        .iter()
        .zip(affinity.into_iter().zip(repelled))
        .map(|((_, state), (affinity, taints))| {
            LEAST_ALLOCATED_WEIGHT * least_allocated(wanted, state)
                + BALANCED_WEIGHT * balanced(wanted, state)
                + AFFINITY_WEIGHT * affinity
                + TAINT_WEIGHT * taints
        })
        .collect()
}

/// Scales so that the highest becomes `MAX`.
fn upwards(scores: Vec<i64>) -> Vec<i64> {
    let highest = scores.iter().copied().max().unwrap_or(0);
    scores
        .into_iter()
        .map(|score| if highest > 0 { score * MAX / highest } else { score })
        .collect()
}

/// Scales so that 0 becomes `MAX` and the highest 0.
fn downwards(scores: Vec<i64>) -> Vec<i64> {
    let highest = scores.iter().copied().max().unwrap_or(0);
    scores
        .into_iter()
        .map(|score| {
            if highest > 0 {
                MAX - score * MAX / highest
            } else {
                MAX
            }
        })
        .collect()
}

/// How many taints would rather not have the Pod.
fn intolerable(pod: &Pod, node: &Node) -> i64 {
    let concerns = |toleration: &&Toleration| {
        matches!(
            toleration.effect.as_deref().unwrap_or_default(),
            "" | taints::PREFER_NO_SCHEDULE
        )
    };
    let tolerations: Vec<Toleration> = taints::tolerations(pod)
        .iter()
        .filter(concerns)
        .cloned()
        .collect();
    let counts = |taint: &&Taint| {
        taint.effect == taints::PREFER_NO_SCHEDULE && !taints::tolerated(&tolerations, taint)
    };
    i64::try_from(taints::of_node(node).iter().filter(counts).count()).unwrap_or(i64::MAX)
}

/// CPU and memory with the Pod on it: offered and taken.
fn usage(wanted: &Wanted, state: &NodeState) -> [(i64, i64); 2] {
    let offered = |name: &str| state.allocatable.get(name).copied().unwrap_or(0);
    [
        (
            offered(CPU),
            state.milli_cpu.saturating_add(wanted.footprint.milli_cpu),
        ),
        (
            offered(MEMORY),
            state.memory.saturating_add(wanted.footprint.memory),
        ),
    ]
}

/// Prefers the node with most room left.
fn least_allocated(wanted: &Wanted, state: &NodeState) -> i64 {
    let offered: Vec<(i64, i64)> = usage(wanted, state)
        .into_iter()
        .filter(|(offered, _)| *offered > 0)
        .collect();
    let free = |(offered, taken): &(i64, i64)| ratio((offered - taken).max(0), *offered);
    match i64::try_from(offered.len()) {
        Ok(count) if count > 0 => offered.iter().map(free).sum::<i64>() / count,
        _ => 0,
    }
}

fn ratio(part: i64, whole: i64) -> i64 {
    i64::try_from(i128::from(part) * i128::from(MAX) / i128::from(whole)).unwrap_or(0)
}

/// Prefers the node whose CPU and memory fill up evenly.
fn balanced(wanted: &Wanted, state: &NodeState) -> i64 {
    let fractions: Vec<i64> = usage(wanted, state)
        .into_iter()
        .filter(|(offered, _)| *offered > 0)
        .map(|(offered, taken)| ratio(taken.min(offered), offered))
        .collect();
    match fractions.as_slice() {
        [cpu, memory] => MAX - (cpu - memory).abs() / 2,
        _ => MAX,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::footprint;
    use super::super::ledger::Ledger;
    use super::super::volumes::Needs;
    use super::*;
    use kube::ResourceExt;
    use serde_json::{Value, json};

    fn pod(uid: &str, spec: Value) -> Pod {
        let mut pod = json!({"metadata": {"uid": uid}, "spec": {
            "containers": [{"name": "c", "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}]}});
        json_patch::merge(&mut pod["spec"], &spec);
        serde_json::from_value(pod).expect("a pod")
    }

    fn best(nodes: &[(&str, Value)], busy: &str, spec: Value) -> String {
        let mut ledger = Ledger::default();
        for (name, details) in nodes {
            let mut node = json!({"metadata": {"name": name},
                "status": {"allocatable": {"cpu": "4", "memory": "4Gi", "pods": "110"}}});
            json_patch::merge(&mut node, details);
            ledger.set_node(Arc::new(serde_json::from_value(node).expect("a node")));
        }
        ledger.place(&pod("busy", json!({})), busy);
        let pod = pod("new", spec);
        let wanted = Wanted {
            footprint: footprint::of_pod(&pod),
            needs: &Needs::default(),
            pod: &pod,
        };
        let nodes: Vec<(&Node, &NodeState)> = ledger
            .nodes()
            .map(|(node, state)| (node.as_ref(), state))
            .collect();
        let totals = totals(&wanted, &nodes);
        let (index, _) = totals
            .iter()
            .enumerate()
            .max_by_key(|(_, total)| **total)
            .expect("a node");
        nodes[index].0.name_any()
    }

    #[test]
    fn room_taints_and_preferences_decide() {
        let avoid = json!({"spec": {"taints": [{"key": "k", "effect": "PreferNoSchedule"}]}});
        let prefers_a = json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 1, "preference": {"matchExpressions": [{"key": "l", "operator": "Exists"}]}}]}}});
        let labelled = json!({"metadata": {"labels": {"l": ""}}});
        let cases = [
            (
                "the emptier one",
                vec![("a", json!({})), ("b", json!({}))],
                "a",
                json!({}),
                "b",
            ),
            (
                "the untainted one, though fuller",
                vec![("a", json!({})), ("b", avoid)],
                "a",
                json!({}),
                "a",
            ),
            (
                "the preferred one, though fuller",
                vec![("a", labelled), ("b", json!({}))],
                "a",
                prefers_a,
                "a",
            ),
        ];
        for (name, nodes, busy, spec, expected) in cases {
            assert_eq!(best(&nodes, busy, spec), expected, "{name}");
        }
    }
}

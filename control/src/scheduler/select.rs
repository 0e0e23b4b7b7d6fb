//! The decision: filter, score, pick. Pure but for the random pick among equals, which is given.
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;

use super::filters::{Wanted, objections};
use super::footprint;
use super::ledger::{Ledger, NodeState};
use super::message::{Reasons, fit_error, refusal};
use super::score;
use super::volumes::{Needs, Step};
use crate::toolkit::Pod;

/// Below this many nodes all are looked at (upstream's `minFeasibleNodesToFind`).
const MIN_FEASIBLE: usize = 100;
/// The share of nodes looked at falls with their number, down to this percentage.
const MIN_PERCENT: usize = 5;

#[derive(Debug)]
pub enum Choice {
    Node {
        node: String,
        /// What is bound before the Pod is.
        steps: Vec<Step>,
    },
    /// No node, and the sentence that says why.
    Unschedulable(String),
}

/// The node for `pod`; `pick(n)` chooses one of `n` equals.
pub fn choose(pod: &Pod, needs: &Needs, ledger: &mut Ledger, pick: &mut dyn FnMut(usize) -> usize) -> Choice {
    let wanted = Wanted {
        pod,
        needs,
        footprint: footprint::of_pod(pod),
    };
    let count = ledger.node_count();
    let enough = feasible_to_find(count);
    let mut reasons = Reasons::new();
    let mut feasible: Vec<(&Node, &NodeState)> = Vec::new();
    for (node, state) in ledger.nodes() {
        let objections = objections(&wanted, node, state);
        if objections.is_empty() {
            feasible.push((node.as_ref(), state));
        }
        for reason in objections {
            *reasons.entry(reason).or_insert(0) += 1;
        }
        if feasible.len() >= enough {
            break;
        }
    }
    let Some((last, _)) = feasible.last() else {
        return Choice::Unschedulable(fit_error(count, &reasons));
    };
    let last = last.name_any();
    let node = best(&wanted, &feasible, pick);
    let chosen = feasible.iter().find(|(other, _)| other.name_any() == node);
    let steps = chosen.and_then(|(node, _)| needs.plan(node)).unwrap_or_default();
    ledger.resume_after = last;
    Choice::Node { node, steps }
}

/// The answer when no node at all would do.
pub fn refused(ledger: &Ledger, why: &str) -> Choice {
    Choice::Unschedulable(refusal(ledger.node_count(), why))
}

fn best(wanted: &Wanted, feasible: &[(&Node, &NodeState)], pick: &mut dyn FnMut(usize) -> usize) -> String {
    let totals = score::totals(wanted, feasible);
    let highest = totals.iter().copied().max().unwrap_or(0);
    let equals: Vec<&Node> = feasible
        .iter()
        .zip(&totals)
        .filter(|(_, total)| **total == highest)
        .map(|((node, _), _)| *node)
        .collect();
    let index = if equals.len() > 1 { pick(equals.len()) } else { 0 };
    equals.get(index).map(|node| node.name_any()).unwrap_or_default()
}

/// How many feasible nodes are enough to choose from (upstream's adaptive `percentageOfNodesToScore`).
fn feasible_to_find(nodes: usize) -> usize {
    if nodes < MIN_FEASIBLE {
        return nodes.max(1);
    }
    let percent = 50_usize.saturating_sub(nodes / 125).max(MIN_PERCENT);
    (nodes * percent / 100).max(MIN_FEASIBLE)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use serde_json::json;

    fn ledger(nodes: usize, cpu: &str) -> Ledger {
        let mut ledger = Ledger::default();
        for index in 0..nodes {
            let node = json!({"metadata": {"name": format!("n{index:04}")},
                "status": {"allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "110"}}});
            ledger.set_node(Arc::new(serde_json::from_value(node).expect("a node")));
        }
        ledger
    }

    fn pod(uid: usize) -> Pod {
        let spec = json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]});
        serde_json::from_value(json!({"metadata": {"uid": uid.to_string()}, "spec": spec})).expect("a pod")
    }

    #[test]
    fn a_burst_never_overcommits() {
        let mut ledger = ledger(3, "2");
        let mut placed = 0;
        for uid in 0..10 {
            let pod = pod(uid);
            match choose(&pod, &Needs::default(), &mut ledger, &mut |_| 0) {
                Choice::Node { node, .. } => {
                    ledger.place(&pod, &node);
                    placed += 1;
                }
                Choice::Unschedulable(why) => {
                    assert_eq!(why, "0/3 nodes are available: 3 Insufficient cpu.");
                }
            }
        }
        assert_eq!(placed, 6);
    }

    #[test]
    fn without_nodes_it_says_so() {
        let choice = choose(&pod(0), &Needs::default(), &mut ledger(0, "1"), &mut |_| 0);
        assert!(matches!(choice, Choice::Unschedulable(why) if why == "no nodes available to schedule pods"));
    }

    #[test]
    fn equals_are_picked_by_the_given_choice() {
        let choice = choose(&pod(0), &Needs::default(), &mut ledger(3, "2"), &mut |count| {
            count - 1
        });
        assert!(matches!(choice, Choice::Node { node, .. } if node == "n0002"));
    }

    #[test]
    fn large_clusters_are_sampled() {
        let cases = [
            (0, 1),
            (50, 50),
            (100, 100),
            (1000, 420),
            (5000, 500),
            (10000, 500),
        ];
        for (nodes, expected) in cases {
            assert_eq!(feasible_to_find(nodes), expected, "{nodes} nodes");
        }
    }
}

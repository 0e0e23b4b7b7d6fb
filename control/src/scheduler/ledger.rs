//! Who takes what on which node, counting Pods that were just placed and whose binding is still on its way.
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;

use super::footprint::{self, Footprint, HostPort, PortsInUse, Resources};
use crate::toolkit::Pod;

/// One node and what its Pods take.
#[derive(Default)]
pub struct NodeState {
    /// Absent while Pods are known on a node that is not (yet, any more).
    node: Option<Arc<Node>>,
    pub allocatable: Resources,
    pub requested: Resources,
    pub milli_cpu: i64,
    pub memory: i64,
    pub pods: i64,
    ports: PortsInUse,
}

impl NodeState {
    fn take(&mut self, footprint: &Footprint) {
        footprint::add(&mut self.requested, &footprint.requests);
        self.milli_cpu = self.milli_cpu.saturating_add(footprint.milli_cpu);
        self.memory = self.memory.saturating_add(footprint.memory);
        self.pods += 1;
        for port in &footprint.host_ports {
            *self.ports.entry(port.clone()).or_insert(0) += 1;
        }
    }

    fn give_back(&mut self, footprint: &Footprint) {
        footprint::subtract(&mut self.requested, &footprint.requests);
        self.milli_cpu = self.milli_cpu.saturating_sub(footprint.milli_cpu);
        self.memory = self.memory.saturating_sub(footprint.memory);
        self.pods -= 1;
        for port in &footprint.host_ports {
            if let Some(users) = self.ports.get_mut(port) {
                *users -= 1;
                if *users == 0 {
                    self.ports.remove(port);
                }
            }
        }
    }

    pub fn port_is_free(&self, wanted: &HostPort) -> bool {
        !self.ports.keys().any(|used| used.collides(wanted))
    }
}

#[derive(Default)]
pub struct Ledger {
    nodes: BTreeMap<String, NodeState>,
    /// Pod uid → node and footprint.
    placed: HashMap<String, (String, Footprint)>,
    /// Where the last search ended, so that not all searches try the same nodes first.
    pub resume_after: String,
}

impl Ledger {
    pub fn set_node(&mut self, node: Arc<Node>) {
        let state = self.nodes.entry(node.name_any()).or_default();
        state.allocatable = footprint::allocatable(&node);
        state.node = Some(node);
    }

    pub fn remove_node(&mut self, name: &str) {
        if let Some(state) = self.nodes.get_mut(name) {
            state.node = None;
            self.drop_if_empty(name);
        }
    }

    fn drop_if_empty(&mut self, name: &str) {
        if self
            .nodes
            .get(name)
            .is_some_and(|state| state.node.is_none() && state.pods == 0)
        {
            self.nodes.remove(name);
        }
    }

    /// Counts the Pod on the node, in place of whatever was counted for it before.
    pub fn place(&mut self, pod: &Pod, node: &str) {
        let footprint = footprint::of_pod(pod);
        let uid = pod.uid().unwrap_or_default();
        if self
            .placed
            .get(&uid)
            .is_some_and(|(known, same)| known == node && *same == footprint)
        {
            return;
        }
        self.remove(pod);
        self.nodes.entry(node.to_owned()).or_default().take(&footprint);
        self.placed.insert(uid, (node.to_owned(), footprint));
    }

    /// Stops counting the Pod; says whether it had been counted.
    pub fn remove(&mut self, pod: &Pod) -> bool {
        let Some((node, footprint)) = self.placed.remove(&pod.uid().unwrap_or_default()) else {
            return false;
        };
        if let Some(state) = self.nodes.get_mut(&node) {
            state.give_back(&footprint);
        }
        self.drop_if_empty(&node);
        true
    }

    /// The real nodes, starting after `resume_after` and going round once.
    pub fn nodes(&self) -> impl Iterator<Item = (&Arc<Node>, &NodeState)> {
        use std::ops::Bound::{Excluded, Included, Unbounded};
        let start = self.resume_after.as_str();
        let after = self.nodes.range::<str, _>((Excluded(start), Unbounded));
        let before = self.nodes.range::<str, _>((Unbounded, Included(start)));
        after
            .chain(before)
            .filter_map(|(_, state)| state.node.as_ref().map(|node| (node, state)))
    }

    pub fn node_count(&self) -> usize {
        self.nodes.values().filter(|state| state.node.is_some()).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(uid: &str, cpu: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"uid": uid, "name": uid},
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}},
                "ports": [{"containerPort": 80, "hostPort": 80}]}]}
        }))
        .expect("a pod")
    }

    fn node(name: &str) -> Arc<Node> {
        Arc::new(serde_json::from_value(json!({"metadata": {"name": name}})).expect("a node"))
    }

    fn cpu(ledger: &Ledger, name: &str) -> i64 {
        ledger
            .nodes
            .get(name)
            .and_then(|state| state.requested.get("cpu"))
            .copied()
            .unwrap_or(0)
    }

    #[test]
    fn a_pod_is_counted_once_however_often_it_is_seen() {
        let mut ledger = Ledger::default();
        ledger.set_node(node("a"));
        ledger.place(&pod("1", "100m"), "a");
        ledger.place(&pod("1", "100m"), "a");
        ledger.place(&pod("1", "300m"), "a");
        assert_eq!(cpu(&ledger, "a"), 300);
        assert!(ledger.remove(&pod("1", "300m")));
        assert!(!ledger.remove(&pod("1", "300m")));
        assert_eq!(cpu(&ledger, "a"), 0);
        assert!(ledger.nodes["a"].ports.is_empty());
    }

    #[test]
    fn pods_are_remembered_across_the_absence_of_their_node() {
        let mut ledger = Ledger::default();
        ledger.place(&pod("1", "100m"), "a");
        assert_eq!(ledger.node_count(), 0);
        ledger.set_node(node("a"));
        assert_eq!((ledger.node_count(), cpu(&ledger, "a")), (1, 100));
        ledger.remove_node("a");
        ledger.remove(&pod("1", "100m"));
        assert!(ledger.nodes.is_empty());
    }

    #[test]
    fn a_search_goes_round_once() {
        let mut ledger = Ledger::default();
        for name in ["a", "b", "c"] {
            ledger.set_node(node(name));
        }
        ledger.resume_after = "a".into();
        let order: Vec<String> = ledger.nodes().map(|(node, _)| node.name_any()).collect();
        assert_eq!(order, ["b", "c", "a"]);
    }
}

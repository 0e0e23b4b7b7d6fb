//! From changes of Pods and Nodes to the ledger and the queue.
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;

use super::{NAME, Scheduler};
use crate::toolkit::lock::lock;
use crate::toolkit::{Change, ObjectKey, Pod, pods};

impl Scheduler {
    pub(super) fn register(self: &Arc<Self>) {
        let this = self.clone();
        self.pods.on_change(move |change| this.pod_changed(change));
        let this = self.clone();
        self.nodes.on_change(move |change| this.node_changed(change));
        let this = self.clone();
        self.storage.claims.on_change(move |_| this.storage_changed());
        let this = self.clone();
        self.storage.volumes.on_change(move |_| this.storage_changed());
        let this = self.clone();
        self.storage.classes.on_change(move |_| this.storage_changed());
    }

    /// Whoever waits for a claim looks again.
    fn storage_changed(&self) {
        self.storage_changed.notify_waiters();
        self.queue.something_changed();
    }

    fn pod_changed(&self, change: &Change<Pod>) {
        let pod = change.object();
        let key = ObjectKey::of(pod.as_ref());
        let gone = matches!(change, Change::Deleted(_));
        if gone || pods::node_name(pod).is_some() {
            self.keep_promises(pod);
        }
        if gone {
            self.storage_changed.notify_waiters();
        }
        if pods::node_name(pod).is_some() {
            self.queue.forget(&key);
            self.account(pod, gone);
        } else if gone || !wants_node(pod) {
            self.queue.forget(&key);
            lock(&self.ledger).remove(pod);
        } else if change.old().is_none_or(|old| asks_otherwise(old, pod)) {
            self.queue.add(key, priority(pod));
        }
    }

    /// Keeps the ledger of a bound Pod; room it frees may help those who wait.
    fn account(&self, pod: &Pod, gone: bool) {
        let freed = {
            let mut ledger = lock(&self.ledger);
            match (pods::node_name(pod), gone || pods::is_terminal(pod)) {
                (Some(node), false) => {
                    ledger.place(pod, node);
                    false
                }
                _ => ledger.remove(pod),
            }
        };
        if freed {
            self.queue.something_changed();
        }
    }

    fn node_changed(&self, change: &Change<Node>) {
        let node = change.object();
        match change {
            Change::Deleted(_) => lock(&self.ledger).remove_node(&node.name_any()),
            _ => lock(&self.ledger).set_node(node.clone()),
        }
        let helps = match change {
            Change::Added(_) => true,
            Change::Updated { old, new } => may_take_more(old, new),
            Change::Deleted(_) => false,
        };
        if helps {
            self.queue.something_changed();
        }
    }
}

/// Whether the Pod is ours to place: unbound, alive, not gated (KEP-3521), and asking for this scheduler.
pub fn wants_node(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let ours = spec.scheduler_name.as_deref().unwrap_or(NAME) == NAME;
    let gated = spec
        .scheduling_gates
        .as_ref()
        .is_some_and(|gates| !gates.is_empty());
    ours && !gated && pods::node_name(pod).is_none() && pods::is_active(pod)
}

/// Status and bookkeeping changes do not make a Pod schedulable; spec and labels may.
fn asks_otherwise(old: &Pod, new: &Pod) -> bool {
    old.spec != new.spec || old.labels() != new.labels()
}

fn priority(pod: &Pod) -> i32 {
    pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0)
}

/// Heartbeats change a Node all the time; only these fields can make room for a waiting Pod.
fn may_take_more(old: &Node, new: &Node) -> bool {
    let offered = |node: &Node| {
        let status = node.status.as_ref();
        status.map(|status| (status.allocatable.clone(), status.declared_features.clone()))
    };
    old.spec != new.spec || old.labels() != new.labels() || offered(old) != offered(new)
}

//! Node lifecycle: a node that comes or goes is told of; one whose heartbeats stop becomes Unknown and tainted, its Pods unready; one that returns is freed.
//!
//! Flow: every heartbeat queues its node, and the end of its grace period queues it again. When no node at all is ready, the
//! fault is more likely here than in all of them: then nobody is evicted (upstream's full disruption).
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeStatus};
use kube::ResourceExt;
use serde_json::json;
use tokio::time::Instant;

use super::health::{self, Heartbeat, readiness};
use super::{disruption, taint};
use crate::controllers::context::{BY_NODE, Context, LEASE_NAMESPACE};
use crate::toolkit::lock::lock;
use crate::toolkit::{
    Change, ObjectKey, Objects, Outcome, Queue, Recorder, StepError, Steps, patch, pods, taints, work,
};

/// Nodes judged at once.
const WORKERS: usize = 4;

pub fn start(context: &Context) -> BoxFuture<'static, ()> {
    let controller = Arc::new(Controller {
        context: context.clone(),
        events: context.events.recorder("node-controller"),
        known: Mutex::new(HashMap::new()),
        queue: Arc::new(Queue::new()),
    });
    let this = controller.clone();
    context
        .watches
        .nodes
        .on_change(move |change| this.node_changed(change));
    let this = controller.clone();
    context
        .watches
        .leases
        .on_change(move |change| this.queue.add(change.object().name_any()));
    let queue = controller.queue.clone();
    let shutdown = context.shutdown.clone();
    work(
        "node-lifecycle",
        queue,
        WORKERS,
        shutdown,
        controller,
        |controller, name| controller.reconcile(name).boxed(),
    )
}

struct Controller {
    context: Context,
    events: Recorder,
    /// The nodes that there are, by name.
    known: Mutex<HashMap<String, Known>>,
    queue: Arc<Queue<String>>,
}

struct Known {
    uid: Option<String>,
    heartbeat: Heartbeat,
}

impl Controller {
    fn node_changed(&self, change: &Change<Node>) {
        let node = change.object();
        self.queue.add(node.name_any());
        let moved = match change {
            Change::Updated { old, new } => readiness(old) != readiness(new),
            Change::Added(_) | Change::Deleted(_) => true,
        };
        if moved {
            // It may have been the last ready one, or the first: that changes what the others must expect.
            let unready = self
                .context
                .watches
                .nodes
                .list()
                .into_iter()
                .filter(|node| readiness(node) != "True");
            self.queue.extend(unready.map(|node| node.name_any()));
        }
    }

    async fn reconcile(&self, name: String) -> Result<Outcome, StepError> {
        let Some(node) = self.context.watches.nodes.get(&ObjectKey::cluster(&name)) else {
            self.forget(&name);
            return Ok(Outcome::Done);
        };
        let grace = health::grace(&node, &self.context.options);
        let left = self.beat(&name, &node).left(grace, Instant::now());
        let node = match left {
            Some(_) => node,
            None => Arc::new(self.silence(&node).await?),
        };
        self.write_taints(&node).await?;
        if readiness(&node) == "Unknown" {
            self.unready_pods(&name).await?;
        }
        Ok(left.map_or(Outcome::Done, Outcome::After))
    }

    fn beat(&self, name: &str, node: &Node) -> Heartbeat {
        let lease = self
            .context
            .watches
            .leases
            .get(&ObjectKey::new(LEASE_NAMESPACE, name));
        let mut known = lock(&self.known);
        let before = known.get(name).map(|known| &known.heartbeat);
        let heartbeat = Heartbeat::after(before, node, lease.as_deref(), Instant::now());
        let now = Known {
            uid: node.uid(),
            heartbeat: heartbeat.clone(),
        };
        if known.insert(name.to_owned(), now).is_none() {
            self.tell(
                name,
                node.uid(),
                "RegisteredNode",
                format!("Registered Node {name} in Controller"),
            );
        }
        heartbeat
    }

    fn forget(&self, name: &str) {
        if let Some(gone) = lock(&self.known).remove(name) {
            self.tell(
                name,
                gone.uid,
                "RemovingNode",
                format!("Removing Node {name} from Controller"),
            );
        }
    }

    /// An Event about a node that may be gone (upstream's `RecordNodeEvent`).
    fn tell(&self, name: &str, uid: Option<String>, reason: &str, what: String) {
        let mut node = Node::default();
        (node.metadata.name, node.metadata.uid) = (Some(name.to_owned()), uid);
        self.events
            .normal(&node, reason, format!("Node {name} event: {what}"));
    }

    /// Writes what is no longer known; returns the node as it is then.
    async fn silence(&self, node: &Node) -> Result<Node, StepError> {
        let before = node.status.clone().unwrap_or_default();
        let conditions = Some(health::silenced(node, Timestamp::now()));
        let after = NodeStatus {
            conditions,
            ..before.clone()
        };
        let Some(body) = patch::versioned(&node.metadata, "status", &before, &after) else {
            return Ok(node.clone());
        };
        let name = node.name_any();
        let written = self.nodes().merge_status(&name, body).await;
        let written = written.step(|| format!("mark node {name} as silent"))?;
        tracing::warn!(node = name, "the node stopped reporting");
        if readiness(node) == "True" {
            let message = format!("Node {name} status is now: NodeNotReady");
            self.events.normal(node, "NodeNotReady", message);
        }
        Ok(written)
    }

    async fn write_taints(&self, node: &Node) -> Result<(), StepError> {
        let others_ready = self
            .context
            .watches
            .nodes
            .list()
            .iter()
            .any(|other| readiness(other) == "True");
        let wanted = taint::wanted(node, others_ready, Timestamp::now());
        if wanted == taints::of_node(node) {
            return Ok(());
        }
        let name = node.name_any();
        let body = patch::guarded(&node.metadata, json!({"spec": {"taints": wanted}}));
        let written = self.nodes().merge(&name, body).await;
        written.step_opt(|| format!("taint node {name}")).map(drop)
    }

    /// Takes the Pods of a silent node out of service.
    async fn unready_pods(&self, node: &str) -> Result<(), StepError> {
        for pod in self.context.watches.pods.indexed(BY_NODE, node) {
            if pods::is_ready(&pod) && !pods::is_terminal(&pod) {
                disruption::mark_unready(&self.context.client, &pod).await?;
                self.events
                    .warning(pod.as_ref(), "NodeNotReady", "Node is not ready");
            }
        }
        Ok(())
    }

    fn nodes(&self) -> Objects<Node> {
        Objects::all(&self.context.client)
    }
}

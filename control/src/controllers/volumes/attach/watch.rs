//! Whose volumes are to be looked at when something changes: by node.
use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim};
use kube::ResourceExt;
use std::sync::Arc;

use super::decide::Host;
use super::{Attacher, COMPONENT};
use crate::controllers::context::Context;
use crate::toolkit::lock::lock;
use crate::toolkit::{Change, Pod, Queue, claims, pods, work};

/// One at a time: that a volume is on one node only is decided by looking at all.
const WORKERS: usize = 1;

/// Registers for changes and returns the future that does the work.
pub fn start(context: &Context) -> BoxFuture<'static, ()> {
    let attacher = Attacher {
        context: context.clone(),
        events: context.events.recorder(COMPONENT),
        nodes: Arc::new(Queue::new()),
        memory: Arc::default(),
    };
    register(&attacher);
    let (queue, shutdown) = (attacher.nodes.clone(), context.shutdown.clone());
    work(
        "attachments",
        queue,
        WORKERS,
        shutdown,
        attacher,
        |attacher, node| attacher.reconcile(node).boxed(),
    )
}

fn register(attacher: &Attacher) {
    let watches = &attacher.context.watches;
    let this = attacher.clone();
    watches.attachments.on_change(move |change| {
        let attachment = change.object();
        lock(&this.memory).made.remove(&attachment.name_any());
        this.nodes.add(attachment.spec.node_name.clone());
    });
    let nodes = attacher.nodes.clone();
    watches.pods.on_change(move |change| {
        if moves(change) {
            nodes.extend(pods::node_name(change.object()).map(str::to_owned));
        }
    });
    let nodes = attacher.nodes.clone();
    watches.nodes.on_change(move |change| {
        if concerns(change) {
            nodes.add(change.object().name_any());
        }
    });
    let this = attacher.clone();
    watches.claims.on_change(move |change| this.claim_changed(change));
    let this = attacher.clone();
    watches.drivers.on_change(move |_| {
        let all = this.context.watches.nodes.list();
        this.nodes.extend(all.iter().map(|node| node.name_any()));
    });
}

/// A Pod with claims that has come to a node, has ended there or is gone.
fn moves(change: &Change<Pod>) -> bool {
    let pod = change.object();
    let same = |old: &Arc<Pod>| {
        pods::node_name(old) == pods::node_name(pod) && pods::is_terminal(old) == pods::is_terminal(pod)
    };
    claims::of_pod(pod).next().is_some() && !change.old().is_some_and(same)
}

/// A node that is there or not, speaks or not, or has volumes it had not.
fn concerns(change: &Change<Node>) -> bool {
    change
        .old()
        .is_none_or(|old| Host::of(old) != Host::of(change.object()))
}

impl Attacher {
    /// A claim that is bound now may be what a Pod on a node waits for.
    fn claim_changed(&self, change: &Change<PersistentVolumeClaim>) {
        let phase =
            |claim: &PersistentVolumeClaim| claim.status.as_ref().and_then(|status| status.phase.clone());
        let claim = change.object();
        if change.old().is_some_and(|old| phase(old) == phase(claim)) {
            return;
        }
        let namespace = claim.namespace().unwrap_or_default();
        let pods = self.context.watches.pods.in_namespace(&namespace);
        let users = pods.iter().filter(|pod| claims::uses(pod, &claim.name_any()));
        let nodes = users.filter_map(|pod| pods::node_name(pod));
        self.nodes.extend(nodes.map(str::to_owned));
    }
}

//! Whose volumes are to be looked at when something changes: by node.
use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use kube::ResourceExt;
use std::sync::{Arc, Mutex};

use super::decide::Host;
use super::{Attacher, COMPONENT, Memory};
use crate::controllers::context::{Context, Watches};
use crate::toolkit::lock::lock;
use crate::toolkit::{Change, ObjectKey, Pod, Queue, claims, pods, work};

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
    register(&context.watches, &attacher.nodes, &attacher.memory);
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

fn register(watches: &Arc<Watches>, queue: &Arc<Queue<String>>, memory: &Arc<Mutex<Memory>>) {
    let (nodes, memory) = (queue.clone(), memory.clone());
    watches.attachments.on_change(move |change| {
        lock(&memory).see(change);
        nodes.add(change.object().spec.node_name.clone());
    });
    let nodes = queue.clone();
    watches.pods.on_change(move |change| {
        if moves(change) {
            nodes.extend(pods::node_name(change.object()).map(str::to_owned));
        }
    });
    let nodes = queue.clone();
    watches.nodes.on_change(move |change| {
        if concerns(change) {
            nodes.add(change.object().name_any());
        }
    });
    let (nodes, all) = (queue.clone(), watches.clone());
    watches.claims.on_change(move |change| {
        if turns(change) {
            nodes.extend(users(&all, &ObjectKey::of(change.object().as_ref())));
        }
    });
    let (nodes, all) = (queue.clone(), watches.clone());
    watches.volumes.on_change(move |change| {
        nodes.extend(new_holder(change).iter().flat_map(|claim| users(&all, claim)));
    });
    let (nodes, all) = (queue.clone(), watches.clone());
    watches.drivers.on_change(move |_| {
        let all = all.nodes.list();
        nodes.extend(all.iter().map(|node| node.name_any()));
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

/// A claim that is bound now may be what a Pod on a node waits for.
fn turns(change: &Change<PersistentVolumeClaim>) -> bool {
    let phase = |claim: &PersistentVolumeClaim| claim.status.as_ref().and_then(|status| status.phase.clone());
    change
        .old()
        .is_none_or(|old| phase(old) != phase(change.object()))
}

/// Whose a volume is now: that it is bound both must say, and the claim may be heard of first.
fn new_holder(change: &Change<PersistentVolume>) -> Option<ObjectKey> {
    let holder = |volume: &PersistentVolume| volume.spec.as_ref().and_then(|spec| spec.claim_ref.clone());
    let new = holder(change.object())?;
    let same = change.old().is_some_and(|old| holder(old).as_ref() == Some(&new));
    (!same).then(|| ObjectKey::new(new.namespace.unwrap_or_default(), new.name.unwrap_or_default()))
}

/// The nodes with Pods that use a claim.
fn users(watches: &Watches, claim: &ObjectKey) -> Vec<String> {
    let pods = watches.pods.in_namespace(&claim.namespace);
    let users = pods.iter().filter(|pod| claims::uses(pod, &claim.name));
    let nodes = users.filter_map(|pod| pods::node_name(pod));
    nodes.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::super::decide::Attachment;
    use super::*;
    use k8s_openapi::api::storage::v1::VolumeAttachment;
    use serde_json::json;
    use tokio::time::Instant;

    /// The node that is to be looked at, if any is.
    fn next(queue: &Queue<String>) -> Option<String> {
        let node = queue.next().now_or_never()?;
        queue.done(&node);
        Some(node)
    }

    #[test]
    fn a_volume_that_is_heard_of_after_its_claim_is_attached() {
        let (watches, queue) = (Arc::new(Watches::default()), Arc::new(Queue::new()));
        register(&watches, &queue, &Arc::default());
        let volumes = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]);
        watches
            .pods
            .show(&json!({"metadata": {"namespace": "n", "name": "p"}, "spec": {"nodeName": "a", "volumes": volumes}}));
        let metadata = json!({"namespace": "n", "name": "data", "uid": "c"});
        watches
            .claims
            .show(&json!({"metadata": metadata, "spec": {"volumeName": "v"}, "status": {"phase": "Bound"}}));
        assert_eq!(next(&queue).as_deref(), Some("a"));
        assert_eq!(next(&queue), None);
        let volume = |version: &str| json!({"metadata": {"name": "v", "resourceVersion": version}, "spec": {"claimRef": metadata}});
        watches.volumes.show(&volume("1"));
        assert_eq!(next(&queue).as_deref(), Some("a"));
        watches.volumes.show(&volume("2"));
        assert_eq!(next(&queue), None, "nothing of it has changed");
    }

    #[test]
    fn an_attachment_made_anew_is_known_until_it_is_seen() {
        let mut memory = Memory::default();
        let made = (Attachment::default(), Instant::now());
        memory.made.insert("x".to_owned(), made);
        let object =
            json!({"metadata": {"name": "x"}, "spec": {"attacher": "d", "nodeName": "a", "source": {}}});
        let object: VolumeAttachment = serde_json::from_value(object).expect("an attachment");
        let object = Arc::new(object);
        memory.see(&Change::Deleted(object.clone()));
        assert!(memory.made.contains_key("x"));
        memory.see(&Change::Added(object));
        assert!(memory.made.is_empty());
    }
}

//! Pod garbage collection: Pods bound to nodes that no longer exist, deleted Pods of nodes that somebody said are off, and Pods
//! deleted before they were bound, which no agent will ever finish.
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use kube::api::{DeleteParams, Preconditions};

use super::disruption;
use crate::controllers::context::{BY_NODE, Context};
use crate::toolkit::{
    Change, ObjectKey, Objects, Outcome, Pod, Queue, StepError, Steps, nodes, pods, taints, work,
};

/// How long a node must be missing: it may be registering anew (upstream's quarantine).
const QUARANTINE: Duration = Duration::from_secs(40);
/// Pods collected at once.
const WORKERS: usize = 4;

pub fn start(context: &Context) -> BoxFuture<'static, ()> {
    let context = context.clone();
    let queue: Arc<Queue<ObjectKey>> = Arc::new(Queue::new());
    let (suspects, watches) = (queue.clone(), context.watches.clone());
    context.watches.pods.on_change(move |change| {
        let (pod, key) = (change.object(), ObjectKey::of(change.object().as_ref()));
        let has_node = |name: &str| watches.nodes.get(&ObjectKey::cluster(name)).is_some();
        match pods::node_name(pod) {
            _ if matches!(change, Change::Deleted(_)) => {}
            Some(node) if !has_node(node) => suspects.add_after(key, QUARANTINE),
            _ if pods::is_dying(pod) => suspects.add(key),
            _ => {}
        }
    });
    let (suspects, watches) = (queue.clone(), context.watches.clone());
    context.watches.nodes.on_change(move |change| {
        let node = change.object();
        let of_node = || watches.pods.indexed(BY_NODE, &node.name_any());
        if let Change::Deleted(_) = change {
            for pod in of_node() {
                suspects.add_after(ObjectKey::of(pod.as_ref()), QUARANTINE);
            }
        } else if is_off(node) {
            let dying = of_node().into_iter().filter(|pod| pods::is_dying(pod));
            suspects.extend(dying.map(|pod| ObjectKey::of(pod.as_ref())));
        }
    });
    let shutdown = context.shutdown.clone();
    work("pod-gc", queue, WORKERS, shutdown, context, |context, key| {
        reconcile(context, key).boxed()
    })
}

async fn reconcile(context: &Context, key: ObjectKey) -> Result<Outcome, StepError> {
    let Some(pod) = context.watches.pods.get(&key) else {
        return Ok(Outcome::Done);
    };
    match pods::node_name(&pod) {
        None if pods::is_dying(&pod) => delete(context, &key, &pod).await?,
        Some(node) if is_gone(context, node).await? => {
            let message = "PodGC: node no longer exists";
            disruption::mark(&context.client, &pod, "DeletionByPodGC", message, true).await?;
            delete(context, &key, &pod).await?;
        }
        Some(node) if pods::is_dying(&pod) && watched(context, node).is_some_and(|node| is_off(&node)) => {
            disruption::fail(&context.client, &pod).await?;
            delete(context, &key, &pod).await?;
        }
        _ => {}
    }
    Ok(Outcome::Done)
}

/// Silent, and off as somebody said.
fn is_off(node: &Node) -> bool {
    taints::is_out_of_service(node) && !nodes::is_ready(node)
}

fn watched(context: &Context, node: &str) -> Option<Arc<Node>> {
    context.watches.nodes.get(&ObjectKey::cluster(node))
}

/// Asks the API itself before a Pod is given up for lost.
async fn is_gone(context: &Context, node: &str) -> Result<bool, StepError> {
    if watched(context, node).is_some() {
        return Ok(false);
    }
    let api: Objects<Node> = Objects::all(&context.client);
    Ok(api
        .get_opt(node)
        .await
        .step(|| format!("look for node {node}"))?
        .is_none())
}

async fn delete(context: &Context, key: &ObjectKey, pod: &Pod) -> Result<(), StepError> {
    let api: Objects<Pod> = Objects::in_namespace(&context.client, &key.namespace);
    let this_one = Preconditions {
        uid: pod.uid(),
        resource_version: None,
    };
    let params = DeleteParams::default().grace_period(0).preconditions(this_one);
    api.delete(&key.name, &params)
        .await
        .step_opt(|| format!("remove the lost Pod {key}"))
        .map(drop)
}

//! Taint-based eviction: Pods leave nodes whose NoExecute taints they do not tolerate, at once or when their toleration
//! ends (KEP-166).
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Node, Taint};
use kube::ResourceExt;
use kube::api::{DeleteParams, Preconditions};
use tokio::time::Instant;

use super::disruption;
use crate::controllers::context::{BY_NODE, Context};
use crate::toolkit::lock::lock;
use crate::toolkit::{
    Change, ObjectKey, Objects, Outcome, Pod, Queue, Recorder, StepError, Steps, pods, taints, work,
};

/// Pods evicted at once.
const WORKERS: usize = 8;

pub fn start(context: &Context) -> BoxFuture<'static, ()> {
    let controller = Arc::new(Controller {
        context: context.clone(),
        events: context.events.recorder("taint-eviction-controller"),
        since: Mutex::new(HashMap::new()),
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
        .pods
        .on_change(move |change| this.pod_changed(change));
    let queue = controller.queue.clone();
    let shutdown = context.shutdown.clone();
    work(
        "taint-eviction",
        queue,
        WORKERS,
        shutdown,
        controller,
        |controller, key| controller.reconcile(key).boxed(),
    )
}

struct Controller {
    context: Context,
    events: Recorder,
    /// Since when a Pod (by uid) sits on a node it does not tolerate for ever.
    since: Mutex<HashMap<String, Instant>>,
    queue: Arc<Queue<ObjectKey>>,
}

/// What the NoExecute taints of its node mean for a Pod.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stay {
    Forever,
    For(Duration),
    No,
}

impl Controller {
    fn node_changed(&self, change: &Change<Node>) {
        let node = change.object();
        let old = change.old().map(|old| no_execute(old)).unwrap_or_default();
        if no_execute(node) != old {
            let pods = self.context.watches.pods.indexed(BY_NODE, &node.name_any());
            self.queue
                .extend(pods.iter().map(|pod| ObjectKey::of(pod.as_ref())));
        }
    }

    fn pod_changed(&self, change: &Change<Pod>) {
        let pod = change.object();
        if matches!(change, Change::Deleted(_)) {
            lock(&self.since).remove(&pod.uid().unwrap_or_default());
            return;
        }
        let concerns = |pod: &Pod| {
            (
                pods::node_name(pod).map(str::to_owned),
                taints::tolerations(pod).to_vec(),
            )
        };
        if change.old().is_none_or(|old| concerns(old) != concerns(pod)) && !self.taints_of(pod).is_empty() {
            self.queue.add(ObjectKey::of(pod.as_ref()));
        }
    }

    fn taints_of(&self, pod: &Pod) -> Vec<Taint> {
        let node =
            pods::node_name(pod).and_then(|name| self.context.watches.nodes.get(&ObjectKey::cluster(name)));
        node.map(|node| no_execute(&node)).unwrap_or_default()
    }

    async fn reconcile(&self, key: ObjectKey) -> Result<Outcome, StepError> {
        let Some(pod) = self
            .context
            .watches
            .pods
            .get(&key)
            .filter(|pod| !pods::is_dying(pod))
        else {
            return Ok(Outcome::Done);
        };
        let left = match stay(&self.taints_of(&pod), &pod) {
            Stay::Forever => {
                self.cancel(&key, &pod);
                return Ok(Outcome::Done);
            }
            Stay::No => None,
            Stay::For(limit) => limit
                .checked_sub(self.waited(&pod))
                .filter(|left| !left.is_zero()),
        };
        match left {
            Some(left) => Ok(Outcome::After(left)),
            None => self.evict(&key, &pod).await.map(|()| Outcome::Done),
        }
    }

    fn waited(&self, pod: &Pod) -> Duration {
        lock(&self.since)
            .entry(pod.uid().unwrap_or_default())
            .or_insert_with(Instant::now)
            .elapsed()
    }

    fn cancel(&self, key: &ObjectKey, pod: &Pod) {
        if lock(&self.since).remove(&pod.uid().unwrap_or_default()).is_some() {
            self.events.normal(
                pod,
                "TaintManagerEviction",
                format!("Cancelling deletion of Pod {key}"),
            );
        }
    }

    async fn evict(&self, key: &ObjectKey, pod: &Pod) -> Result<(), StepError> {
        self.events.normal(
            pod,
            "TaintManagerEviction",
            format!("Marking for deletion Pod {key}"),
        );
        let message = "Taint manager: deleting due to NoExecute taint";
        disruption::mark(
            &self.context.client,
            pod,
            "DeletionByTaintManager",
            message,
            false,
        )
        .await?;
        let api: Objects<Pod> = Objects::in_namespace(&self.context.client, &key.namespace);
        let this_one = Preconditions {
            uid: pod.uid(),
            resource_version: None,
        };
        let params = DeleteParams::default().preconditions(this_one);
        api.delete(&key.name, &params)
            .await
            .step_opt(|| format!("evict Pod {key}"))
            .map(drop)
    }
}

fn no_execute(node: &Node) -> Vec<Taint> {
    taints::of_node(node)
        .iter()
        .filter(|taint| taint.effect == taints::NO_EXECUTE)
        .cloned()
        .collect()
}

/// The shortest toleration decides; a taint without one means the Pod must go now.
fn stay(node_taints: &[Taint], pod: &Pod) -> Stay {
    let tolerations = taints::tolerations(pod);
    let mut shortest = None;
    for taint in node_taints {
        let matching: Vec<_> = tolerations
            .iter()
            .filter(|toleration| taints::tolerates(toleration, taint))
            .collect();
        if matching.is_empty() {
            return Stay::No;
        }
        let limits = matching
            .iter()
            .filter_map(|toleration| toleration.toleration_seconds);
        shortest = shortest.into_iter().chain(limits).min();
    }
    match shortest {
        None => Stay::Forever,
        Some(seconds) => match u64::try_from(seconds) {
            Ok(seconds) if seconds > 0 => Stay::For(Duration::from_secs(seconds)),
            _ => Stay::No,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn the_shortest_toleration_decides() {
        let taint = |key: &str| Taint {
            key: key.into(),
            effect: taints::NO_EXECUTE.into(),
            ..Default::default()
        };
        let tolerate = |key: &str, seconds: Value| json!({"key": key, "operator": "Exists", "tolerationSeconds": seconds});
        let cases = [
            ("no taints", vec![], json!([]), Stay::Forever),
            ("not tolerated", vec![taint("a")], json!([]), Stay::No),
            (
                "for ever",
                vec![taint("a")],
                json!([tolerate("a", Value::Null)]),
                Stay::Forever,
            ),
            (
                "for a while",
                vec![taint("a")],
                json!([tolerate("a", json!(300))]),
                Stay::For(Duration::from_secs(300)),
            ),
            (
                "not at all",
                vec![taint("a")],
                json!([tolerate("a", json!(0))]),
                Stay::No,
            ),
            (
                "the shorter of two",
                vec![taint("a"), taint("b")],
                json!([tolerate("a", json!(300)), tolerate("b", json!(10))]),
                Stay::For(Duration::from_secs(10)),
            ),
            (
                "one of two not",
                vec![taint("a"), taint("b")],
                json!([tolerate("a", json!(300))]),
                Stay::No,
            ),
        ];
        for (name, node_taints, tolerations, expected) in cases {
            let pod = json!({"metadata": {}, "spec": {"containers": [], "tolerations": tolerations}});
            let pod: Pod = serde_json::from_value(pod).expect("a pod");
            assert_eq!(stay(&node_taints, &pod), expected, "{name}");
        }
    }
}

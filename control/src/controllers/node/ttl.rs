//! Tells each node how long its agent may believe a copy of a ConfigMap or Secret (`node.alpha.kubernetes.io/ttl`, seconds):
//! the longer, the more nodes ask. Upstream's TTL controller; refuses to know what the agents make of it.
use std::sync::{Arc, Mutex};

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use serde_json::json;

use crate::controllers::context::Context;
use crate::toolkit::lock::lock;
use crate::toolkit::{ObjectKey, Objects, Outcome, Queue, StepError, Steps, patch, work};

const ANNOTATION: &str = "node.alpha.kubernetes.io/ttl";

/// Nodes from, nodes to, seconds; they overlap, so that a cluster at an edge does not go to and fro.
const STEPS: [(usize, usize, u32); 5] = [
    (0, 100, 0),
    (90, 500, 15),
    (450, 1000, 30),
    (900, 2000, 60),
    (1800, usize::MAX, 300),
];

pub fn start(context: &Context) -> BoxFuture<'static, ()> {
    let controller = Arc::new(Controller {
        context: context.clone(),
        step: Mutex::new(0),
        queue: Arc::new(Queue::new()),
    });
    // Every heartbeat brings its node by, so all learn of another step soon.
    let this = controller.clone();
    let nodes = &context.watches.nodes;
    nodes.on_change(move |change| this.queue.add(change.object().name_any()));
    let (queue, shutdown) = (controller.queue.clone(), context.shutdown.clone());
    work("node-ttl", queue, 1, shutdown, controller, |controller, name| {
        controller.reconcile(name).boxed()
    })
}

struct Controller {
    context: Context,
    step: Mutex<usize>,
    queue: Arc<Queue<String>>,
}

impl Controller {
    async fn reconcile(&self, name: String) -> Result<Outcome, StepError> {
        let nodes = &self.context.watches.nodes;
        let Some(node) = nodes.get(&ObjectKey::cluster(&name)) else {
            return Ok(Outcome::Done);
        };
        let seconds = {
            let mut step = lock(&self.step);
            *step = next(*step, nodes.count());
            STEPS[*step].2
        };
        if told(&node) == Some(seconds) {
            return Ok(Outcome::Done);
        }
        let body = json!({"metadata": {"annotations": {ANNOTATION: seconds.to_string()}}});
        let api: Objects<Node> = Objects::all(&self.context.client);
        let written = api.merge(&name, patch::guarded(&node.metadata, body)).await;
        written
            .step_opt(|| format!("tell node {name} how long copies are good"))
            .map(|_| Outcome::Done)
    }
}

fn told(node: &Node) -> Option<u32> {
    node.annotations().get(ANNOTATION)?.parse().ok()
}

/// The step for so many nodes, by way of the one before.
fn next(mut step: usize, nodes: usize) -> usize {
    while nodes > STEPS[step].1 {
        step += 1;
    }
    while nodes < STEPS[step].0 {
        step -= 1;
    }
    step
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_change_late() {
        let sizes = [0, 100, 101, 95, 90, 89, 500, 501, 5000, 1800, 1799, 1];
        let seconds = sizes.iter().scan(0, |step, nodes| {
            *step = next(*step, *nodes);
            Some(STEPS[*step].2)
        });
        let expected = [0, 0, 15, 15, 15, 0, 15, 30, 300, 300, 60, 0];
        assert_eq!(seconds.collect::<Vec<_>>(), expected);
    }
}

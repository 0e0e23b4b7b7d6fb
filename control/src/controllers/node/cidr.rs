//! Gives each node its slice of the Pod range (`spec.podCIDR`).
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use futures::FutureExt;
use futures::future::BoxFuture;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use serde_json::json;

use crate::controllers::context::Context;
use crate::toolkit::lock::lock;
use crate::toolkit::{Change, ObjectKey, Objects, Outcome, Queue, Recorder, StepError, Steps, patch, work};

/// Prefix of a node's slice where none is asked for, as upstream: 254 addresses.
const IPV4_PREFIX: u8 = 24;
const IPV6_PREFIX: u8 = 64;

pub fn start(context: &Context) -> BoxFuture<'static, ()> {
    let controller = Arc::new(Controller {
        context: context.clone(),
        events: context.events.recorder("cidrAllocator"),
        given: Mutex::new(HashMap::new()),
        queue: Arc::new(Queue::new()),
    });
    let this = controller.clone();
    context
        .watches
        .nodes
        .on_change(move |change| this.node_changed(change));
    let queue = controller.queue.clone();
    let shutdown = context.shutdown.clone();
    // One at a time: two nodes must not be given the same slice.
    work("node-cidr", queue, 1, shutdown, controller, |controller, name| {
        controller.reconcile(name).boxed()
    })
}

struct Controller {
    context: Context,
    events: Recorder,
    /// Slices in use by node name, those on their way to the API included.
    given: Mutex<HashMap<String, IpNet>>,
    queue: Arc<Queue<String>>,
}

impl Controller {
    fn node_changed(&self, change: &Change<Node>) {
        let node = change.object();
        let name = node.name_any();
        match (change, assigned(node)) {
            (Change::Deleted(_), _) => {
                lock(&self.given).remove(&name);
                // A slice became free: someone may be waiting for one.
                let waiting = self
                    .context
                    .watches
                    .nodes
                    .list()
                    .into_iter()
                    .filter(|node| assigned(node).is_none());
                self.queue.extend(waiting.map(|node| node.name_any()));
            }
            (_, Some(slice)) => {
                lock(&self.given).insert(name, slice);
            }
            (_, None) => self.queue.add(name),
        }
    }

    async fn reconcile(&self, name: String) -> Result<Outcome, StepError> {
        let node = self.context.watches.nodes.get(&ObjectKey::cluster(&name));
        let Some(node) = node.filter(|node| assigned(node).is_none()) else {
            return Ok(Outcome::Done);
        };
        let Some(slice) = self.reserve(&name) else {
            self.events.normal(
                node.as_ref(),
                "CIDRNotAvailable",
                format!("Node {name} status is now: CIDRNotAvailable"),
            );
            return Ok(Outcome::Done);
        };
        let body = json!({"spec": {"podCIDR": slice, "podCIDRs": [slice]}});
        let body = patch::guarded(&node.metadata, body);
        let api: Objects<Node> = Objects::all(&self.context.client);
        let written = api.merge(&name, body).await;
        written
            .step_opt(|| format!("give node {name} the addresses {slice}"))
            .map(|_| Outcome::Done)
    }

    fn reserve(&self, name: &str) -> Option<IpNet> {
        let mut given = lock(&self.given);
        if let Some(slice) = given.get(name) {
            return Some(*slice);
        }
        let options = &self.context.options;
        let slice = first_free(options.pod_cidr, options.node_cidr_mask_size, given.values())?;
        given.insert(name.to_owned(), slice);
        Some(slice)
    }
}

fn assigned(node: &Node) -> Option<IpNet> {
    node.spec.as_ref()?.pod_cidr.as_ref()?.parse().ok()
}

/// The lowest slice of the range that overlaps none in use. A range no larger than a slice goes to one node whole.
fn first_free<'a>(range: IpNet, asked: Option<u8>, used: impl Iterator<Item = &'a IpNet>) -> Option<IpNet> {
    let default = if range.addr().is_ipv4() {
        IPV4_PREFIX
    } else {
        IPV6_PREFIX
    };
    let prefix = asked.unwrap_or(default).max(range.prefix_len());
    let used: Vec<&IpNet> = used.collect();
    let overlaps = |slice: &IpNet| {
        used.iter()
            .any(|used| used.contains(slice) || slice.contains(*used))
    };
    range.subnets(prefix).ok()?.find(|slice| !overlaps(slice))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_slice_is_given() {
        let cases = [
            ("10.0.0.0/16", None, vec![], Some("10.0.0.0/24")),
            (
                "10.0.0.0/16",
                None,
                vec!["10.0.0.0/24", "10.0.1.0/24", "10.0.3.0/24"],
                Some("10.0.2.0/24"),
            ),
            ("10.0.0.0/16", None, vec!["10.0.0.0/17"], Some("10.0.128.0/24")),
            ("10.0.0.0/24", None, vec![], Some("10.0.0.0/24")),
            ("10.0.0.0/24", None, vec!["10.0.0.0/24"], None),
            ("10.0.0.0/16", Some(20), vec!["10.0.0.0/24"], Some("10.0.16.0/20")),
            ("10.0.0.0/16", Some(33), vec![], None),
            ("10.0.0.0/26", None, vec![], Some("10.0.0.0/26")),
            ("fd00::/56", None, vec!["fd00::/64"], Some("fd00:0:0:1::/64")),
        ];
        for (range, asked, used, expected) in cases {
            let net = |text: &str| text.parse::<IpNet>().expect("a range");
            let used: Vec<IpNet> = used.iter().map(|text| net(text)).collect();
            assert_eq!(
                first_free(net(range), asked, used.iter()),
                expected.map(net),
                "{range} with {used:?}"
            );
        }
    }
}

//! The endpoints of the Service `kube-dns`: every node answers at the first address of its Pods' range.
//!
//! Flow: a node or the slice changes → the slice is what the nodes are. Refuses to know how names are answered: nodes do.
use std::net::IpAddr;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::context::Context;
use crate::toolkit::{ObjectKey, Objects, Outcome, Queue, StepError, Steps, patch, work};

pub const NAMESPACE: &str = "kube-system";
pub const SERVICE: &str = "kube-dns";
/// Where nodes listen; agreed with the node agent (ARCHITECTURE.md, "Cluster DNS").
pub const PORT: u16 = 10053;
/// The Service's ports by name and protocol.
pub const PORTS: [(&str, &str); 2] = [("dns", "UDP"), ("dns-tcp", "TCP")];

/// The one slice there is.
const SLICE: &str = "kube-dns";
const MANAGER: &str = "cluster-dns.amphipod.dev";
/// Endpoints one slice may have (API reference of EndpointSlice).
const MOST: usize = 1000;
/// There is one thing to do.
const WORKERS: usize = 1;

/// Registers for changes and returns the future that does the work.
pub fn start(context: &Context) -> BoxFuture<'static, ()> {
    let queue: Arc<Queue<()>> = Arc::new(Queue::new());
    let (nodes, slices) = (queue.clone(), queue.clone());
    context.watches.nodes.on_change(move |_| nodes.add(()));
    context.watches.slices.on_change(move |change| {
        if ObjectKey::of(change.object().as_ref()) == slice_key() {
            slices.add(());
        }
    });
    let context = context.clone();
    let shutdown = context.shutdown.clone();
    work("cluster-dns", queue, WORKERS, shutdown, context, |context, ()| {
        reconcile(context).boxed()
    })
}

fn slice_key() -> ObjectKey {
    ObjectKey::new(NAMESPACE, SLICE)
}

async fn reconcile(context: &Context) -> Result<Outcome, StepError> {
    let service = ObjectKey::new(NAMESPACE, SERVICE);
    let Some(service) = context.watches.services.get(&service) else {
        return Ok(Outcome::Done);
    };
    let nodes = context.watches.nodes.list();
    let endpoints: Vec<Value> = nodes
        .iter()
        .filter_map(|node| endpoint(node))
        .take(MOST)
        .collect();
    let api: Objects<EndpointSlice> = Objects::in_namespace(&context.client, NAMESPACE);
    match context.watches.slices.get(&slice_key()) {
        Some(slice) => {
            let current = patch::to_value(slice.as_ref());
            let Some(change) = patch::difference(&current["endpoints"], &json!(endpoints)) else {
                return Ok(Outcome::Done);
            };
            let body = patch::guarded(&slice.metadata, json!({"endpoints": change}));
            let written = api.merge(SLICE, body).await;
            written.step(|| "write the endpoints of the cluster's DNS".into())?;
        }
        None => {
            let owner = crate::toolkit::owners::controller_reference(service.as_ref());
            let slice = serde_json::from_value(slice(&endpoints, json!(owner)));
            let slice = slice.map_err(kube::Error::SerdeError);
            let slice: EndpointSlice = slice.step(|| "make the endpoints of the cluster's DNS".into())?;
            let created = api.create(&slice).await;
            created.step(|| "create the endpoints of the cluster's DNS".into())?;
        }
    }
    Ok(Outcome::Done)
}

fn slice(endpoints: &[Value], owner: Value) -> Value {
    let port = |(name, protocol)| json!({"name": name, "protocol": protocol, "port": PORT});
    let ports: Vec<Value> = PORTS.into_iter().map(port).collect();
    json!({
        "metadata": {"name": SLICE, "namespace": NAMESPACE, "ownerReferences": [owner], "labels": {
            "kubernetes.io/service-name": SERVICE, "endpointslice.kubernetes.io/managed-by": MANAGER}},
        "addressType": "IPv4", "ports": ports, "endpoints": endpoints,
    })
}

/// A node as an endpoint: at the address its Pods know it by, ready when it is.
fn endpoint(node: &Node) -> Option<Value> {
    let range: IpNet = node.spec.as_ref()?.pod_cidr.as_ref()?.parse().ok()?;
    let address = range.hosts().next().filter(IpAddr::is_ipv4)?;
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions
        .iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True");
    Some(json!({
        "addresses": [address], "nodeName": node.name_any(),
        "conditions": {"ready": ready, "serving": ready, "terminating": false},
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_answers_at_its_first_address() {
        let node = |range: Value, ready: &str| -> Node {
            let conditions = json!([{"type": "Ready", "status": ready}]);
            serde_json::from_value(json!({"metadata": {"name": "n"}, "spec": {"podCIDR": range},
                "status": {"conditions": conditions}}))
            .expect("a node")
        };
        for (range, ready, want) in [
            (json!("10.42.3.0/24"), "True", Some(("10.42.3.1", true))),
            (json!("10.42.3.0/24"), "Unknown", Some(("10.42.3.1", false))),
            (json!("fd00::/64"), "True", None),
            (Value::Null, "True", None),
        ] {
            let found = endpoint(&node(range.clone(), ready));
            let found = found.as_ref().map(|found| {
                let address = found["addresses"][0].as_str().unwrap_or_default();
                (address, found["conditions"]["ready"] == true)
            });
            assert_eq!(found, want, "{range} {ready}");
        }
    }
}

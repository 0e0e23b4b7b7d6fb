//! Nodes: addresses, silence, eviction.
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use amphipod_control::controllers::{self, ControllerOptions, Watches};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::cluster::{Cluster, create, merge, set_ready, until, until_gone, until_one};

/// Short enough for a test, long enough for the heartbeats below on a busy machine.
const GRACE: Duration = Duration::from_secs(15);
const HEARTBEAT: Duration = Duration::from_millis(500);

/// Renews the lease of a node as its agent would.
async fn keep_alive(client: Client, node: &'static str) {
    let leases: Api<Lease> = Api::namespaced(client, "kube-node-lease");
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": node}});
    create(&leases, lease).await;
    let mut ticks = tokio::time::interval(HEARTBEAT);
    loop {
        ticks.tick().await;
        let renewed = format!("{:.6}", jiff::Timestamp::now());
        let patch = Patch::Merge(json!({"spec": {"renewTime": renewed, "holderIdentity": node}}));
        leases
            .patch(node, &PatchParams::default(), &patch)
            .await
            .expect("the lease is renewed");
    }
}

fn taints(node: &Node) -> Vec<String> {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints
        .into_iter()
        .map(|taint| format!("{}:{}", taint.key, taint.effect))
        .collect()
}

fn ready(node: &Node) -> (String, String) {
    let conditions = node
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let ready = conditions
        .into_iter()
        .find(|condition| condition.type_ == "Ready")
        .expect("Ready");
    (ready.status.clone(), ready.message.clone().unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_node_is_tainted_and_its_pods_leave() {
    let cluster = Cluster::start().await;
    let nodes: Api<Node> = cluster.all();
    for name in ["alive", "silent"] {
        cluster.add_node(name, json!({})).await;
    }
    let stop = CancellationToken::new();
    tokio::spawn(
        stop.clone()
            .run_until_cancelled_owned(keep_alive(cluster.client.clone(), "alive")),
    );
    let mut options = ControllerOptions::new("10.45.0.0/16".parse().expect("a range"));
    options.node_monitor_grace = GRACE;
    let watches = Arc::new(Watches::default());
    tokio::spawn(controllers::run(
        cluster.client.clone(),
        watches,
        options,
        stop.clone(),
    ));

    let pods: Api<Pod> = cluster.api();
    for (name, seconds) in [("leaves", json!(1)), ("stays", json!(null))] {
        let tolerations = json!([{"key": "node.kubernetes.io/unreachable", "operator": "Exists",
            "effect": "NoExecute", "tolerationSeconds": seconds}]);
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"nodeName": "silent", "terminationGracePeriodSeconds": 0, "tolerations": tolerations,
                "containers": [{"name": "c", "image": "i"}]}});
        create(&pods, pod).await;
        set_ready(&pods, name, true).await;
    }
    cluster
        .says("alive", "Node alive event: Registered Node alive in Controller")
        .await;
    let silent = until_one(&nodes, "silent", "to be tainted", |node| taints(node).len() == 2).await;
    assert_eq!(
        ready(&silent),
        ("Unknown".into(), "Kubelet stopped posting node status.".into())
    );
    let unreachable = "node.kubernetes.io/unreachable";
    assert_eq!(
        taints(&silent),
        [
            format!("{unreachable}:NoSchedule"),
            format!("{unreachable}:NoExecute")
        ]
    );
    let unready = |pod: &Pod| {
        let conditions = pod
            .status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten());
        conditions
            .into_iter()
            .any(|condition| condition.type_ == "Ready" && condition.status == "False")
    };
    until_one(&pods, "stays", "to be unready", unready).await;
    assert!(
        cluster
            .event("leaves", "TaintManagerEviction")
            .await
            .starts_with("Marking for deletion Pod default/leaves")
    );
    let leaving = |pods: &BTreeMap<String, Pod>| {
        pods.get("leaves")
            .is_none_or(|pod| pod.metadata.deletion_timestamp.is_some())
            .then_some(())
    };
    until(&pods, "the Pod to leave", leaving).await;
    assert!(
        pods.get("stays")
            .await
            .expect("the other Pod")
            .metadata
            .deletion_timestamp
            .is_none()
    );
    assert_eq!(ready(&nodes.get("alive").await.expect("the node")).0, "True");

    let back = json!({"status": {"conditions": [{"type": "Ready", "status": "True",
        "lastHeartbeatTime": jiff::Timestamp::now()}]}});
    nodes
        .patch_status("silent", &PatchParams::default(), &Patch::Merge(back))
        .await
        .expect("it reports again");
    until_one(&nodes, "silent", "to be free again", |node| {
        taints(node).is_empty()
    })
    .await;
    nodes
        .delete("silent", &DeleteParams::default())
        .await
        .expect("the node goes");
    cluster
        .says(
            "silent",
            "Node silent event: Removing Node silent from Controller",
        )
        .await;
    stop.cancel();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_node_gets_a_range_and_is_told_how_long_copies_are_good() {
    let cluster = Cluster::start().await;
    let nodes: Api<Node> = cluster.all();
    for name in ["a", "b", "c"] {
        cluster.add_node(name, json!({})).await;
    }
    let mut ranges = Vec::new();
    for name in ["a", "b", "c"] {
        let range = |node: &Node| node.spec.as_ref().and_then(|spec| spec.pod_cidr.clone());
        let node = until_one(&nodes, name, "to have a range", |node| range(node).is_some()).await;
        ranges.extend(range(&node));
        let ttl = |node: &Node| node.annotations().get("node.alpha.kubernetes.io/ttl").cloned();
        let told = until_one(&nodes, name, "to be told how long copies are good", |node| {
            ttl(node).is_some()
        })
        .await;
        assert_eq!(ttl(&told).as_deref(), Some("0"));
    }
    ranges.sort();
    assert_eq!(ranges, ["10.45.0.0/24", "10.45.1.0/24", "10.45.2.0/24"]);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_deleted_before_it_was_bound_goes() {
    let cluster = Cluster::start().await;
    let pods: Api<Pod> = cluster.api();
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "i"}]}});
    create(&pods, pod).await;
    pods.delete("p", &Default::default())
        .await
        .expect("it is deleted");
    until_gone(&pods, "p").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_deleted_on_a_node_that_is_off_goes() {
    let cluster = Cluster::start().await;
    let (pods, nodes): (Api<Pod>, Api<Node>) = (cluster.api(), cluster.all());
    cluster.add_node("node1", json!({})).await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "i"}]}});
    create(&pods, pod).await;
    let bound = |pod: &Pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
    until_one(&pods, "p", "to be bound", bound).await;
    set_ready(&pods, "p", true).await;
    pods.delete("p", &Default::default())
        .await
        .expect("it is deleted");
    // No agent will finish it.
    let off =
        json!({"spec": {"taints": [{"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"}]}});
    merge(&nodes, "node1", off).await;
    let silent = json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}});
    nodes
        .patch_status("node1", &PatchParams::default(), &Patch::Strategic(silent))
        .await
        .expect("the node's status");
    until_gone(&pods, "p").await;
    cluster.stop().await;
}

//! Scheduling: binding, and what a person reads when a Pod fits nowhere.
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::cluster::{Cluster, create, merge, until, until_one};

fn pod(name: &str, spec: Value) -> Value {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "i"}]}});
    json_patch::merge(&mut pod["spec"], &spec);
    pod
}

fn asks(cpu: &str) -> Value {
    json!({"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}]})
}

fn node_of(pod: &Pod) -> Option<String> {
    pod.spec.as_ref().and_then(|spec| spec.node_name.clone())
}

fn scheduled(pod: &Pod) -> Option<(String, String, String)> {
    let conditions = pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let found = conditions
        .into_iter()
        .find(|condition| condition.type_ == "PodScheduled")?;
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    Some((found.status.clone(), text(&found.reason), text(&found.message)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_is_bound_and_told_of() {
    let cluster = Cluster::start().await;
    cluster.add_node("node1", json!({})).await;
    let pods: Api<Pod> = cluster.api();
    create(&pods, pod("p", json!({}))).await;
    let bound = until_one(&pods, "p", "to be bound", |pod| node_of(pod).is_some()).await;
    assert_eq!(node_of(&bound).as_deref(), Some("node1"));
    assert_eq!(
        bound.metadata.generation,
        Some(1),
        "being bound is not a new wish"
    );
    assert_eq!(
        scheduled(&bound).map(|(status, ..)| status).as_deref(),
        Some("True")
    );
    assert_eq!(
        cluster.event("p", "Scheduled").await,
        "Successfully assigned default/p to node1"
    );
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_fits_nowhere_says_why_until_something_changes() {
    let cluster = Cluster::start().await;
    let nodes: Api<Node> = cluster.all();
    let tainted = json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}});
    cluster
        .add_node("small", json!({"status": {"allocatable": {"cpu": "1"}}}))
        .await;
    cluster.add_node("tainted", tainted).await;
    let pods: Api<Pod> = cluster.api();
    create(&pods, pod("p", asks("2"))).await;
    let why = "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint(s).";
    // The scheduler may have looked before it knew of both nodes; it looks again.
    cluster.says("p", why).await;
    let expected = ("False".to_owned(), "Unschedulable".to_owned(), why.to_owned());
    until_one(&pods, "p", "to say why", |pod| {
        scheduled(pod).as_ref() == Some(&expected)
    })
    .await;
    merge(&nodes, "tainted", json!({"spec": {"taints": null}})).await;
    let bound = until_one(&pods, "p", "to be bound", |pod| node_of(pod).is_some()).await;
    assert_eq!(node_of(&bound).as_deref(), Some("tainted"));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_fills_the_nodes_and_no_further() {
    let cluster = Cluster::start().await;
    for name in ["a", "b"] {
        cluster.add_node(name, json!({})).await;
    }
    let pods: Api<Pod> = cluster.api();
    for index in 0..10 {
        create(&pods, pod(&format!("p{index}"), asks("1"))).await;
    }
    let settled = |pods: &BTreeMap<String, Pod>| {
        let waiting = pods
            .values()
            .filter(|pod| scheduled(pod).is_some_and(|(status, ..)| status == "False"))
            .count();
        // One that was looked at before the nodes were known waits too, and not for long.
        (waiting == 2 && settled_bound(pods) == 8).then_some(())
    };
    until(&pods, "eight to be bound and two to wait", settled).await;
    let list = pods.list(&Default::default()).await.expect("a list").items;
    let on = |node: &str| {
        list.iter()
            .filter(|pod| node_of(pod).as_deref() == Some(node))
            .count()
    };
    assert_eq!((on("a"), on("b")), (4, 4));
    let first = list
        .iter()
        .find(|pod| node_of(pod).is_some())
        .expect("a bound Pod")
        .name_any();
    let now = kube::api::DeleteParams::default().grace_period(0);
    pods.delete(&first, &now).await.expect("it is deleted");
    let nine = |pods: &BTreeMap<String, Pod>| (pods.len() == 9 && settled_bound(pods) == 8).then_some(());
    until(&pods, "a waiting Pod to take the room", nine).await;
    cluster.stop().await;
}

fn settled_bound(pods: &BTreeMap<String, Pod>) -> usize {
    pods.values().filter(|pod| node_of(pod).is_some()).count()
}

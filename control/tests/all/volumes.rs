//! Claims and volumes: bound at once or when a Pod has a node, made for Pods, and given up by their policy.
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::{StorageClass, VolumeAttributesClass};
use kube::Api;
use kube::api::DeleteParams;
use serde_json::{Value, json};

use crate::cluster::{Cluster, create, merge, until_gone, until_one};

pub fn volume(name: &str, class: &str, more: Value) -> Value {
    let mut volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
        "spec": {"capacity": {"storage": "5Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": class,
            "persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": "/tmp/x"}}});
    json_patch::merge(&mut volume["spec"], &more);
    volume
}

pub fn claim(name: &str, class: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": class,
            "resources": {"requests": {"storage": "1Gi"}}}})
}

pub fn pod(name: &str, volume: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "i"}], "volumes": [volume]}})
}

pub fn of_claim(name: &str) -> Value {
    json!({"name": "v", "persistentVolumeClaim": {"claimName": name}})
}

fn phase(claim: &PersistentVolumeClaim) -> &str {
    let status = claim.status.as_ref();
    status
        .and_then(|status| status.phase.as_deref())
        .unwrap_or_default()
}

fn volume_phase(volume: &PersistentVolume) -> &str {
    let status = volume.status.as_ref();
    status
        .and_then(|status| status.phase.as_deref())
        .unwrap_or_default()
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_is_bound_waited_for_and_released() {
    let cluster = Cluster::start().await;
    cluster.add_node("node1", json!({})).await;
    let (claims, volumes, pods): (Api<PersistentVolumeClaim>, Api<PersistentVolume>, Api<Pod>) =
        (cluster.api(), cluster.all(), cluster.api());
    create(&claims, claim("data", "manual")).await;
    create(&pods, pod("p", of_claim("data"))).await;
    let why = "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.";
    cluster.says("p", why).await;
    cluster
        .says("data", "storageclass.storage.k8s.io \"manual\" not found")
        .await;
    create(&volumes, volume("v1", "manual", json!({}))).await;
    let bound = until_one(&claims, "data", "to be bound", |claim| phase(claim) == "Bound").await;
    let capacity = bound
        .status
        .and_then(|status| status.capacity)
        .expect("a capacity");
    assert_eq!(capacity["storage"].0, "5Gi");
    until_one(&volumes, "v1", "to be bound", |v| volume_phase(v) == "Bound").await;
    until_one(&pods, "p", "to have a node", |pod| node_of(pod) == Some("node1")).await;
    let now = DeleteParams::default().grace_period(0);
    claims
        .delete("data", &DeleteParams::default())
        .await
        .expect("it is deleted");
    until_one(&claims, "data", "to be held by its Pod", |c| {
        c.metadata.deletion_timestamp.is_some()
    })
    .await;
    pods.delete("p", &now).await.expect("it is deleted");
    until_gone(&claims, "data").await;
    until_one(&volumes, "v1", "to be released", |v| {
        volume_phase(v) == "Released"
    })
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_waits_for_a_node_decides_where_its_pod_goes() {
    let cluster = Cluster::start().await;
    for name in ["a", "b"] {
        cluster.add_node(name, json!({})).await;
    }
    let (claims, volumes, pods): (Api<PersistentVolumeClaim>, Api<PersistentVolume>, Api<Pod>) =
        (cluster.api(), cluster.all(), cluster.api());
    let class = json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "disks"},
        "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer"});
    create::<StorageClass>(&cluster.all(), class).await;
    create(&claims, claim("data", "disks")).await;
    cluster
        .says("data", "waiting for first consumer to be created before binding")
        .await;
    create(&pods, pod("p", of_claim("data"))).await;
    let why = "0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind.";
    cluster.says("p", why).await;
    let on_b = json!({"local": {"path": "/mnt/x"}, "hostPath": null, "nodeAffinity": {"required": {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["b"]}]}]}}});
    create(&volumes, volume("on-b", "disks", on_b)).await;
    until_one(&pods, "p", "to have a node", |pod| node_of(pod) == Some("b")).await;
    let bound = until_one(&claims, "data", "to be bound", |claim| phase(claim) == "Bound").await;
    assert_eq!(
        bound.spec.and_then(|spec| spec.volume_name).as_deref(),
        Some("on-b")
    );
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_for_one_pod_is_one_pods() {
    let cluster = Cluster::start().await;
    cluster.add_node("node1", json!({})).await;
    let (claims, volumes, pods): (Api<PersistentVolumeClaim>, Api<PersistentVolume>, Api<Pod>) =
        (cluster.api(), cluster.all(), cluster.api());
    let only = json!({"accessModes": ["ReadWriteOncePod"]});
    create(&volumes, volume("v1", "manual", only.clone())).await;
    let mut single = claim("data", "manual");
    json_patch::merge(&mut single["spec"], &only);
    create(&claims, single).await;
    until_one(&claims, "data", "to be bound", |claim| phase(claim) == "Bound").await;
    create(&pods, pod("first", of_claim("data"))).await;
    until_one(&pods, "first", "to have a node", |pod| node_of(pod).is_some()).await;
    create(&pods, pod("second", of_claim("data"))).await;
    let why = "0/1 nodes are available: 1 node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access \
               mode already in-use by another pod.";
    cluster.says("second", why).await;
    pods.delete("first", &DeleteParams::default().grace_period(0))
        .await
        .expect("it is deleted");
    until_one(&pods, "second", "to have a node", |pod| node_of(pod).is_some()).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pods_own_claim_is_made_and_goes_with_it() {
    let cluster = Cluster::start().await;
    cluster.add_node("node1", json!({})).await;
    let (claims, volumes, pods): (Api<PersistentVolumeClaim>, Api<PersistentVolume>, Api<Pod>) =
        (cluster.api(), cluster.all(), cluster.api());
    create(&volumes, volume("v1", "manual", json!({}))).await;
    let spec = claim("x", "manual")["spec"].clone();
    let template = json!({"metadata": {"labels": {"of": "p"}}, "spec": spec});
    let own = json!({"name": "v", "ephemeral": {"volumeClaimTemplate": template}});
    let made = create(&pods, pod("p", own)).await;
    let claim = until_one(&claims, "p-v", "to be bound", |claim| phase(claim) == "Bound").await;
    assert_eq!(claim.metadata.labels.expect("labels")["of"], "p");
    let owner = claim.metadata.owner_references.expect("an owner").remove(0);
    assert_eq!(
        (owner.kind.as_str(), Some(&owner.uid)),
        ("Pod", made.metadata.uid.as_ref())
    );
    until_one(&pods, "p", "to have a node", |pod| node_of(pod).is_some()).await;
    pods.delete("p", &DeleteParams::default().grace_period(0))
        .await
        .expect("it is deleted");
    until_gone(&claims, "p-v").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_class_of_attributes_stays_while_a_claim_names_it() {
    let cluster = Cluster::start().await;
    let (claims, classes): (Api<PersistentVolumeClaim>, Api<VolumeAttributesClass>) =
        (cluster.api(), cluster.all());
    for name in ["gold", "free"] {
        let class = json!({"apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttributesClass",
            "metadata": {"name": name}, "driverName": "d.e.com", "parameters": {"iops": "1"}});
        let made = create(&classes, class).await;
        assert_eq!(
            made.metadata.finalizers,
            Some(vec!["kubernetes.io/vac-protection".to_owned()])
        );
    }
    let mut named = claim("data", "manual");
    named["spec"]["volumeAttributesClassName"] = "gold".into();
    create(&claims, named).await;
    let bare = merge(&classes, "gold", json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(bare.metadata.finalizers, None);
    until_one(&classes, "gold", "to be held again", |class| {
        class.metadata.finalizers.is_some()
    })
    .await;
    let at_once = DeleteParams::default();
    for name in ["gold", "free"] {
        classes.delete(name, &at_once).await.expect("it is deleted");
    }
    until_gone(&classes, "free").await;
    let held = classes.get("gold").await.expect("it is held by its claim");
    assert!(held.metadata.deletion_timestamp.is_some());
    claims.delete("data", &at_once).await.expect("it is deleted");
    until_gone(&classes, "gold").await;
    cluster.stop().await;
}

//! Volumes of drivers that attach: the test is the node that uses them, and the attacher.
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment};
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::cluster::{Cluster, create, until, until_gone, until_one};
use crate::volumes::{claim, of_claim, pod, volume};

const DRIVER: &str = "attached.csi.example";
const NAME: &str = "kubernetes.io/csi/attached.csi.example^h-1";

fn of_driver(name: &str, class: &str, driver: &str, handle: &str) -> Value {
    let source = json!({"driver": driver, "volumeHandle": handle});
    volume(name, class, json!({"hostPath": null, "csi": source}))
}

fn pod_on(node: &str, name: &str, volume: &str) -> Value {
    let mut pod = pod(name, of_claim(volume));
    pod["spec"]["nodeName"] = node.into();
    pod
}

async fn status<K>(api: &Api<K>, name: &str, status: Value)
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let patch = Patch::Merge(json!({"status": status}));
    let written = api.patch_status(name, &PatchParams::default(), &patch).await;
    written.expect("the status is written");
}

fn attached(node: &Node) -> Vec<String> {
    let status = node.status.clone().unwrap_or_default();
    let attached = status.volumes_attached.into_iter().flatten();
    attached.map(|attached| attached.name).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_is_attached_for_its_pods_and_stays_while_its_node_uses_it() {
    let cluster = Cluster::start().await;
    let (nodes, pods): (Api<Node>, Api<Pod>) = (cluster.all(), cluster.api());
    let attachments: Api<VolumeAttachment> = cluster.all();
    let (claims, volumes): (Api<PersistentVolumeClaim>, Api<PersistentVolume>) =
        (cluster.api(), cluster.all());
    cluster.add_node("a", json!({})).await;
    cluster.add_node("b", json!({})).await;
    let free = json!({"metadata": {"name": "free.csi.example"}, "spec": {"attachRequired": false}});
    create(&cluster.all::<CSIDriver>(), free).await;
    create(&volumes, of_driver("v1", "one", DRIVER, "h-1")).await;
    create(&claims, claim("data", "one")).await;
    create(&volumes, of_driver("v2", "two", "free.csi.example", "h-2")).await;
    create(&claims, claim("free", "two")).await;
    create(&pods, pod_on("a", "unattached", "free")).await;
    create(&pods, pod_on("a", "first", "data")).await;

    let made = |node: &'static str| {
        move |all: &std::collections::BTreeMap<String, VolumeAttachment>| {
            let mut all = all.values();
            let found = all.find(|attachment| attachment.spec.node_name == node)?;
            found.metadata.name.clone()
        }
    };
    let first = until(&attachments, "an attachment to a", made("a")).await;
    let spec = attachments.get(&first).await.expect("it is there").spec;
    assert_eq!(
        (
            spec.attacher.as_str(),
            spec.source.persistent_volume_name.as_deref()
        ),
        (DRIVER, Some("v1"))
    );
    assert!(
        attached(&nodes.get("a").await.expect("a node")).is_empty(),
        "nobody attached it yet"
    );
    status(
        &attachments,
        &first,
        json!({"attached": true, "attachmentMetadata": {"lun": "3"}}),
    )
    .await;
    until_one(&nodes, "a", "to know of it", |node| attached(node) == [NAME]).await;
    cluster
        .says("first", "AttachVolume.Attach succeeded for volume \"v1\" ")
        .await;

    status(&nodes, "a", json!({"volumesInUse": [NAME]})).await;
    create(&pods, pod_on("b", "second", "data")).await;
    cluster
        .says(
            "second",
            "Multi-Attach error for volume \"v1\" Volume is already used by pod(s) first",
        )
        .await;
    let now = DeleteParams::default().grace_period(0);
    pods.delete("first", &now).await.expect("it is deleted");
    let still = "Volume is already exclusively attached to one node and can't be attached to another";
    cluster
        .says("second", &format!("Multi-Attach error for volume \"v1\" {still}"))
        .await;
    assert_eq!(
        attached(&nodes.get("a").await.expect("a node")),
        [NAME],
        "it is in use"
    );
    status(&nodes, "a", json!({"volumesInUse": null})).await;
    until_gone(&attachments, &first).await;
    until_one(&nodes, "a", "to know that it went", |node| {
        attached(node).is_empty()
    })
    .await;

    let second = until(&attachments, "an attachment to b", made("b")).await;
    assert_ne!(first, second);
    let time = jiff::Timestamp::now();
    status(
        &attachments,
        &second,
        json!({"attached": false, "attachError": {"time": time, "message": "no slot is free"}}),
    )
    .await;
    cluster
        .says(
            "second",
            "AttachVolume.Attach failed for volume \"v1\" : no slot is free",
        )
        .await;
    let all = attachments.list(&ListParams::default()).await.expect("a list");
    assert_eq!(all.items.len(), 1, "the other driver attaches nothing");
    cluster.stop().await;
}

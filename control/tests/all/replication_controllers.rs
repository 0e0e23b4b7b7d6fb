//! ReplicationControllers: numbers, status, adoption and release, scale, what becomes of their Pods, failures.
use std::collections::BTreeMap;

use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::core::v1::{Pod, ReplicationController, ResourceQuota};
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::cluster::{Cluster, create, merge, until, until_collector_saw, until_gone, until_one};

fn controller(replicas: i32) -> Value {
    json!({"apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": "rc"},
        "spec": {"replicas": replicas, "selector": {"app": "x"},
            "template": {"metadata": {"labels": {"app": "x", "v": "1"}},
                "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "i"}]}}}})
}

fn owners(pod: &Pod) -> Vec<(String, String)> {
    let owner = |owner: &k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference| {
        (owner.api_version.clone(), owner.name.clone())
    };
    pod.owner_references().iter().map(owner).collect()
}

fn has_ready(count: i32) -> impl Fn(&ReplicationController) -> bool {
    move |rc| {
        let status = rc.status.as_ref();
        status.is_some_and(|status| {
            status.replicas == count
                && [status.ready_replicas, status.available_replicas] == [Some(count); 2]
                && status.observed_generation == rc.metadata.generation
        })
    }
}

fn condition(rc: &ReplicationController) -> Option<(String, String)> {
    let condition = rc.status.as_ref()?.conditions.as_ref()?.first()?.clone();
    Some((condition.type_, condition.reason?))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replication_controller_adopts_releases_and_scales() {
    let cluster = Cluster::with_node().await;
    let pods: Api<Pod> = cluster.api();
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "stray", "labels": {"app": "x"}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "i"}]}});
    create(&pods, pod).await;
    let bound = |pod: &Pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
    until_one(&pods, "stray", "to be bound", bound).await;
    let controllers: Api<ReplicationController> = cluster.api();
    create(&controllers, controller(2)).await;
    let rc = until_one(&controllers, "rc", "two ready", has_ready(2)).await;
    let labelled = rc.status.and_then(|status| status.fully_labeled_replicas);
    assert_eq!(labelled, Some(1), "the stray one lacks a label of the template");
    let stray = pods.get("stray").await.expect("the Pod");
    assert_eq!(owners(&stray), [("v1".into(), "rc".into())]);
    assert!(
        cluster
            .event("rc", "SuccessfulCreate")
            .await
            .starts_with("Created pod: rc-")
    );

    merge(&pods, "stray", json!({"metadata": {"labels": {"app": "y"}}})).await;
    until_one(&pods, "stray", "to be released", |pod| owners(pod).is_empty()).await;
    until_one(&controllers, "rc", "two ready again", has_ready(2)).await;

    let scale: Scale = controllers
        .patch_scale(
            "rc",
            &PatchParams::default(),
            &Patch::Merge(json!({"spec": {"replicas": 4}})),
        )
        .await
        .map(|scale| serde_json::from_value(json!(scale)).expect("a Scale"))
        .expect("it is scaled");
    assert_eq!(
        scale.status.and_then(|status| status.selector).as_deref(),
        Some("app=x")
    );
    until_one(&controllers, "rc", "four ready", has_ready(4)).await;
    merge(&controllers, "rc", json!({"spec": {"replicas": 1}})).await;
    until_one(&controllers, "rc", "one ready", has_ready(1)).await;
    assert!(
        cluster
            .event("rc", "SuccessfulDelete")
            .await
            .starts_with("Deleted pod: rc-")
    );
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_outlive_a_replication_controller_unless_it_is_said() {
    let cluster = Cluster::with_node().await;
    let (controllers, pods): (Api<ReplicationController>, Api<Pod>) = (cluster.api(), cluster.api());
    create(&controllers, controller(2)).await;
    until_one(&controllers, "rc", "two ready", has_ready(2)).await;
    until_collector_saw(&pods).await;
    controllers
        .delete("rc", &DeleteParams::default())
        .await
        .expect("it is deleted");
    until_gone(&controllers, "rc").await;
    let orphans = |pods: &BTreeMap<String, Pod>| {
        assert_eq!(pods.len(), 2, "Pods are left alone");
        pods.values().all(|pod| owners(pod).is_empty()).then_some(())
    };
    until(&pods, "two orphans", orphans).await;

    create(&controllers, controller(2)).await;
    until_one(&controllers, "rc", "the orphans adopted", has_ready(2)).await;
    assert_eq!(
        pods.list(&Default::default()).await.expect("a list").items.len(),
        2
    );
    until_collector_saw(&pods).await;
    controllers
        .delete("rc", &DeleteParams::foreground())
        .await
        .expect("it is deleted");
    until_gone(&controllers, "rc").await;
    let left = pods.list(&Default::default()).await.expect("a list").items;
    assert_eq!(left.len(), 0, "foreground deletion removed the Pods first");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_that_refuses_pods_is_a_condition_until_there_are_enough() {
    let cluster = Cluster::with_node().await;
    let (controllers, quotas): (Api<ReplicationController>, Api<ResourceQuota>) =
        (cluster.api(), cluster.api());
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "two"}, "spec": {"hard": {"pods": "2"}}});
    create(&quotas, quota).await;
    let counted = |quota: &ResourceQuota| quota.status.as_ref().is_some_and(|status| status.used.is_some());
    until_one(&quotas, "two", "to be counted", counted).await;
    create(&controllers, controller(3)).await;
    let failing =
        |rc: &ReplicationController| condition(rc) == Some(("ReplicaFailure".into(), "FailedCreate".into()));
    until_one(&controllers, "rc", "a failure", failing).await;
    assert!(
        cluster
            .event("rc", "FailedCreate")
            .await
            .contains("exceeded quota: two")
    );
    merge(&controllers, "rc", json!({"spec": {"replicas": 2}})).await;
    until_one(&controllers, "rc", "no failure", |rc| condition(rc).is_none()).await;
    cluster.stop().await;
}

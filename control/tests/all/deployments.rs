//! Deployments and ReplicaSets: rollout, scaling, undo, adoption.
use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::cluster::{Cluster, create, merge, until, until_collector_saw, until_gone, until_one};

const REVISION: &str = "deployment.kubernetes.io/revision";

fn deployment(replicas: i32, strategy: Value) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "default"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "strategy": strategy,
            "template": {"metadata": {"labels": {"app": "web"}},
                "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "one"}]}}}
    })
}

fn image(image: &str) -> Value {
    json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}})
}

fn is_rolled_out(deployment: &Deployment) -> bool {
    let desired = deployment.spec.as_ref().and_then(|spec| spec.replicas);
    let Some(status) = &deployment.status else {
        return false;
    };
    status.observed_generation == deployment.metadata.generation
        && [
            status.replicas,
            status.updated_replicas,
            status.available_replicas,
        ]
        .iter()
        .all(|count| *count == desired)
}

async fn rolled_out(api: &Api<Deployment>) -> Deployment {
    until_one(api, "web", "to be rolled out", is_rolled_out).await
}

fn images(pods: &BTreeMap<String, Pod>) -> Vec<String> {
    let image = |pod: &Pod| pod.spec.as_ref()?.containers.first()?.image.clone();
    pods.values().filter_map(image).collect()
}

fn condition(deployment: &Deployment, type_: &str) -> (String, String) {
    let conditions = deployment
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let found = conditions
        .into_iter()
        .find(|condition| condition.type_ == type_)
        .expect("the condition");
    (found.status.clone(), found.reason.clone().unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_rolls_out_scales_updates_and_goes_back() {
    let cluster = Cluster::with_node().await;
    let api: Api<Deployment> = cluster.api();
    create(
        &api,
        deployment(
            3,
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}),
        ),
    )
    .await;
    let first = rolled_out(&api).await;
    assert_eq!(first.annotations()[REVISION], "1");
    assert_eq!(
        condition(&first, "Available"),
        ("True".into(), "MinimumReplicasAvailable".into())
    );
    until_one(&api, "web", "to be complete", |web| {
        condition(web, "Progressing").1 == "NewReplicaSetAvailable"
    })
    .await;
    let sets = cluster
        .api::<ReplicaSet>()
        .list(&Default::default())
        .await
        .expect("a list")
        .items;
    let old = sets[0].name_any();
    assert_eq!(
        cluster.event("web", "ScalingReplicaSet").await,
        format!("Scaled up replica set {old} from 0 to 3")
    );
    assert!(
        cluster
            .event(&old, "SuccessfulCreate")
            .await
            .starts_with(&format!("Created pod: {old}-"))
    );

    merge(&api, "web", json!({"spec": {"replicas": 5}})).await;
    rolled_out(&api).await;

    merge(&api, "web", image("two")).await;
    let updated = rolled_out(&api).await;
    assert_eq!(updated.annotations()[REVISION], "2");
    let all_two = |pods: &BTreeMap<String, Pod>| (images(pods) == ["two"; 5]).then_some(());
    until(&cluster.api(), "five Pods of the new image", all_two).await;

    merge(&api, "web", image("one")).await;
    let undone = rolled_out(&api).await;
    assert_eq!(undone.annotations()[REVISION], "3");
    let sets = cluster
        .api::<ReplicaSet>()
        .list(&Default::default())
        .await
        .expect("a list")
        .items;
    assert_eq!(sets.len(), 2, "the first ReplicaSet was used again");
    let reused = sets
        .iter()
        .find(|set| set.name_any() == old)
        .expect("the first ReplicaSet");
    assert_eq!(
        reused.annotations()["deployment.kubernetes.io/revision-history"],
        "1"
    );

    api.delete("web", &DeleteParams::background())
        .await
        .expect("it is deleted");
    until(&cluster.api::<Pod>(), "no Pods", |pods| {
        pods.is_empty().then_some(())
    })
    .await;
    until(&cluster.api::<ReplicaSet>(), "no ReplicaSets", |sets| {
        sets.is_empty().then_some(())
    })
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recreate_never_runs_two_templates_at_once() {
    let cluster = Cluster::with_node().await;
    let api: Api<Deployment> = cluster.api();
    create(&api, deployment(2, json!({"type": "Recreate"}))).await;
    rolled_out(&api).await;
    merge(&api, "web", image("two")).await;
    let mixed = |pods: &BTreeMap<String, Pod>| {
        let images = images(pods);
        assert!(
            !(images.contains(&"one".into()) && images.contains(&"two".into())),
            "both at once: {images:?}"
        );
        (images == ["two"; 2]).then_some(())
    };
    until(&cluster.api(), "two Pods of the new image", mixed).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_deployment_scales_but_does_not_roll() {
    let cluster = Cluster::with_node().await;
    let api: Api<Deployment> = cluster.api();
    create(&api, deployment(2, json!({}))).await;
    rolled_out(&api).await;
    let mut patch = image("two");
    json_patch::merge(&mut patch, &json!({"spec": {"paused": true, "replicas": 4}}));
    merge(&api, "web", patch).await;
    let four_old = |pods: &BTreeMap<String, Pod>| (images(pods) == ["one"; 4]).then_some(());
    until(&cluster.api(), "four Pods of the old image", four_old).await;
    until_one(&api, "web", "to be paused", |web| {
        condition(web, "Progressing").1 == "DeploymentPaused"
    })
    .await;
    merge(&api, "web", json!({"spec": {"paused": false}})).await;
    let four_new = |pods: &BTreeMap<String, Pod>| (images(pods) == ["two"; 4]).then_some(());
    until(&cluster.api(), "four Pods of the new image", four_new).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_set_adopts_matching_pods_and_releases_relabelled_ones() {
    let cluster = Cluster::with_node().await;
    let pods: Api<Pod> = cluster.api();
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "stray", "labels": {"app": "x"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}});
    create(&pods, pod).await;
    // Bound by the scheduler, whose Pods are the controllers' too: a controller that does not know of it would make two.
    let bound = |pod: &Pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
    until_one(&pods, "stray", "to be bound", bound).await;
    let sets: Api<ReplicaSet> = cluster.api();
    let set = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "rs"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "x"}},
            "template": {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    create(&sets, set).await;
    let ready = |set: &ReplicaSet| {
        set.status
            .as_ref()
            .is_some_and(|status| status.ready_replicas == Some(2))
    };
    until_one(&sets, "rs", "two ready", ready).await;
    assert_eq!(
        pods.list(&Default::default()).await.expect("a list").items.len(),
        2,
        "the stray one was adopted"
    );
    let owners = |pod: &Pod| {
        pod.owner_references()
            .iter()
            .map(|owner| owner.name.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(owners(&pods.get("stray").await.expect("the Pod")), ["rs"]);

    merge(&pods, "stray", json!({"metadata": {"labels": {"app": "y"}}})).await;
    until_one(&pods, "stray", "to be released", |pod| owners(pod).is_empty()).await;
    let three = |pods: &BTreeMap<String, Pod>| (pods.len() == 3).then_some(());
    until(&pods, "a replacement", three).await;

    until_collector_saw(&pods).await;
    sets.delete("rs", &DeleteParams::foreground())
        .await
        .expect("it is deleted");
    until_gone(&sets, "rs").await;
    let left: Vec<String> = pods
        .list(&Default::default())
        .await
        .expect("a list")
        .items
        .iter()
        .map(|pod| pod.name_any())
        .collect();
    assert_eq!(left, ["stray"], "foreground deletion removed the Pods first");
    cluster.stop().await;
}

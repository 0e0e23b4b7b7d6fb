//! Namespaces: what each is furnished with, and what deletion leaves behind.
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, ServiceAccount};
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::Api;
use kube::api::DeleteParams;
use serde_json::json;

use crate::cluster::{Cluster, create, merge, until, until_gone, until_one};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_is_furnished_and_emptied() {
    let cluster = Cluster::with_node().await;
    let namespaces: Api<Namespace> = cluster.all();
    create(
        &namespaces,
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}}),
    )
    .await;
    let accounts: Api<ServiceAccount> = Api::namespaced(cluster.client.clone(), "team");
    until_one(&accounts, "default", "to exist", |_| true).await;
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), "team");
    let has_ca = |map: &ConfigMap| {
        map.data
            .as_ref()
            .is_some_and(|data| data["ca.crt"].contains("BEGIN CERTIFICATE"))
    };
    until_one(&maps, "kube-root-ca.crt", "to hold the CA", has_ca).await;
    accounts
        .delete("default", &DeleteParams::default())
        .await
        .expect("it is deleted");
    until_one(&accounts, "default", "to come back", |account| {
        account.metadata.deletion_timestamp.is_none()
    })
    .await;

    let deployments: Api<Deployment> = Api::namespaced(cluster.client.clone(), "team");
    let template =
        json!({"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "x"}}, "template": template}});
    create(&deployments, deployment).await;
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), "team");
    until(&pods, "two Pods", |pods| (pods.len() == 2).then_some(())).await;
    let held = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "held", "finalizers": ["example.com/hold"]}});
    create(&maps, held).await;

    namespaces
        .delete("team", &DeleteParams::default())
        .await
        .expect("it is deleted");
    let remaining = |namespace: &Namespace| {
        let conditions = namespace
            .status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten());
        conditions.into_iter().any(|condition| {
            condition.type_ == "NamespaceFinalizersRemaining"
                && condition
                    .message
                    .as_deref()
                    .is_some_and(|message| message.contains("example.com/hold in 1"))
        })
    };
    until_one(&namespaces, "team", "to say what it waits for", remaining).await;
    assert!(
        pods.list(&Default::default())
            .await
            .expect("a list")
            .items
            .is_empty(),
        "Pods go first"
    );
    merge(&maps, "held", json!({"metadata": {"finalizers": null}})).await;
    until_gone(&namespaces, "team").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_may_follow_its_namespace_at_once() {
    let cluster = Cluster::with_node().await;
    let namespaces: Api<Namespace> = cluster.all();
    for number in 0..5 {
        let name = format!("young-{number}");
        create(
            &namespaces,
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}),
        )
        .await;
        let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), &name);
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
            "spec": {"containers": [{"name": "c", "image": "i"}]}});
        create(&pods, pod).await;
    }
    cluster.stop().await;
}

/// What a server that does not answer holds in a namespace is not known, so the namespace stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_waits_for_who_cannot_say_what_it_holds() {
    let cluster = Cluster::with_node().await;
    let namespaces: Api<Namespace> = cluster.all();
    let services: Api<APIService> = cluster.all();
    let spec = json!({"group": "away.example", "version": "v1", "groupPriorityMinimum": 100, "versionPriority": 100,
        "insecureSkipTLSVerify": true, "service": {"namespace": "default", "name": "nobody"}});
    let service = json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": {"name": "v1.away.example"}, "spec": spec});
    create(&services, service).await;
    let unavailable = |service: &APIService| {
        let conditions = service
            .status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten());
        conditions
            .into_iter()
            .any(|condition| condition.type_ == "Available" && condition.status == "False")
    };
    until_one(&services, "v1.away.example", "to be unavailable", unavailable).await;
    create(
        &namespaces,
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "held"}}),
    )
    .await;
    namespaces
        .delete("held", &DeleteParams::default())
        .await
        .expect("it is deleted");
    let said = "Discovery failed for some groups, 1 failing: unable to retrieve the complete list of server APIs: \
                away.example/v1: stale GroupVersion discovery: away.example/v1";
    let waits = |namespace: &Namespace| {
        let conditions = namespace
            .status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten());
        conditions
            .into_iter()
            .any(|condition| condition.message.as_deref() == Some(said))
    };
    until_one(&namespaces, "held", "to say whom it waits for", waits).await;
    services
        .delete("v1.away.example", &DeleteParams::default())
        .await
        .expect("it is deleted");
    until_gone(&namespaces, "held").await;
    cluster.stop().await;
}

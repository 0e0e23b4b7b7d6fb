//! Garbage collection: background, foreground, orphan, owners that never were.
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Event};
use k8s_openapi::api::rbac::v1::{ClusterRole, Role};
use kube::api::DeleteParams;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::cluster::{Cluster, create, merge, until, until_gone, until_one};

async fn owned(api: &Api<ConfigMap>, name: &str, owners: &[(&str, &str)], finalizers: Value) -> ConfigMap {
    let owners: Vec<Value> = owners
        .iter()
        .map(|(name, uid)| {
            json!({"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": uid, "blockOwnerDeletion": true})
        })
        .collect();
    let metadata = json!({"name": name, "ownerReferences": owners, "finalizers": finalizers});
    create(
        api,
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}),
    )
    .await
}

async fn family(api: &Api<ConfigMap>, parent: &str, child: &str, finalizers: Value) {
    let uid = owned(api, parent, &[], json!([])).await.uid().expect("a uid");
    owned(api, child, &[(parent, &uid)], finalizers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dependents_go_in_the_background_and_chains_collapse() {
    let cluster = Cluster::start().await;
    let api: Api<ConfigMap> = cluster.api();
    let root = owned(&api, "root", &[], json!([])).await.uid().expect("a uid");
    let middle = owned(&api, "middle", &[("root", &root)], json!([]))
        .await
        .uid()
        .expect("a uid");
    owned(&api, "leaf", &[("middle", &middle)], json!([])).await;
    let solid = owned(&api, "solid", &[], json!([])).await.uid().expect("a uid");
    owned(&api, "shared", &[("root", &root), ("solid", &solid)], json!([])).await;
    api.delete("root", &DeleteParams::background())
        .await
        .expect("it is deleted");
    until_gone(&api, "middle").await;
    until_gone(&api, "leaf").await;
    let owners = |map: &ConfigMap| {
        map.owner_references()
            .iter()
            .map(|owner| owner.name.clone())
            .collect::<Vec<_>>()
    };
    until_one(&api, "shared", "to keep its other owner", |map| {
        owners(map) == ["solid"]
    })
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreground_deletion_waits_for_blocking_dependents() {
    let cluster = Cluster::start().await;
    let api: Api<ConfigMap> = cluster.api();
    family(&api, "parent", "child", json!(["example.com/hold"])).await;
    api.delete("parent", &DeleteParams::foreground())
        .await
        .expect("it is deleted");
    let dying = |map: &ConfigMap| map.metadata.deletion_timestamp.is_some();
    until_one(&api, "child", "to be deleted", dying).await;
    assert!(dying(&api.get("parent").await.expect("the parent waits")));
    merge(&api, "child", json!({"metadata": {"finalizers": null}})).await;
    until_gone(&api, "parent").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orphans_outlive_their_owner_without_a_trace_of_it() {
    let cluster = Cluster::start().await;
    let api: Api<ConfigMap> = cluster.api();
    family(&api, "parent", "child", json!([])).await;
    api.delete("parent", &DeleteParams::orphan())
        .await
        .expect("it is deleted");
    until_gone(&api, "parent").await;
    let child = api.get("child").await.expect("the child stays");
    assert!(child.owner_references().is_empty());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_never_was_is_no_owner() {
    let cluster = Cluster::start().await;
    let api: Api<ConfigMap> = cluster.api();
    owned(
        &api,
        "stray",
        &[("nobody", "00000000-0000-0000-0000-000000000000")],
        json!([]),
    )
    .await;
    until(&api, "the stray to go", |maps: &BTreeMap<String, ConfigMap>| {
        (!maps.contains_key("stray")).then_some(())
    })
    .await;
    cluster.stop().await;
}

/// What is the cluster's cannot say in which namespace its owner is, so that nobody knows whether it is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_the_clusters_stays_when_its_owner_is_a_namespaces() {
    let cluster = Cluster::start().await;
    let (maps, roles): (Api<ConfigMap>, Api<ClusterRole>) = (cluster.api(), cluster.all());
    let owner = owned(&maps, "owner", &[], json!([])).await.uid().expect("a uid");
    let role = |name: &str, kind: &str, uid: &str| {
        let owner = json!({"apiVersion": "v1", "kind": kind, "name": "owner", "uid": uid});
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": {"name": name, "ownerReferences": [owner]}, "rules": []})
    };
    create(&roles, role("kept", "ConfigMap", &owner)).await;
    create(
        &roles,
        role("lost", "ConfigMap", "00000000-0000-0000-0000-000000000000"),
    )
    .await;
    create(
        &roles,
        role("collected", "Node", "00000000-0000-0000-0000-000000000001"),
    )
    .await;
    until_gone(&roles, "collected").await;
    maps.delete("owner", &DeleteParams::background())
        .await
        .expect("it is deleted");
    create(
        &roles,
        role("last", "Node", "00000000-0000-0000-0000-000000000002"),
    )
    .await;
    until_gone(&roles, "last").await;
    for name in ["kept", "lost"] {
        roles.get(name).await.expect("it stays");
    }
    let events: Api<Event> = cluster.api();
    let told = until(&events, "it is told", |all| {
        all.values()
            .find(|event| event.reason.as_deref() == Some("OwnerRefInvalidNamespace"))
            .cloned()
    })
    .await;
    assert_eq!(told.involved_object.name.as_deref(), Some("kept"));
    assert_eq!(
        told.message,
        Some(format!(
            "ownerRef [v1/ConfigMap, namespace: , name: owner, uid: {owner}] does not exist in namespace \"\""
        ))
    );
    cluster.stop().await;
}

/// Names of RBAC objects may have in them what ends a path, and who writes an owner's name chooses it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_would_lead_elsewhere_are_only_names() {
    let cluster = Cluster::start().await;
    let maps: Api<ConfigMap> = cluster.api();
    let api: Api<Role> = cluster.api();
    let uid = owned(&maps, "owner", &[], json!([])).await.uid().expect("a uid");
    let nobody = "00000000-0000-0000-0000-000000000000";
    let role = |name: &str, owner: &str, uid: &str| {
        let owners = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": owner, "uid": uid}]);
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
            "metadata": {"name": name, "ownerReferences": owners}
        })
    };
    create(&api, role("kept", "owner", &uid)).await;
    for (name, owner) in [("kept?x", "gone"), ("kept#x", "owner?x"), ("sp ace", "gone")] {
        create(&api, role(name, owner, nobody)).await;
    }
    until(
        &api,
        "the one whose owner is there to be left",
        |roles: &BTreeMap<String, Role>| roles.keys().eq(["kept"]).then_some(()),
    )
    .await;
    cluster.stop().await;
}

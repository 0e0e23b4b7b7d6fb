//! Endpoints and EndpointSlices follow Services and Pods.
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::DeleteParams;
use serde_json::json;

use crate::cluster::{Cluster, create, merge, set_ready, until, until_gone};

/// Ready addresses and unready ones, over all slices of a Service.
fn counts(slices: &BTreeMap<String, EndpointSlice>) -> (usize, usize) {
    let ours = slices.values().filter(|slice| {
        let labels = slice.metadata.labels.as_ref();
        labels
            .and_then(|labels| labels.get("kubernetes.io/service-name"))
            .is_some_and(|name| name == "web")
    });
    let endpoints: Vec<_> = ours.flat_map(|slice| slice.endpoints.iter().flatten()).collect();
    let ready = endpoints.iter().filter(|endpoint| {
        endpoint
            .conditions
            .as_ref()
            .and_then(|conditions| conditions.ready)
            == Some(true)
    });
    let ready = ready.count();
    (ready, endpoints.len() - ready)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_follow_pods_and_their_readiness() {
    let cluster = Cluster::start().await;
    cluster.add_node("node1", json!({})).await;
    let (services, pods): (Api<Service>, Api<Pod>) = (cluster.api(), cluster.api());
    let (slices, endpoints): (Api<EndpointSlice>, Api<Endpoints>) = (cluster.api(), cluster.api());
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]}});
    create(&services, service).await;
    until(&slices, "an empty slice", |slices| {
        (counts(slices) == (0, 0) && slices.len() >= 2).then_some(())
    })
    .await;
    for name in ["a", "b"] {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "web"}},
            "spec": {"containers": [{"name": "c", "image": "i", "ports": [{"name": "http", "containerPort": 8080}]}]}});
        create(&pods, pod).await;
        set_ready(&pods, name, true).await;
    }
    until(&slices, "two ready", |slices| {
        (counts(slices) == (2, 0)).then_some(())
    })
    .await;
    set_ready(&pods, "a", false).await;
    until(&slices, "one unready", |slices| {
        (counts(slices) == (1, 1)).then_some(())
    })
    .await;
    let legacy = |endpoints: &BTreeMap<String, Endpoints>| {
        let subset = endpoints.get("web")?.subsets.as_ref()?.first()?;
        let len = |addresses: &Option<Vec<_>>| addresses.as_ref().map_or(0, Vec::len);
        let ports: Vec<i32> = subset.ports.iter().flatten().map(|port| port.port).collect();
        ((len(&subset.addresses), len(&subset.not_ready_addresses)) == (1, 1) && ports == [8080])
            .then_some(())
    };
    until(&endpoints, "the same in Endpoints", legacy).await;
    pods.delete("b", &DeleteParams::default().grace_period(0))
        .await
        .expect("it is deleted");
    until(&slices, "the deleted one to go", |slices| {
        (counts(slices) == (0, 1)).then_some(())
    })
    .await;
    services
        .delete("web", &DeleteParams::default())
        .await
        .expect("it is deleted");
    until_gone(&endpoints, "web").await;
    let none = |slices: &BTreeMap<String, EndpointSlice>| {
        slices.keys().all(|name| !name.starts_with("web")).then_some(())
    };
    until(&slices, "no slices", none).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_written_by_hand_have_slices() {
    let cluster = Cluster::start().await;
    let (services, endpoints): (Api<Service>, Api<Endpoints>) = (cluster.api(), cluster.api());
    let slices: Api<EndpointSlice> = cluster.api();
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"ports": [{"name": "sql", "port": 80}]}});
    create(&services, service).await;
    let by_hand = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "web", "labels": {"team": "a"}},
        "subsets": [{"addresses": [{"ip": "192.0.2.1"}], "notReadyAddresses": [{"ip": "192.0.2.2"}],
            "ports": [{"name": "sql", "port": 5432}]}]});
    create(&endpoints, by_hand).await;
    let slice = until(&slices, "a mirrored slice", |slices| {
        let mirrored = slices.values().find(|slice| counts_one(slice, "web"))?;
        (counts(slices) == (1, 1)).then(|| mirrored.clone())
    })
    .await;
    let labels = json!({"team": "a", "kubernetes.io/service-name": "web",
        "endpointslice.kubernetes.io/managed-by": "endpointslicemirroring-controller.k8s.io"});
    assert_eq!(json!(slice.metadata.labels), labels);
    let ports = slice.ports.unwrap_or_default();
    assert_eq!(
        (ports[0].name.as_deref(), ports[0].port),
        (Some("sql"), Some(5432))
    );

    let none = json!({"subsets": [{"addresses": [{"ip": "192.0.2.1"}, {"ip": "192.0.2.3"}]}]});
    merge(&endpoints, "web", none).await;
    until(&slices, "two ready", |slices| {
        (counts(slices) == (2, 0)).then_some(())
    })
    .await;
    merge(
        &endpoints,
        "web",
        json!({"metadata": {"labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}}}),
    )
    .await;
    until(&slices, "none", |slices| (counts(slices) == (0, 0)).then_some(())).await;
    merge(
        &endpoints,
        "web",
        json!({"metadata": {"labels": {"endpointslice.kubernetes.io/skip-mirror": null}}}),
    )
    .await;
    until(&slices, "two again", |slices| {
        (counts(slices) == (2, 0)).then_some(())
    })
    .await;

    services
        .delete("web", &DeleteParams::default())
        .await
        .expect("the Service goes");
    until(&slices, "none again", |slices| {
        (counts(slices) == (0, 0)).then_some(())
    })
    .await;
    until_gone(&endpoints, "web").await;
}

fn counts_one(slice: &EndpointSlice, service: &str) -> bool {
    let labels = slice.metadata.labels.as_ref();
    labels
        .and_then(|labels| labels.get("kubernetes.io/service-name"))
        .is_some_and(|name| name == service)
}

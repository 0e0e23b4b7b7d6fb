//! RuntimeClasses on a node (KEP-585): a handler it has, and one it has not, and the one that every cluster begins with.

use k8s_openapi::api::core::v1::{Event, Pod};
use k8s_openapi::api::node::v1::RuntimeClass;
use kube::Api;
use kube::api::{Patch, PatchParams};
use kube::runtime::wait::await_condition;
use serde_json::json;

use crate::changing::{runs, until};
use crate::cluster::PATIENCE;
use crate::streams::with_busybox;
use crate::users::run;

fn pod(name: &str, class: &str) -> Pod {
    let container =
        json!({"name": "c", "image": "amphipod.local/busybox:v1", "command": ["sleep", "1000000"]});
    let spec =
        json!({"runtimeClassName": class, "terminationGracePeriodSeconds": 0, "containers": [container]});
    serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap()
}

/// Waits until an event says so.
async fn told(events: &Api<Event>, reason: &str, message: &str) {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let all = events.list(&Default::default()).await.unwrap();
        let says = |e: &Event| e.reason.as_deref() == Some(reason) && e.message.as_deref() == Some(message);
        if all.iter().any(says) {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "{all:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_class_names_a_handler_of_the_node_or_the_pod_waits() {
    let Some(cluster) = with_busybox("runtime classes") else {
        return;
    };
    let client = cluster.client().await;
    let classes: Api<RuntimeClass> = Api::all(client.clone());
    for (name, handler) in [("own", "amphipod"), ("foreign", "gvisor")] {
        let class = json!({"metadata": {"name": name}, "handler": handler});
        let class = serde_json::from_value(class).unwrap();
        classes.create(&Default::default(), &class).await.unwrap();
    }
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    run(&pods, &pod("one", "own")).await;
    pods.create(&Default::default(), &pod("two", "foreign"))
        .await
        .unwrap();
    let events: Api<Event> = Api::default_namespaced(client);
    let expected = "Failed to create pod sandbox: failed to get sandbox runtime: no runtime for \"gvisor\" is configured";
    told(&events, "FailedCreatePodSandBox", expected).await;
    let status = pods.get("two").await.unwrap().status.unwrap();
    assert_eq!(
        status.phase.as_deref(),
        Some("Pending"),
        "it does not run as something else"
    );
    pods.delete("two", &Default::default()).await.unwrap();
    let gone = await_condition(pods.clone(), "two", |pod: Option<&Pod>| pod.is_none());
    tokio::time::timeout(PATIENCE, gone).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn native_containers_are_beside_isolated_guests() {
    let Some(cluster) = with_busybox("isolated Wasm Pods") else {
        return;
    };
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    cluster.push(&root.join("workloads/wasm/server.wasm"), "server:v1");
    let client = cluster.client().await;
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let mut both = pod("both", "wasm-isolated");
    let mut guest = both.spec.as_ref().unwrap().containers[0].clone();
    guest.name = "guest".into();
    guest.image = Some("amphipod.local/server:v1".into());
    guest.command = None;
    both.spec.as_mut().unwrap().containers.push(guest);
    run(&pods, &both).await;

    let debugger = json!({"name": "debugger", "image": "amphipod.local/busybox:v1",
        "command": ["sleep", "1000000"], "targetContainerName": "guest"});
    let added = Patch::Strategic(json!({"spec": {"ephemeralContainers": [debugger]}}));
    pods.patch_ephemeral_containers("both", &PatchParams::default(), &added)
        .await
        .unwrap();
    until(&pods, "both", "the debugger runs", |status| {
        runs(status, "debugger")
    })
    .await;
    let events: Api<Event> = Api::default_namespaced(client);
    let expected = "Target container \"guest\" is a Wasm guest, which has no processes to share";
    told(&events, "NoTargetProcesses", expected).await;
}

//! RuntimeClasses on a node (KEP-585): a handler it has, and one it has not.

use k8s_openapi::api::core::v1::{Event, Pod};
use k8s_openapi::api::node::v1::RuntimeClass;
use kube::Api;
use kube::runtime::wait::await_condition;
use serde_json::json;

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
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let all = events.list(&Default::default()).await.unwrap();
        let told = |e: &Event| {
            e.reason.as_deref() == Some("FailedCreatePodSandBox") && e.message.as_deref() == Some(expected)
        };
        if all.iter().any(told) {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{all:?}");
    }
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

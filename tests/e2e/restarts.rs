//! Everything of a Pod started anew because one of its containers ended so (KEP-5532): processes, guests, and both together.

use std::path::Path;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};
use kube::Api;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::changing::until;
use crate::cluster::Cluster;
use crate::streams::with_busybox;

/// What a container does.
enum Does {
    /// Adds a line to a file of the Pod.
    Append,
    /// Fails the first time, succeeds then.
    Once,
    Stay,
}

fn container(name: &str, is_wasm: bool, does: Does) -> Value {
    let (words, image) = match (is_wasm, does) {
        (true, Does::Append) => (json!(["append", "/d/order", "again"]), "witness"),
        (true, Does::Once) => (json!(["once", "/d/flag"]), "witness"),
        (true, Does::Stay) => (json!(["wait"]), "witness"),
        (false, Does::Append) => (json!(["sh", "-c", "echo again >> /d/order"]), "busybox"),
        (false, Does::Once) => (
            json!(["sh", "-c", "test -e /d/flag && exit 0; touch /d/flag; exit 1"]),
            "busybox",
        ),
        (false, Does::Stay) => (json!(["sleep", "600"]), "busybox"),
    };
    json!({"name": name, "image": format!("amphipod.local/{image}:v1"), "args": words,
        "volumeMounts": [{"name": "d", "mountPath": "/d"}]})
}

/// A Pod that has one of each kind; its `source` ends so the first time.
fn pod(name: &str, source_is_wasm: bool, others_are_wasm: bool) -> Pod {
    let mut side = container("side", others_are_wasm, Does::Stay);
    side["restartPolicy"] = json!("Always");
    let mut source = container("source", source_is_wasm, Does::Once);
    source["restartPolicy"] = json!("Never");
    source["restartPolicyRules"] =
        json!([{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [1]}}]);
    let other = container("other", others_are_wasm, Does::Stay);
    let init = [container("init", others_are_wasm, Does::Append), side];
    serde_json::from_value(
        json!({"metadata": {"name": name}, "spec": {"restartPolicy": "Never",
        "volumes": [{"name": "d", "emptyDir": {}}], "initContainers": init, "containers": [other, source]}}),
    )
    .unwrap()
}

fn all(status: &PodStatus) -> Vec<&ContainerStatus> {
    let inits = status.init_container_statuses.iter().flatten();
    inits.chain(status.container_statuses.iter().flatten()).collect()
}

fn is_up_again(status: &PodStatus) -> bool {
    let state = |name: &str| all(status).into_iter().find(|c| c.name == name)?.state.clone();
    let runs = |name| state(name).is_some_and(|s| s.running.is_some());
    let ended = state("source").and_then(|s| s.terminated);
    runs("side") && runs("other") && ended.is_some_and(|end| end.exit_code == 0)
}

fn is_restarting(status: &PodStatus) -> bool {
    let mut conditions = status.conditions.iter().flatten();
    conditions.any(|c| c.type_ == "AllContainersRestarting" && c.status == "True")
}

/// Every container was started once more, and says why.
fn check(name: &str, status: &PodStatus) {
    assert_eq!(all(status).len(), 4, "{name}");
    for container in all(status) {
        let before = container.last_state.as_ref().and_then(|s| s.terminated.as_ref());
        let why = before.map(|end| (end.reason.as_deref(), end.exit_code));
        assert_eq!(
            (container.restart_count, why),
            (1, Some((Some("RestartingAllContainers"), 137))),
            "{name}: {container:#?}"
        );
    }
    let initialized = status
        .conditions
        .iter()
        .flatten()
        .find(|c| c.type_ == "Initialized");
    assert_eq!(initialized.unwrap().status, "True", "{name}");
    assert!(!is_restarting(status), "{name}");
}

/// A cluster with both programs.
fn cluster(test: &str) -> Option<Cluster> {
    let cluster = with_busybox(test)?;
    let witness = Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads/wasm/witness-component.wasm");
    cluster.push(&witness, "witness:v1");
    Some(cluster)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_one_starts_all_anew() {
    let Some(cluster) = cluster("starting all containers anew") else {
        return;
    };
    let pods: Api<Pod> = Api::default_namespaced(cluster.client().await);
    let cases = [
        ("processes", false, false),
        ("guests", true, true),
        ("both", true, false),
        ("reverse", false, true),
    ];
    for (name, source, others) in cases {
        pods.create(&Default::default(), &pod(name, source, others))
            .await
            .unwrap();
    }
    until(&pods, "processes", "it tells that it restarts", is_restarting).await;
    let address = |status: &PodStatus| status.pod_ip.clone();
    let before = address(&pods.get("processes").await.unwrap().status.unwrap());
    for (name, ..) in cases {
        until(&pods, name, "all run again", is_up_again).await;
        check(name, &pods.get(name).await.unwrap().status.unwrap());
    }
    let after = address(&pods.get("processes").await.unwrap().status.unwrap());
    assert!(before.is_some() && before == after, "{before:?} {after:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_killed_in_between_goes_on_with_it() {
    let Some(mut cluster) = cluster("starting all containers anew across a kill of the agent") else {
        return;
    };
    let pods: Api<Pod> = Api::default_namespaced(cluster.client().await);
    for (name, source, others) in [("processes", false, false), ("both", true, false)] {
        pods.create(&Default::default(), &pod(name, source, others))
            .await
            .unwrap();
    }
    until(&pods, "processes", "it restarts", is_restarting).await;
    cluster.stop(Signal::SIGKILL);
    cluster.start(&[]);
    let pods: Api<Pod> = Api::default_namespaced(cluster.client().await);
    for name in ["processes", "both"] {
        until(&pods, name, "all run again", is_up_again).await;
        check(name, &pods.get(name).await.unwrap().status.unwrap());
    }
}

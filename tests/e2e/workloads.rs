//! The demo of the README: what `workloads/hello.yaml` promises, asked for over the network and over the API.

use std::path::Path;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Pod, Service};
use kube::Api;
use nix::sys::signal::Signal;

use crate::cluster::{Cluster, PATIENCE, http_get, is_root};

/// Body of `GET path`, retried while a Service's rules, or a Pod's, are on their way.
pub fn eventually(address: &str, path: &str, words: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = http_get(address, path).unwrap_or_else(|why| why.to_string());
        if answer.contains(words) {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "no {words:?} from {address}{path}; last answer: {answer}"
        );
        std::thread::yield_now();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hello_yaml_keeps_its_promises_across_kill_9() {
    if !is_root("hello.yaml") {
        return;
    }
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads/hello.yaml");
    let mut cluster = Cluster::up(&[&manifest]);
    assert!(
        cluster.printed().contains("ended with exit code 3"),
        "{}",
        cluster.printed()
    );
    let client = cluster.client().await;
    promises(&client).await;

    let before = started(&client).await;
    cluster.stop(Signal::SIGKILL);
    // The dataplane and the Pods do not need the agent.
    eventually("127.0.0.1:30080", "/", "hello from wasm");
    cluster.start(&[&manifest]);
    let client = cluster.client().await;
    assert_eq!(
        before,
        started(&client).await,
        "a restart of `up` restarts no container"
    );
    promises(&client).await;
    what_is_used_is_known(&client).await;
    crate::kubectl::top(&cluster);
}

/// The resource metrics API tells of both runtimes alike, once the node was looked at twice.
async fn what_is_used_is_known(client: &kube::Client) {
    let node = measured(client, "nodes/node-a").await;
    assert!(node["usage"]["cpu"].as_str().unwrap().ends_with('n'), "{node}");
    let metrics = measured(client, "namespaces/default/pods/duet").await;
    let containers = metrics["containers"].as_array().unwrap();
    assert_eq!(containers.len(), 2, "{metrics}");
    let used = |resource: &str| -> Vec<&str> {
        let amounts = containers.iter().map(|c| c["usage"][resource].as_str().unwrap());
        amounts.filter(|amount| !amount.starts_with('0')).collect()
    };
    // An idle Wasm container that serves HTTP holds no memory of its own.
    assert_eq!((used("cpu").len(), used("memory").len()), (2, 1), "{metrics}");
}

/// Metrics, as soon as there are any.
async fn measured(client: &kube::Client, path: &str) -> serde_json::Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let request = http::Request::get(format!("/apis/metrics.k8s.io/v1beta1/{path}"));
        match client.request(request.body(Vec::new()).unwrap()).await {
            Ok(metrics) => return metrics,
            Err(error) => assert!(Instant::now() < deadline, "no metrics of {path}: {error}"),
        }
        // Metrics cannot be watched: asking again is all a client can do.
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

async fn promises(client: &kube::Client) {
    eventually("127.0.0.1:30080", "/", "hello from wasm");
    eventually(
        "127.0.0.1:30081",
        "/files/data/message",
        "healthz answered 200 ok",
    );
    eventually(
        "127.0.0.1:30081",
        "/fetch?url=http://127.0.0.1:9090/",
        "from native",
    );
    let services: Api<Service> = Api::default_namespaced(client.clone());
    let native = services
        .get("hello-native")
        .await
        .unwrap()
        .spec
        .unwrap()
        .cluster_ip
        .unwrap();
    eventually(&format!("{native}:80"), "/", "hello from native");

    // Either server asks for the other by the names of the cluster, short and whole.
    for name in ["hello-wasm", "hello-wasm.default.svc.cluster.local."] {
        let path = format!("/fetch?url=http://{name}:80/");
        eventually(&format!("{native}:80"), &path, "hello from wasm");
    }
    for name in ["hello-native", "hello-native.default.svc.cluster.local."] {
        let path = format!("/fetch?url=http://{name}:80/");
        eventually("127.0.0.1:30080", &path, "hello from native");
    }

    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let once = pods.get("once").await.unwrap().status.unwrap();
    assert_eq!(once.phase.as_deref(), Some("Failed"));
    let log = pods.logs("once", &kube::api::LogParams::default()).await.unwrap();
    assert!(
        log.contains("arguments: 3 from hello.yaml") && log.contains("GREETING=good morning"),
        "{log}"
    );
}

/// Name, start time and restarts of every container.
async fn started(client: &kube::Client) -> Vec<(String, String)> {
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let mut found = Vec::new();
    for pod in pods.list(&Default::default()).await.unwrap() {
        for container in pod.status.unwrap().container_statuses.unwrap() {
            let key = format!("{}/{}", pod.metadata.name.as_deref().unwrap(), container.name);
            let state = serde_json::to_string(&(container.state, container.restart_count)).unwrap();
            found.push((key, state));
        }
    }
    found.sort();
    assert_eq!(found.len(), 3 + 2 + 2 + 1);
    found
}

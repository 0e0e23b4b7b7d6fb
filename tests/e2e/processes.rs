//! Pods whose containers see each other's processes (`shareProcessNamespace`).

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::changing::{container, runs, until};
use crate::streams::with_busybox;
use crate::users::{run, script};

const IMAGE: &str = "amphipod.local/busybox:v1";

fn pod(name: &str, host_users: bool) -> Pod {
    let sleeper =
        |name: &str, seconds: &str| json!({"name": name, "image": IMAGE, "command": ["sleep", seconds]});
    let first = json!({"name": "first", "image": IMAGE, "command": ["sh", "-c", "sleep 999999 & exit 0"]});
    let spec = json!({"shareProcessNamespace": true, "hostUsers": host_users, "terminationGracePeriodSeconds": 0,
        "initContainers": [first], "containers": [sleeper("a", "111111"), sleeper("b", "222222")]});
    serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap()
}

fn state(pod: &Pod, name: &str) -> Value {
    let found = container(pod.status.as_ref().unwrap(), name).unwrap();
    json!([found.container_id, found.restart_count, found.state])
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_of_a_pod_share_their_processes() {
    let Some(cluster) = with_busybox("sharing processes") else {
        return;
    };
    let pods: Api<Pod> = Api::default_namespaced(cluster.client().await);
    for (name, host_users) in [("plain", true), ("own-users", false)] {
        run(&pods, &pod(name, host_users)).await;
        they_share(&pods, name).await;
    }
}

async fn they_share(pods: &Api<Pod>, name: &str) {
    let seen = script(pods, name, "a", "ps -o pid,comm,args").await;
    for process in ["    1 pause", "sleep 111111", "sleep 222222"] {
        assert!(seen.contains(process), "{name}: {seen}");
    }
    assert!(
        !seen.contains("999999"),
        "what an init container left is gone: {seen}"
    );
    let before = state(&pods.get(name).await.unwrap(), "a");
    script(
        pods,
        name,
        "a",
        "kill -9 $(ps -o pid,args | awk '/[s]leep 222222/ {print $1}')",
    )
    .await;
    until(pods, name, "the other runs again", |s| {
        runs(s, "b") && container(s, "b").is_some_and(|c| c.restart_count == 1)
    })
    .await;
    assert_eq!(
        state(&pods.get(name).await.unwrap(), "a"),
        before,
        "nothing happened to this one"
    );
    let seen = script(pods, name, "b", "ps -o args").await;
    assert!(
        seen.contains("sleep 111111") && seen.contains("sleep 222222"),
        "{seen}"
    );

    let debugger = json!({"name": "debugger", "image": IMAGE, "command": ["sleep", "333333"]});
    let add = Patch::Strategic(json!({"spec": {"ephemeralContainers": [debugger]}}));
    pods.patch_ephemeral_containers(name, &PatchParams::default(), &add)
        .await
        .unwrap();
    until(pods, name, "the debugger runs", |s| runs(s, "debugger")).await;
    assert!(
        script(pods, name, "debugger", "ps -o args")
            .await
            .contains("sleep 111111")
    );
    assert!(
        script(pods, name, "a", "ps -o args")
            .await
            .contains("sleep 333333")
    );
}

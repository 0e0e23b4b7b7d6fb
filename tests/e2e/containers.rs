//! What the containers of one Pod may rely on of each other.

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::LogParams;
use serde_json::{Value, json};

use crate::changing::until;
use crate::streams::with_busybox;

const BUSYBOX: &str = "amphipod.local/busybox:v1";

/// A container with the Pod's volume at `/d`.
fn container(name: &str, script: &str) -> Value {
    json!({"name": name, "image": BUSYBOX, "command": ["sh", "-c", script],
        "volumeMounts": [{"name": "d", "mountPath": "/d"}]})
}

fn pod(name: &str, init: Value, containers: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "volumes": [{"name": "d", "emptyDir": {}}],
            "initContainers": init,
            "containers": containers,
        },
    }))
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_container_finds_what_those_before_it_made() {
    let Some(cluster) = with_busybox("containers of one Pod") else {
        return;
    };
    let pods: Api<Pod> = Api::default_namespaced(cluster.client().await);
    let mut first = container("first", "until test -e /d/second; do sleep 0.1; done");
    first["lifecycle"] =
        json!({"postStart": {"exec": {"command": ["sh", "-c", "sleep 1; echo up > /d/first"]}}});
    let mut second = container("second", "cat /d/first && touch /d/second && echo $WHO");
    second["env"] = json!([{"name": "WHO", "valueFrom":
        {"fileKeyRef": {"volumeName": "d", "path": "env", "key": "WHO"}}}]);
    let init = container("init", "echo \"WHO='me'\" > /d/env");
    let ordered = pod("ordered", json!([init]), json!([first, second]));
    pods.create(&Default::default(), &ordered).await.unwrap();

    let mut nameless = container("c", "true");
    nameless["volumeMounts"][0]["subPathExpr"] = "$(NOPE)".into();
    let nameless = pod("nameless", json!([]), json!([nameless]));
    pods.create(&Default::default(), &nameless).await.unwrap();

    until(&pods, "ordered", "it succeeds", |status| {
        status.phase.as_deref() == Some("Succeeded")
    })
    .await;
    let second = LogParams {
        container: Some("second".into()),
        ..LogParams::default()
    };
    assert_eq!(pods.logs("ordered", &second).await.unwrap(), "up\nme\n");
    until(&pods, "nameless", "it waits for a value", |status| {
        let state = status
            .container_statuses
            .iter()
            .flatten()
            .next()
            .and_then(|c| c.state.as_ref());
        state.and_then(|s| s.waiting.as_ref()).is_some_and(|waiting| {
            waiting.reason.as_deref() == Some("CreateContainerConfigError")
                && waiting.message.as_deref() == Some("missing value for NOPE")
        })
    })
    .await;
}

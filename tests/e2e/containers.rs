//! What the containers of one Pod may rely on of each other.

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::LogParams;
use serde_json::{Value, json};

use crate::changing::until;
use crate::cluster::{Cluster, is_root};
use crate::streams::{BUSYBOX as PROGRAM, with_busybox};
use crate::volumes::says;
use crate::wasm_images::layout;

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

/// A layer with a shell, and a directory of somebody's with a file in it.
fn layer_with_a_shell() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut add = |path: &str, mode: u32, owner: u64, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        if path.ends_with('/') {
            header.set_entry_type(tar::EntryType::Directory);
        }
        header.set_size(content.len() as u64);
        header.set_mode(mode);
        header.set_uid(owner);
        header.set_gid(owner);
        builder.append_data(&mut header, path, content).unwrap();
    };
    add("bin/sh", 0o755, 0, &std::fs::read(PROGRAM).unwrap());
    add("state/", 0o750, 7, b"");
    add("state/first", 0o640, 7, b"from the image\n");
    builder.into_inner().unwrap()
}

/// As containerd gives them: with the image's content and owner, writable in a root that is not, anew for each container.
#[tokio::test(flavor = "multi_thread")]
async fn volumes_of_an_image_are_each_containers_own() {
    let test = "volumes of an image";
    if !is_root(test) {
        return;
    }
    if !std::path::Path::new(PROGRAM).exists() {
        eprintln!("skipped {test}: needs {PROGRAM} (Debian package busybox-static)");
        return;
    }
    let cluster = Cluster::up(&[]);
    let architecture = if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    };
    let config = json!({"os": "linux", "architecture": architecture,
        "config": {"User": "7", "Volumes": {"/state": {}, "/new/one": {}, "/mounted": {}}}});
    cluster.push(
        &layout(cluster.dir(), &[layer_with_a_shell()], config),
        "volumes:v1",
    );
    let client = cluster.client().await;
    let look = "read -r line < /state/first; echo $line; echo more > /state/second && echo wrote;
        (echo x > /root) 2> /dev/null || echo sealed; echo x > /mounted/x && echo mounted; set -- /state/*; echo $*";
    let seen = "from the image\nwrote\nsealed\nmounted\n/state/first /state/second\n";
    for (name, users) in [("plain", json!(null)), ("mapped", json!(false))] {
        let container = json!({"name": "c", "image": "amphipod.local/volumes:v1", "command": ["/bin/sh", "-c", look],
            "securityContext": {"readOnlyRootFilesystem": true},
            "volumeMounts": [{"name": "v", "mountPath": "/mounted"}]});
        let init = {
            let mut init = container.clone();
            init["name"] = json!("init");
            init
        };
        let pod = json!({"metadata": {"name": name}, "spec": {"restartPolicy": "Never", "hostUsers": users,
            "automountServiceAccountToken": false, "securityContext": {"fsGroup": 7},
            "initContainers": [init], "containers": [container], "volumes": [{"name": "v", "emptyDir": {}}]}});
        let said = says(&client, serde_json::from_value(pod).unwrap()).await;
        assert_eq!(said, seen, "{name}");
    }
}

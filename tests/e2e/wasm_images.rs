//! Images for WASI as Docker builds them, layers with a module and files of its own: what is in them is the guest's root.

use std::fs;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::api::LogParams;
use kube::{Api, Client};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::changing::{container, until};
use crate::cluster::{Cluster, is_root};
use crate::streams::with_busybox;
use crate::volumes::says;

const IMAGE: &str = "amphipod.local/layers:v1";

fn layer(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, path, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

/// Stores a blob of an OCI layout and describes it.
fn blob(layout: &Path, kind: &str, bytes: &[u8]) -> Value {
    let digest = hex::encode(Sha256::digest(bytes));
    fs::write(layout.join("blobs/sha256").join(&digest), bytes).unwrap();
    let kind = format!("application/vnd.oci.image.{kind}");
    json!({"mediaType": kind, "digest": format!("sha256:{digest}"), "size": bytes.len()})
}

/// An OCI layout of an image of two layers: files, of which some are a volume, and two programs.
fn guests_layout(home: &Path) -> PathBuf {
    let wasm = Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads/wasm");
    let program = |name: &str| fs::read(wasm.join(name)).unwrap();
    let files = layer(&[
        ("assets/greeting", b"good morning"),
        ("data/hidden", b"by the volume"),
    ]);
    let programs = layer(&[
        ("app/witness.wasm", &program("witness.wasm")),
        ("app/print.wasm", &program("print.wasm")),
    ]);
    let config = json!({"os": "wasip1", "architecture": "wasm", "config": {
        "Entrypoint": ["/app/witness.wasm"], "Cmd": ["read", "/assets/greeting"],
        "Volumes": {"/assets": {}, "/data": {}}}});
    layout(home, &[files, programs], config)
}

/// An OCI layout of an image with that configuration.
pub fn layout(home: &Path, layers: &[Vec<u8>], mut config: Value) -> PathBuf {
    let layout = home.join("layout");
    fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
    let layers: Vec<_> = layers
        .iter()
        .map(|layer| blob(&layout, "layer.v1.tar", layer))
        .collect();
    let diff_ids: Vec<_> = layers.iter().map(|layer| &layer["digest"]).collect();
    config["rootfs"] = json!({"type": "layers", "diff_ids": diff_ids});
    let config = blob(&layout, "config.v1+json", config.to_string().as_bytes());
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers});
    let manifest = blob(&layout, "manifest.v1+json", manifest.to_string().as_bytes());
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    fs::write(layout.join("index.json"), index.to_string()).unwrap();
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#).unwrap();
    layout
}

/// A Pod that runs once, with a volume at `/data` and its last words there.
async fn run(client: &Client, name: &str, container: Value) -> String {
    let mut container = container;
    container["name"] = json!("c");
    container["image"] = json!(IMAGE);
    container["volumeMounts"] = json!([{"name": "v", "mountPath": "/data"}]);
    container["terminationMessagePath"] = json!("/data/end");
    let pod = json!({"metadata": {"name": name}, "spec": {"restartPolicy": "Never", "containers": [container],
        "automountServiceAccountToken": false, "volumes": [{"name": "v", "emptyDir": {}}]}});
    says(client, serde_json::from_value(pod).unwrap()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_layers_is_its_guests_root() {
    if !is_root("Wasm images of layers") {
        return;
    }
    let cluster = Cluster::up(&[]);
    cluster.push(&guests_layout(cluster.dir()), "layers:v1");
    let client = cluster.client().await;
    let said = run(&client, "own", json!({})).await;
    assert_eq!(said, "/assets/greeting: \"good morning\"\n");
    let look = json!({"args": ["list", "/", "/app", "/data", "/etc", "/data/../assets"]});
    assert_eq!(
        run(&client, "look", look).await,
        "/: app/ assets/ data/ etc/\n/app: print.wasm witness.wasm\n/data: end\n\
         /etc: hostname hosts resolv.conf\n/data/../assets: greeting\n"
    );
    let write = |path: &str| json!({"args": ["write", path, "mine"]});
    assert_eq!(
        run(&client, "changes", write("/assets/greeting")).await,
        "write: done\n"
    );
    let sealed = |path: &str| {
        let mut sealed = write(path);
        sealed["securityContext"] = json!({"readOnlyRootFilesystem": true});
        sealed
    };
    // EROFS, for which Rust has no kind where programs are made for preview 1.
    let said = run(&client, "sealed", sealed("/app/one")).await;
    assert_eq!(said, "write: Uncategorized\n");
    let said = run(&client, "unsealed", sealed("/assets/greeting")).await;
    assert_eq!(
        said, "write: done\n",
        "what the image declares as a volume is not sealed"
    );
    assert_eq!(run(&client, "ends", write("/data/end")).await, "write: done\n");
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let status = pods.get("ends").await.unwrap().status.unwrap();
    let state = status.container_statuses.unwrap().remove(0).state.unwrap();
    assert_eq!(state.terminated.unwrap().message.as_deref(), Some("mine"));
    let another = json!({"command": ["/app/print.wasm"], "args": ["one"]});
    let said = run(&client, "another", another).await;
    assert!(said.contains("arg 0: /app/print.wasm\narg 1: one\n"), "{said}");
}

/// A Pod of a class that runs once.
fn of_class(name: &str, class: Value, containers: Value) -> Pod {
    let spec = json!({"runtimeClassName": class, "restartPolicy": "Never", "terminationGracePeriodSeconds": 0,
        "automountServiceAccountToken": false, "containers": containers});
    serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_class_has_wasm_in_linux_images_run_beside_native_programs_or_none_at_all() {
    let Some(cluster) = with_busybox("Wasm in Linux images") else {
        return;
    };
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads/wasm/print.wasm");
    let files = layer(&[("app/print.wasm", &fs::read(&program).unwrap())]);
    let architecture = match std::env::consts::ARCH {
        "aarch64" => "arm64",
        _ => "amd64",
    };
    let config = json!({"os": "linux", "architecture": architecture, "config": {
        "Entrypoint": ["print.wasm"], "Cmd": ["one"], "WorkingDir": "/app"}});
    cluster.push(&layout(cluster.dir(), &[files], config), "linux:v1");
    cluster.push(&program, "print:v1");
    let client = cluster.client().await;
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let guest = json!({"name": "guest", "image": "amphipod.local/linux:v1"});
    let native =
        json!({"name": "native", "image": "amphipod.local/busybox:v1", "command": ["echo", "native"]});

    for class in ["wasm", "wasm-isolated"] {
        let pod = of_class(class, json!(class), json!([guest, native]));
        pods.create(&Default::default(), &pod).await.unwrap();
        let ended = |status: &PodStatus| status.phase.as_deref() == Some("Succeeded");
        until(&pods, class, "both kinds end well", ended).await;
        let log = async |container: &str| {
            let params = LogParams {
                container: Some(container.into()),
                ..LogParams::default()
            };
            pods.logs(class, &params).await.unwrap()
        };
        let said = log("guest").await;
        assert!(
            said.contains("arg 0: print.wasm\narg 1: one\n"),
            "{class}: {said}"
        );
        assert_eq!(log("native").await, "native\n", "{class}");
    }

    for (name, class) in [("without", json!(null)), ("native", json!("linux"))] {
        let mut named = guest.clone();
        named["command"] = json!(["/app/print.wasm"]);
        let pod = of_class(name, class, json!([named]));
        pods.create(&Default::default(), &pod).await.unwrap();
        let told = |status: &PodStatus| {
            let state = container(status, "guest").and_then(|c| c.state.clone());
            let ended = state.and_then(|state| state.terminated).unwrap_or_default();
            let message = ended.message.unwrap_or_default();
            let says = ["it is WebAssembly", "a RuntimeClass with handler \"wasm\""];
            ended.reason.as_deref() == Some("StartError") && says.iter().all(|words| message.contains(words))
        };
        until(&pods, name, "it says what to do", told).await;
    }

    let artifact = json!({"name": "guest", "image": "amphipod.local/print:v1"});
    let pod = of_class("artifact", json!("linux"), json!([artifact]));
    pods.create(&Default::default(), &pod).await.unwrap();
    let refused = |status: &PodStatus| {
        let state = container(status, "guest").and_then(|c| c.state.clone());
        let waiting = state.and_then(|state| state.waiting).unwrap_or_default();
        let message = waiting.message.unwrap_or_default();
        waiting.reason.as_deref() == Some("CreateContainerError")
            && message.contains("runs native programs only")
    };
    until(&pods, "artifact", "it is refused", refused).await;
}

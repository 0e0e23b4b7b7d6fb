//! Mistakes, each answered in the place where a Kubernetes user looks, with nothing else harmed.

use std::path::Path;
use std::pin::pin;
use std::process::Command;

use futures::TryStreamExt;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::runtime::wait::await_condition;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::cluster::{AMPHIPOD, Cluster, PATIENCE, is_root, run, text};
use crate::faults::until;

#[test]
fn wrong_flags_say_what_to_do() {
    for (words, code, said) in [
        (&["up", "--listen", "nowhere"][..], 2, "--listen <ADDR:PORT>"),
        (&["up", "--pod-cidr", "10.0.0.0/99"], 2, "--pod-cidr <CIDR>"),
        (&["upp"], 2, "unrecognized subcommand"),
        (
            &["up", "/nowhere/at/all.yaml"],
            1,
            "looking for the manifest /nowhere/at/all.yaml",
        ),
        (
            &["down", "--data-dir", "/nowhere/at/all"],
            1,
            "there is no data directory",
        ),
        (
            &["node", "--server", "https://127.0.0.1:1"],
            2,
            "--kubeconfig <FILE>",
        ),
    ] {
        let output = run(Command::new(AMPHIPOD).args(words));
        assert_eq!(output.status.code(), Some(code), "{words:?}: {}", text(&output));
        assert!(text(&output).contains(said), "{words:?}: {}", text(&output));
    }
}

#[test]
fn bad_manifests_name_file_line_and_column_before_anything_starts() {
    let cluster = Cluster::new();
    let file = cluster.dir().join("m.yaml");
    std::fs::write(&file, "apiVersion: v1\nkind: Pod\nmetadata:\n  name: [x\n").unwrap();
    let output = run(&mut cluster.up_command(&[&file]));
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output).contains("m.yaml:4:") || text(&output).contains("m.yaml:5:"),
        "{}",
        text(&output)
    );
    assert!(!cluster.data_dir().exists(), "nothing was started");
}

/// Of what cannot be on this host nothing is written down, so that another command line can be tried.
#[test]
fn a_node_whose_range_of_services_is_in_use_leaves_nothing() {
    if !is_root("a range of Services in use") {
        return;
    }
    let cluster = Cluster::up(&[]);
    let text_of = |dir: &Path| std::fs::read_to_string(dir.join("cluster.json"));
    let known: serde_json::Value = serde_json::from_str(&text_of(&cluster.data_dir()).unwrap()).unwrap();
    let range = known["serviceCidr"].as_str().unwrap();
    let other = cluster.dir().join("other");
    let mut command = Command::new(AMPHIPOD);
    command.args([
        "node",
        "--server",
        "https://127.0.0.1:1",
        "--kubeconfig",
        "/nowhere",
    ]);
    let output = run(command.args(["--service-cidr", range, "--data-dir"]).arg(&other));
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let said = "choose another --service-cidr";
    assert!(text(&output).contains(said), "{}", text(&output));
    assert!(text_of(&other).is_err(), "settings are written down");
}

#[test]
fn a_foreign_or_busy_data_dir_is_refused() {
    let cluster = Cluster::new();
    std::fs::create_dir(cluster.data_dir()).unwrap();
    std::fs::write(cluster.data_dir().join("version"), "99\n").unwrap();
    let output = run(&mut cluster.up_command(&[]));
    assert!(text(&output).contains("has format \"99\""), "{}", text(&output));

    if is_root("a busy data dir") {
        let cluster = Cluster::up(&[]);
        let output = run(&mut cluster.up_command(&[]));
        assert!(
            text(&output).contains("in use by a running amphipod"),
            "{}",
            text(&output)
        );
    }
}

#[test]
fn a_port_in_use_is_named() {
    if !is_root("a port in use") {
        return;
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for flag in ["--listen", "--registry"] {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new(AMPHIPOD);
        command
            .args(["up", flag, &address])
            .arg("--data-dir")
            .arg(dir.path().join("data"));
        if flag == "--registry" {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        let output = run(&mut command);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        assert!(
            text(&output).contains(&address) && text(&output).contains(flag),
            "{flag}: {}",
            text(&output)
        );
    }
}

#[test]
fn an_unknown_kind_names_its_place() {
    if !is_root("an unknown kind") {
        return;
    }
    let cluster = Cluster::new();
    let file = cluster.dir().join("m.yaml");
    let good = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: good}\n";
    std::fs::write(
        &file,
        format!("{good}---\napiVersion: example.org/v1\nkind: Gadget\nmetadata: {{name: x}}\n"),
    )
    .unwrap();
    let output = run(&mut cluster.up_command(&[&file]));
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(
        text(&output).contains("m.yaml:5: no matches for kind \"Gadget\" in version \"example.org/v1\""),
        "{}",
        text(&output)
    );
}

/// A Pod with one container, and what its container status and an event must say.
struct Case {
    name: &'static str,
    image: String,
    command: Option<&'static str>,
    reasons: &'static [&'static str],
    message: &'static str,
    event: &'static str,
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_images_and_commands_show_in_status_and_events_and_harm_nobody() {
    if !is_root("bad images") {
        return;
    }
    let cluster = Cluster::up(&[]);
    let wasm = Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads/wasm");
    for (file, name) in [("burn.wasm", "good:v1"), ("print.wasm", "corrupt:v1")] {
        cluster.push(&wasm.join(file), name);
    }
    corrupt(&cluster, &std::fs::read(wasm.join("print.wasm")).unwrap());
    write_and_push(&cluster, "unknown.wasm", &component_with_unknown_import());
    push_unchecked(&cluster, "invalid:v1", &invalid_module());
    native_image(&cluster);

    let client = cluster.client().await;
    create(&client, "good", "amphipod.local/good:v1", None).await;
    for case in cases() {
        create(&client, case.name, &case.image, case.command).await;
    }
    for case in cases() {
        check(&client, &case).await;
    }
    let good = await_pod(&client, "good", |pod| phase(pod) == Some("Running")).await;
    assert_eq!(
        good.status.unwrap().container_statuses.unwrap()[0].restart_count,
        0
    );
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    for case in cases() {
        pods.delete(case.name, &Default::default()).await.unwrap();
    }
    let shims = cluster.shims();
    let goods_alone = async || (shims_in(&shims) == 1).then_some(());
    until("a failed start to leave no shim", goods_alone).await;
}

fn cases() -> Vec<Case> {
    let image = |name: &str| format!("amphipod.local/{name}:v1");
    let pull: &[&str] = &["ErrImagePull", "ImagePullBackOff"];
    vec![
        Case {
            name: "missing-image",
            image: image("nosuch"),
            command: None,
            reasons: pull,
            message: "nosuch",
            event: "Failed",
        },
        Case {
            name: "corrupt-layer",
            image: image("corrupt"),
            command: None,
            reasons: pull,
            message: "digest",
            event: "Failed",
        },
        Case {
            name: "bad-name",
            image: "UPPER CASE".into(),
            command: None,
            reasons: &["InvalidImageName"],
            message: "UPPER CASE",
            event: "InspectFailed",
        },
        Case {
            name: "unknown-import",
            image: image("unknown"),
            command: None,
            reasons: &["CreateContainerError", "ErrImagePull", "ImagePullBackOff"],
            message: "acme:gadgets/lever",
            event: "Failed",
        },
        Case {
            name: "invalid-module",
            image: image("invalid"),
            command: None,
            reasons: &["CreateContainerError", "ErrImagePull", "ImagePullBackOff"],
            message: "nvalid",
            event: "Failed",
        },
        Case {
            name: "missing-command",
            image: image("native"),
            command: Some("/no/such/command"),
            reasons: &["RunContainerError", "StartError", "CrashLoopBackOff"],
            message: "/no/such/command",
            event: "Failed",
        },
    ]
}

/// How many shims serve.
fn shims_in(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries
        .filter(|path| path.extension().is_some_and(|end| end == "sock"))
        .count()
}

async fn create(client: &Client, name: &str, image: &str, command: Option<&str>) {
    let mut container = json!({"name": "c", "image": image});
    if let Some(command) = command {
        container["command"] = json!([command]);
    }
    let pod = serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [container]}
    }));
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    pods.create(&Default::default(), &pod.unwrap()).await.unwrap();
}

async fn await_pod(client: &Client, name: &str, is_so: impl Fn(&Pod) -> bool) -> Pod {
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let wait = await_condition(pods.clone(), name, |pod: Option<&Pod>| pod.is_some_and(&is_so));
    match tokio::time::timeout(PATIENCE, wait).await {
        Ok(pod) => pod.unwrap().unwrap(),
        Err(_) => panic!("{name} is still {:#?}", pods.get(name).await.unwrap().status),
    }
}

fn phase(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.phase.as_deref()
}

/// Reason and message of the container's waiting or terminated state, its last state included.
fn complaints(pod: &Pod) -> Vec<(String, String)> {
    let statuses = pod
        .status
        .iter()
        .flat_map(|status| status.container_statuses.iter().flatten());
    let states = statuses
        .flat_map(|status| [status.state.as_ref(), status.last_state.as_ref()])
        .flatten();
    let complaint = |state: &k8s_openapi::api::core::v1::ContainerState| {
        let (waiting, ended) = (state.waiting.clone(), state.terminated.clone());
        let waiting = waiting.map(|it| (it.reason.unwrap_or_default(), it.message.unwrap_or_default()));
        waiting.or(ended.map(|it| (it.reason.unwrap_or_default(), it.message.unwrap_or_default())))
    };
    states.filter_map(complaint).collect()
}

async fn check(client: &Client, case: &Case) {
    let complains = |pod: &Pod| {
        complaints(pod).iter().any(|(reason, message)| {
            case.reasons.contains(&reason.as_str()) && message.contains(case.message)
        })
    };
    await_pod(client, case.name, complains).await;
    let events: Api<Event> = Api::default_namespaced(client.clone());
    let about = watcher::Config::default().fields(&format!("involvedObject.name={}", case.name));
    let says_so = |event: &Event| {
        let message = event.message.as_deref().unwrap_or_default();
        event.reason.as_deref() == Some(case.event) && message.contains(case.message)
    };
    let mut seen = Vec::new();
    let mut stream = pin!(watcher(events, about).applied_objects());
    let wait = async {
        while let Some(event) = stream.try_next().await.unwrap() {
            if says_so(&event) {
                return;
            }
            seen.push(format!("{:?}: {:?}", event.reason, event.message));
        }
    };
    if tokio::time::timeout(PATIENCE, wait).await.is_err() {
        panic!(
            "{}: no {} event with {:?} among {seen:#?}",
            case.name, case.event, case.message
        );
    }
}

fn write_and_push(cluster: &Cluster, file: &str, bytes: &[u8]) {
    let path = cluster.dir().join(file);
    std::fs::write(&path, bytes).unwrap();
    cluster.push(&path, &format!("{}:v1", file.strip_suffix(".wasm").unwrap()));
}

/// Pushes a Wasm artifact as another tool might have made it: `amphipod image push` itself refuses what is not valid,
/// but takes an OCI layout as it is.
fn push_unchecked(cluster: &Cluster, name: &str, wasm: &[u8]) {
    let layout = cluster.dir().join("layout");
    std::fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
    let blob = |media_type: &str, bytes: &[u8]| {
        let hex = hex::encode(Sha256::digest(bytes));
        std::fs::write(layout.join("blobs/sha256").join(&hex), bytes).unwrap();
        json!({"mediaType": media_type, "digest": format!("sha256:{hex}"), "size": bytes.len()})
    };
    let layer = blob("application/wasm", wasm);
    let config = json!({"created": "2026-01-01T00:00:00Z", "architecture": "wasm", "os": "wasip1", "layerDigests": [layer["digest"]]});
    let config = blob(
        "application/vnd.wasm.config.v0+json",
        config.to_string().as_bytes(),
    );
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": [layer]});
    let manifest = blob(media_type, manifest.to_string().as_bytes());
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    std::fs::write(layout.join("index.json"), index.to_string()).unwrap();
    std::fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#).unwrap();
    cluster.push(&layout, name);
}

fn component_with_unknown_import() -> Vec<u8> {
    wat::parse_str(
        r#"(component
            (import "acme:gadgets/lever@1.0.0" (instance $lever (export "pull" (func))))
            (core module $m (func (export "run") (result i32) i32.const 0))
            (core instance $i (instantiate $m))
            (func $run (result (result)) (canon lift (core func $i "run")))
            (instance $cli (export "run" (func $run)))
            (export "wasi:cli/run@0.2.0" (instance $cli)))"#,
    )
    .unwrap()
}

/// The right magic and a function body that pops from an empty stack.
fn invalid_module() -> Vec<u8> {
    wat::parse_str(r#"(module (func (export "_start") i32.add drop))"#).unwrap()
}

/// Flips a byte of the blob with this content in the embedded registry, as a failing disk would.
fn corrupt(cluster: &Cluster, content: &[u8]) {
    let mut pending = vec![cluster.data_dir().join("registry")];
    while let Some(dir) = pending.pop() {
        for entry in std::fs::read_dir(&dir).unwrap().flatten() {
            let path = entry.path();
            match path.is_dir() {
                true => pending.push(path),
                false if std::fs::read(&path).unwrap() == content => {
                    let mut bytes = content.to_vec();
                    bytes[content.len() / 2] ^= 1;
                    return std::fs::write(&path, bytes).unwrap();
                }
                false => {}
            }
        }
    }
    panic!("the registry holds no such blob");
}

/// A native image of one static program: this machine's busybox where it is, else an empty root that runs nothing.
fn native_image(cluster: &Cluster) {
    let root = cluster.dir().join("native");
    std::fs::create_dir_all(root.join("bin")).unwrap();
    if Path::new("/bin/busybox").exists() {
        std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    }
    cluster.push(&root, "native:v1");
}

//! Pods with users of their own (`hostUsers: false`, KEP-127): what they see of themselves, what the host sees of them, and
//! what their root cannot do.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;

use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Secret};
use kube::Api;
use kube::api::{AttachParams, DeleteParams, LogParams};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use crate::cluster::{Cluster, PATIENCE};
use crate::faults::until as eventually;
use crate::streams::{is_ready, with_busybox};
use crate::volumes::remove;

const IMAGE: &str = "amphipod.local/busybox:v1";
const TOOLBOX: &str = "amphipod.local/toolbox-wasm:v1";
const SLEEP: [&str; 2] = ["sleep", "1000000"];

fn pod(name: &str, spec: Value) -> Pod {
    let mut spec = spec;
    spec["hostUsers"] = json!(false);
    spec["terminationGracePeriodSeconds"] = json!(0);
    serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap()
}

/// Makes the Pod and waits until it is ready.
pub async fn run(pods: &Api<Pod>, pod: &Pod) {
    pods.create(&Default::default(), pod).await.unwrap();
    let name = pod.metadata.name.as_deref().unwrap();
    let ready = kube::runtime::wait::await_condition(pods.clone(), name, is_ready);
    let ready = tokio::time::timeout(PATIENCE, ready).await;
    let Ok(Ok(_)) = ready else {
        panic!(
            "{name} did not become ready: {:?}",
            pods.get(name).await.unwrap().status
        );
    };
}

/// What a script in the Pod prints, also as errors.
pub async fn script(pods: &Api<Pod>, name: &str, container: &str, text: &str) -> String {
    let params = AttachParams::default().container(container).stderr(true);
    let script = format!("exec 2>&1; {text}");
    let deadline = std::time::Instant::now() + PATIENCE;
    let mut process = loop {
        match pods.exec(name, ["sh", "-c", script.as_str()], &params).await {
            Ok(process) => break process,
            // An agent that has just come back does not know its Pods yet.
            Err(kube::Error::Api(status)) if status.code == 404 => {
                assert!(std::time::Instant::now() < deadline, "{status}");
            }
            Err(error) => panic!("{error}"),
        }
    };
    let mut said = String::new();
    process.stdout().unwrap().read_to_string(&mut said).await.unwrap();
    process.join().await.unwrap();
    said
}

/// The host's number of a Pod's root, from `/proc/self/uid_map`.
async fn first_id(pods: &Api<Pod>, name: &str) -> u32 {
    let maps = script(pods, name, "a", "cat /proc/self/uid_map /proc/self/gid_map").await;
    let words: Vec<&str> = maps.split_whitespace().collect();
    let [inside, first, size, g_inside, g_first, g_size] = words[..] else {
        panic!("{maps}")
    };
    assert_eq!((inside, size), ("0", "65536"), "{maps}");
    assert_eq!((g_inside, g_first, g_size), (inside, first, size), "{maps}");
    first.parse().unwrap()
}

/// Users of all processes of the host that are in this range.
fn users_within(first: u32) -> BTreeSet<u32> {
    let owner = |entry: std::io::Result<fs::DirEntry>| entry.ok()?.metadata().ok().map(|m| m.uid());
    let all = fs::read_dir("/proc").unwrap().filter_map(owner);
    all.filter(|uid| (first..first + 65_536).contains(uid)).collect()
}

fn everything() -> Value {
    let mounts = ["disk", "memory", "map", "secret", "both", "host"]
        .map(|name| json!({"name": name, "mountPath": format!("/v/{name}")}));
    json!({
        "securityContext": {"fsGroup": 7, "sysctls": [{"name": "kernel.shm_rmid_forced", "value": "1"}]},
        "volumes": [
            {"name": "disk", "emptyDir": {}}, {"name": "memory", "emptyDir": {"medium": "Memory"}},
            {"name": "map", "configMap": {"name": "m"}}, {"name": "secret", "secret": {"secretName": "s"}},
            {"name": "both", "projected": {"sources": [{"configMap": {"name": "m"}}, {"downwardAPI": {"items": [
                {"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}}]}},
            {"name": "host", "hostPath": {"path": "/etc"}}],
        "containers": [
            {"name": "a", "image": IMAGE, "volumeMounts": mounts,
             "securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}},
             "command": ["sh", "-c", "echo ran > /dev/stdout; echo made > /v/disk/a; sleep 1000000"],
             "readinessProbe": {"exec": {"command": ["test", "-f", "/v/disk/a"]}, "periodSeconds": 1}},
            {"name": "b", "image": IMAGE, "command": SLEEP, "securityContext": {"runAsUser": 1000, "runAsGroup": 1000},
             "volumeMounts": [{"name": "disk", "mountPath": "/v/disk"}]}]
    })
}

async fn objects(cluster: &Cluster) {
    let client = cluster.client().await;
    let map: ConfigMap =
        serde_json::from_value(json!({"metadata": {"name": "m"}, "data": {"key": "value"}})).unwrap();
    let secret: Secret =
        serde_json::from_value(json!({"metadata": {"name": "s"}, "stringData": {"word": "hush"}})).unwrap();
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    maps.create(&Default::default(), &map).await.unwrap();
    let secrets: Api<Secret> = Api::default_namespaced(client);
    secrets.create(&Default::default(), &secret).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_have_users_of_their_own_which_outlive_the_agent() {
    let Some(mut cluster) = with_busybox("users") else {
        return;
    };
    objects(&cluster).await;
    let pods: Api<Pod> = Api::default_namespaced(cluster.client().await);
    run(&pods, &pod("one", everything())).await;
    run(
        &pods,
        &pod(
            "two",
            json!({"containers": [{"name": "a", "image": IMAGE, "command": SLEEP}]}),
        ),
    )
    .await;
    let (one, two) = (first_id(&pods, "one").await, first_id(&pods, "two").await);
    assert!(
        one != two && one % 65_536 == 0 && two % 65_536 == 0 && one > 0 && two > 0,
        "{one} {two}"
    );
    assert_eq!(users_within(one), BTreeSet::from([one, one + 1000]));
    volumes_are_as_without(&cluster, &pods).await;
    its_root_is_root_of_its_namespaces(&pods).await;

    cluster.stop(Signal::SIGKILL);
    cluster.start(&[]);
    let pods: Api<Pod> = Api::default_namespaced(cluster.client().await);
    assert_eq!(
        (first_id(&pods, "one").await, first_id(&pods, "two").await),
        (one, two)
    );
    let records = |pod: &Pod| {
        cluster
            .data_dir()
            .join("node/pods")
            .join(pod.metadata.uid.as_deref().unwrap())
    };
    let left = records(&pods.get("one").await.unwrap());
    assert!(left.join("userns").exists());
    pods.delete("one", &DeleteParams::default()).await.unwrap();
    let gone = kube::runtime::wait::await_condition(pods.clone(), "one", |pod: Option<&Pod>| pod.is_none());
    tokio::time::timeout(PATIENCE, gone).await.unwrap().unwrap();
    // The node hears of it with everybody else.
    let deadline = std::time::Instant::now() + PATIENCE;
    while left.join("userns").exists() {
        assert!(
            std::time::Instant::now() < deadline,
            "its range is not free again"
        );
        tokio::task::yield_now().await;
    }
    assert_eq!(users_within(one), BTreeSet::new());

    let nodes: Api<Node> = Api::all(cluster.client().await);
    let status = nodes.get("node-a").await.unwrap().status.unwrap();
    let handlers = serde_json::to_value(status.runtime_handlers).unwrap();
    assert_eq!(handlers[0]["features"]["userNamespaces"], json!(true));
}

/// Files belong to whom they would without user namespaces, inside and on the host.
async fn volumes_are_as_without(cluster: &Cluster, pods: &Api<Pod>) {
    let owners = "stat -c '%u:%g %n' /v/disk/a /v/map/key /v/secret/word /v/both/name /v/both/key /v/host/passwd \
        /etc/hosts /etc/resolv.conf /etc/hostname /dev/termination-log /bin/busybox / /dev/shm -L";
    let seen = script(pods, "one", "a", owners).await;
    assert_eq!(seen.lines().count(), 13, "{seen}");
    for line in seen.lines() {
        let expected = [
            "/v/disk/a",
            "/v/map/key",
            "/v/secret/word",
            "/v/both/name",
            "/v/both/key",
        ];
        let group = if expected.iter().any(|path| line.ends_with(path)) {
            7
        } else {
            0
        };
        assert!(line.starts_with(&format!("0:{group} ")), "{seen}");
    }
    let wrote = "echo x > /v/memory/x && echo x > /v/disk/x && stat -c %u:%g /v/memory/x /v/disk/x; cat /v/secret/word";
    assert_eq!(script(pods, "one", "a", wrote).await, "0:7\n0:7\nhush");
    let user = "id -u; echo y > /v/disk/y; stat -c %u /v/disk/y; rm -f /bin/busybox; echo y > /bin/y";
    let refused = script(pods, "one", "b", user).await;
    assert!(
        refused.starts_with("1000\n1000\n") && refused.matches("Permission denied").count() == 2,
        "{refused}"
    );
    let uid = pods.get("one").await.unwrap().metadata.uid.unwrap();
    let disk = cluster
        .data_dir()
        .join("node/pods")
        .join(uid)
        .join("volumes/disk");
    let owner = |name: &str| fs::metadata(disk.join(name)).map(|m| (m.uid(), m.gid())).unwrap();
    assert_eq!((owner("x"), owner("y")), ((0, 7), (1000, 7)));
    let of = LogParams {
        container: Some("a".into()),
        ..Default::default()
    };
    assert_eq!(
        pods.logs("one", &of).await.unwrap(),
        "ran\n",
        "its standard output is its own"
    );
}

/// The Pod's namespaces belong to its users: its root may name the host and set its own parameters.
async fn its_root_is_root_of_its_namespaces(pods: &Api<Pod>) {
    let acts = "hostname other && hostname; cat /proc/sys/kernel/shm_rmid_forced; \
        ping -c 1 -W 5 127.0.0.1 > /dev/null && echo pong; mkdir /mnt && mount -t tmpfs none /mnt && echo mounted";
    assert_eq!(script(pods, "one", "a", acts).await, "other\n1\npong\nmounted\n");
}

/// Root of such a Pod, with everything that `privileged` gives, against what is the host's.
#[tokio::test(flavor = "multi_thread")]
async fn root_of_a_pod_is_nobody_on_the_host() {
    let Some(cluster) = with_busybox("users: escapes") else {
        return;
    };
    let pods: Api<Pod> = Api::default_namespaced(cluster.client().await);
    let before = canaries();
    let spec = json!({"containers": [{"name": "a", "image": IMAGE, "command": SLEEP,
        "securityContext": {"privileged": true}}]});
    run(&pods, &pod("strong", spec)).await;
    let first = first_id(&pods, "strong").await;
    for attempt in [
        "mknod /block b 7 0",
        "cat /proc/sys/kernel/core_pattern > /proc/sys/kernel/core_pattern",
        "cat /proc/sys/vm/swappiness > /proc/sys/vm/swappiness",
        "head -c 1 /dev/mem",
        "head -c 1 /proc/kcore",
        "chown 0:0 /dev/null",
        "chmod 600 /dev/null",
        "mount -t devtmpfs none /mnt",
        "mount -t cgroup -o memory none /mnt && echo 1 > /mnt/cgroup.clone_children",
        "mount -t debugfs none /mnt",
        "mount -o remount,rw /proc/sysrq-trigger",
        "echo h > /proc/sysrq-trigger",
        "echo -1000 > /proc/self/oom_score_adj",
        "chown 70000 /tmp",
    ] {
        let said = script(
            &pods,
            "strong",
            "a",
            &format!("mkdir -p /mnt; ({attempt}) && echo DONE"),
        )
        .await;
        assert!(!said.contains("DONE"), "{attempt}: {said}");
    }
    let planted = script(
        &pods,
        "strong",
        "a",
        "cp /bin/busybox /planted && chmod 4755 /planted && ls -ln /planted",
    )
    .await;
    assert!(planted.contains("-rwsr-xr-x"), "{planted}");
    let snapshots = cluster.data_dir().join("node/images/snapshots");
    let planted = fs::read_dir(snapshots)
        .unwrap()
        .map(|dir| dir.unwrap().path().join("fs/planted"));
    let owners: Vec<u32> = planted
        .filter_map(|path| fs::metadata(path).ok())
        .map(|m| m.uid())
        .collect();
    assert_eq!(
        owners,
        [first],
        "a set-user-id program of its root is not of the host's root"
    );
    assert_eq!(canaries(), before);
}

/// What of the host must be as it was.
fn canaries() -> Vec<String> {
    let owned = [
        "/dev/null",
        "/dev/zero",
        "/etc/passwd",
        "/proc/sys/kernel/core_pattern",
    ]
    .map(|path| {
        let seen = fs::metadata(path).unwrap();
        format!("{path} {}:{} {:o}", seen.uid(), seen.gid(), seen.mode())
    });
    let read = [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/hostname",
        "/etc/passwd",
    ];
    owned
        .into_iter()
        .chain(read.map(|path| fs::read_to_string(path).unwrap()))
        .collect()
}

/// A Pod whose containers show an image, whole and in part: a guest that ends, and two that stay.
fn with_an_image(name: &str) -> Pod {
    let of = |name: &str, image: &str| {
        json!({"name": name, "image": image, "volumeMounts": [
            {"name": "v", "mountPath": "/v"}, {"name": "v", "mountPath": "/part", "subPath": "bin"}]})
    };
    let stays = |name: &str| {
        let mut container = of(name, IMAGE);
        container["command"] = json!(SLEEP);
        container
    };
    let mut guest = of("guest", TOOLBOX);
    guest["args"] = json!(["stat", "-c", "%n", "/v/bin/busybox", "/part/busybox"]);
    let volumes = json!([{"name": "v", "image": {"reference": IMAGE}}]);
    let containers = json!([stays("a"), stays("b")]);
    pod(
        name,
        json!({"initContainers": [guest], "containers": containers, "volumes": volumes}),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn images_as_volumes_belong_to_whom_they_would_without() {
    let Some(mut cluster) = with_busybox("users: image volumes") else {
        return;
    };
    let wasm = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads/wasm");
    cluster.push(&wasm.join("toolbox.wasm"), "toolbox-wasm:v1");
    let pods: Api<Pod> = Api::default_namespaced(cluster.client().await);
    let mut hosts = with_an_image("hosts");
    hosts.spec.as_mut().unwrap().host_users = None;
    run(&pods, &with_an_image("own")).await;
    run(&pods, &hosts).await;
    files_of_the_image_are_roots(&pods).await;

    cluster.stop(Signal::SIGKILL);
    cluster.start(&[]);
    let pods: Api<Pod> = Api::default_namespaced(cluster.client().await);
    files_of_the_image_are_roots(&pods).await;
    for name in ["own", "hosts"] {
        let uid = pods.get(name).await.unwrap().metadata.uid.unwrap();
        assert!(!left_of(&cluster, &uid).is_empty(), "{name}");
        remove(&pods, name).await;
        eventually("nothing is left of its volumes", async || {
            left_of(&cluster, &uid).is_empty().then_some(())
        })
        .await;
    }
}

async fn files_of_the_image_are_roots(pods: &Api<Pod>) {
    let look = "stat -c %u:%g /v /v/bin/busybox /part/busybox; head -c 4 /part/busybox | wc -c; \
        touch /v/x || touch /part/x || /v/bin/busybox true || echo sealed";
    for (name, container) in [("own", "a"), ("own", "b"), ("hosts", "a")] {
        let said = script(pods, name, container, look).await;
        assert!(said.starts_with("0:0\n0:0\n0:0\n4\n"), "{name}: {said}");
        assert_eq!(said.matches("Read-only file system").count(), 2, "{name}: {said}");
        assert!(said.ends_with("Permission denied\nsealed\n"), "{name}: {said}");
    }
    for name in ["own", "hosts"] {
        let of = LogParams {
            container: Some("guest".into()),
            ..LogParams::default()
        };
        let seen = pods.logs(name, &of).await.unwrap();
        assert_eq!(seen, "/v/bin/busybox\n/part/busybox\n", "{name}");
    }
}

/// What the host has mounted for a Pod's volumes, and snapshots they stand on.
fn left_of(cluster: &Cluster, uid: &str) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mounts = table.lines().filter(|line| line.contains(uid)).map(str::to_owned);
    let snapshots = fs::read_dir(cluster.data_dir().join("node/images/snapshots")).unwrap();
    let snapshots = snapshots.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    mounts
        .chain(snapshots.filter(|name| name.contains(uid)))
        .collect()
}

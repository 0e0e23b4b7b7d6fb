//! Volumes that outlive Pods, and images as volumes, in native and in Wasm containers alike.

use k8s_openapi::api::core::v1::{Event, PersistentVolume, PersistentVolumeClaim, Pod, PodStatus, Secret};
use kube::api::{DeleteParams, ListParams, LogParams, Patch, PatchParams};
use kube::runtime::conditions::is_deleted;
use kube::runtime::wait::await_condition;
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::changing::until;
use crate::cluster::{Cluster, PATIENCE};
use crate::csi::told;
use crate::faults::until as eventually;
use crate::streams::with_busybox;

const BUSYBOX: &str = "amphipod.local/busybox:v1";
const TOOLBOX: &str = "amphipod.local/toolbox-wasm:v1";

/// A Pod that runs once, with one volume at `/data`.
fn once(name: &str, image: &str, args: Value, volume: Value) -> Pod {
    let mut volume = volume;
    volume["name"] = "v".into();
    serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "securityContext": {"fsGroup": 4242},
            "containers": [{"name": "c", "image": image, "args": args,
                "volumeMounts": [{"name": "v", "mountPath": "/data"}]}],
            "volumes": [volume],
        },
    }))
    .unwrap()
}

/// Gives a Pod more containers like its first, which show the same volume and start with it.
fn share(pod: &mut Pod, more: usize) {
    let containers = &mut pod.spec.as_mut().unwrap().containers;
    for number in 1..=more {
        let mut another = containers[0].clone();
        another.name = format!("c{number}");
        containers.push(another);
    }
}

fn claim(name: &str) -> Value {
    json!({"persistentVolumeClaim": {"claimName": name}})
}

pub async fn says(client: &Client, pod: Pod) -> String {
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let name = pod.metadata.name.clone().unwrap();
    pods.create(&Default::default(), &pod).await.unwrap();
    let ended = |status: &PodStatus| matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    until(&pods, &name, "it ends", ended).await;
    pods.logs(&name, &LogParams::default()).await.unwrap()
}

pub async fn holds<K>(api: &Api<K>, name: &str, what: &str, is: impl Fn(&K) -> bool + Send)
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
{
    let condition = |object: Option<&K>| object.is_some_and(&is);
    let waited = tokio::time::timeout(PATIENCE, await_condition(api.clone(), name, condition)).await;
    if waited.is_err() {
        panic!("{what}: never so; {:#?}", api.get(name).await);
    }
}

pub async fn remove<K>(api: &Api<K>, name: &str)
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
{
    let uid = api.get(name).await.unwrap().meta().uid.clone().unwrap();
    api.delete(name, &DeleteParams::default()).await.unwrap();
    let gone = await_condition(api.clone(), name, is_deleted(&uid));
    tokio::time::timeout(PATIENCE, gone)
        .await
        .expect("it stays")
        .unwrap();
}

/// A cluster with a toolbox of each kind.
fn with_both(test: &str) -> Option<Cluster> {
    let cluster = with_busybox(test)?;
    let wasm = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads/wasm");
    cluster.push(&wasm.join("toolbox.wasm"), "toolbox-wasm:v1");
    Some(cluster)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_pod_wrote_is_there_for_the_next_whatever_it_is_made_of() {
    let Some(cluster) = with_both("volumes") else {
        return;
    };
    let client = cluster.client().await;
    let claims: Api<PersistentVolumeClaim> = Api::default_namespaced(client.clone());
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let wanted: PersistentVolumeClaim = serde_json::from_value(json!({"metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}))
    .unwrap();
    claims.create(&Default::default(), &wanted).await.unwrap();

    let write = json!(["sh", "-c", "echo kept > /data/f && stat -c %g /data/f"]);
    let said = says(&client, once("writer", BUSYBOX, write, claim("data"))).await;
    assert_eq!(said, "4242\n", "the file is the group's");
    let said = says(
        &client,
        once("reader", TOOLBOX, json!(["cat", "/data/f"]), claim("data")),
    )
    .await;
    assert_eq!(said, "kept\n");

    let bound = claims.get("data").await.unwrap();
    assert_eq!(bound.status.unwrap().phase.as_deref(), Some("Bound"));
    let volume = bound.spec.unwrap().volume_name.unwrap();
    let source = volumes.get(&volume).await.unwrap().spec.unwrap().local.unwrap();
    let place = std::path::PathBuf::from(source.path);
    assert!(place.starts_with(cluster.data_dir()), "{}", place.display());
    assert_eq!(std::fs::read_to_string(place.join("f")).unwrap(), "kept\n");

    let more = Patch::Merge(json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}}));
    claims
        .patch("data", &PatchParams::default(), &more)
        .await
        .unwrap();
    holds(&claims, "data", "it has grown", |claim| {
        let capacity = claim.status.as_ref().and_then(|status| status.capacity.as_ref());
        capacity.is_some_and(|capacity| capacity["storage"].0 == "2Gi")
    })
    .await;

    for pod in ["writer", "reader"] {
        remove(&pods, pod).await;
    }
    let uid = volumes.get(&volume).await.unwrap().metadata.uid.unwrap();
    remove(&claims, "data").await;
    let gone = await_condition(volumes.clone(), &volume, is_deleted(&uid));
    tokio::time::timeout(PATIENCE, gone)
        .await
        .expect("the volume stays")
        .unwrap();
    assert!(!place.exists(), "{} stays", place.display());
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_of_a_pods_own_and_images_as_volumes() {
    let Some(cluster) = with_busybox("image volumes") else {
        return;
    };
    let wasm = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads/wasm");
    cluster.push(&wasm.join("toolbox.wasm"), "toolbox-wasm:v1");
    let client = cluster.client().await;
    let claims: Api<PersistentVolumeClaim> = Api::default_namespaced(client.clone());
    let pods: Api<Pod> = Api::default_namespaced(client.clone());

    let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}});
    let own = json!({"ephemeral": {"volumeClaimTemplate": {"spec": spec}}});
    let write = json!(["sh", "-c", "echo mine > /data/f && cat /data/f"]);
    assert_eq!(says(&client, once("own", BUSYBOX, write, own)).await, "mine\n");
    let uid = claims.get("own-v").await.unwrap().metadata.uid.unwrap();
    remove(&pods, "own").await;
    let gone = await_condition(claims.clone(), "own-v", is_deleted(&uid));
    tokio::time::timeout(PATIENCE, gone)
        .await
        .expect("its claim stays")
        .unwrap();

    let image = json!({"image": {"reference": BUSYBOX}});
    let look = json!([
        "sh",
        "-c",
        "test -e /data/bin/busybox && ! touch /data/x 2>/dev/null && echo read-only"
    ]);
    let mut native = once("native", BUSYBOX, look, image.clone());
    share(&mut native, 3);
    pods.create(&Default::default(), &native).await.unwrap();
    until(&pods, "native", "all of them end well", |status| {
        status.phase.as_deref() == Some("Succeeded")
    })
    .await;
    for name in ["c", "c1", "c2", "c3"] {
        let of = LogParams {
            container: Some(name.to_owned()),
            ..LogParams::default()
        };
        assert_eq!(pods.logs("native", &of).await.unwrap(), "read-only\n", "{name}");
    }
    let events: Api<Event> = Api::default_namespaced(client.clone());
    let of_pod = ListParams::default().fields("involvedObject.name=native,type=Warning");
    let warnings = events.list(&of_pod).await.unwrap().items;
    assert!(warnings.is_empty(), "one mounts for all: {warnings:?}");
    let said = says(&client, once("wasm", TOOLBOX, json!(["ls", "/data"]), image)).await;
    assert!(said.contains("bin"), "{said}");
    let none = json!({"image": {"reference": "amphipod.local/nothing:v1"}});
    let pod = once("none", BUSYBOX, json!(["true"]), none);
    pods.create(&Default::default(), &pod).await.unwrap();
    until(&pods, "none", "it waits for its image", |status| {
        let all = status.container_statuses.iter().flatten();
        let mut waiting = all.filter_map(|c| c.state.as_ref()?.waiting.as_ref()?.reason.as_deref());
        waiting.any(|reason| matches!(reason, "ErrImagePull" | "ImagePullBackOff"))
    })
    .await;
}

/// What a container can make with `mkdirat` and `openat`, and no path can name.
fn make_deep(root: &std::path::Path) {
    use nix::fcntl::{OFlag, open, openat};
    use nix::sys::stat::{Mode, mkdirat};
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut at = open(root, flags, Mode::empty()).unwrap();
    for _ in 0..12_000 {
        mkdirat(&at, "d", Mode::S_IRWXU).unwrap();
        at = openat(&at, "d", flags, Mode::empty()).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_deeper_than_any_path_goes_with_its_pod_and_no_agent() {
    let Some(cluster) = with_busybox("deep trees") else {
        return;
    };
    let client = cluster.client().await;
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let pod = once("deep", BUSYBOX, json!(["sleep", "1000"]), json!({"emptyDir": {}}));
    let made = pods.create(&Default::default(), &pod).await.unwrap();
    let running = |status: &PodStatus| status.phase.as_deref() == Some("Running");
    until(&pods, "deep", "it runs", running).await;
    let of_pod = cluster
        .data_dir()
        .join("node/pods")
        .join(made.metadata.uid.unwrap());
    make_deep(&of_pod.join("volumes/v"));
    remove(&pods, "deep").await;
    eventually("its volumes are gone", async || {
        (!of_pod.join("volumes").exists()).then_some(())
    })
    .await;
    let said = says(
        &client,
        once("next", BUSYBOX, json!(["echo", "alive"]), json!({"emptyDir": {}})),
    )
    .await;
    assert_eq!(said, "alive\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_volume_that_fails_is_told() {
    let Some(cluster) = with_busybox("volumes that fail") else {
        return;
    };
    let client = cluster.client().await;
    let volumes = json!([{"name": "b", "secret": {"secretName": "none-b"}}, {"name": "a", "configMap": {"name": "none-a"}},
        {"name": "c", "persistentVolumeClaim": {"claimName": "none-c"}}]);
    let mounts = ["a", "b", "c"].map(|name| json!({"name": name, "mountPath": format!("/{name}")}));
    let container = json!({"name": "c", "image": BUSYBOX, "volumeMounts": mounts});
    // Past the scheduler, which waits for the claim.
    let pod = json!({"metadata": {"name": "p"},
        "spec": {"nodeName": "node-a", "containers": [container], "volumes": volumes}});
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let pod = serde_json::from_value(pod).unwrap();
    pods.create(&Default::default(), &pod).await.unwrap();
    for words in [
        "MountVolume.SetUp failed for volume \"b\" : secret \"none-b\" not found",
        "MountVolume.SetUp failed for volume \"a\" : configmap \"none-a\" not found",
        "Unable to attach or mount volumes: unmounted volumes=[a b c], unattached volumes=[], failed to process volumes=[c]: \
         error processing PVC default/none-c: failed to fetch PVC from API server: persistentvolumeclaims \"none-c\" not found",
    ] {
        told(&client, "p", "FailedMount", words).await;
    }
}

/// A Pod that runs on, past the scheduler, and shows none of its volumes, which cannot be made.
fn shows_nothing(name: &str, image: &str, args: Value) -> Pod {
    let volumes = json!([{"name": "secret", "secret": {"secretName": "late"}}, {"name": "map", "configMap": {"name": "none"}},
        {"name": "claim", "persistentVolumeClaim": {"claimName": "none"}},
        {"name": "host", "hostPath": {"path": "/nowhere", "type": "Directory"}}]);
    let container = json!({"name": "c", "image": image, "args": args});
    let spec = json!({"nodeName": "node-a", "terminationGracePeriodSeconds": 0, "containers": [container], "volumes": volumes});
    serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_that_no_container_shows_hold_nobody_up_until_one_does() {
    let Some(cluster) = with_both("volumes nobody shows") else {
        return;
    };
    let client = cluster.client().await;
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let events: Api<Event> = Api::default_namespaced(client.clone());
    for (name, image) in [("native", BUSYBOX), ("wasm", TOOLBOX)] {
        let pod = shows_nothing(name, image, json!(["sleep", "1000"]));
        pods.create(&Default::default(), &pod).await.unwrap();
        until(&pods, name, "it runs", |status| {
            status.phase.as_deref() == Some("Running")
        })
        .await;
        let of_pod = ListParams::default().fields(&format!("involvedObject.name={name},type=Warning"));
        let warnings = events.list(&of_pod).await.unwrap().items;
        assert!(warnings.is_empty(), "{warnings:?}");
    }
    let mount = json!({"name": "secret", "mountPath": "/secret"});
    let added =
        json!({"name": "added", "image": BUSYBOX, "args": ["cat", "/secret/word"], "volumeMounts": [mount]});
    let add = Patch::Strategic(json!({"spec": {"ephemeralContainers": [added]}}));
    pods.patch_ephemeral_containers("native", &PatchParams::default(), &add)
        .await
        .unwrap();
    let words = "MountVolume.SetUp failed for volume \"secret\" : secret \"late\" not found";
    told(&client, "native", "FailedMount", words).await;
    let secret = json!({"metadata": {"name": "late"}, "stringData": {"word": "now"}});
    let secret = serde_json::from_value(secret).unwrap();
    let secrets: Api<Secret> = Api::default_namespaced(client.clone());
    secrets.create(&Default::default(), &secret).await.unwrap();
    until(&pods, "native", "the added one has ended", |status| {
        let all = status.ephemeral_container_statuses.iter().flatten();
        let mut states = all.filter_map(|container| container.state.as_ref());
        states.any(|state| {
            state
                .terminated
                .as_ref()
                .is_some_and(|ended| ended.exit_code == 0)
        })
    })
    .await;
    let of_added = LogParams {
        container: Some("added".to_owned()),
        ..LogParams::default()
    };
    assert_eq!(pods.logs("native", &of_added).await.unwrap(), "now");
}

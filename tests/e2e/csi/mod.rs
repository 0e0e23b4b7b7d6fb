//! Volumes of a real CSI driver, which this process is; it is also the external-attacher.

#[path = "../../../node/src/csi/testing.rs"]
mod testing;

use amphipod_node::csi::{grpc, wire};
use k8s_openapi::api::authentication::v1::TokenReview;
use k8s_openapi::api::core::v1::{Event, Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::{CSIDriver, StorageClass, VolumeAttachment};
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::changing::{container, until};
use crate::cluster::{Cluster, PATIENCE};
use crate::streams::with_busybox;
use crate::users::{run, script};
use crate::volumes::{holds, remove};
use testing::{DEVICE, NAME, SmallDriver};

const BUSYBOX: &str = "amphipod.local/busybox:v1";
const TOOLBOX: &str = "amphipod.local/toolbox-wasm:v1";

/// A claim of this name, bound to a volume of the driver of the same name.
async fn bound(client: &Client, name: &str, mode: &str) {
    let size = json!({"storage": "1Gi"});
    let spec = json!({"accessModes": ["ReadWriteOnce"], "storageClassName": name, "volumeMode": mode});
    let mut volume = spec.clone();
    volume["capacity"] = size.clone();
    volume["csi"] = json!({"driver": NAME, "volumeHandle": name, "volumeAttributes": {"color": "blue"}});
    let mut claim = spec;
    claim["resources"] = json!({"requests": size});
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    let volume = serde_json::from_value(json!({"metadata": {"name": name}, "spec": volume})).unwrap();
    volumes.create(&Default::default(), &volume).await.unwrap();
    let claims: Api<PersistentVolumeClaim> = Api::default_namespaced(client.clone());
    let claim = serde_json::from_value(json!({"metadata": {"name": name}, "spec": claim})).unwrap();
    claims.create(&Default::default(), &claim).await.unwrap();
    holds(&claims, name, "it is bound", |claim| {
        let status = claim.status.as_ref();
        status.and_then(|status| status.phase.as_deref()) == Some("Bound")
    })
    .await;
}

fn pod(name: &str, image: &str, claim: &str, shown: Value) -> Pod {
    let mut container = json!({"name": "c", "image": image, "args": ["sleep", "1000000"]});
    container
        .as_object_mut()
        .unwrap()
        .extend(shown.as_object().unwrap().clone());
    serde_json::from_value(json!({"metadata": {"name": name}, "spec": {
        "terminationGracePeriodSeconds": 1,
        "containers": [container],
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]}}))
    .unwrap()
}

fn files() -> Value {
    json!({"volumeMounts": [{"name": "v", "mountPath": "/data"}]})
}

fn device() -> Value {
    json!({"volumeDevices": [{"name": "v", "devicePath": "/dev/data"}]})
}

/// Waits for an Event about the Pod.
pub async fn told(client: &Client, about: &str, reason: &str, words: &str) {
    let events: Api<Event> = Api::default_namespaced(client.clone());
    let of_pod = ListParams::default().fields(&format!("involvedObject.name={about}"));
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let all = events.list(&of_pod).await.unwrap();
        let mut all = all
            .items
            .iter()
            .map(|event| (event.reason.clone(), event.message.clone()));
        let is_it = |(why, message): (Option<String>, Option<String>)| {
            why.as_deref() == Some(reason) && message.is_some_and(|message| message.contains(words))
        };
        if all.any(is_it) {
            return;
        }
        assert!(
            std::time::Instant::now() < deadline,
            "no {reason} {words:?} about {about}"
        );
        tokio::task::yield_now().await;
    }
}

/// What an external-attacher does when it is asked to attach a volume.
async fn attach(client: &Client, volume: &str) -> String {
    let attachments: Api<VolumeAttachment> = Api::all(client.clone());
    let deadline = std::time::Instant::now() + PATIENCE;
    let name = loop {
        let all = attachments.list(&ListParams::default()).await.unwrap();
        let its = |one: &&VolumeAttachment| one.spec.source.persistent_volume_name.as_deref() == Some(volume);
        if let Some(found) = all.items.iter().find(its) {
            assert_eq!(
                (found.spec.attacher.as_str(), found.spec.node_name.as_str()),
                (NAME, "node-a")
            );
            break found.metadata.name.clone().unwrap();
        }
        assert!(std::time::Instant::now() < deadline, "nobody asks for {volume}");
        tokio::task::yield_now().await;
    };
    let done = Patch::Merge(json!({"status": {"attached": true, "attachmentMetadata": {"lun": "3"}}}));
    attachments
        .patch_status(&name, &PatchParams::default(), &done)
        .await
        .unwrap();
    name
}

fn driver(cluster: &Cluster) -> SmallDriver {
    SmallDriver::start(&cluster.data_dir().join("node/plugins_registry"))
}

/// Says that the driver's volumes need not be attached.
async fn free(client: &Client) {
    offer(client, json!({"attachRequired": false})).await;
}

/// Makes the driver's object.
async fn offer(client: &Client, spec: Value) {
    let object = json!({"metadata": {"name": NAME}, "spec": spec});
    let drivers: Api<CSIDriver> = Api::all(client.clone());
    drivers
        .create(&Default::default(), &serde_json::from_value(object).unwrap())
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_attached_staged_and_published_and_all_of_that_taken_back() {
    let Some(cluster) = with_busybox("a CSI volume that is attached") else {
        return;
    };
    let client = cluster.client().await;
    let driver = driver(&cluster);
    let (pods, nodes): (Api<Pod>, Api<Node>) =
        (Api::default_namespaced(client.clone()), Api::all(client.clone()));
    bound(&client, "files", "Filesystem").await;
    let wanted = pod("p", BUSYBOX, "files", files());
    pods.create(&Default::default(), &wanted).await.unwrap();
    // Until there is an attacher the Pod says what it waits for.
    told(
        &client,
        "p",
        "FailedMount",
        "waiting for the external-attacher of driver small.csi.example",
    )
    .await;
    assert!(
        driver.calls().iter().all(|call| !call.contains("Stage")),
        "{:?}",
        driver.calls()
    );
    let attachment = attach(&client, "files").await;
    until(&pods, "p", "it runs", |status| {
        status.phase.as_deref() == Some("Running")
    })
    .await;
    told(
        &client,
        "p",
        "SuccessfulAttachVolume",
        "AttachVolume.Attach succeeded for volume \"files\"",
    )
    .await;
    let said = script(&pods, "p", "c", "cat /data/context").await;
    assert_eq!(
        said, "color=blue\nlun=3",
        "what the attacher said is told to the driver's node"
    );
    let status = nodes.get("node-a").await.unwrap().status.unwrap();
    let name = format!("kubernetes.io/csi/{NAME}^files");
    assert_eq!(status.volumes_in_use, Some(vec![name.clone()]));
    assert_eq!(status.volumes_attached.unwrap()[0].name, name);

    let attachments: Api<VolumeAttachment> = Api::all(client.clone());
    let uid = attachments.get(&attachment).await.unwrap().metadata.uid.unwrap();
    remove(&pods, "p").await;
    let gone = kube::runtime::wait::await_condition(
        attachments.clone(),
        &attachment,
        kube::runtime::conditions::is_deleted(&uid),
    );
    tokio::time::timeout(PATIENCE, gone)
        .await
        .expect("it stays attached")
        .unwrap();
    let last = driver.calls().pop();
    assert_eq!(
        last.as_deref(),
        Some("NodeUnstageVolume files"),
        "and that after the driver has it back"
    );
    let none = nodes.get("node-a").await.unwrap().status.unwrap().volumes_in_use;
    assert_eq!(none.unwrap_or_default(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_a_device_in_native_containers_and_refused_to_wasm() {
    let Some(cluster) = with_busybox("a CSI volume that is a device") else {
        return;
    };
    let probe = cluster.dir().join("device");
    let (kind, mode) = (nix::sys::stat::SFlag::S_IFBLK, nix::sys::stat::Mode::S_IRUSR);
    if nix::sys::stat::mknod(&probe, kind, mode, nix::sys::stat::makedev(DEVICE.0, DEVICE.1)).is_err() {
        eprintln!("skipped: device nodes cannot be made here");
        return;
    }
    let wasm = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads/wasm");
    cluster.push(&wasm.join("toolbox.wasm"), "toolbox-wasm:v1");
    let client = cluster.client().await;
    let driver = driver(&cluster);
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    free(&client).await;
    bound(&client, "device", "Block").await;
    run(&pods, &pod("native", BUSYBOX, "device", device())).await;
    let said = script(
        &pods,
        "native",
        "c",
        "test -b /dev/data && stat -c %t:%T /dev/data",
    )
    .await;
    assert_eq!(said, format!("{}:{}\n", DEVICE.0, DEVICE.1));
    let wasm = pod("wasm", TOOLBOX, "device", device());
    pods.create(&Default::default(), &wasm).await.unwrap();
    until(&pods, "wasm", "it is refused", |status| {
        let waiting = container(status, "c").and_then(|c| c.state.clone()?.waiting);
        waiting.is_some_and(|waiting| {
            waiting.reason.as_deref() == Some("CreateContainerConfigError")
                && waiting
                    .message
                    .is_some_and(|why| why.contains("a Wasm guest has no devices"))
        })
    })
    .await;
    remove(&pods, "native").await;
    remove(&pods, "wasm").await;
    let last = driver.calls().pop();
    assert_eq!(last.as_deref(), Some("NodeUnstageVolume device"));
}

/// What an external-resizer does for a driver whose volumes grow on nodes alone.
async fn enlarge(client: &Client, name: &str, size: &str) {
    let claims: Api<PersistentVolumeClaim> = Api::default_namespaced(client.clone());
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    let params = PatchParams::default();
    let wanted = Patch::Merge(json!({"spec": {"resources": {"requests": {"storage": size}}}}));
    claims.patch(name, &params, &wanted).await.unwrap();
    let pending = json!([{"type": "FileSystemResizePending", "status": "True"}]);
    let status = json!({"conditions": pending, "allocatedResources": {"storage": size},
        "allocatedResourceStatuses": {"storage": "NodeResizePending"}});
    let status = Patch::Merge(json!({"status": status}));
    claims.patch_status(name, &params, &status).await.unwrap();
    // Last: nothing is due on the node before the volume has grown.
    let grown = Patch::Merge(json!({"spec": {"capacity": {"storage": size}}}));
    volumes.patch(name, &params, &grown).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_grows_under_a_running_pod_and_before_the_next_one() {
    let Some(cluster) = with_busybox("a CSI volume that grows") else {
        return;
    };
    let client = cluster.client().await;
    let _driver = driver(&cluster);
    free(&client).await;
    let classes: Api<StorageClass> = Api::all(client.clone());
    let class = json!({"metadata": {"name": "grows"}, "provisioner": NAME, "allowVolumeExpansion": true});
    classes
        .create(&Default::default(), &serde_json::from_value(class).unwrap())
        .await
        .unwrap();
    bound(&client, "grows", "Filesystem").await;
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let claims: Api<PersistentVolumeClaim> = Api::default_namespaced(client.clone());
    let has = |size: &'static str| {
        move |claim: &PersistentVolumeClaim| {
            let status = claim.status.clone().unwrap_or_default();
            let capacity = status
                .capacity
                .is_some_and(|capacity| capacity["storage"].0 == size);
            capacity && status.allocated_resource_statuses.is_none() && status.conditions.is_none()
        }
    };
    run(&pods, &pod("one", BUSYBOX, "grows", files())).await;
    enlarge(&client, "grows", "2Gi").await;
    holds(&claims, "grows", "its Pod has the space", has("2Gi")).await;
    assert_eq!(script(&pods, "one", "c", "cat /data/size").await, "2147483648");
    let words = "MountVolume.NodeExpandVolume succeeded for volume \"grows\" node-a";
    told(&client, "one", "FileSystemResizeSuccessful", words).await;
    told(&client, "grows", "FileSystemResizeSuccessful", words).await;

    remove(&pods, "one").await;
    enlarge(&client, "grows", "3Gi").await;
    run(&pods, &pod("two", BUSYBOX, "grows", files())).await;
    assert_eq!(script(&pods, "two", "c", "cat /data/size").await, "3221225472");
    holds(&claims, "grows", "the next Pod has the space", has("3Gi")).await;

    // More than the driver has.
    enlarge(&client, "grows", "9Gi").await;
    holds(&claims, "grows", "it says why not", |claim| {
        let status = claim.status.clone().unwrap_or_default();
        let stages = status.allocated_resource_statuses.unwrap_or_default();
        let refused = stages.get("storage").map(String::as_str) == Some("NodeResizeInfeasible");
        let mut conditions = status.conditions.into_iter().flatten();
        refused && conditions.any(|condition| condition.type_ == "NodeResizeError")
    })
    .await;
    told(&client, "two", "VolumeResizeFailed", "code = OutOfRange").await;
}

/// Waits until the driver was asked so many times to publish.
async fn published(driver: &SmallDriver, times: usize) {
    let deadline = std::time::Instant::now() + PATIENCE;
    let asked = || {
        let calls = driver.calls().into_iter();
        calls.filter(|call| call.starts_with("NodePublishVolume")).count()
    };
    while asked() < times {
        assert!(
            std::time::Instant::now() < deadline,
            "not asked {times} times: {:?}",
            driver.calls()
        );
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_is_given_tokens_of_its_pods_and_asked_again() {
    let Some(cluster) = with_busybox("a CSI driver that asks for tokens") else {
        return;
    };
    let client = cluster.client().await;
    let driver = driver(&cluster);
    let terms = json!({"volumeLifecycleModes": ["Ephemeral"], "attachRequired": false, "podInfoOnMount": true,
        "requiresRepublish": true, "tokenRequests": [{"audience": "vault", "expirationSeconds": 600}]});
    offer(&client, terms).await;
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let mut wanted = pod("p", BUSYBOX, "none", files());
    let inline = json!([{"name": "v", "csi": {"driver": NAME}}]);
    wanted.spec.as_mut().unwrap().volumes = serde_json::from_value(inline).unwrap();
    run(&pods, &wanted).await;

    let said = script(&pods, "p", "c", "cat /data/published").await;
    let told = |key: &str| {
        let key = format!("csi.storage.k8s.io/{key}=");
        said.lines()
            .find_map(|line| line.strip_prefix(&key))
            .map(str::to_owned)
    };
    assert_eq!(told("pod.name").as_deref(), Some("p"));
    let tokens = told("serviceAccount.tokens").unwrap_or_else(|| panic!("no tokens in {said}"));
    let tokens: Value = serde_json::from_str(&tokens).unwrap();
    assert!(
        tokens["vault"]["expirationTimestamp"].is_string(),
        "{:?}",
        tokens.as_object().map(|all| all.keys().collect::<Vec<_>>())
    );
    let review = json!({"metadata": {}, "spec": {"token": tokens["vault"]["token"], "audiences": ["vault"]}});
    let reviews: Api<TokenReview> = Api::all(client.clone());
    let review = reviews
        .create(&Default::default(), &serde_json::from_value(review).unwrap())
        .await
        .unwrap();
    let user = review.status.and_then(|status| status.user?.username);
    assert_eq!(user.as_deref(), Some("system:serviceaccount:default:default"));

    published(&driver, 2).await;
    remove(&pods, "p").await;
}

//! What goes wrong around Pods: killed agents and shims, an API server that is away, registries that are slow or lack
//! what is asked for, a full disk. Running containers go on, nothing is left behind, and what is asked for comes about.

mod halves;
mod kills;
mod stopped;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ContainerStatus, Event, Node, Pod};
use kube::Api;
use kube::api::DeleteParams;
use serde_json::{Value, json};

use crate::changing::{container, runs, until as until_status};
pub use halves::{Halves, until};

const NATIVE: &str = "amphipod.local/busybox:v1";
const WASM: &str = "amphipod.local/server-wasm:v1";

fn pod(name: &str, image: &str, command: &[&str]) -> Pod {
    let mut only = json!({"name": "c", "image": image});
    if !command.is_empty() {
        only["command"] = json!(command);
    }
    let spec = json!({"terminationGracePeriodSeconds": 0, "containers": [only]});
    serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap()
}

fn sleeper(name: &str) -> Pod {
    pod(name, NATIVE, &["sleep", "100000"])
}

async fn create(pods: &Api<Pod>, pod: &Pod) {
    pods.create(&Default::default(), pod).await.unwrap();
}

async fn run(pods: &Api<Pod>, pod: &Pod) {
    create(pods, pod).await;
    let name = pod.metadata.name.as_deref().unwrap();
    until_status(pods, name, "it runs", |s| runs(s, "c")).await;
}

async fn status(pods: &Api<Pod>, name: &str) -> ContainerStatus {
    let status = pods.get(name).await.unwrap().status.unwrap();
    container(&status, "c").unwrap().clone()
}

/// Which container runs, and since when.
async fn identity(pods: &Api<Pod>, name: &str) -> Value {
    let status = status(pods, name).await;
    json!([status.container_id, status.restart_count, status.state])
}

async fn delete_all(pods: &Api<Pod>) {
    let all = pods.list(&Default::default()).await.unwrap();
    for name in all.items.iter().filter_map(|pod| pod.metadata.name.as_deref()) {
        let _ = pods.delete(name, &DeleteParams::default()).await; // gone meanwhile
    }
    until("all Pods are gone", async || {
        let left = pods.list(&Default::default()).await.ok()?;
        left.items.is_empty().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_shim_is_a_killed_container() {
    let Some(halves) = Halves::start("killed shims").await else {
        return;
    };
    let pods = halves.pods().await;
    run(&pods, &sleeper("native")).await;
    run(&pods, &pod("wasm", WASM, &[])).await;
    for (wasm, name) in [(false, "native"), (true, "wasm")] {
        let killed = kills::shims(&halves.id(), wasm);
        assert!(!killed.is_empty(), "no shim of {name}");
        let other = if name == "native" { "wasm" } else { "native" };
        let before = identity(&pods, other).await;
        for pid in killed {
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        }
        until_status(&pods, name, "it runs again", |s| {
            runs(s, "c") && container(s, "c").is_some_and(|c| c.restart_count == 1)
        })
        .await;
        let last = status(&pods, name).await.last_state.unwrap().terminated.unwrap();
        assert_eq!(last.exit_code, 137, "{last:?}");
        assert_eq!(dead_sockets(&halves.id()), Vec::<String>::new());
        assert_eq!(identity(&pods, other).await, before);
    }
    delete_all(&pods).await;
    halves.nothing_is_left().await;
}

/// Sockets of a cluster's shims on which nobody listens.
fn dead_sockets(id: &str) -> Vec<String> {
    let entries = std::fs::read_dir(format!("/run/amphipod/amphipod-{id}/s")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let dead = paths.filter(|path| path.extension().is_some_and(|end| end == "sock"));
    let dead = dead.filter(|path| std::os::unix::net::UnixStream::connect(path).is_err());
    dead.map(|path| path.display().to_string()).collect()
}

/// Seconds for which the API server is away, unless `AMPHIPOD_AWAY` says so: time in which nothing may happen, so that there is
/// nothing else to wait for. Longer than a container of it runs and its first back-off lasts.
const AWAY: u64 = 6;

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_is_away_ends_nothing() {
    let Some(mut halves) = Halves::start("API server away").await else {
        return;
    };
    let pods = halves.pods().await;
    run(&pods, &sleeper("stays")).await;
    run(&pods, &pod("wasm", WASM, &[])).await;
    run(&pods, &pod("fails", NATIVE, &["sh", "-c", "sleep 3; exit 1"])).await;
    let before = (identity(&pods, "stays").await, identity(&pods, "wasm").await);
    halves.kill_control();
    let away = std::env::var("AMPHIPOD_AWAY").map_or(AWAY, |n| n.parse().unwrap());
    tokio::time::sleep(std::time::Duration::from_secs(away)).await;
    assert!(halves.node_runs());
    halves.start_control().await;
    let pods = halves.pods().await;
    until_status(&pods, "fails", "it was started again", |s| {
        container(s, "c").is_some_and(|c| c.restart_count >= 1)
    })
    .await;
    run(&pods, &sleeper("later")).await;
    let after = (identity(&pods, "stays").await, identity(&pods, "wasm").await);
    assert_eq!(after, before);
    delete_all(&pods).await;
    halves.nothing_is_left().await;
}

/// Somebody deletes the Node of a living agent: it comes back whole.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_deleted_comes_back_with_its_range_and_a_lease_that_stays() {
    let Some(halves) = Halves::start("a deleted node").await else {
        return;
    };
    let client = halves.client().await;
    let nodes: Api<Node> = Api::all(client.clone());
    let leases: Api<Lease> = Api::namespaced(client, "kube-node-lease");
    let range = |node: &Node| node.spec.as_ref()?.pod_cidr.clone();
    let first = until("it has a range", async || {
        nodes
            .get("node-a")
            .await
            .ok()
            .filter(|node| range(node).is_some())
    })
    .await;
    nodes.delete("node-a", &DeleteParams::default()).await.unwrap();
    let second = until("it is there again", async || {
        let node = nodes.get_opt("node-a").await.ok()??;
        (node.metadata.uid != first.metadata.uid && range(&node).is_some()).then_some(node)
    })
    .await;
    assert_eq!(range(&second), range(&first));
    until("its lease is its own", async || {
        let lease = leases.get_opt("node-a").await.ok()??;
        let owner = lease.metadata.owner_references?.pop()?;
        (Some(&owner.uid) == second.metadata.uid.as_ref()).then_some(())
    })
    .await;
    let pods = halves.pods().await;
    run(&pods, &sleeper("after")).await;
    delete_all(&pods).await;
    halves.nothing_is_left().await;
}

/// The resolvers of the node's static Pod.
fn resolvers_of_static(halves: &Halves) -> Option<String> {
    let pods = std::fs::read_dir(halves.node_dir().join("node/pods")).ok()?;
    pods.flatten()
        .find_map(|pod| std::fs::read_to_string(pod.path().join("resolv.conf")).ok())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_cannot_ask_for_the_clusters_dns_leaves_pods_theirs() {
    let Some(mut halves) = Halves::start("resolvers kept").await else {
        return;
    };
    let manifests = halves.node_dir().join("manifests");
    std::fs::create_dir_all(&manifests).unwrap();
    let manifest = serde_json::to_vec(&sleeper("fixed")).unwrap();
    std::fs::write(manifests.join("fixed.yaml"), manifest).unwrap();
    let pods = halves.pods().await;
    until_status(&pods, "fixed-node-a", "it runs", |s| runs(s, "c")).await;
    // Services are known to the agent by now; a Pod that was faster is given the cluster's DNS at the agent's next start.
    halves.kill_node();
    halves.start_node();
    let cluster_dns = until("the cluster's DNS is the Pod's", async || {
        resolvers_of_static(&halves).filter(|text| text.contains("svc.cluster.local"))
    })
    .await;
    halves.kill_node();
    halves.kill_control();
    halves.start_node();
    until("the agent goes on without Services", async || {
        halves
            .last_of_node()
            .contains("Services are not known yet")
            .then_some(())
    })
    .await;
    halves.start_control().await;
    let pods = halves.pods().await;
    run(&pods, &sleeper("later")).await;
    assert_eq!(resolvers_of_static(&halves), Some(cluster_dns));
    std::fs::remove_file(manifests.join("fixed.yaml")).unwrap();
    delete_all(&pods).await;
    halves.nothing_is_left().await;
}

fn waits_for(pod: &Pod, reasons: &[&str]) -> bool {
    let waiting = pod
        .status
        .as_ref()
        .and_then(|s| container(s, "c")?.state.as_ref()?.waiting.as_ref());
    waiting
        .and_then(|w| w.reason.as_deref())
        .is_some_and(|reason| reasons.contains(&reason))
}

#[tokio::test(flavor = "multi_thread")]
async fn registries_that_are_down_or_slow_hold_nobody_else_back() {
    let Some(halves) = Halves::start("slow registries").await else {
        return;
    };
    let pods = halves.pods().await;
    // Takes connections and never says a word.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let slow = format!("{}/image:v1", silent.local_addr().unwrap());
    create(&pods, &pod("slow", &slow, &[])).await;
    create(&pods, &pod("down", "127.0.0.1:1/image:v1", &[])).await;
    create(
        &pods,
        &pod("late", "amphipod.local/late:v1", &["sleep", "100000"]),
    )
    .await;
    run(&pods, &sleeper("other")).await;
    for name in ["down", "late"] {
        until("it is told", async || {
            let pod = pods.get(name).await.unwrap();
            waits_for(&pod, &["ErrImagePull", "ImagePullBackOff"]).then_some(())
        })
        .await;
    }
    halves.push(&halves.dir().join("image"), "late:v1");
    until_status(&pods, "late", "it runs once its image is there", |s| runs(s, "c")).await;
    delete_all(&pods).await;
    halves.nothing_is_left().await;
}

/// As large as a node's disk is in the test of a full one, in MiB.
const DISK: u64 = 64;

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_and_got_over() {
    let Some(halves) = Halves::control_only("a full disk").await else {
        return;
    };
    let disk = Disk::at(halves.node_dir());
    let mut halves = halves.with_node().await;
    let pods = halves.pods().await;
    run(&pods, &sleeper("stays")).await;
    let before = identity(&pods, "stays").await;
    let filler = disk.fill();
    create(&pods, &sleeper("late")).await;
    let events: Api<Event> = Api::default_namespaced(halves.client().await);
    until("it is told", async || {
        let all = events.list(&Default::default()).await.unwrap();
        let of_late = |e: &&Event| e.involved_object.name.as_deref() == Some("late");
        let told = all
            .items
            .iter()
            .filter(of_late)
            .any(|e| e.type_.as_deref() == Some("Warning"));
        told.then_some(())
    })
    .await;
    assert!(halves.node_runs());
    std::fs::remove_file(filler).unwrap();
    until_status(&pods, "late", "it runs once there is room", |s| runs(s, "c")).await;
    let stays = pods.get("stays").await.unwrap().status.unwrap();
    if stays.reason.as_deref() != Some("Evicted") {
        assert_eq!(identity(&pods, "stays").await, before);
    }
    delete_all(&pods).await;
    halves.nothing_is_left().await;
    drop(halves);
    drop(disk);
}

/// A small disk of the node's own.
pub struct Disk(std::path::PathBuf);

impl Disk {
    pub fn at(dir: std::path::PathBuf) -> Self {
        let size = format!("size={DISK}m");
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("tmpfs"), &dir, Some("tmpfs"), flags, Some(size.as_str())).unwrap();
        Self(dir)
    }

    /// Not a byte is left.
    fn fill(&self) -> std::path::PathBuf {
        let path = self.0.join("filler");
        let mut file = std::fs::File::create(&path).unwrap();
        let block = vec![1; 4096];
        while std::io::Write::write_all(&mut file, &block).is_ok() {}
        path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

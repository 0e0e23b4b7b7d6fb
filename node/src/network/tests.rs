//! The network for real: each test is a host of its own, a network namespace with links, Pods and rules in it.

mod balancing;
mod host_ports;
mod pod_links;
mod ranges;
mod sandboxes;

use std::fs::File;
use std::future::Future;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use nix::sched::{CloneFlags, setns, unshare};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

use super::services::rules;
use super::*;

/// Nothing here takes long; what takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A host of a test's own. What the test leaves is removed, also when it fails.
struct Host {
    dir: TempDir,
}

impl Host {
    /// Runs a test on a thread in a new network namespace; says so and skips where that is not allowed.
    fn run<F: Future<Output = ()>>(test: impl FnOnce(Self) -> F + Send + 'static) {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: needs root to make network namespaces");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_owned();
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            block_on(async {
                let links = Links::open().unwrap();
                links.up(&links.get("lo").await.unwrap()).await.unwrap();
                test(Self { dir }).await;
            });
        });
        let result = thread.join();
        for run in ["run-a", "run-b"] {
            let _ = catch_unwind(AssertUnwindSafe(|| down::remove_pins(&root.join(run).join("ns"))));
        }
        let _ = std::fs::remove_dir_all(&root);
        if let Err(panic) = result {
            resume_unwind(panic);
        }
    }

    fn config(&self, cluster: &str) -> NetworkConfig {
        let (id, pods, services) = match cluster {
            "a" => ("aaaaaaa1", "10.201.1.0/24", "10.202.0.0/16"),
            _ => ("aaaaaaa2", "10.203.1.0/24", "10.204.0.0/16"),
        };
        NetworkConfig {
            cluster_id: id.into(),
            pod_cidr: pods.parse().unwrap(),
            service_cidr: services.parse().unwrap(),
            run_dir: self.dir.path().join(format!("run-{cluster}")),
            data_dir: self.dir.path().join(format!("data-{cluster}")),
        }
    }

    async fn network(&self, cluster: &str) -> Network {
        Network::open(self.config(cluster)).await.unwrap()
    }
}

async fn pod(network: &Network, uid: &str) -> PodSandbox {
    network.setup_pod(uid, uid, &BTreeMap::new(), None).await.unwrap()
}

/// Does it to its end on this thread, which is in a namespace.
fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.unwrap().block_on(work)
}

/// Runs something on a thread in a namespace.
fn within<T: Send>(namespace: &Path, action: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            setns(File::open(namespace).unwrap(), CloneFlags::empty()).unwrap();
            action()
        });
        inside.join().unwrap()
    })
}

/// Serves a Pod's name and the address its client comes from.
fn serve(pod: &PodSandbox, port: u16, name: &'static str) {
    let bound = within(&pod.net_path, || {
        std::net::TcpListener::bind(("0.0.0.0", port)).unwrap()
    });
    serve_on(bound, name);
}

fn serve_on(bound: std::net::TcpListener, name: &'static str) {
    bound.set_nonblocking(true).unwrap();
    let listener = TcpListener::from_std(bound).unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, peer) = listener.accept().await.unwrap();
            stream
                .write_all(format!("{name} {}", peer.ip()).as_bytes())
                .await
                .unwrap();
        }
    });
}

/// What a server answers to a client in a namespace, or on this host.
async fn ask(from: Option<&Path>, to: &str) -> Result<String, std::io::Error> {
    let to: SocketAddr = to.parse().unwrap();
    let socket = match from {
        Some(namespace) => within(namespace, || TcpSocket::new_v4().unwrap()),
        None => TcpSocket::new_v4().unwrap(),
    };
    let exchange = async {
        let mut stream: TcpStream = socket.connect(to).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(text)
    };
    timeout(PATIENCE, exchange)
        .await
        .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
}

fn service(extra: Value) -> Service {
    let mut spec = json!({"clusterIP": "10.202.0.7", "clusterIPs": ["10.202.0.7"],
        "ports": [{"port": 80, "nodePort": 30080}]});
    spec.as_object_mut()
        .unwrap()
        .extend(extra.as_object().unwrap().clone());
    serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "default"}, "spec": spec}))
        .unwrap()
}

fn slice(ports: Value, pods: &[&PodSandbox]) -> EndpointSlice {
    let endpoints: Vec<Value> = pods.iter().map(|pod| json!({"addresses": [pod.ip]})).collect();
    let metadata =
        json!({"name": "web-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}});
    let object = json!({"metadata": metadata, "addressType": "IPv4", "ports": ports, "endpoints": endpoints});
    serde_json::from_value(object).unwrap()
}

/// The rules of Services with addresses from the range of cluster `a`.
fn ruleset(services: &[Service], slices: &[EndpointSlice]) -> services::Ruleset {
    services::Ruleset {
        ranges: ["10.202.0.0/16".parse().unwrap()].into(),
        ..rules(services, slices, "node")
    }
}

fn apply(network: &Network, extra: Value, pods: &[&PodSandbox]) {
    let slice = slice(json!([{"port": 8080, "protocol": "TCP"}]), pods);
    network
        .apply_services(&ruleset(&[service(extra)], &[slice]), None)
        .unwrap();
}

//! Services with addresses from a ServiceCIDR beside the cluster's own range, for this host and for Pods of both runtimes.

use std::path::Path;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::Api;
use serde_json::{Value, json};

use crate::cluster::{PATIENCE, http_get, next_net};
use crate::streams::with_busybox;
use crate::users::{run, script};

/// Long before a connection is given up; busybox's `nc` takes a second of it. How soon a refusal is heard the node's own tests look at.
const SOON: Duration = Duration::from_millis(2_900);

fn pod(name: &str, container: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [container]},
    }))
    .unwrap()
}

fn service(name: &str, ip: &str) -> Service {
    let spec =
        json!({"clusterIP": ip, "selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8080}]});
    serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap()
}

/// Those who ask.
struct Askers {
    pods: Api<Pod>,
    /// Where the Wasm Pod is told whom to ask.
    wasm: String,
}

impl Askers {
    /// What each of them gets to know of `http://ADDRESS/`, and how long that took.
    async fn ask(&self, who: &str, address: &str) -> (String, Duration) {
        let began = Instant::now();
        let answered = |(to, path): (&str, &str)| http_get(to, path).unwrap_or_else(|why| why.to_string());
        let url = format!("http://{address}/");
        let said = match who {
            "host" => answered((&format!("{address}:80"), "/")),
            "native" => {
                let ask = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {address} 80");
                script(&self.pods, "native", "c", &ask).await
            }
            _ => answered((&self.wasm, &format!("/fetch?url={url}"))),
        };
        (said, began.elapsed())
    }

    /// Asks until one of these words is said within that time, to each of them: rules may be on their way, and this machine busy.
    async fn come_to(&self, address: &str, words: &[&str], limit: Duration) {
        for who in ["host", "native", "wasm"] {
            let deadline = Instant::now() + PATIENCE;
            loop {
                let (said, took) = self.ask(who, address).await;
                if took < limit && words.iter().any(|word| said.contains(word)) {
                    break;
                }
                assert!(
                    Instant::now() < deadline,
                    "{who} asks {address}, and after {took:?}: {said}"
                );
            }
        }
    }
}

/// Whether the kernel routes this network of 256 addresses, whose table has them as they are in memory.
fn is_routed(net: [u8; 4]) -> bool {
    let wanted = format!("{:08X}", u32::from_ne_bytes(net));
    let routes = std::fs::read_to_string("/proc/net/route").unwrap();
    routes
        .lines()
        .any(|line| line.split_whitespace().nth(1) == Some(wanted.as_str()))
}

#[tokio::test(flavor = "multi_thread")]
async fn services_of_a_further_range_answer_and_refuse() {
    let Some(cluster) = with_busybox("Services of a further range") else {
        return;
    };
    let wasm = Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads/wasm/server.wasm");
    cluster.push(&wasm, "server-wasm:v1");
    let client = cluster.client().await;
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let services: Api<Service> = Api::default_namespaced(client.clone());
    let ranges: Api<ServiceCIDR> = Api::all(client);

    let net = [10, next_net(), 7, 0];
    let ip = |last: u8| std::net::Ipv4Addr::from([net[0], net[1], net[2], last]).to_string();
    let cidrs = json!([format!("{}/24", ip(0))]);
    let range = json!({"metadata": {"name": "further"}, "spec": {"cidrs": cidrs}});
    let range: ServiceCIDR = serde_json::from_value(range).unwrap();
    ranges.create(&Default::default(), &range).await.unwrap();

    let server = json!({"name": "c", "image": "amphipod.local/server-wasm:v1", "ports": [{"containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1}});
    let sleeper = json!({"name": "c", "image": "amphipod.local/busybox:v1", "command": ["sleep", "3600"]});
    for pod in [
        pod("web", server.clone()),
        pod("wasm", server),
        pod("native", sleeper),
    ] {
        run(&pods, &pod).await;
    }
    let (web, nobody) = (ip(20), ip(30));
    for service in [service("web", &web), service("nobody", &nobody)] {
        services.create(&Default::default(), &service).await.unwrap();
    }
    let told = pods
        .get("wasm")
        .await
        .unwrap()
        .status
        .and_then(|status| status.pod_ip);
    let askers = Askers {
        pods,
        wasm: format!("{}:8080", told.unwrap()),
    };

    askers.come_to(&web, &["hello from wasm"], PATIENCE).await;
    for refusing in [nobody, ip(99)] {
        let refused = ["onnection refused", "ConnectionRefused"];
        askers.come_to(&refusing, &refused, SOON).await;
    }
    assert!(is_routed(net));

    for name in ["web", "nobody"] {
        services.delete(name, &Default::default()).await.unwrap();
    }
    ranges.delete("further", &Default::default()).await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    while is_routed(net) {
        assert!(
            Instant::now() < deadline,
            "the route of a range that is gone stays"
        );
        tokio::task::yield_now().await;
    }
}

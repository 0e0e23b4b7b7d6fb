//! The network for real: each test is a host of its own, a network namespace with bridges, Pods and rules in it.

use std::fs::File;
use std::future::Future;
use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use nix::sched::{CloneFlags, setns, unshare};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::time::timeout;

use super::links::{Link, PodEnd};
use super::services::rules;
use super::*;

/// Nothing here takes long; what takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(10);

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
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
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
    network.setup_pod(uid, uid, &BTreeMap::new()).await.unwrap()
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

fn apply(network: &Network, extra: Value, pods: &[&PodSandbox]) {
    let slice = slice(json!([{"port": 8080, "protocol": "TCP"}]), pods);
    network
        .apply_services(&rules(&[service(extra)], &[slice], "node"), None)
        .unwrap();
}

#[test]
fn pods_have_names_addresses_and_reach_each_other_under_their_own() {
    Host::run(|host| async move {
        let network = host.network("a").await;
        assert_eq!(network.limits(), &[] as &[String]);
        let (one, two) = (pod(&network, "one").await, pod(&network, "two").await);
        assert_eq!(one.origin, Origin::Created);
        assert_eq!(one.ip.to_string(), "10.201.1.2");
        let name = within(&one.uts_path, || nix::unistd::gethostname().unwrap());
        assert_eq!(name, "one");
        let port = within(&one.net_path, || {
            std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap()
        });
        assert_eq!(port.trim(), "0");
        serve(&two, 8080, "two");
        let to = format!("{}:8080", two.ip);
        assert_eq!(
            ask(Some(&one.net_path), &to).await.unwrap(),
            format!("two {}", one.ip)
        );
        assert_eq!(ask(None, &to).await.unwrap(), "two 10.201.1.1");
        serve(&one, 8080, "one");
        assert_eq!(
            ask(Some(&one.net_path), "127.0.0.1:8080").await.unwrap(),
            "one 127.0.0.1"
        );
        serve_on(std::net::TcpListener::bind("0.0.0.0:9999").unwrap(), "host");
        assert_eq!(
            ask(Some(&one.net_path), "10.201.1.1:9999").await.unwrap(),
            format!("host {}", one.ip)
        );
    });
}

#[test]
fn a_restarted_agent_takes_sandboxes_back_and_replaces_broken_ones() {
    Host::run(|host| async move {
        let first = host.network("a").await;
        let (one, two) = (pod(&first, "one").await, pod(&first, "two").await);
        assert_eq!(pod(&first, "one").await.origin, Origin::Adopted);
        drop(first);
        let again = host.network("a").await;
        assert_eq!(
            again.list().unwrap(),
            BTreeSet::from(["one".to_owned(), "two".to_owned()])
        );
        assert_eq!(
            pod(&again, "one").await,
            PodSandbox {
                origin: Origin::Adopted,
                ..one.clone()
            }
        );
        sandbox::release_mount(&two.net_path).unwrap();
        let rebuilt = pod(&again, "two").await;
        assert_eq!(
            rebuilt,
            PodSandbox {
                origin: Origin::Rebuilt,
                ..two
            }
        );
        serve(&rebuilt, 8080, "two");
        let to = format!("{}:8080", rebuilt.ip);
        assert_eq!(
            ask(Some(&one.net_path), &to).await.unwrap(),
            format!("two {}", one.ip)
        );
    });
}

#[test]
fn pods_start_and_end_side_by_side() {
    Host::run(|host| async move {
        let network = host.network("a").await;
        let uids: Vec<String> = (0..20).map(|n| format!("pod-{n}")).collect();
        let started = std::time::Instant::now();
        let pods = futures::future::join_all(uids.iter().map(|uid| pod(&network, uid))).await;
        let up = started.elapsed();
        let addresses: BTreeSet<Ipv4Addr> = pods.iter().map(|pod| pod.ip).collect();
        assert_eq!(addresses.len(), uids.len());
        serve(&pods[0], 8080, "first");
        let answer = ask(Some(&pods[19].net_path), &format!("{}:8080", pods[0].ip)).await;
        assert_eq!(answer.unwrap(), format!("first {}", pods[19].ip));
        let started = std::time::Instant::now();
        for result in futures::future::join_all(uids.iter().map(|uid| network.teardown_pod(uid))).await {
            result.unwrap();
        }
        eprintln!("20 Pods up in {up:?}, down in {:?}", started.elapsed());
        assert!(network.list().unwrap().is_empty());
    });
}

#[test]
fn a_pod_torn_down_leaves_nothing() {
    Host::run(|host| async move {
        let network = host.network("a").await;
        let one = pod(&network, "one").await;
        let asked = BTreeMap::from([("net.ipv4.tcp_syncookies".to_owned(), "0".to_owned())]);
        network.setup_pod("two", "two", &asked).await.unwrap();
        network.teardown_pod("one").await.unwrap();
        network.teardown_pod("one").await.unwrap();
        assert!(!one.net_path.exists());
        assert_eq!(network.list().unwrap(), BTreeSet::from(["two".to_owned()]));
        assert!(
            network
                .links
                .find(&network.names.veth("one"))
                .await
                .unwrap()
                .is_none()
        );
        assert!(matches!(
            network.teardown_pod("../x").await,
            Err(TeardownError::Uid(_))
        ));
        let forbidden = BTreeMap::from([("kernel.msgmax".to_owned(), "1".to_owned())]);
        let refused = network.setup_pod("three", "three", &forbidden).await;
        assert!(matches!(
            refused,
            Err(SetupError::Sysctl(SysctlError::Forbidden { .. }))
        ));
    });
}

#[test]
fn a_service_is_reached_from_host_pods_and_its_own_endpoint() {
    Host::run(|host| async move {
        let network = host.network("a").await;
        let (server, other) = (pod(&network, "server").await, pod(&network, "other").await);
        serve(&server, 8080, "server");
        apply(&network, json!({}), &[&server]);
        let gateway = "10.201.1.1";
        let own = server.ip.to_string();
        for (from, to, seen_as) in [
            (None, "10.202.0.7:80", gateway),
            (None, "127.0.0.1:30080", gateway),
            (None, "10.201.1.1:30080", gateway),
            (Some(&other), "10.202.0.7:80", &other.ip.to_string()),
            (Some(&other), "10.201.1.1:30080", &other.ip.to_string()),
            (Some(&server), "10.202.0.7:80", gateway),
        ] {
            let answer = ask(from.map(|pod| pod.net_path.as_path()), to).await;
            assert_eq!(answer.unwrap(), format!("server {seen_as}"), "{from:?} to {to}");
        }
        assert_eq!(
            ask(Some(&other.net_path), &format!("{own}:8080")).await.unwrap(),
            format!("server {}", other.ip)
        );
    });
}

#[test]
fn without_endpoints_connections_are_refused_and_come_back_with_them() {
    Host::run(|host| async move {
        let network = host.network("a").await;
        let (server, client) = (pod(&network, "server").await, pod(&network, "client").await);
        serve(&server, 8080, "server");
        let refused = async || {
            for (from, to) in [
                (None, "10.202.0.7:80"),
                (None, "127.0.0.1:30080"),
                (Some(&client), "10.202.0.7:80"),
                (Some(&client), "10.201.1.1:30080"),
            ] {
                let error = ask(from.map(|pod| pod.net_path.as_path()), to).await.unwrap_err();
                assert_eq!(
                    error.kind(),
                    std::io::ErrorKind::ConnectionRefused,
                    "{from:?} to {to}"
                );
            }
        };
        apply(&network, json!({}), &[]);
        refused().await;
        apply(&network, json!({}), &[&server]);
        assert!(ask(Some(&client.net_path), "10.202.0.7:80").await.is_ok());
        apply(&network, json!({}), &[]);
        refused().await;
        network
            .apply_services(&services::Ruleset::default(), None)
            .unwrap();
        assert!(ask(Some(&client.net_path), "10.202.0.7:80").await.is_err());
    });
}

#[test]
fn connections_spread_over_endpoints_unless_clients_stick() {
    Host::run(|host| async move {
        let network = host.network("a").await;
        let (one, two, client) = (
            pod(&network, "one").await,
            pod(&network, "two").await,
            pod(&network, "client").await,
        );
        serve(&one, 8080, "one");
        serve(&two, 8080, "two");
        let ask_many = async || {
            let mut names = BTreeMap::<String, u32>::new();
            for _ in 0..40 {
                let answer = ask(Some(&client.net_path), "10.202.0.7:80").await.unwrap();
                *names
                    .entry(answer.split(' ').next().unwrap().to_owned())
                    .or_default() += 1;
            }
            names
        };
        apply(&network, json!({}), &[&one, &two]);
        // Both chosen by chance: that one gets none of 40 happens once in 2^39 runs.
        assert_eq!(ask_many().await.len(), 2);
        let sticky = json!({"sessionAffinity": "ClientIP"});
        apply(&network, sticky.clone(), &[&one, &two]);
        let kept = ask_many().await;
        assert_eq!(kept.len(), 1, "{kept:?}");
        apply(&network, sticky.clone(), &[&one, &two]);
        assert_eq!(
            ask_many().await.keys().collect::<Vec<_>>(),
            kept.keys().collect::<Vec<_>>()
        );
        // Another endpoint goes or comes: it stays where it is.
        let left = if kept.contains_key("one") { &one } else { &two };
        apply(&network, sticky.clone(), &[left]);
        apply(&network, sticky.clone(), &[&one, &two]);
        assert_eq!(
            ask_many().await.keys().collect::<Vec<_>>(),
            kept.keys().collect::<Vec<_>>()
        );
        // The endpoint a client stuck to goes away: it gets the other.
        let left = if kept.contains_key("one") { &two } else { &one };
        apply(&network, sticky, &[left]);
        assert_ne!(
            ask_many().await.keys().collect::<Vec<_>>(),
            kept.keys().collect::<Vec<_>>()
        );
    });
}

/// A UDP socket in a Pod.
fn udp_socket(pod: &PodSandbox, port: u16) -> UdpSocket {
    let bound = within(&pod.net_path, || {
        std::net::UdpSocket::bind(("0.0.0.0", port)).unwrap()
    });
    bound.set_nonblocking(true).unwrap();
    UdpSocket::from_std(bound).unwrap()
}

/// Answers every packet with a name.
fn answer(pod: &PodSandbox, name: &'static str) {
    let socket = udp_socket(pod, 5353);
    tokio::spawn(async move {
        loop {
            let (_, peer) = socket.recv_from(&mut [0; 64]).await.unwrap();
            socket.send_to(name.as_bytes(), peer).await.unwrap();
        }
    });
}

#[test]
fn udp_is_balanced_and_follows_its_endpoints_within_a_flow() {
    Host::run(|host| async move {
        let network = host.network("a").await;
        let (one, two, client) = (
            pod(&network, "one").await,
            pod(&network, "two").await,
            pod(&network, "client").await,
        );
        answer(&one, "one");
        answer(&two, "two");
        let ruleset = |pod: &PodSandbox| {
            let dns = service(json!({"ports": [{"port": 53, "protocol": "UDP", "nodePort": 30053}]}));
            rules(
                &[dns],
                &[slice(json!([{"port": 5353, "protocol": "UDP"}]), &[pod])],
                "node",
            )
        };
        for to in ["10.202.0.7:53", "10.201.1.1:30053"] {
            let asking = udp_socket(&client, 0);
            asking.connect(to).await.unwrap();
            let mut previous = None;
            for (pod, name) in [(&one, "one"), (&two, "two")] {
                let wanted = ruleset(pod);
                network.apply_services(&wanted, previous.as_ref()).unwrap();
                previous = Some(wanted);
                asking.send(b"who?").await.unwrap();
                let mut buffer = [0; 64];
                let length = timeout(PATIENCE, asking.recv(&mut buffer))
                    .await
                    .unwrap()
                    .unwrap();
                assert_eq!(std::str::from_utf8(&buffer[..length]).unwrap(), name, "{to}");
            }
        }
    });
}

/// Another machine, on a link of its own to this host, which it reaches as 192.0.2.1.
async fn outside(links: &Links) -> PathBuf {
    let (namespace, path) = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let file = File::open("/proc/thread-self/ns/net").unwrap();
        let path = PathBuf::from(format!(
            "/proc/self/fd/{}",
            std::os::fd::AsRawFd::as_raw_fd(&file)
        ));
        (file, path)
    })
    .join()
    .unwrap();
    let end = PodEnd {
        name: "uplink",
        address: [2, 0, 0, 0, 0, 1],
        mtu: None,
        peer: "eth0",
        peer_namespace: namespace.as_fd(),
    };
    links.add_veth(end).await.unwrap();
    let uplink: Link = links.get("uplink").await.unwrap();
    links
        .add_address(&uplink, "192.0.2.1".parse().unwrap(), 24)
        .await
        .unwrap();
    links.up(&uplink).await.unwrap();
    within(&path, || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let links = Links::open().unwrap();
            let eth0 = links.get("eth0").await.unwrap();
            links
                .add_address(&eth0, "192.0.2.2".parse().unwrap(), 24)
                .await
                .unwrap();
            links.up(&eth0).await.unwrap();
        });
    });
    // The path names this descriptor until the process ends.
    std::mem::forget(namespace);
    path
}

#[test]
fn pods_leave_the_node_under_its_address_and_node_ports_let_others_in() {
    Host::run(|host| async move {
        let network = host.network("a").await;
        let outside = outside(&network.links).await;
        let server = pod(&network, "server").await;
        serve(&server, 8080, "server");
        apply(&network, json!({}), &[&server]);
        let world = within(&outside, || std::net::TcpListener::bind("0.0.0.0:80").unwrap());
        serve_on(world, "world");
        assert_eq!(
            ask(Some(&server.net_path), "192.0.2.2:80").await.unwrap(),
            "world 192.0.2.1"
        );
        assert_eq!(
            ask(Some(&outside), "192.0.2.1:30080").await.unwrap(),
            "server 10.201.1.1"
        );
    });
}

#[test]
fn clusters_side_by_side_do_not_touch_each_other_and_down_removes_one() {
    Host::run(|host| async move {
        let (a, b) = (host.network("a").await, host.network("b").await);
        let (server, other) = (pod(&a, "server").await, pod(&b, "other").await);
        serve(&server, 8080, "server");
        apply(&a, json!({}), &[&server]);
        b.apply_services(&services::Ruleset::default(), None).unwrap();
        assert!(ask(None, "127.0.0.1:30080").await.is_ok());
        drop(b);
        down("aaaaaaa2", &host.config("b").run_dir).await.unwrap();
        assert!(!other.net_path.exists());
        assert!(ask(None, "127.0.0.1:30080").await.is_ok());
        assert_eq!(a.links.find("apaaaaaaa2").await.unwrap().map(|l| l.name), None);
        assert_eq!(
            nft::existing("amphipod-aaaaaaa2").unwrap(),
            nft::Existing::default()
        );
        assert!(!nft::existing("amphipod-aaaaaaa1").unwrap().chains.is_empty());
        down("aaaaaaa2", &host.config("b").run_dir).await.unwrap();
        // Half of it is gone already.
        a.links
            .remove(&a.links.get("apaaaaaaa1").await.unwrap())
            .await
            .unwrap();
        down("aaaaaaa1", &host.config("a").run_dir).await.unwrap();
        let left: Vec<String> = a
            .links
            .all()
            .await
            .unwrap()
            .into_iter()
            .map(|link| link.name)
            .collect();
        assert!(!left.iter().any(|name| a.names.owns_link(name)), "{left:?}");
    });
}

#[test]
fn a_range_in_use_is_refused_by_name() {
    Host::run(|host| async move {
        let _a = host.network("a").await;
        let taken = NetworkConfig {
            pod_cidr: "10.201.0.0/16".parse().unwrap(),
            ..host.config("b")
        };
        let error = Network::open(taken).await.err().unwrap();
        assert_eq!(
            error.to_string(),
            "10.201.0.0/16 is used by link apaaaaaaa1: choose another --pod-cidr"
        );
        let taken = NetworkConfig {
            service_cidr: "10.202.0.0/16".parse().unwrap(),
            ..host.config("b")
        };
        let error = Network::open(taken).await.err().unwrap();
        assert_eq!(
            error.to_string(),
            "10.202.0.0/16 is used by link apaaaaaaa1: choose another --service-cidr"
        );
    });
}

fn many(count: u32) -> services::Ruleset {
    let mut ruleset = services::Ruleset::default();
    for n in 0..count {
        let chain = format!("svc-default/service-{n}/tcp/80");
        let endpoints = (2..6)
            .map(|host| SocketAddrV4::new([10, 201, 1, host].into(), 8080))
            .collect();
        let protocol = services::Protocol::Tcp;
        let ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 202, 1, 0)) + n);
        ruleset.addresses.insert((ip, protocol, 80), chain.clone());
        let affinity = (n % 100 == 0).then_some(60);
        ruleset.balancers.insert(
            chain,
            services::Balancer {
                protocol,
                endpoints,
                affinity,
            },
        );
    }
    ruleset
}

#[test]
fn many_services_fit_one_transaction_and_change_by_themselves() {
    Host::run(|host| async move {
        let network = host.network("a").await;
        let (server, client) = (pod(&network, "server").await, pod(&network, "client").await);
        serve(&server, 8080, "server");
        let before = many(1_000);
        network.apply_services(&before, None).unwrap();
        assert!(nft::existing("amphipod-aaaaaaa1").unwrap().chains.len() > 1_000);
        let mut after = before.clone();
        let first = "svc-default/service-0/tcp/80";
        let only = BTreeSet::from([SocketAddrV4::new(server.ip, 8080)]);
        after.balancers.get_mut(first).unwrap().endpoints = only;
        after.balancers.remove("svc-default/service-1/tcp/80");
        after
            .addresses
            .retain(|_, chain| chain != "svc-default/service-1/tcp/80");
        network.apply_services(&after, Some(&before)).unwrap();
        for _ in 0..3 {
            assert!(ask(Some(&client.net_path), "10.202.1.0:80").await.is_ok());
        }
        assert!(ask(Some(&client.net_path), "10.202.1.1:80").await.is_err());
        network
            .apply_services(&services::Ruleset::default(), Some(&after))
            .unwrap();
        let existing = nft::existing("amphipod-aaaaaaa1").unwrap();
        assert!(existing.chains.len() < 20, "{existing:?}");
        assert!(
            !existing.sets.iter().any(|set| set.starts_with("affinity-")),
            "{existing:?}"
        );
    });
}

#[test]
fn rules_flushed_by_someone_else_come_back_whole() {
    Host::run(|host| async move {
        let network = host.network("a").await;
        let outside = outside(&network.links).await;
        let (server, client) = (pod(&network, "server").await, pod(&network, "client").await);
        serve(&server, 8080, "server");
        let slice = slice(json!([{"port": 8080, "protocol": "TCP"}]), &[&server]);
        let ruleset = rules(&[service(json!({}))], &[slice], "node");
        network.apply_services(&ruleset, None).unwrap();
        nft::delete_table("amphipod-aaaaaaa1").unwrap();
        network.apply_services(&ruleset, Some(&ruleset)).unwrap();
        assert!(ask(Some(&client.net_path), "10.202.0.7:80").await.is_ok());
        let world = within(&outside, || std::net::TcpListener::bind("0.0.0.0:80").unwrap());
        serve_on(world, "world");
        assert_eq!(
            ask(Some(&client.net_path), "192.0.2.2:80").await.unwrap(),
            "world 192.0.2.1"
        );
    });
}

/// Administrators list and save all rules of a host with the `nft` program: ours must not be in its way.
#[test]
fn the_nft_program_understands_the_rules() {
    Host::run(|host| async move {
        let network = host.network("a").await;
        let (one, two) = (pod(&network, "one").await, pod(&network, "two").await);
        for pods in [&[&one][..], &[&one, &two]] {
            for extra in [json!({}), json!({"sessionAffinity": "ClientIP"})] {
                apply(&network, extra.clone(), pods);
                let listed = match std::process::Command::new("nft")
                    .args(["list", "ruleset"])
                    .output()
                {
                    Ok(listed) => listed,
                    Err(error) => return eprintln!("skipped: no nft program ({error})"),
                };
                let text = String::from_utf8_lossy(&listed.stdout);
                let errors = String::from_utf8_lossy(&listed.stderr);
                assert!(
                    listed.status.success() && errors.is_empty(),
                    "{extra}: {errors}\n{text}"
                );
                assert!(text.contains("dnat"), "{text}");
            }
        }
    });
}

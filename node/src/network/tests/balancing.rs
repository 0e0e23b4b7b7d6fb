//! Services: real connections through ClusterIPs and node ports.

use std::net::SocketAddrV4;
use std::os::fd::AsFd;

use tokio::net::UdpSocket;

use super::*;
use crate::network::links::{Link, PodEnd};

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
        network.apply_services(&ruleset(&[], &[]), None).unwrap();
        assert!(ask(Some(&client.net_path), "10.202.0.7:80").await.is_err());
    });
}

/// A packet that is sent again is sent after a second.
#[test]
fn a_refusal_is_heard_at_once_however_many_there_were() {
    Host::run(|host| async move {
        let network = host.network("a").await;
        let client = pod(&network, "client").await;
        apply(&network, json!({}), &[]);
        let refused = |to: &str| {
            let began = std::time::Instant::now();
            let error = std::net::TcpStream::connect(to).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{to}");
            assert!(
                began.elapsed() < Duration::from_millis(900),
                "{to}: {:?}",
                began.elapsed()
            );
        };
        for _ in 0..20 {
            for to in ["10.202.0.7:80", "10.202.0.9:80", "10.201.1.1:30080"] {
                refused(to);
                within(&client.net_path, || refused(to));
            }
        }
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
pub(super) fn udp_socket(pod: &PodSandbox, port: u16) -> UdpSocket {
    let bound = within(&pod.net_path, || {
        std::net::UdpSocket::bind(("0.0.0.0", port)).unwrap()
    });
    bound.set_nonblocking(true).unwrap();
    UdpSocket::from_std(bound).unwrap()
}

/// Answers every packet with a name.
pub(super) fn answer(pod: &PodSandbox, name: &'static str) {
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
        let leading_to = |pod: &PodSandbox| {
            let dns = service(json!({"ports": [{"port": 53, "protocol": "UDP", "nodePort": 30053}]}));
            let slice = slice(json!([{"port": 5353, "protocol": "UDP"}]), &[pod]);
            ruleset(&[dns], &[slice])
        };
        for to in ["10.202.0.7:53", "10.201.1.1:30053"] {
            let asking = udp_socket(&client, 0);
            asking.connect(to).await.unwrap();
            let mut previous = None;
            for (pod, name) in [(&one, "one"), (&two, "two")] {
                let wanted = leading_to(pod);
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
        peer_address: [2, 0, 0, 0, 0, 2],
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
        block_on(async {
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
fn who_comes_from_outside_keeps_its_address_where_only_endpoints_of_the_node_answer() {
    Host::run(|host| async move {
        let network = host.network("a").await;
        let outside = outside(&network.links).await;
        let (near, far) = (pod(&network, "near").await, pod(&network, "far").await);
        serve(&near, 8080, "near");
        serve(&far, 8080, "far");
        let local = service(json!({"externalTrafficPolicy": "Local", "externalIPs": ["192.0.2.1"]}));
        let lead = |here: &[&PodSandbox], there: &[&PodSandbox]| {
            let ports = json!([{"port": 8080, "protocol": "TCP"}]);
            let mut slices = [slice(ports.clone(), here), slice(ports, there)];
            for (slice, node) in slices.iter_mut().zip(["node", "another"]) {
                for endpoint in slice.endpoints.iter_mut().flatten() {
                    endpoint.node_name = Some(node.into());
                }
            }
            network
                .apply_services(&ruleset(std::slice::from_ref(&local), &slices), None)
                .unwrap();
        };
        let from_outside = async |to| timeout(Duration::from_millis(500), ask(Some(&outside), to)).await;

        lead(&[&near], &[]);
        for to in ["192.0.2.1:30080", "192.0.2.1:80"] {
            assert_eq!(from_outside(to).await.unwrap().unwrap(), "near 192.0.2.2", "{to}");
        }
        lead(&[], &[&far]);
        for to in ["192.0.2.1:30080", "192.0.2.1:80"] {
            assert!(
                from_outside(to).await.is_err(),
                "another node has endpoints: {to}"
            );
        }
        for (from, to, seen_as) in [
            (None, "127.0.0.1:30080", "10.201.1.1"),
            (None, "192.0.2.1:80", "10.201.1.1"),
            (None, "10.202.0.7:80", "10.201.1.1"),
            (Some(&near), "192.0.2.1:30080", &near.ip.to_string()),
            (Some(&near), "10.202.0.7:80", &near.ip.to_string()),
        ] {
            let answer = ask(from.map(|pod| pod.net_path.as_path()), to).await;
            assert_eq!(answer.unwrap(), format!("far {seen_as}"), "{from:?} to {to}");
        }
        lead(&[], &[]);
        for to in ["192.0.2.1:30080", "192.0.2.1:80"] {
            let refused = from_outside(to).await.unwrap().unwrap_err();
            assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "{to}");
        }
    });
}

fn many(count: u32) -> services::Ruleset {
    let mut ruleset = ruleset(&[], &[]);
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
                inside: None,
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
        network.apply_services(&ruleset(&[], &[]), Some(&after)).unwrap();
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
        let ruleset = ruleset(&[service(json!({}))], &[slice]);
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

#[test]
fn rules_of_an_older_version_give_way() {
    Host::run(|host| async move {
        let table = "amphipod-aaaaaaa1";
        let nothing = nft::Existing::default();
        let mut older = nft::add_table(table);
        older.base_chain(&nothing, "refuse-own", nft::ChainKind::Nat, nft::Hook::Output, 7);
        older.base_chain(
            &nothing,
            "services-in",
            nft::ChainKind::Nat,
            nft::Hook::Prerouting,
            -99,
        );
        older.base_chain(
            &nothing,
            "guard-loopback",
            nft::ChainKind::Filter,
            nft::Hook::Input,
            0,
        );
        older.chain("forgotten");
        older.base_chain(
            &nothing,
            "forgotten-too",
            nft::ChainKind::Filter,
            nft::Hook::Input,
            1,
        );
        let jump = nft::Verdict::Jump("forgotten".into());
        older.rule("forgotten-too", [nft::Expression::Verdict(jump)]);
        nft::apply(older).unwrap();
        let network = host.network("a").await;
        let server = pod(&network, "server").await;
        serve(&server, 8080, "new");
        apply(&network, json!({}), &[&server]);
        let existing = nft::existing(table).unwrap();
        assert!(
            !existing.chains.iter().any(|name| name.starts_with("forgotten")),
            "{existing:?}"
        );
        assert_eq!(existing.bases["refuse-own"].kind, "filter");
        assert!(ask(None, "10.202.0.7:80").await.unwrap().starts_with("new"));
    });
}

#[test]
fn a_firewall_that_drops_what_is_forwarded_is_told() {
    Host::run(|_host| async move {
        let nft = |rules: &str| std::process::Command::new("nft").arg(rules).status();
        let policy = "add table ip filter; \
            add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }";
        if nft(policy).is_err() {
            eprintln!("skipped: there is no nft program to set a firewall up with");
            return;
        }
        let told = firewall::obstacles("ap0");
        assert!(
            told.len() == 1 && told[0].contains("iptables -I FORWARD -i ap0"),
            "{told:?}"
        );
        assert!(
            nft("insert rule ip filter FORWARD iifname ap0 accept")
                .unwrap()
                .success()
        );
        assert_eq!(firewall::obstacles("ap0"), Vec::<String>::new());
    });
}

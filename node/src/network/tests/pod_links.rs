//! Pods' links: what there is of them on the host, whose addresses pass, those of an older agent's.

use std::process::Command;

use tokio::net::UdpSocket;

use super::*;

/// A table of the kernel's, of the network namespace this thread is in.
fn table(name: &str) -> String {
    std::fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap()
}

/// The lines of a table with a word in them.
fn lines_of(name: &str, word: &str) -> Vec<String> {
    let lines = table(name);
    let lines = lines.lines().filter(|line| line.contains(word));
    lines.map(str::to_owned).collect()
}

/// A neighbour that is there for good: `ATF_COM` and `ATF_PERM` (linux/if_arp.h).
const PERMANENT: &str = "0x6";

#[test]
fn a_pod_has_a_link_a_route_and_a_neighbour_and_leaves_none_of_them() {
    Host::run(|host| async move {
        let network = host.network("a").await;
        let (one, two) = (pod(&network, "one").await, pod(&network, "two").await);
        let links = network.links.all().await.unwrap();
        assert!(!links.iter().any(|link| link.is_bridge), "{links:?}");
        for pod in [&one, &two] {
            let veth = network.names.veth(pod.ip);
            assert_eq!(lines_of("route", &veth).len(), 1, "{}", table("route"));
            let neighbours = lines_of("arp", &veth);
            let known = |line: &String| line.starts_with(&pod.ip.to_string()) && line.contains(PERMANENT);
            assert!(matches!(&neighbours[..], [one] if known(one)), "{neighbours:?}");
            let gateways = within(&pod.net_path, || lines_of("arp", "10.201.1.1 "));
            assert!(
                matches!(&gateways[..], [one] if one.contains(PERMANENT)),
                "{gateways:?}"
            );
        }
        network.teardown_pod("one").await.unwrap();
        for name in ["route", "arp"] {
            assert_eq!(lines_of(name, &network.names.veth(one.ip)), [""; 0]);
            assert_eq!(lines_of(name, &network.names.veth(two.ip)).len(), 1);
        }
    });
}

/// A UDP socket with an address of a Pod's, or of this host's.
fn udp(pod: Option<&PodSandbox>, address: Ipv4Addr) -> UdpSocket {
    let bind = || std::net::UdpSocket::bind((address, 0)).unwrap();
    let bound = match pod {
        Some(pod) => within(&pod.net_path, bind),
        None => bind(),
    };
    bound.set_nonblocking(true).unwrap();
    UdpSocket::from_std(bound).unwrap()
}

/// Gives a Pod another address, as a container in it could that may change its network.
fn add_address(pod: &PodSandbox, address: Ipv4Addr) {
    within(&pod.net_path, || {
        block_on(async {
            let links = Links::open().unwrap();
            let eth0 = links.get("eth0").await.unwrap();
            links.add_address(&eth0, address, 32).await.unwrap();
        });
    });
}

#[test]
fn a_pod_sends_under_its_own_address_only() {
    Host::run(|host| async move {
        let network = host.network("a").await;
        let (liar, other) = (pod(&network, "liar").await, pod(&network, "other").await);
        let server = pod(&network, "server").await;
        // As udev does on many hosts, which asks the kernel only for some way back.
        let setting = format!("net.ipv4.conf.{}.rp_filter", network.names.veth(liar.ip));
        sysctl::write(&setting, "2").unwrap();
        let forged = [
            other.ip,
            Ipv4Addr::new(10, 201, 1, 77),
            Ipv4Addr::new(192, 0, 2, 9),
        ];
        forged.iter().for_each(|address| add_address(&liar, *address));
        for (receiver, ip) in [(Some(&server), server.ip), (None, network.gateway())] {
            let receiver = udp(receiver, ip);
            let to = (ip, receiver.local_addr().unwrap().port());
            // Its own last: what came before would be heard before.
            for source in forged.into_iter().chain([liar.ip]) {
                let sender = udp(Some(&liar), source);
                sender.send_to(source.to_string().as_bytes(), to).await.unwrap();
            }
            let mut said = [0; 64];
            let (length, from) = timeout(PATIENCE, receiver.recv_from(&mut said))
                .await
                .unwrap()
                .unwrap();
            let said = std::str::from_utf8(&said[..length]).unwrap();
            assert_eq!(
                (said, from.ip()),
                (&*liar.ip.to_string(), liar.ip.into()),
                "{to:?}"
            );
        }
    });
}

/// Runs the program `ip`; false where there is none.
fn ip(arguments: &str) -> bool {
    let Ok(done) = Command::new("ip").args(arguments.split(' ')).output() else {
        return false;
    };
    let errors = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "ip {arguments}: {errors}");
    true
}

/// Makes of links what an agent from before would have left: a bridge with the gateway's address, no routes, no neighbours.
fn put_on_a_bridge(network: &Network, pods: &[&PodSandbox]) {
    let bridge = network.names.gateway_link();
    // With the address the routes go that have it as their source.
    ip(&format!("link del {bridge}"));
    let address = network
        .names
        .host_address()
        .map(|byte| hex::encode([byte]))
        .join(":");
    ip(&format!("link add {bridge} address {address} type bridge"));
    ip(&format!("addr add 10.201.1.1/24 dev {bridge}"));
    ip(&format!("link set {bridge} up"));
    for (number, pod) in pods.iter().enumerate() {
        let veth = network.names.veth(pod.ip);
        ip(&format!("neigh del {} dev {veth}", pod.ip));
        ip(&format!(
            "link set {veth} address 02:00:00:00:00:0{number} master {bridge}"
        ));
        within(&pod.net_path, || ip("neigh del 10.201.1.1 dev eth0"));
    }
}

#[test]
fn pods_that_an_older_agent_put_on_a_bridge_live_on() {
    Host::run(|host| async move {
        if !ip("link") {
            return eprintln!("skipped: no ip program");
        }
        let older = host.network("a").await;
        let (one, two) = (pod(&older, "one").await, pod(&older, "two").await);
        serve(&two, 8080, "two");
        put_on_a_bridge(&older, &[&one, &two]);
        let to = format!("{}:8080", two.ip);
        assert_eq!(ask(None, &to).await.unwrap(), "two 10.201.1.1");
        drop(older);
        let network = host.network("a").await;
        for uid in ["one", "two"] {
            assert_eq!(pod(&network, uid).await.origin, Origin::Adopted);
        }
        let answer = ask(Some(&one.net_path), &to).await;
        assert_eq!(answer.unwrap(), format!("two {}", one.ip));
        assert_eq!(ask(None, &to).await.unwrap(), "two 10.201.1.1");
        let links = network.links.all().await.unwrap();
        assert!(!links.iter().any(|link| link.is_bridge), "{links:?}");
    });
}

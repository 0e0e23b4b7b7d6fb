//! Ports of the host that lead to Pods: real connections.

use super::*;

fn tcp(address: &str, port: u16, target: u16) -> HostPort {
    HostPort {
        address: address.parse().unwrap(),
        protocol: services::Protocol::Tcp,
        port,
        target,
    }
}

fn open(network: &Network, pod: &PodSandbox, uid: &str, ports: Vec<HostPort>) {
    network.claim_ports(uid, ports).unwrap();
    network.open_ports(uid, pod.ip).unwrap();
}

#[test]
fn a_host_port_leads_to_its_pod_until_the_pod_goes() {
    Host::run(|host| async move {
        let network = host.network("a").await;
        let (server, other) = (pod(&network, "server").await, pod(&network, "other").await);
        serve(&server, 8080, "server");
        let ports = vec![tcp("0.0.0.0", 18080, 8080), tcp("127.0.0.1", 18081, 8080)];
        open(&network, &server, "server", ports);
        let gateway = "10.201.1.1";
        for (from, to, seen_as) in [
            (None, "127.0.0.1:18080", gateway),
            (None, "10.201.1.1:18080", gateway),
            (None, "127.0.0.1:18081", gateway),
            (Some(&other), "10.201.1.1:18080", &other.ip.to_string()),
            (Some(&server), "10.201.1.1:18080", gateway),
        ] {
            let answer = ask(from.map(|pod| pod.net_path.as_path()), to).await;
            assert_eq!(answer.unwrap(), format!("server {seen_as}"), "{from:?} to {to}");
        }
        let elsewhere = ask(None, "10.201.1.1:18081").await.unwrap_err();
        assert_eq!(elsewhere.kind(), std::io::ErrorKind::ConnectionRefused);
        network.teardown_pod("server").await.unwrap();
        let gone = ask(None, "127.0.0.1:18080").await.unwrap_err();
        assert_eq!(gone.kind(), std::io::ErrorKind::ConnectionRefused);
    });
}

#[test]
fn a_host_port_is_one_pods_and_stays_when_services_change_and_agents_do() {
    Host::run(|host| async move {
        let network = host.network("a").await;
        let (one, two) = (pod(&network, "one").await, pod(&network, "two").await);
        serve(&one, 8080, "one");
        serve(&two, 8080, "two");
        open(&network, &one, "one", vec![tcp("0.0.0.0", 18080, 8080)]);
        let wanted = || vec![tcp("127.0.0.1", 18080, 8080)];
        assert!(network.claim_ports("two", wanted()).is_err());
        apply(&network, json!({}), &[&two]);
        assert!(ask(None, "127.0.0.1:18080").await.unwrap().starts_with("one "));
        drop(network);
        let network = host.network("a").await;
        let claims = [("one".to_owned(), vec![tcp("0.0.0.0", 18080, 8080)])];
        network.recall_ports(claims).unwrap();
        assert!(network.claim_ports("two", wanted()).is_err());
        assert!(ask(None, "127.0.0.1:18080").await.unwrap().starts_with("one "));
        network.teardown_pod("one").await.unwrap();
        open(&network, &two, "two", wanted());
        assert!(ask(None, "127.0.0.1:18080").await.unwrap().starts_with("two "));
    });
}

#[test]
fn udp_flows_follow_a_host_port() {
    Host::run(|host| async move {
        let network = host.network("a").await;
        let (one, two, client) = (
            pod(&network, "one").await,
            pod(&network, "two").await,
            pod(&network, "client").await,
        );
        balancing::answer(&one, "one");
        balancing::answer(&two, "two");
        let port = HostPort {
            protocol: services::Protocol::Udp,
            ..tcp("0.0.0.0", 15353, 5353)
        };
        let socket = balancing::udp_socket(&client, 4000);
        socket.connect("10.201.1.1:15353").await.unwrap();
        for (pod, uid) in [(&one, "one"), (&two, "two")] {
            open(&network, pod, uid, vec![port.clone()]);
            socket.send(b"?").await.unwrap();
            let mut said = [0; 64];
            let length = timeout(PATIENCE, socket.recv(&mut said)).await.unwrap().unwrap();
            assert_eq!(&said[..length], uid.as_bytes());
            network.release_ports(uid).unwrap();
        }
    });
}

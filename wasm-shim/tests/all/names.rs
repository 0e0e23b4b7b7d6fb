//! Names that a guest looks up: those of its Pod's files and resolvers, in its Pod's network.

use crate::netns::Netns;
use crate::shim::{Shim, in_network, is_root, workload};
use serde_json::json;
use simple_dns::rdata::{A, RData};
use simple_dns::{CLASS, Packet, RCODE, ResourceRecord, TYPE};
use std::net::{Ipv4Addr, UdpSocket};

pub const KNOWN: &str = "web.shop.svc.cluster.local";
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 43, 0, 7);

/// A resolver at the port where resolvers are, in a network of its own; it ends with the test.
pub fn resolve_in(netns: &Netns, address: Ipv4Addr) {
    let socket = netns.run(|| UdpSocket::bind((address, 53)).unwrap());
    std::thread::spawn(move || {
        let mut bytes = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut bytes) {
            drop(socket.send_to(&answer(&bytes[..length]), from));
        }
    });
}

fn answer(query: &[u8]) -> Vec<u8> {
    let query = Packet::parse(query).unwrap();
    let question = query.questions[0].clone();
    let mut reply = Packet::new_reply(query.id());
    if question.qname.to_string() != KNOWN {
        *reply.rcode_mut() = RCODE::NameError;
    } else if question.qtype == TYPE::A.into() {
        let address = RData::A(A {
            address: ADDRESS.into(),
        });
        let record = ResourceRecord::new(question.qname.clone(), CLASS::IN, 5, address);
        reply.answers.push(record);
    }
    reply.questions.push(question);
    reply.build_bytes_vec().unwrap()
}

#[tokio::test]
async fn names_are_the_pods() {
    if !is_root() {
        return;
    }
    let (shim, netns) = (Shim::new(), Netns::new());
    resolve_in(&netns, Ipv4Addr::LOCALHOST);
    let file = |name: &str, text: &str| {
        let path = shim.home.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let resolv = file(
        "resolv.conf",
        "search shop.svc.cluster.local\nnameserver 127.0.0.1\noptions ndots:5\n",
    );
    let hosts = file(
        "hosts",
        "127.0.0.1\tlocalhost\n10.42.0.9\tmyself\n192.0.2.9\tbilling\n",
    );
    let exit = shim
        .run("c", &workload("names-component.wasm"), |config| {
            in_network(config, &netns);
            config["process"]["args"] =
                json!(["names", "web", KNOWN, "myself", "billing", "nobody", "192.0.2.1"]);
            config["mounts"] = json!([
                {"destination": "/etc/resolv.conf", "type": "bind", "source": resolv, "options": ["rbind", "rw"]},
                {"destination": "/etc/hosts", "type": "bind", "source": hosts, "options": ["rbind", "rw"]},
            ]);
        })
        .await;
    assert_eq!(exit.status, 0);
    let log = shim.log("c");
    let said: Vec<&str> = log.iter().filter_map(|line| line.splitn(3, ' ').nth(2)).collect();
    assert_eq!(said[0], format!("web: {ADDRESS}"));
    assert_eq!(said[1], format!("{KNOWN}: {ADDRESS}"));
    assert_eq!(said[2..4], ["myself: 10.42.0.9", "billing: 192.0.2.9"]);
    assert!(
        said[4].starts_with("nobody: ") && !said[4].contains("10."),
        "{said:?}"
    );
    assert_eq!(said[5], "192.0.2.1: 192.0.2.1");
}

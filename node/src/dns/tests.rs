//! Queries as bytes in, answers as bytes out.

use k8s_openapi::api::core::v1::Service;
use proptest::prelude::*;
use serde_json::json;
use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, OPCODE, Packet, PacketFlag, Question, TYPE};

use super::*;

fn resolver() -> Resolver {
    let service = |name: &str, spec| -> Service {
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": "n"}, "spec": spec})).unwrap()
    };
    let many: Vec<String> = (1..200).map(|host| format!("10.43.1.{host}")).collect();
    let services = [
        service(
            "web",
            json!({"clusterIP": "10.43.0.7", "ports": [{"name": "http", "port": 80}]}),
        ),
        service("many", json!({"clusterIP": "10.43.1.1", "clusterIPs": many})),
        service(
            "inside",
            json!({"type": "ExternalName", "externalName": "web.n.svc.cluster.local"}),
        ),
        service(
            "nowhere",
            json!({"type": "ExternalName", "externalName": "x.n.svc.cluster.local"}),
        ),
    ];
    let resolver = Resolver::new("192.0.2.1".parse().unwrap());
    resolver.learn(&services.map(Arc::new), &[]);
    resolver
}

fn query(name: &str, type_: TYPE) -> Vec<u8> {
    let mut packet = Packet::new_query(7);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    let name = Name::new(name).unwrap();
    packet
        .questions
        .push(Question::new(name, type_.into(), CLASS::IN.into(), false));
    packet.build_bytes_vec().unwrap()
}

async fn ask(bytes: &[u8], udp: bool) -> Vec<u8> {
    resolver().answer(bytes, udp).await.unwrap()
}

#[tokio::test]
async fn codes_and_counts() {
    let cases = [
        ("web.n.svc.cluster.local", TYPE::A, RCODE::NoError, 1, 0),
        ("WEB.n.Svc.cluster.LOCAL", TYPE::A, RCODE::NoError, 1, 0),
        ("web.n.svc.cluster.local", TYPE::AAAA, RCODE::NoError, 0, 1),
        (
            "_http._tcp.web.n.svc.cluster.local",
            TYPE::SRV,
            RCODE::NoError,
            1,
            0,
        ),
        ("7.0.43.10.in-addr.arpa", TYPE::PTR, RCODE::NoError, 1, 0),
        ("inside.n.svc.cluster.local", TYPE::A, RCODE::NoError, 2, 0),
        ("inside.n.svc.cluster.local", TYPE::CNAME, RCODE::NoError, 1, 0),
        ("nowhere.n.svc.cluster.local", TYPE::A, RCODE::NameError, 1, 0),
        ("x.n.svc.cluster.local", TYPE::A, RCODE::NameError, 0, 1),
    ];
    for (name, type_, code, answers, authority) in cases {
        let bytes = ask(&query(name, type_), true).await;
        let packet = Packet::parse(&bytes).unwrap();
        let said = (packet.rcode(), packet.answers.len(), packet.name_servers.len());
        assert_eq!(said, (code, answers, authority), "{name} {type_:?}");
        assert_eq!(packet.id(), 7);
        assert!(
            packet.has_flags(PacketFlag::RESPONSE | PacketFlag::AUTHORITATIVE_ANSWER),
            "{name}"
        );
        assert_eq!(packet.questions[0].qname.to_string(), name, "as it was asked");
    }
}

#[tokio::test]
async fn a_port_comes_with_its_hosts_address() {
    let bytes = ask(&query("_http._tcp.web.n.svc.cluster.local", TYPE::SRV), true).await;
    let packet = Packet::parse(&bytes).unwrap();
    let RData::SRV(srv) = &packet.answers[0].rdata else {
        panic!("{packet:?}")
    };
    assert_eq!(
        (srv.port, srv.target.to_string()),
        (80, "web.n.svc.cluster.local".to_owned())
    );
    assert_eq!(packet.additional_records.len(), 1);
}

#[tokio::test]
async fn what_does_not_fit_is_asked_again_over_tcp() {
    let asked = query("many.n.svc.cluster.local", TYPE::A);
    let bytes = ask(&asked, true).await;
    let packet = Packet::parse(&bytes).unwrap();
    assert!(bytes.len() <= 512 && packet.has_flags(PacketFlag::TRUNCATION));
    let bytes = ask(&asked, false).await;
    let packet = Packet::parse(&bytes).unwrap();
    assert_eq!(packet.answers.len(), 199);
    assert!(!packet.has_flags(PacketFlag::TRUNCATION));
}

#[tokio::test]
async fn what_is_not_a_question_is_refused() {
    let mut status = Packet::new_query(7);
    *status.opcode_mut() = OPCODE::ServerStatusRequest;
    let mut response = query("web.n.svc.cluster.local", TYPE::A);
    response[2] |= 0x80;
    let code = |bytes: Vec<u8>| Packet::parse(&bytes).unwrap().rcode();
    assert_eq!(
        code(ask(&status.build_bytes_vec().unwrap(), true).await),
        RCODE::NotImplemented
    );
    assert_eq!(
        code(ask(&Packet::new_query(7).build_bytes_vec().unwrap(), true).await),
        RCODE::FormatError
    );
    assert_eq!(
        resolver().answer(&response, true).await,
        None,
        "answering answers never ends"
    );
    assert_eq!(resolver().answer(b"short", true).await, None);
    let ignorant = Resolver::new("192.0.2.1".parse().unwrap());
    let bytes = ignorant
        .answer(&query("web.n.svc.cluster.local", TYPE::A), true)
        .await
        .unwrap();
    assert_eq!(code(bytes), RCODE::ServerFailure, "before anything is known");
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Query::parse(&bytes);
        let _ = message::answers(&bytes);
        let _ = message::refuse(&bytes, RCODE::FormatError);
    }
}

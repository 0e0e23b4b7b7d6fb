//! Rules for whom guests may meet, in both directions: with the bundle, by Update, and for each way there is in and out.

use crate::netns::Netns;
use crate::shim::{LIMIT, Shim, ended, in_network, is_root, until, workload};
use amphipod_shim_api::network::{Addresses, Allowed, NetworkRules, Ports, Protocol};
use serde_json::{Value, json};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use tokio::net::TcpSocket;

/// The Pod, somebody who is let in or out, and somebody who is not.
const POD: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const FRIEND: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const STRANGER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 3);

fn network() -> Netns {
    let netns = Netns::new();
    netns.own(&[POD, FRIEND, STRANGER]);
    netns
}

fn only(address: Ipv4Addr, protocol: Protocol, port: u16) -> Option<Vec<Allowed>> {
    Some(vec![Allowed {
        ports: Some(vec![Ports::one(protocol, port)]),
        addresses: Addresses::from_iter([IpAddr::from(address)]),
    }])
}

fn nobody() -> Option<Vec<Allowed>> {
    Some(Vec::new())
}

/// A command in the Pod, with rules.
fn command<'a>(netns: &'a Netns, words: &'a [&str], rules: &'a NetworkRules) -> impl FnOnce(&mut Value) + 'a {
    move |config| {
        in_network(config, netns);
        config["process"]["args"] = json!(words);
        narrowed(config, rules);
    }
}

fn narrowed(config: &mut Value, rules: &NetworkRules) {
    config["annotations"]["dev.amphipod.wasm/network"] = json!(serde_json::to_string(rules).unwrap());
}

/// A connection to the Pod from one of its network's addresses; who is refused may learn it here already.
fn connect(netns: &Netns, from: Ipv4Addr, port: u16) -> io::Result<TcpStream> {
    let stream = netns.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind((from, 0).into()).unwrap();
            socket.connect((POD, port).into()).await?.into_std()
        })
    })?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(LIMIT))?;
    Ok(stream)
}

/// What a request is answered with, on a connection that stays; nothing when it was closed.
fn ask(stream: &mut TcpStream) -> String {
    let mut head = String::new();
    // Who was refused may be told so at any of these steps.
    let asked = stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n");
    let mut answer = BufReader::new(stream);
    while asked.is_ok() && !head.ends_with("ok\n") {
        match answer.read_line(&mut head) {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    head
}

fn is_served(netns: &Netns, from: Ipv4Addr) -> bool {
    let answer = connect(netns, from, 8080).map_or_else(|_| String::new(), |mut stream| ask(&mut stream));
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 200"),
        "{answer}"
    );
    !answer.is_empty()
}

#[tokio::test]
async fn http_clients_are_let_in_by_the_rules_in_force() {
    if !is_root() {
        return;
    }
    let (shim, netns) = (Shim::new(), network());
    let rules = |address| NetworkRules {
        ingress: only(address, Protocol::Tcp, 8080),
        egress: None,
    };
    let server = shim
        .start("c", &workload("server.wasm"), |config| {
            in_network(config, &netns);
            config["annotations"]["dev.amphipod.wasm/http-port"] = json!("8080");
            narrowed(config, &rules(FRIEND));
        })
        .await;
    assert!(!is_served(&netns, STRANGER) && is_served(&netns, FRIEND));
    assert!(
        netns.get(8080, "/healthz").starts_with("HTTP/1.1 200"),
        "a Pod reaches itself"
    );
    let mut kept = connect(&netns, FRIEND, 8080).unwrap();
    assert!(ask(&mut kept).ends_with("ok\n"));
    server.narrow("c", &rules(STRANGER)).await.unwrap();
    assert!(is_served(&netns, STRANGER) && !is_served(&netns, FRIEND));
    assert!(
        ask(&mut kept).ends_with("ok\n"),
        "a connection that is there goes on"
    );
    server.narrow("c", &NetworkRules::default()).await.unwrap();
    assert!(is_served(&netns, STRANGER) && is_served(&netns, FRIEND));
}

/// A server of one answer to everybody, on a port of its own.
fn answering(netns: &Netns, address: Ipv4Addr, answer: &'static str) -> SocketAddr {
    let listener = netns.run(|| TcpListener::bind((address, 0)).unwrap());
    let there = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut line = String::new();
            // Whoever leaves without a word gets none.
            drop(BufReader::new(&stream).read_line(&mut line));
            drop(stream.write_all(answer.as_bytes()));
        }
    });
    there
}

#[tokio::test]
async fn requests_of_a_guest_go_where_its_rules_allow() {
    if !is_root() {
        return;
    }
    let (shim, netns) = (Shim::new(), network());
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nhi\n";
    let (friend, stranger) = (
        answering(&netns, FRIEND, answer),
        answering(&netns, STRANGER, answer),
    );
    let rules = NetworkRules {
        ingress: None,
        egress: only(FRIEND, Protocol::Tcp, friend.port()),
    };
    let server = shim
        .start("c", &workload("server.wasm"), |config| {
            in_network(config, &netns);
            config["annotations"]["dev.amphipod.wasm/http-port"] = json!("8080");
            narrowed(config, &rules);
        })
        .await;
    let fetch = |whom: SocketAddr| netns.get(8080, &format!("/fetch?url=http://{whom}/"));
    assert!(fetch(friend).ends_with("hi\n"), "{}", fetch(friend));
    let refused = fetch(stranger);
    assert!(refused.to_lowercase().contains("prohibited"), "{refused}");
    server.narrow("c", &NetworkRules::default()).await.unwrap();
    assert!(fetch(stranger).ends_with("hi\n"));
}

/// The text of the lines a container wrote.
fn said(shim: &Shim, id: &str) -> Vec<String> {
    let text = |line: String| line.splitn(3, ' ').nth(2).unwrap_or_default().to_owned();
    shim.log(id).into_iter().map(text).collect()
}

#[tokio::test]
async fn connections_of_a_command_go_where_its_rules_allow() {
    if !is_root() {
        return;
    }
    let (shim, netns) = (Shim::new(), network());
    let (friend, stranger) = (
        answering(&netns, FRIEND, "hi\n"),
        answering(&netns, STRANGER, "hi\n"),
    );
    let addresses = (friend.to_string(), stranger.to_string());
    let words = ["witness", "knock", &addresses.0, &addresses.1];
    let witness = workload("witness-component.wasm");
    let rules = NetworkRules {
        ingress: nobody(),
        egress: only(FRIEND, Protocol::Tcp, friend.port()),
    };
    assert_eq!(
        shim.run("narrow", &witness, command(&netns, &words, &rules))
            .await
            .status,
        0
    );
    let denied = format!("{stranger}: PermissionDenied");
    assert_eq!(said(&shim, "narrow"), [format!("{friend}: \"hi\\n\""), denied]);
    let open = NetworkRules::default();
    assert_eq!(
        shim.run("open", &witness, command(&netns, &words, &open))
            .await
            .status,
        0
    );
    let all = [friend, stranger].map(|there| format!("{there}: \"hi\\n\""));
    assert_eq!(said(&shim, "open"), all);
}

/// Waits until a container has written a line.
async fn until_said(shim: &Shim, id: &str, line: &str) {
    let has_said = || shim.log_path(id).exists() && said(shim, id).iter().any(|said| said == line);
    until(&format!("{id} says {line:?}"), has_said).await;
}

/// Says a line on a connection from there; what is answered until the other end closes.
fn line(netns: &Netns, from: Ipv4Addr, line: &str) -> String {
    let mut answer = String::new();
    // Who is refused may be told so at any step.
    let said = connect(netns, from, 7000).and_then(|mut stream| {
        stream.write_all(line.as_bytes())?;
        stream.read_to_string(&mut answer)
    });
    drop(said);
    answer
}

#[tokio::test]
async fn connections_to_a_command_come_from_whom_its_rules_allow() {
    if !is_root() {
        return;
    }
    let (shim, netns) = (Shim::new(), network());
    let rules = NetworkRules {
        ingress: only(FRIEND, Protocol::Tcp, 7000),
        egress: nobody(),
    };
    let words = ["witness", "serve", "7000"];
    let witness = workload("witness-component.wasm");
    let client = shim.start("c", &witness, command(&netns, &words, &rules)).await;
    until_said(&shim, "c", "serving").await;
    assert_eq!(line(&netns, STRANGER, "end\n"), "");
    assert_eq!(line(&netns, FRIEND, "hello\n"), "you said hello\n");
    let other_port = NetworkRules {
        ingress: only(FRIEND, Protocol::Tcp, 7001),
        egress: None,
    };
    client.narrow("c", &other_port).await.unwrap();
    assert_eq!(line(&netns, FRIEND, "end\n"), "");
    client.narrow("c", &NetworkRules::default()).await.unwrap();
    line(&netns, STRANGER, "end\n");
    assert_eq!(ended(&client, "c").await.status, 0);
    assert_eq!(said(&shim, "c"), ["serving", "heard hello"]);
}

#[tokio::test]
async fn datagrams_go_where_and_come_from_whom_rules_allow() {
    if !is_root() {
        return;
    }
    let (shim, netns) = (Shim::new(), network());
    let at = |address| netns.run(|| UdpSocket::bind((address, 0)).unwrap());
    let (friend, stranger) = (at(FRIEND), at(STRANGER));
    for socket in [&friend, &stranger] {
        socket.set_read_timeout(Some(LIMIT)).unwrap();
    }
    let witness = workload("witness-component.wasm");
    let rules = NetworkRules {
        ingress: only(FRIEND, Protocol::Udp, 7000),
        egress: nobody(),
    };
    let client = shim
        .start(
            "c",
            &witness,
            command(&netns, &["witness", "hear", "7000"], &rules),
        )
        .await;
    until_said(&shim, "c", "hearing").await;
    stranger.send_to(b"end", (POD, 7000)).unwrap();
    friend.send_to(b"hello", (POD, 7000)).unwrap();
    let mut answer = [0; 64];
    let length = friend.recv(&mut answer).unwrap();
    assert_eq!(
        &answer[..length],
        b"you said hello",
        "an answer needs no rule of its own"
    );
    friend.send_to(b"end", (POD, 7000)).unwrap();
    assert_eq!(ended(&client, "c").await.status, 0);
    assert_eq!(said(&shim, "c"), ["hearing", "heard hello"]);

    let (here, there) = (friend.local_addr().unwrap(), stranger.local_addr().unwrap());
    let rules = NetworkRules {
        ingress: nobody(),
        egress: only(FRIEND, Protocol::Udp, here.port()),
    };
    std::thread::spawn(move || {
        let mut bytes = [0; 64];
        let (_, from) = friend.recv_from(&mut bytes).unwrap();
        friend.send_to(b"hi", from).unwrap();
    });
    let addresses = (there.to_string(), here.to_string());
    let words = ["witness", "datagram", &addresses.0, &addresses.1];
    assert_eq!(
        shim.run("d", &witness, command(&netns, &words, &rules))
            .await
            .status,
        0
    );
    assert_eq!(
        said(&shim, "d"),
        [format!("{there}: PermissionDenied"), format!("{here}: \"hi\"")]
    );
}

#[tokio::test]
async fn resolvers_are_asked_where_rules_allow() {
    if !is_root() {
        return;
    }
    let (shim, netns) = (Shim::new(), network());
    crate::names::resolve_in(&netns, FRIEND);
    let resolv = shim.home.path().join("resolv.conf");
    std::fs::write(&resolv, format!("nameserver {FRIEND}\n")).unwrap();
    let hosts = shim.home.path().join("hosts");
    std::fs::write(&hosts, "10.9.0.1 myself\n").unwrap();
    let names = workload("names-component.wasm");
    let words = ["names", crate::names::KNOWN, "myself"];
    let run = |id: &'static str, rules: NetworkRules| {
        let (resolv, hosts, shim, netns, names) = (&resolv, &hosts, &shim, &netns, &names);
        async move {
            let exit = shim.run(id, names, |config| {
                command(netns, &words, &rules)(config);
                config["mounts"] = json!([
                    {"destination": "/etc/resolv.conf", "type": "bind", "source": resolv, "options": ["rbind", "rw"]},
                    {"destination": "/etc/hosts", "type": "bind", "source": hosts, "options": ["rbind", "rw"]},
                ]);
            });
            assert_eq!(exit.await.status, 0);
            said(shim, id)
        }
    };
    let allowed = NetworkRules {
        ingress: nobody(),
        egress: only(FRIEND, Protocol::Udp, 53),
    };
    let found = [
        format!("{}: 10.43.0.7", crate::names::KNOWN),
        "myself: 10.9.0.1".to_owned(),
    ];
    assert_eq!(run("allowed", allowed).await, found);
    let denied = NetworkRules {
        ingress: None,
        egress: nobody(),
    };
    let said = run("denied", denied).await;
    assert!(said[0].to_lowercase().contains("denied"), "{said:?}");
    assert_eq!(said[1], found[1], "the hosts file is nobody else");
}

#[tokio::test]
async fn rules_that_cannot_be_read_are_no_container() {
    if !is_root() {
        return;
    }
    let shim = Shim::new();
    let print = workload("print.wasm");
    let refusal = shim.refusal("c", &print, |config| {
        config["annotations"]["dev.amphipod.wasm/network"] = json!(r#"{"ingress": "everybody"}"#);
    });
    assert!(refusal.await.contains("dev.amphipod.wasm/network"));
}

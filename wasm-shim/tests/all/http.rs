//! HTTP handlers in network namespaces.

use crate::netns::Netns;
use crate::shim::{Shim, ended, in_network, is_root, wat, workload};
use amphipod_shim_api::{TaskError, TaskStatus};
use serde_json::json;
use std::time::{Duration, Instant};

/// A handler whose `handle` is the given core code; it never answers by itself.
pub fn handler(code: &str) -> Vec<u8> {
    wat(&format!(
        r#"(component
            (import "wasi:http/types@0.2.0" (instance $types
                (export "incoming-request" (type (sub resource)))
                (export "response-outparam" (type (sub resource)))))
            (alias export $types "incoming-request" (type $request))
            (alias export $types "response-outparam" (type $out))
            (core module $code
                (memory 1)
                (func (export "handle") (param i32 i32) {code}))
            (core instance $instance (instantiate $code))
            (func $handle (param "request" (own $request)) (param "response-out" (own $out))
                (canon lift (core func $instance "handle")))
            (instance $exports (export "handle" (func $handle)))
            (export "wasi:http/incoming-handler@0.2.0" (instance $exports)))"#
    ))
}

/// A handler that answers 200, writes `half` into the body, and then runs the given core code.
pub fn half_answer(code: &str) -> Vec<u8> {
    wat(&include_str!("half_answer.wat").replace(";; THEN", code))
}

pub fn on_port(port: u16, netns: &Netns) -> impl Fn(&mut serde_json::Value) {
    move |config| {
        in_network(config, netns);
        config["annotations"]["dev.amphipod.wasm/http-port"] = json!(port.to_string());
    }
}

#[tokio::test]
async fn two_pods_serve_the_same_port_each_in_its_own_network() {
    if !is_root() {
        return;
    }
    let shim = Shim::new();
    let (one, two) = (Netns::new(), Netns::new());
    for (id, netns) in [("one", &one), ("two", &two)] {
        shim.start(id, &workload("server.wasm"), |config| {
            on_port(8080, netns)(config);
            config["process"]["env"] = json!([format!("POD_NAME={id}")]);
        })
        .await;
    }
    for (id, netns) in [("one", &one), ("two", &two)] {
        let answer = netns.get(8080, "/?x=1");
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        assert!(
            answer.contains("hello from wasm") && answer.contains(&format!("pod: {id}")),
            "{answer}"
        );
    }
    assert!(
        std::net::TcpStream::connect("127.0.0.1:8080").is_err(),
        "a Pod's port is open on the host"
    );
}

#[tokio::test]
async fn bodies_files_and_outgoing_requests() {
    if !is_root() {
        return;
    }
    let shim = Shim::new();
    let netns = Netns::new();
    let data = tempfile::tempdir().unwrap();
    std::fs::write(data.path().join("message"), "from the volume").unwrap();
    shim.start("c", &workload("server.wasm"), |config| {
        on_port(9000, &netns)(config);
        config["mounts"] =
            json!([{"destination": "/data", "type": "bind", "source": data.path(), "options": ["ro"]}]);
    })
    .await;
    assert!(
        netns
            .get(9000, "/files/data/message")
            .ends_with("from the volume")
    );
    assert!(
        netns
            .get(9000, "/files/data/../../etc/passwd")
            .starts_with("HTTP/1.1 404")
    );
    assert!(
        netns
            .get(9000, "/fetch?url=http://127.0.0.1:9000/healthz")
            .ends_with("ok\n")
    );
    let body = "x".repeat(300_000);
    let request = format!(
        "POST /echo HTTP/1.1\r\nHost: t\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    assert!(netns.http(9000, &request).ends_with(&body));
    assert!(netns.http(9000, "BROKEN\r\n\r\n").starts_with("HTTP/1.1 400"));
    // HTTP/1.1 must name whom it asks, HTTP/1.0 need not.
    let close = "Connection: close\r\n\r\n";
    assert!(
        netns
            .http(9000, &format!("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n{close}"))
            .starts_with("HTTP/1.1 400")
    );
    assert!(
        netns
            .http(9000, &format!("GET / HTTP/1.1\r\n{close}"))
            .starts_with("HTTP/1.1 400")
    );
    assert!(
        netns
            .http(9000, "GET / HTTP/1.0\r\n\r\n")
            .starts_with("HTTP/1.0 200")
    );
}

#[tokio::test]
async fn http2_with_prior_knowledge() {
    if !is_root() {
        return;
    }
    let shim = Shim::new();
    let netns = Netns::new();
    shim.start("c", &workload("server.wasm"), on_port(8080, &netns))
        .await;
    assert_eq!(by_http2(&netns, "GET", "/healthz").unwrap(), (200, "ok\n".into()));
}

/// Status and body of an answer to a request to port 8080 over HTTP/2.
pub fn by_http2(netns: &Netns, method: &str, path: &str) -> Result<(u16, String), hyper::Error> {
    netns.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(ask_by_http2("127.0.0.1:8080", method, path))
    })
}

async fn ask_by_http2(address: &str, method: &str, path: &str) -> Result<(u16, String), hyper::Error> {
    use http_body_util::{BodyExt as _, Empty};
    use hyper_util::rt::{TokioExecutor, TokioIo};
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    let request = http::Request::builder()
        .method(method)
        .uri(format!("http://{address}{path}"))
        .body(Empty::<bytes::Bytes>::new())
        .unwrap();
    let response = sender.send_request(request).await?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

#[tokio::test]
async fn a_taken_port_is_an_error_of_start() {
    if !is_root() {
        return;
    }
    let shim = Shim::new();
    let netns = Netns::new();
    let first = shim
        .start("first", &workload("server.wasm"), on_port(8080, &netns))
        .await;
    let second = shim
        .create("second", &workload("server.wasm"), on_port(8080, &netns))
        .await;
    let error = second.start("second").await.unwrap_err();
    assert!(matches!(error, TaskError::Internal(_)));
    assert!(error.to_string().contains("listening on port 8080"), "{error}");
    first.kill("first", 9, true).await.unwrap();
    ended(&first, "first").await;
    second.start("second").await.unwrap();
    assert!(netns.get(8080, "/healthz").ends_with("ok\n"));
}

#[tokio::test]
async fn a_trap_is_500_for_its_own_request_and_the_container_goes_on() {
    if !is_root() {
        return;
    }
    let shim = Shim::new();
    let netns = Netns::new();
    let trap = shim
        .start("trap", &handler("unreachable"), on_port(8080, &netns))
        .await;
    shim.start("good", &workload("server.wasm"), on_port(8081, &netns))
        .await;
    for _ in 0..3 {
        assert!(netns.get(8080, "/").starts_with("HTTP/1.1 500"));
    }
    assert_eq!(trap.state("trap").await.unwrap().status, TaskStatus::Running);
    assert!(netns.get(8081, "/healthz").ends_with("ok\n"));
    let log = shim.log("trap").join("\n");
    assert!(log.contains("unreachable"), "{log}");
    let silent = shim.start("silent", &handler(""), on_port(8082, &netns)).await;
    assert!(netns.get(8082, "/").starts_with("HTTP/1.1 500"));
    assert_eq!(silent.state("silent").await.unwrap().status, TaskStatus::Running);
}

#[tokio::test]
async fn a_trap_in_the_middle_of_a_body_breaks_that_connection_only() {
    if !is_root() {
        return;
    }
    let shim = Shim::new();
    let netns = Netns::new();
    let client = shim
        .start("c", &half_answer("unreachable"), on_port(8080, &netns))
        .await;
    shim.start(
        "whole",
        &half_answer("(call $finish (local.get $body))"),
        on_port(8081, &netns),
    )
    .await;
    let request = "GET / HTTP/1.1\r\nHost: t\r\n\r\n";
    for _ in 0..2 {
        // Also when the guest was faster than the first write to the socket.
        let answer = netns.http(8080, request);
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        assert!(answer.ends_with("half\r\n"), "{answer}");
        assert!(
            !answer.ends_with("0\r\n\r\n"),
            "a broken body ends like a whole one: {answer}"
        );
        assert!(netns.get(8081, "/").ends_with("half\r\n0\r\n\r\n"));
    }
    assert_eq!(client.state("c").await.unwrap().status, TaskStatus::Running);
}

#[tokio::test]
async fn what_a_guest_does_not_read_of_a_request_is_read_for_it() {
    use std::io::{Read as _, Write as _};
    if !is_root() {
        return;
    }
    let shim = Shim::new();
    let netns = Netns::new();
    let guest = half_answer("(call $finish (local.get $body))");
    shim.start("c", &guest, on_port(8080, &netns)).await;
    let answered = |stream: &mut std::net::TcpStream| {
        let mut answer = Vec::new();
        while !answer.ends_with(b"0\r\n\r\n") {
            let mut byte = [0];
            if stream.read(&mut byte).unwrap() == 0 {
                break;
            }
            answer.push(byte[0]);
        }
        String::from_utf8_lossy(&answer).into_owned()
    };
    for head in ["Content-Length: 200000", "Transfer-Encoding: chunked"] {
        let chunked = head.starts_with("Transfer");
        let mut stream = netns.connect(8080);
        stream.set_read_timeout(Some(crate::shim::LIMIT)).unwrap();
        let begin = format!("POST / HTTP/1.1\r\nHost: t\r\n{head}\r\n\r\n");
        stream.write_all(begin.as_bytes()).unwrap();
        let first = answered(&mut stream);
        assert!(
            first.starts_with("HTTP/1.1 200 OK") && first.contains("half"),
            "{first}"
        );
        for _ in 0..20 {
            let piece = "x".repeat(10_000);
            let piece = if chunked {
                format!("2710\r\n{piece}\r\n")
            } else {
                piece
            };
            stream.write_all(piece.as_bytes()).unwrap();
        }
        let end = if chunked { "0\r\n\r\n" } else { "" };
        write!(stream, "{end}GET / HTTP/1.1\r\nHost: t\r\n\r\n").unwrap();
        let second = answered(&mut stream);
        assert!(second.starts_with("HTTP/1.1 200 OK"), "{head}: {second}");
    }
    // Too much, and what its client was not asked for: the answer, and the end of the connection.
    for head in [
        "Content-Length: 300000",
        "Content-Length: 9\r\nExpect: 100-continue",
    ] {
        let answer = netns.http(8080, &format!("POST / HTTP/1.1\r\nHost: t\r\n{head}\r\n\r\n"));
        assert!(
            answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("0\r\n\r\n"),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn an_answer_arrives_whole_although_more_was_sent_than_is_read() {
    use std::io::{Read as _, Write as _};
    if !is_root() {
        return;
    }
    let shim = Shim::new();
    let netns = Netns::new();
    /// Much of the answer is still under way when the connection is closed.
    const RECEIVED: usize = 16 << 10;
    let more =
        "(br_if $again (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 128)))
        (call $finish (local.get $body))";
    let guest = include_str!("half_answer.wat").replace(";; THEN", more);
    let piece = "(i32.const 65536) (i32.const 4096)";
    let guest = wat(&guest.replace("(i32.const 512) (i32.const 4)", piece));
    shim.start("c", &guest, on_port(8080, &netns)).await;
    for _ in 0..4 {
        let mut stream = netns.connect(8080);
        stream.set_read_timeout(Some(crate::shim::LIMIT)).unwrap();
        nix::sys::socket::setsockopt(&stream, nix::sys::socket::sockopt::RcvBuf, &RECEIVED).unwrap();
        let head = "POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 10000000\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&vec![0; 300_000]).unwrap();
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        assert!(answer.len() > 1 << 19, "{read:?} after {} bytes", answer.len());
        assert!(answer.ends_with(b"\r\n0\r\n\r\n"));
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_its_own_guest_only() {
    if !is_root() {
        return;
    }
    let shim = Shim::new();
    let netns = Netns::new();
    let client = shim
        .start("c", &half_answer("(br $again)"), on_port(8080, &netns))
        .await;
    let idle = netns.run(|| {
        use std::io::{Read as _, Write as _};
        let mut stream = std::net::TcpStream::connect("127.0.0.1:8080").unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n").unwrap();
        stream.read_exact(&mut [0; 12]).unwrap();
        stream
    });
    let other = netns.run(|| {
        use std::io::{Read as _, Write as _};
        let mut stream = std::net::TcpStream::connect("127.0.0.1:8080").unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n").unwrap();
        let mut bytes = vec![0; 100_000];
        stream.read_exact(&mut bytes).unwrap();
        bytes
    });
    assert!(other.starts_with(b"HTTP/1.1 200 OK"));
    assert!(
        client.stats("c").await.unwrap().memory_usage < 8 << 20,
        "an endless body is buffered"
    );
    drop(idle);
    client.kill("c", 9, true).await.unwrap();
    assert_eq!(ended(&client, "c").await.status, 137);
}

#[tokio::test]
async fn a_spinning_handler_leaves_its_neighbours_in_the_same_pod_alone() {
    if !is_root() {
        return;
    }
    let shim = Shim::new();
    let netns = Netns::new();
    let pod =
        |config: &mut serde_json::Value| config["annotations"]["io.kubernetes.cri.sandbox-id"] = json!("pod");
    let spin = shim
        .start("spin", &handler("(loop br 0)"), |config| {
            on_port(8080, &netns)(config);
            pod(config);
        })
        .await;
    shim.start("good", &workload("server.wasm"), |config| {
        on_port(8081, &netns)(config);
        pod(config);
    })
    .await;
    let client = netns.run(|| {
        use std::io::Write as _;
        let mut stream = std::net::TcpStream::connect("127.0.0.1:8080").unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n").unwrap();
        stream
    });
    // Until it has been seen to spin the neighbour may have nobody beside it, however often it is asked.
    let begun = Instant::now();
    while spin.stats("spin").await.unwrap().cpu_usage_nanos == 0 {
        assert!(begun.elapsed() < Duration::from_secs(30), "nothing spins");
        assert!(netns.get(8081, "/healthz").ends_with("ok\n"));
    }
    for _ in 0..20 {
        assert!(netns.get(8081, "/healthz").ends_with("ok\n"));
    }
    drop(client);
    spin.kill("spin", 9, true).await.unwrap();
    assert_eq!(ended(&spin, "spin").await.status, 137);
}

#[tokio::test]
async fn a_handler_over_its_memory_is_oom_killed() {
    if !is_root() {
        return;
    }
    let shim = Shim::new();
    let netns = Netns::new();
    let code = "(loop (drop (memory.grow (i32.const 16))) br 0)";
    let client = shim
        .start("c", &handler(code), |config| {
            on_port(8080, &netns)(config);
            config["linux"]["resources"]["memory"] = json!({"limit": 16 << 20});
        })
        .await;
    netns.get(8080, "/");
    assert_eq!(ended(&client, "c").await.status, 137);
    assert!(amphipod_shim_api::oom::happened(&shim.home.path().join("c")));
    assert!(netns.refuses(8080));
}

#[tokio::test]
async fn sigterm_drains_and_closes_the_port() {
    if !is_root() {
        return;
    }
    let shim = Shim::new();
    let netns = Netns::new();
    let client = shim
        .start("c", &workload("server.wasm"), on_port(8080, &netns))
        .await;
    assert!(netns.get(8080, "/healthz").ends_with("ok\n"));
    client.kill("c", 15, false).await.unwrap();
    assert_eq!(ended(&client, "c").await.status, 143);
    assert!(netns.refuses(8080));
    client.delete("c").await.unwrap();
}

#[tokio::test]
async fn many_requests_at_once_within_a_small_memory_limit() {
    if !is_root() {
        return;
    }
    let shim = Shim::new();
    let netns = Netns::new();
    let client = shim
        .start("c", &workload("server.wasm"), |config| {
            on_port(8080, &netns)(config);
            config["linux"]["resources"]["memory"] = json!({"limit": 16 << 20});
        })
        .await;
    let bad: Vec<String> = netns.run(|| {
        std::thread::scope(|scope| {
            let all: Vec<_> = (0..64).map(|_| scope.spawn(|| netns.get(8080, "/"))).collect();
            let answers = all.into_iter().map(|one| one.join().unwrap());
            answers
                .filter(|answer| !answer.starts_with("HTTP/1.1 200"))
                .collect()
        })
    });
    assert_eq!(bad, [""; 0]);
    assert_eq!(client.state("c").await.unwrap().status, TaskStatus::Running);
}

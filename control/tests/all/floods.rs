//! Clients that take their time, take all they can get, or come in crowds: the others are answered all the while.
use super::plane::{Plane, config_map};
use super::tls;
use amphipod_control::api::serve::Patience;
use futures::StreamExt;
use http::Method;
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
/// For what must happen at once, on a busy machine.
const SOON: Duration = Duration::from_secs(60);
/// Watches that one server holds.
const WATCHES: usize = 10_000;
/// Connections that never say anything.
const SILENT: usize = 300;

/// What the server waits here: also what a good client has on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);

fn impatient() -> Patience {
    Patience {
        handshake: PATIENCE,
        headers: PATIENCE,
        body: PATIENCE,
    }
}

/// Everything that the server still says; it must be the one that ends the connection.
async fn rest(stream: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut answer = Vec::new();
    let read = tokio::time::timeout(SOON, stream.read_to_end(&mut answer)).await;
    assert!(read.is_ok(), "the connection stays open");
    String::from_utf8_lossy(&answer).into_owned()
}

/// Lets a user do anything, without being a superuser.
async fn allow_everything(plane: &Plane, user: &str) {
    let binding = json!({
        "metadata": {"name": user},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
    });
    let path = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    assert_eq!(plane.call(Method::POST, path, binding).await.0, 201);
}

#[tokio::test]
async fn slow_headers_end_the_connection() {
    let plane = Plane::with(impatient()).await;
    let stream = tls::connect(&plane, b"http/1.1").await;
    let (mut reader, mut writer) = tokio::io::split(stream);
    let dripping = tokio::spawn(async move {
        let mut every = tokio::time::interval(Duration::from_millis(100));
        for byte in b"GET /livez HTTP/1.1\r\nhost: x\r\nx-slow: "
            .iter()
            .chain([b'y'; 1000].iter())
        {
            every.tick().await;
            if writer.write_all(&[*byte]).await.is_err() || writer.flush().await.is_err() {
                return;
            }
        }
    });
    let answer = rest(&mut reader).await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 408"),
        "{answer}"
    );
    dripping.abort();
    assert_eq!(plane.get("/livez").await.0, 200);
}

#[tokio::test]
async fn a_slow_body_ends_the_connection() {
    let plane = Plane::with(impatient()).await;
    let mut stream = tls::connect(&plane, b"http/1.1").await;
    let head = format!("POST {MAPS} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n");
    let request = format!("{head}content-length: 1000\r\n\r\n{{\"metadata\"");
    stream.write_all(request.as_bytes()).await.unwrap();
    let answer = rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 504"), "{answer}");
    assert!(answer.contains("\"kind\":\"Status\""), "{answer}");
}

#[tokio::test]
async fn silent_connections_are_ended_and_hold_nobody_up() {
    let plane = Plane::with(impatient()).await;
    let mut silent = Vec::new();
    for _ in 0..SILENT {
        silent.push(TcpStream::connect(plane.control.local_addr()).await.unwrap());
    }
    let mut stream = tls::connect(&plane, b"http/1.1").await;
    let request = "GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    assert!(rest(&mut stream).await.starts_with("HTTP/1.1 200"));
    for stream in &mut silent {
        rest(stream).await;
    }
}

#[tokio::test]
async fn who_fills_his_share_waits_and_others_do_not() {
    // Well below what a request waits for its turn.
    let body = Duration::from_secs(10);
    let plane = Plane::with(Patience {
        body,
        ..Patience::default()
    })
    .await;
    for user in ["greedy", "modest"] {
        allow_everything(&plane, user).await;
    }
    let head = format!("POST {MAPS} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n");
    let mut slow = Vec::new();
    // Each says that it brings as much as there may be, and brings nothing.
    for _ in 0..12 {
        let mut stream = tls::connect_as(&plane, b"http/1.1", "greedy", "people").await;
        let request = format!("{head}content-length: {}\r\n\r\n{{", 3 << 20);
        stream.write_all(request.as_bytes()).await.unwrap();
        slow.push(stream);
    }
    let modest = plane.control.client_as("modest", &[]);
    let list = || http::Request::get(MAPS).body(Vec::new()).unwrap();
    let begun = Instant::now();
    for _ in 0..20 {
        modest.request_text(list()).await.unwrap();
    }
    assert!(
        begun.elapsed() < body,
        "they waited for seats: {:?}",
        begun.elapsed()
    );
    // His own turn comes when his slow ones have been given up.
    let greedy = plane.control.client_as("greedy", &[]);
    let answered = tokio::time::timeout(SOON, greedy.request_text(list())).await;
    assert!(answered.unwrap().is_ok());
    for stream in &mut slow {
        // Those that did not fit beside the first ones may have waited too long for it.
        let end = rest(stream).await;
        assert!(
            end.starts_with("HTTP/1.1 504") || end.starts_with("HTTP/1.1 429"),
            "{end}"
        );
    }
}

#[tokio::test]
async fn ten_thousand_idle_watches_are_held() {
    let plane = Plane::start().await;
    let mut open = Vec::new();
    for _ in 0..WATCHES {
        let request = http::Request::get(format!("{MAPS}?watch=1&timeoutSeconds=600&resourceVersion=1"));
        let request = request.body(Vec::new()).unwrap();
        open.push(plane.client().request_stream(request).await.unwrap());
    }
    let (status, metrics) = plane.get("/metrics").await;
    let running = |line: &&str| {
        line.starts_with("apiserver_longrunning_requests{")
            && line.contains("resource=\"configmaps\",scope=\"namespace\"")
    };
    let shown = metrics.as_str().unwrap_or_default();
    let line = shown.lines().find(running).unwrap_or_default();
    let count: usize = line
        .rsplit(' ')
        .next()
        .unwrap_or_default()
        .parse()
        .unwrap_or_default();
    assert!(status == 200 && count >= WATCHES, "{line}");
    let begun = Instant::now();
    assert_eq!(plane.call(Method::POST, MAPS, config_map("c", "1")).await.0, 201);
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn the_start_of_a_large_watch_goes_out_in_pieces() {
    let plane = Plane::start().await;
    let data = "x".repeat(100 << 10);
    for i in 0..20 {
        let map = config_map(&format!("c{i}"), &data);
        assert_eq!(plane.call(Method::POST, MAPS, map).await.0, 201);
    }
    let request = http::Request::get(format!("{MAPS}?watch=1&timeoutSeconds=1"));
    let request = request.body(kube::client::Body::empty()).unwrap();
    let response = plane.client().send(request).await.unwrap();
    let mut pieces = http_body_util::BodyStream::new(response.into_body());
    let mut sizes = Vec::new();
    while let Some(piece) = pieces.next().await {
        sizes.push(piece.unwrap().into_data().map_or(0, |data| data.len()));
    }
    assert!(sizes.iter().sum::<usize>() > 20 * data.len());
    assert!(
        sizes.iter().all(|size| *size < 2 * (data.len() + 1024)),
        "{sizes:?}"
    );
}

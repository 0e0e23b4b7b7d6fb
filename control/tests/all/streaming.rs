//! exec and proxy through the API server to a node that answers as it likes: what the client sent ahead reaches nobody.
use super::plane::Plane;
use super::tls;
use amphipod_control::auth::pki::CertRequest;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use http::{Method, StatusCode};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

const PATIENCE: Duration = Duration::from_secs(20);
const EXEC: &str = "POST /api/v1/namespaces/default/pods/p/exec?command=sh&stdout=1 HTTP/1.1\r\nhost: x\r\n\
    connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: a2V5\r\n\
    sec-websocket-protocol: v5.channel.k8s.io\r\ncontent-length: 0\r\n\r\n";
const PIPELINED: &str = "GET /api/v1/namespaces HTTP/1.1\r\nhost: x\r\n\r\n";

/// A Pod on a node whose kubelet API is this answer to the first request; the task says all the node was sent.
async fn node_that_answers(plane: &Plane, answer: impl Into<Vec<u8>>) -> JoinHandle<String> {
    let pki = plane.control.pki();
    let request = CertRequest {
        cn: "system:node:n".into(),
        org: Some("system:nodes".into()),
        dns: vec!["n".into()],
        ips: vec![],
        client: true,
        server: true,
    };
    let issued = pki.issue(&request).unwrap();
    let chain = vec![CertificateDer::from_pem_slice(issued.cert_pem.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap();
    let config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}});
    assert_eq!(
        plane.call(Method::POST, "/api/v1/nodes", node.clone()).await.0,
        StatusCode::CREATED
    );
    let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}}});
    let patched = plane.send(
        Method::PATCH,
        "/api/v1/nodes/n/status",
        "application/merge-patch+json",
        status.to_string(),
    );
    assert_eq!(patched.await.0, StatusCode::OK);
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}});
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    let (code, _) = plane
        .call(
            Method::POST,
            "/api/v1/namespaces/default/serviceaccounts",
            account,
        )
        .await;
    assert!(
        code == StatusCode::CREATED || code == StatusCode::CONFLICT,
        "the controller may have made it"
    );
    let (code, made) = plane
        .call(Method::POST, "/api/v1/namespaces/default/pods", pod)
        .await;
    assert_eq!(code, StatusCode::CREATED, "{made}");
    let (tls, answer) = (TlsAcceptor::from(Arc::new(config)), answer.into());
    tokio::spawn(async move {
        // The control plane looks now and then at what is used, and may give up before it is answered.
        'next: loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = tls.accept(tcp).await else {
                continue;
            };
            let mut heard = Vec::new();
            while !heard.windows(4).any(|end| end == b"\r\n\r\n") {
                if !stream.read_buf(&mut heard).await.is_ok_and(|read| read > 0) {
                    continue 'next;
                }
            }
            if heard.starts_with(b"GET /metrics/resource ") {
                continue;
            }
            stream.write_all(&answer).await.unwrap();
            stream.flush().await.unwrap();
            read_all(&mut stream, &mut heard).await;
            return String::from_utf8_lossy(&heard).into_owned();
        }
    })
}

/// Until the other side closes; a connection broken off is closed too.
async fn read_all(stream: &mut (impl AsyncRead + Unpin), into: &mut Vec<u8>) {
    let reading = async { while stream.read_buf(into).await.is_ok_and(|read| read > 0) {} };
    tokio::time::timeout(PATIENCE, reading)
        .await
        .expect("the connection was not closed");
}

/// What a client hears that sends a second request right behind its exec.
async fn exec_and_more(plane: &Plane) -> String {
    let mut client = tls::connect(plane, b"http/1.1").await;
    client
        .write_all(format!("{EXEC}{PIPELINED}").as_bytes())
        .await
        .unwrap();
    let mut heard = Vec::new();
    read_all(&mut client, &mut heard).await;
    String::from_utf8_lossy(&heard).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_upgrade_ends_the_connection() {
    let plane = Plane::start().await;
    let refusal = "HTTP/1.1 403 Forbidden\r\ncontent-length: 4\r\n\r\nnope";
    let node = node_that_answers(&plane, refusal).await;
    let heard = exec_and_more(&plane).await;
    assert!(
        heard.starts_with("HTTP/1.1 403") && heard.contains("nope"),
        "{heard}"
    );
    assert!(!heard.contains("NamespaceList"), "{heard}");
    let sent = node.await.unwrap();
    assert!(
        sent.starts_with("GET /exec/default/p/c?output=1&command=sh HTTP/1.1\r\n"),
        "{sent}"
    );
    assert!(!sent.contains("/api/v1/namespaces"), "{sent}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_not_followed() {
    let plane = Plane::start().await;
    let elsewhere = "HTTP/1.1 302 Found\r\nlocation: https://169.254.169.254/\r\ncontent-length: 0\r\n\r\n";
    let node = node_that_answers(&plane, elsewhere).await;
    let heard = exec_and_more(&plane).await;
    assert!(
        heard.starts_with("HTTP/1.1 500") && !heard.contains("169.254"),
        "{heard}"
    );
    assert!(!node.await.unwrap().contains("/api/v1/namespaces"));
}

#[tokio::test(flavor = "multi_thread")]
async fn once_agreed_every_byte_goes_through() {
    let plane = Plane::start().await;
    let agreed = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
        sec-websocket-accept: x\r\nsec-websocket-protocol: v5.channel.k8s.io\r\n\r\nfrom the node";
    let node = node_that_answers(&plane, agreed).await;
    let mut client = tls::connect(&plane, b"http/1.1").await;
    client.write_all(EXEC.as_bytes()).await.unwrap();
    let mut heard = Vec::new();
    while !heard.ends_with(b"from the node") {
        assert!(client.read_buf(&mut heard).await.unwrap() > 0);
    }
    let text = String::from_utf8_lossy(&heard).to_lowercase();
    assert!(
        text.starts_with("http/1.1 101") && text.contains("sec-websocket-protocol: v5.channel.k8s.io"),
        "{text}"
    );
    client.write_all(b"from the client").await.unwrap();
    client.shutdown().await.unwrap();
    assert!(node.await.unwrap().ends_with("from the client"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_upgrade_is_told() {
    let plane = Plane::start().await;
    let _node = node_that_answers(&plane, "").await;
    let path = "/api/v1/namespaces/default/pods/p/exec?command=sh&stdout=1";
    let (code, said) = plane.call(Method::POST, path, json!(null)).await;
    assert_eq!(
        (code, said["message"].as_str()),
        (StatusCode::BAD_REQUEST, Some("Upgrade request required"))
    );
    let path = "/api/v1/namespaces/default/pods/p/exec?container=x&command=sh&stdout=1";
    assert_eq!(
        plane.call(Method::POST, path, json!(null)).await.0,
        StatusCode::BAD_REQUEST
    );
}

/// What a client hears of one request.
async fn ask(plane: &Plane, request: &str) -> String {
    String::from_utf8_lossy(&ask_bytes(plane, request).await).to_lowercase()
}

async fn ask_bytes(plane: &Plane, request: &str) -> Vec<u8> {
    let mut client = tls::connect(plane, b"http/1.1").await;
    client.write_all(request.as_bytes()).await.unwrap();
    let mut heard = Vec::new();
    read_all(&mut client, &mut heard).await;
    heard
}

const NODE: &str = "/api/v1/nodes/n/proxy";

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_reached_through_the_server() {
    let plane = Plane::start().await;
    let answer =
        "HTTP/1.1 302 Found\r\nlocation: /next?a=b\r\nkeep-alive: 1\r\ncontent-length: 4\r\n\r\nhere";
    let node = node_that_answers(&plane, answer).await;
    let heard = ask(
        &plane,
        &format!(
            "GET {NODE}/a/../logs%20of/?x=y HTTP/1.1\r\nhost: me\r\nconnection: close\r\nimpersonate-user: system:admin\r\n\
             impersonate-group: system:masters\r\nx-mine: 1\r\n\r\n"
        ),
    )
    .await;
    assert!(
        heard.starts_with("http/1.1 302") && heard.ends_with("here"),
        "{heard}"
    );
    assert!(
        heard.contains(&format!("location: {NODE}/next?a=b\r\n")),
        "{heard}"
    );
    assert!(!heard.contains("keep-alive"), "{heard}");
    let sent = node.await.unwrap().to_lowercase();
    assert!(sent.starts_with("get /logs%20of/?x=y http/1.1\r\n"), "{sent}");
    for header in ["host: me", "x-mine: 1", "x-forwarded-for: 127.0.0.1"] {
        assert!(sent.contains(&format!("{header}\r\n")), "{header}: {sent}");
    }
    assert!(
        sent.contains(&format!("x-forwarded-uri: {NODE}/logs%20of/\r\n")),
        "{sent}"
    );
    assert!(!sent.contains("impersonate"), "{sent}");
}

#[tokio::test(flavor = "multi_thread")]
async fn links_of_a_compressed_page_lead_through_the_server() {
    let plane = Plane::start().await;
    let mut page = GzEncoder::new(Vec::new(), Compression::fast());
    page.write_all(br#"<a href="/next">n</a>"#).unwrap();
    let page = page.finish().unwrap();
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-encoding: gzip\r\ncontent-length:";
    let answer = [format!("{head} {}\r\n\r\n", page.len()).into_bytes(), page].concat();
    let node = node_that_answers(&plane, answer).await;
    // HTTP/1.0: the answer ends with the connection and has no chunks.
    let heard = ask_bytes(&plane, &format!("GET {NODE}/x HTTP/1.0\r\nhost: me\r\n\r\n")).await;
    node.await.unwrap();
    let end = heard.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    let head = String::from_utf8_lossy(&heard[..end]).to_lowercase();
    assert!(head.contains("content-encoding: gzip\r\n"), "{head}");
    let mut page = String::new();
    GzDecoder::new(&heard[end..]).read_to_string(&mut page).unwrap();
    assert_eq!(page, format!(r#"<a href="{NODE}/next">n</a>"#));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_turns_out_to_be_long_passes_as_it_is() {
    let plane = Plane::start().await;
    let page = br#"<a href="/next">n</a>"#.repeat(9 << 20 >> 4);
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ntransfer-encoding: chunked\r\n\r\n";
    let head = format!("{head}{:x}\r\n", page.len());
    let node = node_that_answers(&plane, [head.as_bytes(), &page, b"\r\n0\r\n\r\n"].concat()).await;
    let heard = ask_bytes(&plane, &format!("GET {NODE}/x HTTP/1.0\r\nhost: me\r\n\r\n")).await;
    node.await.unwrap();
    let end = heard.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    assert!(
        heard.starts_with(b"HTTP/1.0 200"),
        "{}",
        String::from_utf8_lossy(&heard[..end])
    );
    assert!(heard[end..] == page, "{} bytes", heard.len() - end);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_passes_through_the_server() {
    let plane = Plane::start().await;
    let node = node_that_answers(&plane, "HTTP/1.1 201 Created\r\ncontent-length: 4\r\n\r\nmade").await;
    let (_, object) = plane.get("/api/v1/nodes/n").await;
    let port = &object["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"];
    let request = format!(
        "PUT /api/v1/nodes/n:{port}/proxy/x HTTP/1.1\r\nhost: me\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello"
    );
    let heard = ask(&plane, &request).await;
    assert!(
        heard.starts_with("http/1.1 201") && heard.ends_with("made"),
        "{heard}"
    );
    let sent = node.await.unwrap();
    assert!(
        sent.starts_with("PUT /x HTTP/1.1\r\n") && sent.ends_with("hello"),
        "{sent}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_passes_through_the_server() {
    let plane = Plane::start().await;
    let agreed =
        "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: mine\r\n\r\nfrom the node";
    let node = node_that_answers(&plane, agreed).await;
    let mut client = tls::connect(&plane, b"http/1.1").await;
    let request =
        format!("GET {NODE}/socket HTTP/1.1\r\nhost: me\r\nconnection: upgrade\r\nupgrade: mine\r\n\r\n");
    client.write_all(request.as_bytes()).await.unwrap();
    let mut heard = Vec::new();
    while !heard.ends_with(b"from the node") {
        assert!(client.read_buf(&mut heard).await.unwrap() > 0);
    }
    assert!(heard.starts_with(b"HTTP/1.1 101"));
    client.write_all(b"from the client").await.unwrap();
    client.shutdown().await.unwrap();
    let sent = node.await.unwrap();
    assert!(
        sent.starts_with("GET /socket HTTP/1.1\r\n") && sent.ends_with("from the client"),
        "{sent}"
    );
}

/// Upstream's registry takes the resource from the request, and looks for the node before anything else.
#[tokio::test]
async fn a_node_that_is_not_there_is_told_as_a_pod_that_is_not() {
    let plane = Plane::start().await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "nn", "containers": [{"name": "c", "image": "i"}]}});
    let pods = "/api/v1/namespaces/default/pods";
    assert_eq!(plane.call(Method::POST, pods, pod).await.0, StatusCode::CREATED);
    for path in ["log", "exec?command=sh", "attach", "portforward"] {
        let (code, body) = plane.get(&format!("{pods}/p/{path}")).await;
        assert_eq!(code, StatusCode::NOT_FOUND, "{path}: {body}");
        assert_eq!(
            (&body["message"], &body["details"]["kind"]),
            (&json!("pods \"nn\" not found"), &json!("pods")),
            "{path}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_reached_is_told_as_upstream_does() {
    let plane = Plane::start().await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
        "spec": {"selector": {"a": "b"}, "ports": [{"port": 80}]}});
    let services = "/api/v1/namespaces/default/services";
    assert_eq!(
        plane.call(Method::POST, services, service).await.0,
        StatusCode::CREATED
    );
    let endpoints = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "t"}});
    let created = plane.call(Method::POST, "/api/v1/namespaces/default/endpoints", endpoints);
    assert_eq!(created.await.0, StatusCode::CREATED);
    for (path, code, message) in [
        ("services/none/proxy/", 404, "services \"none\" not found"),
        (
            "services/s:81/proxy/",
            503,
            "no service port 81 found for service \"s\"",
        ),
        (
            "services/t/proxy/x",
            503,
            "no endpoints available for service \"t\"",
        ),
        (
            "services/ftp:s:1/proxy/",
            400,
            "invalid service request \"ftp:s:1\"",
        ),
        ("pods/none/proxy/", 404, "pods \"none\" not found"),
    ] {
        let (said, body) = plane.get(&format!("/api/v1/namespaces/default/{path}")).await;
        assert_eq!(
            (said.as_u16(), body["message"].as_str()),
            (code, Some(message)),
            "{path}"
        );
    }
}

//! Requests as bytes: lengths, heads and paths that one reads in this way and another in that.
use super::plane::Plane;
use super::tls;
use http::Method;
use serde_json::json;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// Sends bytes as they are and reads until the server ends the connection.
async fn raw(plane: &Plane, bytes: &[u8]) -> String {
    let mut stream = tls::connect(plane, b"http/1.1").await;
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // A connection may be reset instead of closed when it still has something to say.
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await;
    assert!(read.is_ok(), "the connection stays open");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn lengths_that_lie() {
    let plane = Plane::start().await;
    let post = format!("POST {MAPS} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n");
    for (name, request) in [
        (
            "two lengths",
            format!("{post}content-length: 2\r\ncontent-length: 3\r\n\r\n{{}}"),
        ),
        ("a negative one", format!("{post}content-length: -1\r\n\r\n{{}}")),
        ("no number", format!("{post}content-length: 0x2\r\n\r\n{{}}")),
        (
            "too many digits",
            format!("{post}content-length: 99999999999999999999999\r\n\r\n{{}}"),
        ),
        (
            "a bad chunk",
            format!("{post}transfer-encoding: chunked\r\n\r\nzz\r\n{{}}\r\n0\r\n\r\n"),
        ),
        (
            "an unknown encoding",
            format!("{post}transfer-encoding: gzip\r\n\r\n{{}}"),
        ),
        (
            "a space in a name",
            format!("{post}content-length : 2\r\n\r\n{{}}"),
        ),
    ] {
        let answer = raw(&plane, request.as_bytes()).await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 400"),
            "{name}: {answer}"
        );
    }
    // The longer of two ways to read this would smuggle a second request in.
    let both = format!(
        "{post}content-length: 4\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n0\r\n\r\nGET /livez HTTP/1.1\r\nhost: x\r\n\r\n"
    );
    let answer = raw(&plane, both.as_bytes()).await;
    assert!(
        answer.matches("HTTP/1.1").count() <= 1 && !answer.contains("\r\n\r\nok"),
        "{answer}"
    );
    let behind = format!("{post}content-length: 2\r\n\r\n{{}}GARBAGE\r\n\r\n");
    let answer = raw(&plane, behind.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
    let chunks = format!("{post}transfer-encoding: chunked\r\nconnection: close\r\n\r\n");
    let many = format!(
        "{chunks}{}",
        "10000\r\n".to_owned() + &"x".repeat(0x10000) + "\r\n"
    )
    .repeat(1);
    let endless = many.clone() + &("10000\r\n".to_owned() + &"x".repeat(0x10000) + "\r\n").repeat(60);
    let mut stream = tls::connect(&plane, b"http/1.1").await;
    // The server may stop reading before all is written.
    let _ = stream.write_all(endless.as_bytes()).await;
    let mut head = vec![0; 12];
    if stream.read_exact(&mut head).await.is_ok() {
        assert_eq!(String::from_utf8_lossy(&head), "HTTP/1.1 413");
    }
    assert_eq!(plane.get("/livez").await.0, 200);
}

/// A proxy may see another request, or another host, in these.
#[tokio::test]
async fn heads_that_may_be_read_in_two_ways() {
    let plane = Plane::start().await;
    let chunked = "transfer-encoding: chunked\r\n";
    for (lines, want, told) in [
        (
            String::new(),
            "HTTP/1.1 400",
            "400 Bad Request: missing required Host header",
        ),
        ("host: a\r\nhost: b\r\n".into(), "HTTP/1.1 400", "400 Bad Request"),
        (
            "host: a b\r\n".into(),
            "HTTP/1.1 400",
            "400 Bad Request: malformed Host header",
        ),
        (
            format!("host: a\r\n{chunked}{chunked}"),
            "HTTP/1.1 501",
            "Unsupported transfer encoding",
        ),
        ("host: a\r\nexpect: 200-ok\r\n".into(), "HTTP/1.1 417", ""),
    ] {
        let request =
            format!("POST {MAPS} HTTP/1.1\r\n{lines}content-type: application/json\r\n\r\n0\r\n\r\n");
        let answer = raw(&plane, request.as_bytes()).await;
        assert!(
            answer.starts_with(want) && answer.ends_with(&format!("\r\n\r\n{told}")),
            "{lines:?}: {answer}"
        );
        assert!(
            answer.to_lowercase().contains("connection: close\r\n"),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn paths_that_lead_elsewhere() {
    let plane = Plane::start().await;
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"a": "hunter2"}});
    plane
        .call(Method::POST, "/api/v1/namespaces/default/secrets", secret)
        .await;
    for path in [
        "/api/v1/namespaces/default/configmaps/../secrets/s",
        "/api/v1/namespaces/default/configmaps/%2e%2e/secrets/s",
        "/api/v1/namespaces/default/configmaps/..%2Fsecrets%2Fs",
        "/api/v1/namespaces/default/configmaps/..;/secrets/s",
        "/api/v1/namespaces/default%2fsecrets/configmaps/s",
        "/api/v1/namespaces/default/configmaps/s%00",
        "/api/v1/namespaces/default/configmaps/%ff",
        "/api/v1/namespaces/default/configmaps/%c0%ae%c0%ae",
        "/api/v1/namespaces/default/configmaps/%",
        "/api/v1/namespaces//configmaps/s",
        "/api/v1/namespaces/default/nosuch",
        "/api/v1/namespaces/default/configmaps/a/b/c/d",
        "//api//v1//nosuch",
        "/../../etc/passwd",
        "/static/../../etc/passwd",
        "http://elsewhere/api/v1/nosuch",
        "*",
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let answer = raw(&plane, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 4"), "{path}: {answer}");
        assert!(
            !answer.contains("aHVudGVyMg") && !answer.contains("root:"),
            "{path}: {answer}"
        );
    }
    for request in [
        "GET /api/v1\u{0}/pods HTTP/1.1\r\nhost: x\r\n\r\n",
        "GET /livez HTTP/9.9\r\nhost: x\r\n\r\n",
        "G\u{1}T /livez HTTP/1.1\r\nhost: x\r\n\r\n",
        "GET /livez HTTP/1.1\r\nhost: x\r\nx: a\u{0}b\r\n\r\n",
        "\r\n\r\n\r\nnonsense\r\n\r\n",
    ] {
        let answer = raw(&plane, request.as_bytes()).await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
            "{request:?}: {answer}"
        );
    }
    let long = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(200_000));
    let answer = raw(&plane, long.as_bytes()).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
}

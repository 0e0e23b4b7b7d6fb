//! Probes against real listeners on the loopback.

use std::sync::Mutex;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::*;

struct Heard {
    health: mpsc::UnboundedSender<Health>,
    events: Mutex<Vec<ProbeEvent>>,
}

impl ProbeSink for Heard {
    fn health(&self, _: &str, health: Health) {
        let _ = self.health.send(health);
    }

    fn probed(&self, container: &str, probe: &'static str, result: &'static str, took: Duration) {
        assert!(took < Duration::from_secs(3600));
        assert!(!container.is_empty() && !probe.is_empty() && !result.is_empty());
    }

    fn event(&self, _: &str, event: ProbeEvent) {
        self.events.lock().unwrap().push(event);
    }
}

fn start(container: Value, before: Option<Health>) -> (Probing, mpsc::UnboundedReceiver<Health>, Arc<Heard>) {
    let (health, changes) = mpsc::unbounded_channel();
    let heard = Arc::new(Heard {
        health,
        events: Mutex::default(),
    });
    let target = Target {
        container: serde_json::from_value(container).unwrap(),
        container_id: "id".into(),
        pod_ip: [127, 0, 0, 1].into(),
        started_at: Timestamp::now(),
        exec: None,
        before,
    };
    (Probing::start(target, heard.clone()), changes, heard)
}

/// Answers each connection with the next of these, and goes on with the last; hands over the requests.
pub async fn serve(answers: Vec<String>) -> (u16, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (requests, seen) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        for n in 0.. {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = vec![0; 4096];
            let length = stream.read(&mut buffer).await.unwrap();
            let _ = requests.send(String::from_utf8_lossy(&buffer[..length]).into_owned());
            stream
                .write_all(answers[n.min(answers.len() - 1)].as_bytes())
                .await
                .unwrap();
        }
    });
    (port, seen)
}

pub fn status(line: &str) -> String {
    format!("HTTP/1.1 {line}\r\ncontent-length: 2\r\n\r\nhi")
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

#[tokio::test]
async fn a_container_without_probes_is_ready_at_once() {
    let (probing, ..) = start(json!({"name": "c"}), None);
    assert_eq!(
        probing.health(),
        Health {
            started: true,
            ready: true,
            failed: None
        }
    );
}

#[tokio::test]
async fn readiness_follows_the_status_code() {
    let answers = vec![status("500 no"), status("204 yes"), status("500 no")];
    let (port, mut requests) = serve(answers).await;
    let probe = json!({"httpGet": {"port": port, "path": "/ready", "httpHeaders": [{"name": "Host", "value": "me"},
        {"name": "X-A", "value": "b"}]}, "periodSeconds": 1, "timeoutSeconds": 30, "failureThreshold": 1});
    let (probing, mut changes, heard) = start(json!({"name": "c", "readinessProbe": probe}), None);
    assert_eq!(
        probing.health(),
        Health {
            started: true,
            ready: false,
            failed: None
        }
    );
    assert!(changes.recv().await.unwrap().ready);
    assert!(!changes.recv().await.unwrap().ready);
    let events = heard.events.lock().unwrap().clone();
    assert_eq!(events[0].reason, "Unhealthy");
    assert_eq!(
        events[0].message,
        "Readiness probe failed: HTTP probe failed with statuscode: 500"
    );
    let request = requests.recv().await.unwrap().to_lowercase();
    for line in [
        "get /ready http/1.1",
        "host: me",
        "x-a: b",
        "user-agent: kube-probe/1.36",
        "accept: */*",
    ] {
        assert!(request.contains(line), "{line} in {request}");
    }
}

#[tokio::test]
async fn liveness_fails_for_good_after_its_threshold() {
    let port = free_port();
    let probe = json!({"httpGet": {"port": port, "path": "/live"}, "periodSeconds": 1, "timeoutSeconds": 30, "failureThreshold": 2});
    let (_probing, mut changes, heard) = start(json!({"name": "c", "livenessProbe": probe}), None);
    let health = changes.recv().await.unwrap();
    assert_eq!(
        health,
        Health {
            started: true,
            ready: true,
            failed: Some(Kind::Liveness)
        }
    );
    let events = heard.events.lock().unwrap().clone();
    assert_eq!(events.len(), 2);
    let expected = format!(
        "Liveness probe failed: Get \"http://127.0.0.1:{port}/live\": dial tcp 127.0.0.1:{port}: connect: connection refused"
    );
    assert_eq!(events[0].message, expected);
}

#[tokio::test]
async fn nothing_else_is_probed_before_the_startup_probe_has_passed() {
    let (port, mut requests) = serve(vec![status("503 not yet"), status("200 ok")]).await;
    let probe = |path: &str| json!({"httpGet": {"port": port, "path": path}, "periodSeconds": 1, "timeoutSeconds": 30});
    let container =
        json!({"name": "c", "startupProbe": probe("/startup"), "readinessProbe": probe("/ready")});
    let (probing, mut changes, _) = start(container, None);
    assert_eq!(
        probing.health(),
        Health {
            started: false,
            ready: false,
            failed: None
        }
    );
    assert_eq!(
        changes.recv().await.unwrap(),
        Health {
            started: true,
            ready: false,
            failed: None
        }
    );
    assert_eq!(
        changes.recv().await.unwrap(),
        Health {
            started: true,
            ready: true,
            failed: None
        }
    );
    for path in ["/startup", "/startup", "/ready"] {
        assert!(
            requests
                .recv()
                .await
                .unwrap()
                .starts_with(&format!("GET {path} "))
        );
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_says_nothing_and_is_told_as_upstream_tells_it() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhi",
        "HTTP/1.1 500 no\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhi",
    ] {
        let (port, mut requests) = serve(vec![answer.to_owned()]).await;
        let probe = json!({"httpGet": {"port": port}, "periodSeconds": 1, "timeoutSeconds": 30, "failureThreshold": 1});
        let (probing, mut changes, heard) = start(json!({"name": "c", "livenessProbe": probe}), None);
        // Tried again at once, then told, then made anew.
        for _ in 0..4 {
            requests.recv().await.unwrap();
        }
        let events = heard.events.lock().unwrap().clone();
        let message = "Liveness probe errored and resulted in failure state: unexpected EOF";
        assert_eq!(
            (events[0].reason, events[0].message.as_str()),
            ("Unhealthy", message)
        );
        assert!(changes.try_recv().is_err());
        assert_eq!(probing.health().failed, None);
    }
}

#[tokio::test]
async fn a_tcp_probe_needs_a_listener_only() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let container = json!({"name": "c", "ports": [{"name": "p", "containerPort": port}],
        "readinessProbe": {"tcpSocket": {"port": "p"}}});
    let (_probing, mut changes, _) = start(container, None);
    assert!(changes.recv().await.unwrap().ready);
}

#[tokio::test]
async fn a_server_that_does_not_answer_times_out() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let probe = json!({"httpGet": {"port": port}, "timeoutSeconds": 1, "failureThreshold": 1});
    let (_probing, mut changes, heard) = start(json!({"name": "c", "livenessProbe": probe}), None);
    assert_eq!(changes.recv().await.unwrap().failed, Some(Kind::Liveness));
    let message = heard.events.lock().unwrap()[0].message.clone();
    assert_eq!(
        message,
        format!(
            "Liveness probe failed: Get \"http://127.0.0.1:{port}/\": context deadline exceeded \
             (Client.Timeout exceeded while awaiting headers)"
        )
    );
}

#[tokio::test]
async fn redirects_are_followed_on_the_host_and_end_elsewhere() {
    let to = |location: &str| format!("HTTP/1.1 302 x\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n");
    let (port, mut requests) = serve(vec![to("/next"), to("http://example.invalid/")]).await;
    let probe = json!({"httpGet": {"port": port}, "periodSeconds": 60, "timeoutSeconds": 30});
    let (_probing, mut changes, heard) = start(json!({"name": "c", "readinessProbe": probe}), None);
    assert!(changes.recv().await.unwrap().ready);
    requests.recv().await.unwrap();
    assert!(requests.recv().await.unwrap().starts_with("GET /next "));
    let event = heard.events.lock().unwrap()[0].clone();
    assert_eq!(event.reason, "ProbeWarning");
    assert_eq!(
        event.message,
        "Readiness probe warning: Probe terminated redirects, Response body: "
    );
}

#[tokio::test]
async fn https_is_probed_without_verification() {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["someone-else".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            key.serialize_der().try_into().unwrap(),
        )
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = acceptor.accept(stream).await.unwrap();
        stream.read_exact(&mut [0; 64]).await.unwrap();
        stream.write_all(status("200 ok").as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
    });
    let probe =
        json!({"httpGet": {"port": port, "scheme": "HTTPS"}, "periodSeconds": 60, "timeoutSeconds": 30});
    let (_probing, mut changes, _) = start(json!({"name": "c", "readinessProbe": probe}), None);
    assert!(changes.recv().await.unwrap().ready);
}

#[tokio::test]
async fn a_server_without_tls_fails_an_https_probe() {
    let (port, _requests) = serve(vec!["no TLS here, sorry".into()]).await;
    let probe = json!({"httpGet": {"port": port, "scheme": "HTTPS"}, "failureThreshold": 1});
    let (_probing, mut changes, heard) = start(json!({"name": "c", "livenessProbe": probe}), None);
    assert!(changes.recv().await.unwrap().failed.is_some());
    let message = heard.events.lock().unwrap()[0].message.clone();
    assert!(
        message.starts_with(&format!(
            "Liveness probe failed: Get \"https://127.0.0.1:{port}/\": "
        )),
        "{message}"
    );
}

#[tokio::test]
async fn what_a_restarted_agent_knew_holds_until_a_probe_says_otherwise() {
    let before = Health {
        started: true,
        ready: true,
        failed: None,
    };
    let probe = json!({"tcpSocket": {"port": free_port()}, "periodSeconds": 1, "failureThreshold": 1});
    let container = json!({"name": "c", "startupProbe": probe, "readinessProbe": probe});
    let (probing, mut changes, _) = start(container, Some(before));
    assert_eq!(probing.health(), before);
    assert_eq!(
        changes.recv().await.unwrap(),
        Health {
            started: true,
            ready: false,
            failed: None
        }
    );
}

#[tokio::test]
async fn a_terminating_pod_is_not_restarted_by_its_liveness_probe() {
    let (port, _requests) = serve(vec![status("200 ok"), status("500 bye")]).await;
    let probe = |path: &str| json!({"httpGet": {"port": port, "path": path}, "periodSeconds": 1, "timeoutSeconds": 30, "failureThreshold": 1});
    let container = json!({"name": "c", "livenessProbe": {"tcpSocket": {"port": free_port()}, "initialDelaySeconds": 1,
        "failureThreshold": 1}, "readinessProbe": probe("/ready")});
    let (probing, mut changes, _) = start(container, None);
    probing.pod_is_terminating();
    assert!(changes.recv().await.unwrap().ready);
    assert_eq!(
        changes.recv().await.unwrap(),
        Health {
            started: true,
            ready: false,
            failed: None
        }
    );
}

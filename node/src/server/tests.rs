//! The kubelet API over real TLS, with certificates of a CA made here, and real log files.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;

use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;
use tokio_rustls::TlsConnector;

use super::*;
use crate::layout::Layout;
use crate::metrics::ProbeCounts;
use crate::metrics::disks::Disks;
use crate::network::Names;
use crate::options::TlsPair;

/// A CA, and certificates of it.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            pem,
            issuer: Issuer::new(params, key),
        }
    }

    fn issue(&self, cn: &str, organisation: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["node".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, cn);
        params
            .distinguished_name
            .push(DnType::OrganizationName, organisation);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        (
            params.signed_by(&key, &self.issuer).unwrap().pem(),
            key.serialize_pem(),
        )
    }
}

#[derive(Default)]
struct Table {
    pods: Mutex<BTreeMap<String, Arc<Pod>>>,
    logs: Mutex<BTreeMap<String, LogFile>>,
}

impl PodTable for Table {
    fn pods(&self) -> Vec<Arc<Pod>> {
        self.pods.lock().unwrap().values().cloned().collect()
    }

    fn pod(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        self.pods
            .lock()
            .unwrap()
            .get(name)
            .filter(|_| namespace == "default")
            .cloned()
    }

    fn log(&self, _: &str, _: &str, container_id: &str) -> Option<LogFile> {
        self.logs.lock().unwrap().get(container_id).cloned()
    }

    fn target(&self, _: &str, _: &str) -> Option<Target> {
        None
    }

    fn network(&self, _: &str) -> Option<PodNetwork> {
        None
    }
}

struct Cluster {
    authority: Authority,
    serving: Serving,
    table: Arc<Table>,
    server: KubeletServer,
    logs: tempfile::TempDir,
    _data: tempfile::TempDir,
    shutdown: CancellationToken,
}

const LINES: &str = "2026-01-01T00:00:00Z stdout F one\n2026-01-01T00:00:01Z stderr F two\n";

impl Cluster {
    async fn start() -> Self {
        let cluster = Self::unserved().await;
        cluster.serving.set(&pair(&cluster.authority)).unwrap();
        cluster
    }

    /// Without a certificate to serve with.
    async fn unserved() -> Self {
        let authority = Authority::new();
        let serving = Serving::default();
        let table = Arc::new(Table::default());
        let listen = "127.0.0.1:0".parse().unwrap();
        let options = ServerOptions {
            listen,
            serving: serving.clone(),
            ca_pem: authority.pem.clone(),
            run_dir: "/nonexistent".into(),
            client: None,
            storage_dir: "/nonexistent".into(),
            configuration: json!({"kind": "KubeletConfiguration"}),
        };
        let data = tempfile::tempdir().unwrap();
        let station = Station::new(
            table.clone(),
            ("amphipod-aaaaaaaa".into(), "node".into()),
            Names::new("aaaaaaaa").unwrap(),
            Disks::new(Layout::below(data.path().to_owned()), None),
            ProbeCounts::default(),
        );
        let shutdown = CancellationToken::new();
        let server = KubeletServer::start(options, Arc::new(station), shutdown.clone())
            .await
            .unwrap();
        Self {
            authority,
            serving,
            table,
            server,
            logs: tempfile::tempdir().unwrap(),
            _data: data,
            shutdown,
        }
    }

    /// A running Pod `p` with a container `c` whose log is `LINES`.
    fn with_log(&self) -> watch::Sender<bool> {
        fs::create_dir(self.logs.path().join("c")).unwrap();
        fs::write(self.log_path(), LINES).unwrap();
        self.add_pod(json!({"running": {}}));
        let (running, receiver) = watch::channel(true);
        let file = LogFile {
            root: self.logs.path().into(),
            path: "c/0.log".into(),
            running: receiver,
        };
        self.table.logs.lock().unwrap().insert("id".into(), file);
        running
    }

    fn add_pod(&self, state: serde_json::Value) {
        let status = json!({"name": "c", "ready": false, "restartCount": 0, "image": "", "imageID": "",
            "containerID": "amphipod://id", "state": state});
        let pod = json!({"metadata": {"name": "p", "namespace": "default", "uid": "u"},
            "spec": {"containers": [{"name": "c"}]}, "status": {"containerStatuses": [status]}});
        self.table
            .pods
            .lock()
            .unwrap()
            .insert("p".into(), Arc::new(serde_json::from_value(pod).unwrap()));
    }

    fn log_path(&self) -> PathBuf {
        self.logs.path().join("c/0.log")
    }

    async fn request(&self, who: Option<(&str, &str)>, path: &str) -> http::Response<Incoming> {
        let identity = who.map(|(cn, o)| self.authority.issue(cn, o));
        let stream = TcpStream::connect(self.server.local_addr).await.unwrap();
        let connector = TlsConnector::from(Arc::new(client(&self.authority.pem, identity)));
        let stream = connector
            .connect(ServerName::try_from("node").unwrap(), stream)
            .await
            .unwrap();
        let shake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
        let (mut sender, connection) = shake.await.unwrap();
        tokio::spawn(connection);
        let request = Request::get(path)
            .header("host", "node")
            .body(Empty::<Bytes>::new())
            .unwrap();
        sender.send_request(request).await.unwrap()
    }

    async fn get(&self, path: &str) -> (StatusCode, String) {
        text(
            self.request(Some(("kube-apiserver-kubelet-client", "x")), path)
                .await,
        )
        .await
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

fn pair(authority: &Authority) -> TlsPair {
    let (cert_pem, key_pem) = authority.issue("system:node:node", "system:nodes");
    TlsPair { cert_pem, key_pem }
}

fn client(ca: &str, identity: Option<(String, String)>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    match identity {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => builder
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
            )
            .unwrap(),
    }
}

async fn text(response: http::Response<Incoming>) -> (StatusCode, String) {
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

/// The next bytes of a body, or None at its end.
async fn next(body: &mut Incoming) -> Option<String> {
    let frame = timeout(Duration::from_secs(20), body.frame())
        .await
        .expect("something comes")?;
    Some(String::from_utf8(frame.unwrap().into_data().unwrap().to_vec()).unwrap())
}

fn append(path: &Path, text: &str) {
    OpenOptions::new()
        .append(true)
        .open(path)
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
}

#[tokio::test]
async fn only_the_api_server_and_administrators_get_in() {
    let cluster = Cluster::start().await;
    for (who, expected) in [
        (None, StatusCode::UNAUTHORIZED),
        (Some(("system:node:other", "system:nodes")), StatusCode::FORBIDDEN),
        (Some(("kube-apiserver-kubelet-client", "x")), StatusCode::OK),
        (Some(("someone", "system:masters")), StatusCode::OK),
    ] {
        for path in ["/healthz", "/pods", "/configz", "/runningpods/"] {
            assert_eq!(
                cluster.request(who, path).await.status(),
                expected,
                "{who:?} {path}"
            );
        }
    }
    let (_, text) = text(cluster.request(Some(("eve", "x")), "/containerLogs/a/b/c").await).await;
    assert_eq!(
        text,
        "Forbidden (user=eve, verb=get, resource=nodes, subresource(s)=[proxy])"
    );
}

#[tokio::test]
async fn a_certificate_of_another_ca_does_not_get_in() {
    let cluster = Cluster::start().await;
    let identity = Authority::new().issue("kube-apiserver-kubelet-client", "system:masters");
    let stream = TcpStream::connect(cluster.server.local_addr).await.unwrap();
    let connector = TlsConnector::from(Arc::new(client(&cluster.authority.pem, Some(identity))));
    let name = ServerName::try_from("node").unwrap();
    // With TLS 1.3 the refusal may come with the first read only.
    let Ok(mut stream) = connector.connect(name, stream).await else {
        return;
    };
    let mut byte = [0];
    assert!(
        tokio::io::AsyncReadExt::read_exact(&mut stream, &mut byte)
            .await
            .is_err()
    );
}

#[tokio::test]
async fn what_is_served_with_may_come_late_and_be_another() {
    let cluster = Cluster::unserved().await;
    let shakes = async |authority: &Authority| {
        let stream = TcpStream::connect(cluster.server.local_addr).await.unwrap();
        let connector = TlsConnector::from(Arc::new(client(&authority.pem, None)));
        let name = ServerName::try_from("node").unwrap();
        connector.connect(name, stream).await.is_ok()
    };
    assert!(!shakes(&cluster.authority).await);
    cluster.serving.set(&pair(&cluster.authority)).unwrap();
    assert!(shakes(&cluster.authority).await);
    let other = Authority::new();
    let broken = TlsPair {
        key_pem: pair(&other).key_pem,
        ..pair(&other)
    };
    assert!(cluster.serving.set(&broken).is_err());
    assert!(shakes(&cluster.authority).await);
    cluster.serving.set(&pair(&other)).unwrap();
    assert!(shakes(&other).await && !shakes(&cluster.authority).await);
}

#[tokio::test]
async fn pods_are_listed() {
    let cluster = Cluster::start().await;
    cluster.add_pod(json!({"running": {}}));
    let (_, text) = cluster.get("/pods").await;
    let list: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(list["kind"], "PodList");
    assert_eq!(list["items"][0]["metadata"]["name"], "p");
}

#[tokio::test]
async fn settings_and_what_runs_are_shown() {
    let cluster = Cluster::start().await;
    let read = async |path| serde_json::from_str::<serde_json::Value>(&cluster.get(path).await.1).unwrap();
    let shown = read("/configz").await;
    let address = cluster.server.local_addr;
    assert_eq!(
        shown,
        json!({"kubeletconfig": {"kind": "KubeletConfiguration", "address": address.ip(), "port": address.port()}})
    );
    cluster.add_pod(json!({"waiting": {}}));
    assert_eq!(read("/runningpods/").await["items"], json!([]));
    cluster.add_pod(json!({"running": {}}));
    for path in ["/runningpods/", "/runningpods"] {
        assert_eq!(read(path).await["items"][0]["metadata"]["name"], "p", "{path}");
    }
}

#[tokio::test]
async fn what_is_used_is_told_as_metrics() {
    let cluster = Cluster::start().await;
    let (code, text) = cluster.get("/metrics/resource").await;
    assert_eq!(code, StatusCode::OK);
    assert!(
        text.lines()
            .any(|l| l.starts_with("node_cpu_usage_seconds_total ")),
        "{text}"
    );
    assert!(text.ends_with("resource_scrape_error 0\n"), "{text}");
    for (path, line) in [
        ("/metrics", "kubelet_node_name{node=\"node\"} 1"),
        ("/metrics/cadvisor", "container_scrape_error 0"),
        ("/metrics/probes", "# TYPE prober_probe_total counter"),
    ] {
        let (code, text) = cluster.get(path).await;
        assert_eq!(code, StatusCode::OK, "{path}");
        assert!(text.lines().any(|l| l == line), "{path}: {text}");
    }
}

#[tokio::test]
async fn the_summary_tells_of_the_node() {
    let cluster = Cluster::start().await;
    let (code, text) = cluster.get("/stats/summary").await;
    assert_eq!(code, StatusCode::OK);
    let summary: serde_json::Value = serde_json::from_str(&text).unwrap();
    let node = &summary["node"];
    assert_eq!(node["nodeName"], "node");
    for field in [
        "/cpu/usageCoreNanoSeconds",
        "/memory/workingSetBytes",
        "/memory/availableBytes",
        "/fs/capacityBytes",
        "/rlimit/maxpid",
    ] {
        assert!(
            node.pointer(field).is_some_and(|n| n.as_u64() > Some(0)),
            "{field}: {text}"
        );
    }
    let (_, brief) = cluster.get("/stats/summary?only_cpu_and_memory=true").await;
    let brief: serde_json::Value = serde_json::from_str(&brief).unwrap();
    assert!(
        brief["node"]["fs"].is_null() && brief["node"]["cpu"].is_object(),
        "{brief}"
    );
}

#[tokio::test]
async fn logs_are_shown_by_their_options() {
    let cluster = Cluster::start().await;
    let _running = cluster.with_log();
    for (query, expected) in [
        ("", "one\ntwo\n"),
        ("?tailLines=1", "two\n"),
        ("?tailLines=1&timestamps=true", "2026-01-01T00:00:01Z two\n"),
        ("?sinceTime=2026-01-01T00:00:01Z", "two\n"),
        ("?limitBytes=5", "one\nt"),
        ("?stream=Stderr", "two\n"),
    ] {
        let (status, text) = cluster.get(&format!("/containerLogs/default/p/c{query}")).await;
        assert_eq!((status, text.as_str()), (StatusCode::OK, expected), "{query}");
    }
}

#[tokio::test]
async fn what_there_is_no_log_of_is_said() {
    let cluster = Cluster::start().await;
    let _running = cluster.with_log();
    for (path, status) in [
        ("/containerLogs/default/p/other", 404),
        ("/containerLogs/default/q/c", 404),
        ("/containerLogs/other/p/c", 404),
        ("/containerLogs/..%2f../p/c", 404),
        ("/containerLogs/default/p/..%2f..%2fetc%2fpasswd", 404),
        ("/containerLogs/default/p/c?previous=true", 400),
        ("/containerLogs/default/p/c?tailLines=x", 400),
        ("/containerLogs/default/p/c?tailLines=-1", 422),
    ] {
        assert_eq!(cluster.get(path).await.0.as_u16(), status, "{path}");
    }
    cluster.add_pod(json!({"waiting": {"reason": "ContainerCreating"}}));
    let (status, text) = cluster.get("/containerLogs/default/p/c").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(
        text,
        "container \"c\" in pod \"p\" is waiting to start: ContainerCreating"
    );
}

#[tokio::test]
async fn symbolic_links_are_not_followed() {
    let cluster = Cluster::start().await;
    let _running = cluster.with_log();
    let secret = cluster.logs.path().join("secret");
    fs::write(&secret, LINES).unwrap();
    fs::remove_file(cluster.log_path()).unwrap();
    std::os::unix::fs::symlink(&secret, cluster.log_path()).unwrap();
    let (status, text) = cluster.get("/containerLogs/default/p/c").await;
    assert_eq!(status, StatusCode::NOT_FOUND, "{text}");
}

#[tokio::test]
async fn following_ends_with_the_container_and_shows_all_it_wrote() {
    let cluster = Cluster::start().await;
    let running = cluster.with_log();
    let who = Some(("admin", "system:masters"));
    let mut body = cluster
        .request(who, "/containerLogs/default/p/c?follow=true&tailLines=1")
        .await
        .into_body();
    assert_eq!(next(&mut body).await.unwrap(), "two\n");
    append(&cluster.log_path(), "2026-01-01T00:00:02Z stdout F thr");
    append(&cluster.log_path(), "ee\n");
    assert_eq!(next(&mut body).await.unwrap(), "three\n");
    append(&cluster.log_path(), "2026-01-01T00:00:03Z stdout F last\n");
    running.send_replace(false);
    assert_eq!(next(&mut body).await.unwrap(), "last\n");
    assert_eq!(next(&mut body).await, None);
}

#[tokio::test]
async fn following_survives_a_rotation() {
    let cluster = Cluster::start().await;
    let running = cluster.with_log();
    let who = Some(("admin", "system:masters"));
    let mut body = cluster
        .request(who, "/containerLogs/default/p/c?follow=true")
        .await
        .into_body();
    assert_eq!(next(&mut body).await.unwrap(), "one\ntwo\n");
    let rotated = cluster.logs.path().join("c/0.log.old");
    fs::rename(cluster.log_path(), &rotated).unwrap();
    append(&rotated, "2026-01-01T00:00:02Z stdout F before\n");
    let new = cluster.logs.path().join("c/new");
    File::create(&new)
        .unwrap()
        .write_all(b"2026-01-01T00:00:03Z stdout F after\n")
        .unwrap();
    fs::rename(&new, cluster.log_path()).unwrap();
    assert_eq!(next(&mut body).await.unwrap(), "before\n");
    assert_eq!(next(&mut body).await.unwrap(), "after\n");
    drop(running);
    assert_eq!(next(&mut body).await, None);
}

#[tokio::test]
async fn shutdown_closes_what_is_open() {
    let cluster = Cluster::start().await;
    let _running = cluster.with_log();
    let who = Some(("admin", "system:masters"));
    let mut body = cluster
        .request(who, "/containerLogs/default/p/c?follow=true")
        .await
        .into_body();
    assert!(next(&mut body).await.is_some());
    cluster.shutdown.cancel();
    let end = timeout(Duration::from_secs(20), body.frame())
        .await
        .expect("the connection is closed");
    assert!(end.is_none_or(|frame| frame.is_err()));
}

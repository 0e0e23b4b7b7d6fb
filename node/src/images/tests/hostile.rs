//! Registries that lie, redirect, ask for passwords or never end (HTTP on loopback, each its own server).

use std::collections::HashMap;
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use tokio::net::TcpListener;

use super::*;

/// A path, and the credentials that came with it.
type Asked = (String, Option<String>);
type Answer = Arc<dyn Fn(&Request) -> Response + Send + Sync>;

/// A server whose every answer a test decides; it keeps what it was asked.
pub struct Server {
    pub address: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    serving: tokio::task::JoinHandle<()>,
}

impl Server {
    pub async fn start(answer: impl Fn(&Request) -> Response + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (answer, log): (Answer, _) = (Arc::new(answer), asked.clone());
        let handler = move |request: Request| {
            let (answer, log) = (answer.clone(), log.clone());
            async move {
                let authorization = request
                    .headers()
                    .get("authorization")
                    .map(|v| v.to_str().unwrap().to_owned());
                log.lock()
                    .unwrap()
                    .push((request.uri().to_string(), authorization));
                answer(&request)
            }
        };
        let app = Router::new().fallback(handler);
        let serving = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self {
            address,
            asked,
            serving,
        }
    }

    pub fn image(&self) -> String {
        format!("{}/app:v1", self.address)
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

pub fn status(code: u16) -> Response {
    StatusCode::from_u16(code).unwrap().into_response()
}

/// An honest answer for a sample, with blobs replaced by what `lies` says.
fn answer(sample: &Sample, lies: &HashMap<String, Vec<u8>>, path: &str) -> Response {
    if path.contains("/manifests/") {
        return ([("content-type", media::OCI_MANIFEST)], sample.manifest.clone()).into_response();
    }
    let Some((_, digest)) = path.rsplit_once("/blobs/") else {
        return status(404);
    };
    let honest = sample
        .blobs
        .iter()
        .find(|blob| Digest::of(blob).to_string() == digest);
    lies.get(digest)
        .or(honest)
        .map_or_else(|| status(404), |blob| blob.clone().into_response())
}

pub async fn serve(sample: Sample) -> Server {
    Server::start(move |request| answer(&sample, &HashMap::new(), request.uri().path())).await
}

async fn pull_fails(server: &Server, options: ImagesOptions, auth: &RegistryAuth) -> String {
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path(), options);
    let error = images.pull(&server.image(), auth).await.unwrap_err();
    assert_eq!(error.reason(), "ErrImagePull");
    assert_no_leftovers(&images);
    assert_eq!(images.list().unwrap(), []);
    error.to_string()
}

async fn anonymous_fails(server: &Server) -> String {
    pull_fails(server, ImagesOptions::default(), &RegistryAuth::Anonymous).await
}

fn small_limits() -> ImagesOptions {
    let mut options = ImagesOptions::default();
    options.limits.unpack.bytes = 1 << 20;
    options
}

#[tokio::test]
async fn content_that_is_not_what_it_is_called_is_not_kept() {
    let sample = Sample::wasm(b"\0asm-honest");
    let digest = Digest::of(b"\0asm-honest").to_string();
    for lie in [&b"\0asm-hones!"[..], b"\0asm", b"\0asm-honest-and-more"] {
        let lies = HashMap::from([(digest.clone(), lie.to_vec())]);
        let sample = sample.clone();
        let server = Server::start(move |request| answer(&sample, &lies, request.uri().path())).await;
        let message = anonymous_fails(&server).await;
        assert!(
            message.contains("does not match its digest") || message.contains("bytes where"),
            "{message}"
        );
    }
}

#[tokio::test]
async fn hostile_manifests_say_what_is_wrong() {
    let big = vec![b' '; distribution::MAX_MANIFEST_BYTES + 1];
    let both = json!({"schemaVersion": 2, "layers": [], "manifests": [], "config": {}})
        .to_string()
        .into_bytes();
    let traversal = json!({"schemaVersion": 2, "layers": [],
        "config": {"digest": "sha256:../../../../etc/passwd", "size": 1}})
    .to_string()
    .into_bytes();
    let cases = [
        (big, "larger than the limit"),
        (both, "ambiguous"),
        (traversal, "invalid digest"),
        (b"<html>".to_vec(), "not valid JSON"),
        (
            Sample::of(media::OCI_CONFIG, b"not json".to_vec(), Vec::new()).manifest,
            "config is not valid JSON",
        ),
    ];
    for (manifest, expected) in cases {
        let sample = Sample {
            blobs: vec![b"not json".to_vec()],
            manifest,
        };
        let server = serve(sample).await;
        let message = anonymous_fails(&server).await;
        assert!(message.contains(expected), "{message}");
    }
}

#[tokio::test]
async fn a_missing_image_reads_as_upstream_says_it() {
    let server = Server::start(|_| status(404)).await;
    let message = anonymous_fails(&server).await;
    let name = server.image();
    assert_eq!(
        message,
        format!(
            "failed to pull and unpack image \"{name}\": failed to resolve reference \"{name}\": {name}: not found"
        )
    );
}

#[tokio::test]
async fn bombs_and_escapes_leave_nothing() {
    if !root_or_skip() {
        return;
    }
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(&vec![0; 8 << 20]).unwrap();
    let config = json!({"os": "linux", "architecture": native_arch(),
        "rootfs": {"diff_ids": [Digest::of(&vec![0; 8 << 20]).to_string()]}});
    let bomb = Sample::of(
        media::OCI_CONFIG,
        config.to_string().into_bytes(),
        vec![(media::OCI_LAYER_GZIP, gzip.finish().unwrap())],
    );
    let server = serve(bomb).await;
    let message = pull_fails(&server, small_limits(), &RegistryAuth::Anonymous).await;
    assert!(
        message.contains("failed to extract layer") && message.contains("larger than"),
        "{message}"
    );
    let mut corrupt = layer(&[("a", "b")]);
    corrupt[0] = b'z';
    let server = serve(Sample::native(&[corrupt], json!({}))).await;
    let message = anonymous_fails(&server).await;
    assert!(message.contains("bad checksum"), "{message}");
}

#[tokio::test]
async fn passwords_do_not_travel() {
    let thief = Server::start(|_| json!({"token": "t"}).to_string().into_response()).await;
    let realm = format!("Bearer realm=\"http://{}/token\",service=\"s\"", thief.address);
    let asking = Server::start(move |_| {
        (StatusCode::UNAUTHORIZED, [("www-authenticate", realm.clone())]).into_response()
    })
    .await;
    let auth = RegistryAuth::Basic("me".into(), "secret".into());
    let message = pull_fails(&asking, ImagesOptions::default(), &auth).await;
    assert!(message.contains("which is refused"), "{message}");
    assert_eq!(thief.asked(), []);
}

#[tokio::test]
async fn redirects_carry_no_credentials_to_other_hosts() {
    let sample = Sample::wasm(b"\0asm");
    let elsewhere = serve(sample.clone()).await;
    let target = elsewhere.address.clone();
    let registry = Server::start(move |request| {
        if request.headers().get("authorization").is_none() {
            return (
                StatusCode::UNAUTHORIZED,
                [("www-authenticate", "Basic realm=\"x\"")],
            )
                .into_response();
        }
        match request.uri().path() {
            path if path.contains("/blobs/") => (
                StatusCode::TEMPORARY_REDIRECT,
                [("location", format!("http://{target}{path}"))],
            )
                .into_response(),
            path => answer(&sample, &HashMap::new(), path),
        }
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path(), ImagesOptions::default());
    let auth = RegistryAuth::Basic("me".into(), "secret".into());
    images.pull(&registry.image(), &auth).await.unwrap();
    assert_eq!(elsewhere.asked().len(), 2);
    assert!(
        elsewhere
            .asked()
            .iter()
            .all(|(_, authorization)| authorization.is_none())
    );
    let denied = pull_fails(&registry, ImagesOptions::default(), &RegistryAuth::Anonymous).await;
    assert!(denied.contains("pull access denied"), "{denied}");
}

#[tokio::test]
async fn a_redirect_loop_ends() {
    let server = Server::start(|request| {
        (StatusCode::FOUND, [("location", request.uri().path().to_owned())]).into_response()
    })
    .await;
    let message = anonymous_fails(&server).await;
    assert!(message.contains("redirects too often"), "{message}");
}

#[tokio::test]
async fn tokens_are_fetched_once_and_with_the_right_scope() {
    let sample = Sample::wasm(b"\0asm");
    let tokens = Arc::new(AtomicUsize::new(0));
    let count = tokens.clone();
    let server = Server::start(move |request| {
        if request.uri().path() == "/token" {
            count.fetch_add(1, Ordering::Relaxed);
            assert!(
                request
                    .uri()
                    .query()
                    .unwrap()
                    .contains("scope=repository%3Aapp%3Apull")
            );
            return json!({"access_token": "abc"}).to_string().into_response();
        }
        if request
            .headers()
            .get("authorization")
            .is_none_or(|value| value != "Bearer abc")
        {
            let host = request.headers()["host"].to_str().unwrap();
            let challenge = format!("Bearer realm=\"http://{host}/token\",service=\"s\"");
            return (StatusCode::UNAUTHORIZED, [("www-authenticate", challenge)]).into_response();
        }
        answer(&sample, &HashMap::new(), request.uri().path())
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path(), ImagesOptions::default());
    let image = images
        .pull(&server.image(), &RegistryAuth::Anonymous)
        .await
        .unwrap();
    assert_eq!(image.kind, ImageKind::Wasm);
    assert_eq!(tokens.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn many_who_want_one_image_make_one_pull() {
    let server = serve(Sample::wasm(b"\0asm")).await;
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path(), ImagesOptions::default());
    let name = server.image();
    let pulls = (0..8).map(|_| images.pull(&name, &RegistryAuth::Anonymous));
    let pulled = futures::future::join_all(pulls).await;
    assert!(pulled.iter().all(Result::is_ok));
    assert_eq!(server.asked().len(), 3, "one manifest, one config, one module");
}

/// A pull that is given up half-way (its Pod was deleted) leaves nothing.
#[tokio::test]
async fn an_abandoned_pull_leaves_only_what_the_next_goes_on_with() {
    let module = [&b"\0asm"[..], &vec![7; 1 << 20]].concat();
    let sample = Sample::wasm(&module);
    let digest = Digest::of(&module);
    let server = Server::start(move |request| {
        let path = request.uri().path();
        if path.ends_with(Digest::of(&module).hex()) {
            let first = bytes::Bytes::copy_from_slice(&module[..600 << 10]);
            let start = futures::stream::once(async move { Ok::<_, std::io::Error>(first) });
            let never = futures::stream::pending();
            return Body::from_stream(futures::StreamExt::chain(start, never)).into_response();
        }
        answer(&sample, &HashMap::new(), path)
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path(), ImagesOptions::default());
    let mut progress = images.progress();
    let name = server.image();
    let half_way = async {
        loop {
            if let PullStep::Fetching { total, .. } = progress.recv().await.unwrap().step
                && total > 1 << 20
            {
                return;
            }
        }
    };
    tokio::select! {
        ended = images.pull(&name, &RegistryAuth::Anonymous) => panic!("ended: {ended:?}"),
        () = half_way => {}
    }
    assert_eq!(names(&images.inner.layout.ingest()), [digest.hex()]);
    ingest::expire(&images.inner.layout, std::time::Duration::ZERO).unwrap();
    assert_no_leftovers(&images);
}

/// A body of which there is always more.
fn endless() -> Response {
    let chunk = bytes::Bytes::from(vec![b' '; 64 << 10]);
    let chunks = futures::stream::repeat_with(move || Ok::<_, std::io::Error>(chunk.clone()));
    Body::from_stream(chunks).into_response()
}

#[tokio::test]
async fn bodies_without_end_are_cut_off() {
    let server = Server::start(|_| endless()).await;
    let message = anonymous_fails(&server).await;
    assert!(message.contains("larger than the limit"), "{message}");
    let sample = Sample::native(&[layer(&[("a", "b")])], json!({}));
    let layer = Digest::of(&sample.blobs[1]).to_string();
    let server = Server::start(move |request| match request.uri().path() {
        path if path.ends_with(&layer) => endless(),
        path => answer(&sample, &HashMap::new(), path),
    })
    .await;
    let message = anonymous_fails(&server).await;
    assert!(message.contains("bytes where the manifest says"), "{message}");
}

#[tokio::test]
async fn a_manifest_asked_for_by_its_digest_is_no_other() {
    let (wanted, other) = (Sample::wasm(b"\0asm-1"), Sample::wasm(b"\0asm-2"));
    let server = serve(other).await;
    let name = format!("{}/app@{}", server.address, Digest::of(&wanted.manifest));
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path(), ImagesOptions::default());
    let error = images.pull(&name, &RegistryAuth::Anonymous).await.unwrap_err();
    assert!(error.to_string().contains("does not match its digest"), "{error}");
    assert_no_leftovers(&images);
}

/// The blob is what its digest says, and still no whole layer. What is good of the same name is taken afterwards.
#[tokio::test]
async fn a_layer_cut_off_is_refused_and_a_whole_one_taken() {
    if !root_or_skip() {
        return;
    }
    let tar = layer(&[("file", &"content ".repeat(9000))]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    gzip.write_all(&tar).unwrap();
    let whole = gzip.finish().unwrap();
    let sample = |blob: &[u8]| {
        let config = json!({"os": "linux", "architecture": native_arch(),
            "rootfs": {"diff_ids": [Digest::of(&tar).to_string()]}});
        let layers = vec![(media::OCI_LAYER_GZIP, blob.to_vec())];
        Sample::of(media::OCI_CONFIG, config.to_string().into_bytes(), layers)
    };
    let samples = [sample(&whole[..whole.len() / 2]), sample(&whole)];
    let honest = Arc::new(AtomicUsize::new(0));
    let which = honest.clone();
    let server = Server::start(move |request| {
        let sample = &samples[which.load(Ordering::Relaxed)];
        answer(sample, &HashMap::new(), request.uri().path())
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path(), ImagesOptions::default());
    let name = server.image();
    let error = images.pull(&name, &RegistryAuth::Anonymous).await.unwrap_err();
    assert!(error.to_string().contains("failed to extract layer"), "{error}");
    assert_no_leftovers(&images);
    honest.store(1, Ordering::Relaxed);
    let image = images.pull(&name, &RegistryAuth::Anonymous).await.unwrap();
    let file = images.inner.layout.layer(&image.layers[0]).join("file");
    assert_eq!(fs::metadata(file).unwrap().len(), 72_000);
}

/// The tag means something else each time it is asked for: what is pulled is one of them, whole.
#[tokio::test]
async fn a_tag_that_changes_meanwhile_gives_one_image() {
    let samples = [Sample::wasm(b"\0asm-1"), Sample::wasm(b"\0asm-2")];
    let asked = AtomicUsize::new(0);
    let pushed = samples.clone();
    let server = Server::start(move |request| {
        let path = request.uri().path();
        if path.contains("/manifests/") {
            let turn = asked.fetch_add(1, Ordering::Relaxed);
            return answer(&pushed[turn % 2], &HashMap::new(), path);
        }
        let found = pushed.iter().map(|sample| answer(sample, &HashMap::new(), path));
        let mut found = found.filter(|answer| answer.status().is_success());
        found.next().unwrap_or_else(|| status(404))
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path(), ImagesOptions::default());
    let name = server.image();
    for expected in [&samples[0], &samples[1], &samples[0]] {
        let image = images.pull(&name, &RegistryAuth::Anonymous).await.unwrap();
        assert_eq!(image.digest, Digest::of(&expected.manifest));
        assert_eq!(image.module, Some(Digest::of(&expected.blobs[1])));
    }
}

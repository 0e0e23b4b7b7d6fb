//! The registry over real sockets, driven by a bare HTTP client and, where present, by skopeo.

use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

use super::names::Digest;
use super::*;

/// A registry on a free port, gone with the value.
struct Running {
    base: String,
    stop: CancellationToken,
    serving: tokio::task::JoinHandle<Result<(), RegistryError>>,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn code(&self) -> String {
        self.json()["errors"][0]["code"].as_str().unwrap().to_owned()
    }
}

impl Running {
    async fn start(dir: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let (stop, dir) = (CancellationToken::new(), dir.to_owned());
        let until = stop.clone();
        let serving = tokio::spawn(async move { serve(listener, &dir, until).await });
        Self { base, stop, serving }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.serving.await.unwrap().unwrap();
    }

    async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let client = Client::builder(TokioExecutor::new()).build_http();
        let request = request.body(Full::new(Bytes::copy_from_slice(body))).unwrap();
        let (parts, body) = client.request(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer {
            status: parts.status,
            headers: parts.headers,
            body,
        }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], b"").await
    }

    async fn push_blob(&self, name: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let path = format!("/v2/{name}/blobs/uploads/?digest={digest}");
        assert_eq!(
            self.send(Method::POST, &path, &[], bytes).await.status,
            StatusCode::CREATED
        );
        digest
    }

    async fn push_manifest(&self, name: &str, reference: &str, manifest: &Value) -> Answer {
        let media_type = [("content-type", "application/vnd.oci.image.manifest.v1+json")];
        let path = format!("/v2/{name}/manifests/{reference}");
        self.send(Method::PUT, &path, &media_type, manifest.to_string().as_bytes())
            .await
    }

    /// A config, a layer and a manifest under `tag`.
    async fn push_image(&self, name: &str, tag: &str) -> (Value, Digest) {
        let config = self.push_blob(name, b"{}").await;
        let layer = self.push_blob(name, b"layer").await;
        let manifest = json!({
            "schemaVersion": 2,
            "config": {"mediaType": "application/x-config", "digest": config.to_string(), "size": 2},
            "layers": [{"mediaType": "application/x-layer", "digest": layer.to_string(), "size": 5}],
        });
        let answer = self.push_manifest(name, tag, &manifest).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{:?}", answer.body);
        (manifest.clone(), Digest::of(manifest.to_string().as_bytes()))
    }
}

#[tokio::test]
async fn an_image_goes_in_and_comes_out_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Running::start(dir.path()).await;
    assert_eq!(registry.get("/v2/").await.status, StatusCode::OK);
    let (manifest, digest) = registry.push_image("library/app", "v1").await;
    registry.stop().await;
    let registry = Running::start(dir.path()).await;
    for reference in ["v1", &digest.to_string()] {
        let answer = registry
            .get(&format!("/v2/library/app/manifests/{reference}"))
            .await;
        assert_eq!(answer.json(), manifest);
        assert_eq!(
            answer.header("content-type"),
            "application/vnd.oci.image.manifest.v1+json"
        );
        assert_eq!(answer.header("docker-content-digest"), digest.to_string());
    }
    let layer = Digest::of(b"layer");
    let blob = format!("/v2/library/app/blobs/{layer}");
    assert_eq!(&registry.get(&blob).await.body[..], b"layer");
    let head = registry.send(Method::HEAD, &blob, &[], b"").await;
    assert_eq!(
        (head.status, head.header("content-length")),
        (StatusCode::OK, "5")
    );
    let part = registry
        .send(Method::GET, &blob, &[("range", "bytes=1-2")], b"")
        .await;
    assert_eq!(
        (part.status, &part.body[..]),
        (StatusCode::PARTIAL_CONTENT, &b"ay"[..])
    );
    assert_eq!(part.header("content-range"), "bytes 1-2/5");
    let beyond = registry
        .send(Method::GET, &blob, &[("range", "bytes=9-")], b"")
        .await;
    assert_eq!(beyond.status, StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(
        registry.get(&format!("/v2/other/blobs/{layer}")).await.code(),
        "BLOB_UNKNOWN"
    );
    registry.stop().await;
}

#[tokio::test]
async fn uploads_can_come_in_chunks_and_be_taken_up_again() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Running::start(dir.path()).await;
    let start = registry
        .send(Method::POST, "/v2/a/blobs/uploads/", &[], b"")
        .await;
    assert_eq!(start.status, StatusCode::ACCEPTED);
    let at = start.header("location").to_owned();
    let chunk = registry
        .send(Method::PATCH, &at, &[("content-range", "0-2")], b"hel")
        .await;
    assert_eq!(
        (chunk.status, chunk.header("range")),
        (StatusCode::ACCEPTED, "0-2")
    );
    let wrong = registry
        .send(Method::PATCH, &at, &[("content-range", "9-9")], b"x")
        .await;
    assert_eq!(wrong.status, StatusCode::RANGE_NOT_SATISFIABLE);
    let status = registry.get(&at).await;
    assert_eq!(
        (status.status, status.header("range")),
        (StatusCode::NO_CONTENT, "0-2")
    );
    let other = at.replace("/v2/a/", "/v2/b/");
    assert_eq!(registry.get(&other).await.code(), "BLOB_UPLOAD_UNKNOWN");
    let digest = Digest::of(b"hello");
    let done = registry
        .send(Method::PUT, &format!("{at}?digest={digest}"), &[], b"lo")
        .await;
    assert_eq!(
        (done.status, done.header("docker-content-digest")),
        (StatusCode::CREATED, &*digest.to_string())
    );
    let mount = registry
        .send(
            Method::POST,
            &format!("/v2/b/blobs/uploads/?mount={digest}&from=a"),
            &[],
            b"",
        )
        .await;
    assert_eq!(mount.status, StatusCode::CREATED);
    assert_eq!(
        &registry.get(&format!("/v2/b/blobs/{digest}")).await.body[..],
        b"hello"
    );
    let no_source = registry
        .send(
            Method::POST,
            &format!("/v2/c/blobs/uploads/?mount={digest}"),
            &[],
            b"",
        )
        .await;
    assert_eq!(no_source.status, StatusCode::ACCEPTED);
    registry.stop().await;
}

#[tokio::test]
async fn what_does_not_fit_its_digest_is_not_kept() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Running::start(dir.path()).await;
    let digest = Digest::of(b"hello");
    let answer = registry
        .send(
            Method::POST,
            &format!("/v2/a/blobs/uploads/?digest={digest}"),
            &[],
            b"hellx",
        )
        .await;
    assert_eq!(
        (answer.status, &*answer.code()),
        (StatusCode::BAD_REQUEST, "DIGEST_INVALID")
    );
    assert_eq!(
        registry.get(&format!("/v2/a/blobs/{digest}")).await.status,
        StatusCode::NOT_FOUND
    );
    assert_eq!(std::fs::read_dir(dir.path().join("uploads")).unwrap().count(), 0);
    for (path, code) in [
        ("/v2/a/blobs/sha256:..x", "DIGEST_INVALID"),
        ("/v2/a/blobs/sha256:../x", "UNSUPPORTED"),
        ("/v2/..%2f..%2fetc/manifests/x", "NAME_INVALID"),
        ("/v2/A/tags/list", "NAME_INVALID"),
        ("/v2/nowhere/tags/list", "NAME_UNKNOWN"),
        ("/v2/a/manifests/none", "MANIFEST_UNKNOWN"),
    ] {
        assert_eq!(registry.get(path).await.code(), code, "{path}");
    }
    registry.stop().await;
}

#[tokio::test]
async fn manifests_must_make_sense() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Running::start(dir.path()).await;
    let (manifest, digest) = registry.push_image("a", "v1").await;
    let mut both = manifest.clone();
    both["manifests"] = json!([]);
    assert_eq!(
        registry.push_manifest("a", "x", &both).await.code(),
        "MANIFEST_INVALID"
    );
    let mut missing = manifest.clone();
    missing["layers"][0]["digest"] = json!(Digest::of(b"absent").to_string());
    assert_eq!(
        registry.push_manifest("a", "x", &missing).await.code(),
        "MANIFEST_BLOB_UNKNOWN"
    );
    let wrong = Digest::of(b"wrong").to_string();
    assert_eq!(
        registry.push_manifest("a", &wrong, &manifest).await.code(),
        "DIGEST_INVALID"
    );
    let put = |body: Vec<u8>| {
        let registry = &registry;
        async move { registry.send(Method::PUT, "/v2/a/manifests/x", &[], &body).await }
    };
    assert_eq!(put(b"nope".to_vec()).await.code(), "MANIFEST_INVALID");
    assert_eq!(put(vec![b' '; (4 << 20) + 1]).await.code(), "SIZE_INVALID");
    assert_eq!(
        registry
            .send(Method::DELETE, &format!("/v2/a/manifests/{digest}"), &[], b"")
            .await
            .status,
        StatusCode::ACCEPTED
    );
    assert_eq!(
        registry.get("/v2/a/manifests/v1").await.code(),
        "MANIFEST_UNKNOWN"
    );
    registry.stop().await;
}

#[tokio::test]
async fn listings_and_referrers() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Running::start(dir.path()).await;
    for tag in ["c", "a", "b"] {
        registry.push_image("x/y", tag).await;
    }
    assert_eq!(
        registry.get("/v2/x/y/tags/list").await.json()["tags"],
        json!(["a", "b", "c"])
    );
    let first = registry.get("/v2/x/y/tags/list?n=2").await;
    assert_eq!(first.json()["tags"], json!(["a", "b"]));
    assert_eq!(
        first.header("link"),
        "</v2/x/y/tags/list?n=2&last=b>; rel=\"next\""
    );
    let second = registry.get("/v2/x/y/tags/list?n=2&last=b").await;
    assert_eq!(
        (second.json()["tags"].clone(), second.header("link")),
        (json!(["c"]), "")
    );
    assert_eq!(
        registry.get("/v2/_catalog").await.json()["repositories"],
        json!(["x/y"])
    );
    let (mut signature, subject) = registry.push_image("x/y", "a").await;
    signature["subject"] = json!({"mediaType": "x", "digest": subject.to_string(), "size": 1});
    signature["artifactType"] = json!("application/x-signature");
    let pushed = registry.push_manifest("x/y", "sig", &signature).await;
    assert_eq!(
        (pushed.status, pushed.header("oci-subject")),
        (StatusCode::CREATED, &*subject.to_string())
    );
    let list = |filter: &str| {
        let path = format!("/v2/x/y/referrers/{subject}{filter}");
        let registry = &registry;
        async move { registry.get(&path).await }
    };
    assert_eq!(
        list("").await.json()["manifests"][0]["artifactType"],
        "application/x-signature"
    );
    let none = list("?artifactType=other").await;
    assert_eq!(
        (
            none.json()["manifests"].clone(),
            none.header("oci-filters-applied")
        ),
        (json!([]), "artifactType")
    );
    registry.stop().await;
}

fn is_installed(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        eprintln!("skipped: {program} is not installed");
    }
    found
}

/// An OCI layout with one image, written by hand.
fn write_layout(dir: &Path) {
    let blobs = dir.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let put = |bytes: &[u8]| {
        let digest = Digest::of(bytes);
        std::fs::write(blobs.join(digest.hex()), bytes).unwrap();
        json!({"digest": digest.to_string(), "size": bytes.len()})
    };
    let described = |mut descriptor: Value, media_type: &str| {
        descriptor["mediaType"] = json!(media_type);
        descriptor
    };
    let layer = vec![0; 1024];
    let config = json!({"architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(&layer).to_string()]}});
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": described(put(config.to_string().as_bytes()), "application/vnd.oci.image.config.v1+json"),
        "layers": [described(put(&layer), "application/vnd.oci.image.layer.v1.tar")],
    });
    let manifest = described(
        put(manifest.to_string().as_bytes()),
        "application/vnd.oci.image.manifest.v1+json",
    );
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    std::fs::write(dir.join("index.json"), index.to_string()).unwrap();
    std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

async fn skopeo(args: &[&str]) {
    let output = tokio::process::Command::new("skopeo")
        .args(args)
        .output()
        .await
        .unwrap();
    assert!(
        output.status.success(),
        "skopeo {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[tokio::test]
async fn skopeo_copies_in_and_out() {
    if !is_installed("skopeo") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (from, back) = (dir.path().join("from"), dir.path().join("back"));
    write_layout(&from);
    let registry = Running::start(&dir.path().join("registry")).await;
    let image = format!(
        "docker://{}/some/app:v1",
        registry.base.trim_start_matches("http://")
    );
    let copy = ["--insecure-policy", "copy"];
    let (from, back) = (
        format!("oci:{}", from.display()),
        format!("oci:{}", back.display()),
    );
    skopeo(&[&copy[..], &["--dest-tls-verify=false", &from, &image]].concat()).await;
    skopeo(&[&copy[..], &["--src-tls-verify=false", &image, &back]].concat()).await;
    assert_eq!(
        registry.get("/v2/some/app/tags/list").await.json()["tags"],
        json!(["v1"])
    );
    registry.stop().await;
}

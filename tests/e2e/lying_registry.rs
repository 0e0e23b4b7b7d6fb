//! A registry that lies (a real HTTP server): the Pod says what is wrong, the node keeps nothing of it, and when the registry
//! comes to its senses the Pod runs.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use flate2::write::GzEncoder;
use futures::StreamExt;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::Api;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;

use crate::changing::{container, until};
use crate::cluster::{Cluster, is_root};
use crate::streams::busybox_image;

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// Each lie with what the Pod says of it.
const LIES: [(&str, &str); 6] = [
    ("digest", "does not match its digest"),
    ("short", "bytes where the manifest says"),
    ("endless", "bytes where the manifest says"),
    ("manifest", "does not match its digest"),
    ("loop", "redirects too often"),
    ("cut", "failed to extract layer"),
];

/// One image, told truly or not.
struct Registry {
    layer: Vec<u8>,
    config: Vec<u8>,
    honest: AtomicBool,
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

fn whole(code: StatusCode, kind: &str, bytes: Vec<u8>) -> Answer {
    let body = Full::new(Bytes::from(bytes)).boxed_unsync();
    let answer = Response::builder().status(code).header("content-type", kind);
    answer.body(body).unwrap()
}

fn blob(bytes: Vec<u8>) -> Answer {
    whole(StatusCode::OK, "application/octet-stream", bytes)
}

impl Registry {
    fn new(image: &Path) -> Self {
        let mut tar = tar::Builder::new(Vec::new());
        tar.follow_symlinks(false);
        tar.append_dir_all("", image).unwrap();
        let tar = tar.into_inner().unwrap();
        let mut gzip = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut gzip, &tar).unwrap();
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let config = json!({"os": "linux", "architecture": architecture, "config": {},
            "rootfs": {"type": "layers", "diff_ids": [digest(&tar)]}});
        Registry {
            layer: gzip.finish().unwrap(),
            config: config.to_string().into_bytes(),
            honest: AtomicBool::new(false),
        }
    }

    /// Half of the layer, under a digest of its own.
    fn cut(&self) -> &[u8] {
        &self.layer[..self.layer.len() / 2]
    }

    fn manifest(&self, layer: &[u8]) -> Vec<u8> {
        let of = |kind: &str, bytes: &[u8]| -> Value {
            let kind = format!("application/vnd.oci.image.{kind}");
            json!({"mediaType": kind, "digest": digest(bytes), "size": bytes.len()})
        };
        let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": of("config.v1+json", &self.config), "layers": [of("layer.v1.tar+gzip", layer)]});
        manifest.to_string().into_bytes()
    }

    /// The repository's name is the lie.
    fn answer(&self, path: &str) -> Answer {
        let mut parts = path.trim_start_matches("/v2/").splitn(3, '/');
        let (lie, what) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let lie = if self.honest.load(Ordering::Relaxed) {
            ""
        } else {
            lie
        };
        let wanted = parts.next().unwrap_or_default();
        match what {
            "manifests" => {
                let manifest = match lie {
                    "cut" => self.manifest(self.cut()),
                    "manifest" => self.manifest(b"another"),
                    _ => self.manifest(&self.layer),
                };
                whole(
                    StatusCode::OK,
                    "application/vnd.oci.image.manifest.v1+json",
                    manifest,
                )
            }
            "blobs" if wanted == digest(&self.config) => blob(self.config.clone()),
            "blobs" if wanted == digest(self.cut()) => blob(self.cut().to_vec()),
            "blobs" if wanted == digest(&self.layer) => self.lie(lie, path),
            _ => whole(StatusCode::NOT_FOUND, "text/plain", Vec::new()),
        }
    }

    fn lie(&self, lie: &str, path: &str) -> Answer {
        let mut layer = self.layer.clone();
        match lie {
            "digest" => layer[100] ^= 1,
            "short" => layer.truncate(1000),
            "endless" => {
                let chunk = Bytes::from(vec![0; 64 << 10]);
                let more = futures::stream::repeat_with(move || Ok(Frame::data(chunk.clone())));
                return Response::new(StreamBody::new(more.boxed()).boxed_unsync());
            }
            "loop" => {
                let mut answer = whole(StatusCode::FOUND, "text/plain", Vec::new());
                answer.headers_mut().insert("location", path.parse().unwrap());
                return answer;
            }
            _ => {}
        }
        blob(layer)
    }
}

/// Serves until the test's runtime ends.
async fn serve(registry: Arc<Registry>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let registry = registry.clone();
            let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                let answer = registry.answer(request.uri().path());
                async move { Ok::<_, Infallible>(answer) }
            });
            let builder = hyper::server::conn::http1::Builder::new();
            let connection = builder.serve_connection(TokioIo::new(stream), service);
            // Whoever is lied to hangs up.
            tokio::spawn(async move { connection.await.ok() });
        }
    });
    address
}

fn pod(name: &str, image: &str) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": name}, "spec": {
        "terminationGracePeriodSeconds": 0, "restartPolicy": "Never",
        "containers": [{"name": "c", "image": image, "command": ["true"]}]}}))
    .unwrap()
}

fn waits_for(status: &PodStatus, reasons: &[&str], words: &str) -> bool {
    let waiting = container(status, "c").and_then(|c| c.state.clone()?.waiting);
    waiting.is_some_and(|waiting| {
        let reason = waiting.reason.unwrap_or_default();
        reasons.contains(&reason.as_str()) && waiting.message.is_some_and(|message| message.contains(words))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_lies_is_quoted_and_nothing_of_it_is_kept() {
    let test = "a registry that lies";
    if !is_root(test) {
        return;
    }
    let mut cluster = Cluster::new();
    let Some(image) = busybox_image(test, cluster.dir()) else {
        return;
    };
    cluster.start(&[]);
    let registry = Arc::new(Registry::new(&image));
    let address = serve(registry.clone()).await;
    let pods: Api<Pod> = Api::default_namespaced(cluster.client().await);
    for (lie, _) in LIES {
        let image = match lie {
            "manifest" => format!("{address}/{lie}@{}", digest(&registry.manifest(&registry.layer))),
            _ => format!("{address}/{lie}:v1"),
        };
        pods.create(&Default::default(), &pod(lie, &image)).await.unwrap();
    }
    for (lie, words) in LIES {
        until(&pods, lie, words, |status| {
            waits_for(status, &["ErrImagePull", "ImagePullBackOff"], words)
        })
        .await;
    }
    registry.honest.store(true, Ordering::Relaxed);
    for (lie, _) in LIES {
        until(&pods, lie, "it runs in the end", |status| {
            status.phase.as_deref() == Some("Succeeded")
        })
        .await;
    }
    // Not before: while they are refused they are tried again.
    let images = cluster.data_dir().join("node/images");
    let count = |dir: &str| std::fs::read_dir(images.join(dir)).map_or(0, |entries| entries.count());
    assert_eq!(count("content/ingest"), 0, "half a blob is left");
    assert_eq!(count("layers"), 1, "all of them are one layer");
}

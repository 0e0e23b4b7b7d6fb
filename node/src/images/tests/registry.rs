//! A real registry: Debian's `docker-registry`.

use std::process::Stdio;

use bytes::Bytes;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::*;
use crate::images::distribution::BlobSource;

/// `docker-registry` on a free port; killed with the value.
struct Registry {
    address: String,
    _child: Child,
    _dir: tempfile::TempDir,
}

impl Registry {
    /// None, with a word about it, when the package is not installed.
    async fn start() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("config.yml");
        let text = json!({
            "version": "0.1",
            "log": {"level": "info", "formatter": "text"},
            "storage": {"filesystem": {"rootdirectory": dir.path().join("data")}, "delete": {"enabled": true}},
            "http": {"addr": "127.0.0.1:0"},
        });
        fs::write(&config, text.to_string()).unwrap();
        let spawned = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn();
        let Ok(mut child) = spawned else {
            eprintln!("skipped: docker-registry is not installed");
            return None;
        };
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = loop {
            let line = lines
                .next_line()
                .await
                .unwrap()
                .expect("docker-registry ended before it listened");
            if let Some((_, rest)) = line.split_once("listening on ") {
                break rest
                    .chars()
                    .take_while(|c| c.is_ascii_digit() || matches!(c, '.' | ':'))
                    .collect();
            }
        };
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Some(Self {
            address,
            _child: child,
            _dir: dir,
        })
    }

    fn name(&self, image: &str) -> String {
        format!("{}/{image}", self.address)
    }
}

/// Pushes a sample the way `amphipod image push` does.
async fn push(images: &Images, name: &str, sample: &Sample) {
    let (client, reference) = (images.distribution(), name.parse::<ImageReference>().unwrap());
    let auth = RegistryAuth::Anonymous;
    for blob in &sample.blobs {
        let digest = Digest::of(blob);
        assert!(!client.has_blob(&reference, &digest, &auth).await.unwrap());
        let source = BlobSource::Memory(Bytes::from(blob.clone()));
        client
            .push_blob(&reference, &digest, &source, &auth, |_| ())
            .await
            .unwrap();
        assert!(client.has_blob(&reference, &digest, &auth).await.unwrap());
    }
    let bytes = Bytes::from(sample.manifest.clone());
    let tag = reference.tag().unwrap();
    client
        .push_manifest(&reference, tag, media::OCI_MANIFEST, bytes, &auth)
        .await
        .unwrap();
}

#[tokio::test]
async fn push_and_pull_through_a_real_registry() {
    if !root_or_skip() {
        return;
    }
    let Some(registry) = Registry::start().await else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path(), ImagesOptions::default());
    let name = registry.name("some/app:v1");
    let layers = [
        layer(&[("etc/motd", "low"), ("gone", "x")]),
        layer(&[("etc/motd", "high"), (".wh.gone", "")]),
    ];
    let sample = Sample::native(&layers, json!({"Cmd": ["/bin/app"], "Env": ["A=b"]}));
    push(&images, &name, &sample).await;
    let image = images.pull(&name, &RegistryAuth::Anonymous).await.unwrap();
    assert_eq!(
        (image.kind, image.layers.len(), &image.config.cmd[..]),
        (ImageKind::Native, 2, &["/bin/app".to_owned()][..])
    );
    assert_eq!(image.digest, Digest::of(&sample.manifest));
    assert_eq!(
        image.repo_digest,
        format!("{}/some/app@{}", registry.address, image.digest)
    );
    let pinned = format!("{}/some/app@{}", registry.address, image.digest);
    let by_digest = images.pull(&pinned, &RegistryAuth::Anonymous).await.unwrap();
    assert_eq!(by_digest.id, image.id);
    let missing = images
        .pull(&registry.name("some/app:v2"), &RegistryAuth::Anonymous)
        .await
        .unwrap_err();
    assert!(missing.is_not_found(), "{missing}");
    let listing = images
        .distribution()
        .document(&registry.address, "_catalog", &RegistryAuth::Anonymous)
        .await;
    assert!(String::from_utf8_lossy(&listing.unwrap()).contains("some/app"));
}

/// The acceptance path of `amphipod.local`: a name nobody resolves, reached through a mirror.
#[tokio::test]
async fn a_mirror_stands_in_for_a_registry() {
    let Some(registry) = Registry::start().await else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let mirrors = [(
        "amphipod.local".to_owned(),
        format!("http://{}", registry.address),
    )]
    .into();
    let images = open(
        dir.path(),
        ImagesOptions {
            mirrors,
            ..ImagesOptions::default()
        },
    );
    push(&images, "amphipod.local/hello:v1", &Sample::wasm(b"\0asm")).await;
    let image = images
        .pull("amphipod.local/hello:v1", &RegistryAuth::Anonymous)
        .await
        .unwrap();
    assert_eq!(image.reference, "amphipod.local/hello:v1");
    assert_eq!(image.module, Some(Digest::of(b"\0asm")));
}

//! Content that is named by other digests than SHA-256.

use axum::response::IntoResponse;
use sha2::{Digest as _, Sha512};

use super::hostile::{Server, status};
use super::*;

fn sha512(bytes: &[u8]) -> String {
    format!("sha512:{}", hex::encode(Sha512::digest(bytes)))
}

/// A native image: its manifest, and its config and layer.
fn image() -> (Vec<u8>, [Vec<u8>; 2]) {
    let tar = layer(&[("etc/motd", "hello")]);
    let config = json!({"os": "linux", "architecture": native_arch(), "config": {"Cmd": ["/bin/app"]},
        "rootfs": {"type": "layers", "diff_ids": [sha512(&tar)]}});
    let config = config.to_string().into_bytes();
    of([(media::OCI_CONFIG, config), (media::OCI_LAYER, tar)])
}

/// A manifest whose config and layer are named by SHA-512, and those.
fn of(parts: [(&str, Vec<u8>); 2]) -> (Vec<u8>, [Vec<u8>; 2]) {
    let [config, layer] = parts
        .each_ref()
        .map(|(kind, bytes)| json!({"mediaType": kind, "digest": sha512(bytes), "size": bytes.len()}));
    let manifest =
        json!({"schemaVersion": 2, "mediaType": media::OCI_MANIFEST, "config": config, "layers": [layer]});
    (manifest.to_string().into_bytes(), parts.map(|(_, bytes)| bytes))
}

async fn serve(manifest: Vec<u8>, blobs: [Vec<u8>; 2]) -> Server {
    Server::start(move |request| {
        let path = request.uri().path();
        if path.contains("/manifests/") {
            return ([("content-type", media::OCI_MANIFEST)], manifest.clone()).into_response();
        }
        let blob = blobs.iter().find(|blob| path.ends_with(&sha512(blob)));
        blob.map_or_else(|| status(404), |blob| blob.clone().into_response())
    })
    .await
}

#[tokio::test]
async fn an_image_named_by_sha512_is_verified_by_it() {
    if !root_or_skip() {
        return;
    }
    let (manifest, blobs) = image();
    let digest = sha512(&manifest);
    let server = serve(manifest.clone(), blobs.clone()).await;
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path(), ImagesOptions::default());
    let name = format!("{}/app@{digest}", server.address);
    let image = images.pull(&name, &RegistryAuth::Anonymous).await.unwrap();
    assert_eq!(image.repo_digest, name);
    assert_eq!(image.id.to_string(), sha512(&blobs[0]));
    assert_eq!(image.layers[0].to_string(), sha512(&blobs[1]));
    let layout = &images.inner.layout;
    assert_eq!(fs::read(layout.blob(&image.digest)).unwrap(), manifest);
    assert!(layout.layer(&image.layers[0]).join("etc/motd").exists());
    drop(images);
    let images = open(dir.path(), ImagesOptions::default());
    assert_eq!(images.list().unwrap(), [image], "the sweep knows whose they are");
    assert!(images.inner.layout.blob(&digest.parse().unwrap()).exists());
}

#[tokio::test]
async fn what_is_not_what_its_sha512_says_is_refused() {
    let (manifest, [config, tar]) = image();
    let name = |server: &Server, manifest: &[u8]| format!("{}/app@{}", server.address, sha512(manifest));
    let mut other = config.clone();
    other.push(b' ');
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path(), ImagesOptions::default());
    for (asked, given, blobs) in [
        (other.clone(), manifest.clone(), [config, tar.clone()]),
        (manifest.clone(), manifest, [other, tar]),
    ] {
        let server = serve(given, blobs).await;
        let pulled = images
            .pull(&name(&server, &asked), &RegistryAuth::Anonymous)
            .await;
        assert_eq!(pulled.unwrap_err().reason(), "ErrImagePull");
        assert_no_leftovers(&images);
    }
}

#[tokio::test]
async fn a_module_named_by_sha512_has_the_name_that_shims_know() {
    let config = json!({"architecture": "wasm", "os": "wasip1"}).to_string();
    let module = b"\0asm".to_vec();
    let (manifest, blobs) = of([
        (media::WASM_CONFIG, config.into_bytes()),
        (media::WASM_LAYER, module.clone()),
    ]);
    let name = format!("app@{}", sha512(&manifest));
    let server = serve(manifest, blobs).await;
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path(), ImagesOptions::default());
    let pulled = images
        .pull(&format!("{}/{name}", server.address), &RegistryAuth::Anonymous)
        .await;
    let found = pulled.unwrap().module.unwrap();
    assert_eq!(found, Digest::of(&module));
    drop(images);
    let images = open(dir.path(), ImagesOptions::default());
    assert_eq!(fs::read(images.inner.layout.blob(&found)).unwrap(), module);
}

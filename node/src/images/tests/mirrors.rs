//! Mirrors that are asked before a registry, and connections that break.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::hostile::{Server, serve, status};
use super::*;

fn asking(mirrors: &[String], registry: &Server) -> ImagesOptions {
    ImagesOptions {
        pull_mirrors: [(registry.address.clone(), mirrors.to_vec())].into(),
        ..ImagesOptions::default()
    }
}

#[tokio::test]
async fn a_mirror_is_asked_first_and_shown_no_credentials() {
    let sample = Sample::wasm(b"\0asm");
    let (registry, mirror) = (serve(sample.clone()).await, serve(sample).await);
    let dir = tempfile::tempdir().unwrap();
    let images = open(
        dir.path(),
        asking(&[format!("http://{}", mirror.address)], &registry),
    );
    let auth = RegistryAuth::Basic("me".into(), "secret".into());
    let image = images.pull(&registry.image(), &auth).await.unwrap();
    assert_eq!(image.reference, registry.image(), "its name stays");
    assert_eq!(registry.asked(), []);
    assert!(mirror.asked().iter().all(|(_, shown)| shown.is_none()));
}

#[tokio::test]
async fn a_mirror_without_the_image_or_away_is_passed_over() {
    let registry = serve(Sample::wasm(b"\0asm")).await;
    let empty = Server::start(|_| status(404)).await;
    let away = "http://127.0.0.1:1".to_owned();
    let dir = tempfile::tempdir().unwrap();
    let mirrors = [away, format!("http://{}", empty.address)];
    let images = open(dir.path(), asking(&mirrors, &registry));
    images
        .pull(&registry.image(), &RegistryAuth::Anonymous)
        .await
        .unwrap();
    assert_eq!((empty.asked().len(), registry.asked().len()), (3, 3));
}

/// A server that ends its first answer for every blob in the middle, and understands ranges or not.
async fn breaking(sample: Sample, resumes: bool) -> (String, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let serving = tokio::spawn(async move {
        let mut seen = std::collections::HashSet::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
            let path = head.split(' ').nth(1).unwrap().to_owned();
            let body = match path.rsplit_once("/blobs/") {
                None => sample.manifest.clone(),
                Some((_, digest)) => {
                    let mut blobs = sample.blobs.iter();
                    blobs
                        .find(|blob| Digest::of(blob).to_string() == digest)
                        .unwrap()
                        .clone()
                }
            };
            let first = path.contains("/blobs/") && seen.insert(path);
            let range = head
                .split("range: bytes=")
                .nth(1)
                .and_then(|rest| rest.split('-').next());
            let from: usize = range.filter(|_| resumes).map_or(0, |from| from.parse().unwrap());
            let rest = &body[from..];
            let code = if from > 0 { "206 Partial Content" } else { "200 OK" };
            let kind = media::OCI_MANIFEST;
            let answer = format!(
                "HTTP/1.1 {code}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                rest.len()
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
            let sent = if first { rest.len() / 2 } else { rest.len() };
            stream.write_all(&rest[..sent]).await.unwrap();
            stream.shutdown().await.unwrap();
        }
    });
    (address, serving)
}

#[tokio::test]
async fn a_blob_that_breaks_off_is_resumed_or_begun_again() {
    for resumes in [true, false] {
        let (address, serving) = breaking(Sample::wasm(b"\0asm and more than that"), resumes).await;
        let dir = tempfile::tempdir().unwrap();
        let images = open(dir.path(), ImagesOptions::default());
        let pulled = images
            .pull(&format!("{address}/app:v1"), &RegistryAuth::Anonymous)
            .await;
        assert_eq!(
            pulled.unwrap().module,
            Some(Digest::of(b"\0asm and more than that"))
        );
        assert_no_leftovers(&images);
        serving.abort();
    }
}

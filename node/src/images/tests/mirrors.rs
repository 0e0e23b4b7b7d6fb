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

/// A server that ends its first answer for every blob in the middle, and understands ranges or not. Tells where blobs were asked
/// for from.
async fn breaking(
    sample: Sample,
    resumes: bool,
) -> (String, Arc<Mutex<Vec<usize>>>, tokio::task::JoinHandle<()>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let told = asked.clone();
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
            let first = path.contains("/blobs/") && seen.insert(path.clone());
            let range = head
                .split("range: bytes=")
                .nth(1)
                .and_then(|rest| rest.split('-').next());
            let from: usize = range.map_or(0, |from| from.parse().unwrap());
            if path.contains("/blobs/") {
                told.lock().unwrap().push(from);
            }
            let from = if resumes { from } else { 0 };
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
    (address, asked, serving)
}

#[tokio::test]
async fn a_blob_that_breaks_off_is_resumed_or_begun_again() {
    for resumes in [true, false] {
        let (address, _, serving) = breaking(Sample::wasm(b"\0asm and more than that"), resumes).await;
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

#[tokio::test]
async fn what_an_earlier_pull_left_of_a_blob_is_gone_on_with() {
    let module = b"\0asm and a good deal more than that";
    // What is kept of the module, whether ranges are understood, and from where the module is asked for.
    let cases: [(&[u8], bool, &[usize]); 4] = [
        (&module[..10], true, &[10, 22]),
        (&module[..10], false, &[10, 17]),
        (b"\0asm and a bad deal", true, &[19, 27, 0]),
        (module, true, &[]),
    ];
    for (kept, resumes, expected) in cases {
        let sample = Sample::wasm(module);
        let config = sample.blobs[0].len();
        let (address, asked, serving) = breaking(sample, resumes).await;
        let dir = tempfile::tempdir().unwrap();
        let images = open(dir.path(), ImagesOptions::default());
        let digest = Digest::of(module);
        fs::write(images.inner.layout.ingest().join(digest.hex()), kept).unwrap();
        let name = format!("{address}/app:v1");
        let pulled = images.pull(&name, &RegistryAuth::Anonymous).await.unwrap();
        assert_eq!(pulled.module, Some(digest.clone()));
        assert_eq!(fs::read(images.inner.layout.blob(&digest)).unwrap(), module);
        assert_no_leftovers(&images);
        let asked = asked.lock().unwrap().clone();
        assert_eq!(
            asked,
            [&[0, config / 2], expected].concat(),
            "{} kept",
            kept.len()
        );
        serving.abort();
    }
}

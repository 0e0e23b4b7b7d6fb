//! Attacks on HTTP/2 framing (RFC 9113): each ends its own connection and no other.
use super::plane::Plane;
use super::tls;
use http::Request;
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// `GET https:///` in HPACK's static table.
const REQUEST: [u8; 3] = [0x82, 0x87, 0x84];
/// More than the server takes before it ends a connection.
const ATTEMPTS: u32 = 20_000;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

async fn open(plane: &Plane) -> TlsStream<TcpStream> {
    let mut stream = tls::connect(plane, b"h2").await;
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    stream
}

/// Writes while reading, until the server ends the connection; whether it did before all was written and read.
async fn is_ended(
    stream: TlsStream<TcpStream>,
    frames: impl Iterator<Item = Vec<u8>> + Send + 'static,
) -> bool {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let writing = tokio::spawn(async move {
        for frame in frames {
            if writer.write_all(&frame).await.is_err() {
                return;
            }
        }
        // Held open: the server must be the one that ends it.
        std::future::pending::<()>().await;
    });
    let mut answer = vec![0; 1 << 16];
    let reading = async { while reader.read(&mut answer).await.is_ok_and(|read| read > 0) {} };
    let ended = tokio::time::timeout(Duration::from_secs(20), reading)
        .await
        .is_ok();
    writing.abort();
    ended
}

#[tokio::test]
async fn a_rapid_reset_ends_the_connection() {
    let plane = Plane::start().await;
    let attack = (0..ATTEMPTS).map(|i| {
        let stream = 2 * i + 1;
        let mut pair = frame(HEADERS, END_HEADERS | END_STREAM, stream, &REQUEST);
        pair.extend_from_slice(&frame(RST_STREAM, 0, stream, &8u32.to_be_bytes()));
        pair
    });
    assert!(is_ended(open(&plane).await, attack).await);
    assert_eq!(plane.get("/livez").await.0, 200);
}

#[tokio::test]
async fn endless_continuations_end_the_connection() {
    let plane = Plane::start().await;
    let begun = frame(HEADERS, END_STREAM, 1, &REQUEST);
    // A literal header without indexing: name `x`, value of 100 bytes.
    let mut header = vec![0, 1, b'x', 100];
    header.extend_from_slice(&[b'y'; 100]);
    let more = (0..ATTEMPTS).map(move |_| frame(CONTINUATION, 0, 1, &header));
    assert!(is_ended(open(&plane).await, std::iter::once(begun).chain(more)).await);
    assert_eq!(plane.get("/livez").await.0, 200);
}

#[tokio::test]
async fn floods_of_frames_hold_nobody_up() {
    let plane = Plane::start().await;
    let ping = (0..ATTEMPTS).map(|i| frame(PING, 0, 0, &u64::from(i).to_be_bytes()));
    let settings = (0..ATTEMPTS).map(|_| frame(SETTINGS, 0, 0, &[]));
    let empty = (0..ATTEMPTS).map(|_| frame(DATA, 0, 1, &[]));
    let begun = std::iter::once(frame(HEADERS, END_HEADERS, 1, &REQUEST));
    // Requests whose bodies never come.
    let streams = (0..ATTEMPTS).map(|i| frame(HEADERS, END_HEADERS, 2 * i + 1, &REQUEST));
    let floods: [Box<dyn Iterator<Item = Vec<u8>> + Send>; 4] = [
        Box::new(ping),
        Box::new(settings),
        Box::new(begun.chain(empty)),
        Box::new(streams),
    ];
    for flood in floods {
        let connection = open(&plane).await;
        let sent = tokio::spawn(is_ended(connection, flood));
        assert_eq!(plane.get("/livez").await.0, 200);
        sent.abort();
    }
    // A frame larger than was agreed on.
    let large = std::iter::once(frame(DATA, 0, 1, &[0; 1 << 15]));
    assert!(is_ended(open(&plane).await, large).await);
}

#[tokio::test]
async fn headers_may_be_as_large_as_upstreams_are() {
    let plane = Plane::start().await;
    let connection = TokioIo::new(tls::connect(&plane, b"h2").await);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), connection)
        .await
        .unwrap();
    tokio::spawn(connection);
    for (kib, code) in [(1, 200), (100, 200), (1000, 200), (1100, 431), (1, 200)] {
        let request = Request::get(format!("https://{}/version", plane.control.local_addr()))
            .header("x-large", "x".repeat(kib << 10));
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(answer.status(), code, "{kib} KiB");
    }
}

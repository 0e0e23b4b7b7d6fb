//! The client against a server of HTTP/2 over TLS that takes a hundred requests at once on a connection, as upstream's does.

use std::convert::Infallible;

use bytes::Bytes;
use futures::future::{join_all, try_join_all};
use futures::stream;
use http_body_util::{BodyExt, Either, Empty, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::CertifiedKey;
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::*;

const STREAMS: u32 = 100;
const WATCH: &str = "/watch";

/// How many connections there were, and how many there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    ever: usize,
    now: usize,
}

struct TestServer {
    client: Client,
    renewal: Renewal,
    config: Config,
    seen: watch::Receiver<Seen>,
    /// Ends the connections there are: what is under way on them may end.
    goaway: Arc<std::sync::Mutex<CancellationToken>>,
}

impl TestServer {
    async fn start() -> Self {
        Self::speaking(&["h2", "http/1.1"]).await
    }

    async fn speaking(protocols: &[&str]) -> Self {
        // Another test may have been first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
        let tls = ServerConfig::builder().with_no_client_auth();
        let mut tls = tls.with_single_cert(vec![cert.der().clone()], key).unwrap();
        tls.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        let mut config = Config::new(url.parse().unwrap());
        config.root_cert = Some(vec![cert.der().to_vec()]);
        let (telling, seen) = watch::channel(Seen::default());
        let goaway = Arc::<std::sync::Mutex<CancellationToken>>::default();
        tokio::spawn(accept(listener, Arc::new(tls), telling, goaway.clone()));
        let (made, renewal) = client(config.clone()).await.unwrap();
        TestServer {
            client: made,
            renewal,
            config,
            seen,
            goaway,
        }
    }

    async fn ask(&self, path: &str) -> Response<Body> {
        let request = Request::get(path).body(Body::empty()).unwrap();
        self.client.send(request).await.unwrap()
    }

    fn ever(&self) -> usize {
        self.seen.borrow().ever
    }
}

async fn accept(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    telling: watch::Sender<Seen>,
    goaway: Arc<std::sync::Mutex<CancellationToken>>,
) {
    let telling = Arc::new(telling);
    loop {
        let (tcp, _) = listener.accept().await.unwrap();
        telling.send_modify(|seen| (seen.ever, seen.now) = (seen.ever + 1, seen.now + 1));
        let (acceptor, telling) = (TlsAcceptor::from(tls.clone()), telling.clone());
        let goaway = goaway.lock().unwrap().clone();
        tokio::spawn(async move {
            serve(tcp, acceptor, goaway).await;
            telling.send_modify(|seen| seen.now -= 1);
        });
    }
}

async fn serve(tcp: TcpStream, acceptor: TlsAcceptor, goaway: CancellationToken) {
    let stream = acceptor.accept(tcp).await.unwrap();
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let stream = TokioIo::new(stream);
    if !is_http2 {
        drop(
            http1::Builder::new()
                .serve_connection(stream, service_fn(answer))
                .await,
        );
        return;
    }
    let mut http = http2::Builder::new(TokioExecutor::new());
    let serving = http
        .max_concurrent_streams(STREAMS)
        .serve_connection(stream, service_fn(answer));
    tokio::pin!(serving);
    tokio::select! {
        // The client closes it as it likes.
        ended = serving.as_mut() => drop(ended),
        () = goaway.cancelled() => {
            serving.as_mut().graceful_shutdown();
            drop(serving.await);
        }
    }
}

/// A watch begins and says nothing more.
async fn answer(
    request: Request<Incoming>,
) -> Result<Response<impl hyper::body::Body<Data = Bytes, Error = BoxError>>, Infallible> {
    let silence = StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>());
    Ok(Response::new(match request.uri().path() {
        WATCH => Either::Left(silence),
        _ => Either::Right(Empty::new()),
    }))
}

#[tokio::test]
async fn many_watches_share_few_connections_and_leave_room_for_requests() {
    let mut server = TestServer::start().await;
    let mut watches = Vec::new();
    for _ in 0..250 {
        watches.push(server.ask(WATCH).await);
    }
    server.ask("/else").await;
    assert_eq!(server.ever(), 3);
    drop(watches);
    server.ask("/else").await;
    server.seen.wait_for(|seen| seen.now == 1).await.unwrap();
    assert_eq!(server.ever(), 3);
}

#[tokio::test]
async fn who_asks_at_once_waits_for_one_connection() {
    let server = TestServer::start().await;
    let answers = join_all((0..STREAMS).map(|_| server.ask("/"))).await;
    assert_eq!(server.ever(), 1);
    try_join_all(answers.into_iter().map(|answer| answer.into_body().collect()))
        .await
        .unwrap();
}

/// As upstream's does by chance now and then, so that its clients spread over all API servers.
#[tokio::test]
async fn a_server_that_sends_its_clients_away_is_asked_over_another_connection() {
    let mut server = TestServer::start().await;
    let watch = server.ask(WATCH).await;
    let before = mem::take(&mut *server.goaway.lock().unwrap());
    before.cancel();
    while server.ever() == 1 {
        server.ask("/").await;
    }
    assert_eq!(*server.seen.borrow(), Seen { ever: 2, now: 2 });
    drop(watch);
    server.seen.wait_for(|seen| seen.now == 1).await.unwrap();
}

#[tokio::test]
async fn another_certificate_is_shown_on_new_connections_and_watches_of_before_go_on() {
    let mut server = TestServer::start().await;
    let watch = server.ask(WATCH).await;
    assert!(server.renewal.renew(&server.config).unwrap());
    server.ask("/").await;
    server.ask("/").await;
    assert_eq!(*server.seen.borrow(), Seen { ever: 2, now: 2 });
    drop(watch);
    server.seen.wait_for(|seen| seen.now == 1).await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_not_there_is_an_error_that_names_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    drop(listener);
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut config = Config::new(url.parse().unwrap());
    config.root_cert = Some(Vec::new());
    let (client, _) = client(config).await.unwrap();
    let asked = client.send(Request::get("/").body(Body::empty()).unwrap());
    let error = asked.await.unwrap_err().to_string();
    assert!(error.contains("cannot connect to 127.0.0.1:"), "{error}");
}

#[tokio::test]
async fn a_server_without_http2_is_asked_as_it_can_be() {
    let server = TestServer::speaking(&["http/1.1"]).await;
    let watches = [server.ask(WATCH).await, server.ask(WATCH).await];
    assert!(watches.iter().all(|watch| watch.status().is_success()));
    // The first look, and one for each.
    assert_eq!(server.ever(), 3);
}

/// Not one after the other, each after a wait of its own; the client had looked before.
#[tokio::test]
async fn who_asks_at_once_learns_at_once_that_a_server_is_silent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut config = Config::new(url.parse().unwrap());
    config.root_cert = Some(Vec::new());
    config.connect_timeout = Some(std::time::Duration::from_millis(200));
    let (telling, connections) = watch::channel(0);
    tokio::spawn(async move {
        let mut silent = Vec::new();
        while let Ok((tcp, _)) = listener.accept().await {
            silent.push(tcp);
            telling.send_replace(silent.len());
        }
    });
    let (client, _) = client(config).await.unwrap();
    let looked = *connections.borrow();
    let asked = (0..20).map(|_| client.send(Request::get("/").body(Body::empty()).unwrap()));
    for answer in join_all(asked).await {
        let error = answer.unwrap_err().to_string();
        assert!(error.contains("took longer than"), "{error}");
    }
    assert_eq!(*connections.borrow(), looked + 1);
}

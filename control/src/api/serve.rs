//! The API over HTTPS, and in-process without a wire.
//!
//! Flow per connection: TLS handshake (client certificate optional) → identity → HTTP/1.1 or h2 until either side
//! ends or shutdown drains it. Limits keep one connection from hurting the others.
use super::head;
use super::header_room::HeaderRoom;
use super::metrics::Connections;
use crate::auth::client_cert::{ClientCertificates, Known};
use crate::auth::pki::Pki;
use crate::auth::{Identity, RefusedCertificate};
use axum::Router;
use axum::body::Body;
use http::{Extensions, HeaderValue, Request, header};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

/// Connections at once; further ones wait in the kernel's queue.
const CONNECTIONS: usize = 16_384;
/// Requests at once on one h2 connection; a client with many watches needs many (upstream: 100, client-go copes).
const STREAMS: u32 = 1000;
/// Streams that a client may reset before we took notice; more is an attack (CVE-2023-44487).
const PENDING_RESETS: usize = 64;
/// Streams that we had to reset before the connection is ended (CVE-2025-8671).
const LOCAL_RESETS: usize = 512;
/// Header bytes of one request over HTTP/2, CONTINUATION frames included: as Go counts upstream's 1 MiB, with 32 bytes for each of
/// ten headers. All requests of a connection have less room than each of them so much (`room`).
const HEADER_LIST: u32 = (1 << 20) + 10 * 32;
/// Header bytes of one request over HTTP/1.1, which each connection takes room for.
const HEADER_BYTES: usize = 128 << 10;
/// Header lines of one request over HTTP/1.1: a proxy in front tells each group of a user in one.
const HEADERS: usize = 1_024;
/// How often a silent h2 client is asked whether it is still there, and how long it may take to say so.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_WITHIN: Duration = Duration::from_secs(20);

#[derive(Debug, thiserror::Error)]
#[error("the serving certificate cannot be used: {0}")]
pub struct TlsError(String);

/// How long a client may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For the TLS handshake.
    pub handshake: Duration,
    /// For the headers of a request; an idle HTTP/1.1 connection is one whose next headers take long.
    pub headers: Duration,
    /// For the body of a request.
    pub body: Duration,
}

impl Default for Patience {
    /// Headers as long as upstream's; its body has as long as the whole request, 60 seconds.
    fn default() -> Self {
        Patience {
            handshake: Duration::from_secs(10),
            headers: Duration::from_secs(32),
            body: Duration::from_secs(30),
        }
    }
}

/// Where a request comes from, as an extension of it.
#[derive(Clone, Copy, Debug)]
pub struct ClientAddress(pub IpAddr);

/// That a request comes from a part of this program, as an extension of it. Watches then leave out who owns the fields of
/// an object, which is half of it and which none of these parts reads.
#[derive(Clone, Copy, Debug)]
pub struct InProcess;

/// What the listener needs to shake hands and to tell clients apart.
#[derive(Clone)]
pub struct Tls {
    acceptor: TlsAcceptor,
    clients: Arc<ClientCertificates>,
    connections: Arc<Connections>,
}

impl Tls {
    /// What is counted of connections.
    pub fn connections(&self) -> Arc<Connections> {
        self.connections.clone()
    }
}

pub fn tls(pki: &Pki) -> Result<Tls, TlsError> {
    let bad = |e: &dyn std::fmt::Display| TlsError(e.to_string());
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(pki.ca_pem().as_bytes()).map_err(|e| bad(&e))?)
        .map_err(|e| bad(&e))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients = Arc::new(ClientCertificates::new(roots, provider.clone()).map_err(TlsError)?);
    let serving = pki.serving();
    let chain = vec![CertificateDer::from_pem_slice(serving.cert_pem.as_bytes()).map_err(|e| bad(&e))?];
    let key = PrivateKeyDer::from_pem_slice(serving.key_pem.as_bytes()).map_err(|e| bad(&e))?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| bad(&e))?
        .with_client_cert_verifier(clients.clone())
        .with_single_cert(chain, key)
        .map_err(|e| bad(&e))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Tls {
        acceptor: TlsAcceptor::from(Arc::new(config)),
        clients,
        connections: Arc::default(),
    })
}

/// Accepts until `shutdown`, then waits for the connections to drain.
pub async fn run(
    listener: TcpListener,
    tls: Tls,
    patience: Patience,
    router: Router,
    shutdown: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accept(&listener, &places) => accepted,
        };
        match accepted {
            Ok((tcp, place)) => {
                let connection = connection(tcp, tls.clone(), patience, router.clone(), shutdown.clone());
                connections.spawn(async move {
                    connection.await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a connection failed");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// A connection, and its place among those that may be open.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let place = places
        .clone()
        .acquire_owned()
        .await
        .map_err(std::io::Error::other)?;
    let (tcp, _) = listener.accept().await?;
    Ok((tcp, place))
}

/// After running out of file descriptors, so that the loop does not spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

async fn connection(
    tcp: TcpStream,
    tls: Tls,
    patience: Patience,
    router: Router,
    shutdown: CancellationToken,
) {
    let from = tcp.peer_addr().ok().map(|address| ClientAddress(address.ip()));
    // Small answers must not wait for Nagle; when that cannot be set, they are merely slower.
    let _ = tcp.set_nodelay(true);
    let Some(stream) = handshake(tcp, &tls, patience.handshake).await else {
        return;
    };
    let chain = stream.get_ref().1.peer_certificates();
    let shown = chain.map(|chain| tls.clients.identify(chain));
    if let Some(Err(refused)) = &shown {
        // Once, however much is asked for.
        tracing::warn!(from = ?from.map(|from| from.0), "{refused}");
    }
    let room = HeaderRoom::default();
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        introduce(request.extensions_mut(), from, (shown.as_ref(), &tls.connections));
        let (room, router) = (room.clone(), router.clone());
        async move {
            match head::refusal(&request) {
                Some(refusal) => Ok(refusal),
                None => room.pass(router, request.map(Body::new)).await,
            }
        }
    });
    let http = http(stream.get_ref().1.alpn_protocol() == Some(b"h2"), patience);
    let serving = http.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = shutdown.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended");
    }
}

/// None where it comes to nothing.
async fn handshake(tcp: TcpStream, tls: &Tls, within: Duration) -> Option<TlsStream<TcpStream>> {
    match tokio::time::timeout(within, tls.acceptor.accept(tcp)).await {
        Ok(Ok(stream)) => return Some(stream),
        Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
        Err(_) => tracing::debug!("a TLS handshake took too long"),
    }
    tls.connections.fail();
    None
}

/// Whose a request is, by its connection, for those who answer it.
fn introduce(
    extensions: &mut Extensions,
    from: Option<ClientAddress>,
    (shown, connections): (Option<&Result<Known, RefusedCertificate>>, &Connections),
) {
    if let Some(from) = from {
        extensions.insert(from);
    }
    let now = UnixTime::now();
    if let Some(Ok(known)) = shown {
        connections.shown(known.left(now));
    }
    match shown.map(|shown| shown.as_ref().and_then(|known| known.at(now))) {
        Some(Ok(identity)) => drop(extensions.insert(identity.clone())),
        Some(Err(refused)) => drop(extensions.insert(refused.clone())),
        None => {}
    }
}

/// The protocol is what the handshake agreed on: guessing it from the first bytes would wait for them without end.
fn http(h2: bool, patience: Patience) -> auto::Builder<TokioExecutor> {
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1()
        .timer(TokioTimer::new())
        .header_read_timeout(patience.headers)
        .max_buf_size(HEADER_BYTES)
        .max_headers(HEADERS);
    http.http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(LOCAL_RESETS)
        .max_header_list_size(HEADER_LIST)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_WITHIN);
    if h2 { http.http2_only() } else { http.http1_only() }
}

/// Fields that an in-process client sets are owned under the last part of its user's name (`kube-scheduler`), those of a
/// node's agent under `kubelet`.
fn agent(identity: &Identity) -> Option<HeaderValue> {
    let program = match identity.user.rsplit(':').next().unwrap_or_default() {
        _ if identity.node().is_some() => "kubelet",
        "admin" => "amphipod",
        program => program,
    };
    HeaderValue::from_str(program).ok()
}

/// A client over the router itself: the same code as a remote one, without TCP.
pub fn client(router: Router, identity: Identity) -> kube::Client {
    let agent = agent(&identity);
    let service = router.map_request(move |mut request: Request<kube::client::Body>| {
        request.extensions_mut().insert(identity.clone());
        request.extensions_mut().insert(InProcess);
        if let Some(agent) = &agent {
            request
                .headers_mut()
                .entry(header::USER_AGENT)
                .or_insert_with(|| agent.clone());
        }
        request.map(Body::new)
    });
    kube::Client::new(service, "default")
}

//! One connection of HTTP/2 to an API server: how it is made, how much fits on it, and what holds it. Refuses to know the others.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use kube::Config;
use kube::client::{Body, ConfigExt};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Requests and watches at once on one connection, where the server allows so many (upstream's: 100).
const STREAMS: usize = 250;
/// What the server may send of one answer before it was read.
const STREAM_WINDOW: u32 = 256 << 10;
/// The same of all answers: so much that a watch nobody reads holds up no other.
const CONNECTION_WINDOW: u32 = STREAMS as u32 * STREAM_WINDOW;
/// A server that is silent for so long is asked whether it is still there, and has so long to say so; client-go's.
const PING_AFTER: Duration = Duration::from_secs(30);
const PING_WITHIN: Duration = Duration::from_secs(15);
/// As in ALPN.
const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("cannot connect to {server}: {source}")]
    Tcp { server: String, source: io::Error },
    #[error("the TLS handshake with {server} failed: {source}")]
    Tls { server: String, source: io::Error },
    #[error("{server} does not speak HTTP/2")]
    Http1 { server: String },
    #[error("{server} speaks HTTP/2 in a way of its own: {source}")]
    Http2 { server: String, source: hyper::Error },
    #[error("{server} took longer than {limit:?} to accept a connection")]
    TookTooLong { server: String, limit: Duration },
}

/// Where the API server is, and how it is known.
pub struct Server {
    host: String,
    port: u16,
    name: ServerName<'static>,
    tls: TlsConnector,
    limit: Option<Duration>,
}

impl Server {
    /// `None` where the configuration names no host that a certificate could be for.
    pub fn of(config: &Config) -> Result<Option<Server>, kube::Error> {
        let Some(host) = config.cluster_url.host() else {
            return Ok(None);
        };
        let host = host.trim_matches(['[', ']']).to_owned();
        let name = config.tls_server_name.as_ref().unwrap_or(&host).clone();
        let Ok(name) = ServerName::try_from(name) else {
            return Ok(None);
        };
        let mut tls = config.rustls_client_config()?;
        // Where it is not offered, a server that has nothing else ends the handshake without a reason that could be told.
        tls.alpn_protocols = vec![HTTP2.to_vec(), HTTP1.to_vec()];
        Ok(Some(Server {
            host,
            port: config.cluster_url.port_u16().unwrap_or(443),
            name,
            tls: TlsConnector::from(Arc::new(tls)),
            limit: config.connect_timeout,
        }))
    }

    pub async fn connect(&self) -> Result<Connection, ConnectError> {
        let connecting = Box::pin(self.connect_slowly());
        match self.limit {
            Some(limit) => tokio::time::timeout(limit, connecting).await.unwrap_or_else(|_| {
                Err(ConnectError::TookTooLong {
                    server: self.host.clone(),
                    limit,
                })
            }),
            None => connecting.await,
        }
    }

    async fn connect_slowly(&self) -> Result<Connection, ConnectError> {
        let server = || self.host.clone();
        let tcp = |source| ConnectError::Tcp {
            server: format!("{}:{}", self.host, self.port),
            source,
        };
        let stream = TcpStream::connect((self.host.as_str(), self.port))
            .await
            .map_err(tcp)?;
        stream.set_nodelay(true).map_err(tcp)?;
        let shaking = self.tls.connect(self.name.clone(), stream).await;
        let stream = shaking.map_err(|source| ConnectError::Tls {
            server: server(),
            source,
        })?;
        if stream.get_ref().1.alpn_protocol() != Some(HTTP2) {
            return Err(ConnectError::Http1 { server: server() });
        }
        let made = http2().handshake(TokioIo::new(stream)).await;
        let (sender, driver) = made.map_err(|source| ConnectError::Http2 {
            server: server(),
            source,
        })?;
        let room = Arc::new(AtomicUsize::new(driver.current_max_send_streams()));
        let told = room.clone();
        tokio::spawn(async move {
            let mut driver = pin!(driver);
            let driving = poll_fn(|cx| {
                let polled = driver.as_mut().poll(cx);
                told.store(driver.current_max_send_streams(), Relaxed);
                polled
            });
            if let Err(error) = driving.await {
                tracing::debug!(%error, "a connection to the API server ended");
            }
        });
        Ok(Connection { sender, room })
    }
}

fn http2() -> Builder<TokioExecutor> {
    let mut http = Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(PING_AFTER)
        .keep_alive_timeout(PING_WITHIN);
    http
}

/// It is closed when nobody holds it any more.
pub struct Connection {
    sender: SendRequest<Body>,
    /// What the server allows, which it says soon after the connection was made and may change.
    room: Arc<AtomicUsize>,
}

impl Connection {
    pub fn has_ended(&self) -> bool {
        self.sender.is_closed()
    }

    /// How much may be under way at once.
    pub fn room(&self) -> usize {
        self.room.load(Relaxed).min(STREAMS)
    }

    /// The answer holds the connection. With an error comes the request, if none of it was sent.
    pub async fn send(
        self: Arc<Self>,
        request: Request<Body>,
    ) -> Result<Response<Held>, (hyper::Error, Option<Request<Body>>)> {
        match self.sender.clone().try_send_request(request).await {
            Ok(response) => Ok(response.map(|body| Held {
                body,
                _connection: self,
            })),
            Err(mut failed) => {
                let unsent = failed.take_message();
                Err((failed.into_error(), unsent))
            }
        }
    }
}

/// What comes of an answer.
pub struct Held {
    body: Incoming,
    _connection: Arc<Connection>,
}

impl hyper::body::Body for Held {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

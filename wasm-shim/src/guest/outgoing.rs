//! Requests of a guest to others: `wasi:http/outgoing-handler`.
//!
//! Owns finding the other by the Pod's names, as far as its rules allow, the connection and its time limits. Refuses to know the interface. Each
//! request has a connection of its own, as wasmtime's own handler has it. HTTP/2 is spoken with servers that choose it in TLS's
//! handshake, and for gRPC, which is nothing else; to all others HTTP/1.1.

use super::narrowing::Narrowing;
use crate::names::{NameError, Names};
use amphipod_shim_api::network::Protocol;
use bytes::Bytes;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, Request, Response, Uri, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Interval, interval, timeout};
use tokio_rustls::TlsConnector;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody};

/// Every time limit of a guest that set none.
const PATIENCE: Duration = Duration::from_secs(600);

/// The shortest time between two pieces of a body: an interval of nothing is none.
const LEAST: Duration = Duration::from_nanos(1);

/// Bytes of an answer that are taken in over HTTP/2 before the guest has read any.
const WINDOW: u32 = 256 << 10;

/// The versions offered in TLS (RFC 7301).
const HTTP_2: &[u8] = b"h2";
const HTTP_1: &[u8] = b"http/1.1";

/// What goes on with a connection once the answer's head is there.
pub type Rest = Box<dyn Future<Output = Result<(), Error>> + Send>;

/// Sends a request, with the names of its Pod, to whom it may meet.
///
/// # Errors
/// What the guest is told.
pub async fn send(
    names: Arc<Names>,
    narrowing: Arc<Narrowing>,
    mut request: Request<WasiBody>,
    options: Option<RequestOptions>,
) -> Result<(Response<WasiBody>, Rest), Error> {
    let options = options.unwrap_or_default();
    let patience = |given: Option<Duration>| given.unwrap_or(PATIENCE);
    let mut target = Target::of(request.uri())?;
    target.http2 |= is_grpc(request.headers());
    let connecting = timeout(
        patience(options.connect_timeout),
        connect(&names, &narrowing, &target),
    );
    let (stream, is_http2) = connecting.await.map_err(|_| Error::ConnectionTimeout)??;
    if is_http2 {
        // Whom it is for is said once, beside the path (RFC 9113, 8.3.1).
        request.headers_mut().remove(header::HOST);
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW);
        let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
        exchange(sender.send_request(request), connection, options).await
    } else {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        *request.uri_mut() = path_of(request.uri());
        exchange(sender.send_request(request), connection, options).await
    }
}

/// gRPC is HTTP/2, also where no TLS says so; what it is called in HTTP/1.1 (`application/grpc-web`) is something else.
fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map(|value| value.as_bytes());
    let rest = kind.and_then(|kind| kind.strip_prefix(b"application/grpc"));
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
}

/// Waits for the head of an answer on its connection.
async fn exchange(
    answer: impl Future<Output = hyper::Result<Response<Incoming>>>,
    connection: impl Future<Output = hyper::Result<()>> + Send + 'static,
    options: RequestOptions,
) -> Result<(Response<WasiBody>, Rest), Error> {
    let patience = |given: Option<Duration>| given.unwrap_or(PATIENCE);
    let mut connection = Box::pin(connection);
    let answering = first(answer, connection.as_mut());
    let answered = timeout(patience(options.first_byte_timeout), answering).await;
    let (response, open) = answered.map_err(|_| Error::ConnectionReadTimeout)??;
    let between = patience(options.between_bytes_timeout).max(LEAST);
    let rest = async move {
        match open {
            true => connection.await.map_err(connection_error),
            false => Ok(()),
        }
    };
    let response = response.map(|body| Timely::new(body, between).boxed_unsync());
    Ok((response, Box::new(rest)))
}

/// Drives a connection until the answer's head is there; and whether the connection is still open then.
async fn first(
    answer: impl Future<Output = hyper::Result<Response<Incoming>>>,
    mut connection: Pin<&mut impl Future<Output = hyper::Result<()>>>,
) -> Result<(Response<Incoming>, bool), Error> {
    let mut answer = std::pin::pin!(answer);
    let mut open = true;
    let head = std::future::poll_fn(|cx| {
        if let Poll::Ready(head) = answer.as_mut().poll(cx) {
            return Poll::Ready(head);
        }
        if open {
            ready!(connection.as_mut().poll(cx))?;
            open = false;
        }
        answer.as_mut().poll(cx)
    });
    Ok((head.await?, open))
}

fn connection_error(error: hyper::Error) -> Error {
    match error.is_timeout() {
        true => Error::HttpResponseTimeout,
        false => error.into(),
    }
}

/// On a connection only the path is said (RFC 9112, 3.2.1).
fn path_of(uri: &Uri) -> Uri {
    uri.path_and_query()
        .cloned()
        .unwrap_or_else(|| PathAndQuery::from_static("/"))
        .into()
}

/// Who is asked.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    host: String,
    port: u16,
    tls: bool,
    /// Without being asked.
    http2: bool,
}

impl Target {
    fn of(uri: &Uri) -> Result<Self, Error> {
        let authority = uri.authority().ok_or(Error::HttpRequestUriInvalid)?;
        let tls = uri.scheme() == Some(&Scheme::HTTPS);
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        Ok(Self {
            host: host.to_owned(),
            port: authority.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            tls,
            http2: false,
        })
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection, and whether it is one of HTTP/2.
type Connected = (Box<dyn Stream>, bool);

async fn connect(names: &Names, narrowing: &Narrowing, target: &Target) -> Result<Connected, Error> {
    let stream = connect_tcp(names, narrowing, target).await?;
    if !target.tls {
        return Ok((Box::new(stream), target.http2));
    }
    let name = ServerName::try_from(target.host.clone())?;
    let stream = connector()?.connect(name, stream).await.map_err(Error::Tls)?;
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(HTTP_2);
    Ok((Box::new(stream), is_http2))
}

/// The first address that takes the connection.
async fn connect_tcp(names: &Names, narrowing: &Narrowing, target: &Target) -> Result<TcpStream, Error> {
    let addresses = names.resolve(&target.host).await.map_err(name_error)?;
    let mut last = Error::Connect(io::ErrorKind::NotFound.into());
    for address in addresses {
        let address = SocketAddr::new(address, target.port);
        if !narrowing.lets_out(Protocol::Tcp, address) {
            last = Error::DestinationIpProhibited;
            continue;
        }
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = Error::Connect(error),
        }
    }
    Err(last)
}

fn name_error(error: NameError) -> Error {
    let rcode = match error {
        NameError::Timeout => return Error::DnsTimeout,
        NameError::Invalid => return Error::HttpRequestUriInvalid,
        NameError::Denied => return Error::DestinationIpProhibited,
        NameError::NotFound => "NXDOMAIN".to_owned(),
        NameError::Failed(why) => why,
    };
    Error::DnsError {
        rcode: Some(rcode),
        info_code: None,
    }
}

/// TLS with the roots that browsers trust, made once.
fn connector() -> Result<TlsConnector, Error> {
    static CONFIG: OnceLock<Arc<rustls::ClientConfig>> = OnceLock::new();
    if let Some(config) = CONFIG.get() {
        return Ok(TlsConnector::from(Arc::clone(config)));
    }
    let roots = rustls::RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.into(),
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions =
        rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut config = versions
        .map_err(|_| Error::ConfigurationError)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![HTTP_2.to_vec(), HTTP_1.to_vec()];
    let config = CONFIG.get_or_init(|| Arc::new(config));
    Ok(TlsConnector::from(Arc::clone(config)))
}

/// An answer's body whose pieces may not be too far apart.
struct Timely {
    body: Incoming,
    limit: Interval,
}

impl Timely {
    fn new(body: Incoming, limit: Duration) -> Self {
        let mut limit = interval(limit);
        limit.reset();
        Self { body, limit }
    }
}

impl Body for Timely {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Ready(Some(frame)) => {
                self.limit.reset();
                Poll::Ready(Some(frame.map_err(connection_error)))
            }
            Poll::Pending => {
                ready!(self.limit.poll_tick(cx));
                Poll::Ready(Some(Err(Error::ConnectionReadTimeout)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        let target = |host: &str, port, tls| Target {
            host: host.to_owned(),
            port,
            tls,
            http2: false,
        };
        for (uri, expected) in [
            ("http://web/", target("web", 80, false)),
            ("https://web.shop:8443/x", target("web.shop", 8443, true)),
            ("https://[::1]/", target("::1", 443, true)),
        ] {
            assert_eq!(Target::of(&uri.parse().unwrap()).unwrap(), expected);
        }
        assert!(Target::of(&"/path".parse().unwrap()).is_err());
    }

    #[test]
    fn what_is_said_on_the_connection() {
        for (uri, path) in [("http://web/a?b", "/a?b"), ("http://web", "/"), ("/x", "/x")] {
            assert_eq!(path_of(&uri.parse().unwrap()).to_string(), path);
        }
    }

    #[test]
    fn tls_can_be_spoken_and_offers_both_versions() {
        let connector = connector().unwrap();
        assert_eq!(connector.config().alpn_protocols, [HTTP_2, HTTP_1]);
    }

    /// A server on loopback that says which version it was asked in, and for whom, with a trailer where there may be one.
    async fn server() -> SocketAddr {
        use hyper::service::service_fn;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let answer = async |request: Request<Incoming>| {
            let host = request.headers().get(header::HOST).cloned();
            let said = format!("{:?} {:?} {host:?}", request.version(), request.uri().authority());
            let trailers = HeaderMap::from_iter([(header::ETAG, header::HeaderValue::from_static("t"))]);
            let body =
                http_body_util::Full::new(Bytes::from(said)).with_trailers(async { Some(Ok(trailers)) });
            Ok::<_, std::convert::Infallible>(Response::new(body))
        };
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                tokio::spawn(async move {
                    builder
                        .serve_connection(TokioIo::new(stream), service_fn(answer))
                        .await
                        .unwrap();
                });
            }
        });
        address
    }

    async fn asked(address: SocketAddr, kind: &str) -> (String, bool) {
        let names = Arc::new(Names::parse("", ""));
        let narrowing = Narrowing::new(amphipod_shim_api::network::NetworkRules::default());
        let request = Request::post(format!("http://{address}/x"))
            .header(header::HOST, address.to_string())
            .header(header::CONTENT_TYPE, kind)
            .body(WasiBody::default())
            .unwrap();
        let (response, rest) = send(names, narrowing, request, None).await.unwrap();
        tokio::spawn(Box::into_pin(rest));
        let body = response.into_body().collect().await.unwrap();
        let has_trailers = body.trailers().is_some();
        (String::from_utf8(body.to_bytes().to_vec()).unwrap(), has_trailers)
    }

    #[tokio::test]
    async fn grpc_is_http_2_and_the_rest_without_tls_is_not() {
        let address = server().await;
        for (kind, version) in [
            ("application/grpc", "HTTP/2.0"),
            ("application/grpc+proto", "HTTP/2.0"),
            ("application/grpc; x", "HTTP/2.0"),
            ("application/grpc-web", "HTTP/1.1"),
            ("text/plain", "HTTP/1.1"),
        ] {
            let (said, has_trailers) = asked(address, kind).await;
            let expected = match version {
                "HTTP/2.0" => format!("{version} Some({address}) None"),
                _ => format!("{version} None Some(\"{address}\")"),
            };
            assert_eq!((said, has_trailers), (expected, version == "HTTP/2.0"), "{kind}");
        }
    }
}

//! One connection to a backend for one request: TCP, TLS where it is asked for, HTTP/1.1.
use super::super::super::Api;
use super::super::node::NodeClientError;
use super::location::{Backend, Security};
use crate::callout::{self, Trust};
use axum::body::Body;
use http::{Request, header};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// How long a backend may take to accept a connection (upstream's dialer: 30 s). Its answer may take as long as it likes.
const CONNECT_WITHIN: Duration = Duration::from_secs(30);

/// Why a backend did not answer, as upstream's client words it.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    #[error("dial tcp {address}: {why}")]
    Dial { address: SocketAddr, why: String },
    #[error("tls: {0}")]
    Tls(io::Error),
    #[error("{0}")]
    Http(#[from] hyper::Error),
}

/// Sends the request on a connection of its own; an answer of 101 may be upgraded.
pub(super) async fn send(
    api: &Api,
    backend: &Backend,
    mut request: Request<Body>,
) -> Result<http::Response<Incoming>, Failed> {
    let tcp = dial(SocketAddr::from((backend.ip, backend.port))).await?;
    if !request.headers().contains_key(header::HOST)
        && let Ok(host) = header::HeaderValue::from_str(&backend.authority)
    {
        request.headers_mut().insert(header::HOST, host);
    }
    let (connector, name) = match &backend.security {
        Security::Plain => return exchange(tcp, request).await,
        Security::Tls => (api.proxy_tls.0.clone(), ServerName::from(backend.ip)),
        Security::Kubelet(node) => (api.nodes.connector(), node_name(node)?),
    };
    let tls = connector.connect(name, tcp).await.map_err(Failed::Tls)?;
    exchange(tls, request).await
}

fn node_name(node: &str) -> Result<ServerName<'static>, Failed> {
    ServerName::try_from(node.to_owned()).map_err(|e| Failed::Tls(io::Error::other(e)))
}

async fn dial(address: SocketAddr) -> Result<TcpStream, Failed> {
    let failed = |why: String| Failed::Dial { address, why };
    match tokio::time::timeout(CONNECT_WITHIN, TcpStream::connect(address)).await {
        Ok(Ok(tcp)) => {
            // Small frames must not wait for Nagle; when that cannot be set, they are merely slower.
            let _ = tcp.set_nodelay(true);
            Ok(tcp)
        }
        Ok(Err(error)) => Err(failed(words(&error))),
        Err(_) => Err(failed("i/o timeout".into())),
    }
}

fn words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connect: connection refused".into(),
        io::ErrorKind::HostUnreachable => "connect: no route to host".into(),
        io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".into(),
        io::ErrorKind::TimedOut => "connect: connection timed out".into(),
        _ => format!("connect: {error}"),
    }
}

async fn exchange<S>(stream: S, request: Request<Body>) -> Result<http::Response<Incoming>, Failed>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the response: when either side lets go of it.
    tokio::spawn(async move { drop(connection.with_upgrades().await) });
    Ok(sender.send_request(request).await?)
}

/// TLS to Pods, Services and other ports of nodes.
pub struct ProxyTls(TlsConnector);

impl ProxyTls {
    /// Believes any certificate, as upstream's proxy transport does.
    pub fn new() -> Result<Self, NodeClientError> {
        let config = callout::config(Trust::Anyone, None).map_err(NodeClientError::Tls)?;
        Ok(ProxyTls(TlsConnector::from(Arc::new(config))))
    }
}

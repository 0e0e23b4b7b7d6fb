//! The kubelet API of this node: container logs, the Pods it holds, and its own health, over HTTPS.
//!
//! Only the API server and administrators get in (see `auth`). Names in URLs are looked up in the
//! agent's own table of Pods and never become a path. Knows nothing of how Pods are run.

mod auth;
mod authorize;
pub mod configz;
mod host_logs;
mod logs;
mod routes;
mod running;
mod serving;
mod storage;
mod streaming;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use k8s_openapi::api::core::v1::Pod;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

pub use auth::TlsError;
pub use serving::Serving;

use crate::exec::{Execs, Target};
use crate::metrics::Station;
use authorize::Reviews;

/// Connections served at once; more wait to be accepted. The API server keeps a few, each `kubectl logs -f` is one.
const CONNECTIONS: usize = 512;

/// How long a client may take for its TLS handshake, and for the head of each request.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long to wait after a connection could not be accepted (no descriptors left), instead of spinning.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where the kubelet API listens and who it is.
#[derive(Clone)]
pub struct ServerOptions {
    /// Port 0 lets the kernel choose.
    pub listen: SocketAddr,
    pub serving: Serving,
    /// The cluster's CA: client certificates must be its own.
    pub ca_pem: String,
    /// Where streams of commands in containers are.
    pub run_dir: PathBuf,
    /// Whom to ask about callers that are neither the API server nor administrators; without it nobody else gets in.
    pub client: Option<kube::Client>,
    /// Where directories of local volumes are.
    pub storage_dir: PathBuf,
    /// The node's KubeletConfiguration.
    pub configuration: serde_json::Value,
}

/// What the kubelet API asks the agent. Answers come from memory: calls must not block.
pub trait PodTable: Send + Sync + 'static {
    /// All Pods of this node, with the status this agent reports.
    fn pods(&self) -> Vec<Arc<Pod>>;
    fn pod(&self, namespace: &str, name: &str) -> Option<Arc<Pod>>;
    /// The log of one attempt of a container; `container_id` is the one in the Pod's status, without its scheme.
    fn log(&self, pod_uid: &str, container: &str, container_id: &str) -> Option<LogFile>;
    /// The running attempt of a container.
    fn target(&self, pod_uid: &str, container: &str) -> Option<Target>;
    /// Where a Pod's ports are; `None` for a Pod that has no network (yet, or any more).
    fn network(&self, pod_uid: &str) -> Option<PodNetwork>;
}

/// The network namespace of a Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodNetwork {
    Host,
    Own(PathBuf),
}

impl PodNetwork {
    /// What to enter to be in it, if anything.
    pub fn namespace(self) -> Option<PathBuf> {
        match self {
            PodNetwork::Host => None,
            PodNetwork::Own(path) => Some(path),
        }
    }
}

/// Where a log is, and whether more of it may come.
#[derive(Clone, Debug)]
pub struct LogFile {
    /// The directory all logs are under. Nothing below it is followed if it is a symbolic link.
    pub root: PathBuf,
    /// The file, relative to `root`.
    pub path: PathBuf,
    /// Whether the container runs; a closed channel means no.
    pub running: watch::Receiver<bool>,
}

/// Why the kubelet API could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("cannot listen on {0}: choose another address for the kubelet API")]
    Listen(SocketAddr, #[source] io::Error),
}

/// A running kubelet API; it ends when told to by its cancellation token.
#[derive(Debug)]
pub struct KubeletServer {
    /// For `Node.status.daemonEndpoints.kubeletEndpoint.Port`.
    pub local_addr: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl KubeletServer {
    /// Binds, and serves until `shutdown`.
    pub async fn start(
        options: ServerOptions,
        station: Arc<Station>,
        shutdown: CancellationToken,
    ) -> Result<Self, ServeError> {
        let tls = auth::server_config(&options)?;
        let failed = |e| ServeError::Listen(options.listen, e);
        let listener = TcpListener::bind(options.listen).await.map_err(failed)?;
        let local_addr = listener.local_addr().map_err(failed)?;
        let reviews = Reviews::new(options.client.clone(), station.node_name.clone());
        let execs = Execs::new(&options.run_dir, station.tasks.clone());
        let configuration = configz::shown(options.configuration, local_addr);
        let router = routes::router(
            station,
            execs,
            Arc::new(reviews),
            options.storage_dir,
            configuration,
        );
        let task = tokio::spawn(serve(listener, tls, router, shutdown));
        Ok(Self { local_addr, task })
    }

    /// Waits until all connections are closed, after `shutdown` was cancelled.
    pub async fn stopped(self) {
        if let Err(error) = self.task.await {
            tracing::error!(%error, "kubelet API ended unexpectedly");
        }
    }
}

async fn serve(listener: TcpListener, tls: Arc<ServerConfig>, router: Router, shutdown: CancellationToken) {
    let (acceptor, room) = (TlsAcceptor::from(tls), Arc::new(Semaphore::new(CONNECTIONS)));
    let mut connections = JoinSet::new();
    let accepting = async {
        loop {
            let Ok(permit) = room.clone().acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let connection = connection(stream, acceptor.clone(), router.clone());
                    connections.spawn(async move {
                        connection.await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "kubelet API cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
            while connections.try_join_next().is_some() {}
        }
    };
    tokio::select! {
        () = accepting => {}
        () = shutdown.cancelled() => {}
    }
    connections.shutdown().await;
}

/// Serves one connection. What goes wrong on it is its client's to see.
async fn connection(stream: TcpStream, acceptor: TlsAcceptor, router: Router) {
    let stream = match timeout(PATIENCE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake with the kubelet API failed"),
        Err(_) => return tracing::debug!("TLS handshake with the kubelet API took too long"),
    };
    let caller = auth::Caller::of(stream.get_ref().1.peer_certificates());
    let service = TowerToHyperService::new(router.layer(Extension(caller)));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE);
    builder.http2().timer(TokioTimer::new());
    if let Err(error) = builder
        .serve_connection_with_upgrades(TokioIo::new(stream), service)
        .await
    {
        tracing::debug!(error, "connection to the kubelet API ended");
    }
}

#[cfg(test)]
mod tests;

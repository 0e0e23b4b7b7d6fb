//! HTTP handlers: a component exporting `wasi:http/incoming-handler`, served in its Pod's network.
//!
//! Owns the listener, connections and their limits, and the life of the instance behind each request. Refuses to know
//! tasks and Pods. Every request gets a fresh instance, so nothing of one is left for the next.
//!
//! | the guest | the client sees |
//! |---|---|
//! | traps, or returns without answering | 500 |
//! | gives no answer by [`HEAD_DEADLINE`] | 504 |
//! | traps or is ended in the middle of a body | the connection (HTTP/1) or stream (HTTP/2) broken |
//! | is one too many for [`MAX_REQUESTS`] or the memory limit, and stays so | 503 |

use super::body::{Tie, TiedBody};
use super::output::Output;
use super::wasi;
use crate::bundle::Container;
use crate::engine::budget::{Budget, Limiter, OverBudget};
use crate::engine::meter::{Meter, Metered};
use crate::program::state::{State, store};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use nix::sys::socket::{setsockopt, sockopt};
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wasmtime::Store;
use wasmtime::component::Resource;
use wasmtime_wasi_http::WasiHttpView as _;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::p2::bindings::{ProxyPre, exports};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;
use wasmtime_wasi_http::p2::types::{HostIncomingRequest, HostResponseOutparam};

/// Time for a guest to answer with a head, waiting for its turn included.
pub const HEAD_DEADLINE: Duration = Duration::from_secs(60);

/// Time for a whole exchange: a body that streams longer is cut, its client asks again.
const EXCHANGE_DEADLINE: Duration = Duration::from_secs(3600);

/// Time a guest may go on after its body was sent or its client left.
const AFTERMATH: Duration = Duration::from_secs(30);

/// Requests in a guest at once, per container; more wait. The pool of instances is shared by a whole namespace.
pub const MAX_REQUESTS: usize = 500;

/// Connections at once, per container; more wait in the kernel's backlog.
const MAX_CONNECTIONS: usize = 4_096;

/// Time for a client to send a request's head, and for an idle connection to stay open.
const HEADER_DEADLINE: Duration = Duration::from_secs(60);

/// Bytes buffered for one connection: a request's head must fit.
const MAX_BUFFER: usize = 64 << 10;

/// Header fields in one request.
const MAX_HEADERS: usize = 100;

/// HTTP/2 streams on one connection, and bytes of header list on each.
const MAX_STREAMS: u32 = 200;
const MAX_HEADER_LIST: u32 = 64 << 10;

/// HTTP/2 streams a client may reset before they are answered, after which it is disconnected (rapid reset,
/// CVE-2023-44487).
const MAX_PENDING_RESETS: usize = 20;

/// Time for a client to take bytes that were sent to it.
const SEND_TIMEOUT_MILLIS: u32 = 60_000;

/// Pause after an `accept` that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How serving ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// The container was told to stop, and every exchange has ended.
    Drained,
    /// A guest asked for more memory than the container may have.
    OutOfMemory,
}

/// One HTTP container.
pub struct Handler {
    pre: ProxyPre<State>,
    initial_bytes: u64,
    container: Arc<Container>,
    budget: Arc<Budget>,
    meter: Arc<Meter>,
    stdout: Output,
    stderr: Output,
    permits: Arc<Semaphore>,
    out_of_memory: CancellationToken,
    ended: CancellationToken,
    guests: TaskTracker,
}

/// What a container consists of while it serves.
pub struct Parts {
    pub pre: ProxyPre<State>,
    /// Bytes of linear memory and tables one fresh instance takes.
    pub initial_bytes: u64,
    pub container: Arc<Container>,
    pub budget: Arc<Budget>,
    pub meter: Arc<Meter>,
    pub stdout: Output,
    pub stderr: Output,
}

/// Why a request did not reach a guest's answer.
#[derive(Debug, thiserror::Error)]
enum RequestError {
    #[error("no instance became free in time")]
    Busy,
    #[error("the guest did not answer within {} s", HEAD_DEADLINE.as_secs())]
    NoAnswer,
    #[error("the request cannot be given to the guest")]
    BadRequest,
    #[error("the guest failed before it answered")]
    Failed,
    #[error("the guest answered with the error {0}")]
    GuestError(String),
}

impl RequestError {
    fn status(&self) -> StatusCode {
        match self {
            Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Self::NoAnswer => StatusCode::GATEWAY_TIMEOUT,
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::Failed | Self::GuestError(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// Listens on all addresses of the namespace of the current thread, IPv6 included where there is any.
///
/// # Errors
/// When the port is taken, say.
pub async fn bind(port: u16) -> io::Result<TcpListener> {
    match TcpListener::bind(("::", port)).await {
        Err(error) if no_ipv6(&error) => TcpListener::bind(("0.0.0.0", port)).await,
        result => result,
    }
}

fn no_ipv6(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)
    )
}

impl Handler {
    /// A container about to serve.
    pub fn new(parts: Parts) -> Arc<Self> {
        Arc::new(Self {
            pre: parts.pre,
            initial_bytes: parts.initial_bytes,
            container: parts.container,
            budget: parts.budget,
            meter: parts.meter,
            stdout: parts.stdout,
            stderr: parts.stderr,
            permits: Arc::new(Semaphore::new(MAX_REQUESTS)),
            out_of_memory: CancellationToken::new(),
            ended: CancellationToken::new(),
            guests: TaskTracker::new(),
        })
    }

    /// Serves until told to stop, then lets exchanges under way finish; or until a guest exceeds the memory limit.
    /// Dropping this future ends every exchange at its next epoch.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, stop: CancellationToken) -> Served {
        let end_all = self.ended.clone().drop_guard();
        let served = tokio::select! {
            () = self.serve_until_stopped(listener, &stop) => Served::Drained,
            () = self.out_of_memory.cancelled() => Served::OutOfMemory,
        };
        drop(end_all);
        self.guests.close();
        self.guests.wait().await;
        served
    }

    async fn serve_until_stopped(self: &Arc<Self>, listener: TcpListener, stop: &CancellationToken) {
        let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let graceful = GracefulShutdown::new();
        let builder = connection_builder();
        loop {
            let permit = tokio::select! {
                permit = Arc::clone(&connections).acquire_owned() => permit,
                () = stop.cancelled() => break,
            };
            let stream = tokio::select! {
                accepted = accept(&listener) => accepted,
                () = stop.cancelled() => break,
            };
            let connection = Arc::clone(self).serve_connection(stream, builder.clone(), graceful.watcher());
            let ended = self.ended.clone();
            tokio::spawn(async move {
                ended.run_until_cancelled(connection).await;
                drop(permit);
            });
        }
        drop(listener);
        graceful.shutdown().await;
        self.guests.close();
        self.guests.wait().await;
    }

    async fn serve_connection(
        self: Arc<Self>,
        stream: TcpStream,
        builder: auto::Builder<TokioExecutor>,
        watcher: Watcher,
    ) {
        // Until the first byte no protocol is known, and no timer of hyper runs.
        if !matches!(
            tokio::time::timeout(HEADER_DEADLINE, stream.readable()).await,
            Ok(Ok(()))
        ) {
            return;
        }
        let service = service_fn(move |request| Arc::clone(&self).answer(request));
        let connection = watcher.watch(builder.serve_connection(TokioIo::new(stream), service));
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection ended");
        }
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<TiedBody>, Infallible> {
        Ok(self.exchange(request).await.unwrap_or_else(|error| {
            tracing::debug!(%error, "request failed");
            let mut response = Response::new(TiedBody::text(format!("{error}\n")));
            *response.status_mut() = error.status();
            response
        }))
    }

    async fn exchange(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<TiedBody>, RequestError> {
        let deadline = Instant::now() + HEAD_DEADLINE;
        let turn = tokio::time::timeout_at(deadline, self.take_turn())
            .await
            .map_err(|_| RequestError::Busy)??;
        let (answer, answered) = oneshot::channel();
        let tie = Tie::new();
        let instance = Instance::new(&self, request, answer, turn)?;
        let guest = self
            .guests
            .spawn(Arc::clone(&self).run_guest(instance, Arc::clone(&tie)));
        let mut abort = AbortOnDrop(Some(guest.abort_handle()));
        let result = tokio::time::timeout_at(deadline, answered)
            .await
            .map_err(|_| RequestError::NoAnswer)?;
        abort.0 = None;
        let response = result.map_err(|_| RequestError::Failed)?;
        let response = response.map_err(|code| RequestError::GuestError(format!("{code:?}")))?;
        Ok(response.map(|body| TiedBody::new(body, tie)))
    }

    /// Waits until one more guest may run.
    async fn take_turn(&self) -> Result<Turn, RequestError> {
        let permit = Arc::clone(&self.permits)
            .acquire_owned()
            .await
            .map_err(|_| RequestError::Busy)?;
        let limiter = self
            .budget
            .open_when_free(self.initial_bytes)
            .await
            .map_err(|over| {
                self.exceeded(&over);
                RequestError::Failed
            })?;
        Ok(Turn { limiter, permit })
    }

    fn exceeded(&self, over: &OverBudget) {
        if !self.out_of_memory.is_cancelled() {
            self.stderr.say(&over.to_string());
            self.out_of_memory.cancel();
        }
    }

    async fn run_guest(self: Arc<Self>, mut instance: Instance, tie: Arc<Tie>) {
        let guard = tie.guard();
        let running = Metered::new(Arc::clone(&self.meter), instance.call(&self.pre));
        let result = tokio::select! {
            result = running => result,
            () = self.ended.cancelled() => return,
            () = tokio::time::sleep(EXCHANGE_DEADLINE) => Err(wasmtime::format_err!(
                "request ended after {} s", EXCHANGE_DEADLINE.as_secs()
            )),
            () = aftermath(&tie) => Err(wasmtime::format_err!(
                "request ended: still running {} s after its response was sent", AFTERMATH.as_secs()
            )),
        };
        match result {
            Ok(()) => guard.disarm(),
            Err(error) => self.guest_failed(&error),
        }
    }

    fn guest_failed(&self, error: &wasmtime::Error) {
        match error.downcast_ref::<OverBudget>() {
            Some(over) => self.exceeded(over),
            None => self.stderr.say(&format!("{error:?}")),
        }
    }
}

async fn aftermath(tie: &Tie) {
    tie.body_gone().await;
    tokio::time::sleep(AFTERMATH).await;
}

/// Ends the guest when its client leaves before it has answered.
struct AbortOnDrop(Option<tokio::task::AbortHandle>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        if let Some(handle) = self.0.take() {
            handle.abort();
        }
    }
}

/// The right to run one guest, and its memory.
struct Turn {
    limiter: Limiter,
    permit: OwnedSemaphorePermit,
}

type Answer = oneshot::Sender<Result<Response<HyperOutgoingBody>, ErrorCode>>;

/// A store with a request in it, not yet instantiated.
struct Instance {
    store: Store<State>,
    request: Resource<HostIncomingRequest>,
    answer: Resource<HostResponseOutparam>,
    _permit: OwnedSemaphorePermit,
}

impl Instance {
    fn new(
        handler: &Handler,
        request: Request<Incoming>,
        answer: Answer,
        turn: Turn,
    ) -> Result<Self, RequestError> {
        let wasi = wasi::world(&handler.container, &handler.stdout, &handler.stderr).map_err(|error| {
            handler.stderr.say(&format!("{error:?}"));
            RequestError::Failed
        })?;
        let mut store = store(handler.pre.engine(), wasi, turn.limiter);
        let mut view = store.data_mut().http();
        let request = view
            .new_incoming_request(Scheme::Http, request)
            .map_err(|_| RequestError::BadRequest)?;
        let answer = view
            .new_response_outparam(answer)
            .map_err(|_| RequestError::Failed)?;
        Ok(Self {
            store,
            request,
            answer,
            _permit: turn.permit,
        })
    }

    async fn call(&mut self, pre: &ProxyPre<State>) -> wasmtime::Result<()> {
        let proxy = pre.instantiate_async(&mut self.store).await?;
        let handler: &exports::wasi::http::incoming_handler::Guest = proxy.wasi_http_incoming_handler();
        let request = Resource::new_own(self.request.rep());
        let answer = Resource::new_own(self.answer.rep());
        handler.call_handle(&mut self.store, request, answer).await
    }
}

fn connection_builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_DEADLINE)
        .max_buf_size(MAX_BUFFER)
        .max_headers(MAX_HEADERS)
        .keep_alive(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_LIST)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .keep_alive_interval(HEADER_DEADLINE)
        .keep_alive_timeout(HEADER_DEADLINE);
    builder
}

/// The next connection; a shortage of descriptors or memory is waited out.
async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                prepare(&stream);
                return stream;
            }
            Err(error) if is_one_connections_fault(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "accept failed; trying again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn is_one_connections_fault(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

/// No delay for small answers; and a client that takes nothing is dropped by the kernel.
fn prepare(stream: &TcpStream) {
    let nodelay = stream.set_nodelay(true);
    let timeout = setsockopt(stream, sockopt::TcpUserTimeout, &SEND_TIMEOUT_MILLIS);
    if let (Err(error), _) | (_, Err(error)) = (nodelay, timeout.map_err(io::Error::from)) {
        tracing::debug!(%error, "a socket option was refused");
    }
}

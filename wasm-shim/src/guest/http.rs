//! HTTP handlers: a component exporting `wasi:http/incoming-handler`, served in its Pod's network.
//!
//! Owns the listener, connections and their limits, and the exchange of a request for an answer. Refuses to know tasks
//! and Pods, and where instances come from.
//!
//! | the guest | the client sees |
//! |---|---|
//! | traps, or returns without answering, or with a 1xx | 500 |
//! | gives no answer in the time its container sets | 504 |
//! | traps or is ended in the middle of a body | the connection (HTTP/1) or stream (HTTP/2) broken |
//! | is one whose Pod's network rules do not let the client in | the connection reset |
//! | is one too many for the container's concurrency or memory limit, and stays so | 503 |

use super::body::{Tie, TiedBody};
use super::debug::told;
use super::instance::{Call, Instance, InstanceError, Instances, Mould};
use super::linger::Connection;
use super::output::Output;
use crate::engine::budget::OverBudget;
use crate::engine::meter::{Meter, Metered};
use crate::sys;
use http::{Request, Response, StatusCode, Version, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use nix::sys::socket::{Backlog, listen, setsockopt, sockopt};
use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener as Listener};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Time for a whole exchange: a body that streams longer is cut, its client asks again.
const EXCHANGE_DEADLINE: Duration = Duration::from_secs(3600);

/// Time a guest may go on after its body was sent or its client left.
const AFTERMATH: Duration = Duration::from_secs(30);

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

/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 1_024;

/// How long nobody must have come until a container gives its threads up. Longer than people take between two requests,
/// shorter than the usual period of a probe: ten thousand containers that are only probed have no ten thousand threads.
const PARK_AFTER: Duration = Duration::from_secs(2);

/// How serving ended.
#[derive(Debug)]
pub enum Served {
    /// Nobody is connected and nothing runs: the listener is all there is to keep.
    Idle(Listener),
    /// The container was told to stop, and every exchange has ended.
    Drained,
    /// A guest asked for more memory than the container may have.
    OutOfMemory,
}

/// One HTTP container.
pub struct Handler {
    instances: Arc<Instances>,
    deadline: Duration,
    meter: Arc<Meter>,
    stderr: Output,
    out_of_memory: CancellationToken,
    ended: CancellationToken,
    guests: TaskTracker,
}

/// Ends every exchange of a container when it is dropped, and its instances with them.
struct EndAll(Option<Arc<Handler>>);

impl EndAll {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for EndAll {
    fn drop(&mut self) {
        if let Some(handler) = self.0.take() {
            handler.ended.cancel();
            handler.instances.close();
        }
    }
}

/// Why a request did not reach a guest's answer.
#[derive(Debug, thiserror::Error)]
enum RequestError {
    #[error("no instance became free in time")]
    Busy,
    #[error("the guest did not answer within {} s", .0.as_secs())]
    NoAnswer(Duration),
    #[error("the request cannot be given to the guest")]
    BadRequest,
    #[error("the guest failed before it answered")]
    Failed,
    #[error("the guest's answer has the status {0}, which no answer ends with")]
    Interim(StatusCode),
    #[error("the guest answered with the error {0}")]
    GuestError(String),
}

impl RequestError {
    fn status(&self) -> StatusCode {
        match self {
            Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Self::NoAnswer(_) => StatusCode::GATEWAY_TIMEOUT,
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::Failed | Self::Interim(_) | Self::GuestError(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// Listens on all addresses of the namespace of the current thread, IPv6 included where there is any.
///
/// # Errors
/// When the port is taken, say.
pub fn bind(port: u16) -> io::Result<Listener> {
    let listener = match Listener::bind(("::", port)) {
        Err(error) if no_ipv6(&error) => Listener::bind(("0.0.0.0", port)),
        result => result,
    }?;
    listen(&listener, Backlog::new(BACKLOG)?)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Waits until a client has come, on whatever runtime this is, and does not let it in.
///
/// # Errors
/// When the kernel does not watch the listener.
pub async fn called(listener: Listener) -> io::Result<Listener> {
    let waiting = sys::watch(listener)?;
    drop(waiting.readable().await?);
    Ok(waiting.into_inner())
}

fn no_ipv6(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)
    )
}

impl Handler {
    /// A container about to serve.
    pub fn new(mould: Mould, meter: Arc<Meter>) -> Arc<Self> {
        Arc::new(Self {
            deadline: mould.container.serving.deadline,
            stderr: mould.stderr.clone(),
            instances: Instances::new(mould),
            meter,
            out_of_memory: CancellationToken::new(),
            ended: CancellationToken::new(),
            guests: TaskTracker::new(),
        })
    }

    /// Serves until nobody is there any more; or until told to stop, then lets exchanges under way finish; or until a
    /// guest exceeds the memory limit. Dropping this future ends every exchange at its next epoch.
    ///
    /// # Errors
    /// When the kernel does not watch the listener.
    pub async fn serve(self: Arc<Self>, listener: Listener, stop: CancellationToken) -> io::Result<Served> {
        let listener = TcpListener::from_std(listener)?;
        let end_all = EndAll(Some(Arc::clone(&self)));
        let served = tokio::select! {
            idle = self.serve_until_stopped(listener, &stop) => idle,
            () = self.out_of_memory.cancelled() => Ok(Served::OutOfMemory),
        };
        if matches!(served, Ok(Served::Idle(_))) {
            end_all.disarm();
            return served;
        }
        drop(end_all);
        self.guests.close();
        self.guests.wait().await;
        served
    }

    async fn serve_until_stopped(
        self: &Arc<Self>,
        listener: TcpListener,
        stop: &CancellationToken,
    ) -> io::Result<Served> {
        let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let graceful = GracefulShutdown::new();
        let builder = connection_builder();
        loop {
            let permit = tokio::select! {
                permit = Arc::clone(&connections).acquire_owned() => permit,
                () = stop.cancelled() => break,
            };
            let stream = tokio::select! {
                accepted = timeout(PARK_AFTER, accept(&listener)) => accepted,
                () = stop.cancelled() => break,
            };
            let Ok((stream, client)) = stream else {
                drop(permit);
                if connections.available_permits() == MAX_CONNECTIONS && self.is_idle() {
                    return Ok(Served::Idle(listener.into_std()?));
                }
                continue;
            };
            if !self.lets_in(&stream, client) {
                reset(&stream);
                continue;
            }
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
        Ok(Served::Drained)
    }

    fn lets_in(&self, stream: &TcpStream, client: SocketAddr) -> bool {
        let narrowing = &self.instances.container().grants.narrowing;
        // A connection that is gone has no address of its own, and asks for nothing.
        !narrowing.is_narrow()
            || stream
                .local_addr()
                .is_ok_and(|own| narrowing.lets_in(client, own.port()))
    }

    fn is_idle(&self) -> bool {
        self.guests.is_empty() && self.instances.is_empty()
    }

    async fn serve_connection(
        self: Arc<Self>,
        stream: TcpStream,
        builder: auto::Builder<TokioExecutor>,
        watcher: Watcher,
    ) {
        // Until the first byte no protocol is known, and no timer of hyper runs.
        if !matches!(timeout(HEADER_DEADLINE, stream.readable()).await, Ok(Ok(()))) {
            return;
        }
        let own = stream.local_addr().ok();
        let service = service_fn(move |request| Arc::clone(&self).answer(addressed(request, own)));
        let (stream, left) = Connection::new(stream);
        let connection = watcher.watch(builder.serve_connection(TokioIo::new(stream), service));
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection ended");
        }
        left.linger().await;
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
        if names_several(&request) {
            return Err(RequestError::BadRequest);
        }
        let to = (request.method().clone(), request.version());
        let deadline = Instant::now() + self.deadline;
        let mut instance = timeout_at(deadline, self.instances.take())
            .await
            .map_err(|_| RequestError::Busy)?
            .map_err(|error| self.refused(error))?;
        let (answer, mut answered) = oneshot::channel();
        let tie = Tie::new();
        let call = instance
            .prepare(request, answer)
            .map_err(|error| self.refused(error))?;
        // In this task until it has answered: most have ended by then, and a client that leaves takes its guest along.
        let guest = Arc::clone(&self).run_guest(instance, call, Arc::clone(&tie));
        let mut guest = Box::pin(self.guests.track_future(guest));
        let answering = async {
            tokio::select! {
                biased;
                () = &mut guest => (answered.await, true),
                answer = &mut answered => (answer, false),
            }
        };
        let (result, has_ended) = timeout_at(deadline, answering)
            .await
            .map_err(|_| RequestError::NoAnswer(self.deadline))?;
        if !has_ended {
            tokio::spawn(guest);
        }
        let response = result.map_err(|_| RequestError::Failed)?;
        let response = response.map_err(|code| RequestError::GuestError(format!("{code:?}")))?;
        let status = response.status();
        match status.is_informational() {
            true => Err(RequestError::Interim(status)),
            false => Ok(response.map(|body| TiedBody::new(body, tie, &to, status))),
        }
    }

    fn refused(&self, error: InstanceError) -> RequestError {
        match error {
            InstanceError::OverBudget(over) => {
                self.exceeded(&over);
                RequestError::Failed
            }
            InstanceError::Ending => RequestError::Busy,
            InstanceError::World(_) => {
                self.stderr.say(&error.to_string());
                RequestError::Failed
            }
            InstanceError::Request(_) => RequestError::BadRequest,
        }
    }

    fn exceeded(&self, over: &OverBudget) {
        if !self.out_of_memory.is_cancelled() {
            self.stderr.say(&over.to_string());
            self.out_of_memory.cancel();
        }
    }

    async fn run_guest(self: Arc<Self>, mut instance: Instance, call: Call, tie: Arc<Tie>) {
        let guard = tie.guard();
        let called = instance.call(self.instances.pre(), call);
        let running = Metered::new(Arc::clone(&self.meter), called);
        let result = tokio::select! {
            biased;
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
            Ok(()) => {
                guard.disarm();
                self.instances.give_back(instance);
            }
            Err(error) => self.guest_failed(&error, &mut instance),
        }
    }

    fn guest_failed(&self, error: &wasmtime::Error, instance: &mut Instance) {
        match error.downcast_ref::<OverBudget>() {
            Some(over) => self.exceeded(over),
            None => {
                let dump = instance.dump(error, self.instances.container());
                self.stderr.say_trap(&told(error), dump);
            }
        }
    }
}

/// Whom it is for has to be one (RFC 9112, 3.2): a proxy before us may have looked at another.
fn names_several<B>(request: &Request<B>) -> bool {
    request.headers().get_all(header::HOST).iter().nth(1).is_some()
}

/// HTTP/1.0 knows requests that do not name whom they are for (RFC 1945, 5.1): they are for where they came.
fn addressed<B>(mut request: Request<B>, own: Option<SocketAddr>) -> Request<B> {
    let is_named = request.uri().authority().is_some() || request.headers().contains_key(header::HOST);
    let Some(own) = own.filter(|_| request.version() == Version::HTTP_10 && !is_named) else {
        return request;
    };
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let own = SocketAddr::new(own.ip().to_canonical(), own.port());
    if let Ok(uri) = format!("http://{own}{path}").parse() {
        *request.uri_mut() = uri;
    }
    request
}

async fn aftermath(tie: &Tie) {
    tie.body_gone().await;
    tokio::time::sleep(AFTERMATH).await;
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
async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, client)) => {
                prepare(&stream);
                return (stream, client);
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

/// Closing this connection tells the client so at once, whatever it has sent.
fn reset(stream: &TcpStream) {
    let at_once = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    if let Err(error) = setsockopt(stream, sockopt::Linger, &at_once) {
        tracing::debug!(%error, "a refused client is told so more politely");
    }
}

/// No delay for small answers; and a client that takes nothing is dropped by the kernel.
fn prepare(stream: &TcpStream) {
    let nodelay = stream.set_nodelay(true);
    let timeout = setsockopt(stream, sockopt::TcpUserTimeout, &SEND_TIMEOUT_MILLIS);
    if let (Err(error), _) | (_, Err(error)) = (nodelay, timeout.map_err(io::Error::from)) {
        tracing::debug!(%error, "a socket option was refused");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_a_request_is_for() {
        for (version, uri, host, expected) in [
            (Version::HTTP_10, "/a?b", None, "http://10.0.0.1:80/a?b"),
            (Version::HTTP_10, "/a", Some("h"), "/a"),
            (Version::HTTP_10, "http://h/a", None, "http://h/a"),
            (Version::HTTP_11, "/a", None, "/a"),
        ] {
            let mut request = Request::builder().version(version).uri(uri);
            if let Some(host) = host {
                request = request.header(header::HOST, host);
            }
            let own = "[::ffff:10.0.0.1]:80".parse().ok();
            let addressed = addressed(request.body(()).unwrap(), own);
            assert_eq!(addressed.uri(), expected, "{version:?} {uri} {host:?}");
        }
    }
}

//! `exec`, `attach` and `port-forward` of the kubelet API: a request becomes a connection that carries streams.
//!
//! Flow: look the container up → agree on a protocol (`upgrade`) → the client's streams (`client`, carried by
//! `websocket` or `spdy`) → the process's (`session`). Refuses to know how a process runs in a container.

mod client;
mod dial;
mod forward;
mod forward_channels;
mod remote_spdy;
mod request;
mod session;
mod spdy;
mod status;
mod tunnel;
mod upgrade;
mod websocket;

use std::future::Future;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Query, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::PodTable;
use super::routes::Refusal;
use crate::exec::{Command, Execs, Target};
use crate::pods::view::PodView;
use client::{Input, Output, Wire};
use forward::Destination;
use request::StreamOptions;
use upgrade::{Agreed, Transport};

/// Connections of streams at once: each is a few descriptors here and, for a command, at its shim.
const SESSIONS: usize = 1024;

/// What streaming needs of the agent.
#[derive(Clone)]
struct Streaming {
    table: Arc<dyn PodTable>,
    execs: Execs,
    room: Arc<Semaphore>,
}

type Pairs = Query<Vec<(String, String)>>;

pub fn router(table: Arc<dyn PodTable>, execs: Execs) -> Router {
    let exec_path = "/exec/{namespace}/{pod}/{container}";
    Router::new()
        .route(exec_path, get(exec).post(exec))
        .route("/attach/{namespace}/{pod}/{container}", get(attach).post(attach))
        .route(
            "/portForward/{namespace}/{pod}",
            get(port_forward).post(port_forward),
        )
        .with_state(Streaming {
            table,
            execs,
            room: Arc::new(Semaphore::new(SESSIONS)),
        })
}

async fn exec(
    State(streaming): State<Streaming>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    Query(pairs): Pairs,
    request: Request,
) -> Result<Response, Refusal> {
    let options = StreamOptions::parse(&pairs)?;
    if options.command.is_empty() {
        return Err((
            StatusCode::BAD_REQUEST,
            "you must specify at least 1 command".to_owned(),
        ));
    }
    let target = streaming.target(&namespace, &pod, &container)?;
    let command = Command {
        args: options.command.clone(),
        stdin: options.stdin,
        terminal: options.tty,
    };
    let place = streaming.place()?;
    open(request, options, move |input, output| async move {
        let _place = place;
        let outcome = match streaming.execs.start(&target, command).await {
            Ok(process) => session::exec(process, input, &output).await,
            Err(error) => Err(error),
        };
        output.finish(status::of_exec(outcome)).await;
    })
}

async fn attach(
    State(streaming): State<Streaming>,
    Path((namespace, name, container)): Path<(String, String, String)>,
    Query(pairs): Pairs,
    request: Request,
) -> Result<Response, Refusal> {
    let options = StreamOptions::parse(&pairs)?;
    let target = streaming.target(&namespace, &name, &container)?;
    let pod = streaming.pod(&namespace, &name)?;
    let spec = PodView::new(&pod)
        .and_then(|view| view.container(&container))
        .map(|(c, _)| c);
    let reads = options.stdin && spec.as_ref().and_then(|c| c.stdin) == Some(true);
    let once = spec.as_ref().and_then(|c| c.stdin_once) == Some(true);
    let place = streaming.place()?;
    open(request, options, move |input, output| async move {
        let _place = place;
        let outcome = match streaming.execs.attach(&target, once).await {
            Ok(attached) => session::attach(attached, input, reads, &output).await,
            Err(error) => Err(error),
        };
        output.finish(status::of_attach(outcome)).await;
    })
}

async fn port_forward(
    State(streaming): State<Streaming>,
    Path((namespace, name)): Path<(String, String)>,
    Query(pairs): Pairs,
    mut request: Request,
) -> Result<Response, Refusal> {
    let pod = streaming.pod(&namespace, &name)?;
    let network = streaming
        .table
        .network(pod.metadata.uid.as_deref().unwrap_or_default());
    let Some(network) = network else {
        return Err((StatusCode::NOT_FOUND, format!("pod {name:?} does not run")));
    };
    let to = Destination {
        pod: name,
        namespace: network.namespace(),
    };
    let Agreed { response, transport } = upgrade::port_forward(request.headers())?;
    let ports = match transport {
        Transport::Channels(_) => request::ports(&pairs)?,
        Transport::Tunnel | Transport::Spdy => Vec::new(),
    };
    let place = streaming.place()?;
    let upgrading = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let _place = place;
        match upgrading.await {
            Ok(connection) => forward_over(TokioIo::new(connection), transport, ports, to).await,
            Err(error) => tracing::debug!(%error, "a client went away before its streams were open"),
        }
    });
    Ok(response)
}

async fn forward_over(
    connection: impl AsyncRead + AsyncWrite + Unpin,
    transport: Transport,
    ports: Vec<u16>,
    to: Destination,
) {
    match transport {
        Transport::Spdy => forward::run(connection, to).await,
        Transport::Tunnel => {
            let (inside, carrying) = tunnel::open(websocket::accept(connection).await);
            tokio::select! {
                () = forward::run(inside, to) => {}
                () = carrying => {}
            }
        }
        Transport::Channels(_) => {
            forward_channels::run(websocket::accept(connection).await, ports, to).await;
        }
    }
}

impl Streaming {
    /// A place among the connections there may be.
    fn place(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        let refused = |_| {
            let text = format!("{SESSIONS} connections of streams are open already");
            (StatusCode::TOO_MANY_REQUESTS, text)
        };
        self.room.clone().try_acquire_owned().map_err(refused)
    }

    fn pod(&self, namespace: &str, name: &str) -> Result<Arc<Pod>, Refusal> {
        let missing = || format!("pod {name:?} does not exist in namespace {namespace:?}");
        let found = self.table.pod(namespace, name);
        found.ok_or_else(|| (StatusCode::NOT_FOUND, missing()))
    }

    /// The running container meant.
    fn target(&self, namespace: &str, name: &str, container: &str) -> Result<Target, Refusal> {
        let missing = |text: String| (StatusCode::NOT_FOUND, text);
        let pod = self.pod(namespace, name)?;
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        self.table
            .target(uid, container)
            .ok_or_else(|| missing(format!("container not found (\"{container}\")")))
    }
}

/// Answers the request with what was agreed on, and serves the connection once it has become one of streams.
fn open<F: Future<Output = ()> + Send>(
    mut request: Request,
    options: StreamOptions,
    serve: impl FnOnce(Input, Output) -> F + Send + 'static,
) -> Result<Response, Refusal> {
    let Agreed { response, transport } = upgrade::remote_command(request.headers())?;
    let upgrading = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgrading.await {
            Ok(connection) => {
                let (input, output, wire) = client::pair(&options);
                let carrying = carry(TokioIo::new(connection), transport, wire, &options);
                tokio::join!(serve(input, output), carrying);
            }
            Err(error) => tracing::debug!(%error, "a client went away before its streams were open"),
        }
    });
    Ok(response)
}

async fn carry(
    connection: impl AsyncRead + AsyncWrite + Unpin,
    transport: Transport,
    wire: Wire,
    options: &StreamOptions,
) {
    match transport {
        Transport::Channels(protocol) => websocket::carry(connection, protocol, wire, options).await,
        Transport::Spdy | Transport::Tunnel => remote_spdy::carry(connection, wire, options).await,
    }
}

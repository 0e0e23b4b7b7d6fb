//! `exec`, `attach` and `port-forward` of the kubelet API: a request becomes a connection that carries streams.
//!
//! Flow: look the container up → agree on a protocol (`upgrade`) → the client's streams (`client`, carried by
//! `websocket` or `spdy`) → the process's (`session`). Refuses to know how a process runs in a container.

mod client;
mod request;
mod session;
mod status;
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

use super::PodTable;
use super::routes::Refusal;
use crate::exec::{Command, Execs, Target};
use client::{Input, Output};
use request::StreamOptions;
use upgrade::Agreed;

/// What streaming needs of the agent.
#[derive(Clone)]
struct Streaming {
    table: Arc<dyn PodTable>,
    execs: Execs,
}

type Pairs = Query<Vec<(String, String)>>;

pub fn router(table: Arc<dyn PodTable>, execs: Execs) -> Router {
    let exec_path = "/exec/{namespace}/{pod}/{container}";
    Router::new()
        .route(exec_path, get(exec).post(exec))
        .with_state(Streaming { table, execs })
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
    open(request, options, move |input, output| async move {
        let outcome = match streaming.execs.start(&target, command).await {
            Ok(process) => session::exec(process, input, &output).await,
            Err(error) => Err(error),
        };
        output.finish(status::of_exec(outcome)).await;
    })
}

impl Streaming {
    /// The running container meant.
    fn target(&self, namespace: &str, name: &str, container: &str) -> Result<Target, Refusal> {
        let missing = |text: String| (StatusCode::NOT_FOUND, text);
        let pod = self
            .table
            .pod(namespace, name)
            .ok_or_else(|| missing(format!("pod {name:?} does not exist in namespace {namespace:?}")))?;
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
    let Agreed { response, protocol } = upgrade::remote_command(request.headers())?;
    let upgrading = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgrading.await {
            Ok(connection) => {
                let (input, output, wire) = client::pair(&options);
                let carrying = websocket::carry(TokioIo::new(connection), protocol, wire, &options);
                tokio::join!(serve(input, output), carrying);
            }
            Err(error) => tracing::debug!(%error, "a client went away before its streams were open"),
        }
    });
    Ok(response)
}

//! The paths of the kubelet API and their answers; errors are plain text, as upstream's are.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::PodTable;
use super::auth::Caller;
use super::logs::{self, LogQuery};
use super::streaming;
use crate::exec::Execs;
use crate::metrics;

type Table = Arc<dyn PodTable>;

/// An answer that is an error.
pub type Refusal = (StatusCode, String);

pub fn router(table: Table, execs: Execs) -> Router {
    let streams = streaming::router(table.clone(), execs);
    Router::new()
        .route("/healthz", get(async || "ok"))
        .route("/pods", get(pods))
        .route("/metrics/resource", get(resource_metrics))
        .route(
            "/containerLogs/{namespace}/{pod}/{container}",
            get(container_logs),
        )
        .with_state(table)
        .merge(streams)
        .layer(middleware::from_fn(authorise))
}

/// Lets a request pass only for who may make it.
async fn authorise(Extension(caller): Extension<Caller>, request: Request, next: Next) -> Response {
    match &caller {
        Caller::Unknown => (StatusCode::UNAUTHORIZED, "Unauthorized").into_response(),
        _ if caller.is_allowed() => next.run(request).await,
        Caller::Known { name, .. } => {
            let subresource = subresource(request.uri().path());
            let text =
                format!("Forbidden (user={name}, verb=get, resource=nodes, subresource(s)=[{subresource}])");
            (StatusCode::FORBIDDEN, text).into_response()
        }
    }
}

/// What a path is to upstream's kubelet, when it asks who may.
fn subresource(path: &str) -> &'static str {
    match path {
        _ if path.starts_with("/containerLogs/") => "log",
        _ if path.starts_with("/metrics") => "metrics",
        _ => "proxy",
    }
}

/// All Pods of this node as one PodList.
async fn pods(State(table): State<Table>) -> Response {
    let pods: Vec<Arc<Pod>> = table.pods();
    let items: Vec<&Pod> = pods.iter().map(AsRef::as_ref).collect();
    let list = json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items});
    ([(CONTENT_TYPE, "application/json")], list.to_string()).into_response()
}

/// What is used here, in Prometheus' text format.
async fn resource_metrics(State(table): State<Table>) -> Response {
    let text = metrics::resource(table.as_ref()).await;
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response()
}

async fn container_logs(
    State(table): State<Table>,
    Path((namespace, name, container)): Path<(String, String, String)>,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Result<Response, Refusal> {
    let query = LogQuery::parse(&pairs, jiff::Timestamp::now()).map_err(logs::QueryError::into_refusal)?;
    let missing = |text: String| (StatusCode::NOT_FOUND, text);
    let pod = table
        .pod(&namespace, &name)
        .ok_or_else(|| missing(format!("pod {name:?} does not exist in namespace {namespace:?}")))?;
    if !logs::has_container(&pod, &container) {
        return Err(missing(format!(
            "container {container:?} not found in pod {name:?}"
        )));
    }
    let bad = |text: String| (StatusCode::BAD_REQUEST, text);
    let id = logs::choose(&pod, &container, query.previous).map_err(bad)?;
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let gone = || {
        missing(format!(
            "the log of container {container:?} in pod {name:?} is no longer on this node"
        ))
    };
    let file = table.log(uid, &container, id).ok_or_else(gone)?;
    let stream = logs::open(file, query).await.map_err(|error| {
        if error.is_absence() {
            return gone();
        }
        tracing::warn!(%error, namespace, pod = name, container, "cannot read a container's log");
        (StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    })?;
    Ok(([(CONTENT_TYPE, "text/plain")], Body::from_stream(stream)).into_response())
}

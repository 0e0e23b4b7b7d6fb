//! The paths of the kubelet API and their answers; errors are plain text, as upstream's are.

use std::path::PathBuf;
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
use serde_json::{Value, json};

use super::PodTable;
use super::auth::Caller;
use super::authorize::{Asked, Decision, Reviews};
use super::logs::{self, LogQuery};
use super::running::running;
use super::{host_logs, storage, streaming};
use crate::exec::Execs;
use crate::metrics::{self, Station};

type Table = Arc<dyn PodTable>;

/// An answer that is an error.
pub type Refusal = (StatusCode, String);

pub fn router(
    station: Arc<Station>,
    execs: Execs,
    reviews: Arc<Reviews>,
    local_volumes: PathBuf,
    configuration: Value,
) -> Router {
    let table = station.table.clone();
    let streams = streaming::router(table.clone(), execs);
    let measured = Router::new()
        .route("/metrics", get(own_metrics))
        .route("/metrics/cadvisor", get(cadvisor_metrics))
        .route("/metrics/probes", get(probe_metrics))
        .route("/metrics/resource", get(resource_metrics))
        .route("/stats/summary", get(summary))
        .with_state(station);
    Router::new()
        .route("/healthz", get(async || "ok"))
        .route("/pods", get(pods))
        .route("/runningpods", get(running_pods))
        .route("/runningpods/", get(running_pods))
        .route(
            "/containerLogs/{namespace}/{pod}/{container}",
            get(container_logs),
        )
        .with_state(table)
        .merge(streams)
        .merge(measured)
        .merge(storage::router(local_volumes))
        .merge(host_logs::router(host_logs::DIRECTORY.into()))
        .route("/configz", get(async move || said(&configuration)))
        .layer(middleware::from_fn_with_state(reviews, authorise))
}

/// Lets a request pass only for who may make it.
async fn authorise(
    State(reviews): State<Arc<Reviews>>,
    Extension(caller): Extension<Caller>,
    request: Request,
    next: Next,
) -> Response {
    let asked = Asked::of(&request);
    match reviews.judge(caller, asked).await {
        Decision::Allowed => next.run(request).await,
        Decision::Unknown => (StatusCode::UNAUTHORIZED, "Unauthorized").into_response(),
        Decision::Forbidden(text) => (StatusCode::FORBIDDEN, text).into_response(),
    }
}

/// All Pods of this node as one PodList.
async fn pods(State(table): State<Table>) -> Response {
    let pods: Vec<Arc<Pod>> = table.pods();
    let items: Vec<&Pod> = pods.iter().map(AsRef::as_ref).collect();
    let list = json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items});
    said(&list)
}

/// Those of them that run.
async fn running_pods(State(table): State<Table>) -> Response {
    said(&running(&table.pods()))
}

fn said(value: &Value) -> Response {
    ([(CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

/// In Prometheus' text format.
fn exposition(text: String) -> Response {
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response()
}

async fn own_metrics(State(station): State<Arc<Station>>) -> Response {
    exposition(metrics::own(&station))
}

async fn cadvisor_metrics(State(station): State<Arc<Station>>) -> Response {
    exposition(metrics::cadvisor(&station).await)
}

async fn probe_metrics(State(station): State<Arc<Station>>) -> Response {
    exposition(station.probes.render())
}

async fn resource_metrics(State(station): State<Arc<Station>>) -> Response {
    exposition(metrics::resource(&station).await)
}

/// Upstream's `only_cpu_and_memory` makes it cheaper.
async fn summary(
    State(station): State<Arc<Station>>,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Response {
    let briefly = pairs
        .iter()
        .any(|(name, value)| name == "only_cpu_and_memory" && value == "true");
    said(&metrics::summary(&station, briefly).await)
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

//! `/localVolumes/NAME`: makes and removes directories for the control plane's provisioner, which comes through the node's
//! proxy.

use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde_json::{Value, json};

use super::routes::Refusal;
use crate::volumes::local_path::{self, LocalPathError};

type Root = Arc<PathBuf>;

pub fn router(root: PathBuf) -> Router {
    Router::new()
        .route("/localVolumes/{name}", post(make).delete(remove))
        .with_state(Arc::new(root))
}

async fn make(State(root): State<Root>, Path(name): Path<String>) -> Result<Response, Refusal> {
    let made = off_thread(move || local_path::make(&root, &name)).await?;
    Ok(answer(&json!({"path": made})))
}

async fn remove(State(root): State<Root>, Path(name): Path<String>) -> Result<Response, Refusal> {
    off_thread(move || local_path::remove(&root, &name)).await?;
    Ok(answer(&json!({})))
}

fn answer(value: &Value) -> Response {
    ([(CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

/// Trees may be large.
async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LocalPathError> + Send + 'static,
) -> Result<T, Refusal> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    done.map_err(|error| {
        let code = match &error {
            LocalPathError::Name(_) => StatusCode::BAD_REQUEST,
            LocalPathError::Host(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (code, error.to_string())
    })
}

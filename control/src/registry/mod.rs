//! The embedded OCI registry: the distribution API (distribution-spec v1.1) over content on disk, so that a
//! cluster needs no registry elsewhere.
//!
//! Guarantees: content has its name only when its digest was verified and it is on disk; a manifest is accepted
//! only when what it names is there; a client's words never become paths unless they match the spec's grammar.
//! There is no authentication: it is meant for loopback, or behind something that has some. It refuses to know
//! Kubernetes.

mod blobs;
mod disk;
mod error;
mod listings;
mod manifests;
mod names;
mod uploads;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, Method, StatusCode};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::disk::Disk;
use self::error::{ApiError, Code};
use self::names::Route;
use self::uploads::Uploads;

/// How often idle uploads are looked for.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(300);

/// Why the registry ended.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("cannot use the registry's directory {dir}: {source}")]
    Open { dir: String, source: std::io::Error },
    #[error("cannot serve the registry: {0}")]
    Serve(std::io::Error),
}

/// What every handler shares.
#[derive(Clone)]
struct Registry {
    disk: Arc<Disk>,
    uploads: Arc<Uploads>,
}

/// Serves the registry kept in `dir` on `listener` until `shutdown`, then lets requests under way finish.
///
/// # Errors
/// The directory cannot be used, or the listener fails.
pub async fn serve(
    listener: TcpListener,
    dir: &Path,
    shutdown: CancellationToken,
) -> Result<(), RegistryError> {
    let open = |source| RegistryError::Open {
        dir: dir.display().to_string(),
        source,
    };
    let disk = Arc::new(Disk::open(dir).map_err(open)?);
    let registry = Registry {
        uploads: Arc::new(Uploads::new(disk.clone())),
        disk,
    };
    let expiring = tokio::spawn(expire(registry.uploads.clone(), shutdown.clone()));
    let app = Router::new().fallback(answer).with_state(registry);
    let served = axum::serve(listener, app)
        .with_graceful_shutdown(shutdown.cancelled_owned())
        .await;
    expiring.abort();
    served.map_err(RegistryError::Serve)
}

async fn expire(uploads: Arc<Uploads>, shutdown: CancellationToken) {
    let mut interval = tokio::time::interval(EXPIRY_INTERVAL);
    while shutdown.run_until_cancelled(interval.tick()).await.is_some() {
        uploads.expire().await;
    }
}

/// Every request: one route, one method, one answer.
async fn answer(State(registry): State<Registry>, request: Request) -> Response {
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let result = dispatch(registry, request).await;
    let mut response = result.unwrap_or_else(|error| {
        if error.is_ours() {
            tracing::error!(%method, path = uri.path(), %error, "registry request failed");
        }
        error.into_response()
    });
    let version = HeaderValue::from_static("registry/2.0");
    response
        .headers_mut()
        .insert("docker-distribution-api-version", version);
    response
}

async fn dispatch(registry: Registry, request: Request) -> Result<Response, ApiError> {
    let route = names::route(request.uri().path())?;
    let method = request.method().clone();
    let read = matches!(method, Method::GET | Method::HEAD);
    match route {
        Route::Base if read => Ok(json(StatusCode::OK, "{}")),
        Route::Catalog if read => listings::catalog(&registry, request.uri()).await,
        Route::Tags { name } if read => listings::tags(&registry, name, request.uri()).await,
        Route::Referrers { name, subject } if read => {
            manifests::referrers(&registry, name, subject, request.uri()).await
        }
        Route::Manifest { name, reference } => manifests::answer(&registry, name, reference, request).await,
        Route::Blob { name, digest } => blobs::answer(&registry, name, digest, request).await,
        Route::Uploads { name } if method == Method::POST => uploads::start(&registry, name, request).await,
        Route::Upload { name, id } => uploads::answer(&registry, name, &id, request).await,
        _ => Err(method_not_allowed(&method)),
    }
}

fn method_not_allowed(method: &Method) -> ApiError {
    ApiError::new(Code::Unsupported, format!("{method} is not offered here"))
}

/// A response with a JSON body.
fn json(status: StatusCode, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(
        http::header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

/// A response without a body and with the given headers.
fn empty(status: StatusCode, headers: &[(&'static str, String)]) -> Result<Response, ApiError> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    for (name, value) in headers {
        let value = HeaderValue::from_str(value).map_err(|error| ApiError::internal(error.to_string()))?;
        response.headers_mut().insert(*name, value);
    }
    Ok(response)
}

/// One query parameter.
fn query(uri: &http::Uri, name: &str) -> Option<String> {
    use axum::extract::Query;
    let pairs: Query<Vec<(String, String)>> = Query::try_from_uri(uri).ok()?;
    pairs
        .0
        .into_iter()
        .find(|(key, _)| key == name)
        .map(|(_, value)| value)
}

#[cfg(test)]
mod tests;

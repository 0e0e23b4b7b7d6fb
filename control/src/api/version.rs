//! Paths outside `/api` and `/apis`: `/version`, `/flagz`, `/metrics/slis`, `/statusz`, `/openapi/*`, the index of paths, and 404.
use super::indent::indented;
use super::status::{ApiError, Result};
use super::{Api, discovery, flagz, health, negotiate, oidc, render, text, zpages};
use axum::response::Response;
use http::request::Parts;
use http::{Method, StatusCode};
use serde_json::{Value, json};

/// The Kubernetes version whose API this is.
pub const MAJOR: &str = "1";
pub const MINOR: &str = "36";
/// As OpenAPI documents say it.
pub const VERSION: &str = "1.36";
pub const GIT_VERSION: &str = concat!("v1.36.2+amphipod-", env!("CARGO_PKG_VERSION"));

pub(super) async fn answer(api: &Api, parts: &Parts) -> Result<Response> {
    match parts.uri.path() {
        "/" | "/index.html" => index(api),
        "/version" | "/version/" if parts.method != Method::GET => Err(ApiError::method_not_allowed()),
        "/version" | "/version/" if !negotiate::takes(&parts.headers, &["application/json"], false) => {
            Err(ApiError::not_acceptable(&["application/json"]))
        }
        "/version" | "/version/" => raw(&info()),
        path if oidc::is_document(path) => Err(ApiError::method_not_allowed()),
        "/metrics" => Ok(super::metrics::answer(api).await),
        "/flagz" => flagz::answer(&parts.headers, &api.flags),
        "/metrics/slis" => Ok(api.metrics.slis.answer(&parts.method)),
        "/statusz" => Ok(zpages::status()),
        _ => Ok(api
            .openapi
            .answer(parts)
            .unwrap_or_else(|| text(StatusCode::NOT_FOUND, "404 page not found\n"))),
    }
}

/// Paths beside those of groups and of single checks.
const PATHS: [&str; 15] = [
    "/.well-known/openid-configuration",
    "/api",
    "/apis",
    "/apis/",
    "/flagz",
    "/healthz",
    "/livez",
    "/metrics",
    "/metrics/slis",
    "/openapi/v2",
    "/openapi/v3",
    "/openid/v1/jwks",
    "/readyz",
    "/statusz",
    "/version",
];

fn index(api: &Api) -> Result<Response> {
    let mut paths: Vec<String> = PATHS.iter().map(ToString::to_string).collect();
    paths.extend(discovery::paths(api));
    paths.extend(health::paths());
    paths.extend(api.openapi.paths());
    paths.sort_unstable();
    raw(&json!({"paths": paths}))
}

/// What is no object upstream writes for people, whoever asks.
fn raw(value: &Value) -> Result<Response> {
    let response = render::respond(negotiate::Format::Json, StatusCode::OK, value)?;
    Ok(indented(response))
}

/// `apimachinery/version.Info`.
pub(super) fn info() -> Value {
    json!({
        "major": MAJOR,
        "minor": MINOR,
        "emulationMajor": MAJOR,
        "emulationMinor": MINOR,
        "minCompatibilityMajor": MAJOR,
        "minCompatibilityMinor": "35",
        "gitVersion": GIT_VERSION,
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, platform()),
    })
}

/// The architecture by Go's name, as nodes report it.
fn platform() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

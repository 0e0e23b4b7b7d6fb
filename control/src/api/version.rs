//! Paths outside `/api` and `/apis`: `/version`, `/openapi/*`, the index of paths, and 404.
use super::status::Result;
use super::{Api, negotiate, render, text};
use axum::response::Response;
use http::StatusCode;
use http::request::Parts;
use serde_json::json;

/// The Kubernetes version whose API this is.
pub const MAJOR: &str = "1";
pub const MINOR: &str = "36";
pub const GIT_VERSION: &str = concat!("v1.36.2+amphipod-", env!("CARGO_PKG_VERSION"));

pub(super) fn answer(api: &Api, parts: &Parts) -> Result<Response> {
    match parts.uri.path().trim_end_matches('/') {
        "" => index(),
        "/version" => version(),
        "/metrics" => Ok(super::metrics::answer(api)),
        _ => Ok(api
            .openapi
            .answer(parts)
            .unwrap_or_else(|| text(StatusCode::NOT_FOUND, "404 page not found\n"))),
    }
}

fn index() -> Result<Response> {
    let paths = [
        "/api",
        "/api/v1",
        "/apis",
        "/.well-known/openid-configuration",
        "/healthz",
        "/livez",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/openid/v1/jwks",
        "/readyz",
        "/version",
    ];
    render::respond(negotiate::Format::Json, StatusCode::OK, &json!({"paths": paths}))
}

/// `apimachinery/version.Info`.
fn version() -> Result<Response> {
    let info = json!({
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
    });
    render::respond(negotiate::Format::Json, StatusCode::OK, &info)
}

/// The architecture by Go's name, as nodes report it.
fn platform() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

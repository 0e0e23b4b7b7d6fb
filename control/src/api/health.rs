//! `/livez`, `/readyz`, `/healthz`: open to everybody, so that a load balancer needs no certificate.
use super::{Api, text};
use axum::response::Response;
use http::StatusCode;
use http::request::Parts;

/// The answer, when the path is one of these.
pub(super) fn answer(api: &Api, parts: &Parts) -> Option<Response> {
    let path = parts.uri.path().trim_end_matches('/');
    let checks: &[&str] = match path {
        "/livez" | "/healthz" => &["ping"],
        "/readyz" => &["ping", "watch-cache"],
        _ => return None,
    };
    let ready = |check: &&str| *check != "watch-cache" || api.cache.revision() > 0;
    let good = checks.iter().all(ready);
    let code = if good {
        StatusCode::OK
    } else {
        StatusCode::INTERNAL_SERVER_ERROR
    };
    let verbose = parts
        .uri
        .query()
        .is_some_and(|query| query.split('&').any(|p| p.starts_with("verbose")));
    if good && !verbose {
        return Some(text(code, "ok"));
    }
    let mark = |check: &&str| if ready(check) { "[+]" } else { "[-]" };
    let lines: String = checks
        .iter()
        .map(|check| format!("{}{check} {}\n", mark(check), word(ready(check))))
        .collect();
    let name = path.trim_start_matches('/');
    Some(text(
        code,
        format!("{lines}{name} check {}\n", if good { "passed" } else { "failed" }),
    ))
}

fn word(good: bool) -> &'static str {
    if good { "ok" } else { "failed" }
}

//! What others verify service account tokens by: the issuer's metadata and its keys (OpenID Connect Discovery 1.0).
use super::Api;
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};

/// The answer, when the path is one of these.
pub(super) fn answer(api: &Api, path: &str) -> Option<Response> {
    let issuer = api.bearers.issuer();
    let (content, document) = match path.trim_end_matches('/') {
        "/.well-known/openid-configuration" => ("application/json", issuer.configuration()),
        "/openid/v1/jwks" => ("application/jwk-set+json", issuer.keys()),
        _ => return None,
    };
    let headers = [(CONTENT_TYPE, content), (CACHE_CONTROL, "public, max-age=3600")];
    Some((headers, document.to_string()).into_response())
}

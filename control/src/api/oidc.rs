//! What others verify service account tokens by: the issuer's metadata and its keys (OpenID Connect Discovery 1.0).
use super::Api;
use axum::response::{IntoResponse, Response};
use http::Method;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::request::Parts;

const CONFIGURATION: &str = "/.well-known/openid-configuration";
const KEYS: &str = "/openid/v1/jwks";

/// Whether the path is one of these.
pub(super) fn is_document(path: &str) -> bool {
    [CONFIGURATION, KEYS].contains(&path.trim_end_matches('/'))
}

/// The answer to a reader, when the path is one of these.
pub(super) fn answer(api: &Api, parts: &Parts) -> Option<Response> {
    if parts.method != Method::GET {
        return None;
    }
    let issuer = api.bearers.issuer();
    let (content, document) = match parts.uri.path().trim_end_matches('/') {
        CONFIGURATION => ("application/json", issuer.configuration()),
        KEYS => ("application/jwk-set+json", issuer.keys()),
        _ => return None,
    };
    let headers = [(CONTENT_TYPE, content), (CACHE_CONTROL, "public, max-age=3600")];
    Some((headers, document.to_string()).into_response())
}

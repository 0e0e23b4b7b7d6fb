//! Who a request comes from: the connection's certificate, an in-process client, or a bearer token.
use super::Api;
use super::status::{ApiError, Result};
use crate::auth::{Identity, RefusedCertificate};
use http::header::AUTHORIZATION;
use http::request::Parts;
use jiff::Timestamp;

const SCHEME: &str = "bearer";

/// The user, or 401. The token is taken out of the request: no backend is to see it.
pub fn identify(api: &Api, parts: &mut Parts) -> Result<Identity> {
    let who = known(api, parts)?.ok_or_else(ApiError::unauthorized)?;
    parts.headers.remove(AUTHORIZATION);
    Ok(who)
}

/// The user where nobody need be known, who is then [`Identity::anonymous`]. Credentials that are no good are 401 there
/// too, as upstream.
pub fn anybody(api: &Api, parts: &Parts) -> Result<Identity> {
    Ok(known(api, parts)?.unwrap_or_else(Identity::anonymous))
}

/// Nobody, where nothing is shown.
fn known(api: &Api, parts: &Parts) -> Result<Option<Identity>> {
    if let Some(who) = parts.extensions.get::<Identity>() {
        return Ok(Some(who.clone()));
    }
    if let Some(token) = bearer(parts) {
        return by_token(api, &token).map(Some);
    }
    match parts.extensions.get::<RefusedCertificate>() {
        Some(refused) => {
            tracing::debug!("{refused}");
            Err(ApiError::unauthorized())
        }
        None => Ok(None),
    }
}

fn by_token(api: &Api, token: &str) -> Result<Identity> {
    let judged = api.bearers.authenticate(token, &[], Timestamp::now());
    judged.map(|bearer| bearer.who).map_err(|why| {
        tracing::debug!(%why, "a bearer token was refused");
        ApiError::unauthorized()
    })
}

fn bearer(parts: &Parts) -> Option<String> {
    let header = parts.headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = header.trim().split_once(' ')?;
    (scheme.eq_ignore_ascii_case(SCHEME) && !token.trim().is_empty()).then(|| token.trim().to_owned())
}

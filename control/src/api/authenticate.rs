//! Who a request comes from: the connection's certificate, an in-process client, or a bearer token.
use super::Api;
use super::status::{ApiError, Result};
use crate::auth::Identity;
use http::header::AUTHORIZATION;
use http::request::Parts;
use jiff::Timestamp;

const SCHEME: &str = "bearer";

/// The user, or 401. The token is taken out of the request: no backend is to see it.
pub fn identify(api: &Api, parts: &mut Parts) -> Result<Identity> {
    let token = bearer(parts);
    parts.headers.remove(AUTHORIZATION);
    if let Some(who) = parts.extensions.get::<Identity>() {
        return Ok(who.clone());
    }
    by_token(api, &token.ok_or_else(ApiError::unauthorized)?)
}

/// Fails on a bad bearer token where nobody is asked who he is, as upstream does.
pub fn check(api: &Api, parts: &Parts) -> Result<()> {
    if parts.extensions.get::<Identity>().is_some() {
        return Ok(());
    }
    match bearer(parts) {
        Some(token) => by_token(api, &token).map(drop),
        None => Ok(()),
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

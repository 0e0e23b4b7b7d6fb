//! Subresources that are more than a part of their object: scale, binding, eviction, log, attach,
//! exec, portforward, proxy.
//!
//! `status`, `finalize` and the like are plain updates (see `write`) whose reach the kind's rules limit.
mod binding;
pub(super) mod condition;
mod eviction;
mod log;
mod node;
pub(super) mod proxy;
mod scale;
mod stream;
mod token;

pub use node::{NodeClient, NodeClientError};
pub use proxy::ProxyTls;
pub(super) use stream::join;

use super::Call;
use super::render::Style;
use super::route::Target;
use super::status::{ApiError, Result};
use super::websocket;
use crate::kinds::view::View;
use axum::response::Response;
use serde_json::Value;

/// The answer of a subresource that is served here; none for the others.
pub(super) async fn answer(call: &Call, verb: &str, style: Style) -> Result<Option<Response>> {
    let Some(subresource) = call.target.subresource.as_deref() else {
        return match is_bindings(&call.target) && verb == "create" {
            true => binding::serve_named(call, style).await.map(Some),
            false => Ok(None),
        };
    };
    let name = call.name()?;
    let response = match (subresource, verb) {
        ("scale", _) => scale::serve(call, name, verb, style).await?,
        ("binding", "create") => binding::serve(call, name, style).await?,
        ("eviction", "create") => eviction::serve(call, name, style).await?,
        ("token", "create") => token::serve(call, name, style).await?,
        ("log", "get") => websocket::log(call, log::serve(call, name).await?)?,
        ("attach" | "exec" | "portforward", "create" | "get") => stream::serve(call, name, subresource).await,
        _ => return Ok(None),
    };
    Ok(Some(response))
}

/// Whether this is the collection that stands for a subresource of Pods.
fn is_bindings(target: &Target) -> bool {
    (target.kind.group.as_str(), target.kind.plural.as_str()) == ("", "bindings")
}

/// What is posted below an object bears its name: a mistaken path must not strike another.
fn check_name(kind: &str, name: &str, posted: &Value) -> Result<()> {
    match posted.text("metadata.name") == name {
        true => Ok(()),
        false => Err(ApiError::bad_request(format!(
            "name in URL does not match name in {kind} object"
        ))),
    }
}

/// Whether a request is authorised as `create` whatever its method: a WebSocket begins with a GET, and running something
/// is no reading (AuthorizePodWebsocketUpgradeCreatePermission).
pub(super) fn creates(target: &Target) -> bool {
    let subresource = target.subresource.as_deref();
    target.kind.plural == "pods" && matches!(subresource, Some("attach" | "exec" | "portforward"))
}

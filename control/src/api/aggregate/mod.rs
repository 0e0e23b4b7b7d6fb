//! The aggregation layer: groups that an APIService hands to another server.
//!
//! Flow: path → APIService of its group and version → may the user → the other server, with the front proxy's certificate
//! and the user in headers; the answer comes back as it is, streams and changes of protocol included. Discovery and
//! OpenAPI of the other servers are read and shown among ours (`documents`). Who is available is the controllers' word,
//! in the APIService's status. Refuses to know what other servers serve.
mod documents;
mod forward;

pub(super) use documents::{Discovered, Documents, discover};

use super::asked::Asked;
use super::dispatch::{Reply, is_turned_away};
use super::record::Record;
use super::status::Result;
use super::{Api, permit, text};
use crate::auth::Identity;
use crate::auth::attributes::Attributes;
use crate::kinds::api_service::{GROUP, is_local, is_managed};
use crate::kinds::view::View;
use axum::body::Body;
use axum::response::Response;
use http::request::Parts;
use http::{HeaderValue, StatusCode};
use serde_json::Value;

/// Upstream's whole answer for a server that is away.
const UNAVAILABLE: &str = "service unavailable\n";

/// A group and version that another server serves.
#[derive(Debug, Clone)]
pub(super) struct Remote {
    pub group: String,
    pub version: String,
    /// Place of the group, and of the version in it, in discovery.
    pub priority: (i64, i64),
    /// Whether it answered when it was last looked at.
    pub available: bool,
    /// Of the APIService: another one may mean another server.
    revision: String,
    spec: Value,
}

impl Remote {
    fn of(object: &Value) -> Option<Remote> {
        (!is_local(object)).then(|| Remote::named(object))
    }

    fn named(object: &Value) -> Remote {
        let spec = object.at("spec");
        let conditions = object.list("status.conditions").iter();
        let mut available = conditions.filter(|c| c.text("type") == "Available");
        Remote {
            group: spec.text("group").to_owned(),
            version: spec.text("version").to_owned(),
            priority: (
                spec.int("groupPriorityMinimum").unwrap_or(0),
                spec.int("versionPriority").unwrap_or(0),
            ),
            available: available.any(|c| c.text("status") == "True"),
            revision: object.text("metadata.resourceVersion").to_owned(),
            spec: spec.clone(),
        }
    }
}

/// Every group and version of other servers.
pub(super) fn all(api: &Api) -> Vec<Remote> {
    let services = api.objects.list((GROUP, "v1", "apiservices"), None);
    services
        .iter()
        .filter_map(|service| Remote::of(service))
        .collect()
}

/// Every group and version of other servers, and those that somebody says are served here, whether they are or not.
pub(super) fn registered(api: &Api) -> Vec<Remote> {
    let services = api.objects.list((GROUP, "v1", "apiservices"), None);
    let services = services
        .iter()
        .filter(|service| !is_local(service) || !is_managed(service));
    services.map(|service| Remote::named(service)).collect()
}

/// The other server that this path below `/apis` belongs to.
pub(super) fn find(api: &Api, path: &str) -> Option<Remote> {
    let mut segments = path.strip_prefix("/apis/")?.split('/');
    let (group, version) = (segments.next()?, segments.next()?);
    of_version(api, group, version)
}

fn of_version(api: &Api, group: &str, version: &str) -> Option<Remote> {
    let name = format!("{version}.{group}");
    let service = api.objects.get((GROUP, "v1", "apiservices"), None, &name)?;
    Remote::of(&service)
}

/// Answers a request to another server's group.
pub(super) async fn serve(
    api: &Api,
    remote: &Remote,
    who: &Identity,
    (mut parts, body): (Parts, Body),
    (record, reply): (&mut Record, &mut Reply),
) -> Result<Response> {
    let table = api.flow_table();
    record.knows_path().await;
    let told = record.told();
    match Asked::of(&parts) {
        None => {
            reply.flow = table.flow_of_path(who, &parts);
            permit::path(api, who, &parts, &told)?;
        }
        Some(asked) => {
            let what = Attributes::resource(asked.verb, asked.attributes());
            reply.flow = table.flow(who, &what);
            permit::decide(api, who, &what, &told)?;
        }
    }
    if !remote.available {
        return Ok(text(StatusCode::SERVICE_UNAVAILABLE, UNAVAILABLE));
    }
    // As with our own, the seats are free again when the answer begins.
    let seats = api.entrance.pass(&table, who, reply.flow.as_ref()).await;
    let seats = seats.inspect_err(|error| reply.terminated = is_turned_away(error))?;
    reply.waited.add(seats.waited());
    forward::forward(api, remote, (who, record.id()), &mut parts, body).await
}

/// OpenAPI where other servers are concerned: their documents, and theirs in the index; none where they are not.
pub(super) async fn openapi(
    api: &Api,
    (who, id): (&Identity, Option<HeaderValue>),
    parts: &mut Parts,
    body: Body,
) -> Result<Option<Response>> {
    let path = parts.uri.path().trim_end_matches('/').to_owned();
    if let Some(of) = path.strip_prefix("/openapi/v3")
        && let Some(remote) = find(api, of).filter(|remote| remote.available)
    {
        return forward::forward(api, &remote, (who, id), parts, body)
            .await
            .map(Some);
    }
    if path == "/openapi/v2" && !all(api).is_empty() {
        let theirs = documents::openapi_documents(api).await;
        return Ok(api.openapi.merged(parts, &theirs));
    }
    if path != "/openapi/v3" || all(api).is_empty() {
        return Ok(None);
    }
    let theirs = documents::openapi_paths(api).await;
    Ok(api.openapi.index(parts, theirs))
}

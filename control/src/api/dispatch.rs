//! The way of a request from its path to what answers it: who asks, for what, with which verb, and whether he may.
//!
//! Knows nothing of how any verb is carried out.
use super::decode::Incoming;
use super::flows::{Flow, Table};
use super::metrics::Waited;
use super::others::Others;
use super::query::Query;
use super::record::Record;
use super::route::{self, Route, Target};
use super::status::{ApiError, Result};
use super::subresource::{self, proxy};
use super::{
    Api, Call, about, aggregate, asked, authenticate, deadline, discovery, health, impersonate, oidc,
    perform, permit, render, serve, version,
};
use crate::audit::Told;
use crate::auth::Identity;
use crate::auth::attributes::Attributes;
use crate::kinds::Kind;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use hyper::upgrade::OnUpgrade;
use std::sync::Arc;

/// How the event of a request for a version that should not be used any more is marked.
const DEPRECATED: &str = "k8s.io/deprecated";

/// What is learnt of a request on its way and told with its answer.
#[derive(Default)]
pub struct Reply {
    pub flow: Option<Flow>,
    /// It is about a custom resource, of which nothing has a protobuf form.
    pub custom: bool,
    /// Whoever asks may.
    pub allowed: bool,
    /// The answer is a document of this API: neither a stream nor somebody else's.
    pub document: bool,
    /// It came to who answers for its resource.
    pub received: bool,
    /// It was ended, or not begun, to protect the server.
    pub terminated: bool,
    pub waited: Waited,
}

pub async fn dispatch(
    api: Arc<Api>,
    request: Request,
    record: &mut Record,
    reply: &mut Reply,
) -> Result<Response> {
    let (parts, body) = request.into_parts();
    let within = deadline::of_request(&parts).inspect_err(|_| record.refuses())?;
    let answer = answered(api, (parts, body), record, reply);
    match within {
        None => answer.await,
        Some(within) => {
            let answer = tokio::time::timeout(within, answer).await;
            answer.unwrap_or_else(|_| {
                reply.terminated = true;
                Err(ApiError::took_too_long())
            })
        }
    }
}

async fn answered(
    api: Arc<Api>,
    (mut parts, body): (Parts, Body),
    record: &mut Record,
    reply: &mut Reply,
) -> Result<Response> {
    if health::is_open(&parts) {
        return open(&api, &parts, record, reply).await;
    }
    let who = acting(&api, &mut parts, record)?;
    if let Some(remote) = aggregate::find(&api, parts.uri.path()) {
        return aggregate::serve(&api, &remote, &who, (parts, body), (record, reply)).await;
    }
    let watched = route::watched(&mut parts.uri)?;
    let route = find(&api, parts.uri.path()).await?;
    let asked = Asked {
        who,
        watched,
        parts,
        body,
    };
    match route {
        Some(Ok(Route::Resource(target))) if watched && target.subresource.is_some() => {
            Err(ApiError::no_resource())
        }
        Some(Ok(Route::Resource(target))) => of_resource(api, target, asked, record, reply).await,
        other => of_path(&api, other, asked, record, reply).await,
    }
}

/// What everybody is answered.
async fn open(api: &Api, parts: &Parts, record: &mut Record, reply: &mut Reply) -> Result<Response> {
    let who = authenticate::anybody(api, parts).inspect_err(|_| record.refuses())?;
    record.is_from(&who);
    reply.flow = api.flow_table().flow_of_path(&who, parts);
    record.knows_path().await;
    // Nobody is asked whether these are allowed, as upstream asks nobody (`--authorization-always-allow-paths`).
    record.told().decided(true, String::new());
    Query::of(&parts.uri)?;
    Ok(render::warn(
        health::answer(api, parts).await,
        authenticate::warnings(parts),
    ))
}

/// Whom a request counts as coming from, of which its record learns.
fn acting(api: &Api, parts: &mut Parts, record: &mut Record) -> Result<Identity> {
    let user = authenticate::identify(api, parts).inspect_err(|_| record.refuses())?;
    record.is_from(&user);
    let Some(acting) = impersonate::acting((&api.authorizer, &api.ways), &user, parts)? else {
        return Ok(user);
    };
    let who = acting.who.clone();
    record.acts_as(acting);
    Ok(who)
}

/// A request, as it came.
struct Asked {
    /// Whom it counts as coming from.
    who: Identity,
    /// Its path is below `watch/`.
    watched: bool,
    parts: Parts,
    body: Body,
}

/// What is no resource that is served here.
async fn of_path(
    api: &Api,
    route: Option<Result<Route>>,
    asked: Asked,
    record: &mut Record,
    reply: &mut Reply,
) -> Result<Response> {
    let Asked { who, parts, body, .. } = asked;
    record.knows_path().await;
    let told = record.told();
    Query::of(&parts.uri)?;
    reply.flow = api.flow_table().flow_of_path(&who, &parts);
    match asked::Asked::of(&parts) {
        // Whoever may not is not told that there is none.
        Some(asked) if !matches!(route, Some(Ok(_))) => {
            let attributes = Attributes::resource(asked.verb, asked.attributes());
            permit::decide(api, &who, &attributes, &told)?;
        }
        _ => permit::path(api, &who, &parts, &told)?,
    }
    reply.allowed = true;
    reply.document = matches!(route, Some(Ok(_)));
    elsewhere(api, (&who, record.id()), parts, body, route).await
}

/// Asks whether it may be, before anything of its body is read.
async fn of_resource(
    api: Arc<Api>,
    target: Target,
    asked: Asked,
    record: &mut Record,
    reply: &mut Reply,
) -> Result<Response> {
    reply.custom = target.kind.custom.is_some();
    let table = api.flow_table();
    let flow = |verb| {
        table.flow(
            &asked.who,
            &Attributes::resource(verb, permit::attributes(&target)),
        )
    };
    let known = known(&api, &asked.who, (&target, asked.watched), &asked.parts, record).await;
    let (query, verb) = known.inspect_err(|_| reply.flow = flow(meant(&asked.parts)))?;
    reply.flow = flow(verb);
    let told = record.told();
    allow(&api, &asked.who, verb, (&target, &query), &told)?;
    reply.allowed = true;
    if asked.watched && asked.parts.method != Method::GET {
        return Err(ApiError::method_not_allowed());
    }
    let proxied = proxy::is_proxied(&target);
    reply.document = verb != "watch" && !proxied;
    let (call, parts, body) = begun(api, (verb, target, query), asked, (told, reply.waited.clone()));
    match proxied {
        true => proxy::serve(&call, parts, body).await,
        false => received(call, verb, (parts, body), record, (&table, reply)).await,
    }
}

/// Fails unless he may. What is a creation, too, needs the right to that as well.
fn allow(
    api: &Api,
    who: &Identity,
    verb: &str,
    (target, query): (&Target, &Query),
    told: &Told,
) -> Result<()> {
    permit::resource(api, who, verb, (target, query), Some(told))?;
    match subresource::creates(target) {
        true => permit::resource(api, who, "create", (target, query), None),
        false => Ok(()),
    }
}

/// What is known of a call before its body is read; and the rest of the request.
fn begun(
    api: Arc<Api>,
    (verb, target, query): (&'static str, Target, Query),
    asked: Asked,
    (told, waited): (Told, Waited),
) -> (Call, Parts, Body) {
    let call = Call {
        api,
        who: asked.who,
        verb,
        target,
        query,
        headers: HeaderMap::new(),
        body: Bytes::new(),
        upgrade: None,
        in_process: asked.parts.extensions.get::<serve::InProcess>().is_some(),
        told,
        others: Others::default(),
        waited,
    };
    (call, asked.parts, asked.body)
}

/// The query and the verb of a request, with which its record knows it; that does so too of what nobody can.
async fn known(
    api: &Api,
    who: &Identity,
    (target, watched): (&Target, bool),
    parts: &Parts,
    record: &mut Record,
) -> Result<(Query, &'static str)> {
    let query = Query::of(&parts.uri)?;
    match verb(&parts.method, target, &query, watched) {
        Ok(verb) => {
            let about = about::target(target, verb, &query);
            record.knows(verb, Some(about)).await;
            Ok((query, verb))
        }
        // Whoever may not is not told that nobody can.
        Err(error) => {
            record.knows_path().await;
            permit::resource(api, who, meant(parts), (target, &query), Some(&record.told()))?;
            Err(error)
        }
    }
}

/// The verb of what nobody can, by its path and method alone.
fn meant(parts: &Parts) -> &'static str {
    asked::Asked::of(parts).map_or("", |asked| asked.verb)
}

/// Reads the rest of a request, when its turn has come, and does what it asks for.
async fn received(
    mut call: Call,
    verb: &str,
    (mut parts, body): (Parts, Body),
    record: &mut Record,
    (table, reply): (&Arc<Table>, &mut Reply),
) -> Result<Response> {
    let api = Arc::clone(&call.api);
    let body = Incoming::new(body, api.patience.body);
    let asks = (table, &call.who, reply.flow.as_ref());
    let entered = api.entrance.receive(asks, body).await;
    let (body, seats) = entered.inspect_err(|error| reply.terminated = is_turned_away(error))?;
    reply.received = true;
    reply.waited.add(seats.waited());
    record.body(&parts.headers, &body);
    call.body = body;
    call.upgrade = parts.extensions.remove::<OnUpgrade>();
    call.headers = parts.headers;
    let warning = call.target.kind.warning();
    if warning.is_some() {
        record.told().add([(DEPRECATED.to_owned(), "true".to_owned())]);
    }
    let warnings: Vec<String> = warning.map(str::to_owned).into_iter().collect();
    match performed(&call, verb).await {
        Ok(response) => Ok(render::warn(response, warnings)),
        Err(error) => Err(error.after(warnings)),
    }
}

/// Whether a request has no seats for that there are too many.
pub(super) fn is_turned_away(error: &ApiError) -> bool {
    error.code == StatusCode::TOO_MANY_REQUESTS
}

/// Does what was asked for, within the bound that it has.
async fn performed(call: &Call, verb: &str) -> Result<Response> {
    match deadline::of_writing(verb, call.target.subresource.as_deref()) {
        None => perform(call, verb).await,
        Some(within) => {
            let done = tokio::time::timeout(within, perform(call, verb)).await;
            done.unwrap_or_else(|_| Err(ApiError::writing_took_too_long()))
        }
    }
}

/// What the path names. A custom resource may have been established a moment ago, by the same client.
async fn find(api: &Api, path: &str) -> Result<Option<Result<Route>>> {
    let missing = |route: &Option<Result<Route>>| match route {
        Some(Err(error)) => error.code == StatusCode::NOT_FOUND,
        Some(Ok(Route::Group(_) | Route::Resources { .. })) => true,
        _ => false,
    };
    let route = route::parse(&api.kinds.load(), path);
    if !missing(&route) {
        return Ok(route);
    }
    api.cache.fresh().await?;
    api.definitions.sync().await?;
    Ok(route::parse(&api.kinds.load(), path))
}

/// What is no resource: documents about the API, and nothing. `who` asks, by what name of the request.
async fn elsewhere(
    api: &Api,
    who: (&Identity, Option<HeaderValue>),
    mut parts: Parts,
    body: Body,
    route: Option<Result<Route>>,
) -> Result<Response> {
    match route {
        None => match health::one(api, parts.uri.path())
            .await
            .or_else(|| oidc::answer(api, &parts))
        {
            Some(response) => Ok(response),
            None => match aggregate::openapi(api, who, &mut parts, body).await? {
                Some(response) => Ok(response),
                None => version::answer(api, &parts).await,
            },
        },
        Some(Ok(route)) => discovery::answer(api, &route, &parts).await,
        Some(Err(error)) => discovery::refuse(parts.uri.path(), error),
    }
}

/// The verb of a request, as upstream's authorizers and audit logs name it: below `watch/` it is that whatever the method,
/// and one object is watched nowhere else.
fn verb(method: &Method, target: &Target, query: &Query, watched: bool) -> Result<&'static str> {
    if proxy::is_proxied(target) {
        return proxy::verb(method);
    }
    let named = target.name.is_some();
    let verb = match (method.as_str(), named) {
        _ if watched => "watch",
        ("GET", false) if query.flag("watch") => "watch",
        ("GET", true) => "get",
        ("GET", false) => "list",
        ("POST", _) => "create",
        ("PUT", true) => "update",
        ("PATCH", true) => "patch",
        ("DELETE", true) => "delete",
        ("DELETE", false) => "deletecollection",
        _ => return Err(ApiError::method_not_allowed()),
    };
    let served = match &target.subresource {
        Some(name) => target
            .kind
            .subresource(name)
            .is_some_and(|sub| sub.verbs.iter().any(|v| v == verb)),
        None => target.kind.has_verb(verb) && !(verb == "create" && named),
    };
    let collection_of_all = target.kind.namespaced && target.namespace.is_none();
    let writes = !matches!(verb, "get" | "list" | "watch");
    match served {
        true if !(writes && collection_of_all) => Ok(verb),
        _ if named && target.subresource.is_none() && !has_items(&target.kind) => {
            Err(ApiError::no_resource())
        }
        _ => Err(ApiError::method_not_allowed()),
    }
}

/// Whether there is ever an object of the kind: questions are only asked.
fn has_items(kind: &Kind) -> bool {
    ["get", "update", "patch", "delete"]
        .iter()
        .any(|verb| kind.has_verb(verb))
}

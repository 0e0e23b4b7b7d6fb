//! The Kubernetes API over HTTP: routing, verbs, and what an answer looks like.
//!
//! Flow: TLS → who is it → which path → may they → verb. Refuses to know any one kind: kinds are rows in `kinds`, and
//! what is special about them is a rule there or in `admission`.
mod about;
mod aggregate;
mod asked;
mod authenticate;
mod cache;
mod convert;
mod create;
mod custom;
mod deadline;
mod decode;
mod delete;
mod depth;
mod discovery;
mod dispatch;
mod fairness;
mod flagz;
mod flows;
mod glance;
mod head;
mod header_room;
mod health;
mod held;
mod impersonate;
mod indent;
mod large;
mod list;
mod manage;
mod metrics;
mod negotiate;
mod object;
mod objects;
mod oidc;
mod openapi;
mod operations;
mod origin;
mod others;
mod owners;
mod patch;
mod permit;
mod places;
mod posted;
mod precondition;
mod query;
mod reader;
mod record;
mod render;
mod resource_metrics;
mod reviews;
mod route;
mod selectors;
pub mod serve;
mod shown;
mod size;
pub mod status;
mod strictness;
pub mod subresource;
mod syntax;
mod texts;
mod token;
mod version;
mod watch;
mod websocket;
mod write;
mod written;
mod yaml;
mod zpages;

pub use cache::Cache;
pub use custom::Definitions;
pub(crate) use decode::{json as decoded_json, sent as decoded, word};
pub use fairness::Entrance;
pub use flagz::Flags;
pub use flows::Flows;
pub use held::Room;
pub use impersonate::Ways;
pub use metrics::{Metrics, Unavailable};
pub(crate) use object::{encode, encode_owned};
pub use openapi::OpenApi;
pub(crate) use operations::Failure as PatchFailure;
pub(crate) use patch::apply_operations;
pub(crate) use posted::{SCHEME, unregistered};
pub use token::Tokens;
pub use version::{GIT_VERSION, VERSION};

use crate::admission::{Admission, Objects};
use crate::audit::{Audit, Told};
use crate::auth::pki::FrontProxy;
use crate::auth::tokens::TokenAuthenticator;
use crate::auth::{Authorizer, Identity, Reader};
use crate::kinds::{Live, protobuf};
use crate::resource_metrics::ResourceMetrics;
use crate::store::Store;
use aggregate::Documents;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use dispatch::{Reply, dispatch};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use metrics::Waited;
use negotiate::Format;
use object::Object;
pub use objects::CachedObjects;
use others::Others;
use query::Query;
use record::Record;
use render::Style;
use route::Target;
use serde_json::Value;
use status::{ApiError, Result};
use std::sync::Arc;
use written::{Left, Written};

/// Everything that answering takes.
pub struct Api {
    pub store: Arc<dyn Store>,
    pub cache: Arc<Cache>,
    pub kinds: Arc<Live>,
    /// Keeps `kinds` in step with the CustomResourceDefinitions.
    pub definitions: Definitions,
    pub admission: Admission,
    pub authorizer: Authorizer,
    /// By which right who acts as others did so last.
    pub ways: Ways,
    pub reader: Arc<dyn Reader>,
    /// What Services and their endpoints are looked up in, to call what definitions name.
    pub objects: Arc<dyn Objects>,
    pub bearers: TokenAuthenticator,
    pub audit: Audit,
    pub tokens: Tokens,
    pub metrics: Metrics,
    /// What this server runs by.
    pub flags: Flags,
    /// What Nodes and Pods use.
    pub resource_metrics: Arc<ResourceMetrics>,
    pub entrance: Entrance,
    /// For answers that are held whole.
    pub room: Room,
    pub flows: Flows,
    /// How long a client may take.
    pub patience: serve::Patience,
    pub openapi: OpenApi,
    /// Who we are to extension servers.
    pub front_proxy: FrontProxy,
    /// What extension servers say about themselves.
    pub(crate) documents: Documents,
    /// Reaches the kubelet API of nodes.
    pub nodes: subresource::NodeClient,
    /// TLS to backends of `proxy` whose name says `https:`.
    pub proxy_tls: subresource::ProxyTls,
}

/// The API as a service; the identity is an extension of the request.
pub fn router(api: Arc<Api>) -> Router {
    Router::new()
        .fallback(answer)
        .with_state(api)
        .layer(axum::middleware::from_fn(large::apart))
}

/// One request to a resource, with all that has been read of it.
pub struct Call {
    pub api: Arc<Api>,
    pub who: Identity,
    pub verb: &'static str,
    pub target: Target,
    pub query: Query,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// The connection, where it may become another protocol's.
    pub upgrade: Option<OnUpgrade>,
    /// From a part of this program.
    pub in_process: bool,
    /// For the audit log.
    pub told: Told,
    /// For the owners of fields.
    pub others: Others,
    /// What this call waited for.
    waited: Waited,
}

impl Call {
    /// The named object's name; 405 where the verb needs one and the path has none.
    pub fn name(&self) -> Result<&str> {
        self.target
            .name
            .as_deref()
            .ok_or_else(ApiError::method_not_allowed)
    }

    /// A part of this call that is about something else, and for which nothing was sent.
    fn about(&self, target: Target) -> Call {
        Call {
            api: self.api.clone(),
            who: self.who.clone(),
            verb: self.verb,
            target,
            query: self.query.clone(),
            headers: self.headers.clone(),
            body: Bytes::new(),
            upgrade: None,
            in_process: self.in_process,
            told: self.told.clone(),
            others: Others::default(),
            waited: self.waited.clone(),
        }
    }
}

/// What was answered to one client is not for another, nor for later (upstream's `WithCacheControl`).
const UNCACHED: &str = "no-cache, private";

async fn answer(State(api): State<Arc<Api>>, request: Request) -> Response {
    let measured = Metrics::begin(&api, &request);
    let mut record = Record::begin(&api, &request);
    let accept = request.headers().get(header::ACCEPT).cloned();
    let mut indents = negotiate::is_pretty(&request);
    let mut reply = Reply::default();
    let outcome = dispatch(api, request, &mut record, &mut reply).await;
    let (mut format, mut barred) = (Format::Json, false);
    match &outcome {
        Err(error) => {
            let agreed = negotiate::of_status(accept.as_ref(), !reply.custom);
            // What was not agreed upon upstream writes for people.
            indents |= agreed.is_none();
            format = agreed.unwrap_or(Format::Json);
            barred = error.code == StatusCode::FORBIDDEN && !reply.allowed;
        }
        Ok(_) => indents &= reply.document,
    }
    let mut response = record.end(outcome, format).await;
    if indents && is_json(&response) {
        response = indent::indented(response);
    }
    let mut response = measured.end(response, &reply);
    render::tell_warnings(&mut response);
    let headers = response.headers_mut();
    if barred {
        headers.insert(
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        );
    }
    if let Some(flow) = reply.flow {
        flow.mark(headers);
    }
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static(UNCACHED));
    response
}

/// Whether an answer is JSON, of whatever shape.
fn is_json(response: &Response) -> bool {
    let of = response.headers().get(header::CONTENT_TYPE);
    of.is_some_and(|of| of.as_bytes().starts_with(b"application/json"))
}

/// Whether what the target shows has a protobuf form.
fn has_binary_form(target: &Target) -> bool {
    let kind = &target.kind;
    let scale = target.subresource.as_deref() == Some("scale");
    scale || kind.custom.is_none() && protobuf::has_form(&kind.api_version(), &kind.kind)
}

async fn perform(call: &Call, verb: &str) -> Result<Response> {
    let accepted = negotiate::accept(&call.headers, has_binary_form(&call.target))?;
    let style = Style::of(accepted, &call.query)?;
    if let Some(response) = reviews::answer(call, verb, style).await? {
        return Ok(response);
    }
    if let Some(response) = resource_metrics::answer(call, verb, style).await? {
        return Ok(response);
    }
    if let Some(response) = subresource::answer(call, verb, style).await? {
        return Ok(response);
    }
    match verb {
        "get" => get(call, style).await,
        "list" => list::serve(call, style).await,
        "watch" => websocket::watch(call, watch::serve(call, style).await?),
        "create" => create(call, style).await,
        "update" => update(call, style).await,
        "patch" => patch::serve(call, style).await,
        "delete" => delete::serve(call, style).await,
        "deletecollection" => delete::collection(call, style).await,
        _ => Err(ApiError::method_not_allowed()),
    }
}

async fn get(call: &Call, style: Style) -> Result<Response> {
    let name = call.name()?;
    match call.query.revision()? {
        Some(revision) => call.api.cache.at_least(revision).await?,
        None => call.api.cache.fresh().await?,
    };
    let found = call
        .api
        .cache
        .resource(&call.target.kind)?
        .get(&call.target.key(name));
    let kind = &call.target.kind;
    let object = found.ok_or_else(|| ApiError::not_found(kind, name))?;
    match kind.converter() {
        None => render::stored(kind, style, &object),
        Some(_) => {
            let value = convert::value(&call.api, kind, &object).await?;
            render::one(kind, style, StatusCode::OK, &value)
        }
    }
}

async fn create(call: &Call, style: Style) -> Result<Response> {
    let options = write::Options::of(&call.query, "CreateOptions")?;
    let body = decode::object(
        &call.target.kind.kind,
        negotiate::body(&call.headers)?,
        &call.body,
    )?;
    written(
        call,
        style,
        create::create(call, options, body.value, body.issues).await?,
    )
}

async fn update(call: &Call, style: Style) -> Result<Response> {
    let name = call.name()?;
    let options = write::Options::of(&call.query, "UpdateOptions")?;
    let body = decode::object(
        &call.target.kind.kind,
        negotiate::body(&call.headers)?,
        &call.body,
    )?;
    decode::check_kind(&call.target.kind, &body.value)?;
    call.told.object(&body.value);
    let change = |_: &Value| Ok((body.value.clone(), body.issues.clone()));
    let result = match write::update(call, options, name, &change).await {
        Err(error) if error.code == StatusCode::NOT_FOUND && creates(call, name, &body.value) => {
            let mut value = body.value.clone();
            if let Some(uid) = value["metadata"]["uid"].as_str().filter(|uid| !uid.is_empty()) {
                return Err(precondition::another_uid(&call.target.kind, name, uid, ""));
            }
            precondition::forget_version(&mut value);
            create::create(call, options, value, body.issues.clone()).await
        }
        Err(error) if error.code == StatusCode::NOT_FOUND => {
            write::check_name(write::name_of(&body.value), name)?;
            let mut value = body.value.clone();
            if strictness::prune(call, options, &mut value, body.issues.clone()).is_ok() {
                write::tell_sent(call, &value);
            }
            Err(error)
        }
        result => result,
    };
    written(call, style, result?)
}

/// Whether an update of what is not there creates it.
fn creates(call: &Call, name: &str, body: &Value) -> bool {
    let kind = &call.target.kind;
    call.target.subresource.is_none() && kind.creates_on_update() && body["metadata"]["name"] == name
}

fn written(call: &Call, style: Style, written: Written) -> Result<Response> {
    let code = if written.created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    let kind = &call.target.kind;
    let response = match written.object {
        Left::Bytes(json, _) if style.is_plain() => render::json_response(code, Body::from(json)),
        other => render::one(kind, style, code, &other.value()?)?,
    };
    Ok(render::warn(response, written.warnings))
}

impl Api {
    /// The named object as it lies in the cache now, or 404. [`convert::value`] makes of it what the target shows.
    async fn read(&self, target: &Target, name: &str) -> Result<Arc<Object>> {
        self.cache.fresh().await?;
        let found = self.cache.resource(&target.kind)?.get(&target.key(name));
        found.ok_or_else(|| ApiError::not_found(&target.kind, name))
    }

    /// As above after a lost race: from the store itself.
    async fn reread(&self, target: &Target, name: &str) -> Result<Arc<Object>> {
        let stored_as = self.cache.resource(&target.kind)?.kind.clone();
        let found = self.store.get(&target.key(name)).await?;
        let kv = found.ok_or_else(|| ApiError::not_found(&target.kind, name))?;
        Ok(Arc::new(
            Object::read(&stored_as, &kv).map_err(ApiError::internal)?,
        ))
    }
}

/// A UUID of version 4 from this thread's own generator: every request has one, and the kernel is not asked each time.
pub(crate) fn random_id() -> String {
    let id = uuid::Builder::from_random_bytes(rand::random());
    id.into_uuid().to_string()
}

/// A plain text answer.
fn text(code: StatusCode, body: impl Into<Body>) -> Response {
    let content = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (code, content, body.into()).into_response()
}

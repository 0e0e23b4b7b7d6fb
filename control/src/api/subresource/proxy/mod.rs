//! `proxy` of pods, services and nodes: a request goes on to what it names, and the answer comes back as it is made.
//!
//! Flow: whom the name means (`location`) → the request as the backend is to see it (`rewrite`) → a connection of its own
//! (`backend`) → the answer, with redirects and, in a page, links (`page`) led back through here. An upgrade becomes a
//! connection passed on.
mod backend;
mod coding;
mod links;
mod location;
mod page;
pub(in crate::api) mod rewrite;

use super::super::route::Target;
use super::super::status::{ApiError, Result};
use super::super::{Api, Call, serve::ClientAddress};
use super::stream::{connecting, join};
use crate::kinds::view::View;
use axum::body::Body;
use axum::response::Response;
use backend::Failed;
use coding::Coding;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Version, header};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use location::Backend;
use rewrite::Through;
use serde_json::json;

pub use backend::ProxyTls;

const SUBRESOURCE: &str = "proxy";

/// Whether the request goes on to a backend, whatever its method and body.
pub(in crate::api) fn is_proxied(target: &Target) -> bool {
    target.subresource.as_deref() == Some(SUBRESOURCE)
}

/// The verb under which a method is authorised; upstream has none for `OPTIONS`.
pub(in crate::api) fn verb(method: &Method) -> Result<&'static str> {
    Ok(match method.as_str() {
        "GET" | "HEAD" => "get",
        "POST" => "create",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" => "delete",
        "OPTIONS" => "",
        _ => return Err(ApiError::method_not_allowed()),
    })
}

/// Hands the request on. The body passes as it comes.
pub(in crate::api) async fn serve(call: &Call, mut parts: Parts, body: Body) -> Result<Response> {
    let (api, target) = (&*call.api, &call.target);
    let through = Through::read(target, parts.uri.path())?;
    let through = admitted(call, through).await?;
    let backend = location::find(api, target).await?;
    let client = parts.extensions.remove::<OnUpgrade>();
    if rewrite::is_upgrade(&parts.headers) {
        let Some(client) = client else {
            return Err(ApiError::bad_request(
                "this connection cannot become another protocol's; use HTTP/1.1",
            ));
        };
        return upgrade(api, &backend, &through, parts, client).await;
    }
    if through.is_root() && matches!(parts.method, Method::GET | Method::HEAD) {
        return moved(&parts);
    }
    let request = request(&through, &parts, body);
    let answer = backend::send(api, &backend, request).await;
    let mut answer = answer.map_err(|why| ApiError::unreachable(&why.to_string()))?;
    rewrite::answer(answer.headers_mut());
    let host = parts.headers.get(header::HOST);
    let moves = answer.headers().contains_key(header::LOCATION);
    through.lead_back(&backend.authority, host, answer.headers_mut());
    let coding = Coding::of(answer.headers()).filter(|_| page::is_page(answer.headers()));
    let Some(coding) = coding.filter(|_| !moves && parts.method != Method::HEAD) else {
        return Ok(answer.map(Body::new));
    };
    let host = host
        .and_then(|host| host.to_str().ok())
        .unwrap_or_default()
        .to_owned();
    page::sent_on(answer.map(Body::new), coding, page::WHOLE_WITHIN, move |link| {
        through.led_back(link, &backend.authority, &host)
    })
    .await
}

/// Where the request goes, as admission leaves it.
async fn admitted(call: &Call, through: Through) -> Result<Through> {
    let path = if through.is_root() {
        String::new()
    } else {
        through.uri(None).to_string()
    };
    let name = call.target.name.as_deref().unwrap_or_default();
    let options = connecting(call, name, json!({ "path": path })).await?;
    match options.text("path") {
        same if same == path => Ok(through),
        other => through.to(other),
    }
}

/// A page at the root needs a path that ends in `/`, for its relative links.
fn moved(parts: &Parts) -> Result<Response> {
    let query = parts.uri.query().map_or_else(String::new, |q| format!("?{q}"));
    let place = HeaderValue::try_from(format!("{}/{query}", parts.uri.path())).map_err(ApiError::internal)?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    response.headers_mut().insert(header::LOCATION, place);
    Ok(response)
}

fn request(through: &Through, parts: &Parts, body: Body) -> Request<Body> {
    let mut request = Request::new(body);
    *request.method_mut() = parts.method.clone();
    *request.version_mut() = Version::HTTP_11;
    *request.uri_mut() = through.uri(parts.uri.query());
    let mut headers = rewrite::headers(&parts.headers);
    identify(&mut headers, parts);
    headers.insert("x-forwarded-uri", through.forwarded_uri());
    *request.headers_mut() = headers;
    request
}

/// The `Host` that the client asked for, and where it is.
fn identify(headers: &mut HeaderMap, parts: &Parts) {
    let authority = parts.uri.authority().map(|a| a.as_str());
    if let Some(Ok(host)) = authority.map(HeaderValue::from_str)
        && !headers.contains_key(header::HOST)
    {
        headers.insert(header::HOST, host);
    }
    if let Some(from) = parts.extensions.get::<ClientAddress>() {
        rewrite::forwarded_for(headers, from.0);
    }
}

async fn upgrade(
    api: &Api,
    backend: &Backend,
    through: &Through,
    parts: Parts,
    client: OnUpgrade,
) -> Result<Response> {
    let mut request = Request::new(Body::empty());
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = through.uri(parts.uri.query());
    *request.headers_mut() = rewrite::upgrade_headers(&parts.headers);
    identify(request.headers_mut(), &parts);
    let answer = backend::send(api, backend, request)
        .await
        .map_err(|why: Failed| ApiError::bad_gateway(format!("error dialing backend: {why}")))?;
    match answer.status() {
        StatusCode::SWITCHING_PROTOCOLS => Ok(switched(client, answer)),
        code if code.as_u16() >= 400 => Ok(refused(answer)),
        code => {
            let why = format!("invalid upgrade response: status code {}", code.as_u16());
            Err(ApiError::bad_gateway(why))
        }
    }
}

fn switched(client: OnUpgrade, answer: http::Response<Incoming>) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = answer.headers().clone();
    tokio::spawn(join(client, answer));
    response
}

/// The backend's refusal; what the client sent ahead must not be taken for a request.
fn refused(answer: http::Response<Incoming>) -> Response {
    let mut answer = answer.map(Body::new);
    rewrite::answer(answer.headers_mut());
    let close = HeaderValue::from_static("close");
    answer.headers_mut().insert(header::CONNECTION, close);
    answer
}

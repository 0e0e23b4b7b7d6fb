//! Handing a request on, and the answer back.
use super::super::status::Result;
use super::super::subresource::join;
use super::super::{Api, text};
use super::{Remote, UNAVAILABLE};
use crate::auth::Identity;
use crate::callout::{self, Place, Trust, requestheader};
use crate::kinds::view::View;
use axum::body::Body;
use axum::response::Response;
use http::request::Parts;
use http::{HeaderMap, HeaderName, Request, StatusCode, header};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use std::time::Duration;

/// How long another server may take to begin its answer; a watch begins at once.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
const IMPERSONATE: &str = "impersonate-";
/// What is about one connection, not about the request (RFC 9110, 7.6.1).
const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// The other server's answer, whatever it is.
pub(super) async fn forward(
    api: &Api,
    remote: &Remote,
    who: &Identity,
    parts: &mut Parts,
    body: Body,
) -> Result<Response> {
    let place = match Place::by_service(api.objects.as_ref(), remote.spec.at("service")) {
        Ok(place) => place,
        Err(why) => {
            tracing::warn!(group = remote.group, why, "an extension server cannot be found");
            return Ok(text(StatusCode::SERVICE_UNAVAILABLE, UNAVAILABLE));
        }
    };
    let upgrade = parts.headers.get(header::UPGRADE).cloned();
    let client = parts.extensions.remove::<OnUpgrade>();
    let mut headers = passed_on(&parts.headers);
    requestheader::introduce(&mut headers, who);
    if let (Some(protocol), Some(_)) = (&upgrade, &client) {
        headers.insert(header::UPGRADE, protocol.clone());
        headers.insert(header::CONNECTION, header::HeaderValue::from_static("Upgrade"));
    }
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    match exchange(api, remote, &place, (parts.method.clone(), path), headers, body).await {
        Ok(answer) => Ok(passed_back(answer, client)),
        Err(why) => {
            let why = format!("error trying to reach service: {why}\n");
            Ok(text(StatusCode::SERVICE_UNAVAILABLE, why))
        }
    }
}

async fn exchange(
    api: &Api,
    remote: &Remote,
    place: &Place,
    (method, path): (http::Method, &str),
    headers: HeaderMap,
    body: Body,
) -> std::result::Result<http::Response<Incoming>, String> {
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().map_err(|e| format!("{e}"))?;
    *request.headers_mut() = headers;
    let host = place.authority.parse().map_err(|e| format!("{e}"))?;
    request.headers_mut().insert(header::HOST, host);
    let sent = callout::send(place, trust(remote), Some(&api.front_proxy.client), request);
    match tokio::time::timeout(ANSWER_WITHIN, sent).await {
        Ok(answer) => answer,
        Err(_) => Err("context deadline exceeded".to_owned()),
    }
}

/// Whom the APIService says to trust.
pub(super) fn trust(remote: &Remote) -> Trust<'_> {
    match remote.spec.flag("insecureSkipTLSVerify") {
        true => Trust::Anyone,
        false => Trust::Bundle(remote.spec.at("caBundle").as_str()),
    }
}

fn passed_on(headers: &HeaderMap) -> HeaderMap {
    let mut out = headers.clone();
    for name in &HOP_BY_HOP {
        out.remove(name);
    }
    let impersonating: Vec<HeaderName> = out
        .keys()
        .filter(|name| name.as_str().starts_with(IMPERSONATE))
        .cloned()
        .collect();
    impersonating.iter().for_each(|name| drop(out.remove(name)));
    out
}

fn passed_back(answer: http::Response<Incoming>, client: Option<OnUpgrade>) -> Response {
    let code = answer.status();
    if code.is_redirection() && code != StatusCode::NOT_MODIFIED {
        let why = "the backend attempted to redirect this request, which is not permitted\n";
        return text(StatusCode::BAD_GATEWAY, why);
    }
    let mut headers = answer.headers().clone();
    let switches = code == StatusCode::SWITCHING_PROTOCOLS;
    if !switches {
        HOP_BY_HOP.iter().for_each(|name| drop(headers.remove(name)));
    }
    let mut response = match (switches, client) {
        (true, Some(client)) => {
            tokio::spawn(join(client, answer));
            Response::new(Body::empty())
        }
        _ => Response::new(Body::new(answer.into_body())),
    };
    *response.status_mut() = code;
    *response.headers_mut() = headers;
    response
}

//! Handing a request on, and the answer back.
use super::super::record::{ID, RequestId};
use super::super::serve::ClientAddress;
use super::super::status::Result;
use super::super::subresource::{forwarded_for, join};
use super::super::{Api, text};
use super::{Remote, UNAVAILABLE};
use crate::auth::Identity;
use crate::callout::{self, Place, Trust, requestheader};
use crate::kinds::view::View;
use axum::body::Body;
use axum::response::Response;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use std::time::Duration;

/// How long another server may take to begin its answer; a watch begins at once.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
const IMPERSONATE: &str = "impersonate-";
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");
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
    trace(&mut headers, parts);
    if let (Some(protocol), Some(_)) = (&upgrade, &client) {
        headers.insert(header::UPGRADE, protocol.clone());
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    } else {
        lead(&mut headers, &place, parts);
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

/// By what name the request is known here, and whose it is: who is told one may not choose the other.
fn trace(headers: &mut HeaderMap, parts: &Parts) {
    if let Some(RequestId(id)) = parts.extensions.get() {
        headers.insert(ID, id.clone());
    }
    if let Some(ClientAddress(client)) = parts.extensions.get() {
        forwarded_for(headers, *client);
    }
}

/// Where the request goes, for what the other server says of itself; no upgrade tells it, as upstream.
fn lead(headers: &mut HeaderMap, place: &Place, parts: &Parts) {
    for (name, value) in [
        (&FORWARDED_HOST, place.address.as_str()),
        (&FORWARDED_PROTO, "https"),
        (&FORWARDED_URI, parts.uri.path()),
    ] {
        match HeaderValue::from_str(value) {
            Ok(value) => headers.insert(name, value),
            // A client's own is not believed.
            Err(_) => headers.remove(name),
        };
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What the other server is told of a request that says some of it himself.
    fn told(path: &str, extended: bool) -> HeaderMap {
        let request = Request::get(path)
            .header("audit-id", "x".repeat(100))
            .header("x-forwarded-for", "9.9.9.9")
            .header("x-forwarded-for", "8.8.8.8")
            .header("x-forwarded-host", "mine");
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        if extended {
            parts.extensions.insert(RequestId(HeaderValue::from_static("id")));
            parts.extensions.insert(ClientAddress([10, 0, 0, 1].into()));
        }
        let place = Place {
            host: "s.n.svc".to_owned(),
            authority: "s.n.svc:443".to_owned(),
            address: "10.1.1.1:8443".to_owned(),
            path: "/".to_owned(),
        };
        let mut headers = passed_on(&parts.headers);
        trace(&mut headers, &parts);
        lead(&mut headers, &place, &parts);
        headers
    }

    #[test]
    fn the_other_server_learns_whose_request_it_is_and_by_what_name() {
        let headers = told("/apis/g/v1/foos/?a=b", true);
        for (name, want) in [
            ("audit-id", "id"),
            ("x-forwarded-for", "9.9.9.9, 8.8.8.8, 10.0.0.1"),
            ("x-forwarded-host", "10.1.1.1:8443"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-uri", "/apis/g/v1/foos/"),
        ] {
            let all: Vec<_> = headers.get_all(name).iter().collect();
            assert_eq!(all, [want], "{name}");
        }
        let own = told("/apis/g/v1/foos", false);
        assert_eq!(own.get_all("x-forwarded-for").iter().count(), 2);
    }
}

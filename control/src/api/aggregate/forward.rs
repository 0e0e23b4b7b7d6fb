//! Handing a request on, and the answer back.
use super::super::record::ID;
use super::super::serve::ClientAddress;
use super::super::status::Result;
use super::super::subresource::join;
use super::super::subresource::proxy::rewrite;
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
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");

/// The other server's answer, whatever it is.
pub(super) async fn forward(
    api: &Api,
    remote: &Remote,
    (who, id): (&Identity, Option<HeaderValue>),
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
    let client = parts.extensions.remove::<OnUpgrade>();
    let client = client.filter(|_| rewrite::is_upgrade(&parts.headers));
    let headers = told(parts, (who, id), &place, client.is_some());
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let answer = exchange(api, remote, &place, (parts.method.clone(), path), headers, body).await;
    Ok(match (answer, client) {
        (Ok(answer), Some(client)) => switched(answer, client),
        (Ok(answer), None) => passed_back(answer),
        (Err(why), Some(_)) => unavailable(&format!("error dialing backend: {why}")),
        (Err(why), None) => unavailable(&format!("error trying to reach service: {why}")),
    })
}

fn unavailable(why: &str) -> Response {
    text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n"))
}

/// What the other server is told of a request: what the client says, but not whose it is, where it came from and by what name it
/// is known here, which are not his to choose. Of an upgrade he says himself where it goes: upstream passes that on.
fn told(
    parts: &Parts,
    (who, id): (&Identity, Option<HeaderValue>),
    place: &Place,
    upgrades: bool,
) -> HeaderMap {
    let mut headers = rewrite::headers(&parts.headers);
    requestheader::introduce(&mut headers, who);
    if let Some(id) = id {
        headers.insert(ID, id);
    }
    if let Some(ClientAddress(client)) = parts.extensions.get() {
        rewrite::forwarded_for(&mut headers, *client);
    }
    match parts.headers.get(header::UPGRADE) {
        Some(protocol) if upgrades => {
            headers.insert(header::UPGRADE, protocol.clone());
            headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        }
        _ => lead(&mut headers, place, parts),
    }
    headers
}

/// Where the request goes, for what the other server says of itself.
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

/// The answer to a request for another protocol: that, or a refusal, after which nothing more of the client's is read. There is no
/// third (upstream's `tryUpgrade`).
fn switched(answer: http::Response<Incoming>, client: OnUpgrade) -> Response {
    let (code, mut headers) = (answer.status(), answer.headers().clone());
    let body = match code {
        StatusCode::SWITCHING_PROTOCOLS => {
            tokio::spawn(join(client, answer));
            Body::empty()
        }
        code if code.as_u16() < 400 => {
            return unavailable(&format!(
                "invalid upgrade response: status code {}",
                code.as_u16()
            ));
        }
        _ => {
            rewrite::answer(&mut headers);
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            Body::new(answer.into_body())
        }
    };
    let mut response = Response::new(body);
    *response.status_mut() = code;
    *response.headers_mut() = headers;
    response
}

fn passed_back(answer: http::Response<Incoming>) -> Response {
    let place = answer.headers().get(header::LOCATION);
    if answer.status().is_redirection() && place.is_some_and(|place| !place.is_empty()) {
        let why = "the backend attempted to redirect this request, which is not permitted";
        return text(StatusCode::BAD_GATEWAY, why);
    }
    let mut answer = answer.map(Body::new);
    rewrite::answer(answer.headers_mut());
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "mine";

    /// What the other server is told of a request that says all of it himself.
    fn headers(upgrades: bool) -> HeaderMap {
        let mut request = Request::get("/apis/g/v1/foos/?a=b");
        for name in [
            "audit-id",
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-proto",
            "x-forwarded-uri",
            "x-remote-user",
            "x-remote-group",
            "impersonate-user",
            "x-mine",
            "x-other",
        ] {
            request = request.header(name, OWN);
        }
        let request = request
            .header("upgrade", "websocket")
            .header("connection", "X-Mine, Upgrade");
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        parts.extensions.insert(ClientAddress([10, 0, 0, 1].into()));
        let place = Place {
            host: "s.n.svc".to_owned(),
            authority: "s.n.svc:443".to_owned(),
            address: "10.1.1.1:8443".to_owned(),
            path: "/".to_owned(),
        };
        let who = Identity::new("bob", []);
        let id = Some(HeaderValue::from_static("id"));
        told(&parts, (&who, id), &place, upgrades)
    }

    #[test]
    fn the_other_server_learns_whose_request_it_is_and_by_what_name() {
        let (plain, upgraded) = (headers(false), headers(true));
        for (name, want, of_upgrade) in [
            ("audit-id", "id", "id"),
            ("x-forwarded-for", "mine, 10.0.0.1", "mine, 10.0.0.1"),
            ("x-forwarded-host", "10.1.1.1:8443", OWN),
            ("x-forwarded-proto", "https", OWN),
            ("x-forwarded-uri", "/apis/g/v1/foos/", OWN),
            ("x-remote-user", "bob", "bob"),
            ("x-remote-group", "system:authenticated", "system:authenticated"),
            ("x-other", OWN, OWN),
            ("x-mine", "", ""),
            ("impersonate-user", "", ""),
            ("upgrade", "", "websocket"),
            ("connection", "", "Upgrade"),
        ] {
            for (headers, want) in [(&plain, want), (&upgraded, of_upgrade)] {
                let all: Vec<_> = headers.get_all(name).iter().collect();
                let wanted: Vec<&str> = [want].into_iter().filter(|want| !want.is_empty()).collect();
                assert_eq!(all, wanted, "{name}");
            }
        }
    }
}

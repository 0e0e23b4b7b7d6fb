//! `pods/attach`, `exec` and `portforward`: the request's connection becomes one with the Pod's node, byte for byte, once both have agreed on a
//! protocol. Which one is the client's and the node's business.
//!
//! Until the node has agreed no byte of the client's beyond its request goes there, and when it refuses, the client's
//! connection is closed: what a client sent ahead must not be taken for a request (CVE-2018-1002105).
use super::super::status::{self, ApiError, Result};
use super::super::{Call, render, write};
use super::node::{self, escape};
use crate::admission::{Action, Notes};
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

/// One direction's buffer of a connection passed on.
const BUFFER: usize = 32 << 10;

const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
/// What of the request, and of the answer, belongs to the change of protocol.
const PASSED_ON: [HeaderName; 8] = [
    header::CONNECTION,
    header::UPGRADE,
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_ACCEPT,
    header::SEC_WEBSOCKET_VERSION,
    header::SEC_WEBSOCKET_PROTOCOL,
    header::SEC_WEBSOCKET_EXTENSIONS,
    STREAM_PROTOCOL,
];

/// Serves a subresource whose answer is a connection.
pub(super) async fn serve(call: &Call, name: &str, subresource: &str) -> Response {
    let answer = connect(call, name, subresource).await;
    let mut response = answer.unwrap_or_else(IntoResponse::into_response);
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    response
}

async fn connect(call: &Call, name: &str, subresource: &str) -> Result<Response> {
    let pod = call.api.read(&call.target, name).await?;
    let pod = render::value(&call.target.kind, pod.as_ref())?;
    admit(call, name, subresource).await?;
    let path = path(call, &pod, name, subresource)?;
    let Some(node) = pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()) else {
        return Err(ApiError::bad_request(format!(
            "pod {name} does not have a host assigned"
        )));
    };
    if !call.headers.contains_key(header::UPGRADE) {
        return Err(ApiError::bad_request("Upgrade request required"));
    }
    let Some(client) = call.upgrade.clone() else {
        return Err(ApiError::bad_request(
            "this connection cannot become another protocol's; use HTTP/1.1",
        ));
    };
    let node = node::find(call, node)?;
    let mut request = Request::get(path);
    for (key, value) in kept(&call.headers) {
        request = request.header(key, value);
    }
    let answer = call.api.nodes.send(&node, request).await?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(node::refusal(answer).await);
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    for (key, value) in kept(answer.headers()) {
        response.headers_mut().append(key, value.clone());
    }
    tokio::spawn(join(client, answer));
    Ok(response)
}

/// Admission of a connection: it is told what is asked for.
async fn admit(call: &Call, name: &str, subresource: &str) -> Result<()> {
    let kind = match subresource {
        "attach" => "PodAttachOptions",
        "exec" => "PodExecOptions",
        _ => "PodPortForwardOptions",
    };
    let mut options = json!({"kind": kind, "apiVersion": "v1"});
    for flag in ["stdin", "stdout", "stderr", "tty"] {
        if call.query.flag(flag) {
            options[flag] = true.into();
        }
    }
    if let Some(container) = call.query.get("container") {
        options["container"] = container.into();
    }
    let words: Vec<&str> = call.query.all("command").collect();
    if !words.is_empty() {
        options["command"] = json!(words);
    }
    let ports: Vec<i64> = call.query.all("ports").filter_map(|p| p.parse().ok()).collect();
    if !ports.is_empty() {
        options["ports"] = json!(ports);
    }
    connecting(call, name, &options).await
}

/// Admission of a request that becomes a connection, by its options.
pub(super) async fn connecting(call: &Call, name: &str, options: &Value) -> Result<()> {
    let review = write::review(call, false, name, Action::Connect);
    let mut notes = Notes::default();
    let admitted = call.api.admission.connect(&review, options, &mut notes).await;
    call.told.add(notes.audit);
    admitted.map_err(|denial| status::denied(&call.target.kind, name, denial))
}

fn kept(headers: &HeaderMap) -> impl Iterator<Item = (HeaderName, &HeaderValue)> {
    let of = |name: HeaderName| {
        headers
            .get_all(&name)
            .into_iter()
            .map(move |value| (name.clone(), value))
    };
    PASSED_ON.into_iter().flat_map(of)
}

/// Passes bytes both ways until both sides have ended.
pub(in crate::api) async fn join(client: hyper::upgrade::OnUpgrade, answer: http::Response<Incoming>) {
    let ends = tokio::try_join!(client, hyper::upgrade::on(answer));
    let (client, node) = match ends {
        Ok(ends) => ends,
        Err(error) => return tracing::debug!(%error, "a connection did not change its protocol"),
    };
    let (mut client, mut node) = (TokioIo::new(client), TokioIo::new(node));
    let passed = tokio::io::copy_bidirectional_with_sizes(&mut client, &mut node, BUFFER, BUFFER).await;
    if let Err(error) = passed {
        tracing::debug!(%error, "a connection to a node has ended");
    }
}

/// The path of the kubelet API, with its names for the options.
fn path(call: &Call, pod: &Value, name: &str, subresource: &str) -> Result<String> {
    let namespace = call.target.namespace.as_deref().unwrap_or_default();
    let (place, options) = match subresource {
        "portforward" => (format!("portForward/{namespace}/{name}"), ports(call)),
        _ => {
            let container = node::container(pod, name, call.query.get("container"))?;
            (
                format!("{subresource}/{namespace}/{name}/{container}"),
                command(call),
            )
        }
    };
    Ok(format!("/{place}?{}", options.join("&")))
}

fn ports(call: &Call) -> Vec<String> {
    let given = call.query.all("ports");
    given.map(|ports| format!("port={}", escape(ports))).collect()
}

fn command(call: &Call) -> Vec<String> {
    let streams = [
        ("stdin", "input"),
        ("stdout", "output"),
        ("stderr", "error"),
        ("tty", "tty"),
    ];
    let wanted = streams.iter().filter(|(theirs, _)| call.query.flag(theirs));
    let wanted = wanted.map(|(_, ours)| format!("{ours}=1"));
    let words = call.query.all("command");
    wanted
        .chain(words.map(|word| format!("command={}", escape(word))))
        .collect()
}

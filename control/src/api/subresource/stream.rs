//! `pods/attach`, `exec` and `portforward`: the request's connection becomes one with the Pod's node, byte for byte, once both have agreed on a
//! protocol. Which one is the client's and the node's business.
//!
//! Until the node has agreed no byte of the client's beyond its request goes there, and when it refuses, the client's
//! connection is closed: what a client sent ahead must not be taken for a request (CVE-2018-1002105).
use super::super::status::{self, ApiError, Result};
use super::super::{Call, render, write};
use super::node;
use crate::admission::{Action, Notes};
use crate::kinds::schema::Type;
use crate::kinds::view::View;
use crate::kinds::{Kind, posted};
use crate::uri::escape;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::num::{IntErrorKind, ParseIntError};

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
    let options = connecting(call, name, asked(call, options_of(call)?)?).await?;
    let pod = call.api.read(&call.target, name).await?;
    let pod = render::value(&call.target.kind, pod.as_ref())?;
    let path = path(&pod, subresource, &options)?;
    let Some(node) = pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()) else {
        return Err(ApiError::bad_request(format!(
            "pod {name} does not have a host assigned"
        )));
    };
    let node = node::find(call, node)?;
    if !call.headers.contains_key(header::UPGRADE) {
        return Err(ApiError::bad_request("Upgrade request required"));
    }
    let Some(client) = call.upgrade.clone() else {
        return Err(ApiError::bad_request(
            "this connection cannot become another protocol's; use HTTP/1.1",
        ));
    };
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

/// The kind of what may be asked of such a connection.
fn options_of(call: &Call) -> Result<&'static Kind> {
    let name = call.target.subresource.as_deref().unwrap_or_default();
    let subresource = call.target.kind.subresource(name);
    let kind = subresource.and_then(|subresource| posted::of_connection(&subresource.kind));
    kind.ok_or_else(ApiError::no_resource)
}

/// What the query asks for.
fn asked(call: &Call, kind: &Kind) -> Result<Value> {
    let mut options = json!({});
    for field in &kind.definition.fields {
        let name = field.name.as_str();
        options[name] = match &field.ty {
            Type::Bool => call.query.flag(name).into(),
            Type::List(_) if !call.query.has(name) => Value::Null,
            Type::List(item) if **item == Type::Int32 => numbers(call.query.all(name))?,
            Type::List(_) => call.query.all(name).collect(),
            _ => call.query.get(name).into(),
        };
    }
    Ok(options)
}

fn numbers<'t>(texts: impl Iterator<Item = &'t str>) -> Result<Value> {
    texts.flat_map(|text| text.split(',')).map(number).collect()
}

fn number(text: &str) -> Result<u16> {
    let why = |error: ParseIntError| match error.kind() {
        IntErrorKind::PosOverflow => "value out of range",
        _ => "invalid syntax",
    };
    text.parse().map_err(|error| {
        let why = why(error);
        ApiError::bad_request(format!(
            "cannot convert to []int32: strconv.ParseUint: parsing {text:?}: {why}"
        ))
    })
}

/// What is asked of a connection, as admission leaves it.
pub(super) async fn connecting(call: &Call, name: &str, mut options: Value) -> Result<Value> {
    if call.query.has("dryRun") {
        return Err(ApiError::bad_request("dryRun is not supported"));
    }
    let kind = options_of(call)?;
    kind.normalise(&mut options);
    let review = write::review(call, false, name, Action::Connect { kind });
    let mut notes = Notes::default();
    let admitted = call
        .api
        .admission
        .connect(&review, &mut options, &mut notes)
        .await;
    write::tell(call, &mut notes);
    let kind = &call.target.kind;
    admitted.map_err(|denial| status::denied(kind, name, denial).after(notes.warnings))?;
    Ok(options)
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
fn path(pod: &Value, subresource: &str, options: &Value) -> Result<String> {
    let (namespace, name) = (pod.text("metadata.namespace"), pod.text("metadata.name"));
    let (place, options) = match subresource {
        "portforward" => (format!("portForward/{namespace}/{name}"), ports(options)),
        _ => {
            let named = Some(options.text("container")).filter(|named| !named.is_empty());
            let container = node::container(pod, name, named)?;
            (
                format!("{subresource}/{namespace}/{name}/{container}"),
                command(options),
            )
        }
    };
    Ok(format!("/{place}?{}", options.join("&")))
}

fn ports(options: &Value) -> Vec<String> {
    let ports = options.list("ports").iter();
    ports.map(|port| format!("port={port}")).collect()
}

fn command(options: &Value) -> Vec<String> {
    let streams = [
        ("stdin", "input"),
        ("stdout", "output"),
        ("stderr", "error"),
        ("tty", "tty"),
    ];
    let wanted = streams.iter().filter(|(theirs, _)| options.flag(theirs));
    let wanted = wanted.map(|(_, ours)| format!("{ours}=1"));
    let words = options.list("command").iter().filter_map(Value::as_str);
    wanted
        .chain(words.map(|word| format!("command={}", escape(word))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_is_asked_for_what_admission_left() {
        let pod =
            json!({"metadata": {"namespace": "n", "name": "p"}, "spec": {"containers": [{"name": "c"}]}});
        for (subresource, options, want) in [
            (
                "exec",
                json!({"stdin": true, "tty": true, "command": ["sh", "-c", "a b"]}),
                "/exec/n/p/c?input=1&tty=1&command=sh&command=-c&command=a%20b",
            ),
            (
                "attach",
                json!({"container": "c", "stdout": true}),
                "/attach/n/p/c?output=1",
            ),
            (
                "portforward",
                json!({"ports": [80, 443]}),
                "/portForward/n/p?port=80&port=443",
            ),
        ] {
            assert_eq!(path(&pod, subresource, &options).expect("fits"), want);
        }
        assert!(path(&pod, "exec", &json!({"container": "other"})).is_err());
    }
}

//! Which protocol a client and this server both know, and the answer that switches to it (RFC 6455, section 4.2). Pure.

use axum::body::Body;
use axum::http::header::{
    CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use axum::http::{Response, StatusCode};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::server::routes::Refusal;

/// The protocols of exec and attach, best first.
const REMOTE_COMMAND: [(&str, Transport); 3] = [
    ("v5.channel.k8s.io", Transport::Channels(Protocol::V5)),
    ("v4.channel.k8s.io", Transport::Channels(Protocol::V4)),
    ("channel.k8s.io", Transport::Channels(Protocol::V1)),
];
const PORT_FORWARD: [(&str, Transport); 2] = [
    ("SPDY/3.1+portforward.k8s.io", Transport::Tunnel),
    ("v4.channel.k8s.io", Transport::Channels(Protocol::V4)),
];
const REMOTE_COMMAND_SPDY: [(&str, Transport); 1] = [("v4.channel.k8s.io", Transport::Spdy)];
const PORT_FORWARD_SPDY: [(&str, Transport); 1] = [("portforward.k8s.io", Transport::Spdy)];

const SPDY: &str = "SPDY/3.1";
const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");

/// What carries the streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Channels of a WebSocket.
    Channels(Protocol),
    /// SPDY inside a WebSocket.
    Tunnel,
    Spdy,
}

/// How the streams of exec and attach share a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// The last word is a sentence, and only where something failed.
    V1,
    V4,
    /// Knows the end of a single stream (KEP-4006).
    V5,
}

/// What both sides will speak, and the answer that says so.
#[derive(Debug)]
pub struct Agreed {
    pub response: Response<Body>,
    pub transport: Transport,
}

/// Agrees on a protocol for exec or attach.
pub fn remote_command(headers: &HeaderMap) -> Result<Agreed, Refusal> {
    agree(headers, &REMOTE_COMMAND, &REMOTE_COMMAND_SPDY)
}

/// Agrees on a protocol for port forwarding.
pub fn port_forward(headers: &HeaderMap) -> Result<Agreed, Refusal> {
    agree(headers, &PORT_FORWARD, &PORT_FORWARD_SPDY)
}

type Known<'a> = &'a [(&'static str, Transport)];

fn agree(headers: &HeaderMap, websocket: Known<'_>, spdy: Known<'_>) -> Result<Agreed, Refusal> {
    if words(headers, UPGRADE).any(|word| word.eq_ignore_ascii_case(SPDY)) {
        let (name, transport) = choose(headers, STREAM_PROTOCOL, spdy)?;
        let response = answer(SPDY, (STREAM_PROTOCOL, name));
        return Ok(Agreed { response, transport });
    }
    let key = websocket_key(headers)?;
    let (name, transport) = choose(headers, SEC_WEBSOCKET_PROTOCOL, websocket)?;
    let mut response = answer("websocket", (SEC_WEBSOCKET_PROTOCOL, name));
    // Base64 is visible ASCII.
    if let Ok(accept) = HeaderValue::try_from(derive_accept_key(key.as_bytes())) {
        response.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    Ok(Agreed { response, transport })
}

/// The best of what is known here that the client has offered.
fn choose(
    headers: &HeaderMap,
    offer: HeaderName,
    known: Known<'_>,
) -> Result<(&'static str, Transport), Refusal> {
    let offered: Vec<&str> = words(headers, offer).collect();
    let found = known.iter().find(|(name, _)| offered.contains(name)).copied();
    found.ok_or_else(|| {
        let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
        let text = format!("unable to upgrade: none of {offered:?} is known here; offer one of {names:?}");
        (StatusCode::FORBIDDEN, text)
    })
}

/// The key of a WebSocket handshake, where the request is one.
fn websocket_key(headers: &HeaderMap) -> Result<String, Refusal> {
    let refused = |text: &str| (StatusCode::BAD_REQUEST, text.to_owned());
    let has = |name: HeaderName, word: &str| words(headers, name).any(|w| w.eq_ignore_ascii_case(word));
    if !(has(CONNECTION, "upgrade") && has(UPGRADE, "websocket")) {
        return Err(refused("Upgrade request required"));
    }
    if !has(SEC_WEBSOCKET_VERSION, "13") {
        return Err(refused(
            "unable to upgrade: the version of WebSocket spoken here is 13",
        ));
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).and_then(|key| key.to_str().ok());
    key.map(str::to_owned)
        .ok_or_else(|| refused("unable to upgrade: the request has no Sec-WebSocket-Key"))
}

/// The comma-separated words of all headers of a name.
fn words(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let values = headers.get_all(name).into_iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

fn answer(protocol: &'static str, chosen: (HeaderName, &'static str)) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(protocol));
    headers.insert(chosen.0, HeaderValue::from_static(chosen.1));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(protocols: &'static str) -> HeaderMap {
        let pairs = [
            (CONNECTION, "keep-alive, Upgrade"),
            (UPGRADE, "WebSocket"),
            (SEC_WEBSOCKET_VERSION, "13"),
            (SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ=="),
            (SEC_WEBSOCKET_PROTOCOL, protocols),
        ];
        let pairs = pairs.map(|(name, value)| (name, HeaderValue::from_static(value)));
        pairs.into_iter().collect()
    }

    #[test]
    fn the_best_common_protocol_is_taken() {
        let agreed = remote_command(&headers("v4.channel.k8s.io, v5.channel.k8s.io")).unwrap();
        assert_eq!(agreed.transport, Transport::Channels(Protocol::V5));
        let answer = agreed.response.headers();
        assert_eq!(answer[SEC_WEBSOCKET_PROTOCOL], "v5.channel.k8s.io");
        // The example of RFC 6455, section 1.3.
        assert_eq!(answer[SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let older = remote_command(&headers("v4.channel.k8s.io")).unwrap();
        assert_eq!(older.transport, Transport::Channels(Protocol::V4));
        let oldest = remote_command(&headers("channel.k8s.io")).unwrap();
        assert_eq!(oldest.transport, Transport::Channels(Protocol::V1));
        let tunnel = port_forward(&headers("SPDY/3.1+portforward.k8s.io")).unwrap();
        assert_eq!(tunnel.transport, Transport::Tunnel);
        let mut spdy = HeaderMap::new();
        spdy.insert(UPGRADE, HeaderValue::from_static("SPDY/3.1"));
        spdy.append(STREAM_PROTOCOL, HeaderValue::from_static("v5.channel.k8s.io"));
        spdy.append(STREAM_PROTOCOL, HeaderValue::from_static("v4.channel.k8s.io"));
        let agreed = remote_command(&spdy).unwrap();
        assert_eq!(agreed.transport, Transport::Spdy);
        assert_eq!(agreed.response.headers()[STREAM_PROTOCOL], "v4.channel.k8s.io");
        assert!(port_forward(&spdy).is_err());
    }

    #[test]
    fn what_is_no_handshake_is_refused() {
        assert_eq!(
            remote_command(&headers("v9")).unwrap_err().0,
            StatusCode::FORBIDDEN
        );
        assert_eq!(
            remote_command(&HeaderMap::new()).unwrap_err().0,
            StatusCode::BAD_REQUEST
        );
        let mut old = headers("v5.channel.k8s.io");
        old.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("8"));
        assert_eq!(remote_command(&old).unwrap_err().0, StatusCode::BAD_REQUEST);
    }
}

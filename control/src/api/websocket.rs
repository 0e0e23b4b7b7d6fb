//! A log or a watch as messages of a WebSocket, for clients that cannot read a response as it comes, browsers first of
//! all. Upstream's protocols: for a log binary messages, or text in base64; for a watch a text message per event. What
//! a client says is not listened to, but for its going away.
use super::Call;
use super::status::{ApiError, Result};
use axum::body::Body;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

/// Longest message a client may send: it has nothing to say.
const HEARD: usize = 4 << 10;

/// How long a client may take to confirm the end.
const GOODBYE: Duration = Duration::from_secs(5);

/// How a response becomes messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Binary,
    Base64,
    /// A text message for each line.
    Lines,
}

/// Protocols of a log; without one it is binary.
const LOG: [(&str, Framing); 2] = [
    ("binary.k8s.io", Framing::Binary),
    ("base64.binary.k8s.io", Framing::Base64),
];

/// A log's response as the client wants it.
///
/// # Errors
/// A handshake that cannot be answered.
pub fn log(call: &Call, response: Response) -> Result<Response> {
    carried(call, response, &LOG, Framing::Binary)
}

/// A watch's response as the client wants it.
///
/// # Errors
/// A handshake that cannot be answered.
pub fn watch(call: &Call, response: Response) -> Result<Response> {
    carried(call, response, &[], Framing::Lines)
}

fn carried(
    call: &Call,
    response: Response,
    known: &[(&'static str, Framing)],
    usual: Framing,
) -> Result<Response> {
    if !words(&call.headers, header::UPGRADE).any(|word| word.eq_ignore_ascii_case("websocket")) {
        return Ok(response);
    }
    let (Some(connection), StatusCode::OK) = (call.upgrade.clone(), response.status()) else {
        return Ok(response);
    };
    let (answer, framing) = agree(&call.headers, known, usual)?;
    tokio::spawn(async move {
        if let Err(error) = carry(connection, response.into_body(), framing).await {
            tracing::debug!(%error, "a WebSocket has ended");
        }
    });
    Ok(answer)
}

/// The answer to the handshake (RFC 6455, section 4.2.2).
fn agree(
    headers: &HeaderMap,
    known: &[(&'static str, Framing)],
    usual: Framing,
) -> Result<(Response, Framing)> {
    if !words(headers, header::SEC_WEBSOCKET_VERSION).any(|version| version == "13") {
        return Err(ApiError::bad_request(
            "the version of WebSocket spoken here is 13",
        ));
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY);
    let key = key.ok_or_else(|| ApiError::bad_request("the request has no Sec-WebSocket-Key"))?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let answer = response.headers_mut();
    answer.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    // Base64 is visible ASCII.
    if let Ok(accept) = HeaderValue::try_from(derive_accept_key(key.as_bytes())) {
        answer.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    let offered: Vec<&str> = words(headers, header::SEC_WEBSOCKET_PROTOCOL).collect();
    let chosen = known.iter().find(|(name, _)| offered.contains(name));
    let Some((name, framing)) = chosen else {
        return Ok((response, usual));
    };
    answer.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(name));
    Ok((response, *framing))
}

fn words(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let values = headers.get_all(name).into_iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

/// Sends the body until its end, or until the client is gone.
async fn carry(
    connection: OnUpgrade,
    body: Body,
    framing: Framing,
) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let config = WebSocketConfig::default()
        .max_message_size(Some(HEARD))
        .max_frame_size(Some(HEARD));
    let connection = TokioIo::new(connection.await?);
    let socket = WebSocketStream::from_raw_socket(connection, Role::Server, Some(config)).await;
    let (mut sender, mut heard) = socket.split();
    let mut pieces = body.into_data_stream();
    let mut cut = Cut {
        framing,
        line: BytesMut::new(),
    };
    loop {
        tokio::select! {
            piece = pieces.next() => {
                let Some(piece) = piece else { break };
                for message in cut.messages(piece?)? {
                    sender.send(message).await?;
                }
            }
            said = heard.next() => match said {
                Some(Ok(Message::Close(_))) | None => return Ok(()),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.into()),
            }
        }
    }
    for message in cut.rest()? {
        sender.send(message).await?;
    }
    sender.close().await?;
    // The client confirms, and the connection ends in order.
    let confirmed = async { while heard.next().await.is_some_and(|said| said.is_ok()) {} };
    tokio::time::timeout(GOODBYE, confirmed).await?;
    Ok(sender.reunite(heard)?.get_mut().shutdown().await?)
}

/// Cuts a body into messages.
struct Cut {
    framing: Framing,
    /// The beginning of a line.
    line: BytesMut,
}

impl Cut {
    fn messages(&mut self, piece: Bytes) -> std::result::Result<Vec<Message>, std::str::Utf8Error> {
        match self.framing {
            Framing::Binary => Ok(vec![Message::Binary(piece)]),
            Framing::Base64 => Ok(vec![Message::text(STANDARD.encode(piece))]),
            Framing::Lines => {
                self.line.extend_from_slice(&piece);
                let mut messages = Vec::new();
                while let Some(end) = self.line.iter().position(|byte| *byte == b'\n') {
                    let line = self.line.split_to(end + 1);
                    messages.push(Message::text(std::str::from_utf8(&line)?));
                }
                Ok(messages)
            }
        }
    }

    fn rest(&mut self) -> std::result::Result<Vec<Message>, std::str::Utf8Error> {
        match self.line.is_empty() {
            true => Ok(Vec::new()),
            false => Ok(vec![Message::text(std::str::from_utf8(&self.line.split())?)]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_protocol_is_agreed_on_and_the_key_answered() {
        let mut headers = HeaderMap::new();
        headers.insert(
            header::SEC_WEBSOCKET_KEY,
            HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="),
        );
        assert!(agree(&headers, &LOG, Framing::Binary).is_err(), "no version");
        headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        for (offered, chosen, framing) in [
            (None, None, Framing::Binary),
            (
                Some("x, base64.binary.k8s.io"),
                Some("base64.binary.k8s.io"),
                Framing::Base64,
            ),
            (Some("binary.k8s.io"), Some("binary.k8s.io"), Framing::Binary),
        ] {
            headers.remove(header::SEC_WEBSOCKET_PROTOCOL);
            if let Some(offered) = offered {
                headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(offered));
            }
            let (response, agreed) = agree(&headers, &LOG, Framing::Binary).unwrap();
            let header = |name| response.headers().get(name).map(|v| v.to_str().unwrap());
            assert_eq!(agreed, framing, "{offered:?}");
            assert_eq!(header(header::SEC_WEBSOCKET_PROTOCOL), chosen);
            // RFC 6455, section 1.3.
            assert_eq!(
                header(header::SEC_WEBSOCKET_ACCEPT),
                Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
            );
        }
    }

    #[test]
    fn lines_are_messages_however_they_come() {
        let mut cut = Cut {
            framing: Framing::Lines,
            line: BytesMut::new(),
        };
        let mut all = Vec::new();
        for piece in ["{\"a\"", ":1}\n{}\n{", "\"b\":2}"] {
            all.extend(cut.messages(Bytes::from(piece)).unwrap());
        }
        all.extend(cut.rest().unwrap());
        let texts: Vec<_> = all.iter().map(|m| m.to_text().unwrap().to_owned()).collect();
        assert_eq!(texts, ["{\"a\":1}\n", "{}\n", "{\"b\":2}"]);
    }
}

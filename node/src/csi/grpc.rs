//! One gRPC call over a Unix socket: HTTP/2 without TLS, one message each way (gRPC over HTTP2).

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue, TE};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::wire::Message;
use crate::grpc_codes::code_name;

/// Answers are small; a driver that says more is refused.
const ANSWER_LIMIT: usize = 4 << 20;
/// Length of what is before a message: whether it is compressed, and its own length.
const PREFIX: usize = 5;

/// Why a call came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("rpc error: code = {} desc = {message}", code_name(.code))]
    Status { code: String, message: String },
    #[error("cannot reach {}: {why}", socket.display())]
    Unreachable { socket: PathBuf, why: String },
    #[error("rpc error: code = DeadlineExceeded desc = context deadline exceeded")]
    Late,
    #[error("the answer of {} cannot be read: {why}", socket.display())]
    Answer { socket: PathBuf, why: String },
}

impl CallError {
    /// The code of a driver that answered.
    pub fn code(&self) -> Option<&str> {
        match self {
            CallError::Status { code, .. } => Some(code),
            _ => None,
        }
    }

    /// The driver does not know what it was asked about.
    pub fn is_not_found(&self) -> bool {
        self.code() == Some("5")
    }
}

/// Calls `method` (`/package.Service/Name`) at `socket`; the bytes of the answer's message.
pub async fn call(
    socket: &Path,
    method: &str,
    message: Message,
    within: Duration,
) -> Result<Vec<u8>, CallError> {
    let answer = timeout(within, exchange(socket, method, message)).await;
    answer.map_err(|_| CallError::Late)?
}

async fn exchange(socket: &Path, method: &str, message: Message) -> Result<Vec<u8>, CallError> {
    let unreachable = |why: String| CallError::Unreachable {
        socket: socket.to_owned(),
        why,
    };
    let stream = UnixStream::connect(socket).await;
    let stream = stream.map_err(|e| unreachable(e.to_string()))?;
    let shake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = shake.await.map_err(|e| unreachable(e.to_string()))?;
    let request = Request::post(format!("http://localhost{method}"))
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .body(Full::new(framed(&message.into_bytes())));
    let request = request.map_err(|e| unreachable(e.to_string()))?;
    let talk = async {
        let answer = sender.send_request(request).await;
        let (head, body) = answer.map_err(|e| unreachable(e.to_string()))?.into_parts();
        let body = Limited::new(body, ANSWER_LIMIT).collect().await;
        let body = body.map_err(|e| unreachable(e.to_string()))?;
        // Without a message the status is among the headers (Trailers-Only).
        let trailers = body.trailers().cloned().unwrap_or(head.headers);
        succeeded(&trailers)?;
        unframed(&body.to_bytes()).ok_or_else(|| CallError::Answer {
            socket: socket.to_owned(),
            why: "it is cut off, or compressed".to_owned(),
        })
    };
    tokio::select! {
        answer = talk => answer,
        ended = connection => Err(unreachable(ended.err().map_or("the connection was closed".to_owned(), |e| e.to_string()))),
    }
}

/// A message not compressed, after its length.
pub fn framed(message: &[u8]) -> Bytes {
    let mut frame = vec![0];
    frame.extend_from_slice(&(message.len() as u32).to_be_bytes());
    frame.extend_from_slice(message);
    frame.into()
}

/// The one message of a body.
pub fn unframed(body: &[u8]) -> Option<Vec<u8>> {
    let (prefix, rest) = body.split_at_checked(PREFIX)?;
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]);
    let whole = prefix[0] == 0 && usize::try_from(length).is_ok_and(|length| rest.len() == length);
    whole.then(|| rest.to_vec())
}

fn succeeded(trailers: &HeaderMap) -> Result<(), CallError> {
    let text = |name: &str| {
        let value = trailers.get(name).map(HeaderValue::as_bytes);
        value.map(percent_decoded).unwrap_or_default()
    };
    match text("grpc-status").as_str() {
        "0" => Ok(()),
        "" => Err(CallError::Status {
            code: "2".to_owned(),
            message: "the answer has no status".to_owned(),
        }),
        code => Err(CallError::Status {
            code: code.to_owned(),
            message: text("grpc-message"),
        }),
    }
}

/// `grpc-message` writes what is not plain as `%XX`.
fn percent_decoded(bytes: &[u8]) -> String {
    let mut plain = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let byte = code.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match byte.filter(|_| *first == b'%') {
            Some(byte) => {
                plain.push(byte);
                rest = &after[2..];
            }
            None => {
                plain.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_told_in_grpcs_words() {
        let trailers = |pairs: &[(&'static str, &'static str)]| {
            pairs
                .iter()
                .map(|(k, v)| (k.parse().unwrap(), HeaderValue::from_static(v)))
                .collect::<HeaderMap>()
        };
        assert!(succeeded(&trailers(&[("grpc-status", "0")])).is_ok());
        let error = succeeded(&trailers(&[
            ("grpc-status", "5"),
            ("grpc-message", "no%20such%3a %zz"),
        ]))
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "rpc error: code = NotFound desc = no such: %zz"
        );
        assert!(error.is_not_found());
        assert!(succeeded(&trailers(&[])).is_err());
    }

    #[test]
    fn frames_are_whole_and_plain() {
        assert_eq!(unframed(&framed(b"abc")).as_deref(), Some(&b"abc"[..]));
        for broken in [&[][..], &[0, 0, 0, 0], &[1, 0, 0, 0, 0], &[0, 0, 0, 0, 2, 1]] {
            assert_eq!(unframed(broken), None, "{broken:?}");
        }
    }
}

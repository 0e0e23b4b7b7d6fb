//! The gRPC probe: `grpc.health.v1.Health/Check` over plain HTTP/2 (KEP-2727; gRPC Health Checking Protocol).
//!
//! Two messages of one field each: they are written and read here rather than by a gRPC library.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue, TE, USER_AGENT};
use http::{Request, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::check::Outcome;
use super::dial;
use crate::grpc_codes::code_name;
use go_values::duration;

/// The answer is a few bytes.
const ANSWER_LIMIT: usize = 4 << 10;
/// `HealthCheckResponse.ServingStatus`
const STATES: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];
const SERVING: usize = 1;
/// Codes of the gRPC documentation.
const UNIMPLEMENTED: &str = "12";
const METHOD: &str = "/grpc.health.v1.Health/Check";

/// Which service to ask after, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrpcCheck {
    pub host: String,
    pub port: u16,
    pub service: String,
}

/// What a server answered: a state, or a status that is no success.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    State(usize),
    Status { code: String, message: String },
}

/// Why nothing was answered.
#[derive(Debug)]
enum Unasked {
    /// Nobody listens there, or not in time: upstream goes on until its time is over, and says so.
    Unreached,
    Failed(String),
}

impl GrpcCheck {
    pub async fn run(&self, within: Duration) -> Outcome {
        match timeout(within, self.ask(within)).await {
            Ok(Ok(Answer::State(SERVING))) => Outcome::Success,
            Ok(Ok(Answer::State(state))) => {
                let state = STATES.get(state).copied().unwrap_or("UNKNOWN");
                Outcome::Failure(format!("service unhealthy (responded with {state:?})"))
            }
            Ok(Ok(Answer::Status { code, message })) if code == UNIMPLEMENTED => Outcome::Failure(format!(
                "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {message}"
            )),
            Ok(Ok(Answer::Status { code, message })) => Outcome::Failure(format!(
                "error: health rpc probe failed: rpc error: code = {} desc = {message}",
                code_name(&code)
            )),
            Ok(Err(Unasked::Unreached)) => Outcome::Failure(format!(
                "timeout: failed to connect service {:?} within {}: context deadline exceeded",
                dial::authority(&self.host, self.port),
                duration::print(within)
            )),
            Ok(Err(Unasked::Failed(error))) => {
                Outcome::Failure(format!("error: health rpc probe failed: {error}"))
            }
            Err(_) => Outcome::Failure(format!(
                "timeout: health rpc did not complete within {}",
                duration::print(within)
            )),
        }
    }

    async fn ask(&self, within: Duration) -> Result<Answer, Unasked> {
        let stream = dial::connect(&self.host, self.port, within).await;
        let stream = stream.map_err(|_| Unasked::Unreached)?;
        self.talk(stream).await.map_err(Unasked::Failed)
    }

    async fn talk(&self, stream: TcpStream) -> Result<Answer, String> {
        let words = |error: &dyn std::fmt::Display| error.to_string();
        let shake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (mut sender, connection) = shake.await.map_err(|e| words(&e))?;
        let talk = async {
            let request = self.request().map_err(|e| words(&e))?;
            let answer = sender.send_request(request).await.map_err(|e| words(&e))?;
            read(answer).await
        };
        tokio::select! {
            answer = talk => answer,
            ended = connection => Err(ended.err().map_or("the connection was closed".to_owned(), |e| words(&e))),
        }
    }

    fn request(&self) -> Result<Request<Full<Bytes>>, http::Error> {
        let authority = dial::authority(&self.host, self.port);
        let uri = Uri::builder()
            .scheme("http")
            .authority(authority)
            .path_and_query(METHOD);
        Request::post(uri.build()?)
            .header(CONTENT_TYPE, "application/grpc")
            .header(TE, "trailers")
            .header(USER_AGENT, super::http::AGENT)
            .body(Full::new(framed(&self.message())))
    }

    /// `HealthCheckRequest`: field 1, the service's name.
    fn message(&self) -> Vec<u8> {
        if self.service.is_empty() {
            return Vec::new();
        }
        let mut message = vec![0x0a];
        let mut length = self.service.len();
        while length >= 0x80 {
            message.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend_from_slice(self.service.as_bytes());
        message
    }
}

/// A message not compressed, after its length.
fn framed(message: &[u8]) -> Bytes {
    let mut frame = vec![0];
    frame.extend_from_slice(&(message.len() as u32).to_be_bytes());
    frame.extend_from_slice(message);
    frame.into()
}

async fn read(answer: http::Response<Incoming>) -> Result<Answer, String> {
    let (head, body) = answer.into_parts();
    if !head.status.is_success() {
        return Err(format!(
            "unexpected HTTP status code received from server: {}",
            head.status
        ));
    }
    let body = Limited::new(body, ANSWER_LIMIT)
        .collect()
        .await
        .map_err(|e| e.to_string())?;
    // A status without a message comes in the head.
    let trailers = body.trailers().cloned().unwrap_or_default();
    let status = status(&trailers).or_else(|| status(&head.headers));
    match status {
        Some(status) if status != ok() => Ok(status),
        None => Err("the server closed the stream without sending a status".to_owned()),
        Some(_) => state(&body.to_bytes()).ok_or_else(|| "the answer is no HealthCheckResponse".to_owned()),
    }
}

fn ok() -> Answer {
    Answer::Status {
        code: "0".into(),
        message: String::new(),
    }
}

fn status(headers: &HeaderMap) -> Option<Answer> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let code = text(headers.get("grpc-status")?);
    // What is said with a success changes nothing.
    let message = headers.get("grpc-message").filter(|_| code != "0");
    Some(Answer::Status {
        code,
        message: message.map(text).unwrap_or_default(),
    })
}

/// `HealthCheckResponse`: field 1, the state; 0 when it is left out.
fn state(frame: &[u8]) -> Option<Answer> {
    let message = frame.get(5..)?;
    match message {
        [] => Some(Answer::State(0)),
        [0x08, state, ..] => Some(Answer::State(usize::from(*state))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper_util::server::conn::auto;
    use std::convert::Infallible;
    use tokio::net::TcpListener;

    /// A server that answers each check with these trailers and this message.
    async fn serve(code: &'static str, message: &'static [u8]) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = hyper::service::service_fn(move |request: Request<Incoming>| async move {
                    assert_eq!(request.uri().path(), METHOD);
                    let asked = request.into_body().collect().await.unwrap().to_bytes();
                    assert_eq!(asked, framed(b"\x0a\x03web"));
                    let mut trailers = HeaderMap::new();
                    trailers.insert("grpc-status", HeaderValue::from_static(code));
                    trailers.insert("grpc-message", HeaderValue::from_static("said so"));
                    let body = Full::new(framed(message)).with_trailers(async move { Some(Ok(trailers)) });
                    Ok::<_, Infallible>(http::Response::new(body))
                });
                let served = auto::Builder::new(TokioExecutor::new());
                let _ = served.serve_connection(TokioIo::new(stream), service).await;
            }
        });
        port
    }

    async fn check(port: u16) -> Outcome {
        let check = GrpcCheck {
            host: "127.0.0.1".into(),
            port,
            service: "web".into(),
        };
        check.run(Duration::from_secs(10)).await
    }

    #[tokio::test]
    async fn serving_is_success_and_nothing_else_is() {
        assert_eq!(check(serve("0", b"\x08\x01").await).await, Outcome::Success);
        let failure = |outcome| match outcome {
            Outcome::Failure(text) => text,
            other => panic!("{other:?}"),
        };
        let text = failure(check(serve("0", b"\x08\x02").await).await);
        assert_eq!(text, "service unhealthy (responded with \"NOT_SERVING\")");
        let text = failure(check(serve("12", b"").await).await);
        assert!(text.contains("does not implement"), "{text}");
        let text = failure(check(serve("5", b"").await).await);
        assert!(
            text.ends_with("rpc error: code = NotFound desc = said so"),
            "{text}"
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let text = failure(check(port).await);
        assert_eq!(
            text,
            format!(
                "timeout: failed to connect service \"127.0.0.1:{port}\" within 10s: context deadline exceeded"
            )
        );
    }

    #[test]
    fn long_names_have_long_lengths() {
        let check = GrpcCheck {
            host: String::new(),
            port: 1,
            service: "x".repeat(300),
        };
        assert_eq!(check.message()[..3], [0x0a, 0xac, 0x02]);
    }
}

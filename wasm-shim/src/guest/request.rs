//! The body of a request on its way to the guest.
//!
//! Owns what becomes of what a guest leaves unread: as Go's server does, a little of it is read and thrown away, so that a
//! client who still sends gets his answer and keeps his connection. Refuses to know instances.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Version, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::Request;
use hyper::body::Incoming;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::runtime::Handle;

/// Most bytes that are read for nobody (Go's net/http: `maxPostHandlerReadBytes`).
const MOST: u64 = 256 << 10;

/// How long they are waited for (nginx: `lingering_timeout`).
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// A request's body.
pub struct RequestBody {
    /// Until it is dropped.
    rest: Option<Incoming>,
    /// Its client sends nothing until he is asked to (`Expect: 100-continue`), which reading would do.
    waits: bool,
    /// An HTTP/2 stream ends without its connection.
    ends_alone: bool,
}

/// A request whose body is read on when its guest does not.
pub fn read_on(request: Request<Incoming>) -> Request<RequestBody> {
    let ends_alone = request.version() >= Version::HTTP_2;
    let waits = expects(request.headers());
    request.map(|body| RequestBody {
        rest: Some(body),
        waits,
        ends_alone,
    })
}

fn expects(headers: &HeaderMap<HeaderValue>) -> bool {
    let expected = headers.get(header::EXPECT);
    expected.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.waits = false;
        match &mut self.rest {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.rest.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.rest.as_ref().map(Incoming::size_hint).unwrap_or_default()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        let rest = self.rest.take().filter(|rest| !rest.is_end_stream());
        let worth = |rest: &Incoming| rest.size_hint().lower() <= MOST;
        let rest = rest.filter(|rest| !self.waits && !self.ends_alone && worth(rest));
        // Guests and their clients are on a runtime; what is dropped with it has no client.
        if let (Some(rest), Ok(runtime)) = (rest, Handle::try_current()) {
            runtime.spawn(tokio::time::timeout(PATIENCE, discard(rest)));
        }
    }
}

/// Reads to the end, or until it has been too much: after that the connection of a request is closed with its answer.
pub(super) async fn discard(mut body: impl Body<Data = Bytes> + Unpin) {
    let mut left = MOST;
    while let Some(Ok(frame)) = body.frame().await {
        let read = frame.data_ref().map_or(0, |data| data.len() as u64);
        match left.checked_sub(read) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

//! The response body of a guest on its way to the client.
//!
//! Owns the tie between a body and the guest that writes it: a guest that fails mid-body breaks the connection instead
//! of ending the body, and a client that goes away is told to the guest's task; and that what belongs to no body (`HEAD`, 204,
//! 304) reaches no client, while the guest may write it as if it did. Refuses to know connections.

use super::request::{PATIENCE, discard};
use bytes::Bytes;
use http::{Method, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt as _, Full};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use wasmtime_wasi_http::{Error, WasiBody};

/// What the task of a guest and the body it writes know of each other.
#[derive(Debug, Default)]
pub struct Tie {
    failed: AtomicBool,
    body_gone: CancellationToken,
}

impl Tie {
    /// A new pair's tie.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Completes when the body was sent or given up.
    pub async fn body_gone(&self) {
        self.body_gone.cancelled().await;
    }

    /// A guard to hold while the guest runs: unless it is disarmed, the guest has failed.
    pub fn guard(self: &Arc<Self>) -> FailGuard {
        FailGuard(Arc::clone(self), true)
    }
}

/// Marks the guest as failed when dropped armed. Must be dropped before the guest's store, whose drop ends the body.
pub struct FailGuard(Arc<Tie>, bool);

impl FailGuard {
    /// The guest ended well.
    pub fn disarm(mut self) {
        self.1 = false;
    }
}

impl Drop for FailGuard {
    fn drop(&mut self) {
        if self.1 {
            self.0.failed.store(true, Ordering::Release);
        }
    }
}

/// A body that ends in an error when its guest failed.
pub struct TiedBody {
    inner: WasiBody,
    tie: Arc<Tie>,
    /// What came before the failure was left time to be sent.
    is_sent: bool,
    kept: Kept,
}

/// Whether a body is the client's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    No,
    /// It is not, which hyper sees to in HTTP/1.
    Back,
    /// It is not, and the stream ends with the head.
    BackFromStream,
}

impl Kept {
    fn of(method: &Method, version: Version, status: StatusCode) -> Self {
        let has_body =
            *method != Method::HEAD && status != StatusCode::NO_CONTENT && status != StatusCode::NOT_MODIFIED;
        match version >= Version::HTTP_2 {
            _ if has_body => Self::No,
            true => Self::BackFromStream,
            false => Self::Back,
        }
    }
}

impl TiedBody {
    /// Ties the body of an answer with that status to its guest's task; `to` is the request's method and version.
    pub fn new(inner: WasiBody, tie: Arc<Tie>, to: &(Method, Version), status: StatusCode) -> Self {
        Self {
            inner,
            tie,
            is_sent: false,
            kept: Kept::of(&to.0, to.1, status),
        }
    }

    /// A body of the host's own words.
    pub fn text(text: impl Into<Bytes>) -> Self {
        let inner = Full::new(text.into())
            .map_err(|never| match never {})
            .boxed_unsync();
        Self {
            inner,
            tie: Tie::new(),
            is_sent: false,
            kept: Kept::No,
        }
    }
}

impl Body for TiedBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
            // A connection sends what it has when its body has nothing more for now; at an error it throws that away.
            None if self.tie.failed.load(Ordering::Acquire) && !self.is_sent => {
                self.is_sent = true;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            None if self.is_sent => Poll::Ready(Some(Err(Error::ConnectionTerminated))),
            other => Poll::Ready(other),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.kept == Kept::BackFromStream || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for TiedBody {
    fn drop(&mut self) {
        // As much is taken off the guest's hands as of a request's body; more is told it as a client that has gone.
        if self.kept != Kept::No
            && !self.inner.is_end_stream()
            && let Ok(runtime) = Handle::try_current()
        {
            let body = std::mem::take(&mut self.inner);
            runtime.spawn(tokio::time::timeout(PATIENCE, discard(body)));
        }
        self.tie.body_gone.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Empty;

    fn empty(tie: &Arc<Tie>) -> TiedBody {
        let inner = Empty::new().map_err(|never| match never {}).boxed_unsync();
        let to = (Method::GET, Version::HTTP_11);
        TiedBody::new(inner, Arc::clone(tie), &to, StatusCode::OK)
    }

    #[test]
    fn whose_bodies_are() {
        for (method, status, expected) in [
            (Method::GET, 200, Kept::No),
            (Method::POST, 205, Kept::No),
            (Method::HEAD, 200, Kept::Back),
            (Method::HEAD, 404, Kept::Back),
            (Method::GET, 204, Kept::Back),
            (Method::POST, 304, Kept::Back),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(Kept::of(&method, Version::HTTP_11, status), expected);
            let of_stream = match expected {
                Kept::No => Kept::No,
                Kept::Back | Kept::BackFromStream => Kept::BackFromStream,
            };
            assert_eq!(Kept::of(&method, Version::HTTP_2, status), of_stream);
        }
    }

    #[tokio::test]
    async fn a_guest_that_failed_breaks_its_body() {
        let tie = Tie::new();
        drop(tie.guard());
        assert!(empty(&tie).collect().await.is_err());
    }

    #[tokio::test]
    async fn a_guest_that_ended_well_does_not() {
        let tie = Tie::new();
        tie.guard().disarm();
        assert!(empty(&tie).collect().await.is_ok());
        tie.body_gone().await;
    }
}

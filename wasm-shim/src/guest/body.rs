//! The response body of a guest on its way to the client.
//!
//! Owns the tie between a body and the guest that writes it: a guest that fails mid-body breaks the connection instead
//! of ending the body, and a client that goes away is told to the guest's task. Refuses to know HTTP versions.

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt as _, Full};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
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
}

impl TiedBody {
    /// Ties a guest's body to its task.
    pub fn new(inner: WasiBody, tie: Arc<Tie>) -> Self {
        Self {
            inner,
            tie,
            is_sent: false,
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
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for TiedBody {
    fn drop(&mut self) {
        self.tie.body_gone.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Empty;

    fn empty(tie: &Arc<Tie>) -> TiedBody {
        TiedBody::new(
            Empty::new().map_err(|never| match never {}).boxed_unsync(),
            Arc::clone(tie),
        )
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

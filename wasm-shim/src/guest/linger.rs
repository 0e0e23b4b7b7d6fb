//! The end of a connection whose client may still be sending.
//!
//! Owns the moment between the last byte of an answer and the close of its socket. One that is closed over bytes which
//! nobody read resets its connection, and the client loses what of the answer is still under way (RFC 9112, 9.6). So the
//! answer is ended first, and what still comes is thrown away until the client has closed or some time has passed, as Go's
//! server waits. Refuses to know HTTP.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;

/// How long a client has to take in that its answer is complete (Go's net/http: `rstAvoidanceDelay`).
const PATIENCE: Duration = Duration::from_millis(500);

/// A connection that is left behind, when it is dropped, unless its client has ended it.
#[derive(Debug)]
pub struct Connection {
    /// Until it is dropped.
    stream: Option<TcpStream>,
    is_over: bool,
    left: Left,
}

/// Where it is left.
#[derive(Debug, Clone, Default)]
pub struct Left(Arc<Mutex<Option<TcpStream>>>);

impl Connection {
    pub fn new(stream: TcpStream) -> (Self, Left) {
        let left = Left::default();
        let connection = Self {
            stream: Some(stream),
            is_over: false,
            left: left.clone(),
        };
        (connection, left)
    }

    fn poll<T>(
        &mut self,
        io: impl FnOnce(Pin<&mut TcpStream>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        let done = io(Pin::new(stream));
        self.is_over |= matches!(done, Poll::Ready(Err(_)));
        done
    }
}

impl Left {
    /// Ends what was left behind.
    pub async fn linger(self) {
        let left = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut stream) = left else { return };
        let ending = async {
            stream.shutdown().await?;
            tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
        };
        if let Ok(Err(error)) = tokio::time::timeout(PATIENCE, ending).await {
            tracing::debug!(%error, "the client was gone");
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let stream = self.stream.take().filter(|_| !self.is_over);
        *self.left.0.lock().unwrap_or_else(PoisonError::into_inner) = stream;
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let room = buffer.remaining();
        let done = self.poll(|stream| stream.poll_read(cx, buffer));
        let nothing = done.is_ready() && room > 0 && buffer.remaining() == room;
        self.is_over |= nothing;
        done
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll(|stream| stream.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll(|stream| stream.poll_write_vectored(cx, pieces))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(|stream| stream.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(|stream| stream.poll_shutdown(cx))
    }
}

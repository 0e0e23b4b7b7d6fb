//! stdout and stderr of a guest, on the sinks of its container.
//!
//! Owns sharing one sink among the instances of a container, backpressure from a FIFO that nobody reads, and telling those
//! who are attached. Refuses to know what a sink is made of.

use super::Ending;
use super::terminal::Terminal;
use amphipod_shim_api::stdio::{LogStream, Sink};
use amphipod_shim_api::watchers::Watchers;
use bytes::{Buf as _, Bytes, BytesMut};
use std::io::{self, Write as _};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tokio::io::AsyncWrite;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};

/// Most bytes a guest may write at once, and so most that wait here for a slow reader (times the instances that
/// write at the same time).
const PERMIT: usize = 32 << 10;

/// Bytes that wait at most before messages of the host and of `wasi:logging`, which cannot be made to wait, are lost.
const MAX_BACKLOG: usize = 256 << 10;

/// How long the last output of a guest that has ended is kept for a reader that does not take it.
const DRAIN_LIMIT: Duration = Duration::from_secs(60);

/// The same for one that was killed, on a terminal.
const KILLED_LIMIT: Duration = Duration::from_secs(2);

struct Inner {
    sink: Sink,
    backlog: BytesMut,
    last_words: String,
    told: Option<(LogStream, Watchers)>,
}

impl Inner {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.backlog.is_empty() {
            let written = ready!(Pin::new(&mut self.sink).poll_write(cx, &self.backlog))?;
            self.backlog.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        if let Some((stream, watchers)) = &self.told {
            watchers.tell_now(*stream, bytes);
        }
        while self.backlog.is_empty() && !bytes.is_empty() {
            match self.sink.write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.backlog.extend_from_slice(bytes);
        Ok(())
    }
}

/// One output of a container; clones write to the same sink.
#[derive(Clone)]
pub struct Output {
    inner: Arc<Mutex<Inner>>,
    /// Bytes this clone may still write before it asks again (`wasi:io/streams`, check-write).
    permit: usize,
    is_terminal: bool,
}

impl Output {
    /// Takes over a sink; what is written to it is also told to those who watch, if any can.
    pub fn new(sink: Sink, told: Option<(LogStream, Watchers)>) -> Self {
        Self {
            inner: Arc::new(Mutex::new(Inner {
                sink,
                backlog: BytesMut::new(),
                last_words: String::new(),
                told,
            })),
            permit: 0,
            is_terminal: false,
        }
    }

    /// Takes over a guest's end of a terminal.
    pub fn on_terminal(peer: Sink) -> Self {
        Self {
            is_terminal: true,
            ..Self::new(peer, None)
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a message of the host (a trap, say), and keeps it for the container's status.
    pub fn say(&self, text: &str) {
        text.clone_into(&mut self.inner().last_words);
        self.line(text);
    }

    /// Says that a guest trapped, and, first, where its core dump is: last words are cut at their end.
    pub fn say_trap(&self, trap: &str, dump: Option<String>) {
        match dump {
            Some(dump) => self.say(&format!("{dump}\n{trap}")),
            None => self.say(trap),
        }
    }

    /// What the host said last.
    pub fn last_words(&self) -> String {
        self.inner().last_words.clone()
    }

    /// Writes a message as lines of its own. One that would wait behind too many is lost.
    pub fn line(&self, text: &str) {
        let mut message = text.trim_end().to_owned();
        message.push('\n');
        let mut inner = self.inner();
        if !inner.backlog.is_empty() && inner.backlog.len() + message.len() > MAX_BACKLOG {
            tracing::warn!("a message is lost: nobody reads the container's output");
        } else if let Err(error) = inner.write(message.as_bytes()) {
            tracing::warn!(%error, text, "could not be written to the container's output");
        }
    }

    /// Writes out what waits for a slow reader, as long as that may take.
    pub async fn drain(&self) {
        let drained = std::future::poll_fn(|cx| self.inner().poll_drain(cx));
        match tokio::time::timeout(DRAIN_LIMIT, drained).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "nobody reads a container's output any more"),
            Err(_) => tracing::warn!("a container's output was not read to its end"),
        }
    }

    /// Nothing is going to be said for a while: a log is opened again by what is.
    pub fn rest(&self) {
        self.inner().sink.rest();
    }

    /// Ends a line that was begun and lets go of the sink, so that its reader sees the end.
    pub fn finish(&self) {
        let mut cx = Context::from_waker(Waker::noop());
        let mut inner = self.inner();
        let ended = match inner.poll_drain(&mut cx) {
            Poll::Ready(Ok(())) => Pin::new(&mut inner.sink).poll_shutdown(&mut cx),
            unfinished => unfinished,
        };
        inner.sink = Sink::Null;
        inner.told = None;
        inner.backlog = BytesMut::new();
        if let Poll::Ready(Err(error)) = ended {
            tracing::warn!(%error, "the end of a container's output is lost");
        }
    }
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        self.is_terminal
    }
}

impl StdoutStream for Output {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl AsyncWrite for Output {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut inner = self.inner();
        ready!(inner.poll_drain(cx))?;
        let bytes = &bytes[..bytes.len().min(PERMIT)];
        Poll::Ready(inner.write(bytes).map(|()| bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_drain(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_drain(cx)
    }
}

#[async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {
        // An error is told to the guest by its next write.
        drop(std::future::poll_fn(|cx| self.inner().poll_drain(cx)).await);
    }
}

#[async_trait]
impl OutputStream for Output {
    /// A guest that writes more than it was permitted would fill the backlog of a sink nobody reads.
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        let Some(left) = self.permit.checked_sub(bytes.len()) else {
            return Err(StreamError::trap(
                "a write to an output that its check-write did not permit",
            ));
        };
        self.permit = left;
        self.inner()
            .write(&bytes)
            .map_err(|error| StreamError::LastOperationFailed(error.into()))
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        let mut cx = Context::from_waker(Waker::noop());
        let drained = self.inner().poll_drain(&mut cx);
        self.permit = match drained {
            Poll::Ready(Ok(())) => PERMIT,
            Poll::Ready(Err(error)) => return Err(StreamError::LastOperationFailed(error.into())),
            Poll::Pending => 0,
        };
        Ok(self.permit)
    }
}

/// Waits until the last output of a guest, and what was said on its terminal, is where it belongs. What ended by a
/// signal has nothing to say that would be waited for long.
pub async fn drain(outputs: [&Output; 2], terminal: Option<&Terminal>, ending: Ending) {
    let is_killed = matches!(ending, Ending::Signalled(_));
    if !is_killed {
        tokio::join!(outputs[0].drain(), outputs[1].drain());
    }
    if let Some(terminal) = terminal {
        outputs.iter().for_each(|output| output.finish());
        terminal
            .drain(if is_killed { KILLED_LIMIT } else { DRAIN_LIMIT })
            .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use amphipod_shim_api::stdio::Sinks;
    use tokio::io::AsyncReadExt as _;

    #[tokio::test]
    async fn messages_to_nobody_are_bounded() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("out");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let output = Output::new(Sinks::open(path.to_str().unwrap(), "").unwrap().stdout, None);
        for _ in 0..100 {
            output.say(&"x".repeat(64 << 10));
        }
        assert!(output.inner().backlog.len() <= MAX_BACKLOG);
    }

    #[tokio::test]
    async fn a_fifo_that_nobody_reads_holds_the_guest_back_and_loses_nothing() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("out");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let sink = Sinks::open(path.to_str().unwrap(), "").unwrap().stdout;
        let mut output = Output::new(sink, None);
        let chunk = vec![b'x'; PERMIT];
        let mut sent = 0;
        while output.check_write().unwrap() > 0 {
            output.write(chunk.clone().into()).unwrap();
            sent += chunk.len();
        }
        assert!(
            matches!(output.write(chunk.clone().into()), Err(StreamError::Trap(_))),
            "a write without a permit is taken"
        );
        let mut reader = tokio::net::unix::pipe::OpenOptions::new()
            .open_receiver(&path)
            .unwrap();
        let mut got = vec![0; sent];
        let (read, ()) = tokio::join!(reader.read_exact(&mut got), output.ready());
        assert_eq!(read.unwrap(), sent);
        assert_eq!(output.check_write().unwrap(), PERMIT);
    }
}

//! stdin of a guest: a FIFO that ends when the caller says so (CloseIO), or a terminal, which ends at `^D`.
//!
//! Owns the end. Refuses to know who writes. The shim holds both ends of a FIFO, as containerd's shims do, so that a
//! writer that comes and goes is not an end; what was written before the end is still read.

use nix::errno::Errno;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::unix::pipe::Receiver;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use wasmtime_wasi::cli::{AsyncStdinStream, IsTerminal, StdinStream};
use wasmtime_wasi::p2::InputStream;

/// The standard input of one guest.
pub struct Input {
    pipe: Receiver,
    is_terminal: bool,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Input {
    /// Reads from `pipe` until it is empty and `closed`.
    pub fn new(pipe: Receiver, closed: CancellationToken) -> Self {
        Self {
            pipe,
            is_terminal: false,
            closed: Box::pin(closed.cancelled_owned()),
        }
    }

    /// Reads from a terminal, whose line is a read of its own.
    pub fn on_terminal(peer: Receiver) -> Self {
        Self {
            is_terminal: true,
            ..Self::new(peer, CancellationToken::new())
        }
    }

    /// As WASI has it.
    pub fn into_stream(self) -> impl StdinStream + 'static {
        Stream {
            is_terminal: self.is_terminal,
            stream: AsyncStdinStream::new(self),
        }
    }

    /// What is there now. Not by the pipe's own `poll_read`, which takes a read that fills less than its buffer for the last
    /// one: a terminal has a line for each.
    fn poll_there(&self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.pipe.poll_read_ready(cx))?;
            match self.pipe.try_read(buffer.initialize_unfilled()) {
                Ok(length) => buffer.advance(length),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Poll::Ready(Err(error)),
            }
            return Poll::Ready(Ok(()));
        }
    }
}

impl AsyncRead for Input {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Poll::Ready(read) = self.poll_there(cx, buffer) {
            return Poll::Ready(read);
        }
        ready!(self.closed.as_mut().poll(cx));
        // Whatever was written before the end is in the pipe now, whether the event loop has seen it or not (the pipe's own
        // `try_read` asks that first); nothing is the end.
        match nix::unistd::read(&self.pipe, buffer.initialize_unfilled()) {
            Ok(length) => buffer.advance(length),
            Err(Errno::EAGAIN) => {}
            Err(error) => return Poll::Ready(Err(error.into())),
        }
        Poll::Ready(Ok(()))
    }
}

/// An input, and whether it is a terminal.
struct Stream {
    is_terminal: bool,
    stream: AsyncStdinStream,
}

impl IsTerminal for Stream {
    fn is_terminal(&self) -> bool {
        self.is_terminal
    }
}

impl StdinStream for Stream {
    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        self.stream.async_stream()
    }

    fn p2_stream(&self) -> Box<dyn InputStream> {
        self.stream.p2_stream()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use amphipod_shim_api::stdio::open_input;
    use std::io::Write as _;
    use tokio::io::AsyncReadExt as _;

    #[tokio::test]
    async fn what_the_event_loop_has_not_seen_at_the_end_is_read() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("in");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let closed = CancellationToken::new();
        let pipe = open_input(path.to_str().unwrap()).unwrap().unwrap();
        std::fs::write(&path, "all").unwrap();
        closed.cancel();
        let mut said = String::new();
        Input::new(pipe, closed).read_to_string(&mut said).await.unwrap();
        assert_eq!(said, "all");
    }

    #[tokio::test]
    async fn what_was_written_before_the_end_is_read() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("in");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let closed = CancellationToken::new();
        let pipe = open_input(path.to_str().unwrap()).unwrap().unwrap();
        let mut input = Input::new(pipe, closed.clone());
        let mut writer = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        writer.write_all(b"one ").unwrap();
        let mut first = [0; 4];
        input.read_exact(&mut first).await.unwrap();
        writer.write_all(b"two").unwrap();
        closed.cancel();
        let mut rest = String::new();
        input.read_to_string(&mut rest).await.unwrap();
        assert_eq!((&first, rest.as_str()), (b"one ", "two"));
    }
}

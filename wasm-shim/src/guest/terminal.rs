//! The terminal of a guest: one of the host's, whose other end is its standard streams.
//!
//! Owns what is said on it until that is where it belongs, and what is typed. A guest is no process: the signals that a
//! terminal sends to those before it (`^C`, `^\`) are told to whoever runs the guest.

use super::input::Input;
use super::output::Output;
use amphipod_shim_api::stdio::{LogStream, Sink};
use amphipod_shim_api::terminal::{Master, type_in, unblock};
use amphipod_shim_api::watchers::Watchers;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::wasi::Stdio;

/// One read of what is said.
const READ: usize = 16 << 10;

/// What a new terminal makes of these (termios(3), `VINTR` and `VQUIT`).
const INTERRUPT: u8 = 0x03;
const QUIT: u8 = 0x1c;

/// A terminal on its way from a guest to its streams.
pub struct Terminal {
    master: Arc<Master>,
    typed: Mutex<Option<Receiver>>,
    carried: Mutex<Option<JoinHandle<()>>>,
}

impl Terminal {
    /// Opens a terminal between the streams of a container, and those of its guest. Both its outputs are one.
    ///
    /// # Errors
    /// When there are no more terminals.
    pub fn open(typed: Option<Receiver>, sink: Sink, told: Option<Watchers>) -> io::Result<(Self, Stdio)> {
        let (master, peer) = Master::open()?;
        unblock(&peer)?;
        let master = Arc::new(master);
        let output = || Sender::from_owned_fd_unchecked(peer.try_clone()?);
        let stdio = Stdio {
            stdout: Output::on_terminal(Sink::Fifo(output()?)),
            stderr: Output::on_terminal(Sink::Fifo(output()?)),
            stdin: Some(Input::on_terminal(Receiver::from_owned_fd_unchecked(peer)?)),
        };
        let carried = tokio::spawn(carry(Arc::clone(&master), sink, told));
        let terminal = Self {
            master,
            typed: Mutex::new(typed),
            carried: Mutex::new(Some(carried)),
        };
        Ok((terminal, stdio))
    }

    /// Types what comes until that is `closed`, and tells `signal` what it asks for.
    pub fn begin(&self, closed: &CancellationToken, signal: impl Fn(u8) + Send + 'static) {
        let Some(typed) = self.typed.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return;
        };
        let typed = Input::new(typed, closed.clone());
        tokio::spawn(type_in(typed, Arc::downgrade(&self.master), move |bytes| {
            for byte in bytes {
                match *byte {
                    INTERRUPT => signal(libc::SIGINT as u8),
                    QUIT => signal(libc::SIGQUIT as u8),
                    _ => {}
                }
            }
        }));
    }

    /// Sets its size in characters. WASI tells guests nothing of it.
    ///
    /// # Errors
    /// As `TIOCSWINSZ`.
    pub fn resize(&self, width: u16, height: u16) -> io::Result<()> {
        self.master.resize(width, height)
    }

    /// Waits, but not for long, until what was said is where it belongs. To be called when nobody has the other end any more.
    pub async fn drain(&self, patience: Duration) {
        let carried = self.carried.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut carried) = carried else { return };
        if tokio::time::timeout(patience, &mut carried).await.is_err() {
            tracing::debug!("what was said on a terminal was not read to its end");
            carried.abort();
        }
    }
}

/// One that is forgotten before its guest began has nobody left who could say something.
impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(carried) = self.carried.lock().unwrap_or_else(PoisonError::into_inner).take() {
            carried.abort();
        }
    }
}

async fn carry(master: Arc<Master>, mut sink: Sink, told: Option<Watchers>) {
    let mut buffer = vec![0; READ];
    let mut failed = false;
    while let Ok(length @ 1..) = master.read(&mut buffer).await {
        if let Some(watchers) = &told {
            watchers.tell_now(LogStream::Stdout, &buffer[..length]);
        }
        if let Err(error) = sink.write_all(&buffer[..length]).await
            && !std::mem::replace(&mut failed, true)
        {
            tracing::warn!(%error, "what is said on a terminal is lost");
        }
    }
    if let Err(error) = sink.shutdown().await {
        tracing::warn!(%error, "the end of what was said on a terminal is lost");
    }
}

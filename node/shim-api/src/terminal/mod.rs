//! Terminals of containers: the shim's end of one, and how what is typed gets there.
//!
//! Refuses to know who has the other end, and where what is said there goes.

mod sys;

pub use sys::{open_peer, set_size, size};

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Weak;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::pty::{grantpt, posix_openpt};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::unix::pipe;

/// One read of what is typed.
const READ: usize = 16 * 1024;

/// The shim's end of a terminal, in its event loop: a pipe each way, which is read and written as pipes are.
#[derive(Debug)]
pub struct Master {
    said: pipe::Receiver,
    typed: pipe::Sender,
}

impl Master {
    /// Takes over the end that was opened as `ptmx`.
    ///
    /// # Errors
    /// When it cannot be watched.
    pub fn new(master: OwnedFd) -> io::Result<Self> {
        let typed = master.try_clone()?;
        unblock(&master)?;
        Ok(Self {
            said: pipe::Receiver::from_owned_fd_unchecked(master)?,
            typed: pipe::Sender::from_owned_fd_unchecked(typed)?,
        })
    }

    /// A terminal of the host's, and its other end.
    ///
    /// # Errors
    /// When there are no more.
    pub fn open() -> io::Result<(Self, OwnedFd)> {
        let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)?;
        grantpt(&master)?;
        let peer = open_peer(master.as_fd())?;
        Ok((Self::new(master.into())?, peer))
    }

    /// Reads what was said on the terminal; nothing comes after the last user of its other end is gone (EIO).
    ///
    /// # Errors
    /// As read(2).
    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.said.readable().await?;
            match self.said.try_read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.raw_os_error() == Some(Errno::EIO as i32) => return Ok(0),
                done => return done,
            }
        }
    }

    async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.typed.writable().await?;
            match self.typed.try_write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Sets its size in characters.
    ///
    /// # Errors
    /// As `TIOCSWINSZ`.
    pub fn resize(&self, width: u16, height: u16) -> io::Result<()> {
        set_size(self.said.as_fd(), width, height)
    }
}

/// Has reads and writes of an end answer at once.
///
/// # Errors
/// As fcntl(2).
pub fn unblock(end: &OwnedFd) -> io::Result<()> {
    fcntl(end, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(())
}

/// Types what comes from `input`, as long as somebody holds the terminal, and tells `heard` of it.
pub async fn type_in(mut input: impl AsyncRead + Unpin, terminal: Weak<Master>, heard: impl Fn(&[u8])) {
    let mut buffer = vec![0; READ];
    while let Ok(length @ 1..) = input.read(&mut buffer).await {
        let Some(terminal) = terminal.upgrade() else {
            return;
        };
        if let Err(error) = terminal.write_all(&buffer[..length]).await {
            tracing::debug!(%error, "a terminal takes no input any more");
            return;
        }
        heard(&buffer[..length]);
    }
}

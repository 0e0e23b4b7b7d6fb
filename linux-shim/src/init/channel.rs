//! What the shim and a process on its way into a container say to each other: packets on a socket pair.
//!
//! The child's end closes at `execve`, so the end of the stream after [`Report::Ready`] and go means "running".

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, recv, send, sendmsg, socketpair,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::sys::socket::{receive, watch};

/// Longest packet; an error message beyond it is cut.
const PACKET_LIMIT: usize = 4096;

/// What a child reports.
#[derive(Debug)]
pub enum Report {
    /// The pid (as the shim sees it) of the process that takes over from an intermediate child.
    Pid(i32),
    Warning(String),
    /// Everything is prepared; with the terminal's master, if one was asked for.
    Ready(Option<OwnedFd>),
    Failed(String),
}

/// The shim's end.
#[derive(Debug)]
pub struct ShimEnd(AsyncFd<OwnedFd>);

/// The child's end: blocking, and closed by `execve`.
#[derive(Debug)]
pub struct ChildEnd(OwnedFd);

/// Makes both ends; needs a tokio runtime.
pub fn pair() -> io::Result<(ShimEnd, ChildEnd)> {
    let (ours, theirs) = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )?;
    Ok((ShimEnd(watch(ours, Interest::READABLE)?), ChildEnd(theirs)))
}

impl ShimEnd {
    /// The next report; `None` when the child executed its program or is gone.
    pub async fn next(&self) -> io::Result<Option<Report>> {
        let mut buffer = vec![0; PACKET_LIMIT];
        let (length, descriptor) = self
            .0
            .async_io(Interest::READABLE, |fd| receive(fd.as_fd(), &mut buffer))
            .await?;
        Ok(parse(&buffer[..length], descriptor))
    }

    /// Lets the child execute its program.
    pub fn go(&self) -> io::Result<()> {
        send(
            self.0.get_ref().as_raw_fd(),
            b"g",
            MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT,
        )?;
        Ok(())
    }
}

fn parse(packet: &[u8], descriptor: Option<OwnedFd>) -> Option<Report> {
    let (kind, text) = packet.split_first()?;
    let text = String::from_utf8_lossy(text).into_owned();
    match kind {
        b'p' => text.parse().ok().map(Report::Pid),
        b'w' => Some(Report::Warning(text)),
        b'r' => Some(Report::Ready(descriptor)),
        _ => Some(Report::Failed(text)),
    }
}

impl ChildEnd {
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    pub fn pid(&self, pid: i32) -> io::Result<()> {
        self.send(b'p', &pid.to_string())
    }

    pub fn warning(&self, text: &str) -> io::Result<()> {
        self.send(b'w', text)
    }

    pub fn failed(&self, text: &str) -> io::Result<()> {
        self.send(b'e', text)
    }

    pub fn ready(&self, terminal: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let fds: Vec<_> = terminal.iter().map(|fd| fd.as_raw_fd()).collect();
        let rights = [ControlMessage::ScmRights(&fds)];
        let control = if fds.is_empty() { &[][..] } else { &rights[..] };
        let parts = [io::IoSlice::new(b"r")];
        sendmsg::<()>(self.0.as_raw_fd(), &parts, control, MsgFlags::MSG_NOSIGNAL, None)?;
        Ok(())
    }

    /// Waits for [`ShimEnd::go`]; an error when the shim is gone.
    pub fn wait_for_go(&self) -> io::Result<()> {
        let mut byte = [0];
        match recv(self.0.as_raw_fd(), &mut byte, MsgFlags::empty())? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    fn send(&self, kind: u8, text: &str) -> io::Result<()> {
        let mut packet = vec![kind];
        packet.extend(text.bytes().take(PACKET_LIMIT - 1));
        send(self.0.as_raw_fd(), &packet, MsgFlags::MSG_NOSIGNAL)?;
        Ok(())
    }
}

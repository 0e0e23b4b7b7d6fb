//! What the shim and a process on its way into a container say to each other: packets on a socket pair.
//!
//! The child's end closes at `execve`, so the end of the stream after [`Report::Ready`] and go means "running".
//! Whoever made a child may be gone when it is to go on (the OCI command line ends after `create`): such a child
//! has a gate, a listening socket on which the next one to speak with it is awaited.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, recv, send, sendmsg, socketpair,
};
use nix::unistd::Pid;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::sys::socket::{accept, receive, watch};

/// Longest packet; an error message beyond it is cut.
const PACKET_LIMIT: usize = 4096;

/// What a child reports.
#[derive(Debug)]
pub enum Report {
    /// The pid (as the shim sees it) of the process that takes over from an intermediate child.
    Pid(i32),
    Warning(String),
    /// The child waits until this is done and answered.
    Ask(Ask),
    /// Everything is prepared; with the terminal's master, if one was asked for.
    Ready(Option<OwnedFd>),
    Failed(String),
}

/// What only a process outside of the container can do.
#[derive(Debug)]
pub enum Ask {
    /// Write the maps of the child's new user namespace.
    MapIds,
    /// Run the hooks of the runtime's own namespaces.
    Hooks,
    /// Give the descriptor of a seccomp filter's notifications to its listener.
    Listener(OwnedFd),
}

/// The shim's end.
#[derive(Debug)]
pub struct ShimEnd(AsyncFd<OwnedFd>);

/// The end of a parent that waits for nothing else meanwhile.
#[derive(Debug)]
pub struct WaitingEnd(OwnedFd);

/// The child's end: blocking, and closed by `execve`.
#[derive(Debug)]
pub struct ChildEnd {
    fd: OwnedFd,
    gate: Option<OwnedFd>,
}

fn sockets() -> io::Result<(OwnedFd, OwnedFd)> {
    let kind = SockType::SeqPacket;
    Ok(socketpair(
        AddressFamily::Unix,
        kind,
        None,
        SockFlag::SOCK_CLOEXEC,
    )?)
}

/// Makes both ends; needs a tokio runtime.
pub fn pair() -> io::Result<(ShimEnd, ChildEnd)> {
    let (ours, fd) = sockets()?;
    Ok((
        ShimEnd(watch(ours, Interest::READABLE)?),
        ChildEnd { fd, gate: None },
    ))
}

/// As [`pair`] for a parent without an event loop; the child waits at `gate`, if there is one, for the word to go.
pub fn waiting_pair(gate: Option<OwnedFd>) -> io::Result<(WaitingEnd, ChildEnd)> {
    let (ours, fd) = sockets()?;
    Ok((WaitingEnd(ours), ChildEnd { fd, gate }))
}

impl WaitingEnd {
    /// The end of one who comes to a gate.
    pub fn at_gate(connected: OwnedFd) -> Self {
        Self(connected)
    }

    /// As [`ShimEnd::next`].
    pub fn next(&self) -> io::Result<Option<Report>> {
        let mut buffer = vec![0; PACKET_LIMIT];
        let (length, descriptor) = receive(self.0.as_fd(), &mut buffer, MsgFlags::empty())?;
        Ok(parse(&buffer[..length], descriptor))
    }

    /// As [`ShimEnd::go`].
    pub fn go(&self) -> io::Result<()> {
        say_go(&self.0, "")
    }

    /// As [`ShimEnd::done`].
    pub fn done(&self, pid: Pid) -> io::Result<()> {
        say_go(&self.0, &pid.to_string())
    }
}

fn say_go(socket: &OwnedFd, text: &str) -> io::Result<()> {
    let packet = [b"g", text.as_bytes()].concat();
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    send(socket.as_raw_fd(), &packet, flags)?;
    Ok(())
}

impl ShimEnd {
    /// The next report; `None` when the child executed its program or is gone.
    pub async fn next(&self) -> io::Result<Option<Report>> {
        let mut buffer = vec![0; PACKET_LIMIT];
        let (length, descriptor) = self
            .0
            .async_io(Interest::READABLE, |fd| {
                receive(fd.as_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT)
            })
            .await?;
        Ok(parse(&buffer[..length], descriptor))
    }

    /// Lets the child execute its program.
    pub fn go(&self) -> io::Result<()> {
        say_go(self.0.get_ref(), "")
    }

    /// Lets a child that asked go on, and tells it its pid as the host knows it.
    pub fn done(&self, pid: Pid) -> io::Result<()> {
        say_go(self.0.get_ref(), &pid.to_string())
    }
}

fn parse(packet: &[u8], descriptor: Option<OwnedFd>) -> Option<Report> {
    let (kind, text) = packet.split_first()?;
    let text = String::from_utf8_lossy(text).into_owned();
    match kind {
        b'p' => text.parse().ok().map(Report::Pid),
        b'w' => Some(Report::Warning(text)),
        b'r' => Some(Report::Ready(descriptor)),
        b'm' => Some(Report::Ask(Ask::MapIds)),
        b'h' => Some(Report::Ask(Ask::Hooks)),
        b'l' => descriptor.map(|fd| Report::Ask(Ask::Listener(fd))),
        _ => Some(Report::Failed(text)),
    }
}

impl ChildEnd {
    /// What must stay open for this to work.
    pub fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let gate = self.gate.iter().map(AsFd::as_fd);
        gate.chain([self.fd.as_fd()]).collect()
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
        self.send_with(b'r', terminal)
    }

    /// Has the maps of this process's user namespace written.
    pub fn map_ids(&self) -> io::Result<()> {
        self.send_with(b'm', None)?;
        self.answer().map(drop)
    }

    /// Has the runtime's hooks run; answers the pid of this process as the host knows it.
    pub fn hooks(&self) -> io::Result<i32> {
        self.send_with(b'h', None)?;
        self.answer()
    }

    /// Has a seccomp listener's descriptor handed on. One call sends and one receives, which is what a filter must
    /// let through.
    pub fn listener(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.send_with(b'l', Some(fd))?;
        self.answer().map(drop)
    }

    fn send_with(&self, kind: u8, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let fds: Vec<_> = descriptor.iter().map(|fd| fd.as_raw_fd()).collect();
        let rights = [ControlMessage::ScmRights(&fds)];
        let control = if fds.is_empty() { &[][..] } else { &rights[..] };
        let parts = [io::IoSlice::new(std::slice::from_ref(&kind))];
        sendmsg::<()>(self.fd.as_raw_fd(), &parts, control, MsgFlags::MSG_NOSIGNAL, None)?;
        Ok(())
    }

    fn answer(&self) -> io::Result<i32> {
        let mut packet = [0; 16];
        let length = recv(self.fd.as_raw_fd(), &mut packet, MsgFlags::empty())?;
        let text = packet[..length]
            .strip_prefix(b"g")
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        let text = std::str::from_utf8(text).map_err(io::Error::other)?;
        text.parse().map_err(io::Error::other)
    }

    /// Waits for [`ShimEnd::go`]; an error when the shim is gone. With a gate, whoever came last and said the word
    /// is reported to from then on.
    pub fn wait_for_go(&mut self) -> io::Result<()> {
        let Some(gate) = self.gate.take() else {
            return if self.heard_go()? {
                Ok(())
            } else {
                Err(io::ErrorKind::UnexpectedEof.into())
            };
        };
        loop {
            self.fd = accept(gate.as_fd())?;
            if self.heard_go()? {
                return Ok(());
            }
        }
    }

    fn heard_go(&self) -> io::Result<bool> {
        let mut byte = [0];
        Ok(recv(self.fd.as_raw_fd(), &mut byte, MsgFlags::empty())? > 0)
    }

    fn send(&self, kind: u8, text: &str) -> io::Result<()> {
        let mut packet = vec![kind];
        packet.extend(text.bytes().take(PACKET_LIMIT - 1));
        send(self.fd.as_raw_fd(), &packet, MsgFlags::MSG_NOSIGNAL)?;
        Ok(())
    }
}

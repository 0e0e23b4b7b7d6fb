//! `NOTIFY_SOCKET` (sd_notify(3)): who manages us as a service is told when the program in the container says that it is
//! ready, and which process that is. The program has a socket of its own: its manager's is not in its file system, and from
//! the container's numbers of processes it could make nothing.

use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::unistd::Pid;
use oci_spec::runtime::{Mount, Spec};
use serde_json::json;

use crate::sys::socket::pidfd;

/// Where the manager listens: a path, or a name after `@`.
const VARIABLE: &str = "NOTIFY_SOCKET";
/// Where the program finds its own, as with runc.
const INSIDE: &str = "/run/notify";
const NAME: &str = "notify.sock";
/// As long as a message to systemd may be.
const MESSAGE_LIMIT: usize = 4096;
/// How long the manager may take to read what it was told (runc's).
const BARRIER_LIMIT_MS: u16 = 30_000;

fn manager() -> Option<String> {
    std::env::var(VARIABLE).ok().filter(|name| !name.is_empty())
}

/// Makes a directory for a container's socket and mounts it there, if we have a manager. The socket comes with its start.
pub fn offer(dir: &Path, spec: &mut Spec) -> io::Result<Option<String>> {
    if manager().is_none() {
        return Ok(None);
    }
    DirBuilder::new().mode(0o755).create(dir)?;
    let mount: Mount = serde_json::from_value(json!({"destination": INSIDE, "type": "bind", "source": dir,
        "options": ["bind", "nosuid", "noexec", "nodev", "ro"]}))?;
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    mounts.push(mount);
    spec.set_mounts(Some(mounts));
    Ok(Some(format!("{VARIABLE}={INSIDE}/{NAME}")))
}

/// A container's socket, until its program has said that it is ready.
#[derive(Debug)]
pub struct Notify {
    socket: UnixDatagram,
    manager: UnixDatagram,
}

impl Notify {
    /// Nothing for a container that was made without a manager, or is started without.
    pub fn listen(dir: &Path) -> io::Result<Option<Self>> {
        let Some(name) = manager().filter(|_| dir.exists()) else {
            return Ok(None);
        };
        let path = dir.join(NAME);
        let socket = UnixDatagram::bind(&path)?;
        // Whoever the program runs as.
        fs::set_permissions(&path, Permissions::from_mode(0o777))?;
        socket.set_nonblocking(true)?;
        let manager = UnixDatagram::unbound()?;
        let address = match name.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(name)?,
        };
        manager.connect_addr(&address)?;
        Ok(Some(Self { socket, manager }))
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Tells the manager what the program says; `true` once that was all it had to.
    pub fn relay(&self, pid: Pid) -> io::Result<bool> {
        let mut message = [0; MESSAGE_LIMIT];
        let length = match self.socket.recv(&mut message) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            received => received?,
        };
        let mut lines = message[..length].split(|byte| *byte == b'\n');
        let Some(ready) = lines.find(|line| line.starts_with(b"READY=")) else {
            return Ok(false);
        };
        let told = [ready, format!("\nMAINPID={pid}\n").as_bytes()].concat();
        self.manager.send(&told)?;
        self.barrier()?;
        Ok(true)
    }

    /// Waits until the manager has read it: of a process that is gone by then it would not know whose word it was.
    fn barrier(&self) -> io::Result<()> {
        let (ours, theirs) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        let (fds, parts) = ([theirs.as_raw_fd()], [io::IoSlice::new(b"BARRIER=1")]);
        let rights = [ControlMessage::ScmRights(&fds)];
        sendmsg::<()>(self.manager.as_raw_fd(), &parts, &rights, MsgFlags::empty(), None)?;
        drop(theirs);
        // One that knows no barriers has had its time.
        poll(
            &mut [PollFd::new(ours.as_fd(), PollFlags::POLLIN)],
            PollTimeout::from(BARRIER_LIMIT_MS),
        )?;
        Ok(())
    }

    /// The same for whoever has nothing else to do until then, or until the process has ended.
    pub fn wait(&self, pid: Pid) -> io::Result<()> {
        // ESRCH: it has ended already.
        let Ok(process) = pidfd(pid) else { return Ok(()) };
        let mut ended = false;
        while !self.relay(pid)? && !ended {
            let mut watched = [self.fd(), process.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            match poll(&mut watched, PollTimeout::NONE) {
                Err(Errno::EINTR) => {}
                // What it said last is there still.
                done => ended = done? > 0 && watched[1].any().unwrap_or(true),
            }
        }
        Ok(())
    }
}

//! Whether anybody listens on a socket, as seen without waiting: who is stopped, and whose queue is full, keeps nobody here.

use std::os::fd::AsRawFd;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

/// Whether somebody listens there, be it one who does not take in who comes.
pub(super) fn is_served(path: &Path) -> bool {
    matches!(reached(path), Ok(()) | Err(Errno::EAGAIN))
}

/// Whether nobody listens there. What cannot be looked at is not dead.
pub(super) fn is_dead(path: &Path) -> bool {
    matches!(reached(path), Err(Errno::ECONNREFUSED | Errno::ENOENT))
}

fn reached(path: &Path) -> nix::Result<()> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let end = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(end.as_raw_fd(), &UnixAddr::new(path)?)
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use nix::sys::socket::{Backlog, bind, listen};

    use super::*;

    fn listener(path: &Path) -> OwnedFd {
        let end = socket(
            AddressFamily::Unix,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC,
            None,
        )
        .unwrap();
        bind(end.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
        listen(&end, Backlog::new(1).unwrap()).unwrap();
        end
    }

    #[test]
    fn who_takes_nobody_in_is_there_and_not_waited_for() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("s");
        assert!(is_dead(&path) && !is_served(&path), "nothing is there");
        let end = listener(&path);
        let queue: Vec<OwnedFd> = (0..10)
            .map_while(|_| {
                let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
                let client = socket(AddressFamily::Unix, SockType::Stream, flags, None).unwrap();
                connect(client.as_raw_fd(), &UnixAddr::new(&path).unwrap()).ok()?;
                Some(client)
            })
            .collect();
        assert!(queue.len() < 10, "the queue is never full");
        assert!(is_served(&path) && !is_dead(&path));
        drop(end);
        assert!(is_dead(&path) && !is_served(&path));
    }
}

//! Which file a Unix socket is bound to, as the kernel knows it (sock_diag(7)): the paths of two that are bound below different root
//! directories may read the same.
//!
//! Owns one question and its answer in netlink's bytes, native-endian. Refuses to know what a socket is for.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};
use nix::sys::stat::{major, minor};

/// `SOCK_DIAG_BY_FAMILY`
const BY_FAMILY: u16 = 20;
/// `UDIAG_SHOW_VFS`, and the attribute by which that is answered (`UNIX_DIAG_VFS`).
const SHOW_VFS: u32 = 2;
const VFS: u16 = 1;
/// Of a netlink message, and of `struct unix_diag_msg`, which its attributes follow.
const HEADER: usize = 16;
const DIAG: usize = 16;
/// One socket's answer is far smaller.
const ANSWER: usize = 4096;

/// A file: its number, and its device's as the kernel has it. Both of 32 bits.
#[derive(Debug, PartialEq, Eq)]
pub struct Bound {
    inode: u32,
    device: u32,
}

impl Bound {
    /// What is at a path. A number is cut as the kernel cuts it when it answers.
    ///
    /// # Errors
    /// When nothing is there.
    pub fn at(path: &Path) -> io::Result<Self> {
        let found = fs::symlink_metadata(path)?;
        let device = (major(found.dev()) << 20) | minor(found.dev());
        Ok(Self {
            inode: found.ino() as u32,
            device: device as u32,
        })
    }

    /// What the socket of this inode is bound to, if it is to a file. Of this network namespace's.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn of(socket_inode: u32) -> io::Result<Option<Self>> {
        let protocol = SockProtocol::NetlinkSockDiag;
        let flags = SockFlag::SOCK_CLOEXEC;
        let kernel = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
        let question = question(socket_inode);
        sendto(
            kernel.as_raw_fd(),
            &question,
            &NetlinkAddr::new(0, 0),
            MsgFlags::empty(),
        )?;
        let mut answer = [0; ANSWER];
        let length = recv(kernel.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        read(answer.get(..length).unwrap_or_default())
    }
}

/// A header, and `struct unix_diag_req`: in whatever state, with whatever cookie.
fn question(socket_inode: u32) -> Vec<u8> {
    let family = [libc::AF_UNIX as u8, 0, 0, 0];
    let words = [u32::MAX, socket_inode, SHOW_VFS, u32::MAX, u32::MAX];
    let words = words.into_iter().flat_map(u32::to_ne_bytes);
    let body: Vec<u8> = family.into_iter().chain(words).collect();
    let mut message = Vec::new();
    message.extend(((HEADER + body.len()) as u32).to_ne_bytes());
    message.extend(BY_FAMILY.to_ne_bytes());
    message.extend((libc::NLM_F_REQUEST as u16).to_ne_bytes());
    // Sequence and sender: there is one question.
    message.extend([0; 8]);
    message.extend(body);
    message
}

fn read(answer: &[u8]) -> io::Result<Option<Bound>> {
    let kind = short(answer, 4);
    if kind != Some(BY_FAMILY) {
        let refused = word(answer, HEADER).map_or(0, |code| (code as i32).saturating_neg());
        return Err(io::Error::from_raw_os_error(refused));
    }
    let mut at = HEADER + DIAG;
    while let (Some(length), Some(kind)) = (short(answer, at), short(answer, at + 2)) {
        if kind == VFS {
            let found = word(answer, at + 4).zip(word(answer, at + 8));
            return Ok(found.map(|(inode, device)| Bound { inode, device }));
        }
        at += usize::from(length).max(4).next_multiple_of(4);
    }
    Ok(None)
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    let found = bytes.get(at..at + 2)?.try_into().ok()?;
    Some(u16::from_ne_bytes(found))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let found = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(u32::from_ne_bytes(found))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn inode(socket: &impl AsRawFd) -> u32 {
        let link = fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
        let link = link.display().to_string();
        let inode = link.strip_prefix("socket:[").and_then(|l| l.strip_suffix(']'));
        inode.unwrap().parse().unwrap()
    }

    #[test]
    fn a_socket_is_known_by_its_file_wherever_that_is_now() {
        let home = tempfile::tempdir().unwrap();
        let (path, moved) = (home.path().join("s"), home.path().join("moved"));
        let first = UnixListener::bind(&path).unwrap();
        fs::rename(&path, &moved).unwrap();
        let second = UnixListener::bind(&path).unwrap();
        let [first, second] = [&first, &second].map(|one| Bound::of(inode(one)).unwrap());
        assert_eq!((first, second), (Bound::at(&moved).ok(), Bound::at(&path).ok()));
        let (nameless, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(Bound::of(inode(&nameless)).unwrap(), None);
        let file = fs::File::open(home.path()).unwrap().metadata().unwrap();
        assert!(Bound::of(file.ino() as u32 ^ u32::MAX).is_err());
    }
}

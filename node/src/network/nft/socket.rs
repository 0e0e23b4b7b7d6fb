//! The netlink socket to nf_tables: sends a transaction and hears whether it holds; lists what is there.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto, setsockopt,
    socket, sockopt,
};

use super::batch::{Batch, FAMILY, SUBSYSTEM};
use super::wire::{Attributes, HEAD, Header, Received, find_text, message, messages};

/// Why the kernel's rules are not what they should be; those before are in force.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    #[error("cannot {step} over netlink (is nf_tables in this kernel?)")]
    Socket { step: &'static str, source: io::Error },
    #[error("nftables: cannot {step}")]
    Refused { step: String, source: io::Error },
}

/// The names of what a table holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Existing {
    pub chains: BTreeSet<String>,
    pub sets: BTreeSet<String>,
}

/// A transaction must fit the socket's buffer: enough for the rules of some ten thousand Services.
const BUFFER: usize = 64 << 20;

/// One datagram of answers; the kernel sends at most 32 KiB at once.
const DATAGRAM: usize = 64 << 10;

const ERROR: u16 = 2;
const DONE: u16 = 3;
const REQUEST_DUMP: u16 = 0x301;
const REQUEST_ACK: u16 = 5;
const GET_CHAIN: u16 = 4;
const GET_SET: u16 = 10;

/// Applies a transaction as a whole, or says which step of it was refused and leaves all as it was.
pub fn apply(batch: Batch) -> Result<(), NftError> {
    let (bytes, steps) = batch.finish();
    let socket = open()?;
    send(&socket, &bytes)?;
    // The kernel answers before send returns: what is to be heard is there, and then nothing more.
    let mut buffer = vec![0; DATAGRAM];
    while let Some(length) = receive(&socket, &mut buffer, MsgFlags::MSG_DONTWAIT)? {
        for answer in messages(&buffer[..length]) {
            check(&answer, |sequence| {
                steps.get(sequence as usize).cloned().unwrap_or_default()
            })?;
        }
    }
    Ok(())
}

/// What a table holds; nothing where there is no such table.
pub fn existing(table: &str) -> Result<Existing, NftError> {
    Ok(Existing {
        chains: names(table, GET_CHAIN, 3)?,
        sets: names(table, GET_SET, 2)?,
    })
}

fn names(table: &str, kind: u16, name: u16) -> Result<BTreeSet<String>, NftError> {
    let mut found = BTreeSet::new();
    dump((SUBSYSTEM << 8) | kind, "list a table", |attributes| {
        if find_text(attributes, 1) == Some(table) {
            found.extend(find_text(attributes, name).map(str::to_owned));
        }
    })?;
    Ok(found)
}

/// Asks for all there is of a kind over IPv4, and hands over the attributes of each.
pub fn dump(kind: u16, step: &str, mut each: impl FnMut(&[u8])) -> Result<(), NftError> {
    let socket = open()?;
    let header = Header {
        kind,
        flags: REQUEST_DUMP,
        sequence: 0,
        family: FAMILY,
        resource: 0,
    };
    send_one(&socket, header, Attributes::default())?;
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let Some(length) = receive(&socket, &mut buffer, MsgFlags::empty())? else {
            return Ok(());
        };
        for answer in messages(&buffer[..length]) {
            if answer.kind == DONE {
                return Ok(());
            }
            check(&answer, |_| step.to_owned())?;
            each(answer.body.get(HEAD - 16..).unwrap_or_default());
        }
    }
}

/// Sends one message outside of a transaction, and hears whether it was done.
pub fn request(kind: u16, step: &str, attributes: Attributes) -> Result<(), NftError> {
    let socket = open()?;
    let header = Header {
        kind,
        flags: REQUEST_ACK,
        sequence: 0,
        family: FAMILY,
        resource: 0,
    };
    send_one(&socket, header, attributes)?;
    let mut buffer = vec![0; DATAGRAM];
    while let Some(length) = receive(&socket, &mut buffer, MsgFlags::MSG_DONTWAIT)? {
        messages(&buffer[..length])
            .iter()
            .try_for_each(|answer| check(answer, |_| step.to_owned()))?;
    }
    Ok(())
}

fn send_one(socket: &OwnedFd, header: Header, attributes: Attributes) -> Result<(), NftError> {
    let mut bytes = Vec::new();
    message(&mut bytes, header, attributes);
    send(socket, &bytes)
}

fn check(answer: &Received<'_>, step: impl FnOnce(u32) -> String) -> Result<(), NftError> {
    let code = match (answer.kind, answer.body) {
        (ERROR, [a, b, c, d, ..]) => i32::from_ne_bytes([*a, *b, *c, *d]),
        _ => 0,
    };
    if code == 0 {
        return Ok(());
    }
    Err(NftError::Refused {
        step: step(answer.sequence),
        source: io::Error::from_raw_os_error(-code),
    })
}

fn open() -> Result<OwnedFd, NftError> {
    let failed = |step| {
        move |e: Errno| NftError::Socket {
            step,
            source: e.into(),
        }
    };
    let protocol = SockProtocol::NetlinkNetFilter;
    let fd = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        protocol,
    )
    .map_err(failed("open a socket to nf_tables"))?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0)).map_err(failed("bind a socket to nf_tables"))?;
    // Beyond the system's limit where we may; where not, small transactions still fit.
    for forced in [
        setsockopt(&fd, sockopt::SndBufForce, &BUFFER),
        setsockopt(&fd, sockopt::RcvBufForce, &BUFFER),
    ] {
        if let Err(error) = forced {
            tracing::debug!(%error, "netlink buffers stay at the system's limit");
        }
    }
    Ok(fd)
}

fn send(socket: &OwnedFd, bytes: &[u8]) -> Result<(), NftError> {
    sendto(
        socket.as_raw_fd(),
        bytes,
        &NetlinkAddr::new(0, 0),
        MsgFlags::empty(),
    )
    .map(drop)
    .map_err(|e| NftError::Socket {
        step: "send to nf_tables",
        source: e.into(),
    })
}

fn receive(socket: &OwnedFd, buffer: &mut [u8], flags: MsgFlags) -> Result<Option<usize>, NftError> {
    loop {
        match recv(socket.as_raw_fd(), buffer, flags) {
            Ok(length) => return Ok(Some(length)),
            Err(Errno::EAGAIN) => return Ok(None),
            Err(Errno::EINTR) => {}
            Err(e) => {
                return Err(NftError::Socket {
                    step: "hear from nf_tables",
                    source: e.into(),
                });
            }
        }
    }
}

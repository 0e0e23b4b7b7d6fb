//! The netlink socket to nf_tables: sends a transaction and hears whether it holds; lists what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto, setsockopt,
    socket, sockopt,
};

use super::batch::{Base, Batch, FAMILY, SUBSYSTEM};
use super::wire::{Attributes, HEAD, Header, Received, find, find_text, message, messages};

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
    /// Where those of them hang that hang at a hook.
    pub bases: BTreeMap<String, Base>,
    pub sets: BTreeSet<String>,
}

/// A transaction must fit the socket's buffer: enough for the rules of some ten thousand Services.
const BUFFER: usize = 64 << 20;

/// One datagram of answers; the kernel sends at most 32 KiB at once.
const DATAGRAM: usize = 64 << 10;

/// `NFPROTO_INET`
const INET: u8 = 1;

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
    let mut found = Existing::default();
    each_of(table, GET_CHAIN, 3, |name, attributes| {
        found
            .bases
            .extend(base(attributes).map(|base| (name.clone(), base)));
        found.chains.insert(name);
    })?;
    each_of(table, GET_SET, 2, |name, _| {
        found.sets.insert(name);
    })?;
    Ok(found)
}

/// A chain of another program that drops what is forwarded unless one of its rules accepts it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardPolicy {
    pub family: &'static str,
    pub table: String,
    pub chain: String,
}

/// `NF_INET_FORWARD` and `NF_DROP`.
const FORWARD: u32 = 2;
const DROP: u32 = 0;
const GET_RULE: u16 = 7;

/// The chains that drop what is forwarded by policy, and in which no rule speaks of links whose names begin so.
pub fn forward_drops(links: &str) -> Result<Vec<ForwardPolicy>, NftError> {
    let mut found = Vec::new();
    for (number, family) in [(FAMILY, "ip"), (INET, "inet")] {
        let mut drops = Vec::new();
        dump_family(number, (SUBSYSTEM << 8) | GET_CHAIN, "list chains", |chain| {
            drops.extend(forward_drop(family, chain));
        })?;
        dump_family(number, (SUBSYSTEM << 8) | GET_RULE, "list rules", |rule| {
            let speaks = rule.windows(links.len()).any(|bytes| bytes == links.as_bytes());
            let (table, chain) = (find_text(rule, 1), find_text(rule, 2));
            drops.retain(|d| !(speaks && table == Some(d.table.as_str()) && chain == Some(d.chain.as_str())));
        })?;
        found.extend(drops);
    }
    Ok(found)
}

fn forward_drop(family: &'static str, chain: &[u8]) -> Option<ForwardPolicy> {
    let policy = u32::from_be_bytes(find(chain, 5)?.try_into().ok()?);
    let forwards = base(chain)?.hook == FORWARD;
    (forwards && policy == DROP).then_some(ForwardPolicy {
        family,
        table: find_text(chain, 1)?.to_owned(),
        chain: find_text(chain, 3)?.to_owned(),
    })
}

fn each_of(table: &str, kind: u16, name: u16, mut each: impl FnMut(String, &[u8])) -> Result<(), NftError> {
    dump((SUBSYSTEM << 8) | kind, "list a table", |attributes| {
        if find_text(attributes, 1) == Some(table)
            && let Some(name) = find_text(attributes, name)
        {
            each(name.to_owned(), attributes);
        }
    })
}

/// `NFTA_CHAIN_HOOK` and `NFTA_CHAIN_TYPE` of a chain that has them.
fn base(chain: &[u8]) -> Option<Base> {
    let place = find(chain, 4)?;
    let number = |kind| Some(u32::from_be_bytes(find(place, kind)?.try_into().ok()?));
    Some(Base {
        kind: find_text(chain, 7)?.to_owned(),
        hook: number(1)?,
        priority: number(2)?.cast_signed(),
    })
}

/// Asks for all there is of a kind over IPv4, and hands over the attributes of each.
pub fn dump(kind: u16, step: &str, each: impl FnMut(&[u8])) -> Result<(), NftError> {
    dump_family(FAMILY, kind, step, each)
}

fn dump_family(family: u8, kind: u16, step: &str, mut each: impl FnMut(&[u8])) -> Result<(), NftError> {
    let socket = open()?;
    let header = Header {
        kind,
        flags: REQUEST_DUMP,
        sequence: 0,
        family,
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

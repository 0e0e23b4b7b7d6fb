//! rtnetlink(7) as far as links and addresses that move to another network namespace need it: messages written and
//! taken apart, and the four things asked.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

/// One read of what the kernel answers; it writes no more at once.
const ANSWER_LIMIT: usize = 64 << 10;
/// Bytes of the heads of a message (`nlmsghdr`), of an address (`ifaddrmsg`), of an attribute (`rtattr`).
const MESSAGE: usize = 16;
const ADDRESS: usize = 8;
const ATTRIBUTE: usize = 4;
/// Attributes that make an address; others describe it.
const KEPT: [u16; 3] = [libc::IFA_ADDRESS, libc::IFA_LOCAL, libc::IFA_BROADCAST];
/// Given by the kernel itself to a device that comes up.
const SCOPE_LINK: u8 = 253;

/// An address of a device.
#[derive(Debug, PartialEq, Eq)]
pub struct Address {
    family: u8,
    prefix: u8,
    scope: u8,
    attributes: Vec<u8>,
}

/// A conversation with the kernel about one network namespace.
#[derive(Debug)]
pub struct Route(OwnedFd);

impl Route {
    /// For the namespace this process is in.
    pub fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let protocol = SockProtocol::NetlinkRoute;
        Ok(Self(socket(
            AddressFamily::Netlink,
            SockType::Raw,
            flags,
            protocol,
        )?))
    }

    pub fn is_up(&self, index: u32) -> io::Result<bool> {
        let answers = self.ask(libc::RTM_GETLINK, libc::NLM_F_ACK, &link(index, 0, 0))?;
        let flags = answers.first().and_then(|body| number(body, 8));
        let flags = flags.ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(flags & libc::IFF_UP.cast_unsigned() != 0)
    }

    /// Addresses somebody gave the device, for good.
    pub fn addresses(&self, index: u32) -> io::Result<Vec<Address>> {
        let answers = self.ask(libc::RTM_GETADDR, libc::NLM_F_DUMP, &[0; ADDRESS])?;
        Ok(answers.iter().filter_map(|body| address(body, index)).collect())
    }

    /// Moves a device to another namespace, under another name.
    pub fn move_to(&self, index: u32, namespace: &File, name: &str) -> io::Result<()> {
        let fd = namespace.as_raw_fd().to_ne_bytes();
        let body = [
            link(index, 0, 0),
            attribute(libc::IFLA_NET_NS_FD, &fd),
            attribute(libc::IFLA_IFNAME, &[name.as_bytes(), &[0]].concat()),
        ];
        self.ask(libc::RTM_NEWLINK, libc::NLM_F_ACK, &body.concat())
            .map(drop)
    }

    /// Gives a device an address.
    pub fn add(&self, index: u32, address: &Address) -> io::Result<()> {
        let head = [address.family, address.prefix, 0, address.scope];
        let body = [&head[..], &index.to_ne_bytes(), &address.attributes].concat();
        let flags = libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        self.ask(libc::RTM_NEWADDR, flags, &body).map(drop)
    }

    pub fn bring_up(&self, index: u32) -> io::Result<()> {
        let up = libc::IFF_UP.cast_unsigned();
        self.ask(libc::RTM_NEWLINK, libc::NLM_F_ACK, &link(index, up, up))
            .map(drop)
    }

    /// Sends one message, and answers the bodies of what comes back until the kernel is done.
    fn ask(&self, kind: u16, flags: libc::c_int, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        let flags = u16::try_from(libc::NLM_F_REQUEST | flags).map_err(io::Error::other)?;
        let length = u32::try_from(MESSAGE + body.len()).map_err(io::Error::other)?;
        let head = [
            &length.to_ne_bytes()[..],
            &kind.to_ne_bytes(),
            &flags.to_ne_bytes(),
            &[0; 8],
        ];
        let message = [&head.concat(), body].concat();
        send(self.0.as_raw_fd(), &message, MsgFlags::empty())?;
        let mut answers = Vec::new();
        let mut buffer = vec![0; ANSWER_LIMIT];
        loop {
            let length = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            if take(&buffer[..length], &mut answers)? {
                return Ok(answers);
            }
        }
    }
}

/// Takes the messages of one read apart; true when the last has come.
fn take(mut rest: &[u8], answers: &mut Vec<Vec<u8>>) -> io::Result<bool> {
    while let Some(length) = number(rest, 0) {
        let length = usize::try_from(length).map_err(io::Error::other)?;
        let kind = rest.get(4..6).map_or(0, |b| u16::from_ne_bytes([b[0], b[1]]));
        let body = rest.get(MESSAGE..length).ok_or(io::ErrorKind::InvalidData)?;
        match libc::c_int::from(kind) {
            libc::NLMSG_ERROR => {
                let errno = number(body, 0).map_or(libc::EIO, |n| -n.cast_signed());
                return match errno {
                    0 => Ok(true),
                    errno => Err(io::Error::from_raw_os_error(errno)),
                };
            }
            libc::NLMSG_DONE => return Ok(true),
            _ => answers.push(body.to_vec()),
        }
        rest = rest.get(length.next_multiple_of(ATTRIBUTE)..).unwrap_or_default();
    }
    Ok(false)
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(u32::from_ne_bytes(four))
}

/// `ifinfomsg`.
fn link(index: u32, flags: u32, change: u32) -> Vec<u8> {
    [
        [0; 4],
        index.to_ne_bytes(),
        flags.to_ne_bytes(),
        change.to_ne_bytes(),
    ]
    .concat()
}

/// One attribute, padded; values here are short.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(ATTRIBUTE + value.len()).unwrap_or(u16::MAX);
    let mut out = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
    out.resize(out.len().next_multiple_of(ATTRIBUTE), 0);
    out
}

/// An address of the device, if it is one to be kept.
fn address(body: &[u8], index: u32) -> Option<Address> {
    let (head, mut rest) = body.split_at_checked(ADDRESS)?;
    let permanent = u32::from(head[2]) & libc::IFA_F_PERMANENT != 0;
    if number(head, 4)? != index || !permanent || head[3] == SCOPE_LINK {
        return None;
    }
    let mut attributes = Vec::new();
    while let Some(head) = rest.get(..ATTRIBUTE) {
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let kind = u16::from_ne_bytes([head[2], head[3]]);
        let value = rest.get(ATTRIBUTE..length)?;
        if KEPT.contains(&kind) {
            attributes.extend(attribute(kind, value));
        }
        rest = rest.get(length.next_multiple_of(ATTRIBUTE)..).unwrap_or_default();
    }
    Some(Address {
        family: head[0],
        prefix: head[1],
        scope: head[3],
        attributes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_has_its_address() {
        let route = Route::open().unwrap();
        let index = nix::net::if_::if_nametoindex("lo").unwrap();
        if !route.is_up(index).unwrap() {
            return eprintln!("skipped: the loopback is down");
        }
        let expected = attribute(libc::IFA_LOCAL, &[127, 0, 0, 1]);
        let found = route.addresses(index).unwrap();
        let local = |a: &Address| a.attributes.windows(expected.len()).any(|w| w == expected);
        assert!(found.iter().any(local), "{found:?}");
        assert!(route.is_up(u32::MAX >> 1).is_err());
    }

    #[test]
    fn only_the_devices_own_permanent_addresses_are_kept() {
        let body = |flags: u8, scope: u8, index: u32| {
            let head = [&[2, 24, flags, scope][..], &index.to_ne_bytes()].concat();
            [
                head,
                attribute(libc::IFA_LOCAL, &[10, 0, 0, 1]),
                attribute(libc::IFA_LABEL, b"eth0\0"),
            ]
            .concat()
        };
        let kept = address(&body(0x80, 0, 7), 7).unwrap();
        assert_eq!((kept.family, kept.prefix, kept.attributes.len()), (2, 24, 8));
        for (flags, scope, index) in [(0, 0, 7), (0x80, SCOPE_LINK, 7), (0x80, 0, 8)] {
            assert_eq!(address(&body(flags, scope, index), 7), None);
        }
        assert_eq!(address(&[2, 24], 7), None);
    }
}

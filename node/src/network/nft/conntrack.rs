//! Flows the kernel remembers (ctnetlink, include/uapi/linux/netfilter/nfnetlink_conntrack.h): lists those of
//! UDP, and makes it forget one. A TCP connection ends by itself; a UDP flow goes where it first went for as
//! long as packets come.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::socket::{NftError, dump, request};
use super::wire::{Attributes, find};

/// `NFNL_SUBSYS_CTNETLINK` and its messages.
const GET: u16 = (1 << 8) | 1;
const DELETE: u16 = (1 << 8) | 2;

const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ZONE: u16 = 18;

const UDP: u8 = 17;

/// A UDP flow: where its sender aims, and who answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    pub to: SocketAddrV4,
    pub answered_by: SocketAddrV4,
    /// What the kernel knows it by, as it said it.
    tuple: Vec<u8>,
    zone: Option<Vec<u8>>,
}

#[cfg(test)]
impl Flow {
    /// One that only is to be judged.
    pub fn new(to: SocketAddrV4, answered_by: SocketAddrV4) -> Self {
        Self {
            to,
            answered_by,
            tuple: Vec::new(),
            zone: None,
        }
    }
}

/// All UDP flows over IPv4.
pub fn udp_flows() -> Result<Vec<Flow>, NftError> {
    let mut flows = Vec::new();
    dump(GET, "list remembered flows", |attributes| {
        flows.extend(parse(attributes))
    })?;
    Ok(flows)
}

/// Makes the kernel forget a flow: its next packet is looked at anew. One that is gone already is no error.
pub fn forget(flow: &Flow) -> Result<(), NftError> {
    let mut attributes = Attributes::default().nest_bytes(TUPLE_ORIGINAL, &flow.tuple);
    if let Some(zone) = &flow.zone {
        attributes = attributes.bytes(ZONE, zone);
    }
    match request(DELETE, "forget a flow", attributes) {
        Err(NftError::Refused { source, .. }) if source.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

fn parse(attributes: &[u8]) -> Option<Flow> {
    let original = find(attributes, TUPLE_ORIGINAL)?;
    let reply = find(attributes, TUPLE_REPLY)?;
    if find(find(original, 2)?, 1)? != [UDP] {
        return None;
    }
    Some(Flow {
        to: SocketAddrV4::new(address(original, 2)?, port(original, 3)?),
        answered_by: SocketAddrV4::new(address(reply, 1)?, port(reply, 2)?),
        tuple: original.to_vec(),
        zone: find(attributes, ZONE).map(<[u8]>::to_vec),
    })
}

/// Source (1) or destination (2) address of a tuple.
fn address(tuple: &[u8], which: u16) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = find(find(tuple, 1)?, which)?.try_into().ok()?;
    Some(octets.into())
}

/// Source (2) or destination (3) port of a tuple.
fn port(tuple: &[u8], which: u16) -> Option<u16> {
    find(find(tuple, 2)?, which)?
        .try_into()
        .ok()
        .map(u16::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tuple(from: [u8; 4], to: [u8; 4], protocol: u8, ports: (u16, u16)) -> Attributes {
        let ip = Attributes::default().bytes(1, &from).bytes(2, &to);
        let proto = Attributes::default()
            .bytes(1, &[protocol])
            .bytes(2, &ports.0.to_be_bytes())
            .bytes(3, &ports.1.to_be_bytes());
        Attributes::default().nest(1, ip).nest(2, proto)
    }

    #[test]
    fn flows_of_udp_are_read_and_others_are_not() {
        for (protocol, expected) in [(UDP, true), (6, false)] {
            let message = Attributes::default()
                .nest(
                    TUPLE_ORIGINAL,
                    tuple([10, 0, 0, 2], [10, 96, 0, 10], protocol, (4000, 53)),
                )
                .nest(
                    TUPLE_REPLY,
                    tuple([10, 0, 0, 9], [10, 0, 0, 2], protocol, (5353, 4000)),
                );
            let flow = parse(&message.into_bytes());
            assert_eq!(flow.is_some(), expected);
            if let Some(flow) = flow {
                assert_eq!(flow.to, "10.96.0.10:53".parse().unwrap());
                assert_eq!(flow.answered_by, "10.0.0.9:5353".parse().unwrap());
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
            parse(&bytes);
        }
    }
}

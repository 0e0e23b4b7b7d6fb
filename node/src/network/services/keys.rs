//! Keys and values of the maps that packets are looked up in, and how the `nft` program is to show them.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::Protocol;
use crate::network::nft::join;

/// Type numbers of the `nft` program, so that `nft list` shows keys as what they are.
pub mod shown {
    const BITS: u32 = 6;
    pub const ADDRESS: u32 = 7;
    /// A packet mark: the one number `nft` knows to be in the host's byte order.
    pub const INTEGER: u32 = 19;
    const PROTOCOL: u32 = 12;
    const PORT: u32 = 13;
    pub const PORT_KEY: u32 = (PROTOCOL << BITS) | PORT;
    pub const SERVICE_KEY: u32 = (ADDRESS << (2 * BITS)) | PORT_KEY;
    pub const PAIR: u32 = (ADDRESS << BITS) | ADDRESS;
    pub const SOCKET: u32 = (ADDRESS << BITS) | PORT;
    /// Bytes of a [`super::socket`].
    pub const SOCKET_LENGTH: u32 = 8;
}

/// An address and a port.
pub fn socket(endpoint: &SocketAddrV4) -> Vec<u8> {
    join(&[&endpoint.ip().octets(), &endpoint.port().to_be_bytes()])
}

/// Where a packet to an address goes.
pub fn service_key(ip: Ipv4Addr, protocol: Protocol, port: u16) -> Vec<u8> {
    join(&[&ip.octets(), &[protocol.number()], &port.to_be_bytes()])
}

/// Where a packet to any address of this host goes.
pub fn port_key(protocol: Protocol, port: u16) -> Vec<u8> {
    join(&[&[protocol.number()], &port.to_be_bytes()])
}

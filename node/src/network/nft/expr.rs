//! The expressions rules are made of, and their encoding.
//!
//! A rule computes with registers of four bytes. A register number here is 0..=15 and stands for
//! NFT_REG32_00 and up; an interface name fills four of them.

use std::net::Ipv4Addr;

use super::wire::Attributes;

/// Which of the sixteen 4-byte registers.
pub type Register = u32;

const FIRST_REGISTER: u32 = 8;
const VERDICT_REGISTER: u32 = 0;

/// `NF_NAT_RANGE_PROTO_RANDOM_FULLY`
const RANDOM_PORT: u32 = 1 << 4;

/// `NFTA_LIST_ELEM`
pub const LIST_ELEMENT: u16 = 1;

/// A packet's or connection's property that is no header field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meta {
    InputName,
    OutputName,
    Protocol,
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    Drop,
    Accept,
    Jump(String),
    Goto(String),
}

/// One step of a rule. A comparison that fails ends the rule, not the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expression {
    /// Loads a property.
    Meta {
        key: Meta,
        to: Register,
    },
    /// Loads the bit of the connection's state.
    ConnectionState {
        to: Register,
    },
    /// Loads the connection's status bits.
    ConnectionStatus {
        to: Register,
    },
    /// Loads a field of the IPv4 header.
    Network {
        offset: u32,
        length: u32,
        to: Register,
    },
    /// Loads a field of the TCP, UDP or SCTP header.
    Transport {
        offset: u32,
        length: u32,
        to: Register,
    },
    /// Loads the kind of the destination address (`RTN_LOCAL` and so on).
    DestinationKind {
        to: Register,
    },
    /// Loads the kind of the source address.
    SourceKind {
        to: Register,
    },
    /// Loads the number of the interface the packet came in by where a route back to its source leaves by it, else 0.
    WayBack {
        to: Register,
    },
    /// Loads a random number below a bound.
    Random {
        below: u32,
        to: Register,
    },
    /// Loads fixed bytes.
    Load {
        value: Vec<u8>,
        to: Register,
    },
    /// Keeps only the bits of a mask.
    Mask {
        register: Register,
        mask: Vec<u8>,
    },
    /// Goes on only where the register equals, or differs from, a value.
    Compare {
        register: Register,
        equal: bool,
        value: Vec<u8>,
    },
    /// Goes on only where the set holds the key that starts at a register.
    Member {
        set: String,
        id: Option<u32>,
        key: Register,
    },
    /// Looks the key up, and loads the value of the map.
    Map {
        set: String,
        id: Option<u32>,
        key: Register,
        to: Register,
    },
    /// Looks the key up, and does what the verdict map says.
    VerdictMap {
        set: String,
        id: Option<u32>,
        key: Register,
    },
    /// Adds the key to a set, or makes it new again; ends the rule where the set is full.
    Remember {
        set: String,
        key: Register,
        timeout_ms: u64,
    },
    /// Rewrites the destination to address and port in two registers.
    Destination {
        address: Register,
        port: Register,
    },
    /// Rewrites the source to the address in a register.
    Source {
        address: Register,
    },
    /// Rewrites the source to the address of the interface the packet leaves by.
    Masquerade,
    /// Answers with ICMP port unreachable, as often as the kernel's limit allows.
    Reject,
    /// Answers TCP with a reset.
    Reset,
    Verdict(Verdict),
}

impl Expression {
    /// The encoded expression, an element of a rule's list.
    pub fn encode(&self) -> Attributes {
        let (name, data) = self.parts();
        Attributes::default().text(1, name).nest(2, data)
    }

    fn parts(&self) -> (&'static str, Attributes) {
        let new = Attributes::default;
        match self {
            Self::Meta { key, to } => ("meta", new().u32(1, register(*to)).u32(2, meta_key(*key))),
            Self::ConnectionState { to } => ("ct", new().u32(1, register(*to)).u32(2, 0)),
            Self::ConnectionStatus { to } => ("ct", new().u32(1, register(*to)).u32(2, 2)),
            Self::Network { offset, length, to } => ("payload", payload(1, *offset, *length, *to)),
            Self::Transport { offset, length, to } => ("payload", payload(2, *offset, *length, *to)),
            // NFT_FIB_RESULT_ADDRTYPE, NFTA_FIB_F_DADDR
            Self::DestinationKind { to } => ("fib", new().u32(1, register(*to)).u32(2, 3).u32(3, 2)),
            // NFT_FIB_RESULT_ADDRTYPE, NFTA_FIB_F_SADDR
            Self::SourceKind { to } => ("fib", new().u32(1, register(*to)).u32(2, 3).u32(3, 1)),
            // NFT_FIB_RESULT_OIF, NFTA_FIB_F_SADDR | NFTA_FIB_F_IIF
            Self::WayBack { to } => ("fib", new().u32(1, register(*to)).u32(2, 1).u32(3, 1 | 8)),
            Self::Random { below, to } => ("numgen", new().u32(1, register(*to)).u32(2, *below).u32(3, 1)),
            Self::Load { value, to } => ("immediate", new().u32(1, register(*to)).nest(2, data(value))),
            Self::Mask { register: r, mask } => ("bitwise", bitwise(*r, mask)),
            Self::Compare {
                register: r,
                equal,
                value,
            } => (
                "cmp",
                new()
                    .u32(1, register(*r))
                    .u32(2, u32::from(!equal))
                    .nest(3, data(value)),
            ),
            Self::Member { set, id, key } => ("lookup", lookup(set, *id, *key, None)),
            Self::Map { set, id, key, to } => ("lookup", lookup(set, *id, *key, Some(register(*to)))),
            Self::VerdictMap { set, id, key } => ("lookup", lookup(set, *id, *key, Some(VERDICT_REGISTER))),
            Self::Remember { set, key, timeout_ms } => (
                "dynset",
                new()
                    .text(1, set)
                    .u32(3, 1)
                    .u32(4, register(*key))
                    .u64(6, *timeout_ms),
            ),
            // NFT_NAT_DNAT, NFPROTO_IPV4
            Self::Destination { address, port } => (
                "nat",
                new()
                    .u32(1, 1)
                    .u32(2, 2)
                    .u32(3, register(*address))
                    .u32(5, register(*port)),
            ),
            // NFT_NAT_SNAT, NFPROTO_IPV4
            Self::Source { address } => (
                "nat",
                new()
                    .u32(1, 0)
                    .u32(2, 2)
                    .u32(3, register(*address))
                    .u32(7, RANDOM_PORT),
            ),
            Self::Masquerade => ("masq", new().u32(1, RANDOM_PORT)),
            // NFT_REJECT_ICMP_UNREACH, ICMP_PORT_UNREACH
            Self::Reject => ("reject", new().u32(1, 0).bytes(2, &[3])),
            // NFT_REJECT_TCP_RST
            Self::Reset => ("reject", new().u32(1, 1)),
            Self::Verdict(verdict) => (
                "immediate",
                new().u32(1, VERDICT_REGISTER).nest(2, verdict_data(verdict)),
            ),
        }
    }
}

/// A verdict as the data of a rule or of a map's element.
pub fn verdict_data(verdict: &Verdict) -> Attributes {
    let (code, chain) = match verdict {
        Verdict::Drop => (0i32, None),
        Verdict::Accept => (1, None),
        Verdict::Jump(chain) => (-3, Some(chain)),
        Verdict::Goto(chain) => (-4, Some(chain)),
    };
    let inner = Attributes::default().bytes(1, &code.to_be_bytes());
    let inner = inner.maybe(chain.map(|chain| |a: Attributes| a.text(2, chain)));
    Attributes::default().nest(2, inner)
}

/// Bytes as the data of an expression or of an element.
pub fn data(value: &[u8]) -> Attributes {
    Attributes::default().bytes(1, value)
}

/// Values of a concatenated key: each padded to a register.
pub fn join(parts: &[&[u8]]) -> Vec<u8> {
    let mut key = Vec::new();
    for part in parts {
        key.extend_from_slice(part);
        key.resize(key.len().next_multiple_of(4), 0);
    }
    key
}

/// The conditions and loads rules here share.
pub mod matches {
    use super::{Expression, Ipv4Addr, Meta, Register};

    /// `RTN_LOCAL`
    const LOCAL: u32 = 2;
    /// `IPPROTO_TCP`
    const TCP: u8 = 6;
    /// `NF_CT_STATE_BIT(IP_CT_NEW)`
    const NEW: u32 = 1 << 3;
    /// `IPS_DST_NAT`
    const DESTINATION_REWRITTEN: u32 = 1 << 5;
    /// An interface name with its padding.
    const NAME_LENGTH: usize = 16;

    pub fn source_to(to: Register) -> Expression {
        Expression::Network {
            offset: 12,
            length: 4,
            to,
        }
    }

    pub fn destination_to(to: Register) -> Expression {
        Expression::Network {
            offset: 16,
            length: 4,
            to,
        }
    }

    /// Loads destination address, protocol and port into three registers from the first on.
    pub fn service_key() -> Vec<Expression> {
        let mut loads = vec![destination_to(0)];
        loads.extend(port_key(1));
        loads
    }

    /// Loads protocol and destination port into two registers.
    pub fn port_key(to: Register) -> Vec<Expression> {
        vec![
            Expression::Meta {
                key: Meta::Protocol,
                to,
            },
            Expression::Transport {
                offset: 2,
                length: 2,
                to: to + 1,
            },
        ]
    }

    /// The source, or destination, is in a network, or is not.
    pub fn within(
        load: fn(Register) -> Expression,
        network: ipnet::Ipv4Net,
        inside: bool,
    ) -> Vec<Expression> {
        let mask = network.netmask().octets().to_vec();
        let value: Ipv4Addr = network.network();
        vec![
            load(0),
            Expression::Mask { register: 0, mask },
            Expression::Compare {
                register: 0,
                equal: inside,
                value: value.octets().to_vec(),
            },
        ]
    }

    pub fn of_tcp() -> Vec<Expression> {
        let key = Meta::Protocol;
        vec![
            Expression::Meta { key, to: 0 },
            Expression::Compare {
                register: 0,
                equal: true,
                value: vec![TCP],
            },
        ]
    }

    pub fn to_this_host() -> Vec<Expression> {
        is_local(Expression::DestinationKind { to: 0 }, true)
    }

    pub fn to_somebody_else() -> Vec<Expression> {
        is_local(Expression::DestinationKind { to: 0 }, false)
    }

    pub fn from_this_host() -> Vec<Expression> {
        is_local(Expression::SourceKind { to: 0 }, true)
    }

    pub fn from_somebody_else() -> Vec<Expression> {
        is_local(Expression::SourceKind { to: 0 }, false)
    }

    /// The address whose kind is loaded is this host's, or is not.
    fn is_local(load: Expression, equal: bool) -> Vec<Expression> {
        let value = LOCAL.to_ne_bytes().to_vec();
        vec![
            load,
            Expression::Compare {
                register: 0,
                equal,
                value,
            },
        ]
    }

    /// Nobody has answered yet on the packet's connection.
    pub fn beginning() -> Vec<Expression> {
        has_bits(Expression::ConnectionState { to: 0 }, NEW)
    }

    pub fn destination_rewritten() -> Vec<Expression> {
        has_bits(Expression::ConnectionStatus { to: 0 }, DESTINATION_REWRITTEN)
    }

    /// What is loaded into register 0 has some of these bits.
    fn has_bits(load: Expression, bits: u32) -> Vec<Expression> {
        vec![
            load,
            Expression::Mask {
                register: 0,
                mask: bits.to_ne_bytes().to_vec(),
            },
            Expression::Compare {
                register: 0,
                equal: false,
                value: vec![0; 4],
            },
        ]
    }

    /// The source becomes an address.
    pub fn source_becomes(address: Ipv4Addr) -> Vec<Expression> {
        let value = address.octets().to_vec();
        vec![
            Expression::Load { value, to: 0 },
            Expression::Source { address: 0 },
        ]
    }

    /// No route back to the packet's source leaves by the interface it came in by.
    pub fn no_way_back() -> Vec<Expression> {
        vec![
            Expression::WayBack { to: 0 },
            Expression::Compare {
                register: 0,
                equal: true,
                value: vec![0; 4],
            },
        ]
    }

    /// The packet came in by an interface whose name begins so.
    pub fn arriving_by(beginning: &str) -> Vec<Expression> {
        let key = Meta::InputName;
        let value = beginning.as_bytes().to_vec();
        vec![
            Expression::Meta { key, to: 0 },
            Expression::Compare {
                register: 0,
                equal: true,
                value,
            },
        ]
    }

    /// The packet leaves, but not by this interface.
    pub fn not_leaving_by(name: &str) -> Vec<Expression> {
        let key = Meta::OutputName;
        let mut value = name.as_bytes().to_vec();
        value.resize(NAME_LENGTH, 0);
        vec![
            Expression::Meta { key, to: 0 },
            Expression::Compare {
                register: 0,
                equal: false,
                value,
            },
        ]
    }
}

fn register(number: Register) -> u32 {
    FIRST_REGISTER + number
}

fn meta_key(key: Meta) -> u32 {
    match key {
        Meta::InputName => 6,
        Meta::OutputName => 7,
        Meta::Protocol => 16,
    }
}

fn payload(base: u32, offset: u32, length: u32, to: Register) -> Attributes {
    Attributes::default()
        .u32(1, register(to))
        .u32(2, base)
        .u32(3, offset)
        .u32(4, length)
}

fn bitwise(r: Register, mask: &[u8]) -> Attributes {
    let head = Attributes::default()
        .u32(1, register(r))
        .u32(2, register(r))
        .u32(3, mask.len() as u32);
    head.nest(4, data(mask)).nest(5, data(&vec![0; mask.len()]))
}

fn lookup(set: &str, id: Option<u32>, key: Register, to: Option<u32>) -> Attributes {
    let head = Attributes::default().text(1, set).u32(2, register(key));
    head.maybe(to.map(|to| move |a: Attributes| a.u32(3, to)))
        .maybe(id.map(|id| move |a: Attributes| a.u32(4, id)))
}

//! What a Pod's network is narrowed to: who may reach it, and whom it may reach. A plain value: sorted, comparable, and
//! handed to shims as JSON in the annotation [`crate::annotations::WASM_NETWORK`], with the bundle and by Update.
//!
//! Owns the value and what it allows. Refuses to know NetworkPolicies, and who makes whom keep to it.

mod addresses;

pub use addresses::{AddressRange, Addresses, NotARange};

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// A protocol that has ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// `protocol` of a port in the API; TCP where nothing is said.
    pub fn parse(name: Option<&str>) -> Option<Self> {
        match name.unwrap_or("TCP") {
            "TCP" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            "SCTP" => Some(Self::Sctp),
            _ => None,
        }
    }

    /// The number in the IPv4 header.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// Ports of one protocol from `first` to `last`, both among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ports {
    pub protocol: Protocol,
    pub first: u16,
    pub last: u16,
}

impl Ports {
    pub fn one(protocol: Protocol, port: u16) -> Self {
        Self {
            protocol,
            first: port,
            last: port,
        }
    }

    pub fn all(protocol: Protocol) -> Self {
        Self {
            protocol,
            first: 0,
            last: u16::MAX,
        }
    }
}

/// Peers, and the ports of the connection's target at which they meet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Allowed {
    /// `None`: all, whatever the protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<Ports>>,
    pub addresses: Addresses,
}

impl Allowed {
    fn allows(&self, protocol: Protocol, address: IpAddr, port: u16) -> bool {
        let at = |ports: &Ports| ports.protocol == protocol && (ports.first..=ports.last).contains(&port);
        self.ports.as_ref().is_none_or(|all| all.iter().any(at)) && self.addresses.contains(address)
    }
}

/// The same in its one form: ports and addresses without overlap, each set of ports once, nothing that allows nothing.
pub fn merged(all: impl IntoIterator<Item = Allowed>) -> Vec<Allowed> {
    let mut by_ports: BTreeMap<Option<Vec<Ports>>, Vec<AddressRange>> = BTreeMap::new();
    for Allowed { ports, addresses } in all {
        let ports = ports.map(without_overlap);
        if ports.as_ref().is_none_or(|ports| !ports.is_empty()) && !addresses.is_empty() {
            by_ports.entry(ports).or_default().extend(addresses.ranges());
        }
    }
    by_ports
        .into_iter()
        .map(|(ports, ranges)| Allowed {
            ports,
            addresses: ranges.into(),
        })
        .collect()
}

fn without_overlap(mut all: Vec<Ports>) -> Vec<Ports> {
    all.sort_unstable();
    let mut merged: Vec<Ports> = Vec::with_capacity(all.len());
    for ports in all {
        match merged.last_mut() {
            Some(last) if last.protocol == ports.protocol && ports.first <= last.last.saturating_add(1) => {
                last.last = last.last.max(ports.last);
            }
            _ => merged.push(ports),
        }
    }
    merged
}

/// Whether some of these allow it.
pub fn allows(all: &[Allowed], protocol: Protocol, address: IpAddr, port: u16) -> bool {
    all.iter().any(|one| one.allows(protocol, address, port))
}

/// The rules of one Pod; a direction without any is open.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRules {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Vec<Allowed>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Vec<Allowed>>,
}

impl NetworkRules {
    /// Whether they forbid anything.
    pub fn is_open(&self) -> bool {
        self.ingress.is_none() && self.egress.is_none()
    }

    /// Whether who is at this address may begin something with a port of the Pod.
    pub fn lets_in(&self, protocol: Protocol, from: IpAddr, port: u16) -> bool {
        let_through(self.ingress.as_deref(), protocol, from, port)
    }

    /// Whether the Pod may begin something there.
    pub fn lets_out(&self, protocol: Protocol, to: SocketAddr) -> bool {
        let_through(self.egress.as_deref(), protocol, to.ip(), to.port())
    }
}

/// A Pod always reaches itself.
fn let_through(all: Option<&[Allowed]>, protocol: Protocol, address: IpAddr, port: u16) -> bool {
    let address = address.to_canonical();
    all.is_none_or(|all| address.is_loopback() || allows(all, protocol, address, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use Protocol::{Sctp, Tcp, Udp};

    fn at(addresses: &str, ports: Option<&[(Protocol, u16, u16)]>) -> Allowed {
        let range = |&(protocol, first, last): &(Protocol, u16, u16)| Ports {
            protocol,
            first,
            last,
        };
        Allowed {
            ports: ports.map(|ports| ports.iter().map(range).collect()),
            addresses: addresses
                .split_whitespace()
                .map(|text| text.parse::<AddressRange>().unwrap())
                .collect(),
        }
    }

    #[test]
    fn one_form() {
        let messy = [
            at(
                "10.0.0.9",
                Some(&[(Udp, 53, 53), (Tcp, 80, 90), (Tcp, 85, 99), (Tcp, 100, 100)]),
            ),
            at("10.0.0.1", None),
            at("10.0.0.8", Some(&[(Tcp, 80, 100), (Udp, 53, 53)])),
            at("10.0.0.7", Some(&[])),
            at("", Some(&[(Tcp, 1, 1)])),
            at("10.0.0.2", None),
        ];
        let clean = vec![
            at("10.0.0.1-10.0.0.2", None),
            at("10.0.0.8-10.0.0.9", Some(&[(Tcp, 80, 100), (Udp, 53, 53)])),
        ];
        assert_eq!(merged(messy), clean);
        assert_eq!(merged(clean.clone()), clean);
    }

    #[test]
    fn what_is_let_through() {
        let rules = NetworkRules {
            ingress: Some(vec![at("10.0.0.1", Some(&[(Tcp, 80, 81)]))]),
            egress: Some(vec![at("10.0.0.2", None)]),
        };
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        for (protocol, from, port, expected) in [
            (Tcp, "10.0.0.1", 80, true),
            (Tcp, "::ffff:10.0.0.1", 81, true),
            (Tcp, "10.0.0.1", 82, false),
            (Udp, "10.0.0.1", 80, false),
            (Tcp, "10.0.0.2", 80, false),
            (Tcp, "127.0.0.1", 9, true),
            (Udp, "::1", 9, true),
        ] {
            assert_eq!(rules.lets_in(protocol, ip(from), port), expected, "{from}:{port}");
        }
        assert!(rules.lets_out(Sctp, "10.0.0.2:7".parse().unwrap()));
        assert!(!rules.lets_out(Tcp, "10.0.0.1:80".parse().unwrap()));
        assert!(NetworkRules::default().is_open() && !rules.is_open());
        assert!(NetworkRules::default().lets_out(Tcp, "10.0.0.1:80".parse().unwrap()));
    }

    #[test]
    fn as_text() {
        let rules = NetworkRules {
            ingress: Some(vec![]),
            egress: Some(vec![at("10.0.0.1-10.0.0.2", Some(&[(Udp, 53, 53)]))]),
        };
        let text = serde_json::to_string(&rules).unwrap();
        assert_eq!(
            text,
            r#"{"ingress":[],"egress":[{"ports":[{"protocol":"UDP","first":53,"last":53}],"addresses":["10.0.0.1-10.0.0.2"]}]}"#
        );
        assert_eq!(serde_json::from_str::<NetworkRules>(&text).unwrap(), rules);
        assert!(serde_json::from_str::<NetworkRules>("{}").unwrap().is_open());
    }
}

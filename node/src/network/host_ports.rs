//! Ports of this host that lead to a Pod (`hostPort`): who has which, and the rules that translate them.
//!
//! A port is claimed before a Pod has a network and given back with it; two Pods never have one that overlaps. Rules are
//! made from all claims at once, in chains and maps of their own beside those of Services. Follows what the `portmap`
//! plugin of CNI does: clients keep their address, but for those on the host's loopback and a Pod that meets itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ipnet::Ipv4Net;

use super::nft::conntrack::{Flow, forget, udp_flows};
use super::nft::{
    self, Batch, ChainKind, Element, Existing, Expression, Hook, NftError, SetKind, Value, Verdict,
    add_table, join, matches,
};
use super::services::Protocol;
use super::services::keys::{port_key, service_key, shown, socket};
use super::{Network, ipam};

/// Priorities of address translation (nft(8)).
const DESTINATION: i32 = -100;
const SOURCE: i32 = 100;

const TRANSLATE: &str = "host-ports";
const IN: &str = "host-ports-in";
const OUT: &str = "host-ports-out";
const RETURN: &str = "host-ports-return";
/// The chains of this file.
pub(super) const CHAINS: [&str; 4] = [TRANSLATE, IN, OUT, RETURN];
const BY_PORT: &str = "host-ports-everywhere";
const BY_ADDRESS: &str = "host-ports-of-address";
const HAIRPINS: &str = "host-ports-hairpins";

/// One port that a Pod wants of its host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// The host's address it is open at; the unspecified one stands for all.
    pub address: IpAddr,
    pub protocol: Protocol,
    pub port: u16,
    /// The port of the Pod it leads to.
    pub target: u16,
}

impl HostPort {
    /// As upstream's scheduler compares them: an address overlaps with itself and with 0.0.0.0.
    fn overlaps(&self, other: &HostPort) -> bool {
        let everywhere = |port: &HostPort| port.address == IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let same = self.port == other.port && self.protocol == other.protocol;
        same && (self.address == other.address || everywhere(self) || everywhere(other))
    }
}

/// Another Pod of this host has the port.
#[derive(Debug, thiserror::Error)]
#[error("host port {port} is another Pod's")]
pub struct PortTaken {
    pub port: u16,
}

/// All claims, by the Pods' uids.
#[derive(Debug, Default)]
pub(super) struct HostPorts {
    claims: Mutex<BTreeMap<String, Claim>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Claim {
    ports: Vec<HostPort>,
    /// Where the ports lead; none before the Pod has an address, nor ever for one in the host's network.
    pod: Option<Ipv4Addr>,
}

impl HostPorts {
    /// The claims are whole even if a thread panicked beside them: each change is one insertion or removal.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Claim>> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What packets are compared with.
#[derive(Debug, Default, PartialEq, Eq)]
struct Rules {
    by_port: BTreeMap<(Protocol, u16), SocketAddrV4>,
    by_address: BTreeMap<(Ipv4Addr, Protocol, u16), SocketAddrV4>,
}

impl Rules {
    fn of(claims: &BTreeMap<String, Claim>) -> Self {
        let mut rules = Rules::default();
        let open = claims
            .values()
            .filter_map(|claim| Some((claim.pod?, &claim.ports)));
        for (pod, ports) in open {
            for port in ports {
                let IpAddr::V4(address) = port.address else {
                    continue;
                };
                let target = SocketAddrV4::new(pod, port.target);
                match address.is_unspecified() {
                    true => rules.by_port.insert((port.protocol, port.port), target),
                    false => rules
                        .by_address
                        .insert((address, port.protocol, port.port), target),
                };
            }
        }
        rules
    }

    fn pods(&self) -> BTreeSet<Ipv4Addr> {
        let targets = self.by_port.values().chain(self.by_address.values());
        targets.map(|target| *target.ip()).collect()
    }
}

impl Network {
    /// Claims a Pod's ports, or says whose they are not to be had for. A Pod may claim again what it has.
    pub fn claim_ports(&self, uid: &str, ports: Vec<HostPort>) -> Result<(), PortTaken> {
        let mut claims = self.host_ports.lock();
        let others = claims.iter().filter(|(owner, _)| *owner != uid);
        let taken: Vec<&HostPort> = others.flat_map(|(_, claim)| &claim.ports).collect();
        if let Some(port) = ports.iter().find(|port| taken.iter().any(|t| t.overlaps(port))) {
            return Err(PortTaken { port: port.port });
        }
        match claims.get_mut(uid) {
            Some(claim) => claim.ports = ports,
            None if ports.is_empty() => {}
            None => {
                claims.insert(uid.to_owned(), Claim { ports, pod: None });
            }
        }
        Ok(())
    }

    /// Opens the ports a Pod claimed.
    pub fn open_ports(&self, uid: &str, pod: Ipv4Addr) -> Result<(), NftError> {
        let mut claims = self.host_ports.lock();
        let Some(claim) = claims.get_mut(uid).filter(|claim| claim.pod != Some(pod)) else {
            return Ok(());
        };
        claim.pod = Some(pod);
        let ports = claim.ports.clone();
        self.apply_ports(&claims)?;
        self.forget_flows(&ports);
        Ok(())
    }

    /// Closes a Pod's ports; others may have them then.
    pub fn release_ports(&self, uid: &str) -> Result<(), NftError> {
        let mut claims = self.host_ports.lock();
        let Some(claim) = claims.get(uid).cloned() else {
            return Ok(());
        };
        if claim.pod.is_some() {
            let mut rest = claims.clone();
            rest.remove(uid);
            self.apply_ports(&rest)?;
            self.forget_flows(&claim.ports);
        }
        claims.remove(uid);
        Ok(())
    }

    /// Takes back the claims of Pods that run since before this agent.
    pub fn recall_ports(
        &self,
        claims: impl IntoIterator<Item = (String, Vec<HostPort>)>,
    ) -> Result<(), NftError> {
        let mut all = self.host_ports.lock();
        for (uid, ports) in claims {
            let pod = self.ipam.of(&uid);
            all.insert(uid, Claim { ports, pod });
        }
        self.apply_ports(&all)
    }

    /// Writes the rules once more: somebody removed them.
    pub(super) fn restore_ports(&self) -> Result<(), NftError> {
        let claims = self.host_ports.lock();
        self.apply_ports(&claims)
    }

    /// A node where no Pod ever had such a port has no rules for them.
    fn apply_ports(&self, claims: &BTreeMap<String, Claim>) -> Result<(), NftError> {
        let table = self.names.table();
        let existing = nft::existing(&table)?;
        let rules = Rules::of(claims);
        if rules == Rules::default() && !existing.chains.contains(TRANSLATE) {
            return Ok(());
        }
        nft::apply(program(&table, self.config.pod_cidr, &existing, &rules))
    }

    /// Lets UDP flows to these ports be looked at anew; where that cannot be done, they are by themselves when nothing
    /// came for a while.
    fn forget_flows(&self, ports: &[HostPort]) {
        let udp = |port: &&HostPort| port.protocol == Protocol::Udp;
        let numbers: BTreeSet<u16> = ports.iter().filter(udp).map(|port| port.port).collect();
        if numbers.is_empty() {
            return;
        }
        let pods = self.config.pod_cidr;
        let forgotten = udp_flows().and_then(|flows| {
            let mut stale = flows.iter().filter(|flow| is_concerned(flow, &numbers, pods));
            stale.try_for_each(forget)
        });
        if let Err(error) = forgotten {
            tracing::warn!(%error, "UDP flows to host ports may go where they went for a while");
        }
    }
}

/// Whether a flow may go elsewhere now: it aims at such a port, and nobody or a Pod's rule sent it on.
fn is_concerned(flow: &Flow, ports: &BTreeSet<u16>, pods: Ipv4Net) -> bool {
    let plain = flow.to == flow.answered_by;
    ports.contains(&flow.to.port()) && (plain || pods.contains(flow.answered_by.ip()))
}

/// The transaction that makes these rules hold, and no other ones.
fn program(table: &str, pods: Ipv4Net, existing: &Existing, rules: &Rules) -> Batch {
    let mut batch = add_table(table);
    make_sets(&mut batch);
    fill_sets(&mut batch, rules);
    batch.chain(TRANSLATE);
    let rewrite = |set: &str| {
        let set = set.to_owned();
        let target = Expression::Map {
            set,
            id: None,
            key: 0,
            to: 4,
        };
        [target, Expression::Destination { address: 4, port: 5 }]
    };
    batch.rule(
        TRANSLATE,
        matches::service_key().into_iter().chain(rewrite(BY_ADDRESS)),
    );
    let local = [matches::to_this_host(), matches::port_key(0)].concat();
    batch.rule(TRANSLATE, local.into_iter().chain(rewrite(BY_PORT)));
    for (name, hook) in [(IN, Hook::Prerouting), (OUT, Hook::Output)] {
        batch.base_chain(existing, name, ChainKind::Nat, hook, DESTINATION);
        batch.rule(name, [Expression::Verdict(Verdict::Jump(TRANSLATE.into()))]);
    }
    batch.base_chain(existing, RETURN, ChainKind::Nat, Hook::Postrouting, SOURCE);
    let set = HAIRPINS.to_owned();
    let itself = Expression::Member {
        set,
        id: None,
        key: 0,
    };
    let hairpin = [
        matches::destination_rewritten(),
        vec![matches::source_to(0), matches::destination_to(1), itself],
    ];
    let loopback = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);
    let from_loopback = [
        matches::destination_rewritten(),
        matches::within(matches::source_to, loopback, true),
        matches::within(matches::destination_to, pods, true),
    ];
    for rule in [hairpin.concat(), from_loopback.concat()] {
        let gateway = matches::source_becomes(ipam::gateway(pods));
        batch.rule(RETURN, rule.into_iter().chain(gateway));
    }
    batch
}

fn make_sets(batch: &mut Batch) {
    for (set, key, shown) in [
        (BY_PORT, 8, shown::PORT_KEY),
        (BY_ADDRESS, 12, shown::SERVICE_KEY),
    ] {
        let (value, value_shown) = (shown::SOCKET_LENGTH, shown::SOCKET);
        batch.set(
            set,
            SetKind::Map {
                key,
                shown,
                value,
                value_shown,
            },
        );
    }
    let shown = shown::PAIR;
    batch.set(HAIRPINS, SetKind::Set { key: 8, shown });
    for set in [BY_PORT, BY_ADDRESS, HAIRPINS] {
        batch.empty_set(set);
    }
}

fn fill_sets(batch: &mut Batch, rules: &Rules) {
    let element = |key: Vec<u8>, target: &SocketAddrV4| Element {
        key,
        value: Value::Bytes(socket(target)),
    };
    let by_port: Vec<Element> = rules
        .by_port
        .iter()
        .map(|((protocol, port), target)| element(port_key(*protocol, *port), target))
        .collect();
    let by_address: Vec<Element> = rules
        .by_address
        .iter()
        .map(|((ip, protocol, port), target)| element(service_key(*ip, *protocol, *port), target))
        .collect();
    let hairpins: Vec<Element> = rules
        .pods()
        .into_iter()
        .map(|ip| Element {
            key: join(&[&ip.octets(), &ip.octets()]),
            value: Value::Nothing,
        })
        .collect();
    for (set, elements) in [(BY_PORT, by_port), (BY_ADDRESS, by_address), (HAIRPINS, hairpins)] {
        batch.elements(set, &elements);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(address: &str, port: u16) -> HostPort {
        HostPort {
            address: address.parse().unwrap(),
            protocol: Protocol::Tcp,
            port,
            target: 80,
        }
    }

    #[test]
    fn ports_overlap_as_upstream_compares_them() {
        for (a, b, overlap) in [
            (port("0.0.0.0", 1), port("0.0.0.0", 1), true),
            (port("0.0.0.0", 1), port("0.0.0.0", 2), false),
            (port("0.0.0.0", 1), port("127.0.0.1", 1), true),
            (port("127.0.0.1", 1), port("127.0.0.2", 1), false),
            (port("127.0.0.1", 1), port("127.0.0.1", 1), true),
        ] {
            assert_eq!(a.overlaps(&b), overlap, "{a:?} {b:?}");
            assert_eq!(b.overlaps(&a), overlap, "{b:?} {a:?}");
        }
        let udp = HostPort {
            protocol: Protocol::Udp,
            ..port("0.0.0.0", 1)
        };
        assert!(!udp.overlaps(&port("0.0.0.0", 1)));
    }

    #[test]
    fn only_pods_with_an_address_make_rules() {
        let claim = |pod: Option<&str>, ports: Vec<HostPort>| Claim {
            ports,
            pod: pod.map(|ip| ip.parse().unwrap()),
        };
        let claims = BTreeMap::from([
            (
                "a".to_owned(),
                claim(Some("10.1.0.2"), vec![port("0.0.0.0", 1), port("127.0.0.1", 2)]),
            ),
            ("b".to_owned(), claim(None, vec![port("0.0.0.0", 3)])),
        ]);
        let rules = Rules::of(&claims);
        let target: SocketAddrV4 = "10.1.0.2:80".parse().unwrap();
        assert_eq!(rules.by_port, BTreeMap::from([((Protocol::Tcp, 1), target)]));
        let address = (Ipv4Addr::LOCALHOST, Protocol::Tcp, 2);
        assert_eq!(rules.by_address, BTreeMap::from([(address, target)]));
        assert_eq!(rules.pods(), BTreeSet::from([*target.ip()]));
    }
}

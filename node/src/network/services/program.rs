//! From a ruleset to one nftables transaction that replaces all that was there before.
//!
//! Several hands write to the cluster's table, each its own chains only: `base` what Pods need in any case, this one what
//! Services need. Packet marks are not used: another program's marks are its own.

use std::collections::BTreeSet;
use std::net::SocketAddrV4;

use ipnet::Ipv4Net;

use super::base::{GUARD, PODS_LEAVING};
use super::keys::{port_key, service_key, shown, socket};
use super::refusal::{REFUSE, REFUSED, REFUSED_ADDRESSES, refuse};
use super::ruleset::{Balancer, Ruleset};
use super::sources::{ENDPOINTS, HAIRPINS, KEEP_SOURCES, hide_sources};
use crate::network::host_ports;
use crate::network::nft::{
    Batch, ChainKind, Element, Existing, Expression, Hook, SetKind, Value, Verdict, add_table, join, matches,
};

/// The hook's priority (nft(8)): translation of destinations.
pub(super) const DESTINATION: i32 = -100;

const SERVICES: &str = "services";
const ADDRESSES: &str = "service-addresses";
const NODE_PORTS: &str = "service-node-ports";
/// The chains there are whatever Services there are.
const FIXED: [&str; 10] = [
    GUARD,
    PODS_LEAVING,
    SERVICES,
    "services-in",
    "services-out",
    "services-return",
    REFUSE,
    "refuse-others",
    "refuse-own",
    "refuse-arriving",
];
const BALANCER: &str = "svc-";
const MEMORY: &str = "affinity-";

/// How many clients one endpoint remembers; further ones get an endpoint by chance each time. The kernel
/// allots a table of that size at once (64 KiB), per endpoint of a Service port that asks for affinity.
const MEMORY_SIZE: u32 = 8_192;

/// What is to hold, and what does.
pub struct Change<'a> {
    pub ruleset: &'a Ruleset,
    /// What was applied before and is still there: Service ports that stay as they were are left alone.
    pub previous: Option<&'a Ruleset>,
    pub existing: &'a Existing,
}

impl Change<'_> {
    /// Whether a Service port's chain, or one of its endpoints, stays as it is.
    fn keeps(&self, chain: &str) -> bool {
        let chain = owner(chain);
        let before = self.previous.and_then(|previous| previous.balancers.get(chain));
        before.is_some() && before == self.ruleset.balancers.get(chain)
    }

    /// The chains there are to be for Service ports and their endpoints.
    fn wanted_chains(&self) -> BTreeSet<String> {
        let balancers = self.ruleset.balancers.iter();
        balancers
            .flat_map(|(name, b)| endpoint_chains(name, b).map(|(own, _)| own).chain([name.clone()]))
            .collect()
    }

    /// Chains of no use any more: an older version's.
    fn strangers(&self) -> impl Iterator<Item = &String> {
        let known = |name: &str| {
            FIXED.contains(&name) || host_ports::CHAINS.contains(&name) || name.starts_with(BALANCER)
        };
        self.existing.chains.iter().filter(move |name| !known(name))
    }

    /// The chains of Service ports and their endpoints there are now.
    fn existing_chains(&self) -> impl Iterator<Item = &String> {
        self.existing
            .chains
            .iter()
            .filter(|name| name.starts_with(BALANCER))
    }
}

/// Whether a table holds what `install_base` and `program` put there, as far as names tell.
pub fn is_whole(existing: &Existing, ruleset: &Ruleset) -> bool {
    let fixed = [PODS_LEAVING, SERVICES]
        .iter()
        .all(|chain| existing.chains.contains(*chain));
    fixed
        && ruleset
            .balancers
            .keys()
            .all(|chain| existing.chains.contains(chain))
}

/// The transaction that makes a change.
pub fn program(table: &str, pods: Ipv4Net, change: &Change<'_>) -> Batch {
    let mut batch = add_table(table);
    empty_old(&mut batch, change);
    make_sets(&mut batch);
    delete_stale(&mut batch, change);
    let changed = || {
        change
            .ruleset
            .balancers
            .iter()
            .filter(|(name, _)| !change.keeps(name))
    };
    for (name, _) in changed() {
        batch.chain(name);
    }
    for (name, balancer) in changed() {
        send_inside(&mut batch, name, balancer, pods);
        balance(&mut batch, name, balancer);
    }
    fill_sets(&mut batch, change.ruleset);
    translate(&mut batch, change.existing);
    hide_sources(&mut batch, change.existing, pods);
    refuse(&mut batch, change);
    for chain in change.strangers() {
        batch.delete_chain(chain);
    }
    batch
}

/// Takes every reference to a Service's chain away, so that stale ones can be deleted.
fn empty_old(batch: &mut Batch, change: &Change<'_>) {
    for set in [ADDRESSES, NODE_PORTS] {
        if change.existing.sets.contains(set) {
            batch.empty_set(set);
        }
    }
    let stale = change.existing_chains().filter(|name| !change.keeps(name));
    for chain in stale.chain(change.strangers()) {
        batch.empty_chain(chain);
    }
}

fn make_sets(batch: &mut Batch) {
    batch.set(
        ADDRESSES,
        SetKind::Verdicts {
            key: 12,
            shown: shown::SERVICE_KEY,
        },
    );
    batch.set(
        NODE_PORTS,
        SetKind::Verdicts {
            key: 8,
            shown: shown::PORT_KEY,
        },
    );
    batch.set(
        ENDPOINTS,
        SetKind::Set {
            key: 12,
            shown: shown::SERVICE_KEY,
        },
    );
    batch.set(
        REFUSED,
        SetKind::Set {
            key: 8,
            shown: shown::PORT_KEY,
        },
    );
    batch.set(
        HAIRPINS,
        SetKind::Set {
            key: 8,
            shown: shown::PAIR,
        },
    );
    batch.set(
        REFUSED_ADDRESSES,
        SetKind::Set {
            key: 12,
            shown: shown::SERVICE_KEY,
        },
    );
    batch.set(
        KEEP_SOURCES,
        SetKind::Set {
            key: 12,
            shown: shown::SERVICE_KEY,
        },
    );
    for set in [ENDPOINTS, KEEP_SOURCES, REFUSED, REFUSED_ADDRESSES, HAIRPINS] {
        batch.empty_set(set);
    }
}

fn delete_stale(batch: &mut Batch, change: &Change<'_>) {
    let wanted = change.wanted_chains();
    for chain in change.existing_chains().filter(|name| !wanted.contains(*name)) {
        batch.delete_chain(chain);
    }
    for set in &change.existing.sets {
        if set
            .strip_prefix(MEMORY)
            .is_some_and(|chain| !wanted.contains(chain))
        {
            batch.delete_set(set);
        }
    }
}

/// The chains of the endpoints of a Service port that keeps its clients, named below its own.
fn endpoint_chains<'a>(
    chain: &'a str,
    balancer: &'a Balancer,
) -> impl Iterator<Item = (String, &'a SocketAddrV4)> {
    let endpoints = balancer.endpoints.iter().filter(|_| balancer.affinity.is_some());
    endpoints.map(move |endpoint| (format!("{chain}/{}_{}", endpoint.ip(), endpoint.port()), endpoint))
}

/// The chain of the Service port, `svc-namespace/name/protocol/port`, that a chain of an endpoint belongs to.
fn owner(chain: &str) -> &str {
    chain
        .match_indices('/')
        .nth(3)
        .map_or(chain, |(end, _)| &chain[..end])
}

/// The rules by which this node and its Pods are sent to another chain.
fn send_inside(batch: &mut Batch, chain: &str, balancer: &Balancer, pods: Ipv4Net) {
    let Some(inside) = &balancer.inside else { return };
    for within in [
        matches::within(matches::source_to, pods, true),
        matches::from_this_host(),
    ] {
        let goto = Expression::Verdict(Verdict::Goto(inside.clone()));
        batch.rule(chain, within.into_iter().chain([goto]));
    }
}

/// The rules of one Service port: each endpoint with the same chance, or the one that remembers the client. Where there is none,
/// another node has one, which will be asked the next time: nothing is answered.
fn balance(batch: &mut Batch, chain: &str, balancer: &Balancer) {
    if balancer.endpoints.is_empty() {
        return batch.rule(chain, [Expression::Verdict(Verdict::Drop)]);
    }
    match balancer.affinity {
        Some(seconds) => stick(batch, chain, balancer, u64::from(seconds) * 1_000),
        None => {
            let mut rule = choose(batch, balancer);
            rule.push(Expression::Destination { address: 2, port: 3 });
            batch.rule(chain, rule);
        }
    }
}

fn stick(batch: &mut Batch, chain: &str, balancer: &Balancer, timeout_ms: u64) {
    let mut verdicts = Vec::new();
    for (own, endpoint) in endpoint_chains(chain, balancer) {
        let set = format!("{MEMORY}{own}");
        let goto = Verdict::Goto(own.clone());
        batch.chain(&own);
        batch.set(
            &set,
            SetKind::Memory {
                key: 4,
                shown: shown::ADDRESS,
                size: MEMORY_SIZE,
            },
        );
        let remember = Expression::Remember {
            set: set.clone(),
            key: 0,
            timeout_ms,
        };
        // A rule of its own: a client that finds the memory full goes there all the same.
        batch.rule(&own, [matches::source_to(0), remember]);
        batch.rule(
            &own,
            load(endpoint)
                .into_iter()
                .chain([Expression::Destination { address: 2, port: 3 }]),
        );
        let known = Expression::Member {
            set,
            id: None,
            key: 0,
        };
        batch.rule(
            chain,
            [matches::source_to(0), known, Expression::Verdict(goto.clone())],
        );
        verdicts.push(Value::Verdict(goto));
    }
    let below = verdicts.len() as u32;
    let elements: Vec<Element> = verdicts
        .into_iter()
        .zip(0..)
        .map(|(value, n)| numbered(n, value))
        .collect();
    let (set, id) = batch.anonymous(
        SetKind::Verdicts {
            key: 4,
            shown: shown::INTEGER,
        },
        &elements,
    );
    let by_chance = Expression::VerdictMap {
        set,
        id: Some(id),
        key: 1,
    };
    batch.rule(chain, [Expression::Random { below, to: 1 }, by_chance]);
}

/// Loads an endpoint into registers 2 and 3, one by one: `nft list` does not understand both at once.
fn load(endpoint: &SocketAddrV4) -> [Expression; 2] {
    let (address, port) = (
        endpoint.ip().octets().to_vec(),
        endpoint.port().to_be_bytes().to_vec(),
    );
    [
        Expression::Load {
            value: address,
            to: 2,
        },
        Expression::Load { value: port, to: 3 },
    ]
}

/// An element for a number that `Random` makes.
fn numbered(number: u32, value: Value) -> Element {
    Element {
        key: number.to_ne_bytes().to_vec(),
        value,
    }
}

/// Loads an endpoint into registers 2 and 3, each with the same chance.
fn choose(batch: &mut Batch, balancer: &Balancer) -> Vec<Expression> {
    let endpoints: Vec<&SocketAddrV4> = balancer.endpoints.iter().collect();
    if let [only] = endpoints.as_slice() {
        return load(only).to_vec();
    }
    let below = endpoints.len() as u32;
    let elements: Vec<Element> = endpoints
        .iter()
        .zip(0..)
        .map(|(e, n)| numbered(n, Value::Bytes(socket(e))))
        .collect();
    let (value, value_shown) = (shown::SOCKET_LENGTH, shown::SOCKET);
    let kind = SetKind::Map {
        key: 4,
        shown: shown::INTEGER,
        value,
        value_shown,
    };
    let (set, id) = batch.anonymous(kind, &elements);
    vec![
        Expression::Random { below, to: 1 },
        Expression::Map {
            set,
            id: Some(id),
            key: 1,
            to: 2,
        },
    ]
}

fn fill_sets(batch: &mut Batch, ruleset: &Ruleset) {
    let goto = |chain: &String| Value::Verdict(Verdict::Goto(chain.clone()));
    let addresses: Vec<Element> = ruleset
        .addresses
        .iter()
        .map(|((ip, protocol, port), chain)| Element {
            key: service_key(*ip, *protocol, *port),
            value: goto(chain),
        })
        .collect();
    let node_ports: Vec<Element> = ruleset
        .node_ports
        .iter()
        .map(|((protocol, port), chain)| Element {
            key: port_key(*protocol, *port),
            value: goto(chain),
        })
        .collect();
    let refused: BTreeSet<Vec<u8>> = ruleset
        .refused_node_ports
        .iter()
        .map(|(protocol, port)| port_key(*protocol, *port))
        .collect();
    let refused_addresses: BTreeSet<Vec<u8>> = ruleset
        .refused_addresses
        .iter()
        .map(|(ip, protocol, port)| service_key(*ip, *protocol, *port))
        .collect();
    let (mut endpoints, mut hairpins, mut known) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for balancer in ruleset.balancers.values() {
        for endpoint in &balancer.endpoints {
            let ip = endpoint.ip().octets();
            let key = service_key(*endpoint.ip(), balancer.protocol, endpoint.port());
            known.extend(balancer.inside.as_ref().map(|_| key.clone()));
            endpoints.insert(key);
            hairpins.insert(join(&[&ip, &ip]));
        }
    }
    batch.elements(ADDRESSES, &addresses);
    batch.elements(NODE_PORTS, &node_ports);
    for (set, keys) in [
        (REFUSED, refused),
        (REFUSED_ADDRESSES, refused_addresses),
        (ENDPOINTS, endpoints),
        (KEEP_SOURCES, known),
        (HAIRPINS, hairpins),
    ] {
        let keys: Vec<Element> = keys
            .into_iter()
            .map(|key| Element {
                key,
                value: Value::Nothing,
            })
            .collect();
        batch.elements(set, &keys);
    }
}

/// The chains that rewrite destinations on the way in and out of the host.
fn translate(batch: &mut Batch, existing: &Existing) {
    batch.chain(SERVICES);
    let by_address = Expression::VerdictMap {
        set: ADDRESSES.into(),
        id: None,
        key: 0,
    };
    batch.rule(SERVICES, matches::service_key().into_iter().chain([by_address]));
    let by_port = Expression::VerdictMap {
        set: NODE_PORTS.into(),
        id: None,
        key: 1,
    };
    let local = [matches::to_this_host(), matches::port_key(1)].concat();
    batch.rule(SERVICES, local.into_iter().chain([by_port]));
    for (name, hook) in [("services-in", Hook::Prerouting), ("services-out", Hook::Output)] {
        batch.base_chain(existing, name, ChainKind::Nat, hook, DESTINATION);
        batch.rule(name, [Expression::Verdict(Verdict::Jump(SERVICES.into()))]);
    }
}

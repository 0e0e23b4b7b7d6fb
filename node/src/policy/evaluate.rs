//! What policies come to. A policy's peers are looked up once for all Pods it selects; what it allows one of them is then
//! put together from all that select it, each adding to the others (API reference, NetworkPolicySpec).
//!
//! A port by name is one of the connection's target: of the selected Pod coming in, of each peer going out.

use std::collections::BTreeMap;

use amphipod_shim_api::network::{AddressRange, Addresses, Allowed, NetworkRules, Ports, Protocol, merged};
use ipnet::IpNet;
use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::core::{Selector, SelectorExt};

use super::peer::{Labels, Peer};

/// Whom policies may name.
pub struct Cluster<'a> {
    /// Labels of all namespaces, by name.
    pub namespaces: &'a BTreeMap<String, Labels>,
    pub pods: &'a [Peer],
}

/// One policy, its peers looked up.
#[derive(Debug)]
pub struct Policy {
    namespace: String,
    selects: Selection,
    /// `None`: it is not about this direction.
    ingress: Option<Vec<Entry>>,
    egress: Option<Vec<Allowed>>,
}

/// Who may come in, and at which ports of whoever is selected.
#[derive(Debug)]
struct Entry {
    addresses: Addresses,
    ports: Option<Vec<Port>>,
}

#[derive(Debug)]
enum Port {
    Numbers(Ports),
    Named(Protocol, String),
}

/// A selector ready to match; one with an operator nobody knows selects nothing.
#[derive(Debug)]
struct Selection(Option<Selector>);

impl Selection {
    fn new(selector: &LabelSelector) -> Self {
        Self(Selector::try_from(selector.clone()).ok())
    }

    fn matches(&self, labels: &Labels) -> bool {
        self.0.as_ref().is_some_and(|selector| selector.matches(labels))
    }
}

impl Policy {
    /// Looks up whom a policy names.
    pub fn new(policy: &NetworkPolicy, cluster: &Cluster<'_>) -> Self {
        let none = NetworkPolicySpec::default();
        let spec = policy.spec.as_ref().unwrap_or(&none);
        let namespace = policy.metadata.namespace.clone().unwrap_or_default();
        let (incoming, outgoing) = directions(spec);
        let within = Within {
            namespace: &namespace,
            cluster,
        };
        let ingress = spec.ingress.iter().flatten();
        let egress = spec.egress.iter().flatten();
        Self {
            ingress: incoming.then(|| {
                let entry = |rule: &k8s_openapi::api::networking::v1::NetworkPolicyIngressRule| Entry {
                    addresses: within.addresses(rule.from.as_deref()),
                    ports: ports(rule.ports.as_deref()),
                };
                ingress.map(entry).collect()
            }),
            egress: outgoing.then(|| {
                let ways =
                    egress.flat_map(|rule| within.ways(rule.to.as_deref(), ports(rule.ports.as_deref())));
                merged(ways)
            }),
            selects: Selection::new(&spec.pod_selector.clone().unwrap_or_default()),
            namespace,
        }
    }

    pub fn selects(&self, pod: &Peer) -> bool {
        self.namespace == pod.namespace && self.selects.matches(&pod.labels)
    }
}

/// Whether a policy is about what comes in, and what goes out.
fn directions(spec: &NetworkPolicySpec) -> (bool, bool) {
    let types = spec.policy_types.as_deref().unwrap_or_default();
    let says = |direction: &str| types.iter().any(|said| said == direction);
    match types {
        [] => (true, spec.egress.as_ref().is_some_and(|rules| !rules.is_empty())),
        _ => (says("Ingress"), says("Egress")),
    }
}

/// What these policies come to for a Pod: those that select it, and no others.
pub fn rules<'a>(pod: &Peer, policies: impl IntoIterator<Item = &'a Policy>) -> NetworkRules {
    let (mut ingress, mut egress) = (None::<Vec<Allowed>>, None::<Vec<Allowed>>);
    for policy in policies {
        if let Some(entries) = &policy.ingress {
            let entries = entries.iter().map(|entry| entry.of(pod));
            ingress.get_or_insert_default().extend(entries);
        }
        if let Some(ways) = &policy.egress {
            egress.get_or_insert_default().extend(ways.iter().cloned());
        }
    }
    NetworkRules {
        ingress: ingress.map(merged),
        egress: egress.map(merged),
    }
}

impl Entry {
    fn of(&self, pod: &Peer) -> Allowed {
        Allowed {
            ports: self.ports.as_deref().map(|ports| numbers(ports, Some(pod))),
            addresses: self.addresses.clone(),
        }
    }
}

/// All ports, when none is named (upstream: "if this field is empty or missing").
fn ports(ports: Option<&[NetworkPolicyPort]>) -> Option<Vec<Port>> {
    let ports = ports.filter(|ports| !ports.is_empty())?;
    Some(ports.iter().filter_map(port).collect())
}

fn port(port: &NetworkPolicyPort) -> Option<Port> {
    let protocol = Protocol::parse(port.protocol.as_deref())?;
    match &port.port {
        None => Some(Port::Numbers(Ports::all(protocol))),
        Some(IntOrString::String(name)) => Some(Port::Named(protocol, name.clone())),
        Some(IntOrString::Int(number)) => {
            let first = u16::try_from(*number).ok()?;
            let last = port
                .end_port
                .map_or(Some(first), |last| u16::try_from(last).ok())?;
            Some(Port::Numbers(Ports {
                protocol,
                first,
                last: last.max(first),
            }))
        }
    }
}

/// The numbers of ports; a name without somebody who has it is none.
fn numbers(ports: &[Port], target: Option<&Peer>) -> Vec<Ports> {
    let number = |port: &Port| match port {
        Port::Numbers(ports) => vec![*ports],
        Port::Named(protocol, name) => {
            let target = target.into_iter();
            target.flat_map(|target| target.port(*protocol, name)).collect()
        }
    };
    ports.iter().flat_map(number).collect()
}

/// The place of a policy.
struct Within<'a> {
    namespace: &'a str,
    cluster: &'a Cluster<'a>,
}

impl<'a> Within<'a> {
    /// Everybody whom these name; everybody at all when there is none.
    fn addresses(&self, peers: Option<&[NetworkPolicyPeer]>) -> Addresses {
        let Some(peers) = peers.filter(|peers| !peers.is_empty()) else {
            return Addresses::everything();
        };
        let named = |peer: &NetworkPolicyPeer| -> Vec<AddressRange> {
            match &peer.ip_block {
                Some(block) => block_of(block).into(),
                None => self.pods(peer).flat_map(ranges).collect(),
            }
        };
        peers.iter().flat_map(named).collect()
    }

    /// The ways out of a rule.
    fn ways(&self, peers: Option<&[NetworkPolicyPeer]>, ports: Option<Vec<Port>>) -> Vec<Allowed> {
        let everywhere = Allowed {
            ports: ports.as_deref().map(|ports| numbers(ports, None)),
            addresses: self.addresses(peers),
        };
        let mut ways = vec![everywhere];
        let named = ports.iter().flatten().any(|port| matches!(port, Port::Named(..)));
        let Some(ports) = ports.filter(|_| named) else {
            return ways;
        };
        // What a name means is each target's own; addresses have none.
        let way = |target: &Peer| Allowed {
            ports: Some(numbers(&ports, Some(target))),
            addresses: ranges(target).collect(),
        };
        match peers.filter(|peers| !peers.is_empty()) {
            None => ways.extend(self.cluster.pods.iter().map(way)),
            Some(peers) => {
                let selectors = peers.iter().filter(|peer| peer.ip_block.is_none());
                ways.extend(selectors.flat_map(|peer| self.pods(peer)).map(way));
            }
        }
        ways
    }

    /// The Pods that selectors name: in the policy's own namespace, unless they say in which. A peer that says nothing is
    /// nobody (the API refuses it).
    fn pods(&self, peer: &NetworkPolicyPeer) -> impl Iterator<Item = &'a Peer> {
        let namespaces = peer.namespace_selector.as_ref().map(Selection::new);
        let pods = peer.pod_selector.as_ref().map(Selection::new);
        let says_something = namespaces.is_some() || pods.is_some();
        let (own, known) = (self.namespace.to_owned(), self.cluster.namespaces);
        let is_there = move |pod: &Peer| match &namespaces {
            None => pod.namespace == own,
            Some(selection) => known
                .get(&pod.namespace)
                .is_some_and(|labels| selection.matches(labels)),
        };
        let all = self.cluster.pods.iter();
        all.filter(move |pod| {
            says_something && is_there(pod) && pods.as_ref().is_none_or(|pods| pods.matches(&pod.labels))
        })
    }
}

fn ranges(pod: &Peer) -> impl Iterator<Item = AddressRange> {
    pod.addresses.iter().copied().map(AddressRange::from)
}

/// The addresses of a block without what is taken out of it; what is no block is none.
fn block_of(block: &IPBlock) -> Addresses {
    let range = |cidr: &String| {
        let net: IpNet = cidr.parse().ok()?;
        AddressRange::new(net.network(), net.broadcast())
    };
    let whole: Addresses = range(&block.cidr).into_iter().collect();
    let except: Addresses = block.except.iter().flatten().filter_map(range).collect();
    whole.minus(&except)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;

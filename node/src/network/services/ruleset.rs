//! What Services mean for packets: a pure function of Services, EndpointSlices and the node's name.
//!
//! Follows the Service documentation (Virtual IPs and Service Proxies; Service Internal Traffic
//! Policy; KEP-1669 for terminating endpoints). Traffic policies for external traffic are all `Cluster`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};

use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointSlice};

pub use amphipod_shim_api::network::Protocol;

use crate::network::nft::conntrack::Flow;

/// The label that says whose endpoints a slice holds.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// How long a client keeps its endpoint where `timeoutSeconds` says nothing (API reference, ClientIPConfig).
const AFFINITY_SECONDS: i32 = 10_800;

/// One port of one Service that has endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Balancer {
    pub protocol: Protocol,
    pub endpoints: BTreeSet<SocketAddrV4>,
    /// Seconds a client keeps its endpoint.
    pub affinity: Option<u32>,
}

/// All a node's rules are made from. Chains are named for their Service and port, so that the same
/// port keeps its chain, and what its clients were promised, from one ruleset to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    pub balancers: BTreeMap<String, Balancer>,
    pub addresses: BTreeMap<(Ipv4Addr, Protocol, u16), String>,
    pub node_ports: BTreeMap<(Protocol, u16), String>,
    /// Addresses and node ports of Services without endpoints: connections to them are refused.
    pub refused_addresses: BTreeSet<(Ipv4Addr, Protocol, u16)>,
    pub refused_node_ports: BTreeSet<(Protocol, u16)>,
    /// Where Services have their addresses from: what else goes there is refused.
    pub ranges: BTreeSet<Ipv4Net>,
}

impl Ruleset {
    /// Whether a UDP flow goes where these rules would no longer send it, or where none sends anything now that those of before
    /// sent it. Flows to node ports are judged only where a Pod answers them: the port of another host's service may have the
    /// same number.
    pub fn is_stale_udp(&self, flow: &Flow, before: Option<&Ruleset>, pods: Ipv4Net) -> bool {
        let (ip, port) = (*flow.to.ip(), flow.to.port());
        let address = (ip, Protocol::Udp, port);
        let was_ours = |before: &Ruleset| before.holds(ip) || before.addresses.contains_key(&address);
        let is_led = flow.to != flow.answered_by;
        let is_nobodys = self.refused_addresses.contains(&address) || before.is_some_and(was_ours);
        let chain = match self.addresses.get(&address) {
            None if self.holds(ip) || (is_led && is_nobodys) => return true,
            None if !is_led || !pods.contains(flow.answered_by.ip()) => return false,
            None => self.node_ports.get(&(Protocol::Udp, port)),
            found => found,
        };
        let refused = self.refused_node_ports.contains(&(Protocol::Udp, port));
        let balancer = chain.and_then(|chain| self.balancers.get(chain));
        balancer.map_or(refused, |balancer| {
            !balancer.endpoints.contains(&flow.answered_by)
        })
    }

    /// Whether an address is from a range that Services have theirs from.
    pub fn holds(&self, ip: Ipv4Addr) -> bool {
        self.ranges.iter().any(|range| range.contains(&ip))
    }

    /// The part that is about UDP.
    pub fn udp(&self) -> impl Iterator<Item = (&String, &Balancer)> {
        self.balancers
            .iter()
            .filter(|(_, balancer)| balancer.protocol == Protocol::Udp)
    }
}

/// The rules for these Services. Services that are headless, external or without an IPv4 address make none.
pub fn rules<'a>(
    services: impl IntoIterator<Item = &'a Service>,
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    node: &str,
) -> Ruleset {
    let slices = by_service(slices);
    let mut ruleset = Ruleset::default();
    for service in services {
        let (Some(spec), Some(name)) = (&service.spec, &service.metadata.name) else {
            continue;
        };
        let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
        let addresses = addresses(service, spec);
        if addresses.is_empty() {
            continue;
        }
        let slices = slices
            .get(&(namespace, name.as_str()))
            .map(Vec::as_slice)
            .unwrap_or_default();
        let service = Balanced {
            name: format!("{namespace}/{name}"),
            spec,
            addresses,
            slices,
        };
        for port in spec.ports.iter().flatten() {
            service.add_port(port, node, &mut ruleset);
        }
    }
    ruleset
}

type Slices<'a> = BTreeMap<(&'a str, &'a str), Vec<&'a EndpointSlice>>;

fn by_service<'a>(slices: impl IntoIterator<Item = &'a EndpointSlice>) -> Slices<'a> {
    let mut map = Slices::new();
    for slice in slices.into_iter().filter(|slice| slice.address_type == "IPv4") {
        let labels = slice.metadata.labels.as_ref();
        let (Some(name), Some(namespace)) = (
            labels.and_then(|l| l.get(SERVICE_NAME)),
            &slice.metadata.namespace,
        ) else {
            continue;
        };
        map.entry((namespace, name)).or_default().push(slice);
    }
    map
}

/// The addresses a Service answers on: its ClusterIPs, external addresses and those of a load balancer.
fn addresses(service: &Service, spec: &ServiceSpec) -> BTreeSet<Ipv4Addr> {
    if spec.type_.as_deref() == Some("ExternalName") {
        return BTreeSet::new();
    }
    let cluster = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    let cluster: BTreeSet<Ipv4Addr> = cluster.filter_map(|ip| ip.parse().ok()).collect();
    if cluster.is_empty() {
        return cluster;
    }
    let balancer = service.status.as_ref().and_then(|s| s.load_balancer.as_ref());
    let ingress = balancer.and_then(|b| b.ingress.as_ref()).into_iter().flatten();
    let ingress = ingress
        .filter(|i| i.ip_mode.as_deref() != Some("Proxy"))
        .filter_map(|i| i.ip.as_ref());
    let outside = spec
        .external_ips
        .iter()
        .flatten()
        .chain(ingress)
        .filter_map(|ip| ip.parse().ok());
    cluster.iter().copied().chain(outside).collect()
}

/// A Service that answers on addresses, with what is known of its endpoints.
struct Balanced<'a> {
    /// `namespace/name`
    name: String,
    spec: &'a ServiceSpec,
    addresses: BTreeSet<Ipv4Addr>,
    slices: &'a [&'a EndpointSlice],
}

impl Balanced<'_> {
    fn add_port(&self, port: &ServicePort, node: &str, ruleset: &mut Ruleset) {
        let Some(protocol) = Protocol::parse(port.protocol.as_deref()) else {
            return;
        };
        let Ok(number) = u16::try_from(port.port) else {
            return;
        };
        let node_port = port
            .node_port
            .and_then(|p| u16::try_from(p).ok())
            .filter(|p| *p != 0);
        let endpoints = endpoints(self.spec, port, protocol, self.slices, node);
        if endpoints.is_empty() {
            let addresses = self.addresses.iter().map(|ip| (*ip, protocol, number));
            ruleset.refused_addresses.extend(addresses);
            ruleset
                .refused_node_ports
                .extend(node_port.map(|p| (protocol, p)));
            return;
        }
        let chain = format!("svc-{}/{}/{number}", self.name, protocol.name());
        for ip in &self.addresses {
            ruleset.addresses.insert((*ip, protocol, number), chain.clone());
        }
        if let Some(node_port) = node_port {
            ruleset.node_ports.insert((protocol, node_port), chain.clone());
        }
        ruleset.balancers.insert(
            chain,
            Balancer {
                protocol,
                endpoints,
                affinity: affinity(self.spec),
            },
        );
    }
}

fn affinity(spec: &ServiceSpec) -> Option<u32> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let config = spec
        .session_affinity_config
        .as_ref()
        .and_then(|c| c.client_ip.as_ref());
    let seconds = config.and_then(|c| c.timeout_seconds).unwrap_or(AFFINITY_SECONDS);
    Some(
        u32::try_from(seconds)
            .ok()
            .filter(|s| *s > 0)
            .unwrap_or(AFFINITY_SECONDS as u32),
    )
}

/// The endpoints to use: the ready ones, or, when there are none, those still serving while they terminate.
fn endpoints(
    spec: &ServiceSpec,
    port: &ServicePort,
    protocol: Protocol,
    slices: &[&EndpointSlice],
    node: &str,
) -> BTreeSet<SocketAddrV4> {
    let local_only = spec.internal_traffic_policy.as_deref() == Some("Local");
    let (mut ready, mut draining) = (BTreeSet::new(), BTreeSet::new());
    for slice in slices {
        let Some(number) = target_port(slice, port, protocol) else {
            continue;
        };
        for endpoint in slice.endpoints.iter().flatten() {
            if local_only && endpoint.node_name.as_deref() != Some(node) {
                continue;
            }
            let sockets = endpoint_addresses(endpoint).map(|ip| SocketAddrV4::new(ip, number));
            match Readiness::of(endpoint.conditions.as_ref()) {
                Readiness::Ready => ready.extend(sockets),
                Readiness::Draining => draining.extend(sockets),
                Readiness::Not => {}
            }
        }
    }
    if ready.is_empty() { draining } else { ready }
}

fn endpoint_addresses(endpoint: &Endpoint) -> impl Iterator<Item = Ipv4Addr> {
    // The API: consumers use the first address only.
    endpoint
        .addresses
        .first()
        .and_then(|ip| ip.parse().ok())
        .into_iter()
}

/// The number a slice gives to a Service's port, by the port's name.
fn target_port(slice: &EndpointSlice, port: &ServicePort, protocol: Protocol) -> Option<u16> {
    let name = port.name.as_deref().unwrap_or_default();
    let same = |p: &&k8s_openapi::api::discovery::v1::EndpointPort| {
        p.name.as_deref().unwrap_or_default() == name
            && Protocol::parse(p.protocol.as_deref()) == Some(protocol)
    };
    let number = slice.ports.iter().flatten().find(same)?.port?;
    u16::try_from(number).ok().filter(|n| *n != 0)
}

enum Readiness {
    Ready,
    Draining,
    Not,
}

impl Readiness {
    /// An unknown condition counts as ready, and serving defaults to ready (API reference, EndpointConditions).
    fn of(conditions: Option<&EndpointConditions>) -> Self {
        let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
        let serving = conditions.and_then(|c| c.serving).unwrap_or(ready);
        let terminating = conditions.and_then(|c| c.terminating).unwrap_or(false);
        match (ready, serving && terminating) {
            (true, _) => Self::Ready,
            (false, true) => Self::Draining,
            (false, false) => Self::Not,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const NODE: &str = "here";

    fn service(name: &str, spec: Value) -> Service {
        let object = json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec});
        serde_json::from_value(object).unwrap()
    }

    fn slice(service: &str, ports: Value, endpoints: Value) -> EndpointSlice {
        let labels = json!({SERVICE_NAME: service});
        let metadata = json!({"name": "s", "namespace": "default", "labels": labels});
        let object =
            json!({"metadata": metadata, "addressType": "IPv4", "ports": ports, "endpoints": endpoints});
        serde_json::from_value(object).unwrap()
    }

    fn web(extra: Value) -> Service {
        let mut spec = json!({"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"],
            "ports": [{"name": "http", "port": 80, "nodePort": 30080}]});
        spec.as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        service("web", spec)
    }

    fn http(endpoints: Value) -> EndpointSlice {
        slice(
            "web",
            json!([{"name": "http", "port": 8080, "protocol": "TCP"}]),
            endpoints,
        )
    }

    fn sockets(list: &[&str]) -> BTreeSet<SocketAddrV4> {
        list.iter().map(|s| s.parse().unwrap()).collect()
    }

    #[test]
    fn a_service_leads_to_the_ready_endpoints_of_its_slices() {
        let slices = [
            http(
                json!([{"addresses": ["10.1.0.2"]}, {"addresses": ["10.1.0.3"], "conditions": {"ready": false}}]),
            ),
            http(json!([{"addresses": ["10.1.0.4"], "conditions": {"ready": true}}])),
        ];
        let ruleset = rules(&[web(json!({}))], &slices, NODE);
        let chain = "svc-default/web/tcp/80";
        let address = (Ipv4Addr::new(10, 96, 0, 7), Protocol::Tcp, 80);
        assert_eq!(ruleset.addresses, BTreeMap::from([(address, chain.to_owned())]));
        assert_eq!(
            ruleset.node_ports,
            BTreeMap::from([((Protocol::Tcp, 30080), chain.to_owned())])
        );
        assert_eq!(
            ruleset.balancers[chain].endpoints,
            sockets(&["10.1.0.2:8080", "10.1.0.4:8080"])
        );
        assert_eq!(ruleset.balancers[chain].affinity, None);
        assert!(ruleset.refused_node_ports.is_empty());
    }

    #[test]
    fn without_endpoints_address_and_node_port_are_refused() {
        let not_ready = http(json!([{"addresses": ["10.1.0.3"], "conditions": {"ready": false}}]));
        for slices in [vec![], vec![not_ready]] {
            let ruleset = rules(&[web(json!({}))], &slices, NODE);
            assert!(ruleset.addresses.is_empty() && ruleset.balancers.is_empty());
            assert_eq!(
                ruleset.refused_addresses,
                BTreeSet::from([(Ipv4Addr::new(10, 96, 0, 7), Protocol::Tcp, 80)])
            );
            assert_eq!(
                ruleset.refused_node_ports,
                BTreeSet::from([(Protocol::Tcp, 30080)])
            );
        }
    }

    #[test]
    fn endpoints_that_serve_while_terminating_are_used_when_no_other_is_left() {
        let draining = json!({"ready": false, "serving": true, "terminating": true});
        let ready = json!({"addresses": ["10.1.0.2"]});
        let old = json!({"addresses": ["10.1.0.3"], "conditions": draining});
        let chosen = |list: Value| {
            rules(&[web(json!({}))], &[http(list)], NODE).balancers["svc-default/web/tcp/80"]
                .endpoints
                .clone()
        };
        assert_eq!(chosen(json!([ready, old])), sockets(&["10.1.0.2:8080"]));
        assert_eq!(chosen(json!([old])), sockets(&["10.1.0.3:8080"]));
    }

    #[test]
    fn services_without_an_address_make_no_rules() {
        let endpoints = http(json!([{"addresses": ["10.1.0.2"]}]));
        for spec in [
            json!({"clusterIP": "None", "clusterIPs": ["None"]}),
            json!({"type": "ExternalName"}),
            json!({"clusterIP": "fd00::1", "clusterIPs": ["fd00::1"]}),
            json!({"clusterIP": "", "clusterIPs": []}),
        ] {
            assert_eq!(rules(&[web(spec)], [&endpoints], NODE), Ruleset::default());
        }
    }

    #[test]
    fn a_udp_flow_is_stale_when_no_rule_sends_it_where_it_goes() {
        let dns = service(
            "dns",
            json!({"clusterIPs": ["10.96.0.10"], "externalIPs": ["192.0.2.1"],
                "ports": [{"port": 53, "protocol": "UDP", "nodePort": 30053}]}),
        );
        let ranges = |list: &[&str]| list.iter().map(|range| range.parse().unwrap()).collect();
        let of = |services: &[Service], list: &[&str]| {
            let endpoints = json!([{"addresses": ["10.1.0.9"]}]);
            let slice = slice("dns", json!([{"port": 5353, "protocol": "UDP"}]), endpoints);
            Ruleset {
                ranges: ranges(list),
                ..rules(services, &[slice], NODE)
            }
        };
        let (own, both) = (["10.96.0.0/24"], ["10.96.0.0/24", "10.97.0.0/24"]);
        let with = of(std::slice::from_ref(&dns), &both);
        let (without, narrow) = (of(&[], &both), of(&[], &own));
        let refusing = Ruleset {
            ranges: ranges(&own),
            ..rules(&[dns], &[], NODE)
        };
        let pods = "10.1.0.0/24".parse().unwrap();
        for (now, before, to, answered_by, expected) in [
            (&with, None, "10.96.0.10:53", "10.1.0.9:5353", false),
            (&with, None, "10.96.0.10:53", "10.1.0.8:5353", true),
            (&with, None, "10.96.0.10:53", "10.96.0.10:53", true),
            (&with, None, "10.97.0.1:53", "10.97.0.1:53", true),
            (&with, None, "192.0.2.1:53", "192.0.2.1:53", true),
            (&with, None, "192.0.2.2:53", "192.0.2.2:53", false),
            (&with, None, "192.0.2.9:30053", "10.1.0.8:5353", true),
            (&with, None, "192.0.2.9:30053", "10.1.0.9:5353", false),
            (&without, None, "192.0.2.1:53", "10.2.0.9:5353", false),
            (&without, Some(&with), "192.0.2.1:53", "10.2.0.9:5353", true),
            (&narrow, None, "10.97.0.1:53", "10.2.0.9:5353", false),
            (&narrow, Some(&without), "10.97.0.1:53", "10.2.0.9:5353", true),
            (&refusing, None, "192.0.2.1:53", "10.2.0.9:5353", true),
            (&refusing, None, "192.0.2.1:53", "192.0.2.1:53", false),
        ] {
            let flow = Flow::new(to.parse().unwrap(), answered_by.parse().unwrap());
            let stale = now.is_stale_udp(&flow, before, pods);
            assert_eq!(stale, expected, "{to} answered by {answered_by}");
        }
    }

    #[test]
    fn affinity_and_local_traffic_policy_are_followed() {
        let list = json!([{"addresses": ["10.1.0.2"], "nodeName": NODE}, {"addresses": ["10.2.0.2"], "nodeName": "there"}]);
        let of = |extra: Value| {
            rules(&[web(extra)], &[http(list.clone())], NODE).balancers["svc-default/web/tcp/80"].clone()
        };
        assert_eq!(
            of(json!({"internalTrafficPolicy": "Local"})).endpoints,
            sockets(&["10.1.0.2:8080"])
        );
        assert_eq!(of(json!({"sessionAffinity": "ClientIP"})).affinity, Some(10_800));
        let config = json!({"clientIP": {"timeoutSeconds": 5}});
        let timed = json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": config});
        assert_eq!(of(timed).affinity, Some(5));
    }

    #[test]
    fn ports_are_matched_by_name_and_protocol() {
        let dns = service(
            "dns",
            json!({"clusterIPs": ["10.96.0.10"], "externalIPs": ["192.0.2.1"], "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
                {"name": "metrics", "port": 9153, "protocol": "TCP"}]}),
        );
        let ports = json!([{"name": "dns", "port": 5353, "protocol": "UDP"}, {"name": "dns-tcp", "port": 5354, "protocol": "TCP"}]);
        let ruleset = rules(
            &[dns],
            &[slice("dns", ports, json!([{"addresses": ["10.1.0.9"]}]))],
            NODE,
        );
        assert_eq!(
            ruleset.balancers["svc-default/dns/udp/53"].endpoints,
            sockets(&["10.1.0.9:5353"])
        );
        assert_eq!(
            ruleset.balancers["svc-default/dns/tcp/53"].endpoints,
            sockets(&["10.1.0.9:5354"])
        );
        assert_eq!(ruleset.balancers.len(), 2);
        assert_eq!(ruleset.addresses.len(), 4);
    }

    #[test]
    fn slices_of_other_services_and_families_are_not_used() {
        let mut six = http(json!([{"addresses": ["fd00::2"]}]));
        six.address_type = "IPv6".into();
        let other = slice(
            "other",
            json!([{"name": "http", "port": 1}]),
            json!([{"addresses": ["10.1.0.2"]}]),
        );
        assert!(rules(&[web(json!({}))], &[six, other], NODE).balancers.is_empty());
    }
}

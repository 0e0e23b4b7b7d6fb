//! What Services mean for packets: a pure function of Services, EndpointSlices and the node's name.
//!
//! Follows the Service documentation (Virtual IPs and Service Proxies; Service Internal Traffic Policy; Traffic policies;
//! KEP-1669 for terminating endpoints).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};

use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

pub use amphipod_shim_api::network::Protocol;

use super::endpoints::{by_service, endpoints};

/// How long a client keeps its endpoint where `timeoutSeconds` says nothing (API reference, ClientIPConfig).
const AFFINITY_SECONDS: i32 = 10_800;

/// Where one port of one Service leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Balancer {
    pub protocol: Protocol,
    /// None where only other nodes have some: who asks is not answered at all.
    pub endpoints: BTreeSet<SocketAddrV4>,
    /// Seconds a client keeps its endpoint.
    pub affinity: Option<u32>,
    /// The balancer that this node and its Pods are sent to instead. Who comes from elsewhere keeps its address then.
    pub inside: Option<String>,
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
    /// Where a balancer leads this node and its Pods.
    pub fn inside(&self, chain: &str) -> Option<&Balancer> {
        let balancer = self.balancers.get(chain)?;
        match &balancer.inside {
            Some(inside) => self.balancers.get(inside),
            None => Some(balancer),
        }
    }

    fn lead(&mut self, address: (Ipv4Addr, Protocol, u16), chain: Option<&String>) {
        match chain {
            Some(chain) => drop(self.addresses.insert(address, chain.clone())),
            None => drop(self.refused_addresses.insert(address)),
        }
    }

    fn lead_port(&mut self, port: (Protocol, u16), chain: Option<&String>) {
        match chain {
            Some(chain) => drop(self.node_ports.insert(port, chain.clone())),
            None => drop(self.refused_node_ports.insert(port)),
        }
    }

    /// Whether an address is from a range that Services have theirs from.
    pub fn holds(&self, ip: Ipv4Addr) -> bool {
        self.ranges.iter().any(|range| range.contains(&ip))
    }

    /// Whether no UDP packet is led elsewhere, or refused otherwise, by the other.
    pub fn is_same_for_udp(&self, other: &Self) -> bool {
        let udp = Protocol::Udp;
        let addresses = |of: &Self| -> Vec<_> {
            let led = of
                .addresses
                .iter()
                .filter(|((_, protocol, _), _)| *protocol == udp);
            led.map(|(address, chain)| (*address, chain.clone())).collect()
        };
        let ports = |of: &Self| -> Vec<_> {
            let led = of.node_ports.iter().filter(|((protocol, _), _)| *protocol == udp);
            led.map(|(port, chain)| (*port, chain.clone())).collect()
        };
        let refused = |of: &Self| -> Vec<_> {
            let addresses = of
                .refused_addresses
                .iter()
                .filter(|(_, protocol, _)| *protocol == udp);
            let ports = of
                .refused_node_ports
                .iter()
                .filter(|(protocol, _)| *protocol == udp);
            let addresses = addresses.map(|(ip, _, port)| (Some(*ip), *port));
            addresses.chain(ports.map(|(_, port)| (None, *port))).collect()
        };
        self.udp().eq(other.udp())
            && addresses(self) == addresses(other)
            && ports(self) == ports(other)
            && refused(self) == refused(other)
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
        let Some((own, outside)) = addresses(service, spec) else {
            continue;
        };
        let slices = slices
            .get(&(namespace, name.as_str()))
            .map(Vec::as_slice)
            .unwrap_or_default();
        let service = Balanced {
            name: format!("{namespace}/{name}"),
            spec,
            own,
            outside,
            slices,
        };
        for port in spec.ports.iter().flatten() {
            service.add_port(port, node, &mut ruleset);
        }
    }
    ruleset
}

/// The addresses a Service answers on: its ClusterIPs; external ones and those of a load balancer.
fn addresses(service: &Service, spec: &ServiceSpec) -> Option<(BTreeSet<Ipv4Addr>, BTreeSet<Ipv4Addr>)> {
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    let own = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    let own: BTreeSet<Ipv4Addr> = own.filter_map(|ip| ip.parse().ok()).collect();
    if own.is_empty() {
        return None;
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
        .filter_map(|ip| ip.parse().ok())
        .filter(|ip| !own.contains(ip));
    let outside = outside.collect();
    Some((own, outside))
}

/// Whether a traffic policy is for endpoints on the node alone.
pub(super) fn is_local(policy: Option<&String>) -> bool {
    policy.is_some_and(|policy| policy == "Local")
}

/// A Service that answers on addresses, with what is known of its endpoints.
struct Balanced<'a> {
    /// `namespace/name`
    name: String,
    spec: &'a ServiceSpec,
    own: BTreeSet<Ipv4Addr>,
    outside: BTreeSet<Ipv4Addr>,
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
        let is_outside = node_port.is_some() || !self.outside.is_empty();
        let ways = self.ways(port, (protocol, number), node, is_outside);
        for (addresses, chain) in [(&self.own, &ways.internal), (&self.outside, &ways.external)] {
            for ip in addresses {
                ruleset.lead((*ip, protocol, number), chain.as_ref());
            }
        }
        if let Some(node_port) = node_port {
            ruleset.lead_port((protocol, node_port), ways.external.as_ref());
        }
        ruleset.balancers.extend(ways.balancers);
    }

    /// Where a port leads by the Service's policies, which are of two kinds: for its own addresses, and for those it has outside.
    fn ways(
        &self,
        port: &ServicePort,
        (protocol, number): (Protocol, u16),
        node: &str,
        is_outside: bool,
    ) -> Ways {
        let all = endpoints(self.slices, port, protocol, |_| true);
        let here = |endpoint: &Endpoint| endpoint.node_name.as_deref() == Some(node);
        let near = endpoints(self.slices, port, protocol, here);
        let [to_all, to_near, to_near_from_outside] = ["", "-near", "-outside"]
            .map(|kind| format!("svc-{}/{}{kind}/{number}", self.name, protocol.name()));
        let internal = match is_local(self.spec.internal_traffic_policy.as_ref()) {
            _ if all.is_empty() => None,
            true => Some(&to_near),
            false => Some(&to_all),
        };
        let external = match is_local(self.spec.external_traffic_policy.as_ref()) {
            _ if all.is_empty() || !is_outside => None,
            true => Some(&to_near_from_outside),
            false => Some(&to_all),
        };
        let uses = |chain: &String| internal == Some(chain) || external == Some(chain);
        let (by_near, by_outside) = (uses(&to_near), uses(&to_near_from_outside));
        let kept = [
            (&to_near, &near, None, by_near),
            (&to_near_from_outside, &near, Some(to_all.clone()), by_outside),
            (&to_all, &all, None, uses(&to_all) || by_outside),
        ];
        let kept = kept.into_iter().filter(|(.., used)| *used);
        let balancers = kept.map(|(chain, endpoints, inside, _)| {
            let balancer = Balancer {
                protocol,
                endpoints: endpoints.clone(),
                affinity: affinity(self.spec),
                inside,
            };
            (chain.clone(), balancer)
        });
        Ways {
            balancers: balancers.collect(),
            internal: internal.cloned(),
            external: external.cloned(),
        }
    }
}

/// Where a port leads to: who asks at the Service's own addresses, and at those it has outside and at the node's. None: nowhere.
struct Ways {
    internal: Option<String>,
    external: Option<String>,
    balancers: Vec<(String, Balancer)>,
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

#[cfg(test)]
mod tests {
    use super::super::endpoints::SERVICE_NAME;
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
    fn affinity_is_followed() {
        let list = json!([{"addresses": ["10.1.0.2"], "nodeName": NODE}, {"addresses": ["10.2.0.2"], "nodeName": "there"}]);
        let of = |extra: Value| {
            rules(&[web(extra)], &[http(list.clone())], NODE).balancers["svc-default/web/tcp/80"].clone()
        };
        assert_eq!(of(json!({"sessionAffinity": "ClientIP"})).affinity, Some(10_800));
        let config = json!({"clientIP": {"timeoutSeconds": 5}});
        let timed = json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": config});
        assert_eq!(of(timed).affinity, Some(5));
    }

    /// What leads from a Service's own address, from outside, and from outside for this node and its Pods.
    #[test]
    fn traffic_policies_are_followed() {
        let own = (Ipv4Addr::new(10, 96, 0, 7), Protocol::Tcp, 80);
        let external = (Ipv4Addr::new(192, 0, 2, 1), Protocol::Tcp, 80);
        let here = json!({"addresses": ["10.1.0.2"], "nodeName": NODE});
        let there = json!({"addresses": ["10.2.0.2"], "nodeName": "there"});
        let (near, far) = ("10.1.0.2:8080", "10.2.0.2:8080");
        let (both, far_only) = (json!([here, there]), json!([there]));
        for (internal, policy, list, from_own, from_outside, inside) in [
            (
                "Cluster",
                "Cluster",
                &both,
                Some(&[near, far][..]),
                Some(&[near, far][..]),
                &[near, far][..],
            ),
            (
                "Local",
                "Cluster",
                &both,
                Some(&[near]),
                Some(&[near, far]),
                &[near, far],
            ),
            (
                "Cluster",
                "Local",
                &both,
                Some(&[near, far]),
                Some(&[near]),
                &[near, far],
            ),
            (
                "Local",
                "Local",
                &both,
                Some(&[near]),
                Some(&[near]),
                &[near, far],
            ),
            ("Cluster", "Local", &far_only, Some(&[far]), Some(&[]), &[far]),
            ("Local", "Cluster", &far_only, Some(&[]), Some(&[far]), &[far]),
            ("Local", "Local", &far_only, Some(&[]), Some(&[]), &[far]),
            ("Local", "Local", &json!([]), None, None, &[]),
        ] {
            let case = format!("{internal}, {policy}, {list}");
            let policies = json!({"internalTrafficPolicy": internal, "externalTrafficPolicy": policy, "externalIPs": ["192.0.2.1"]});
            let ruleset = rules(&[web(policies)], &[http(list.clone())], NODE);
            let chain = ruleset.addresses.get(&external);
            assert_eq!(ruleset.node_ports.get(&(Protocol::Tcp, 30080)), chain, "{case}");
            let leads =
                |chain: Option<&String>| chain.map(|chain| ruleset.balancers[chain].endpoints.clone());
            assert_eq!(
                leads(ruleset.addresses.get(&own)),
                from_own.map(sockets),
                "{case}"
            );
            assert_eq!(leads(chain), from_outside.map(sockets), "{case}");
            let found = chain
                .and_then(|chain| ruleset.inside(chain))
                .map(|b| b.endpoints.clone());
            assert_eq!(found.unwrap_or_default(), sockets(inside), "{case}");
            for (address, led) in [(own, from_own), (external, from_outside)] {
                assert_eq!(
                    ruleset.refused_addresses.contains(&address),
                    led.is_none(),
                    "{case}"
                );
            }
        }
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

//! Policies where a Service is in between. They are about Pods, and a kernel judges a packet for a Service when it has been
//! given an endpoint's address; who sees only the Service's address must know beforehand where it may lead.
//!
//! An address of a Service is allowed where each endpoint is that it may lead to: one that is not would be reached by chance.
//! One from outside of their ranges (an external address, a load balancer's) is somebody's own besides: at ports that lead to no
//! Service rules mean himself.
//! The cluster's DNS is answered by the node itself here and has no Pods; to policies it is a Pod as it is in other clusters,
//! at the Service's address, so that the usual rules for it mean what they mean there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use amphipod_shim_api::network::{AddressRange, Addresses, Allowed, Ports, Protocol, allows, merged};

use super::peer::{NamedPort, Peer};
use crate::network::services::Ruleset;

/// Where the cluster's DNS is, and by which label policies know its Pods.
const DNS_NAMESPACE: &str = "kube-system";
const DNS_LABEL: (&str, &str) = ("k8s-app", "kube-dns");
const DNS_PORT: u16 = 53;

/// The Services of the cluster, as a node leads to them.
#[derive(Clone, Debug)]
pub struct Fronts {
    pub ruleset: Ruleset,
    /// The Service `kube-dns`.
    pub dns: Option<Ipv4Addr>,
}

impl Fronts {
    /// The cluster's DNS as a Pod.
    pub fn dns_pod(&self) -> Option<Peer> {
        let port = |name: &str, protocol| NamedPort {
            name: name.to_owned(),
            protocol,
            number: DNS_PORT,
        };
        Some(Peer {
            namespace: DNS_NAMESPACE.to_owned(),
            labels: [(DNS_LABEL.0.to_owned(), DNS_LABEL.1.to_owned())].into(),
            addresses: vec![self.dns?.into()],
            ports: vec![port("dns", Protocol::Udp), port("dns-tcp", Protocol::Tcp)],
        })
    }

    /// What may go out, with the addresses of Services in the place of what rules say of them as addresses.
    pub fn through(&self, egress: &[Allowed]) -> Vec<Allowed> {
        let ranges = self.ruleset.ranges.iter();
        let ranges =
            ranges.filter_map(|range| AddressRange::new(range.network().into(), range.broadcast().into()));
        let outside = self.outside();
        let fronts = outside.keys().map(|ip| AddressRange::from(IpAddr::from(*ip)));
        let fronts: Addresses = ranges.chain(fronts).collect();
        let direct = egress.iter().map(|allowed| Allowed {
            ports: allowed.ports.clone(),
            addresses: allowed.addresses.minus(&fronts),
        });
        let beside = outside.iter().flat_map(|(ip, taken)| beside(*ip, taken, egress));
        let through = self.ruleset.addresses.iter();
        let through = through.filter(|(front, chain)| self.leads_where_allowed(**front, chain, egress));
        let through = through.map(|(&(ip, protocol, port), _)| Allowed {
            ports: Some(vec![Ports::one(protocol, port)]),
            addresses: Addresses::from_iter([IpAddr::from(ip)]),
        });
        merged(direct.chain(beside).chain(through))
    }

    /// Addresses of Services from outside of their ranges, and what of them is a Service's.
    fn outside(&self) -> BTreeMap<Ipv4Addr, BTreeSet<(Protocol, u16)>> {
        let mut outside = BTreeMap::<_, BTreeSet<_>>::new();
        let fronts = self.ruleset.addresses.keys();
        for (ip, protocol, port) in fronts.filter(|(ip, ..)| !self.ruleset.holds(*ip)) {
            outside.entry(*ip).or_default().insert((*protocol, *port));
        }
        outside
    }

    fn leads_where_allowed(
        &self,
        (ip, protocol, port): (Ipv4Addr, Protocol, u16),
        chain: &str,
        egress: &[Allowed],
    ) -> bool {
        if self.dns == Some(ip) {
            return allows(egress, protocol, ip.into(), port);
        }
        let balancer = self.ruleset.inside(chain);
        balancer.is_some_and(|balancer| {
            let mut endpoints = balancer.endpoints.iter();
            endpoints.all(|to| allows(egress, protocol, (*to.ip()).into(), to.port()))
        })
    }
}

/// What rules say of an address where it is no Service's.
fn beside(
    ip: Ipv4Addr,
    taken: &BTreeSet<(Protocol, u16)>,
    egress: &[Allowed],
) -> impl Iterator<Item = Allowed> {
    let about = egress
        .iter()
        .filter(move |allowed| allowed.addresses.contains(ip.into()));
    about.map(move |allowed| Allowed {
        ports: Some(without(allowed.ports.as_deref(), taken)),
        addresses: Addresses::from_iter([IpAddr::from(ip)]),
    })
}

/// These ports, or all there are, but for those taken.
fn without(ports: Option<&[Ports]>, taken: &BTreeSet<(Protocol, u16)>) -> Vec<Ports> {
    let all = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].map(Ports::all);
    let mut left = ports.unwrap_or(&all).to_vec();
    for &(protocol, port) in taken {
        let (hit, mut kept): (Vec<Ports>, Vec<Ports>) = left
            .into_iter()
            .partition(|ports| ports.protocol == protocol && (ports.first..=ports.last).contains(&port));
        for ports in hit {
            kept.extend((ports.first < port).then(|| Ports {
                last: port - 1,
                ..ports
            }));
            kept.extend((port < ports.last).then(|| Ports {
                first: port + 1,
                ..ports
            }));
        }
        left = kept;
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::services::rules;
    use serde_json::{Value, json};

    fn fronts() -> Fronts {
        let service = |namespace: &str, name: &str, ip: &str, port: Value| {
            let spec = json!({"clusterIP": ip, "clusterIPs": [ip], "ports": [port]});
            json!({"metadata": {"name": name, "namespace": namespace}, "spec": spec})
        };
        let slice = |namespace: &str, name: &str, port: Value, ips: &[&str]| {
            let labels = json!({"kubernetes.io/service-name": name});
            let endpoints: Vec<Value> = ips.iter().map(|ip| json!({"addresses": [ip]})).collect();
            json!({"metadata": {"name": name, "namespace": namespace, "labels": labels}, "addressType": "IPv4",
                "ports": [port], "endpoints": endpoints})
        };
        let (http, dns) = (
            json!({"port": 8080, "protocol": "TCP"}),
            json!({"port": 10053, "protocol": "UDP"}),
        );
        let web = json!({"port": 80});
        let mut services = [
            service("n", "one", "10.43.0.1", web.clone()),
            service("n", "two", "10.43.0.2", web.clone()),
            service("n", "none", "10.43.0.3", web.clone()),
            service("n", "further", "10.90.0.7", web),
            service(
                "kube-system",
                "kube-dns",
                "10.43.0.10",
                json!({"port": 53, "protocol": "UDP"}),
            ),
        ];
        let slices = [
            slice("n", "one", http.clone(), &["10.42.0.1"]),
            slice("n", "two", http.clone(), &["10.42.0.1", "10.42.0.2"]),
            slice("n", "further", http, &["10.42.0.1"]),
            slice("kube-system", "kube-dns", dns, &["10.42.0.254"]),
        ];
        services[0]["spec"]["externalIPs"] = json!(["192.0.2.7"]);
        let services = services.map(|service| serde_json::from_value(service).unwrap());
        let slices = slices.map(|slice| serde_json::from_value(slice).unwrap());
        Fronts {
            ruleset: Ruleset {
                ranges: ["10.43.0.0/16", "10.90.0.0/24"]
                    .map(|range| range.parse().unwrap())
                    .into(),
                ..rules(&services, &slices, "here")
            },
            dns: Some(Ipv4Addr::new(10, 43, 0, 10)),
        }
    }

    fn to(range: &str, ports: Option<Ports>) -> Allowed {
        Allowed {
            ports: ports.map(|ports| vec![ports]),
            addresses: [range.parse::<AddressRange>().unwrap()].into_iter().collect(),
        }
    }

    #[test]
    fn a_service_is_allowed_where_all_its_endpoints_are() {
        let fronts = fronts();
        let http = Ports::one(Protocol::Tcp, 8080);
        let addresses = [
            [10, 43, 0, 1],
            [10, 43, 0, 2],
            [10, 43, 0, 3],
            [10, 90, 0, 7],
            [10, 90, 0, 8],
        ];
        let reaches = |egress: &[Allowed]| {
            let through = fronts.through(egress);
            addresses.map(|ip| allows(&through, Protocol::Tcp, ip.into(), 80))
        };
        for (egress, expected) in [
            (
                vec![to("10.42.0.1", Some(http))],
                [true, false, false, true, false],
            ),
            (
                vec![to("10.42.0.1-10.42.0.2", Some(http))],
                [true, true, false, true, false],
            ),
            (
                vec![to("10.42.0.1-10.42.0.2", Some(Ports::one(Protocol::Tcp, 80)))],
                [false; 5],
            ),
            (
                vec![to("0.0.0.0-255.255.255.255", None)],
                [true, true, false, true, false],
            ),
            (vec![to("10.43.0.0-10.43.255.255", None)], [false; 5]),
            (vec![to("10.90.0.0-10.90.0.255", None)], [false; 5]),
            (Vec::new(), [false; 5]),
        ] {
            assert_eq!(reaches(&egress), expected, "{egress:?}");
        }
        let everywhere = fronts.through(&[to("0.0.0.0-255.255.255.255", None)]);
        assert!(!allows(
            &everywhere,
            Protocol::Tcp,
            Ipv4Addr::new(10, 43, 0, 0).into(),
            80
        ));
        assert!(allows(
            &everywhere,
            Protocol::Sctp,
            Ipv4Addr::new(192, 0, 2, 1).into(),
            9
        ));
    }

    #[test]
    fn an_external_address_is_the_services_at_its_port_only() {
        let fronts = fronts();
        let http = Ports::one(Protocol::Tcp, 8080);
        let reaches = |egress: &[Allowed]| {
            let through = fronts.through(egress);
            [80, 79, 81].map(|port| allows(&through, Protocol::Tcp, [192, 0, 2, 7].into(), port))
        };
        let ports = |first, last| Ports {
            protocol: Protocol::Tcp,
            first,
            last,
        };
        for (egress, expected) in [
            (vec![to("192.0.2.7", None)], [false, true, true]),
            (vec![to("10.42.0.1", Some(http))], [true, false, false]),
            (
                vec![to("0.0.0.0-255.255.255.255", Some(ports(79, 80)))],
                [false, true, false],
            ),
            (
                vec![
                    to("10.42.0.1", Some(http)),
                    to("192.0.2.0-192.0.2.9", Some(ports(80, 81))),
                ],
                [true, false, true],
            ),
        ] {
            assert_eq!(reaches(&egress), expected, "{egress:?}");
        }
        let udp = fronts.through(&[to("192.0.2.7", None)]);
        assert!(allows(&udp, Protocol::Udp, [192, 0, 2, 7].into(), 80));
    }

    #[test]
    fn dns_is_what_the_usual_rules_call_it() {
        let fronts = fronts();
        let pod = fronts.dns_pod().unwrap();
        assert_eq!(pod.addresses, [IpAddr::from([10, 43, 0, 10])]);
        assert_eq!(pod.port(Protocol::Udp, "dns").count(), 1);
        let asks = |egress: Allowed| {
            allows(
                &fronts.through(&[egress]),
                Protocol::Udp,
                Ipv4Addr::new(10, 43, 0, 10).into(),
                53,
            )
        };
        assert!(asks(to("10.43.0.10", Some(Ports::one(Protocol::Udp, 53)))));
        assert!(asks(to(
            "0.0.0.0-255.255.255.255",
            Some(Ports::one(Protocol::Udp, 53))
        )));
        assert!(
            !asks(to("10.42.0.254", None)),
            "where it is answered is nobody's business"
        );
        assert!(!asks(to("10.43.0.10", Some(Ports::one(Protocol::Tcp, 53)))));
    }
}

//! Which UDP flows are to be forgotten when rules change: the kernel sends a flow where it first went for as long as packets come.

use ipnet::Ipv4Net;

use super::ruleset::{Balancer, Protocol, Ruleset};
use crate::network::nft::conntrack::Flow;

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
        let leads = |balancer: &Balancer| balancer.endpoints.contains(&flow.answered_by);
        chain.map_or(refused, |chain| {
            let balancers = [self.balancers.get(chain), self.inside(chain)];
            !balancers.into_iter().flatten().any(leads)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::net::{Ipv4Addr, SocketAddrV4};

    const CHAIN: &str = "svc-default/dns/udp/53";
    const OUTSIDE: &str = "svc-default/dns/udp-outside/53";

    fn ranges(list: &[&str]) -> BTreeSet<Ipv4Net> {
        list.iter().map(|range| range.parse().unwrap()).collect()
    }

    /// One Service with an external address and a node port, from outside at the first of its endpoints only.
    fn rules(endpoints: &[&str], list: &[&str]) -> Ruleset {
        let endpoints: Vec<SocketAddrV4> = endpoints.iter().map(|ip| ip.parse().unwrap()).collect();
        let balancer = |endpoints: &[SocketAddrV4], inside: Option<&str>| Balancer {
            protocol: Protocol::Udp,
            endpoints: endpoints.iter().copied().collect(),
            affinity: None,
            inside: inside.map(str::to_owned),
        };
        let address = |ip: [u8; 4], chain: &str| ((Ipv4Addr::from(ip), Protocol::Udp, 53), chain.to_owned());
        let [own, external] = [address([10, 96, 0, 10], CHAIN), address([192, 0, 2, 1], OUTSIDE)];
        Ruleset {
            balancers: [
                (CHAIN.to_owned(), balancer(&endpoints, None)),
                (OUTSIDE.to_owned(), balancer(&endpoints[..1], Some(CHAIN))),
            ]
            .into(),
            addresses: [own, external].into(),
            node_ports: [((Protocol::Udp, 30053), OUTSIDE.to_owned())].into(),
            ranges: ranges(list),
            ..Ruleset::default()
        }
    }

    #[test]
    fn a_udp_flow_is_stale_when_no_rule_sends_it_where_it_goes() {
        let (own, both) = (["10.96.0.0/24"], ["10.96.0.0/24", "10.97.0.0/24"]);
        let with = rules(&["10.1.0.9:5353", "10.2.0.9:5353"], &both);
        let none = |list: &[&str]| Ruleset {
            ranges: ranges(list),
            ..Ruleset::default()
        };
        let (without, narrow) = (none(&both), none(&own));
        let refusing = Ruleset {
            refused_addresses: with.addresses.keys().copied().collect(),
            refused_node_ports: with.node_ports.keys().copied().collect(),
            ..none(&own)
        };
        let pods = "10.1.0.0/24".parse().unwrap();
        for (now, before, to, answered_by, expected) in [
            (&with, None, "10.96.0.10:53", "10.1.0.9:5353", false),
            (&with, None, "10.96.0.10:53", "10.1.0.8:5353", true),
            (&with, None, "10.96.0.10:53", "10.96.0.10:53", true),
            (&with, None, "10.97.0.1:53", "10.97.0.1:53", true),
            (&with, None, "192.0.2.1:53", "192.0.2.1:53", true),
            (&with, None, "192.0.2.1:53", "10.1.0.9:5353", false),
            (&with, None, "192.0.2.1:53", "10.2.0.9:5353", false),
            (&with, None, "192.0.2.2:53", "192.0.2.2:53", false),
            (&with, None, "192.0.2.9:30053", "10.1.0.8:5353", true),
            (&with, None, "192.0.2.9:30053", "10.1.0.9:5353", false),
            (&without, None, "192.0.2.1:53", "10.2.0.9:5353", false),
            (&without, Some(&with), "192.0.2.1:53", "10.2.0.9:5353", true),
            (&narrow, None, "10.97.0.1:53", "10.2.0.9:5353", false),
            (&narrow, Some(&without), "10.97.0.1:53", "10.2.0.9:5353", true),
            (&refusing, None, "192.0.2.1:53", "10.2.0.9:5353", true),
            (&refusing, None, "192.0.2.1:53", "192.0.2.1:53", false),
            (&refusing, None, "192.0.2.9:30053", "10.1.0.9:5353", true),
        ] {
            let flow = Flow::new(to.parse().unwrap(), answered_by.parse().unwrap());
            let stale = now.is_stale_udp(&flow, before, pods);
            assert_eq!(stale, expected, "{to} answered by {answered_by}");
        }
    }
}

//! This host's way to Services: the ranges of their addresses are routed out of the link with the gateway's address. Without such a
//! route, a host that knows no default route would not even try.

use std::collections::BTreeSet;

use ipnet::Ipv4Net;

use super::Network;
use super::links::{Link, LinkError, Links, Routed};

/// What is to be done for a link to have the routes of some networks, and no others.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    add: Vec<Ipv4Net>,
    remove: Vec<Ipv4Net>,
    /// Networks that are routed out of another link, by its index.
    pub elsewhere: Vec<(Ipv4Net, u32)>,
}

/// A network that is routed already stays as it is; of what the link has only the kernel's own routes are not looked at.
pub(super) fn plan(routes: &[Routed], link: u32, wanted: &BTreeSet<Ipv4Net>) -> Plan {
    let mut plan = Plan::default();
    for network in wanted {
        match routes.iter().find(|route| route.network == *network) {
            None => plan.add.push(*network),
            Some(found) => {
                let other = found.link.filter(|index| *index != link);
                plan.elsewhere.extend(other.map(|index| (*network, index)));
            }
        }
    }
    let ours = routes
        .iter()
        .filter(|route| route.link == Some(link) && !route.is_kernels);
    let spare = ours
        .map(|route| route.network)
        .filter(|net| !wanted.contains(net));
    plan.remove = spare.collect();
    plan
}

impl Plan {
    pub async fn add(&self, links: &Links, link: &Link) -> Result<(), LinkError> {
        for network in &self.add {
            links.route_network(link, *network).await?;
        }
        Ok(())
    }

    async fn remove(&self, links: &Links, link: &Link) -> Result<(), LinkError> {
        for network in &self.remove {
            links.unroute_network(link, *network).await?;
        }
        Ok(())
    }
}

impl Network {
    /// Lets this host reach Services of these ranges, and of no others. A range that another link has is left to it: what goes to
    /// a Service is translated on its way out all the same.
    pub async fn route_services(&self, ranges: &BTreeSet<Ipv4Net>) -> Result<(), LinkError> {
        let links = &self.links;
        let link = links.get(&self.names.gateway_link()).await?;
        let plan = plan(&links.networks().await?, link.index, ranges);
        for (range, index) in &plan.elsewhere {
            let other = links.name_of(*index).await?;
            tracing::warn!(%range, link = other, "the range of a ServiceCIDR is routed out of another link; it stays so");
        }
        plan.add(links, &link).await?;
        plan.remove(links, &link).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wanted_networks_are_routed_once_and_others_no_more() {
        const OURS: u32 = 7;
        let net = |text: &str| text.parse::<Ipv4Net>().unwrap();
        let route = |network: &str, link, is_kernels| Routed {
            network: net(network),
            link,
            is_kernels,
        };
        let routes = [
            route("10.42.0.0/24", Some(OURS), true),
            route("10.43.0.0/16", Some(OURS), false),
            route("10.90.0.0/24", Some(OURS), false),
            route("192.168.1.0/24", Some(2), true),
            route("10.91.0.0/24", None, false),
            route("10.42.0.5/32", Some(9), false),
        ];
        let all = |list: &[&str]| list.iter().map(|text| net(text)).collect::<Vec<_>>();
        for (wanted, add, remove, elsewhere) in [
            (&["10.43.0.0/16", "10.90.0.0/24"][..], &[][..], &[][..], None),
            (&["10.43.0.0/16"], &[], &["10.90.0.0/24"], None),
            (
                &["10.43.0.0/16", "10.43.0.0/24", "10.90.0.0/24"],
                &["10.43.0.0/24"],
                &[],
                None,
            ),
            (
                &["10.43.0.0/16", "10.90.0.0/24", "192.168.1.0/24"],
                &[],
                &[],
                Some(2),
            ),
            (&["10.43.0.0/16", "10.90.0.0/24", "10.91.0.0/24"], &[], &[], None),
        ] {
            let expected = Plan {
                add: all(add),
                remove: all(remove),
                elsewhere: elsewhere
                    .into_iter()
                    .map(|index| (net("192.168.1.0/24"), index))
                    .collect(),
            };
            let wanted: BTreeSet<_> = all(wanted).into_iter().collect();
            assert_eq!(plan(&routes, OURS, &wanted), expected, "{wanted:?}");
        }
    }
}

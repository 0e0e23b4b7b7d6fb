//! The ranges that Services have addresses from: the cluster's own, and those that ServiceCIDRs open beside it (KEP-1880).
//!
//! Every ServiceCIDR counts as long as there is one, also while it is not ready or about to go: it stays until no Service needs it.
//! An API server that has none (older than 1.33), or does not let this node read them, leaves the node with the cluster's own range.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::{Stream, StreamExt};
use ipnet::{IpNet, Ipv4Net};
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::Client;
use kube::runtime::reflector::Store;
use kube::runtime::watcher;

use crate::api_error;
use crate::network::Network;
use crate::network::links::LinkError;
use crate::reflect::{Changes, is_ready, reflect};

/// What is known of them.
pub struct Ranges {
    own: Ipv4Net,
    store: Store<ServiceCIDR>,
    /// The API server was asked, and its answer was no list.
    denied: Arc<AtomicBool>,
    /// Those that cannot be followed here, and because of what.
    unusable: BTreeMap<Ipv4Net, String>,
}

impl Ranges {
    /// The ranges, and when they may have changed.
    pub fn follow(own: Ipv4Net, client: Client) -> (Self, impl Stream<Item = ()> + Send + 'static) {
        let (store, changes) = reflect::<ServiceCIDR>(client, |_| {});
        let denied = Arc::default();
        let changes = told(changes, Arc::clone(&denied));
        let ranges = Self {
            own: own.trunc(),
            store,
            denied,
            unusable: BTreeMap::new(),
        };
        (ranges, changes)
    }

    /// Whether ServiceCIDRs were listed: only then nothing but them is to be routed.
    pub fn are_listed(&self) -> bool {
        is_ready(&self.store)
    }

    /// Whether there is anything to wait for before rules are made.
    pub fn are_known(&self) -> bool {
        self.are_listed() || self.denied.load(Ordering::Relaxed)
    }

    /// The cluster's own range, and the others that do not take from this host what is its own: to refuse connections to its own
    /// addresses would cut it off from whoever could mend it.
    pub async fn usable(&mut self, network: &Network) -> Result<BTreeSet<Ipv4Net>, LinkError> {
        let mut ranges = nets(&self.store.state());
        ranges.remove(&self.own);
        let mut unusable = BTreeMap::new();
        if !ranges.is_empty() {
            let addresses = network.links.addresses().await?;
            let addresses: Vec<Ipv4Net> = addresses.into_iter().map(|(_, net)| net).collect();
            let pods = network.config.pod_cidr;
            unusable.extend(ranges.iter().filter_map(|range| {
                let reason = obstacle(*range, pods, &addresses)?;
                Some((*range, reason))
            }));
        }
        ranges.retain(|range| !unusable.contains_key(range));
        ranges.insert(self.own);
        self.tell(unusable);
        Ok(ranges)
    }

    /// Says what cannot be followed, once.
    fn tell(&mut self, unusable: BTreeMap<Ipv4Net, String>) {
        for (range, reason) in &unusable {
            if self.unusable.get(range) != Some(reason) {
                tracing::warn!(%range, reason, "the range of a ServiceCIDR is neither routed nor refused here");
            }
        }
        self.unusable = unusable;
    }
}

/// The IPv4 ranges of these.
fn nets(all: &[Arc<ServiceCIDR>]) -> BTreeSet<Ipv4Net> {
    let specs = all.iter().filter_map(|range| range.spec.as_ref());
    let nets = specs.flat_map(|spec| spec.cidrs.iter().flatten());
    nets.filter_map(|cidr| match cidr.parse() {
        Ok(IpNet::V4(net)) => Some(net.trunc()),
        Ok(IpNet::V6(_)) | Err(_) => None,
    })
    .collect()
}

/// What of this host a range would take away: its Pods, its addresses, or who is on a link with it (its gateway, or the API server).
fn obstacle(range: Ipv4Net, pods: Ipv4Net, addresses: &[Ipv4Net]) -> Option<String> {
    if range.contains(&pods) || pods.contains(&range) {
        return Some(format!("Pods of this node have addresses from {pods}"));
    }
    let address = addresses
        .iter()
        .find(|address| range.contains(&address.addr()) || address.contains(&range))?;
    Some(format!("{address} is an address of this host"))
}

/// The changes; that there is no list counts as one.
fn told(changes: Changes, denied: Arc<AtomicBool>) -> impl Stream<Item = ()> + Send + 'static {
    let mut advised = false;
    changes.map(move |change| {
        let Err(error) = change else { return };
        denied.fetch_or(is_answer(&error), Ordering::Relaxed);
        let (why, is_forbidden) = api_error::of_watch(&error);
        tracing::debug!(why, "watching ServiceCIDRs failed; trying again");
        if !advised && is_forbidden {
            advised = true;
            tracing::warn!(
                "this node may not read ServiceCIDRs: it knows no range of Services but the cluster's own"
            );
        }
    })
}

/// Whether there is no list for this node: it may not have it (403), or nobody serves it (404, 405). Other errors pass.
fn is_answer(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status)) => matches!(status.code, 403..=405),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    #[test]
    fn ranges_of_ipv4_are_taken_whatever_their_state() {
        let range = |cidrs: &[&str], status: &str| {
            let condition = json!({"type": "Ready", "status": status, "reason": "", "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z"});
            let object = json!({"metadata": {"name": "r"}, "spec": {"cidrs": cidrs}, "status": {"conditions": [condition]}});
            Arc::new(serde_json::from_value(object).unwrap())
        };
        let empty = Arc::new(ServiceCIDR::default());
        let all = [
            range(&["10.90.0.0/24", "fd00::/112"], "True"),
            range(&["10.91.0.7/24"], "False"),
            range(&["fd01::/112", "nonsense"], "True"),
            empty,
        ];
        assert_eq!(nets(&all), [net("10.90.0.0/24"), net("10.91.0.0/24")].into());
    }

    #[test]
    fn what_is_the_hosts_own_is_not_refused() {
        let addresses = ["127.0.0.1/8", "192.168.1.7/24"].map(net);
        for (range, expected) in [
            ("10.90.0.0/24", None),
            ("192.168.2.0/24", None),
            (
                "192.168.1.128/25",
                Some("192.168.1.7/24 is an address of this host"),
            ),
            (
                "192.168.1.0/24",
                Some("192.168.1.7/24 is an address of this host"),
            ),
            (
                "192.168.0.0/16",
                Some("192.168.1.7/24 is an address of this host"),
            ),
            (
                "0.0.0.0/0",
                Some("Pods of this node have addresses from 10.42.1.0/24"),
            ),
            ("127.0.0.0/8", Some("127.0.0.1/8 is an address of this host")),
            (
                "10.42.1.64/26",
                Some("Pods of this node have addresses from 10.42.1.0/24"),
            ),
            ("10.42.2.0/24", None),
        ] {
            let found = obstacle(net(range), net("10.42.1.0/24"), &addresses);
            assert_eq!(found.as_deref(), expected, "{range}");
        }
    }
}

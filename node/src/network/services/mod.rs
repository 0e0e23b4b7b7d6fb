//! Services on this node: ClusterIP and NodePort, by nftables rules replaced as a whole.
//!
//! Level-triggered: a change of any Service, EndpointSlice or ServiceCIDR leads to a new ruleset from all of them.
//! The rules stay in force when this ends, and until the network is taken down.

mod base;
mod endpoints;
mod flows;
mod health;
pub mod keys;
mod program;
mod ranges;
mod refusal;
mod ruleset;
mod sources;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use kube::runtime::reflector::Store;
use tokio::time::{Instant, interval};
use tokio_util::sync::CancellationToken;

pub(super) use base::install_base;
use health::Doors;
use program::{Change, is_whole, program};
use ranges::Ranges;
pub use ruleset::{Balancer, Protocol, Ruleset, rules};

use super::Network;
use super::nft::conntrack::{forget, udp_flows};
use super::nft::{self, NftError};
use crate::api_error;
use crate::events::Recorder;
use crate::reflect::{Changes, is_ready, reflect};

/// Changes come in bursts (a rollout, a start): the first waits so long for others.
const GATHER: Duration = Duration::from_millis(50);

/// How long until rules the kernel refused are tried again.
const RETRY: Duration = Duration::from_secs(5);

/// How often to look whether the rules are still there: a firewall's restart may flush what is not its own.
const CHECK: Duration = Duration::from_secs(30);

/// To whoever joined this node to a control plane that gives nodes only what kubelets need.
const ADVICE: &str = "this node may not read what Services are made of, and does not keep their addresses; if nothing else \
                      on this node does, let it: kubectl create clusterrolebinding amphipod:node-proxier \
                      --clusterrole=system:node-proxier --group=system:nodes";

/// All that rules are made from.
#[derive(Clone, Debug, Default)]
pub struct Lists {
    pub services: Vec<Arc<Service>>,
    pub slices: Vec<Arc<EndpointSlice>>,
    /// Where Services have their addresses from.
    pub ranges: BTreeSet<Ipv4Net>,
}

impl Lists {
    /// What they mean for packets on a node.
    pub fn rules(&self, node: &str) -> Ruleset {
        let services = self.services.iter().map(AsRef::as_ref);
        let slices = self.slices.iter().map(AsRef::as_ref);
        Ruleset {
            ranges: self.ranges.clone(),
            ..rules(services, slices, node)
        }
    }
}

/// Who else is to know them whenever they changed.
pub type Listener = Box<dyn Fn(&Lists) + Send + Sync>;

/// Keeps this node's rules what Services and EndpointSlices say, until told to stop.
pub async fn run(
    network: Arc<Network>,
    client: Client,
    node: String,
    listener: Listener,
    recorder: Recorder,
    shutdown: CancellationToken,
) {
    let (services, service_changes) = reflect::<Service>(client.clone(), |_| {});
    let (slices, slice_changes) = reflect::<EndpointSlice>(client.clone(), |_| {});
    let (ranges, range_changes) = Ranges::follow(network.config.service_cidr, client);
    let changes = stream::select(
        told(service_changes, "Service"),
        told(slice_changes, "EndpointSlice"),
    );
    let changes = stream::select(changes, range_changes);
    let mut follow = Follow {
        network,
        services,
        slices,
        ranges,
        node,
        listener,
        recorder,
        applied: None,
        routed: None,
        doors: Doors::default(),
    };
    tokio::select! {
        () = follow.run(changes) => {}
        () = shutdown.cancelled() => {}
    }
}

struct Follow {
    network: Arc<Network>,
    services: Store<Service>,
    slices: Store<EndpointSlice>,
    ranges: Ranges,
    node: String,
    listener: Listener,
    recorder: Recorder,
    /// What the kernel has, as far as this process knows.
    applied: Option<Ruleset>,
    /// The ranges it has routes for, as far as this process knows.
    routed: Option<BTreeSet<Ipv4Net>>,
    doors: Doors,
}

impl Follow {
    /// Ends only when the watches do, which they never do by themselves.
    async fn run(&mut self, changes: impl Stream<Item = ()>) {
        let mut changes = std::pin::pin!(changes);
        let mut checks = interval(CHECK);
        let mut due: Option<Instant> = None;
        loop {
            let wait = async {
                match due {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                change = changes.next() => match change {
                    Some(()) => {
                        // News are not made to wait for what is tried again later.
                        let soon = Instant::now() + GATHER;
                        due = Some(due.map_or(soon, |at| at.min(soon)));
                    }
                    None => return,
                },
                () = wait => due = self.synchronise().await,
                _ = checks.tick() => if !self.holds().await {
                    tracing::warn!("Service rules were removed by someone else; putting them back");
                    self.applied = None;
                    due = self.synchronise().await;
                },
            }
        }
    }

    /// Whether the kernel has what was applied. Where that cannot be known, nothing is to be done.
    async fn holds(&self) -> bool {
        let Some(applied) = self.applied.clone() else {
            return true;
        };
        let table = self.network.names.table();
        let looking = move || nft::existing(&table).map_or(true, |found| is_whole(&found, &applied));
        tokio::task::spawn_blocking(looking).await.unwrap_or(true)
    }

    /// Brings the kernel up to date; says when to try again where that failed.
    async fn synchronise(&mut self) -> Option<Instant> {
        // Before the lists are whole, rules made from them would cut off Services that exist.
        if !(is_ready(&self.services) && is_ready(&self.slices) && self.ranges.are_known()) {
            return None;
        }
        let ranges = match self.ranges.usable(&self.network).await {
            Ok(ranges) => ranges,
            Err(error) => return Some(failed(&error)),
        };
        let (services, slices) = (self.services.state(), self.slices.state());
        let lists = Lists {
            services,
            slices,
            ranges,
        };
        (self.listener)(&lists);
        let routing = self.route(&lists.ranges).await;
        let applying = self.apply(lists.rules(&self.node)).await;
        let checks = health::checks(&lists, &self.node, self.applied.is_some());
        let shut = self.doors.keep(checks).await;
        shut.iter().for_each(|shut| shut.tell(&self.recorder, &self.node));
        let asking = (!shut.is_empty()).then(|| Instant::now() + CHECK);
        [routing, applying, asking].into_iter().flatten().min()
    }

    /// Brings the routes up to date. What is not listed may still be there: until it is known, routes stay.
    async fn route(&mut self, ranges: &BTreeSet<Ipv4Net>) -> Option<Instant> {
        if !self.ranges.are_listed() || self.routed.as_ref() == Some(ranges) {
            return None;
        }
        match self.network.route_services(ranges).await {
            Ok(()) => {
                self.routed = Some(ranges.clone());
                None
            }
            Err(error) => Some(failed(&error)),
        }
    }

    async fn apply(&mut self, wanted: Ruleset) -> Option<Instant> {
        if self.applied.as_ref() == Some(&wanted) {
            return None;
        }
        let (network, previous) = (self.network.clone(), self.applied.take());
        let applying = move || {
            network
                .apply_services(&wanted, previous.as_ref())
                .map(|()| wanted)
        };
        match tokio::task::spawn_blocking(applying).await {
            Ok(Ok(wanted)) => {
                tracing::debug!(balancers = wanted.balancers.len(), "Service rules replaced");
                self.applied = Some(wanted);
                None
            }
            Ok(Err(error)) => Some(failed(&error)),
            Err(error) => Some(failed(&error)),
        }
    }
}

fn failed(error: &dyn std::error::Error) -> Instant {
    tracing::error!(error = %Report(error), "Service rules stay as they were");
    Instant::now() + RETRY
}

/// An error with its causes.
struct Report<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl Network {
    /// Makes a ruleset hold in one transaction. With the one applied before, only what differs is touched.
    pub fn apply_services(&self, ruleset: &Ruleset, previous: Option<&Ruleset>) -> Result<(), NftError> {
        let (table, config) = (self.names.table(), &self.config);
        let existing = nft::existing(&table)?;
        let previous = previous.filter(|previous| is_whole(&existing, previous));
        if previous.is_none() {
            install_base(&self.names, config.pod_cidr)?;
            self.restore_ports()?;
        }
        let change = Change {
            ruleset,
            previous,
            existing: &existing,
        };
        nft::apply(program(&table, config.pod_cidr, &change))?;
        if !previous.map_or_else(
            || ruleset.udp().eq([]),
            |previous| previous.ranges == ruleset.ranges && previous.is_same_for_udp(ruleset),
        ) {
            self.forget_stale_flows(ruleset, previous);
        }
        Ok(())
    }

    /// Lets UDP flows to endpoints that are no more be balanced anew. Where that cannot be done, they are
    /// by themselves when nothing came for a while.
    fn forget_stale_flows(&self, ruleset: &Ruleset, previous: Option<&Ruleset>) {
        let pods = self.config.pod_cidr;
        let forgotten = udp_flows().and_then(|flows| {
            flows
                .iter()
                .filter(|flow| ruleset.is_stale_udp(flow, previous, pods))
                .try_for_each(forget)
        });
        if let Err(error) = forgotten {
            tracing::warn!(error = %Report(&error), "UDP flows may go to endpoints that are gone for a while");
        }
    }
}

/// The changes of a copy; what goes wrong with its watch is for those who look closely.
fn told(changes: Changes, kind: &'static str) -> impl Stream<Item = ()> + Send + 'static {
    let mut advised = false;
    changes.filter_map(move |change| {
        let change = change.inspect_err(|error| {
            let (why, is_forbidden) = api_error::of_watch(error);
            tracing::debug!(why, kind, "watch interrupted; trying again");
            if !advised && is_forbidden {
                advised = true;
                tracing::warn!(kind, "{ADVICE}");
            }
        });
        std::future::ready(change.ok())
    })
}

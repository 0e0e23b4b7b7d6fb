//! Services on this node: ClusterIP and NodePort, by nftables rules replaced as a whole.
//!
//! Level-triggered: a change of any Service or EndpointSlice leads to a new ruleset from all of them.
//! The rules stay in force when this ends, and until the network is taken down.

mod base;
pub mod keys;
mod program;
mod ruleset;

use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use kube::runtime::reflector::Store;
use kube::runtime::watcher;
use tokio::time::{Instant, interval};
use tokio_util::sync::CancellationToken;

pub(super) use base::install_base;
use program::{Change, is_whole, program};
pub use ruleset::{Balancer, Protocol, Ruleset, rules};

use super::Network;
use super::nft::conntrack::{forget, udp_flows};
use super::nft::{self, NftError};
use crate::api_error;
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

/// Who else is to know all Services and EndpointSlices whenever they changed.
pub type Listener = Box<dyn Fn(&[Arc<Service>], &[Arc<EndpointSlice>]) + Send + Sync>;

/// Keeps this node's rules what Services and EndpointSlices say, until told to stop.
pub async fn run(
    network: Arc<Network>,
    client: Client,
    node: String,
    listener: Listener,
    shutdown: CancellationToken,
) {
    let (services, service_changes) = reflect::<Service>(client.clone(), |_| {});
    let (slices, slice_changes) = reflect::<EndpointSlice>(client, |_| {});
    let changes = stream::select(
        told(service_changes, "Service"),
        told(slice_changes, "EndpointSlice"),
    );
    let mut follow = Follow {
        network,
        services,
        slices,
        node,
        listener,
        applied: None,
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
    node: String,
    listener: Listener,
    /// What the kernel has, as far as this process knows.
    applied: Option<Ruleset>,
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
                    Some(()) => { due.get_or_insert_with(|| Instant::now() + GATHER); }
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
        // Before both lists are whole, rules made from them would cut off Services that exist.
        if !(is_ready(&self.services) && is_ready(&self.slices)) {
            return None;
        }
        let (services, slices) = (self.services.state(), self.slices.state());
        (self.listener)(&services, &slices);
        let wanted = rules(
            services.iter().map(AsRef::as_ref),
            slices.iter().map(AsRef::as_ref),
            &self.node,
        );
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
        nft::apply(program(&table, config.pod_cidr, config.service_cidr, &change))?;
        if !previous.map_or_else(
            || ruleset.udp().eq([]),
            |previous| previous.udp().eq(ruleset.udp()),
        ) {
            self.forget_stale_flows(ruleset);
        }
        Ok(())
    }

    /// Lets UDP flows to endpoints that are no more be balanced anew. Where that cannot be done, they are
    /// by themselves when nothing came for a while.
    fn forget_stale_flows(&self, ruleset: &Ruleset) {
        let (services, pods) = (self.config.service_cidr, self.config.pod_cidr);
        let forgotten = udp_flows().and_then(|flows| {
            flows
                .iter()
                .filter(|flow| ruleset.is_stale_udp(flow, services, pods))
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

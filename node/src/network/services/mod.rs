//! Services on this node: ClusterIP and NodePort, by nftables rules replaced as a whole.
//!
//! Level-triggered: a change of any Service or EndpointSlice leads to a new ruleset from all of them.
//! The rules stay in force when this ends, and until the network is taken down.

mod program;
mod ruleset;

use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub(super) use program::install_base;
use program::program;
pub use ruleset::{Balancer, Protocol, Ruleset, rules};

use super::Network;
use super::nft::{self, NftError};

/// Changes come in bursts (a rollout, a start): the first waits so long for others.
const GATHER: Duration = Duration::from_millis(50);

/// How long until rules the kernel refused are tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Keeps this node's rules what Services and EndpointSlices say, until told to stop.
pub async fn run(network: Arc<Network>, client: Client, node: String, shutdown: CancellationToken) {
    let (services, service_changes) = reflect::<Service>(client.clone());
    let (slices, slice_changes) = reflect::<EndpointSlice>(client);
    let changes = stream::select(service_changes, slice_changes);
    let mut follow = Follow {
        network,
        services,
        slices,
        node,
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
    /// What the kernel has, as far as this process knows.
    applied: Option<Ruleset>,
}

impl Follow {
    /// Ends only when the watches do, which they never do by themselves.
    async fn run(&mut self, changes: impl Stream<Item = ()>) {
        let mut changes = std::pin::pin!(changes);
        // Before both lists are whole, rules made from them would cut off Services that exist.
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
            }
        }
    }

    /// Brings the kernel up to date; says when to try again where that failed.
    async fn synchronise(&mut self) -> Option<Instant> {
        if !(is_ready(&self.services) && is_ready(&self.slices)) {
            return None;
        }
        let (services, slices) = (self.services.state(), self.slices.state());
        let wanted = rules(
            services.iter().map(AsRef::as_ref),
            slices.iter().map(AsRef::as_ref),
            &self.node,
        );
        if self.applied.as_ref() == Some(&wanted) {
            return None;
        }
        let network = self.network.clone();
        let result =
            tokio::task::spawn_blocking(move || network.apply_services(&wanted).map(|()| wanted)).await;
        match result {
            Ok(Ok(wanted)) => {
                tracing::debug!(balancers = wanted.balancers.len(), "Service rules replaced");
                self.applied = Some(wanted);
                None
            }
            Ok(Err(error)) => self.failed(&error),
            Err(error) => self.failed(&error),
        }
    }

    fn failed(&mut self, error: &dyn std::error::Error) -> Option<Instant> {
        tracing::error!(%error, "Service rules stay as they were");
        self.applied = None;
        Some(Instant::now() + RETRY)
    }
}

impl Network {
    /// Replaces all rules for Services in one transaction.
    pub fn apply_services(&self, ruleset: &Ruleset) -> Result<(), NftError> {
        let table = self.names.table();
        let existing = nft::existing(&table)?;
        nft::apply(program(
            &table,
            self.config.pod_cidr,
            self.config.service_cidr,
            ruleset,
            &existing,
        ))
    }
}

fn is_ready<K>(store: &Store<K>) -> bool
where
    K: reflector::Lookup + Clone + 'static,
    K::DynamicType: Eq + std::hash::Hash + Clone,
{
    futures::FutureExt::now_or_never(store.wait_until_ready()).is_some_and(|ready| ready.is_ok())
}

/// A local copy of all objects of a kind, and a stream that ticks when it may have changed.
fn reflect<K>(client: Client) -> (Store<K>, impl Stream<Item = ()> + Send + 'static)
where
    K: kube::Resource<DynamicType = ()>
        + Clone
        + serde::de::DeserializeOwned
        + std::fmt::Debug
        + Send
        + Sync
        + 'static,
{
    let (store, writer) = reflector::store();
    let events = watcher(Api::<K>::all(client), watcher::Config::default());
    let changes =
        reflector::reflector(writer, events.default_backoff()).filter_map(async |event| match event {
            Ok(watcher::Event::Apply(_) | watcher::Event::Delete(_) | watcher::Event::InitDone) => Some(()),
            Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => None,
            Err(error) => {
                tracing::debug!(%error, kind = std::any::type_name::<K>(), "watch interrupted; trying again");
                None
            }
        });
    (store, changes.boxed())
}

//! What all controllers are given: the client, the options, the event sink and the shared watches.
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher::Config;
use kube::{Api, Client, ResourceExt};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::ControllerOptions;
use crate::toolkit::{EventSink, Informer, owners, pods};

/// Index of Pods and ReplicaSets: by managing controller, see [`owner_index`].
pub const BY_OWNER: usize = 0;
/// Index of Pods: by the node they are bound to.
pub const BY_NODE: usize = 1;

#[derive(Clone)]
pub struct Context {
    pub client: Client,
    pub options: Arc<ControllerOptions>,
    pub events: EventSink,
    pub watches: Arc<Watches>,
    pub shutdown: CancellationToken,
}

impl Context {
    pub fn new(client: Client, options: ControllerOptions, shutdown: CancellationToken) -> Self {
        let events = EventSink::start(client.clone(), shutdown.clone());
        Self {
            client,
            options: Arc::new(options),
            events,
            watches: Arc::new(Watches::new()),
            shutdown,
        }
    }
}

/// One cache per kind, shared by all controllers.
pub struct Watches {
    pub pods: Arc<Informer<Pod>>,
    pub replica_sets: Arc<Informer<ReplicaSet>>,
    pub deployments: Arc<Informer<Deployment>>,
}

impl Watches {
    fn new() -> Self {
        Self {
            pods: Informer::new(&[owner_index::<Pod>, |pod| pods::node_name(pod).map(str::to_owned)]),
            replica_sets: Informer::new(&[owner_index::<ReplicaSet>]),
            deployments: Informer::new(&[]),
        }
    }

    /// Starts all watches on `tasks`.
    pub fn run(&self, client: &Client, shutdown: &CancellationToken, tasks: &mut JoinSet<()>) {
        macro_rules! follow {
            ($($cache:ident),*) => {$(
                let api = Api::all(client.clone());
                tasks.spawn(self.$cache.clone().run(api, Config::default(), shutdown.clone()));
            )*};
        }
        follow!(pods, replica_sets, deployments);
    }

    pub async fn synced(&self) {
        tokio::join!(
            self.pods.synced(),
            self.replica_sets.synced(),
            self.deployments.synced()
        );
    }
}

/// Files an object under its controller's uid, or among the orphans of its namespace.
fn owner_index<K: ResourceExt>(object: &K) -> Option<String> {
    owners::controller_uid(object).or_else(|| Some(orphans_in(&object.namespace().unwrap_or_default())))
}

/// The value under which objects without a controller are filed; no uid contains a slash.
pub fn orphans_in(namespace: &str) -> String {
    format!("orphan/{namespace}")
}

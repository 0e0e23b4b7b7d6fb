//! Garbage collection: deletes what has lost its owners; foreground and orphaning deletion (the API concept "owners
//! and dependents").
//!
//! Flow: metadata watches of every deletable resource feed the graph; each change names objects to examine; an examination
//! reads the object live and decides. Guarantees: nothing is deleted because of a cache alone: the object and the absence
//! of its owners are confirmed by the API.
mod decide;
mod examine;
mod graph;
mod monitor;

use std::sync::{Arc, Mutex};

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;

use super::context::Context;
use crate::toolkit::catalog::Catalog;
use crate::toolkit::events::About;
use crate::toolkit::lock::lock;
use crate::toolkit::{Outcome, Queue, Recorder, StepError, work};
use graph::{Graph, Work};

/// Objects examined at once (upstream's default).
const WORKERS: usize = 20;

/// Returns the future that watches everything and collects.
pub fn start(context: &Context) -> BoxFuture<'static, ()> {
    let collector = Arc::new(Collector {
        client: context.client.clone(),
        catalog: context.catalog.clone(),
        graph: Mutex::new(Graph::default()),
        queue: Arc::new(Queue::new()),
        events: context.events.recorder("garbage-collector-controller"),
    });
    let shutdown = context.shutdown.clone();
    Box::pin(async move {
        let (ready, wait) = tokio::sync::oneshot::channel();
        let watching = monitor::watch_all(collector.clone(), ready, shutdown.clone());
        let collecting = async {
            // Until every resource was listed once, an owner may look childless that is not.
            if wait.await.is_ok() {
                let queue = collector.queue.clone();
                work(
                    "garbage",
                    queue,
                    WORKERS,
                    shutdown.clone(),
                    collector.clone(),
                    |collector, work| collector.handle(work).boxed(),
                )
                .await;
            }
        };
        tokio::join!(watching, collecting);
    })
}

struct Collector {
    client: Client,
    catalog: Arc<Catalog>,
    graph: Mutex<Graph>,
    queue: Arc<Queue<Work>>,
    events: Recorder,
}

impl Collector {
    async fn handle(&self, work: Work) -> Result<Outcome, StepError> {
        match work {
            Work::Examine(uid) => self.examine(&uid).await,
            Work::Orphan(uid) => self.orphan_dependents(&uid).await,
            Work::Report(uid, owner) => {
                self.report(&uid, &owner);
                Ok(Outcome::Done)
            }
        }
    }

    /// Tells of an object that names an owner of another namespace.
    fn report(&self, uid: &str, owner: &str) {
        let Some(entry) = lock(&self.graph).get(uid).cloned() else {
            return;
        };
        let Some(named) = entry.owners.iter().find(|named| named.uid == owner) else {
            return;
        };
        let identity = &entry.identity;
        let namespace = &identity.key.namespace;
        let message = format!(
            "ownerRef [{}/{}, namespace: {namespace}, name: {}, uid: {owner}] does not exist in namespace {namespace:?}",
            named.api_version, named.kind, named.name
        );
        let about = ObjectReference {
            api_version: Some(identity.api_version.clone()),
            kind: Some(identity.kind.clone()),
            namespace: Some(namespace.clone()).filter(|namespace| !namespace.is_empty()),
            name: Some(identity.key.name.clone()),
            uid: Some(uid.to_owned()),
            ..Default::default()
        };
        self.events
            .warning(&About(about), "OwnerRefInvalidNamespace", message);
    }
}

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
use kube::Client;

use super::context::Context;
use crate::toolkit::catalog::Catalog;
use crate::toolkit::{Outcome, Queue, StepError, work};
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
}

impl Collector {
    async fn handle(&self, work: Work) -> Result<Outcome, StepError> {
        match work {
            Work::Examine(uid) => self.examine(&uid).await,
            Work::Orphan(uid) => self.orphan_dependents(&uid).await,
        }
    }
}

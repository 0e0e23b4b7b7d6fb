//! Metadata watches of all resources, feeding the graph. New resources are found by asking discovery now and then.
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures::StreamExt;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{Config, Event, watcher};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Collector;
use super::graph::Identity;
use crate::toolkit::ObjectKey;
use crate::toolkit::catalog::{FRESH_FOR, Served};
use crate::toolkit::lock::lock;
use crate::toolkit::raw::Metadata;

/// Events have no dependents and are many.
const IGNORED: [&str; 2] = ["events", "events.events.k8s.io"];

/// Watches until `shutdown`; says `ready` once the resources known at the start were listed.
pub async fn watch_all(collector: Arc<Collector>, ready: oneshot::Sender<()>, shutdown: CancellationToken) {
    let mut monitors = Monitors {
        collector,
        running: HashMap::new(),
        tasks: JoinSet::new(),
        shutdown,
    };
    let mut ready = Some(ready);
    loop {
        let listed = monitors.refresh().await;
        if let (Some(listed), true) = (listed, ready.is_some()) {
            for first in listed {
                // A watch that was stopped again counts as listed.
                let _ = first.await;
            }
            if let Some(ready) = ready.take() {
                // The collector only goes away with the whole controller.
                let _ = ready.send(());
            }
        }
        let shutdown = monitors.shutdown.clone();
        if shutdown
            .run_until_cancelled(tokio::time::sleep(FRESH_FOR))
            .await
            .is_none()
        {
            break;
        }
    }
    while monitors.tasks.join_next().await.is_some() {}
}

struct Monitors {
    collector: Arc<Collector>,
    running: HashMap<String, (Served, CancellationToken)>,
    tasks: JoinSet<()>,
    shutdown: CancellationToken,
}

impl Monitors {
    /// Starts watches of resources that are new and stops those of resources no longer served. Returns the signals of the
    /// first lists that were started, or nothing when discovery failed.
    async fn refresh(&mut self) -> Option<Vec<oneshot::Receiver<()>>> {
        let found = match self.collector.catalog.refreshed().await {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "garbage collection keeps to the resources it knows");
                return None;
            }
        };
        let wanted: HashMap<String, &Served> = found
            .served
            .iter()
            .filter(|served| {
                ["list", "watch", "delete"]
                    .iter()
                    .all(|verb| served.supports(verb))
            })
            .map(|served| (served.qualified_name(), served))
            .filter(|(name, _)| !IGNORED.contains(&name.as_str()))
            .collect();
        self.running.retain(|name, (running, stop)| {
            let keep = wanted
                .get(name)
                .is_some_and(|served| served.resource == running.resource);
            if !keep {
                stop.cancel();
            }
            keep
        });
        let new: Vec<(String, Served)> = wanted
            .into_iter()
            .filter(|(name, _)| !self.running.contains_key(name))
            .map(|(name, served)| (name, served.clone()))
            .collect();
        Some(
            new.into_iter()
                .map(|(name, served)| self.start(name, served))
                .collect(),
        )
    }

    fn start(&mut self, name: String, served: Served) -> oneshot::Receiver<()> {
        let stop = self.shutdown.child_token();
        let (listed, first) = oneshot::channel();
        self.running.insert(name, (served.clone(), stop.clone()));
        let collector = self.collector.clone();
        self.tasks.spawn(async move {
            stop.run_until_cancelled(watch(&collector, &served, listed)).await;
        });
        first
    }
}

async fn watch(collector: &Collector, served: &Served, listed: oneshot::Sender<()>) {
    let api = served.instances(collector.client.clone(), "").into_api();
    let mut events = std::pin::pin!(watcher(api, Config::default()).default_backoff());
    let mut listed = Some(listed);
    let mut seen = HashSet::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => seen.clear(),
            Ok(Event::InitApply(object)) => {
                seen.insert(object.metadata.uid.clone().unwrap_or_default());
                collector.observe(served, &object);
            }
            Ok(Event::InitDone) => {
                collector.forget_others(served, &seen);
                seen = HashSet::new();
                if let Some(listed) = listed.take() {
                    // Nobody listens any more after the start.
                    let _ = listed.send(());
                }
            }
            Ok(Event::Apply(object)) => collector.observe(served, &object),
            Ok(Event::Delete(object)) => collector.forget(object.metadata.uid.as_deref().unwrap_or_default()),
            Err(error) => {
                tracing::debug!(resource = served.qualified_name(), %error, "watch broke; starting it again")
            }
        }
    }
}

impl Collector {
    pub(super) fn observe(&self, served: &Served, object: &Metadata) {
        let identity = Identity {
            api_version: served.resource.api_version.clone(),
            kind: served.resource.kind.clone(),
            key: ObjectKey::of(object),
        };
        let work = lock(&self.graph).observe(identity, &object.metadata);
        self.queue.extend(work);
    }

    pub(super) fn forget(&self, uid: &str) {
        let work = lock(&self.graph).forget(uid);
        self.queue.extend(work);
    }

    /// What a list no longer shows is gone.
    fn forget_others(&self, served: &Served, seen: &HashSet<String>) {
        let known = lock(&self.graph).uids_of(&served.resource.group, &served.resource.kind);
        for uid in known.iter().filter(|uid| !seen.contains(*uid)) {
            self.forget(uid);
        }
    }
}

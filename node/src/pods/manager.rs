//! The sync loop: the API's Pods of this node, one worker each. Level-triggered: every listing and every event
//! only says what is wanted now. Owns which workers exist.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_pods};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::context::Context;
use super::eviction::{self, Eviction};
use super::record::subdirectories;
use super::sandbox::POD_FILE;
use super::worker::{self, Desired};

type Uid = String;

/// Verdicts waiting for the loop; whoever finds more waits.
const EVICTIONS: usize = 16;

/// The workers of this node.
struct Manager {
    ctx: Arc<Context>,
    workers: HashMap<Uid, watch::Sender<Desired>>,
    running: JoinSet<Uid>,
    /// Uids seen since the current listing began.
    listed: BTreeSet<Uid>,
    /// What is on disk without an object was looked for.
    swept: bool,
}

/// Runs until the agent ends; then waits for the workers to let go of their Pods, which run on.
pub async fn run(ctx: Arc<Context>) {
    let api: Api<Pod> = Api::all(ctx.options.client.clone());
    let selector = format!("spec.nodeName={}", ctx.options.node_name);
    let events = watch_pods(api, watcher::Config::default().fields(&selector)).default_backoff();
    let mut events = std::pin::pin!(events);
    let shutdown = ctx.shutdown.clone();
    let (evictions, mut evicted) = mpsc::channel(EVICTIONS);
    let watching = tokio::spawn(eviction::run(ctx.clone(), evictions));
    let mut manager = Manager {
        ctx,
        workers: HashMap::new(),
        running: JoinSet::new(),
        listed: BTreeSet::new(),
        swept: false,
    };
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            Some(event) = events.next() => match event {
                Ok(event) => manager.take_in(event),
                Err(error) => tracing::warn!(%error, "watching the Pods of this node failed; trying again"),
            },
            Some(eviction) = evicted.recv() => manager.evict(eviction),
            Some(ended) = manager.running.join_next(), if !manager.running.is_empty() => manager.ended(ended),
        }
    }
    while manager.running.join_next().await.is_some() {}
    if let Err(error) = watching.await {
        tracing::error!(%error, "looking at what Pods use failed");
    }
}

impl Manager {
    fn take_in(&mut self, event: Event<Pod>) {
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(pod) => {
                self.listed.extend(pod.metadata.uid.clone());
                self.want(pod, false);
            }
            Event::InitDone => self.compare(),
            Event::Apply(pod) => self.want(pod, false),
            Event::Delete(pod) => self.want(pod, true),
        }
    }

    /// Tells the Pod's worker what is wanted, starting one when there is none.
    fn want(&mut self, pod: Pod, gone: bool) {
        let Some(uid) = pod.metadata.uid.clone() else {
            return;
        };
        let pod = Arc::new(pod);
        match self.workers.get(&uid) {
            Some(worker) => worker.send_modify(|desired| (desired.pod, desired.gone) = (pod, gone)),
            None if gone && self.swept => {}
            None => self.spawn(uid, pod, gone),
        }
    }

    fn evict(&self, Eviction { uid, verdict }: Eviction) {
        if let Some(worker) = self.workers.get(&uid) {
            worker.send_modify(|desired| desired.evicted = Some(verdict));
        }
    }

    fn spawn(&mut self, uid: Uid, pod: Arc<Pod>, gone: bool) {
        let (sender, receiver) = watch::channel(Desired {
            pod,
            gone,
            evicted: None,
        });
        self.workers.insert(uid.clone(), sender);
        let ctx = self.ctx.clone();
        self.running.spawn(async move {
            worker::run(ctx, receiver).await;
            uid
        });
    }

    fn ended(&mut self, ended: Result<Uid, tokio::task::JoinError>) {
        match ended {
            Ok(uid) => {
                self.workers.remove(&uid);
            }
            Err(error) => tracing::error!(%error, "the worker of a Pod failed"),
        }
    }

    /// After a listing: what was not in it is gone, also what only the disk knows.
    fn compare(&mut self) {
        for (uid, worker) in &self.workers {
            if !self.listed.contains(uid) {
                worker.send_modify(|desired| desired.gone = true);
            }
        }
        if !self.swept {
            self.swept = true;
            self.sweep();
        }
    }

    /// Ends Pods that were deleted while no agent ran.
    fn sweep(&mut self) {
        let dirs = subdirectories(&self.ctx.pods_dir()).unwrap_or_else(|error| {
            tracing::error!(%error, "the Pods on disk cannot be listed");
            Vec::new()
        });
        for dir in dirs {
            let uid = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if self.workers.contains_key(&uid) {
                continue;
            }
            match fs::read(dir.join(POD_FILE))
                .map_err(|e| e.to_string())
                .and_then(|b| parse(&b))
            {
                Ok(pod) => self.spawn(uid, Arc::new(pod), true),
                Err(error) => {
                    tracing::warn!(error, path = %dir.display(), "an orphaned directory has no Pod")
                }
            }
        }
    }
}

fn parse(bytes: &[u8]) -> Result<Pod, String> {
    serde_json::from_slice(bytes).map_err(|e| e.to_string())
}

//! The sync loop: the Pods of this node, those of the API and those of files here, one worker each. Level-triggered: every
//! listing and every event only says what is wanted now. Owns which workers exist, and that static Pods have mirrors.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_pods};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};

use super::context::Context;
use super::eviction::{self, Eviction};
use super::keyed::Keyed;
use super::mirror::{self, Due};
use super::mirrors::{Mirrors, Name};
use super::orphans::{self, Turns};
use super::record::subdirectories;
use super::sandbox::POD_FILE;
use super::shown::Shown;
use super::view::PodView;
use super::worker::{self, Desired};
use crate::pressure;
use crate::static_pods::manifest::{SOURCE, full_name, is_static, mirror_of};
use crate::static_pods::{self, Wanted};

type Uid = String;

/// Pause before a mirror that could not be made or removed is tried again.
const MIRROR_RETRY: Duration = Duration::from_secs(5);
/// Pause before a Pod whose worker panicked gets another, which may do the same.
const WORKER_RETRY: Duration = Duration::from_secs(10);

/// The workers of this node.
struct Manager {
    ctx: Arc<Context>,
    workers: HashMap<Uid, Worker>,
    running: Keyed<Uid, ()>,
    /// Uids seen since the current listing began.
    listed: BTreeSet<Uid>,
    /// What is on disk without an object was looked for.
    swept: bool,
    /// The Pods that files of this node want.
    statics: BTreeMap<Name, Arc<Pod>>,
    /// What the API has of them.
    mirrors: Mirrors,
    /// Mirrors being made, removed or looked for.
    mirroring: Keyed<Name, Result<Option<Pod>, kube::Error>>,
}

struct Worker {
    desired: watch::Sender<Desired>,
    /// Of a static Pod.
    static_name: Option<Name>,
}

/// Runs until the agent ends; then waits for the workers to let go of their Pods, which run on.
pub async fn run(ctx: Arc<Context>, mut evicted: mpsc::Receiver<Eviction>) {
    let api: Api<Pod> = Api::all(ctx.options.client.clone());
    let selector = format!("spec.nodeName={}", ctx.options.node_name);
    let events = watch_pods(api, watcher::Config::default().fields(&selector)).default_backoff();
    // Who wrote which field is half of what a Pod takes in memory, and nobody here asks.
    let events = events.modify(|pod| pod.metadata.managed_fields = None);
    let mut events = std::pin::pin!(events);
    let shutdown = ctx.shutdown.clone();
    let mut helpers = JoinSet::new();
    helpers.spawn(eviction::run(ctx.clone(), ctx.evictions.clone()));
    helpers.spawn(pressure::run(ctx.clone(), ctx.evictions.clone()));
    let (found, mut files) = watch::channel(Wanted::None);
    let (path, node) = (ctx.options.static_pod_path.clone(), ctx.options.node_name.clone());
    helpers.spawn(static_pods::run(path, node, found, shutdown.clone()));
    let mut manager = Manager {
        ctx,
        workers: HashMap::new(),
        running: Keyed::new(),
        listed: BTreeSet::new(),
        swept: false,
        statics: BTreeMap::new(),
        mirrors: Mirrors::default(),
        mirroring: Keyed::new(),
    };
    // Known before the API's are: what is on disk of a static Pod is not an orphan's.
    if let Some(Ok(first)) = shutdown
        .run_until_cancelled(files.wait_for(Option::is_some))
        .await
    {
        let first = first.clone().unwrap_or_default();
        manager.end_forgotten(&first);
        manager.want_statics(first);
    }
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            Some(event) = events.next() => match event {
                Ok(event) => manager.take_in(event),
                Err(error) => tracing::warn!(%error, "watching the Pods of this node failed; trying again"),
            },
            Some(eviction) = evicted.recv() => manager.evict(eviction),
            Ok(()) = files.changed() => {
                let wanted = files.borrow_and_update().clone().unwrap_or_default();
                manager.want_statics(wanted);
            }
            Some((name, done)) = manager.mirroring.next() => manager.mirrored(name, done),
            Some((uid, ended)) = manager.running.next() => manager.ended(uid, ended),
        }
    }
    while manager.running.next().await.is_some() {}
    while let Some(ended) = helpers.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a helper of the sync loop failed");
        }
    }
}

impl Manager {
    fn take_in(&mut self, event: Event<Pod>) {
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(pod) => {
                self.listed.extend(pod.metadata.uid.clone());
                self.hear(pod, false);
            }
            Event::InitDone => self.compare(),
            Event::Apply(pod) => self.hear(pod, false),
            Event::Delete(pod) => self.hear(pod, true),
        }
    }

    /// A mirror is no Pod of its own.
    fn hear(&mut self, mut pod: Pod, gone: bool) {
        if mirror_of(&pod).is_none() {
            // Only a file makes a Pod static.
            if let Some(all) = &mut pod.metadata.annotations {
                all.remove(SOURCE);
            }
            return self.want(pod, gone);
        }
        let name = full_name(&pod);
        self.mirrors.hear(name.clone(), pod, gone);
        self.reflect(&name);
    }

    /// Tells the Pod's worker what is wanted, starting one when there is none.
    fn want(&mut self, pod: Pod, gone: bool) {
        let Some(uid) = pod.metadata.uid.clone() else {
            return;
        };
        // A list that was read has room for four things at least, a copy for those that are in it: 3 KiB of a Pod.
        let pod = Arc::new(Pod::clone(&pod));
        match self.workers.get(&uid) {
            Some(worker) => {
                let object = Shown::of(&pod);
                worker.desired.send_modify(|desired| {
                    (desired.pod, desired.gone, desired.object) = (pod, gone, object);
                });
            }
            None if gone && self.swept => {}
            None => self.spawn(uid, pod, gone),
        }
    }

    fn evict(&self, Eviction { uid, verdict }: Eviction) {
        if let Some(worker) = self.workers.get(&uid) {
            worker
                .desired
                .send_modify(|desired| desired.evicted = Some(verdict));
        }
    }

    fn spawn(&mut self, uid: Uid, pod: Arc<Pod>, gone: bool) {
        let desired = self.add(uid.clone(), pod, gone);
        self.running.spawn(uid, worker::run(self.ctx.clone(), desired));
    }

    /// Notes that a Pod has a worker, and what that is told.
    fn add(&mut self, uid: Uid, pod: Arc<Pod>, gone: bool) -> watch::Receiver<Desired> {
        let static_name = is_static(&pod).then(|| full_name(&pod));
        let mirror = static_name.as_ref().and_then(|name| self.mirrors.get(name));
        let object = match &static_name {
            Some(_) => mirror.and_then(|mirror| Shown::of(mirror)),
            None => Shown::of(&pod),
        };
        let (desired, receiver) = watch::channel(Desired {
            pod,
            gone,
            evicted: None,
            object,
        });
        self.workers.insert(uid, Worker { desired, static_name });
        receiver
    }

    /// The worker let go of its Pod; one that panicked did not, and its Pod is taken back as after a restart of the agent.
    fn ended(&mut self, uid: Uid, ended: Result<(), JoinError>) {
        if let Err(error) = ended {
            tracing::error!(%error, uid, "the worker of a Pod failed; it gets another");
            return self.spawn_again(uid);
        }
        let name = self.workers.remove(&uid).and_then(|worker| worker.static_name);
        if let Some(name) = name {
            self.start_static(&name);
            self.reflect(&name);
        }
    }

    fn spawn_again(&mut self, uid: Uid) {
        let Some(worker) = self.workers.get(&uid) else {
            return;
        };
        let (ctx, desired) = (self.ctx.clone(), worker.desired.subscribe());
        self.running.spawn(uid, async move {
            let pause = tokio::time::sleep(WORKER_RETRY);
            if ctx.shutdown.run_until_cancelled(pause).await.is_some() {
                worker::run(ctx, desired).await;
            }
        });
    }

    /// After a listing: what was not in it is gone, also what only the disk knows.
    fn compare(&mut self) {
        for (uid, worker) in &self.workers {
            if worker.static_name.is_none() && !self.listed.contains(uid) {
                worker.desired.send_modify(|desired| desired.gone = true);
            }
        }
        self.mirrors.keep(&self.listed);
        if !self.swept {
            self.swept = true;
            self.end_orphans();
        }
        let names: BTreeSet<Name> = self.statics.keys().chain(self.mirrors.names()).cloned().collect();
        names.iter().for_each(|name| self.reflect(name));
    }

    /// Ends what agents before this one had and the API has no more.
    fn end_orphans(&mut self) {
        let mut orphans = self.on_disk();
        orphans.retain(|(uid, _)| !self.workers.contains_key(uid));
        orphans::by_age(&mut orphans);
        let mut turns = Turns::new();
        for (uid, pod) in orphans {
            // At once: new Pods may wait for its room.
            if let Some(view) = PodView::new(&pod) {
                self.ctx.give_room_back(view);
            }
            let desired = self.add(uid.clone(), Arc::new(pod), true);
            let (ctx, turn) = (self.ctx.clone(), turns.next());
            self.running.spawn(uid, async move {
                let shutdown = ctx.shutdown.clone();
                if shutdown.run_until_cancelled(turn.comes()).await.is_some() {
                    turn.spend(Box::pin(worker::run(ctx, desired))).await;
                }
            });
        }
    }

    /// The Pods that agents before this one had.
    fn on_disk(&self) -> Vec<(Uid, Pod)> {
        let dirs = subdirectories(&self.ctx.pods_dir()).unwrap_or_else(|error| {
            tracing::error!(%error, "the Pods on disk cannot be listed");
            Vec::new()
        });
        let mut found = Vec::new();
        for dir in dirs {
            let uid = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
            match fs::read(dir.join(POD_FILE))
                .map_err(|e| e.to_string())
                .and_then(|b| parse(&b))
            {
                Ok(pod) => found.push((uid, pod)),
                Err(error) => {
                    tracing::warn!(error, path = %dir.display(), "an orphaned directory has no Pod")
                }
            }
        }
        found
    }

    /// Before any static Pod is started: ends those whose files went away, or changed, while no agent ran.
    fn end_forgotten(&mut self, wanted: &BTreeMap<Name, Arc<Pod>>) {
        let is_wanted = |pod: &Pod| {
            let now = wanted.get(&full_name(pod));
            now.is_some_and(|now| now.metadata.uid == pod.metadata.uid)
        };
        for (uid, pod) in self.on_disk() {
            if is_static(&pod) && !is_wanted(&pod) {
                self.spawn(uid, Arc::new(pod), true);
            }
        }
    }

    /// Takes what the files want now.
    fn want_statics(&mut self, wanted: BTreeMap<Name, Arc<Pod>>) {
        self.statics = wanted;
        for (uid, worker) in &self.workers {
            let Some(name) = &worker.static_name else { continue };
            let now = self.statics.get(name).and_then(|pod| pod.metadata.uid.as_ref());
            if now != Some(uid) {
                worker.desired.send_modify(|desired| desired.gone = true);
            }
        }
        let names: Vec<Name> = self.statics.keys().cloned().collect();
        for name in names {
            self.start_static(&name);
            self.reflect(&name);
        }
    }

    fn runs(&self, name: &Name) -> bool {
        self.workers
            .values()
            .any(|worker| worker.static_name.as_ref() == Some(name))
    }

    /// Starts a static Pod, unless one of its name still runs.
    fn start_static(&mut self, name: &Name) {
        let Some(pod) = self.statics.get(name).cloned() else {
            return;
        };
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        if !self.runs(name) {
            self.spawn(uid, pod, false);
        }
    }

    /// Brings a mirror to its Pod, as far as the API is known; tells the worker whose status to write,
    /// and what is there.
    fn reflect(&mut self, name: &Name) {
        let mirror = self.mirrors.get(name);
        let object = mirror.and_then(|mirror| Shown::of(mirror));
        for worker in self
            .workers
            .values()
            .filter(|worker| worker.static_name.as_ref() == Some(name))
        {
            worker.desired.send_if_modified(|desired| {
                let changed = desired.object != object;
                desired.object.clone_from(&object);
                changed
            });
        }
        if !self.swept || self.mirrors.is_busy(name) {
            return;
        }
        if let Some(due) = mirror::due(self.statics.get(name), mirror, self.runs(name)) {
            self.carry_out(name.clone(), due);
        }
    }

    fn carry_out(&mut self, name: Name, due: Due) {
        self.mirrors.begin(name.clone());
        let (ctx, pod) = (self.ctx.clone(), name.clone());
        self.mirroring.spawn(name, async move {
            let done = mirror::carry_out(&ctx, due).await;
            if let Err(error) = &done {
                tracing::warn!(%error, pod, "the mirror of a static Pod is not as it should be; trying again");
                ctx.shutdown.run_until_cancelled(tokio::time::sleep(MIRROR_RETRY)).await;
            }
            done
        });
    }

    fn mirrored(&mut self, name: Name, done: Result<Result<Option<Pod>, kube::Error>, JoinError>) {
        match done {
            Ok(Ok(mirror)) => match self.mirrors.end(&name, mirror) {
                true => self.reflect(&name),
                false => self.carry_out(name.clone(), Due::Look(name)),
            },
            Ok(Err(_)) => {
                self.mirrors.fail(&name);
                self.reflect(&name);
            }
            // Tried again with the next that is heard of it: at once it would only fail again.
            Err(error) => {
                tracing::error!(%error, pod = name, "making or removing a mirror failed");
                self.mirrors.fail(&name);
            }
        }
    }
}

fn parse(bytes: &[u8]) -> Result<Pod, String> {
    serde_json::from_slice(bytes).map_err(|e| e.to_string())
}

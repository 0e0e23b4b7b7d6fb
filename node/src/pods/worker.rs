//! One worker per Pod: it alone holds what was seen of the Pod, asks `plan`, starts what the plan says and
//! reports.
//!
//! Flow: desired object, outcome of something under way, timer → plan → actions → status. Guarantees: one thing
//! per container at a time; an action's outcome is seen exactly once. Assumes one worker per uid (the manager's
//! care).

mod act;
mod outcome;
mod resizing;
mod restarting;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::json;
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::admission::Rejection;
use super::backoff::Backoff;
use super::context::Context;
use super::failure::StartFailure;
use super::health::Probes;
use super::kills::Kills;
use super::log_links;
use super::memory;
use super::observed::{Observed, Sandbox, Verdict};
use super::orphans;
use super::plan::{Plan, is_ending, plan};
use super::record::{self, Record};
use super::refresh;
use super::reporter::{self, Report};
use super::sandbox::{self, Surroundings, TearDownError, Unprepared};
use super::shown::Shown;
use super::status;
use super::tasks::{self, ResizeError};
use super::turns::Starts;
use super::unmounted::{self, Unmounted};
use super::view::PodView;
use crate::bundle::Namespaces;
use crate::steady;
use crate::volumes::host;

/// Plans made in a row before waiting: an action always changes what the next plan sees.
const PLANS_IN_A_ROW: usize = 16;
/// Time starts under way have to finish when the agent ends.
const SETTLE_LIMIT: Duration = Duration::from_secs(5);
/// Longest sleep: a lost wake-up costs this much.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// What the API wants of a Pod.
#[derive(Clone)]
pub struct Desired {
    pub pod: Arc<Pod>,
    /// The object is gone.
    pub gone: bool,
    /// The node ends it, whatever the API wants.
    pub evicted: Option<Verdict>,
    /// The object that holds the status: the Pod itself, or its mirror; none while there is no mirror.
    pub object: Option<Shown>,
}

/// How something under way ended.
enum Outcome {
    Prepared(Result<Surroundings, Unprepared>),
    Rejected(Rejection),
    Started {
        container: String,
        /// The Pod as it was when the start began.
        pod: Arc<Pod>,
        result: Result<Record, StartFailure>,
    },
    Ended {
        record: Record,
        end: tasks::End,
    },
    Exited(Record),
    /// The attempts that count no more.
    Noted(restarting::Attempts),
    Resized {
        record: Record,
        result: Result<(), ResizeError>,
    },
    /// The shim of the Pod's guests may know no more than this Pod of what they have together.
    Bounded {
        known: Arc<Pod>,
    },
    TornDown(Result<(), TearDownError>),
    Refreshed(Result<(), Unmounted>),
    Stopped,
}

struct Worker {
    ctx: Arc<Context>,
    /// The Pod with the resources that the node has agreed to.
    pod: Arc<Pod>,
    /// The Pod as the API has it.
    wanted: Arc<Pod>,
    /// Tells when a resize that waits for room may be asked for again.
    freed: watch::Receiver<()>,
    seen: Observed,
    namespaces: Namespaces,
    /// The runtime handler of the Pod's class.
    handler: String,
    volume_failures: unmounted::Failures,
    under_way: JoinSet<Outcome>,
    starts: Starts,
    /// Those that are being stopped, and what lets the signal go of one that waits.
    stops: BTreeMap<String, (AbortHandle, CancellationToken)>,
    kills: Arc<Kills>,
    refresh_wanted: Arc<Notify>,
    watches: JoinSet<()>,
    probes: Probes,
    reports: watch::Sender<Report>,
    last_status: Option<Arc<PodStatus>>,
    /// The API object that is told of the status, and what it shows.
    object: Option<Shown>,
}

/// Runs one Pod until it is gone from API and host, or the agent ends.
pub async fn run(ctx: Arc<Context>, mut desired: watch::Receiver<Desired>) {
    let first = desired.borrow_and_update().clone();
    let (reports, to_write) = watch::channel(Report::default());
    let shutdown = ctx.shutdown.clone();
    let reporter = tokio::spawn(reporter::run(
        ctx.options.client.clone(),
        first.pod.clone(),
        to_write,
        shutdown.clone(),
    ));
    let mut worker = Worker::new(ctx, first, reports);
    // A box of its own: it is large, and the worker lives on.
    Box::pin(worker.adopt()).await;
    // What was not learnt is for the next agent to learn: nothing is decided without.
    let is_ending = shutdown.is_cancelled();
    while !is_ending && !worker.step() {
        if shutdown
            .run_until_cancelled(worker.wait(&mut desired))
            .await
            .is_none()
        {
            worker.settle().await;
            break;
        }
    }
    worker.ctx.allocations.release(worker.uid());
    worker.ctx.probe_counts.forget(worker.uid(), None);
    drop(worker);
    if let Err(error) = reporter.await {
        tracing::error!(%error, "a status reporter failed");
    }
}

impl Worker {
    fn new(ctx: Arc<Context>, desired: Desired, reports: watch::Sender<Report>) -> Self {
        let status = desired.pod.status.clone();
        let ips = status
            .iter()
            .flat_map(|s| s.pod_ips.iter().flatten())
            .filter_map(|ip| ip.ip.parse().ok());
        let since = status.as_ref().and_then(|s| s.start_time.as_ref()).map(|t| t.0);
        let since = since.unwrap_or_else(Timestamp::now);
        let seen = Observed {
            ips: ips.collect(),
            start_time: Some(since),
            active_since: Some(steady::since(since)),
            boot_id: ctx.boot_id.clone(),
            orphaned: desired.gone,
            // Of a worker before this one.
            verdict: desired.evicted,
            ..Observed::default()
        };
        let probes = Probes::new(ctx.clone());
        Worker {
            freed: ctx.allocations.freed(),
            ctx,
            pod: desired.pod.clone(),
            wanted: desired.pod,
            seen,
            namespaces: Namespaces::default(),
            handler: String::new(),
            volume_failures: unmounted::Failures::default(),
            under_way: JoinSet::new(),
            starts: Starts::default(),
            stops: BTreeMap::new(),
            kills: Arc::default(),
            refresh_wanted: Arc::new(Notify::new()),
            watches: JoinSet::new(),
            probes,
            reports,
            last_status: status.map(Arc::new),
            object: desired.object,
        }
    }

    /// Takes back what an earlier agent started.
    async fn adopt(&mut self) {
        let pod = self.pod.clone();
        let Some(view) = PodView::new(&pod) else { return };
        let records = record::load_all(&self.ctx.dirs(view).containers()).unwrap_or_else(|error| {
            tracing::error!(%error, pod = %view.full_name(), "records of containers cannot be read");
            Vec::new()
        });
        memory::lost_records(view, &records)
            .into_iter()
            .for_each(|record| self.push(record));
        for record in tasks::adopt_all(&self.ctx, &pod, records).await {
            self.push(record);
        }
        self.recall_superseded(view);
        // First: new Pods may wait to learn whether this one still counts, and what follows may take long.
        self.recall_allocation();
        if self.seen.orphaned {
            self.end_soon(view);
        } else if self.seen.containers.values().any(|s| s.is_running()) {
            refresh::watch(&self.ctx, &pod, &self.refresh_wanted, &mut self.watches);
            let result = sandbox::prepare(&self.ctx, view).await;
            self.prepared(result);
        }
        let running: Vec<Record> = self
            .seen
            .containers
            .values()
            .filter_map(|s| s.last.clone())
            .filter(Record::is_running)
            .collect();
        running.into_iter().for_each(|record| self.watch(record));
        // What the shim was told last nobody knows.
        self.bound_anew(Arc::default());
        self.consider_resize();
    }

    /// Of a Pod that was gone before this agent came only the end is wanted: nothing is made, but its hooks need its address.
    fn end_soon(&mut self, pod: PodView<'_>) {
        let own = || self.ctx.network.address_of(pod.uid()).map(IpAddr::V4);
        self.seen.ips = match pod.spec.host_network {
            Some(true) => self.ctx.host_ips.clone(),
            _ => own().into_iter().collect(),
        };
        let left = orphans::grace_left(&self.ctx.dirs(pod).root);
        self.seen.orphan_grace = left
            .inspect_err(|error| tracing::warn!(%error, pod = %pod.full_name(), "a Pod that is gone has all its time to end"))
            .ok();
    }

    /// Plans and acts until there is nothing to do now; true when the Pod is gone for good.
    fn step(&mut self) -> bool {
        let pod = self.pod.clone();
        let Some(view) = PodView::new(&pod) else {
            return true;
        };
        let mut decided = Plan::default();
        for _ in 0..PLANS_IN_A_ROW {
            decided = plan(view, &self.seen, steady::now());
            let actions = std::mem::take(&mut decided.actions);
            if actions.is_empty() {
                break;
            }
            actions.into_iter().for_each(|action| self.act(view, action));
        }
        if is_ending(view, &self.seen) {
            self.kills.end_pod();
        }
        self.wake_at(decided.wake);
        // Before it is told: whoever gets the room by that may come at once.
        if !status::takes_room(view, &self.seen) {
            self.ctx.give_room_back(view);
        }
        if decided.ended && self.seen.orphaned {
            self.clean_up(view);
            return true;
        }
        self.report(view, decided.ended && view.is_deleted());
        false
    }

    /// Before the agent ends: starts under way come to their end, so that their records are true.
    async fn settle(&mut self) {
        self.starts.cancel_all();
        let settled = async {
            while !self.starts.is_empty() {
                if let Some(Ok(outcome)) = self.under_way.join_next().await {
                    self.take_in(outcome);
                }
            }
        };
        if tokio::time::timeout(SETTLE_LIMIT, settled).await.is_err() {
            tracing::warn!("a container was still being started when the agent ended");
        }
    }

    /// Sets the timer for the next plan.
    fn wake_at(&mut self, when: Option<Timestamp>) {
        self.seen.wake = when;
    }

    fn sleep(&self) -> Duration {
        let until = self.seen.wake.map(|when| when.duration_since(steady::now()));
        let until = until.map_or(LONGEST_SLEEP, |d| Duration::try_from(d).unwrap_or(Duration::ZERO));
        until.min(LONGEST_SLEEP)
    }

    /// Waits for whatever comes first and takes it in.
    async fn wait(&mut self, desired: &mut watch::Receiver<Desired>) {
        let sleep = self.sleep();
        tokio::select! {
            changed = desired.changed() => match changed {
                Ok(()) => {
                    let new = desired.borrow_and_update().clone();
                    self.desire(new);
                }
                // The manager is ending: so is the agent.
                Err(_) => self.ctx.shutdown.cancelled().await,
            },
            Some(outcome) = self.under_way.join_next(), if !self.under_way.is_empty() => match outcome {
                Ok(outcome) => self.take_in(outcome),
                Err(error) if error.is_cancelled() => {}
                Err(error) => tracing::error!(%error, "a step of a Pod failed unexpectedly"),
            },
            () = self.refresh_wanted.notified(), if self.seen.sandbox == Sandbox::Ready => self.refresh(),
            Ok(()) = self.freed.changed(), if self.seen.pending.is_some() => self.consider_resize(),
            () = self.probes.changed.notified() => self.read_health(),
            () = tokio::time::sleep(sleep) => {}
        }
    }

    fn desire(&mut self, desired: Desired) {
        self.seen.orphaned |= desired.gone;
        self.object = desired.object;
        if let Some(verdict) = desired.evicted {
            self.evict(verdict);
        }
        let changed = self.pod.metadata.labels != desired.pod.metadata.labels
            || self.pod.metadata.annotations != desired.pod.metadata.annotations;
        let images: Vec<String> = renamed_images(&self.pod, &desired.pod);
        for container in images {
            if let Some(seen) = self.seen.containers.get_mut(&container) {
                // Why the old image could not be had says nothing of the new one.
                seen.waiting = None;
                seen.pulls = Backoff::default();
            }
        }
        self.want(desired.pod);
        if self.pod.metadata.deletion_timestamp.is_some() {
            self.probes.pod_is_terminating();
        }
        if changed {
            self.refresh_wanted.notify_one();
        }
    }

    fn report(&mut self, pod: PodView<'_>, remove: bool) {
        if self.seen.orphaned {
            return;
        }
        let host = &self.ctx.host_ips;
        let old = self.last_status.as_deref();
        let status = status::status(pod, &self.seen, host, old, Timestamp::now());
        let remove = remove && status::is_settled(&status);
        let told = self.last_status.take().filter(|told| **told == status);
        let status = told.unwrap_or_else(|| Arc::new(status));
        self.last_status = Some(status.clone());
        self.ctx.table.update(self.as_told(&status), &self.seen);
        let report = Report {
            status: Some(status),
            remove,
            object: self.object.clone(),
        };
        self.reports.send_if_modified(|old| {
            let changed = *old != report;
            *old = report;
            changed
        });
    }

    /// The Pod with this status. Mostly that is what the API has, but for parts of seconds, and then it is in memory once.
    fn as_told(&self, status: &PodStatus) -> Arc<Pod> {
        let known = self.pod.status.as_ref();
        if known.is_some_and(|known| json!(known) == json!(status)) {
            return self.pod.clone();
        }
        Arc::new(Pod {
            status: Some(status.clone()),
            ..Pod::clone(&self.pod)
        })
    }

    /// The Pod is gone from the API and runs nowhere: nothing of it is kept.
    fn clean_up(&self, pod: PodView<'_>) {
        self.ctx.table.remove(pod.uid());
        let dirs = self.ctx.dirs(pod);
        log_links::forget_all(&self.ctx.options.layout, &dirs.containers());
        for dir in [&dirs.root, &dirs.logs] {
            if let Err(error) = host::remove_tree(dir) {
                tracing::warn!(%error, pod = %pod.full_name(), "a directory of a removed Pod stays");
            }
        }
    }
}

/// Names of the containers that `new` gives another image than `old`.
fn renamed_images(old: &Pod, new: &Pod) -> Vec<String> {
    let (Some(old), Some(new)) = (PodView::new(old), PodView::new(new)) else {
        return Vec::new();
    };
    let image = |name: &str| old.container(name).and_then(|(c, _)| c.image.clone());
    new.containers()
        .filter(|(c, _)| image(&c.name) != c.image)
        .map(|(c, _)| c.name.clone())
        .collect()
}

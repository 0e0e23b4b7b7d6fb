//! Node-pressure eviction: when the node runs short of memory, disk or process numbers it says so by conditions, makes room by
//! itself, and then ends Pods, one at a time. Follows the kubelet's eviction manager (Concepts, Node-pressure Eviction). Owns when;
//! `rank` who, `thresholds` what short means.

pub mod rank;
pub mod thresholds;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::{Notify, mpsc};
use tokio::time::{MissedTickBehavior, interval};

use crate::events::{Severity, node_reference_of};
use crate::garbage;
use crate::host;
use crate::metrics::containers::{self, Container};
use crate::metrics::disks;
use crate::pods::context::Context;
use crate::pods::eviction::Eviction;
use crate::pods::observed::Verdict;
use crate::pods::view::PodView;
use crate::server::PodTable;
use rank::{Candidate, Use};
use thresholds::{Limits, Observation, Observations, Signal, Threshold};

/// Pause between two looks; upstream's monitoring interval.
const INTERVAL: Duration = Duration::from_secs(10);
/// Seconds the containers of an evicted Pod get; upstream's for hard thresholds.
const GRACE_SECONDS: i64 = 1;
/// Time an evicted Pod has to be gone before another is chosen; upstream's.
const CLEANUP: Duration = Duration::from_secs(30);

/// What the node is short of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    pub memory: bool,
    pub disk: bool,
    pub pids: bool,
}

impl Pressure {
    fn of(signals: impl IntoIterator<Item = Signal>) -> Self {
        let mut pressure = Pressure::default();
        for signal in signals {
            match signal {
                Signal::MemoryAvailable => pressure.memory = true,
                Signal::PidAvailable => pressure.pids = true,
                _ => pressure.disk = true,
            }
        }
        pressure
    }

    /// The conditions' types, as upstream lists them.
    fn names(self) -> Vec<&'static str> {
        let all = [
            (self.disk, "DiskPressure"),
            (self.memory, "MemoryPressure"),
            (self.pids, "PIDPressure"),
        ];
        all.into_iter()
            .filter(|(holds, _)| *holds)
            .map(|(_, name)| name)
            .collect()
    }
}

/// The state of the node that its conditions and its admission of Pods come from. A cheap handle.
#[derive(Clone, Debug, Default)]
pub struct NodeState {
    inner: Arc<Mutex<Held>>,
    changed: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Held {
    pressure: Pressure,
    shutting_down: bool,
}

impl NodeState {
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn pressure(&self) -> Pressure {
        self.lock().pressure
    }

    pub fn is_shutting_down(&self) -> bool {
        self.lock().shutting_down
    }

    pub fn shut_down(&self) {
        self.lock().shutting_down = true;
        self.changed.notify_one();
    }

    fn set(&self, pressure: Pressure) {
        let before = std::mem::replace(&mut self.lock().pressure, pressure);
        if before != pressure {
            self.changed.notify_one();
        }
    }

    /// Waits until there is something to tell the API server.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// Reason and message for a Pod that comes while the node is short of something; `best_effort` and `tolerant` as the Pod is.
pub fn refusal(pressure: Pressure, best_effort: bool, tolerant: bool) -> Option<String> {
    let names = pressure.names();
    let spared = names == ["MemoryPressure"] && (!best_effort || tolerant);
    (!names.is_empty() && !spared).then(|| format!("The node had condition: [{}]. ", names.join(" ")))
}

/// Looks now and then until the agent ends.
pub async fn run(ctx: Arc<Context>, evictions: mpsc::Sender<Eviction>) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let shutdown = ctx.shutdown.clone();
    let mut manager = Manager {
        ctx,
        evictions,
        observed: BTreeMap::new(),
        met: Vec::new(),
        going: None,
    };
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        shutdown.run_until_cancelled(manager.look()).await;
    }
}

struct Manager {
    ctx: Arc<Context>,
    evictions: mpsc::Sender<Eviction>,
    /// When each signal was last short.
    observed: BTreeMap<Signal, Instant>,
    /// Thresholds met at the last look.
    met: Vec<Threshold>,
    /// The Pod that was ended last, and when.
    going: Option<(String, Instant)>,
}

impl Manager {
    async fn look(&mut self) {
        let limits = self.ctx.options.pressure.clone();
        let seen = observe(&self.ctx);
        let met = still_met(&limits, &seen, &self.met);
        let now = Instant::now();
        self.observed
            .extend(met.iter().map(|threshold| (threshold.signal, now)));
        self.observed
            .retain(|_, at| now.duration_since(*at) < limits.transition || *at == now);
        self.ctx.state.set(Pressure::of(self.observed.keys().copied()));
        self.met = met;
        // Memory first, as upstream.
        let mut starved = self.met.clone();
        starved.sort_by_key(|threshold| threshold.signal);
        if let (Some(threshold), false) = (starved.first(), self.waits_for_cleanup()) {
            self.reclaim(threshold, &limits).await;
        }
    }

    /// One Pod at a time: what it held comes back only when it is gone.
    fn waits_for_cleanup(&mut self) -> bool {
        let Some((uid, since)) = &self.going else {
            return false;
        };
        let lives = self.ctx.table.pods().iter().any(|pod| {
            let over = phase(pod).is_some_and(|phase| matches!(phase, "Failed" | "Succeeded"));
            pod.metadata.uid.as_ref() == Some(uid) && !over
        });
        let waits = lives && since.elapsed() < CLEANUP;
        if !waits {
            self.going = None;
        }
        waits
    }

    async fn reclaim(&mut self, threshold: &Threshold, limits: &Limits) {
        let resource = threshold.signal.resource();
        let message = format!("Attempting to reclaim {resource}");
        tracing::warn!(resource, "the node is short of a resource; making room");
        let node = node_reference_of(&self.ctx.options.node_name);
        self.ctx
            .recorder
            .event(node, Severity::Warning, "EvictionThresholdMet", message);
        if Pressure::of([threshold.signal]).disk {
            free_disk(&self.ctx).await;
        }
        let seen = observe(&self.ctx);
        if limits.met(&seen, true).is_empty() {
            return;
        }
        let Some(observation) = seen.get(&threshold.signal).copied() else {
            return;
        };
        let mut candidates = candidates(&self.ctx, threshold.signal).await;
        rank::rank(&mut candidates, resource);
        let Some(first) = candidates.first() else {
            tracing::warn!(resource, "no Pod can be evicted");
            return;
        };
        let uid = first.pod.metadata.uid.clone().unwrap_or_default();
        let verdict = Verdict {
            reason: "Evicted".into(),
            message: rank::message(first, threshold, observation),
            grace: Some(GRACE_SECONDS),
            disruption: true,
        };
        self.going = Some((uid.clone(), Instant::now()));
        // A closed channel means that the agent ends.
        let _ = self.evictions.send(Eviction { uid, verdict }).await;
    }
}

/// What is met now, with what was and is not left far enough behind.
fn still_met(limits: &Limits, seen: &Observations, before: &[Threshold]) -> Vec<Threshold> {
    let mut met = limits.met(seen, false);
    let unresolved = limits.met(seen, true);
    let kept = unresolved
        .into_iter()
        .filter(|threshold| before.contains(threshold));
    for threshold in kept {
        if !met.contains(&threshold) {
            met.push(threshold);
        }
    }
    met
}

fn observe(ctx: &Context) -> Observations {
    let mut seen = Observations::new();
    if let Ok(used) = host::usage() {
        let capacity = host::memory().total;
        let available = capacity.saturating_sub(used.working_set);
        seen.insert(Signal::MemoryAvailable, Observation { available, capacity });
    }
    if let Ok(disk) = host::disk(&ctx.options.data_dir) {
        let space = Observation {
            available: disk.free_bytes,
            capacity: disk.bytes,
        };
        let inodes = Observation {
            available: disk.free_inodes,
            capacity: disk.inodes,
        };
        // Images and everything else of a node are on one file system.
        seen.extend([Signal::NodeFsAvailable, Signal::ImageFsAvailable].map(|signal| (signal, space)));
        // File systems that make inodes as they are wanted have no number of them.
        if disk.inodes > 0 {
            seen.extend([Signal::NodeFsInodesFree, Signal::ImageFsInodesFree].map(|signal| (signal, inodes)));
        }
    }
    if let Some((used, capacity)) = host::processes() {
        let available = capacity.saturating_sub(used);
        seen.insert(Signal::PidAvailable, Observation { available, capacity });
    }
    seen
}

/// Removes what nobody uses.
async fn free_disk(ctx: &Arc<Context>) {
    let ctx = ctx.clone();
    let freed = tokio::task::spawn_blocking(move || garbage::collect_all(&ctx));
    if let Err(error) = freed.await {
        tracing::error!(%error, "making room on the disk failed");
    }
}

fn phase(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.phase.as_deref()
}

/// The Pods that may go, with what they use.
async fn candidates(ctx: &Arc<Context>, signal: Signal) -> Vec<Candidate> {
    let (read, _) = containers::read(&ctx.table).await;
    let mut by_pod: HashMap<String, Vec<Container>> = HashMap::new();
    for container in read {
        let uid = container.pod.metadata.uid.clone().unwrap_or_default();
        by_pod.entry(uid).or_default().push(container);
    }
    let pods = ctx.table.pods().into_iter().filter(|pod| {
        let over = phase(pod).is_some_and(|phase| matches!(phase, "Failed" | "Succeeded"));
        !over && pod.metadata.deletion_timestamp.is_none() && !rank::is_critical(pod)
    });
    let pods: Vec<Arc<Pod>> = pods.collect();
    let ctx = ctx.clone();
    let measured = tokio::task::spawn_blocking(move || {
        let with_use = pods.into_iter().map(|pod| {
            let uid = pod.metadata.uid.clone().unwrap_or_default();
            let used = used(
                &ctx,
                &pod,
                by_pod.get(&uid).map(Vec::as_slice).unwrap_or_default(),
                signal,
            );
            Candidate { pod, used }
        });
        with_use.collect()
    });
    measured.await.unwrap_or_else(|error| {
        tracing::error!(%error, "measuring what Pods use failed");
        Vec::new()
    })
}

/// What a Pod uses of the resource a signal is about.
fn used(ctx: &Context, pod: &Arc<Pod>, containers: &[Container], signal: Signal) -> Option<Use> {
    let of = |amount: fn(&Container) -> u64| Use {
        pod: containers.iter().map(amount).sum(),
        containers: containers.iter().map(|c| (c.name.clone(), amount(c))).collect(),
    };
    match signal {
        Signal::MemoryAvailable => Some(of(|c| c.stats.working_set())).filter(|_| !containers.is_empty()),
        Signal::PidAvailable => Some(of(|c| c.stats.pids)).filter(|_| !containers.is_empty()),
        Signal::NodeFsAvailable | Signal::ImageFsAvailable => {
            let disk = ctx.station.disks.of(PodView::new(pod)?, &disks::running(pod));
            let logs = disk.logs.iter().map(|(name, used)| {
                let layer = disk.layers.get(name).map_or(0, |layer| layer.bytes);
                (name.clone(), used.bytes + layer)
            });
            Some(Use {
                pod: disk.total().bytes,
                containers: logs.collect(),
            })
        }
        Signal::NodeFsInodesFree | Signal::ImageFsInodesFree => {
            let disk = ctx.station.disks.of(PodView::new(pod)?, &disks::running(pod));
            Some(Use {
                pod: disk.total().inodes,
                containers: BTreeMap::new(),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thresholds::{parse_hard, parse_reclaim};

    #[test]
    fn who_is_refused_under_pressure() {
        let pressure = |memory, disk| Pressure {
            memory,
            disk,
            pids: false,
        };
        for (pressure, best_effort, tolerant, expected) in [
            (pressure(false, false), true, false, None),
            (pressure(true, false), false, false, None),
            (
                pressure(true, false),
                true,
                false,
                Some("The node had condition: [MemoryPressure]. "),
            ),
            (pressure(true, false), true, true, None),
            (
                pressure(true, true),
                false,
                true,
                Some("The node had condition: [DiskPressure MemoryPressure]. "),
            ),
        ] {
            let said = refusal(pressure, best_effort, tolerant);
            assert_eq!(said.as_deref(), expected, "{pressure:?} {best_effort} {tolerant}");
        }
    }

    #[test]
    fn a_threshold_that_was_met_stays_until_enough_is_reclaimed() {
        let limits = Limits {
            hard: parse_hard("memory.available<100").unwrap(),
            reclaim: parse_reclaim("memory.available=50").unwrap(),
            ..Limits::default()
        };
        let seen = |available| {
            Observations::from([(
                Signal::MemoryAvailable,
                Observation {
                    available,
                    capacity: 1000,
                },
            )])
        };
        assert!(still_met(&limits, &seen(120), &[]).is_empty());
        let met = still_met(&limits, &seen(99), &[]);
        assert_eq!(met.len(), 1);
        assert_eq!(still_met(&limits, &seen(120), &met), met);
        assert!(still_met(&limits, &seen(150), &met).is_empty());
    }
}

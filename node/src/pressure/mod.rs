//! Node-pressure eviction: when the node runs short of memory, disk or process numbers it says so by conditions, makes room by
//! itself, and then ends Pods, one at a time. Follows the kubelet's eviction manager (Concepts, Node-pressure Eviction). Owns when;
//! `rank` who, `thresholds` what short means, `devices` what of a Pod's disk counts.

mod devices;
pub mod rank;
mod state;
pub mod thresholds;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::mpsc;
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
pub use state::{NodeState, Pressure, refusal};

use devices::{Devices, Held};
use rank::{Candidate, Use};
use thresholds::{Limits, Observation, Observations, Signal, Threshold};

/// Pause between two looks; upstream's monitoring interval.
const INTERVAL: Duration = Duration::from_secs(10);
/// What the containers of an evicted Pod get; upstream's for hard thresholds.
const GRACE: Duration = Duration::from_secs(1);
/// Time an evicted Pod has beyond that to be gone before another is chosen; upstream's.
const CLEANUP: Duration = Duration::from_secs(30);

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
    /// Thresholds met at the last look, and since when.
    met: Vec<(Threshold, Instant)>,
    /// The Pod that was ended last.
    going: Option<Going>,
}

/// A Pod that is being ended.
struct Going {
    uid: String,
    since: Instant,
    /// What its containers were given.
    grace: Duration,
}

impl Going {
    /// How long it is waited for. A hard threshold does not wait for one that has more time than that gives: it hurries it.
    fn patience(&self, is_hard: bool) -> Duration {
        match is_hard && self.grace > GRACE {
            true => Duration::ZERO,
            false => self.grace.saturating_add(CLEANUP),
        }
    }
}

impl Manager {
    async fn look(&mut self) {
        let limits = self.ctx.options.pressure.clone();
        let seen = observe(&self.ctx);
        let now = Instant::now();
        let before: Vec<Threshold> = self.met.iter().map(|(threshold, _)| *threshold).collect();
        let met = still_met(&limits, &seen, &before);
        self.observed
            .extend(met.iter().map(|threshold| (threshold.signal, now)));
        self.observed
            .retain(|_, at| now.duration_since(*at) < limits.transition || *at == now);
        self.ctx.state.set(Pressure::of(self.observed.keys().copied()));
        self.met = dated(met, &self.met, now);
        let Some(threshold) = most_urgent(lasting(&self.met, now)) else {
            return;
        };
        if !self.waits_for_cleanup(threshold.grace.is_none()) {
            self.reclaim(&threshold, &limits).await;
        }
    }

    /// One Pod at a time: what it held comes back only when it is gone.
    fn waits_for_cleanup(&mut self, is_hard: bool) -> bool {
        let Some(going) = &self.going else {
            return false;
        };
        let lives = self.ctx.table.pods().iter().any(|pod| {
            let over = phase(pod).is_some_and(|phase| matches!(phase, "Failed" | "Succeeded"));
            pod.metadata.uid.as_ref() == Some(&going.uid) && !over
        });
        let waits = lives && going.since.elapsed() < going.patience(is_hard);
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
        let held = Devices::of(&self.ctx.options.layout).held(threshold.signal);
        if held.layers {
            free_disk(&self.ctx).await;
        }
        let seen = observe(&self.ctx);
        if limits.met(&seen, true).is_empty() {
            return;
        }
        let Some(observation) = seen.get(&threshold.signal).copied() else {
            return;
        };
        let mut candidates = candidates(&self.ctx, threshold.signal, held).await;
        rank::rank(&mut candidates, resource);
        let Some(first) = candidates.first() else {
            tracing::warn!(resource, "no Pod can be evicted");
            return;
        };
        let uid = first.pod.metadata.uid.clone().unwrap_or_default();
        let own = first
            .pod
            .spec
            .as_ref()
            .and_then(|s| s.termination_grace_period_seconds);
        let grace = match threshold.grace {
            Some(_) => own.unwrap_or(i64::MAX).min(limits.most_grace.into()),
            None => GRACE.as_secs() as i64,
        };
        let message = rank::message(first, threshold, observation);
        let verdict = Verdict {
            reason: "Evicted".into(),
            message: message.clone(),
            grace: Some(grace),
            disruption: Some(message),
            annotations: rank::annotations(first, threshold),
        };
        self.going = Some(Going {
            uid: uid.clone(),
            since: Instant::now(),
            grace: Duration::from_secs(u64::try_from(grace).unwrap_or_default()),
        });
        // A closed channel means that the agent ends.
        let _ = self.evictions.send(Eviction { uid, verdict }).await;
    }
}

/// Each with the time since which it is met.
fn dated(met: Vec<Threshold>, before: &[(Threshold, Instant)], now: Instant) -> Vec<(Threshold, Instant)> {
    let since = |threshold: &Threshold| {
        let known = before.iter().find(|(known, _)| known == threshold);
        known.map_or(now, |(_, since)| *since)
    };
    met.into_iter()
        .map(|threshold| (threshold, since(&threshold)))
        .collect()
}

/// Those that have been met for as long as they have to last.
fn lasting(met: &[(Threshold, Instant)], now: Instant) -> Vec<Threshold> {
    let lasts = |(threshold, since): &&(Threshold, Instant)| {
        now.duration_since(*since) >= threshold.grace.unwrap_or_default()
    };
    met.iter()
        .filter(lasts)
        .map(|(threshold, _)| *threshold)
        .collect()
}

/// What gives Pods no time goes before what does; then memory first, as upstream.
fn most_urgent(starved: Vec<Threshold>) -> Option<Threshold> {
    let urgency = |threshold: &Threshold| (threshold.grace.is_some(), threshold.signal);
    starved.into_iter().min_by_key(urgency)
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
    let layout = &ctx.options.layout;
    for (dir, space, inodes) in [
        (layout.root(), Signal::NodeFsAvailable, Signal::NodeFsInodesFree),
        (layout.data(), Signal::ImageFsAvailable, Signal::ImageFsInodesFree),
    ] {
        let Ok(disk) = host::disk(dir) else { continue };
        let of = |available, capacity| Observation { available, capacity };
        seen.insert(space, of(disk.free_bytes, disk.bytes));
        // File systems that make inodes as they are wanted have no number of them.
        if disk.inodes > 0 {
            seen.insert(inodes, of(disk.free_inodes, disk.inodes));
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

/// The Pods that may go, with what they use; of the disk, what is `held` there.
async fn candidates(ctx: &Arc<Context>, signal: Signal, held: Held) -> Vec<Candidate> {
    let (read, _) = containers::read(&ctx.station).await;
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
            let containers = by_pod.get(&uid).map(Vec::as_slice).unwrap_or_default();
            let used = used(&ctx, &pod, containers, signal, held);
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
fn used(ctx: &Context, pod: &Arc<Pod>, containers: &[Container], signal: Signal, held: Held) -> Option<Use> {
    let of = |amount: fn(&Container) -> u64| Use {
        pod: containers.iter().map(amount).sum(),
        containers: containers.iter().map(|c| (c.name.clone(), amount(c))).collect(),
    };
    match signal {
        Signal::MemoryAvailable => Some(of(|c| c.stats.working_set())).filter(|_| !containers.is_empty()),
        Signal::PidAvailable => Some(of(|c| c.stats.pids)).filter(|_| !containers.is_empty()),
        Signal::NodeFsAvailable | Signal::ImageFsAvailable => {
            let disk = ctx.station.disks.of(PodView::new(pod)?, &disks::running(pod));
            // Whichever of it is there: so it is said upstream too.
            let logs = disk.logs.iter().map(|(name, used)| {
                let layer = disk.layers.get(name).map_or(0, |layer| layer.bytes);
                (name.clone(), used.bytes + layer)
            });
            Some(Use {
                pod: held.of(&disk).bytes,
                containers: logs.collect(),
            })
        }
        Signal::NodeFsInodesFree | Signal::ImageFsInodesFree => {
            let disk = ctx.station.disks.of(PodView::new(pod)?, &disks::running(pod));
            Some(Use {
                pod: held.of(&disk).inodes,
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
    fn a_soft_threshold_acts_when_it_has_lasted() {
        let hard = parse_hard("memory.available<1").unwrap()[0];
        let soft = Threshold {
            grace: Some(Duration::from_secs(90)),
            ..hard
        };
        let begun = Instant::now();
        let later = |seconds| begun + Duration::from_secs(seconds);
        let met = dated(vec![hard, soft], &[], begun);
        assert_eq!(lasting(&met, begun), [hard]);
        let met = dated(vec![hard, soft], &met, later(89));
        assert_eq!(lasting(&met, later(89)), [hard]);
        assert_eq!(lasting(&met, later(90)), [hard, soft]);
        let left = dated(vec![hard], &met, later(90));
        let met = dated(vec![hard, soft], &left, later(91));
        assert_eq!(lasting(&met, later(95)), [hard], "it begins anew");
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

    #[test]
    fn a_pod_that_has_time_is_waited_for_but_hurried_by_a_hard_threshold() {
        let going = |seconds| Going {
            uid: "u".into(),
            since: Instant::now(),
            grace: Duration::from_secs(seconds),
        };
        for (grace, is_hard, seconds) in [(60, false, 90), (60, true, 0), (1, true, 31), (0, false, 30)] {
            let waits = going(grace).patience(is_hard);
            assert_eq!(waits, Duration::from_secs(seconds), "{grace} {is_hard}");
        }
        let hard = parse_hard("nodefs.available<1,memory.available<1").unwrap();
        let soft = |threshold: Threshold| Threshold {
            grace: Some(Duration::ZERO),
            ..threshold
        };
        let of = |signal| hard.iter().copied().find(|t| t.signal == signal).unwrap();
        let (memory, disk) = (of(Signal::MemoryAvailable), of(Signal::NodeFsAvailable));
        assert_eq!(most_urgent(vec![disk, memory]), Some(memory));
        assert_eq!(most_urgent(vec![soft(memory), disk]), Some(disk));
        assert_eq!(most_urgent(vec![soft(disk), soft(memory)]), Some(soft(memory)));
    }
}

//! HorizontalPodAutoscalers: how many Pods a workload has, by what they use (upstream's podautoscaler controller).
//!
//! Flow, for each autoscaler every 15 s: the scale of its target and the Pods it selects (`target`) → what the metrics APIs say
//! (`ask`, `readings`) → a number for each metric (`pods`, `replicas`, `metric`), of which the greatest counts → as much of it as
//! limits of number, pace and time allow (`limits`, `history`) → the scale is written, then the status. Between reading and
//! writing all is pure.
mod ask;
mod history;
mod limits;
mod metric;
#[cfg(test)]
mod metric_tests;
mod pods;
mod readings;
mod replicas;
mod round;
mod status;
mod target;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;

use super::context::Context;
use crate::toolkit::lock::lock;
use crate::toolkit::{Change, ObjectKey, Outcome, Queue, Recorder, StepError, work};
use history::History;
use round::Round;

/// Autoscalers looked after at once (upstream's `--concurrent-horizontal-pod-autoscaler-syncs`).
const WORKERS: usize = 5;
/// Time between two looks (`--horizontal-pod-autoscaler-sync-period`): metrics are no newer than that.
const PERIOD: Duration = Duration::from_secs(15);

struct Controller {
    context: Context,
    recorder: Recorder,
    histories: Mutex<BTreeMap<ObjectKey, History>>,
    /// Which Pods each autoscaler found when it last looked: two that share some would fight over them.
    found: Mutex<BTreeMap<ObjectKey, BTreeSet<String>>>,
}

/// Registers for changes and returns the future that does the work.
pub fn start(context: &Context) -> BoxFuture<'static, ()> {
    let queue: Arc<Queue<ObjectKey>> = Arc::new(Queue::new());
    let own = queue.clone();
    context.watches.autoscalers.on_change(move |change| {
        let key = ObjectKey::of(change.object().as_ref());
        match is_urgent(change) {
            true => own.add(key),
            false => own.add_after(key, PERIOD),
        }
    });
    let controller = Controller {
        context: context.clone(),
        recorder: context.events.recorder("horizontal-pod-autoscaler"),
        histories: Mutex::default(),
        found: Mutex::default(),
    };
    let shutdown = context.shutdown.clone();
    work(
        "autoscaler",
        queue,
        WORKERS,
        shutdown,
        controller,
        |controller, key| controller.reconcile(key).boxed(),
    )
}

/// What somebody did is answered at once; what we wrote ourselves, and what was there before us, has its turn.
fn is_urgent(change: &Change<HorizontalPodAutoscaler>) -> bool {
    match change {
        Change::Added(new) => new
            .status
            .as_ref()
            .is_none_or(|status| status.conditions.is_none()),
        Change::Updated { old, new } => old.spec != new.spec,
        Change::Deleted(_) => true,
    }
}

impl Controller {
    /// Whatever fails is told by conditions and events, and the next look comes when it is due.
    async fn reconcile(&self, key: ObjectKey) -> Result<Outcome, StepError> {
        let Some(autoscaler) = self.context.watches.autoscalers.get(&key) else {
            lock(&self.histories).remove(&key);
            lock(&self.found).remove(&key);
            return Ok(Outcome::Done);
        };
        if let Err(why) = Round::new(self, &key, &autoscaler).run().await {
            tracing::debug!(autoscaler = %key, why, "not scaled as it should be");
        }
        Ok(Outcome::After(PERIOD))
    }

    /// Notes which Pods an autoscaler found, and says which autoscalers found some of them: at least this one.
    fn claimants(&self, key: &ObjectKey, pods: BTreeSet<String>) -> Vec<ObjectKey> {
        let mut found = lock(&self.found);
        let shares = |(other, theirs): &(&ObjectKey, &BTreeSet<String>)| {
            other.namespace == key.namespace && *other != key && !theirs.is_disjoint(&pods)
        };
        let mut claimants: Vec<ObjectKey> = found
            .iter()
            .filter(shares)
            .map(|(other, _)| other.clone())
            .collect();
        claimants.push(key.clone());
        claimants.sort();
        found.insert(key.clone(), pods);
        claimants
    }
}

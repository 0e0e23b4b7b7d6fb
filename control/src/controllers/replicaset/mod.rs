//! ReplicaSet: keeps as many Pods of a template as asked for (apps/v1 ReplicaSet).
//!
//! Flow: a change of a ReplicaSet or of a Pod queues the ReplicaSet; its reconcile claims Pods, creates or deletes what
//! is too few or too many, and writes the status. Guarantees: never acts on a cache that misses its own writes.
mod handlers;
mod rank;
mod scale;
mod status;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use kube::{Client, ResourceExt};

use super::adoption::Adopter;
use super::context::{BY_OWNER, Context, Watches, orphans_in};
use super::expectations::Expectations;
use crate::toolkit::{ObjectKey, Objects, Outcome, Queue, Recorder, StepError, Steps, patch, pods, work};

/// ReplicaSets reconciled at once (upstream's default).
const WORKERS: usize = 5;

/// Registers for changes and returns the future that does the work.
pub fn start(context: &Context) -> BoxFuture<'static, ()> {
    let controller = Arc::new(Controller {
        client: context.client.clone(),
        watches: context.watches.clone(),
        events: context.events.recorder("replicaset-controller"),
        queue: Arc::new(Queue::new()),
        expectations: Expectations::default(),
    });
    handlers::register(&controller);
    let shutdown = context.shutdown.clone();
    Box::pin(async move {
        let queue = controller.queue.clone();
        let controller = &controller;
        work("replicaset", queue, WORKERS, shutdown, |key| {
            controller.reconcile(key)
        })
        .await;
    })
}

struct Controller {
    client: Client,
    watches: Arc<Watches>,
    events: Recorder,
    queue: Arc<Queue<ObjectKey>>,
    expectations: Expectations,
}

impl Controller {
    async fn reconcile(&self, key: ObjectKey) -> Result<Outcome, StepError> {
        let Some(set) = self.watches.replica_sets.get(&key) else {
            self.expectations.forget(&key);
            return Ok(Outcome::Done);
        };
        let cache_is_current = self.expectations.satisfied(&key);
        let claimed = self.claim(&set).await?;
        let active: Vec<Arc<Pod>> = claimed
            .iter()
            .filter(|pod| pods::is_active(pod))
            .cloned()
            .collect();
        let scaled = if cache_is_current && set.metadata.deletion_timestamp.is_none() {
            self.scale(&key, &set, &active).await
        } else {
            Ok(())
        };
        self.write_status(&set, &claimed, scaled.as_ref().err()).await?;
        scaled.map_err(|failure| failure.error)?;
        Ok(next_look(&set, &active, Timestamp::now()))
    }

    /// All Pods that belong to `set` after adoption and release, dying ones included, finished ones not.
    async fn claim(&self, set: &ReplicaSet) -> Result<Vec<Arc<Pod>>, StepError> {
        let Some(selector) = handlers::selector(set) else {
            return Ok(Vec::new());
        };
        let mut candidates = self
            .watches
            .pods
            .indexed(BY_OWNER, &set.uid().unwrap_or_default());
        candidates.extend(
            self.watches
                .pods
                .indexed(BY_OWNER, &orphans_in(&set.namespace().unwrap_or_default())),
        );
        candidates.retain(|pod| !pods::is_terminal(pod));
        let adopter = Adopter {
            owner: set,
            owners: self.sets(set),
            children: self.pods(set),
        };
        adopter.claim(&selector, candidates).await
    }

    async fn write_status(
        &self,
        set: &ReplicaSet,
        claimed: &[Arc<Pod>],
        failure: Option<&scale::Failure>,
    ) -> Result<(), StepError> {
        let before = set.status.clone().unwrap_or_default();
        let after = status::compute(set, claimed, failure, Timestamp::now());
        let Some(patch) = patch::versioned::<ReplicaSetStatus>(&set.metadata, "status", &before, &after)
        else {
            return Ok(());
        };
        let name = set.metadata.name.as_deref().unwrap_or_default();
        self.sets(set)
            .merge_status(name, patch)
            .await
            .step_opt(|| format!("write the status of ReplicaSet {name}"))
            .map(drop)
    }

    fn sets(&self, set: &ReplicaSet) -> Objects<ReplicaSet> {
        Objects::in_namespace(
            &self.client,
            set.metadata.namespace.as_deref().unwrap_or_default(),
        )
    }

    fn pods(&self, set: &ReplicaSet) -> Objects<Pod> {
        Objects::in_namespace(
            &self.client,
            set.metadata.namespace.as_deref().unwrap_or_default(),
        )
    }
}

/// A ready Pod becomes available by the passage of time alone: come back then.
fn next_look(set: &ReplicaSet, active: &[Arc<Pod>], now: Timestamp) -> Outcome {
    let min_ready = set
        .spec
        .as_ref()
        .and_then(|spec| spec.min_ready_seconds)
        .unwrap_or(0);
    let upcoming = active
        .iter()
        .filter_map(|pod| pods::available_at(pod, min_ready))
        .filter(|at| *at > now)
        .min();
    match upcoming {
        None => Outcome::Done,
        Some(at) => {
            let wait = Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO);
            // Timestamps have whole seconds at the API; the extra keeps the look from coming a moment early.
            Outcome::After(wait + Duration::from_millis(50))
        }
    }
}

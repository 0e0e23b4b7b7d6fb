//! ReplicaSets and ReplicationControllers: as many Pods of a template as asked for (apps/v1, core/v1).
//!
//! Flow: a change of a set or of a Pod queues the set; its reconcile claims Pods, creates or deletes what is too few or
//! too many, and writes the status. Guarantees: never acts on a cache that misses its own writes. Both kinds run the same
//! code, each with a queue of its own; `kind` knows how they differ.
mod handlers;
mod kind;
mod rank;
mod scale;
mod status;

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use k8s_openapi::api::core::v1::ReplicationController;
use kube::{Client, ResourceExt};

use super::adoption::Adopter;
use super::context::{Context, Watches, own_and_orphans};
use super::expectations::Expectations;
use crate::toolkit::{
    ObjectKey, Objects, Outcome, Pod, Queue, Recorder, StepError, Steps, patch, pods, work,
};
use kind::Replicated;

/// Sets of a kind reconciled at once (upstream's default).
const WORKERS: usize = 5;

/// Registers for changes and returns the futures that do the work, one per kind.
pub fn start(context: &Context) -> [BoxFuture<'static, ()>; 2] {
    [
        start_kind::<ReplicaSet>(context),
        start_kind::<ReplicationController>(context),
    ]
}

fn start_kind<K: Replicated>(context: &Context) -> BoxFuture<'static, ()> {
    let controller = Arc::new(Controller::<K> {
        client: context.client.clone(),
        watches: context.watches.clone(),
        events: context.events.recorder(K::COMPONENT),
        queue: Arc::new(Queue::new()),
        expectations: Expectations::default(),
        kind: PhantomData,
    });
    handlers::register(&controller);
    let queue = controller.queue.clone();
    let shutdown = context.shutdown.clone();
    work(
        K::COMPONENT,
        queue,
        WORKERS,
        shutdown,
        controller,
        |controller, key| controller.reconcile(key).boxed(),
    )
}

struct Controller<K> {
    client: Client,
    watches: Arc<Watches>,
    events: Recorder,
    queue: Arc<Queue<ObjectKey>>,
    expectations: Expectations,
    kind: PhantomData<K>,
}

impl<K: Replicated> Controller<K> {
    async fn reconcile(&self, key: ObjectKey) -> Result<Outcome, StepError> {
        let Some(set) = K::cache(&self.watches).get(&key) else {
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
        let scaled = if cache_is_current && set.meta().deletion_timestamp.is_none() {
            self.scale(&key, &set, &active).await
        } else {
            Ok(())
        };
        self.write_status(&set, &claimed, scaled.as_ref().err()).await?;
        scaled.map_err(|failure| failure.error)?;
        Ok(next_look(set.as_ref(), &active, Timestamp::now()))
    }

    /// All Pods that belong to `set` after adoption and release, dying ones included, finished ones not.
    async fn claim(&self, set: &K) -> Result<Vec<Arc<Pod>>, StepError> {
        let Some(selector) = set.selector() else {
            return Ok(Vec::new());
        };
        let (uid, namespace) = (set.uid().unwrap_or_default(), set.namespace().unwrap_or_default());
        let mut candidates = own_and_orphans(&self.watches.pods, &uid, &namespace);
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
        set: &K,
        claimed: &[Arc<Pod>],
        failure: Option<&scale::Failure>,
    ) -> Result<(), StepError> {
        let before = set.status().unwrap_or_default();
        let after = status::compute(set, claimed, failure, Timestamp::now());
        let Some(patch) = patch::versioned::<ReplicaSetStatus>(set.meta(), "status", &before, &after) else {
            return Ok(());
        };
        let name = set.name_any();
        self.sets(set)
            .merge_status(&name, patch)
            .await
            .step_opt(|| format!("write the status of {} {name}", K::kind(&())))
            .map(drop)
    }

    fn sets(&self, set: &K) -> Objects<K> {
        Objects::in_namespace(&self.client, set.meta().namespace.as_deref().unwrap_or_default())
    }

    fn pods(&self, set: &K) -> Objects<Pod> {
        Objects::in_namespace(&self.client, set.meta().namespace.as_deref().unwrap_or_default())
    }
}

/// A ready Pod becomes available by the passage of time alone: come back then.
fn next_look(set: &impl Replicated, active: &[Arc<Pod>], now: Timestamp) -> Outcome {
    let min_ready = set.min_ready_seconds().unwrap_or(0);
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

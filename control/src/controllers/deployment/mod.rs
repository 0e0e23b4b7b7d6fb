//! Deployment: moves Pods from one template to the next through ReplicaSets (apps/v1 Deployment).
//!
//! Flow: a change of a Deployment or of one of its ReplicaSets queues the Deployment; its reconcile finds the ReplicaSet
//! of the current template and takes one step (create, grow, shrink, scale in proportion, clean up), then writes the
//! status. Every write is bound to the version it was decided on, so a stale cache costs a retry, never a wrong step.
mod handlers;
mod new_set;
mod progress;
mod proportional;
mod resize;
mod revision;
mod rolling;
mod rollout;
mod spec;

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use kube::{Client, ResourceExt};

use super::adoption::Adopter;
use super::context::{BY_OWNER, Context, Watches, own_and_orphans};
use crate::toolkit::selectors::Labels;
use crate::toolkit::{ObjectKey, Objects, Outcome, Queue, Recorder, StepError, Steps, patch, pods, work};
use new_set::Create;
use rollout::Rollout;
use spec::Strategy;

/// Deployments reconciled at once (upstream's default).
const WORKERS: usize = 5;

/// Registers for changes and returns the future that does the work.
pub fn start(context: &Context) -> BoxFuture<'static, ()> {
    let controller = Arc::new(Controller {
        client: context.client.clone(),
        watches: context.watches.clone(),
        events: context.events.recorder("deployment-controller"),
        queue: Arc::new(Queue::new()),
    });
    handlers::register(&controller);
    let queue = controller.queue.clone();
    let shutdown = context.shutdown.clone();
    work(
        "deployment",
        queue,
        WORKERS,
        shutdown,
        controller,
        |controller, key| controller.reconcile(key).boxed(),
    )
}

struct Controller {
    client: Client,
    watches: Arc<Watches>,
    events: Recorder,
    queue: Arc<Queue<ObjectKey>>,
}

impl Controller {
    async fn reconcile(&self, key: ObjectKey) -> Result<Outcome, StepError> {
        let Some(deployment) = self.watches.deployments.get(&key) else {
            return Ok(Outcome::Done);
        };
        let selector = Labels::new(&spec::of(&deployment).selector);
        if selector.selects_all() {
            let complaint = "This deployment is selecting all pods. A non-empty selector is required.";
            self.events
                .warning(deployment.as_ref(), "SelectingAll", complaint);
            return self.observe_only(&deployment).await;
        }
        let sets = self.claim(&deployment, &selector).await?;
        let mut rollout = Rollout::observe(&deployment, sets);
        if deployment.metadata.deletion_timestamp.is_some() {
            return self.write_counts(&rollout).await;
        }
        progress::note_pause(&deployment, &mut rollout.status, Timestamp::now());
        if spec::paused(&deployment) || rollout.is_being_scaled() {
            self.scale(&mut rollout).await?;
            return self.write_counts(&rollout).await;
        }
        match spec::strategy(&deployment) {
            Strategy::RollingUpdate => self.roll(&mut rollout).await?,
            Strategy::Recreate => self.recreate(&mut rollout).await?,
        }
        self.write_progress(&rollout).await
    }

    async fn claim(
        &self,
        deployment: &Deployment,
        selector: &Labels,
    ) -> Result<Vec<Arc<ReplicaSet>>, StepError> {
        let namespace = deployment.namespace().unwrap_or_default();
        let uid = deployment.uid().unwrap_or_default();
        let candidates = own_and_orphans(&self.watches.replica_sets, &uid, &namespace);
        let adopter = Adopter {
            owner: deployment,
            owners: self.deployments(deployment),
            children: self.sets(deployment),
        };
        adopter.claim(selector, candidates).await
    }

    /// Paused or changed in size: sizes follow, the rollout itself stands still.
    async fn scale(&self, rollout: &mut Rollout) -> Result<(), StepError> {
        self.sync_new_set(rollout, Create::No).await?;
        let plan = proportional::plan(&rollout.deployment, rollout.new_set(), &rollout.old());
        self.resize_all(rollout, plan).await?;
        self.note_sizes(rollout).await?;
        if spec::paused(&rollout.deployment) {
            self.clean_up(rollout).await?;
        }
        Ok(())
    }

    async fn roll(&self, rollout: &mut Rollout) -> Result<(), StepError> {
        self.sync_new_set(rollout, Create::Yes).await?;
        let Some(new) = rollout.new_set() else {
            return Ok(());
        };
        let wanted = rolling::new_size(&rollout.deployment, &rollout.all(), spec::size(new));
        if wanted != spec::size(new) {
            let grow = vec![(new.name_any(), wanted)];
            return self.resize_all(rollout, grow).await;
        }
        let shrink = rolling::shrink_old(&rollout.deployment, new, &rollout.old());
        if !shrink.is_empty() {
            return self.resize_all(rollout, shrink).await;
        }
        self.clean_up_when_complete(rollout).await
    }

    async fn recreate(&self, rollout: &mut Rollout) -> Result<(), StepError> {
        self.sync_new_set(rollout, Create::No).await?;
        let running = rollout.old().into_iter().filter(|set| spec::size(set) > 0);
        let stop: Vec<rolling::Resize> = running.map(|set| (set.name_any(), 0)).collect();
        if !stop.is_empty() {
            return self.resize_all(rollout, stop).await;
        }
        if self.old_pods_run(rollout) {
            return Ok(());
        }
        if rollout.new_set().is_none() {
            self.sync_new_set(rollout, Create::Yes).await?;
        }
        let Some(new) = rollout.new_set() else {
            return Ok(());
        };
        let desired = spec::replicas(&rollout.deployment);
        if spec::size(new) != desired {
            let grow = vec![(new.name_any(), desired)];
            self.resize_all(rollout, grow).await?;
        }
        self.clean_up_when_complete(rollout).await
    }

    fn old_pods_run(&self, rollout: &Rollout) -> bool {
        rollout.old().iter().any(|set| {
            let pods = self
                .watches
                .pods
                .indexed(BY_OWNER, &set.uid().unwrap_or_default());
            spec::actual(set) > 0 || pods.iter().any(|pod| !pods::is_terminal(pod))
        })
    }

    async fn clean_up_when_complete(&self, rollout: &Rollout) -> Result<(), StepError> {
        let status = rollout.deployment.status.clone().unwrap_or_default();
        match progress::is_complete(&rollout.deployment, &status) {
            true => self.clean_up(rollout).await,
            false => Ok(()),
        }
    }

    async fn observe_only(&self, deployment: &Deployment) -> Result<Outcome, StepError> {
        let mut status = deployment.status.clone().unwrap_or_default();
        status.observed_generation = deployment.metadata.generation;
        self.write_status(deployment, &status).await?;
        Ok(Outcome::Done)
    }

    async fn write_counts(&self, rollout: &Rollout) -> Result<Outcome, StepError> {
        let now = Timestamp::now();
        let status = progress::calculate(
            &rollout.deployment,
            &rollout.status,
            &rollout.all(),
            rollout.new_set(),
            now,
        );
        self.write_status(&rollout.deployment, &status).await?;
        Ok(Outcome::Done)
    }

    async fn write_progress(&self, rollout: &Rollout) -> Result<Outcome, StepError> {
        let (deployment, now) = (&rollout.deployment, Timestamp::now());
        let (all, new) = (rollout.all(), rollout.new_set());
        let mut status = progress::calculate(deployment, &rollout.status, &all, new, now);
        let counts = DeploymentStatus {
            conditions: rollout.status.conditions.clone(),
            ..deployment.status.clone().unwrap_or_default()
        };
        progress::judge(deployment, &counts, &mut status, &all, new, now);
        self.write_status(deployment, &status).await?;
        Ok(progress::look_again_in(deployment, &status, now).map_or(Outcome::Done, Outcome::After))
    }

    async fn write_status(
        &self,
        deployment: &Deployment,
        status: &DeploymentStatus,
    ) -> Result<(), StepError> {
        let before = deployment.status.clone().unwrap_or_default();
        let Some(patch) = patch::versioned(&deployment.metadata, "status", &before, status) else {
            return Ok(());
        };
        let name = deployment.name_any();
        self.deployments(deployment)
            .merge_status(&name, patch)
            .await
            .step_opt(|| format!("write the status of Deployment {name}"))
            .map(drop)
    }

    fn deployments(&self, deployment: &Deployment) -> Objects<Deployment> {
        Objects::in_namespace(&self.client, &deployment.namespace().unwrap_or_default())
    }

    fn sets(&self, deployment: &Deployment) -> Objects<ReplicaSet> {
        Objects::in_namespace(&self.client, &deployment.namespace().unwrap_or_default())
    }
}

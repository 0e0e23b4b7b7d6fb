//! Sees to it that the current template has a ReplicaSet with the right revision.
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;
use kube::ResourceExt;
use serde_json::json;

use super::rollout::Rollout;
use super::{Controller, progress, revision, rolling, spec};
use crate::toolkit::{StepError, Steps, owners, patch};

/// Whether a missing ReplicaSet is made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Create {
    Yes,
    No,
}

impl Controller {
    pub(super) async fn sync_new_set(&self, rollout: &mut Rollout, create: Create) -> Result<(), StepError> {
        let last = rollout
            .old()
            .iter()
            .map(|set| revision::revision(&set.metadata))
            .max()
            .unwrap_or(0);
        match (rollout.new_set().cloned(), create) {
            (Some(existing), _) => self.refresh(rollout, &existing, last + 1).await,
            (None, Create::Yes) => self.create(rollout, last + 1).await,
            (None, Create::No) => Ok(()),
        }
    }

    /// Brings annotations and minReadySeconds of the existing ReplicaSet up to date.
    async fn refresh(&self, rollout: &mut Rollout, set: &ReplicaSet, next: i64) -> Result<(), StepError> {
        let wanted = revision::annotations(&rollout.deployment, set, next);
        let min_ready = spec::of(&rollout.deployment).min_ready_seconds.unwrap_or(0);
        let has_min_ready = set
            .spec
            .as_ref()
            .and_then(|spec| spec.min_ready_seconds)
            .unwrap_or(0);
        let name = set.name_any();
        let mut current = set.metadata.clone();
        if set.annotations() != &wanted || has_min_ready != min_ready {
            let body = json!({"metadata": {"annotations": wanted}, "spec": {"minReadySeconds": min_ready}});
            let body = patch::guarded(&set.metadata, body);
            let updated = self.sets(&rollout.deployment).merge(&name, body).await;
            let updated = updated.step(|| format!("update ReplicaSet {name}"))?;
            current = updated.metadata.clone();
            rollout.update(updated);
        }
        self.write_revision(rollout, revision::revision(&current)).await?;
        let judged = progress::find(&rollout.status, progress::PROGRESSING).is_some();
        if !judged && spec::progress_deadline(&rollout.deployment).is_some() {
            note(
                rollout,
                "FoundNewReplicaSet",
                format!("Found new replica set {name:?}"),
            );
        }
        Ok(())
    }

    async fn create(&self, rollout: &mut Rollout, next: i64) -> Result<(), StepError> {
        let mut set = revision::new_set(&rollout.deployment, next);
        let size = rolling::new_size(&rollout.deployment, &rollout.all(), 0);
        set.spec.get_or_insert_default().replicas = Some(size);
        let name = set.name_any();
        let created = self.sets(&rollout.deployment).create(&set).await;
        match created.step(|| format!("create ReplicaSet {name}")) {
            Ok(created) => {
                rollout.add_new(created);
                if size > 0 {
                    let message = format!("Scaled up replica set {name} from 0 to {size}");
                    self.events
                        .normal(&rollout.deployment, "ScalingReplicaSet", message);
                }
                self.write_revision(rollout, next).await?;
                if spec::progress_deadline(&rollout.deployment).is_some() {
                    note(
                        rollout,
                        "NewReplicaSetCreated",
                        format!("Created new replica set {name:?}"),
                    );
                }
                Ok(())
            }
            Err(error) if error.is_already_exists() => self.meet_existing(rollout, &name, error).await,
            Err(error) => self.report_refusal(rollout, &name, error).await,
        }
    }

    /// The name is taken: by our own ReplicaSet that the cache does not show yet, or by a collision of hashes.
    async fn meet_existing(
        &self,
        rollout: &mut Rollout,
        name: &str,
        error: StepError,
    ) -> Result<(), StepError> {
        let existing = self.sets(&rollout.deployment).get_opt(name).await;
        let Some(existing) = existing.step(|| format!("read ReplicaSet {name}"))? else {
            return Err(error);
        };
        let owner = owners::controller_uid(&existing);
        if owner == rollout.deployment.uid() && revision::has_template_of(&existing, &rollout.deployment) {
            let revision = revision::revision(&existing.metadata);
            rollout.add_new(existing);
            return self.write_revision(rollout, revision).await;
        }
        let collisions = rollout.status.collision_count.unwrap_or(0);
        rollout.status.collision_count = Some(collisions + 1);
        self.write_status(&rollout.deployment, &rollout.status).await?;
        Err(error)
    }

    async fn report_refusal(
        &self,
        rollout: &mut Rollout,
        name: &str,
        error: StepError,
    ) -> Result<(), StepError> {
        if error.is_namespace_terminating() {
            return Err(error);
        }
        let message = format!("Failed to create new replica set {name:?}: {}", error.message());
        self.events
            .warning(&rollout.deployment, "FailedCreate", message.clone());
        if spec::progress_deadline(&rollout.deployment).is_some() {
            let now = Timestamp::now();
            let failed = progress::condition(
                progress::PROGRESSING,
                "False",
                "ReplicaSetCreateError",
                message,
                now,
            );
            progress::set(&mut rollout.status, failed);
            self.write_status(&rollout.deployment, &rollout.status).await?;
        }
        Err(error)
    }

    /// Records the revision on the Deployment, where `kubectl rollout` reads it. Through `status`, as upstream does: the
    /// generation counts what users ask for, not this.
    async fn write_revision(&self, rollout: &mut Rollout, revision: i64) -> Result<(), StepError> {
        if revision == 0 || revision::revision(&rollout.deployment.metadata) == revision {
            return Ok(());
        }
        let body = json!({"metadata": {"annotations": {revision::REVISION: revision.to_string()}}});
        let body = patch::guarded(&rollout.deployment.metadata, body);
        let name = rollout.deployment.name_any();
        let updated = self
            .deployments(&rollout.deployment)
            .merge_status(&name, body)
            .await;
        rollout.deployment.metadata = updated
            .step(|| format!("write the revision of Deployment {name}"))?
            .metadata;
        Ok(())
    }
}

fn note(rollout: &mut Rollout, reason: &str, message: String) {
    let condition = progress::condition(progress::PROGRESSING, "True", reason, message, Timestamp::now());
    progress::set(&mut rollout.status, condition);
}

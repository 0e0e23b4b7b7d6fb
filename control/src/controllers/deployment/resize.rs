//! Writes sizes of ReplicaSets and deletes those no longer needed.
use k8s_openapi::api::apps::v1::ReplicaSet;
use kube::ResourceExt;
use kube::api::{DeleteParams, Preconditions};
use serde_json::json;

use super::rolling::Resize;
use super::rollout::Rollout;
use super::{Controller, revision, spec};
use crate::toolkit::{StepError, Steps, patch};

impl Controller {
    pub(super) async fn resize_all(&self, rollout: &mut Rollout, plan: Vec<Resize>) -> Result<(), StepError> {
        for (name, size) in plan {
            let Some(set) = rollout.find(&name) else { continue };
            let from = spec::size(&set);
            self.write_size(rollout, &set, size).await?;
            let direction = if size > from { "up" } else { "down" };
            let message = format!("Scaled {direction} replica set {name} from {from} to {size}");
            self.events
                .normal(&rollout.deployment, "ScalingReplicaSet", message);
        }
        Ok(())
    }

    /// Lets every ReplicaSet with Pods know the Deployment's new size, also where its own stays.
    pub(super) async fn note_sizes(&self, rollout: &mut Rollout) -> Result<(), StepError> {
        let wanted = revision::size_annotations(&rollout.deployment);
        let names: Vec<String> = rollout
            .all()
            .into_iter()
            .filter(|set| {
                spec::size(set) > 0
                    && !wanted
                        .iter()
                        .all(|(key, value)| set.annotations().get(key) == Some(value))
            })
            .map(|set| set.name_any())
            .collect();
        for name in names {
            let Some(set) = rollout.find(&name) else { continue };
            self.write_size(rollout, &set, spec::size(&set)).await?;
        }
        Ok(())
    }

    async fn write_size(&self, rollout: &mut Rollout, set: &ReplicaSet, size: i32) -> Result<(), StepError> {
        let annotations = revision::size_annotations(&rollout.deployment);
        let body = json!({"metadata": {"annotations": annotations}, "spec": {"replicas": size}});
        let body = patch::guarded(&set.metadata, body);
        let name = set.name_any();
        let updated = self.sets(&rollout.deployment).merge(&name, body).await;
        rollout.update(updated.step(|| format!("scale ReplicaSet {name} to {size}"))?);
        Ok(())
    }

    pub(super) async fn clean_up(&self, rollout: &Rollout) -> Result<(), StepError> {
        for set in revision::superfluous(&rollout.deployment, &rollout.old()) {
            let name = set.name_any();
            let this_one = Preconditions {
                uid: set.uid(),
                resource_version: set.resource_version(),
            };
            let params = DeleteParams::default().preconditions(this_one);
            let deleted = self.sets(&rollout.deployment).delete(&name, &params).await;
            deleted.step_opt(|| format!("delete the old ReplicaSet {name}"))?;
        }
        Ok(())
    }
}

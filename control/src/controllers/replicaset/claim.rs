//! Brings the Pods' controller references in line with the selector: adopts orphans, releases strangers.
use std::sync::Arc;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::Controller;
use super::handlers::selector;
use crate::controllers::context::{BY_OWNER, orphans_in};
use crate::toolkit::owners::{Claim, claim, controller_reference};
use crate::toolkit::{StepError, Steps, patch, pods};

impl Controller {
    /// All Pods that belong to `set` after adoption and release, dying ones included, finished ones not.
    pub(super) async fn claim(&self, set: &ReplicaSet) -> Result<Vec<Arc<Pod>>, StepError> {
        let Some(selector) = selector(set) else {
            return Ok(Vec::new());
        };
        let mut claimed = Vec::new();
        for pod in self.candidates(set) {
            match claim(&set.metadata, &pod.metadata, selector.matches(&pod.metadata)) {
                Claim::Keep => claimed.push(pod),
                Claim::Adopt => claimed.extend(self.adopt(set, &pod).await?),
                Claim::Release => self.release(set, &pod).await?,
                Claim::Ignore => {}
            }
        }
        Ok(claimed)
    }

    fn candidates(&self, set: &ReplicaSet) -> Vec<Arc<Pod>> {
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
        candidates
    }

    /// Takes an orphan, unless the ReplicaSet itself turns out to be gone or dying.
    async fn adopt(&self, set: &ReplicaSet, pod: &Pod) -> Result<Option<Arc<Pod>>, StepError> {
        let name = set.name_any();
        let live = self
            .sets(set)
            .get_opt(&name)
            .await
            .step(|| format!("read ReplicaSet {name} before adopting"))?;
        let ours = |live: &ReplicaSet| live.uid() == set.uid() && live.metadata.deletion_timestamp.is_none();
        if !live.as_ref().is_some_and(ours) {
            return Ok(None);
        }
        let mut owners = pod.owner_references().to_vec();
        owners.push(controller_reference(set));
        let adopted = self
            .write_owners(set, pod, json!(owners))
            .await
            .step_opt(|| format!("adopt {}", pod.name_any()))?;
        Ok(adopted.map(Arc::new))
    }

    async fn release(&self, set: &ReplicaSet, pod: &Pod) -> Result<(), StepError> {
        let mut owners = pod.owner_references().to_vec();
        owners.retain(|owner| Some(&owner.uid) != set.metadata.uid.as_ref());
        self.write_owners(set, pod, json!(owners))
            .await
            .step_opt(|| format!("release {}", pod.name_any()))
            .map(drop)
    }

    async fn write_owners(
        &self,
        set: &ReplicaSet,
        pod: &Pod,
        owners: serde_json::Value,
    ) -> Result<Pod, kube::Error> {
        let body = patch::guarded(&pod.metadata, json!({"metadata": {"ownerReferences": owners}}));
        self.pods(set)
            .patch(&pod.name_any(), &PatchParams::default(), &Patch::Merge(body))
            .await
    }
}

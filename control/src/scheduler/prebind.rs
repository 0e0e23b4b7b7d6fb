//! Before a Pod is bound its claims are: what was decided is written, and then waited for (upstream's PreBind of
//! VolumeBinding).
use std::collections::HashSet;
use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::ResourceExt;
use serde_json::json;
use tokio::time::{Instant, timeout_at};

use super::Scheduler;
use super::volumes::Step;
use crate::toolkit::{ObjectKey, Objects, Pod, StepError, Steps, claims, patch};

/// How long volumes may take to be made and bound (upstream's `bindTimeoutSeconds`).
const LIMIT: Duration = Duration::from_secs(600);

/// Why a Pod's claims were not bound.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    #[error(transparent)]
    Api(#[from] StepError),
    #[error("running PreBind plugin \"VolumeBinding\": binding volumes: {0}")]
    Binding(String),
    #[error("running PreBind plugin \"VolumeBinding\": binding volumes: context deadline exceeded")]
    Late,
}

impl Scheduler {
    /// Carries out the steps and waits until all their claims are bound.
    pub(super) async fn bind_claims(&self, pod: &Pod, node: &str, steps: &[Step]) -> Result<(), Trouble> {
        for step in steps {
            match step {
                Step::Give { volume, claim } => self.give(volume, claim).await?,
                Step::Make { claim } => self.ask_for(claim, node).await?,
            }
        }
        let deadline = Instant::now() + LIMIT;
        let mut asked = HashSet::new();
        loop {
            // Registered before looking, so that no change is missed.
            let mut changed = std::pin::pin!(self.storage_changed.notified());
            changed.as_mut().enable();
            if self.are_bound(pod, node, steps, &mut asked)? {
                return Ok(());
            }
            timeout_at(deadline, changed).await.map_err(|_| Trouble::Late)?;
        }
    }

    async fn give(&self, volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Result<(), StepError> {
        let reference = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": claim.namespace(),
            "name": claim.name_any(), "uid": claim.uid(), "resourceVersion": claim.resource_version()});
        let mut change = json!({"spec": {"claimRef": reference}});
        if !claims::is_for(volume, claim) {
            change["metadata"] = json!({"annotations": {claims::BOUND_BY_CONTROLLER: "yes"}});
        }
        let name = volume.name_any();
        let api: Objects<PersistentVolume> = Objects::all(&self.client);
        let written = api.merge(&name, patch::guarded(&volume.metadata, change)).await;
        written
            .step(|| format!("give volume {name} to claim {}", claim.name_any()))
            .map(drop)
    }

    async fn ask_for(&self, claim: &PersistentVolumeClaim, node: &str) -> Result<(), StepError> {
        if claim
            .annotations()
            .get(claims::SELECTED_NODE)
            .is_some_and(|chosen| chosen == node)
        {
            return Ok(());
        }
        let name = claim.name_any();
        let api: Objects<PersistentVolumeClaim> =
            Objects::in_namespace(&self.client, &claim.namespace().unwrap_or_default());
        let change = json!({"metadata": {"annotations": {claims::SELECTED_NODE: node}}});
        let written = api.merge(&name, patch::guarded(&claim.metadata, change)).await;
        written
            .step(|| format!("choose node {node} for claim {name}"))
            .map(drop)
    }

    /// `asked` are the claims that were seen with the chosen node; one that loses it again has no volume to come.
    fn are_bound(
        &self,
        pod: &Pod,
        node: &str,
        steps: &[Step],
        asked: &mut HashSet<String>,
    ) -> Result<bool, Trouble> {
        let trouble = |text: String| Err(Trouble::Binding(text));
        if self
            .pods
            .get(&ObjectKey::of(pod))
            .is_none_or(|now| now.uid() != pod.uid())
        {
            return trouble("pod does not exist any more".to_owned());
        }
        let mut all = true;
        for step in steps {
            let name = step.claim().name_any();
            let claim = self.storage.claims.get(&ObjectKey::of(step.claim().as_ref()));
            let Some(claim) = claim.filter(|now| now.uid() == step.claim().uid()) else {
                return trouble(format!("persistentvolumeclaim {name:?} does not exist any more"));
            };
            let chosen = claim.annotations().get(claims::SELECTED_NODE);
            match (step, chosen) {
                (Step::Make { .. }, Some(chosen)) if chosen == node => {
                    asked.insert(name.clone());
                }
                (Step::Make { .. }, _) if asked.contains(&name) => {
                    return trouble(format!("selectedNode annotation reset for PVC {name:?}"));
                }
                _ => {}
            }
            all &= claims::is_bound(&claim);
        }
        Ok(all)
    }
}

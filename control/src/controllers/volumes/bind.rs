//! Writes of the binding: each of its steps may have been done before, and is done again only if it was not.
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::ResourceExt;
use serde_json::{Value, json};

use super::{Binder, local_path};
use crate::toolkit::{Objects, StepError, Steps, claims, patch};

impl Binder {
    /// Volume refers to claim, volume is Bound, claim refers to volume, claim is Bound.
    pub(super) async fn bind(
        &self,
        claim: &PersistentVolumeClaim,
        volume: &PersistentVolume,
    ) -> Result<(), StepError> {
        let volume = self.give(volume, claim).await?;
        let volume = self.phase(&volume, "Bound", "").await?;
        let claim = self.take(claim, &volume).await?;
        let volume = self.grow(&claim, volume).await?;
        self.status(&claim, "Bound", Some(&volume)).await
    }

    async fn give(
        &self,
        volume: &PersistentVolume,
        claim: &PersistentVolumeClaim,
    ) -> Result<PersistentVolume, StepError> {
        let holder = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
        if holder.is_some_and(|holder| holder.uid == claim.uid()) {
            return Ok(volume.clone());
        }
        let mut change = json!({"spec": {"claimRef": reference(claim)}});
        if !claims::is_for(volume, claim) {
            change["metadata"] = json!({"annotations": {claims::BOUND_BY_CONTROLLER: "yes"}});
        }
        self.change_volume(volume, change).await
    }

    async fn take(
        &self,
        claim: &PersistentVolumeClaim,
        volume: &PersistentVolume,
    ) -> Result<PersistentVolumeClaim, StepError> {
        if claims::is_bound(claim) {
            return Ok(claim.clone());
        }
        let mut annotations = json!({claims::BIND_COMPLETED: "yes"});
        if claims::volume_name(claim).is_empty() {
            annotations[claims::BOUND_BY_CONTROLLER] = "yes".into();
        }
        let change =
            json!({"metadata": {"annotations": annotations}, "spec": {"volumeName": volume.name_any()}});
        self.change_claim(claim, change).await
    }

    /// A directory has no size: a claim that asks for more has it as soon as its volume says so.
    async fn grow(
        &self,
        claim: &PersistentVolumeClaim,
        volume: PersistentVolume,
    ) -> Result<PersistentVolume, StepError> {
        let wanted = claims::requested(claim);
        if !local_path::made(&volume) {
            if wanted > claims::capacity(&volume) {
                let text = "waiting for an external controller to expand this PVC";
                self.events.normal(claim, "ExternalExpanding", text);
            }
            return Ok(volume);
        }
        let volume = match wanted > claims::capacity(&volume) {
            true => self.enlarge(claim, &volume).await?,
            false => volume,
        };
        let has = claims::has(claim);
        if has > 0 && has < claims::capacity(&volume) {
            let capacity = volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref());
            self.write_status(claim, json!({"capacity": capacity})).await?;
            self.events
                .normal(claim, "VolumeResizeSuccessful", "Resize volume succeeded");
        }
        Ok(volume)
    }

    async fn enlarge(
        &self,
        claim: &PersistentVolumeClaim,
        volume: &PersistentVolume,
    ) -> Result<PersistentVolume, StepError> {
        let text = format!("External resizer is resizing volume {}", volume.name_any());
        self.events.normal(claim, "Resizing", text);
        let spec = claim.spec.as_ref();
        let wanted = spec.and_then(|spec| spec.resources.as_ref()?.requests.as_ref()?.get("storage"));
        let larger = json!({"spec": {"capacity": {"storage": wanted}}});
        self.change_volume(volume, larger).await
    }

    /// The claim's phase; with a volume what it has of that, without none of it.
    pub(super) async fn status(
        &self,
        claim: &PersistentVolumeClaim,
        phase: &str,
        volume: Option<&PersistentVolume>,
    ) -> Result<(), StepError> {
        let status = claim.status.clone().unwrap_or_default();
        if status.phase.as_deref() == Some(phase) {
            return Ok(());
        }
        let spec = volume.and_then(|volume| volume.spec.as_ref());
        let change = json!({
            "phase": phase,
            "accessModes": spec.and_then(|spec| spec.access_modes.as_ref()),
            "capacity": spec.and_then(|spec| spec.capacity.as_ref()),
        });
        self.write_status(claim, change).await
    }

    async fn write_status(&self, claim: &PersistentVolumeClaim, status: Value) -> Result<(), StepError> {
        let name = claim.name_any();
        let api: Objects<PersistentVolumeClaim> =
            Objects::in_namespace(&self.context.client, &claim.namespace().unwrap_or_default());
        // By uid alone: status follows spec, and who wrote the spec a moment ago was this controller.
        let body = json!({"metadata": {"uid": claim.uid()}, "status": status});
        let written = api.merge_status(&name, body).await;
        written
            .step_opt(|| format!("write the status of claim {name}"))
            .map(drop)
    }

    pub(super) async fn phase(
        &self,
        volume: &PersistentVolume,
        phase: &str,
        message: &str,
    ) -> Result<PersistentVolume, StepError> {
        let status = volume.status.clone().unwrap_or_default();
        let same = status.message.as_deref().unwrap_or_default() == message;
        if status.phase.as_deref() == Some(phase) && same {
            return Ok(volume.clone());
        }
        let name = volume.name_any();
        let message = (!message.is_empty()).then_some(message);
        let body = patch::guarded(
            &volume.metadata,
            json!({"status": {"phase": phase, "message": message}}),
        );
        let api: Objects<PersistentVolume> = Objects::all(&self.context.client);
        let written = api.merge_status(&name, body).await;
        written.step(|| format!("write the phase of volume {name}"))
    }

    pub(super) async fn change_volume(
        &self,
        volume: &PersistentVolume,
        change: Value,
    ) -> Result<PersistentVolume, StepError> {
        let api: Objects<PersistentVolume> = Objects::all(&self.context.client);
        let name = volume.name_any();
        let body = patch::guarded(&volume.metadata, change);
        api.merge(&name, body)
            .await
            .step(|| format!("change volume {name}"))
    }

    pub(super) async fn change_claim(
        &self,
        claim: &PersistentVolumeClaim,
        change: Value,
    ) -> Result<PersistentVolumeClaim, StepError> {
        let namespace = claim.namespace().unwrap_or_default();
        let api: Objects<PersistentVolumeClaim> = Objects::in_namespace(&self.context.client, &namespace);
        let name = claim.name_any();
        let body = patch::guarded(&claim.metadata, change);
        api.merge(&name, body)
            .await
            .step(|| format!("change claim {namespace}/{name}"))
    }
}

/// What a volume says of its claim.
pub fn reference(claim: &PersistentVolumeClaim) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "namespace": claim.namespace(), "name": claim.name_any(),
        "uid": claim.uid(), "resourceVersion": claim.resource_version(),
    })
}

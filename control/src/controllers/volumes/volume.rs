//! What is due for a volume: its phase, and its end when nobody claims it any more.
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::ResourceExt;
use serde_json::json;

use super::{Binder, key_of, local_path};
use crate::toolkit::{ObjectKey, Objects, Outcome, StepError, Steps, claims};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nobody has it, or somebody may have it by name.
    Available,
    Bound,
    /// Its claim does not refer to it yet.
    Tell,
    /// Its claim has another: made by hand it stays reserved by name, else it is free.
    Unbind {
        keep_name: bool,
    },
    /// Its claim is gone.
    Release,
    /// The two do not go together.
    Mismatch,
}

/// Upstream's `syncVolume`; `claim` is the one that the volume names, if there is one of that name.
pub fn decide(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> Decision {
    let spec = volume.spec.as_ref();
    let Some(reference) = spec.and_then(|spec| spec.claim_ref.as_ref()) else {
        return Decision::Available;
    };
    if reference.uid.as_deref().unwrap_or_default().is_empty() {
        return Decision::Available;
    }
    let Some(claim) = claim.filter(|claim| claim.uid() == reference.uid) else {
        return Decision::Release;
    };
    let named = claims::volume_name(claim);
    let made = claims::has_mark(volume.annotations(), claims::PROVISIONED_BY);
    let deleted = spec.and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref()) == Some("Delete");
    match named {
        "" if !claims::same_mode(volume, claim) => Decision::Mismatch,
        "" => Decision::Tell,
        _ if named == volume.name_any() => Decision::Bound,
        _ if made && deleted => Decision::Release,
        _ => Decision::Unbind {
            keep_name: !claims::has_mark(volume.annotations(), claims::BOUND_BY_CONTROLLER),
        },
    }
}

impl Binder {
    pub(super) async fn reconcile_volume(&self, name: String) -> Result<Outcome, StepError> {
        let watches = &self.context.watches;
        let Some(volume) = watches.volumes.get(&ObjectKey::cluster(&name)) else {
            return Ok(Outcome::Done);
        };
        let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
        let claim = match reference {
            Some(reference) => self.current(&key_of(reference), reference.uid.as_deref()).await?,
            None => None,
        };
        match decide(&volume, claim.as_ref()) {
            Decision::Available => self.phase(&volume, "Available", "").await.map(drop)?,
            Decision::Bound => self.phase(&volume, "Bound", "").await.map(drop)?,
            Decision::Tell => reference.into_iter().for_each(|r| self.claims.add(key_of(r))),
            Decision::Unbind { keep_name } => self.unbind(&volume, keep_name).await?,
            Decision::Mismatch => self.complain(&volume, claim.as_ref()),
            Decision::Release => return self.release(&volume).await,
        }
        Ok(Outcome::Done)
    }

    /// The claim as it is: one that the cache does not have is asked for, since a volume's data hangs on it.
    async fn current(
        &self,
        key: &ObjectKey,
        uid: Option<&str>,
    ) -> Result<Option<PersistentVolumeClaim>, StepError> {
        let cached = self.context.watches.claims.get(key);
        if let Some(claim) = cached.filter(|claim| claim.uid().as_deref() == uid) {
            return Ok(Some(claim.as_ref().clone()));
        }
        let api: Objects<PersistentVolumeClaim> = Objects::in_namespace(&self.context.client, &key.namespace);
        api.get_opt(&key.name)
            .await
            .step(|| format!("look for claim {key}"))
    }

    async fn unbind(&self, volume: &PersistentVolume, keep_name: bool) -> Result<(), StepError> {
        let change = match keep_name {
            true => json!({"spec": {"claimRef": {"uid": null, "resourceVersion": null}}}),
            false => json!({"spec": {"claimRef": null},
                "metadata": {"annotations": {claims::BOUND_BY_CONTROLLER: null}}}),
        };
        let volume = self.change_volume(volume, change).await?;
        self.phase(&volume, "Available", "").await.map(drop)
    }

    fn complain(&self, volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) {
        let Some(claim) = claim else { return };
        let (of_claim, of_volume) = (claim.name_any(), volume.name_any());
        self.events.warning(
            volume,
            "VolumeMismatch",
            format!("Cannot bind PersistentVolume to requested PersistentVolumeClaim {of_claim:?} due to incompatible volumeMode."),
        );
        self.events.warning(
            claim,
            "VolumeMismatch",
            format!("Cannot bind PersistentVolume {of_volume:?} to requested PersistentVolumeClaim due to incompatible volumeMode."),
        );
    }

    /// Released, and then what its policy says. A volume that failed keeps saying so.
    async fn release(&self, volume: &PersistentVolume) -> Result<Outcome, StepError> {
        let volume = match claims::phase_of_volume(volume) {
            "Released" | "Failed" => volume.clone(),
            _ => self.phase(volume, "Released", "").await?,
        };
        let policy = volume
            .spec
            .as_ref()
            .and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
        let made = claims::has_mark(volume.annotations(), claims::PROVISIONED_BY);
        match policy {
            Some("Delete") if local_path::made(&volume) => return self.remove(&volume).await,
            // Somebody else's: that provisioner looks at the phase.
            Some("Delete") if made || is_csi(&volume) => {}
            Some("Delete") => {
                let name = volume.name_any();
                let text = format!(
                    "error getting deleter volume plugin for volume {name:?}: no deletable volume plugin matched"
                );
                self.fail(&volume, "VolumeFailedDelete", &text).await?;
            }
            Some("Recycle") => {
                let text = "No recycler plugin found for the volume!";
                self.fail(&volume, "VolumeFailedRecycle", text).await?;
            }
            _ => {}
        }
        Ok(Outcome::Done)
    }

    pub(super) async fn fail(
        &self,
        volume: &PersistentVolume,
        reason: &str,
        message: &str,
    ) -> Result<(), StepError> {
        if claims::phase_of_volume(volume) != "Failed" {
            self.events.warning(volume, reason, message);
        }
        self.phase(volume, "Failed", message).await.map(drop)
    }
}

fn is_csi(volume: &PersistentVolume) -> bool {
    volume.spec.as_ref().is_some_and(|spec| spec.csi.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn what_is_due_for_a_volume() {
        let volume = |more: Value| {
            let mut volume =
                json!({"metadata": {"name": "v"}, "spec": {"persistentVolumeReclaimPolicy": "Delete"}});
            json_patch::merge(&mut volume, &more);
            serde_json::from_value::<PersistentVolume>(volume).expect("a volume")
        };
        let claim = |more: Value| {
            let mut claim = json!({"metadata": {"name": "c", "namespace": "n", "uid": "u"}, "spec": {}});
            json_patch::merge(&mut claim, &more);
            serde_json::from_value::<PersistentVolumeClaim>(claim).expect("a claim")
        };
        let held = json!({"spec": {"claimRef": {"name": "c", "namespace": "n", "uid": "u"}}});
        let with = |annotation: &str| {
            let mut volume = held.clone();
            volume["metadata"] = json!({"annotations": {annotation: "yes"}});
            volume
        };
        let elsewhere = json!({"spec": {"volumeName": "other"}});
        let cases = [
            (json!({}), None, Decision::Available),
            (
                json!({"spec": {"claimRef": {"name": "c", "namespace": "n"}}}),
                None,
                Decision::Available,
            ),
            (held.clone(), None, Decision::Release),
            (
                held.clone(),
                Some(json!({"metadata": {"uid": "later"}})),
                Decision::Release,
            ),
            (held.clone(), Some(json!({})), Decision::Tell),
            (
                held.clone(),
                Some(json!({"spec": {"volumeMode": "Block"}})),
                Decision::Mismatch,
            ),
            (
                held.clone(),
                Some(json!({"spec": {"volumeName": "v"}})),
                Decision::Bound,
            ),
            (
                held.clone(),
                Some(elsewhere.clone()),
                Decision::Unbind { keep_name: true },
            ),
            (
                with(claims::BOUND_BY_CONTROLLER),
                Some(elsewhere.clone()),
                Decision::Unbind { keep_name: false },
            ),
            (with(claims::PROVISIONED_BY), Some(elsewhere), Decision::Release),
        ];
        for (of_volume, of_claim, expected) in cases {
            let found = of_claim.clone().map(claim);
            let decision = decide(&volume(of_volume.clone()), found.as_ref());
            assert_eq!(decision, expected, "{of_volume} {of_claim:?}");
        }
    }
}

//! From a Pod's volume to the PersistentVolume behind its claim. Asks for claim and volume by name, as a node may; refuses
//! what is not bound to one another.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use kube::{Api, Client, ResourceExt};

/// Why a claim's volume cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    #[error("failed to fetch {kind} {name}: {source}")]
    Fetch {
        kind: &'static str,
        name: String,
        source: Box<kube::Error>,
    },
    #[error("error processing PVC {namespace}/{name}: {why}")]
    Claim {
        namespace: String,
        name: String,
        why: String,
    },
}

/// A claim with its volume.
#[derive(Clone, Debug)]
pub struct Claimed {
    pub claim: PersistentVolumeClaim,
    pub volume: PersistentVolume,
}

impl Claimed {
    /// The claim is for a device, not for files.
    pub fn is_block(&self) -> bool {
        let spec = self.volume.spec.as_ref();
        spec.and_then(|spec| spec.volume_mode.as_deref()) == Some("Block")
    }
}

/// Name of the claim behind a volume, if it is one: one made for the Pod has the Pod's name before its own.
pub fn name_of(pod: &str, volume: &Volume) -> Option<String> {
    match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(source), _) => Some(source.claim_name.clone()),
        (None, Some(_)) => Some(format!("{pod}-{}", volume.name)),
        (None, None) => None,
    }
}

/// Finds what a volume's claim is bound to.
pub async fn find(client: &Client, pod: &Pod, volume: &Volume, name: &str) -> Result<Claimed, ClaimError> {
    let namespace = pod.namespace().unwrap_or_default();
    let failed = |kind, name: &str| {
        let name = name.to_owned();
        move |source: kube::Error| ClaimError::Fetch {
            kind,
            name,
            source: Box::new(source),
        }
    };
    let refused = |why: String| ClaimError::Claim {
        namespace: namespace.clone(),
        name: name.to_owned(),
        why,
    };
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &namespace);
    let claim = claims.get_opt(name).await.map_err(failed("PVC", name))?;
    let claim = claim.ok_or_else(|| refused(format!("persistentvolumeclaim {name:?} not found")))?;
    let own = volume.ephemeral.is_some();
    let to = bound_to(&claim, own.then_some(pod)).map_err(refused)?.to_owned();
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    let found = volumes.get_opt(&to).await.map_err(failed("PV", &to))?;
    let found = found.ok_or_else(|| refused(format!("persistentvolume {to:?} not found")))?;
    is_its(&found, &claim).map_err(refused)?;
    Ok(Claimed { claim, volume: found })
}

/// The volume that a claim is bound to; `owner` is the Pod that it has to be made for.
fn bound_to<'a>(claim: &'a PersistentVolumeClaim, owner: Option<&Pod>) -> Result<&'a str, String> {
    if let Some(pod) = owner {
        let mut owners = claim.metadata.owner_references.iter().flatten();
        let is_its =
            owners.any(|by| by.controller == Some(true) && Some(&by.uid) == pod.metadata.uid.as_ref());
        if !is_its {
            return Err(format!(
                "PVC was not created for pod {} (pod is not owner)",
                pod.name_any()
            ));
        }
    }
    if claim.metadata.deletion_timestamp.is_some() {
        return Err("PVC is being deleted".to_owned());
    }
    let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
    let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref());
    match (phase, volume) {
        (Some("Bound"), Some(volume)) if !volume.is_empty() => Ok(volume),
        _ => Err(format!(
            "PVC has non-bound phase ({:?}) or empty pvc.Spec.VolumeName ({:?})",
            phase.unwrap_or_default(),
            volume.unwrap_or_default()
        )),
    }
}

fn is_its(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Result<(), String> {
    let holder = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    match holder.is_some_and(|holder| holder.uid == claim.metadata.uid) {
        true => Ok(()),
        false => Err(format!(
            "PV {} is bound to another claim than PVC uid {}",
            volume.name_any(),
            claim.uid().unwrap_or_default()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn claim(more: Value) -> PersistentVolumeClaim {
        let mut claim = json!({"metadata": {"name": "c", "uid": "u"}, "spec": {"volumeName": "v"},
            "status": {"phase": "Bound"}});
        merge(&mut claim, more);
        serde_json::from_value(claim).unwrap()
    }

    /// Replaces members of the top level's objects.
    fn merge(object: &mut Value, more: Value) {
        for (key, fields) in more.as_object().unwrap() {
            for (name, value) in fields.as_object().unwrap() {
                object[key][name] = value.clone();
            }
        }
    }

    #[test]
    fn only_bound_claims_lead_to_volumes() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "uid": "pod"}})).unwrap();
        let owned =
            json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "pod", "controller": true}]);
        let cases = [
            (json!({}), false, true),
            (json!({"status": {"phase": "Pending"}}), false, false),
            (json!({"spec": {"volumeName": ""}}), false, false),
            (
                json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
                false,
                false,
            ),
            (json!({}), true, false),
            (json!({"metadata": {"ownerReferences": owned}}), true, true),
        ];
        for (more, own, fine) in cases {
            let judged = claim(more.clone());
            let found = bound_to(&judged, own.then_some(&pod));
            assert_eq!(found.is_ok(), fine, "{more}: {found:?}");
        }
    }

    #[test]
    fn a_volume_is_one_claims() {
        let volume = |uid: &str| -> PersistentVolume {
            serde_json::from_value(
                json!({"metadata": {"name": "v"}, "spec": {"claimRef": {"name": "c", "uid": uid}}}),
            )
            .unwrap()
        };
        assert!(is_its(&volume("u"), &claim(json!({}))).is_ok());
        assert!(is_its(&volume("old"), &claim(json!({}))).is_err());
    }
}

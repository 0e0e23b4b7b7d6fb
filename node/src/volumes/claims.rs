//! From a Pod's volume to the PersistentVolume behind its claim. Asks for claim and volume by name, as a node may; refuses
//! what is not bound to one another.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use kube::{Api, Client, ResourceExt};

use crate::pods::uses::Uses;

/// Finalizer of a claim that stays until no Pod uses it.
const PROTECTION: &str = "kubernetes.io/pvc-protection";

/// Why a claim's volume cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    #[error("error processing PVC {namespace}/{name}: failed to fetch {what} from API server: {source}")]
    Fetch {
        namespace: String,
        name: String,
        what: String,
        source: Box<kube::Error>,
    },
    #[error("error processing PVC {namespace}/{name}: {why}")]
    Claim {
        namespace: String,
        name: String,
        why: String,
    },
    #[error("volume {volume} has volumeMode {mode}, but is specified in {list}")]
    Mode {
        volume: String,
        mode: &'static str,
        list: &'static str,
    },
    #[error("PVC {namespace}/{name} was not created for pod {namespace}/{pod} (pod is not owner)")]
    Owner {
        namespace: String,
        name: String,
        pod: String,
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

    /// # Errors
    /// Containers show as files what is a device, or the reverse.
    pub fn suits(&self, volume: &str, uses: &Uses<'_>) -> Result<(), ClaimError> {
        let (mode, list, wrong) = match self.is_block() {
            true => ("Block", "volumeMounts", uses.as_files(volume)),
            false => ("Filesystem", "volumeDevices", uses.as_device(volume)),
        };
        match wrong {
            true => Err(ClaimError::Mode {
                volume: volume.to_owned(),
                mode,
                list,
            }),
            false => Ok(()),
        }
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
    let failed = |what: String| {
        let (namespace, name) = (namespace.clone(), name.to_owned());
        move |source: kube::Error| ClaimError::Fetch {
            namespace,
            name,
            what,
            source: Box::new(source),
        }
    };
    let refused = |why: String| ClaimError::Claim {
        namespace: namespace.clone(),
        name: name.to_owned(),
        why,
    };
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &namespace);
    let claim = claims.get_opt(name).await.map_err(failed("PVC".to_owned()))?;
    let claim = claim.ok_or_else(|| refused(absent("PVC", "persistentvolumeclaims", name)))?;
    let to = bound_to(&claim).map_err(refused)?.to_owned();
    if volume.ephemeral.is_some() && !is_made_for(&claim, pod) {
        return Err(ClaimError::Owner {
            namespace,
            name: name.to_owned(),
            pod: pod.name_any(),
        });
    }
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    let what = format!("PV {to}");
    let found = volumes.get_opt(&to).await.map_err(failed(what.clone()))?;
    let found = found.ok_or_else(|| refused(absent(&what, "persistentvolumes", &to)))?;
    is_its(&found, &claim).map_err(refused)?;
    Ok(Claimed { claim, volume: found })
}

/// What upstream's client says of an object that is not there.
fn absent(what: &str, resource: &str, name: &str) -> String {
    format!("failed to fetch {what} from API server: {resource} {name:?} not found")
}

fn is_made_for(claim: &PersistentVolumeClaim, pod: &Pod) -> bool {
    let mut owners = claim.metadata.owner_references.iter().flatten();
    owners.any(|by| by.controller == Some(true) && Some(&by.uid) == pod.metadata.uid.as_ref())
}

/// The volume that a claim is bound to. One that is being deleted and protected stays as long as a Pod uses it, this one too.
fn bound_to(claim: &PersistentVolumeClaim) -> Result<&str, String> {
    let is_protected = claim.finalizers().iter().any(|name| name == PROTECTION);
    if claim.metadata.deletion_timestamp.is_some() && !is_protected {
        return Err("PVC is being deleted".to_owned());
    }
    let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
    let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref());
    match (phase, volume.unwrap_or_default()) {
        (Some("Bound"), "") => Err("PVC has empty pvc.Spec.VolumeName".to_owned()),
        (Some("Bound"), volume) => Ok(volume),
        _ => Err("PVC is not bound".to_owned()),
    }
}

fn is_its(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Result<(), String> {
    let name = volume.name_any();
    let holder = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    let Some(holder) = holder else {
        return Err(format!(
            "found PV object {name} but it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim"
        ));
    };
    match holder.uid == claim.metadata.uid {
        true => Ok(()),
        false => Err(format!(
            "found PV object {name} but its pv.Spec.ClaimRef.UID {} does not point to claim.UID {}",
            holder.uid.as_deref().unwrap_or_default(),
            claim.uid().unwrap_or_default()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::view::PodView;
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
        let leaving = |finalizers: Value| json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": finalizers}});
        let cases = [
            (json!({}), Ok("v")),
            (json!({"status": {"phase": "Pending"}}), Err("PVC is not bound")),
            (
                json!({"spec": {"volumeName": ""}}),
                Err("PVC has empty pvc.Spec.VolumeName"),
            ),
            (leaving(json!([])), Err("PVC is being deleted")),
            (leaving(json!(["example.org/other"])), Err("PVC is being deleted")),
            (leaving(json!(["example.org/other", PROTECTION])), Ok("v")),
        ];
        for (more, expected) in cases {
            let judged = claim(more.clone());
            let found = bound_to(&judged);
            assert_eq!(found, expected.map_err(str::to_owned), "{more}");
        }
    }

    #[test]
    fn a_claim_of_a_pod_is_made_for_it() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "uid": "pod"}})).unwrap();
        let by = |uid: &str, controller: bool| {
            let owner =
                json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid, "controller": controller});
            claim(json!({"metadata": {"ownerReferences": [owner]}}))
        };
        assert!(is_made_for(&by("pod", true), &pod));
        for other in [by("pod", false), by("other", true), claim(json!({}))] {
            assert!(!is_made_for(&other, &pod), "{other:?}");
        }
    }

    #[test]
    fn devices_are_not_shown_as_files_nor_files_as_devices() {
        let words = |mode, list| {
            Err(format!(
                "volume v has volumeMode {mode}, but is specified in {list}"
            ))
        };
        for (mode, files, device, expected) in [
            (json!("Filesystem"), true, false, Ok(())),
            (json!(null), true, false, Ok(())),
            (json!("Block"), false, true, Ok(())),
            (json!("Block"), true, false, words("Block", "volumeMounts")),
            (json!("Block"), true, true, words("Block", "volumeMounts")),
            (
                json!("Filesystem"),
                false,
                true,
                words("Filesystem", "volumeDevices"),
            ),
        ] {
            let mounts = files.then(|| json!([{"name": "v", "mountPath": "/v"}]));
            let devices = device.then(|| json!([{"name": "v", "devicePath": "/dev/v"}]));
            let container = json!({"name": "c", "volumeMounts": mounts, "volumeDevices": devices});
            let pod: Pod = serde_json::from_value(
                json!({"metadata": {"name": "p"}, "spec": {"containers": [container]}}),
            )
            .unwrap();
            let volume = json!({"metadata": {"name": "pv"}, "spec": {"volumeMode": mode}});
            let claimed = Claimed {
                claim: claim(json!({})),
                volume: serde_json::from_value(volume).unwrap(),
            };
            let uses = Uses::of(PodView::new(&pod).unwrap());
            let judged = claimed.suits("v", &uses).map_err(|error| error.to_string());
            assert_eq!(judged, expected, "{mode} {files} {device}");
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
        assert_eq!(
            is_its(&volume("old"), &claim(json!({}))).unwrap_err(),
            "found PV object v but its pv.Spec.ClaimRef.UID old does not point to claim.UID u"
        );
    }
}

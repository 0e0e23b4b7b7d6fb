//! What is due for a claim: a volume that suits, one that has to be made, or a word about what it waits for.
use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;

use super::{Binder, local_path};
use crate::toolkit::{ObjectKey, Outcome, Pod, StepError, claims, pods};

/// Something to tell whoever waits for the claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    pub warning: bool,
    pub reason: &'static str,
    pub message: String,
}

impl Notice {
    fn normal(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            warning: false,
            reason,
            message: message.into(),
        }
    }

    fn warning(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            warning: true,
            reason,
            message: message.into(),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// The two are one another's, or are to be.
    Bind(Arc<PersistentVolume>),
    /// A volume is to be made by the class's provisioner.
    Provision(String),
    Pending(Option<Notice>),
    Lost(Notice),
}

/// What a claim is judged by.
pub struct Surroundings<'a> {
    pub volumes: &'a [Arc<PersistentVolume>],
    pub class: Option<&'a StorageClass>,
    /// Names of Pods that use it and have no node.
    pub waiting_pods: &'a [String],
}

/// Upstream's `syncUnboundClaim` and `syncBoundClaim`.
pub fn decide(claim: &PersistentVolumeClaim, around: &Surroundings<'_>) -> Decision {
    let named = claims::volume_name(claim);
    let volume = around.volumes.iter().find(|volume| volume.name_any() == named);
    if claims::has_mark(claim.annotations(), claims::BIND_COMPLETED) {
        return bound(claim, named, volume);
    }
    match (named, volume) {
        ("", _) => unbound(claim, around),
        (_, None) => Decision::Pending(None),
        (_, Some(volume)) => wanted(claim, volume),
    }
}

fn bound(claim: &PersistentVolumeClaim, named: &str, volume: Option<&Arc<PersistentVolume>>) -> Decision {
    let lost = |reason, text: &str| Decision::Lost(Notice::warning(reason, text));
    if named.is_empty() {
        return lost(
            "ClaimLost",
            "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!",
        );
    }
    let Some(volume) = volume else {
        return lost(
            "ClaimLost",
            "Bound claim has lost its PersistentVolume. Data on the volume is lost!",
        );
    };
    let holder = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    match holder {
        Some(holder) if holder.uid != claim.uid() => lost(
            "ClaimMisbound",
            "Two claims are bound to the same volume, this one is bound incorrectly",
        ),
        _ => Decision::Bind(volume.clone()),
    }
}

/// The claim names a volume itself.
fn wanted(claim: &PersistentVolumeClaim, volume: &Arc<PersistentVolume>) -> Decision {
    let name = volume.name_any();
    if claims::is_for(volume, claim) {
        return Decision::Bind(volume.clone());
    }
    let taken = volume.spec.as_ref().is_some_and(|spec| spec.claim_ref.is_some());
    let trouble = match claims::mismatch(volume, claim) {
        _ if taken => Some((
            "FailedBinding",
            format!("volume {name:?} already bound to a different claim."),
        )),
        Some(why) => Some((
            "VolumeMismatch",
            format!("Cannot bind to requested volume {name:?}: {why}"),
        )),
        None => None,
    };
    match trouble {
        Some((reason, text)) => Decision::Pending(Some(Notice::warning(reason, text))),
        None => Decision::Bind(volume.clone()),
    }
}

fn unbound(claim: &PersistentVolumeClaim, around: &Surroundings<'_>) -> Decision {
    let has_node = claims::has_mark(claim.annotations(), claims::SELECTED_NODE);
    let late = claims::is_late(around.class) && !has_node;
    if let Some(volume) = claims::best_match(claim, around.volumes, None, late) {
        return Decision::Bind(volume);
    }
    if late {
        return Decision::Pending(Some(waits_for(around.waiting_pods)));
    }
    let class = claims::class_of(claim);
    if class.is_empty() {
        return Decision::Pending(Some(Notice::normal(
            "FailedBinding",
            "no persistent volumes available for this claim and no storage class is set",
        )));
    }
    let failed = |text: String| Decision::Pending(Some(Notice::warning("ProvisioningFailed", text)));
    match around.class {
        None => failed(format!("storageclass.storage.k8s.io {class:?} not found")),
        Some(found) if found.provisioner.starts_with("kubernetes.io/") => {
            failed(format!("no volume plugin matched name: {}", found.provisioner))
        }
        Some(found) => Decision::Provision(found.provisioner.clone()),
    }
}

fn waits_for(pods: &[String]) -> Notice {
    match pods {
        [] => Notice::normal(
            "WaitForFirstConsumer",
            "waiting for first consumer to be created before binding",
        ),
        [one] => Notice::normal(
            "WaitForPodScheduled",
            format!("waiting for pod {one} to be scheduled"),
        ),
        many => Notice::normal(
            "WaitForPodScheduled",
            format!("waiting for pods {} to be scheduled", many.join(",")),
        ),
    }
}

impl Binder {
    pub(super) async fn reconcile_claim(&self, key: ObjectKey) -> Result<Outcome, StepError> {
        let watches = &self.context.watches;
        let Some(claim) = watches.claims.get(&key) else {
            return Ok(Outcome::Done);
        };
        let dying = claim.metadata.deletion_timestamp.is_some();
        if dying && !claims::is_bound(&claim) {
            return Ok(Outcome::Done);
        }
        let class = watches.classes.get(&ObjectKey::cluster(claims::class_of(&claim)));
        let waiting: Vec<String> = watches
            .pods
            .in_namespace(&key.namespace)
            .iter()
            .filter(|pod| waits(pod) && claims::uses(pod, &key.name))
            .map(|pod| pod.name_any())
            .collect();
        let around = Surroundings {
            volumes: &watches.volumes.list(),
            class: class.as_deref(),
            waiting_pods: &waiting,
        };
        match decide(&claim, &around) {
            Decision::Bind(volume) => self.bind(&claim, &volume).await?,
            Decision::Provision(provisioner) if provisioner == local_path::PROVISIONER => {
                self.status(&claim, "Pending", None).await?;
                if let Some(class) = &class {
                    return self.provision(&claim, class).await;
                }
            }
            Decision::Provision(provisioner) => self.leave_to(&claim, &provisioner).await?,
            Decision::Pending(notice) => {
                self.tell(&claim, notice);
                self.status(&claim, "Pending", None).await?;
            }
            Decision::Lost(notice) => {
                let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
                if phase != Some("Lost") {
                    self.tell(&claim, Some(notice));
                    self.status(&claim, "Lost", None).await?;
                }
            }
        }
        Ok(Outcome::Done)
    }

    fn tell(&self, claim: &PersistentVolumeClaim, notice: Option<Notice>) {
        match notice {
            Some(notice) if notice.warning => self.events.warning(claim, notice.reason, notice.message),
            Some(notice) => self.events.normal(claim, notice.reason, notice.message),
            None => {}
        }
    }
}

/// Whether the Pod has still to get a node.
fn waits(pod: &Pod) -> bool {
    pods::node_name(pod).is_none() && pods::is_active(pod)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn claim(more: Value) -> PersistentVolumeClaim {
        let mut claim = json!({"metadata": {"name": "data", "namespace": "n", "uid": "u"},
            "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "c",
                "resources": {"requests": {"storage": "2Gi"}}}});
        json_patch::merge(&mut claim, &more);
        serde_json::from_value(claim).expect("a claim")
    }

    fn volume(more: Value) -> Arc<PersistentVolume> {
        let mut volume = json!({"metadata": {"name": "v"},
            "spec": {"capacity": {"storage": "5Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "c"},
            "status": {"phase": "Available"}});
        json_patch::merge(&mut volume, &more);
        Arc::new(serde_json::from_value(volume).expect("a volume"))
    }

    fn class(mode: &str, provisioner: &str) -> StorageClass {
        serde_json::from_value(
            json!({"metadata": {"name": "c"}, "provisioner": provisioner, "volumeBindingMode": mode}),
        )
        .expect("a class")
    }

    fn in_short(decision: Decision) -> String {
        match decision {
            Decision::Bind(volume) => format!("bind {}", volume.name_any()),
            Decision::Provision(by) => format!("provision {by}"),
            Decision::Pending(None) => "wait".to_owned(),
            Decision::Pending(Some(notice)) => format!("{}: {}", notice.reason, notice.message),
            Decision::Lost(notice) => format!("lost {}", notice.reason),
        }
    }

    #[test]
    fn what_is_due_for_a_claim() {
        let (now, late) = (
            class("Immediate", "x.example/p"),
            class("WaitForFirstConsumer", "x.example/p"),
        );
        let none = class("Immediate", claims::NO_PROVISIONER);
        let named = json!({"spec": {"volumeName": "v"}});
        let done = json!({"spec": {"volumeName": "v"}, "metadata": {"annotations": {claims::BIND_COMPLETED: "yes"}}});
        let node = json!({"metadata": {"annotations": {claims::SELECTED_NODE: "n1"}}});
        let held = |uid: &str, name: &str| json!({"spec": {"claimRef": {"namespace": "n", "name": name, "uid": uid}}});
        type Case<'a> = (
            Value,
            Option<Value>,
            Option<&'a StorageClass>,
            &'a [&'a str],
            &'a str,
        );
        let cases: Vec<Case<'_>> = vec![
            (json!({}), Some(json!({})), None, &[], "bind v"),
            (
                json!({}),
                None,
                None,
                &[],
                "ProvisioningFailed: storageclass.storage.k8s.io \"c\" not found",
            ),
            (
                json!({"spec": {"storageClassName": ""}}),
                None,
                None,
                &[],
                "FailedBinding: no persistent volumes available for this claim and no storage class is set",
            ),
            (json!({}), None, Some(&now), &[], "provision x.example/p"),
            (
                json!({}),
                None,
                Some(&none),
                &[],
                "ProvisioningFailed: no volume plugin matched name: kubernetes.io/no-provisioner",
            ),
            (
                json!({}),
                Some(json!({})),
                Some(&late),
                &[],
                "WaitForFirstConsumer: waiting for first consumer to be created before binding",
            ),
            (
                json!({}),
                None,
                Some(&late),
                &["a"],
                "WaitForPodScheduled: waiting for pod a to be scheduled",
            ),
            (
                json!({}),
                None,
                Some(&late),
                &["a", "b"],
                "WaitForPodScheduled: waiting for pods a,b to be scheduled",
            ),
            (node, None, Some(&late), &[], "provision x.example/p"),
            (json!({}), Some(held("", "data")), Some(&late), &[], "bind v"),
            (named.clone(), None, None, &[], "wait"),
            (named.clone(), Some(json!({})), None, &[], "bind v"),
            (
                named.clone(),
                Some(json!({"spec": {"capacity": {"storage": "1Gi"}}})),
                None,
                &[],
                "VolumeMismatch: Cannot bind to requested volume \"v\": requested PV is too small",
            ),
            (
                named,
                Some(held("o", "other")),
                None,
                &[],
                "FailedBinding: volume \"v\" already bound to a different claim.",
            ),
            (done.clone(), Some(held("u", "data")), None, &[], "bind v"),
            (done.clone(), Some(json!({})), None, &[], "bind v"),
            (
                done.clone(),
                Some(held("o", "data")),
                None,
                &[],
                "lost ClaimMisbound",
            ),
            (done, None, None, &[], "lost ClaimLost"),
        ];
        for (wish, there, class, waiting, expected) in cases {
            let volumes: Vec<_> = there.clone().map(volume).into_iter().collect();
            let waiting: Vec<String> = waiting.iter().map(ToString::to_string).collect();
            let around = Surroundings {
                volumes: &volumes,
                class,
                waiting_pods: &waiting,
            };
            let decision = decide(&claim(wish.clone()), &around);
            assert_eq!(in_short(decision), expected, "{wish} {there:?}");
        }
    }
}

//! What a Pod's claims ask of its node, and what of them is bound for it (upstream's VolumeBinding and VolumeRestrictions).
//! Pure: claims and volumes in, reasons and a plan out.
use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;

use crate::toolkit::{Informer, ObjectKey, Pod, claims, owners, pods};

const TAKEN: &str = "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod";
const FAR: &str = "node(s) didn't match PersistentVolume's node affinity";
const GONE: &str = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";
const NONE_FREE: &str = "node(s) didn't find available persistent volumes to bind";

/// What is known of storage.
#[derive(Clone)]
pub struct Storage {
    pub claims: Arc<Informer<PersistentVolumeClaim>>,
    pub volumes: Arc<Informer<PersistentVolume>>,
    pub classes: Arc<Informer<StorageClass>>,
}

/// A volume, or a claim for one Pod only, that a Pod was promised and whose binding is under way: by name the Pod's uid.
pub type Promises = HashMap<String, String>;

/// What a Pod's claims need.
#[derive(Debug, Default)]
pub struct Needs {
    /// Volumes that are bound, or that nobody knows any more.
    bound: Vec<Option<Arc<PersistentVolume>>>,
    late: Vec<Late>,
    free: Vec<Arc<PersistentVolume>>,
    /// Somebody else has a claim that is for one Pod only.
    taken: bool,
    /// Keys of claims that are for this Pod only.
    single: Vec<String>,
}

/// A claim that is bound when its Pod has a node.
#[derive(Debug)]
struct Late {
    claim: Arc<PersistentVolumeClaim>,
    /// Its class makes volumes.
    provisioned: bool,
    /// A node was chosen before; the volume is being made there.
    node: Option<String>,
}

/// What is to be written before the Pod may be bound.
#[derive(Clone, Debug)]
pub enum Step {
    Give {
        volume: Arc<PersistentVolume>,
        claim: Arc<PersistentVolumeClaim>,
    },
    Make {
        claim: Arc<PersistentVolumeClaim>,
    },
}

impl Step {
    pub fn claim(&self) -> &Arc<PersistentVolumeClaim> {
        match self {
            Step::Give { claim, .. } | Step::Make { claim } => claim,
        }
    }
}

impl Storage {
    /// What the Pod's claims need of a node; the sentence says why no node would do.
    pub fn needs(&self, pod: &Pod, users: &Informer<Pod>, promises: &Promises) -> Result<Needs, String> {
        let mut needs = Needs::default();
        let namespace = pod.namespace().unwrap_or_default();
        let mut unbound = false;
        for used in claims::of_pod(pod) {
            let key = ObjectKey::new(namespace.as_str(), used.name.as_str());
            let claim = self.claims.get(&key);
            let claim = usable(claim, pod, &used)?;
            if claims::modes(&claim).iter().any(|mode| mode == claims::ONE_POD) {
                needs.taken |= is_taken(&key, pod, users, promises);
                needs.single.push(key.to_string());
            }
            if claims::is_bound(&claim) {
                let volume = ObjectKey::cluster(claims::volume_name(&claim));
                needs.bound.push(self.volumes.get(&volume));
                continue;
            }
            let class = self.classes.get(&ObjectKey::cluster(claims::class_of(&claim)));
            match claims::is_late(class.as_deref()) && claims::volume_name(&claim).is_empty() {
                true => needs.late.push(Late::new(claim, class.as_deref())),
                false => unbound = true,
            }
        }
        if unbound {
            return Err("pod has unbound immediate PersistentVolumeClaims".to_owned());
        }
        if !needs.late.is_empty() {
            needs.free = self.volumes.list();
            needs.free.retain(|volume| is_free(volume, pod, promises));
        }
        Ok(needs)
    }
}

fn is_free(volume: &PersistentVolume, pod: &Pod, promises: &Promises) -> bool {
    let promised = promises.get(&volume.name_any());
    promised.is_none_or(|to| Some(to) == pod.metadata.uid.as_ref())
}

/// The claim, if a Pod may have it.
fn usable(
    claim: Option<Arc<PersistentVolumeClaim>>,
    pod: &Pod,
    used: &claims::Use,
) -> Result<Arc<PersistentVolumeClaim>, String> {
    let name = &used.name;
    let Some(claim) = claim else {
        return Err(match used.own {
            true => format!(
                "waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}"
            ),
            false => format!("persistentvolumeclaim {name:?} not found"),
        });
    };
    let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
    if phase == Some("Lost") {
        let volume = claims::volume_name(&claim);
        return Err(format!(
            "persistentvolumeclaim {name:?} bound to non-existent persistentvolume {volume:?}"
        ));
    }
    if claim.metadata.deletion_timestamp.is_some() {
        return Err(format!("persistentvolumeclaim {name:?} is being deleted"));
    }
    if used.own && owners::controller_uid(claim.as_ref()) != pod.uid() {
        let namespace = pod.namespace().unwrap_or_default();
        let pod = pod.name_any();
        return Err(format!(
            "PVC {namespace}/{name} was not created for pod {namespace}/{pod} (pod is not owner)"
        ));
    }
    Ok(claim)
}

/// Whether another Pod has a claim that only one may have.
fn is_taken(key: &ObjectKey, pod: &Pod, users: &Informer<Pod>, promises: &Promises) -> bool {
    let promised = promises
        .get(&key.to_string())
        .is_some_and(|to| Some(to) != pod.metadata.uid.as_ref());
    let others = users.in_namespace(&key.namespace);
    let mut others = others.iter().filter(|other| other.uid() != pod.uid());
    let has = |other: &Pod| {
        pods::node_name(other).is_some() && !pods::is_terminal(other) && claims::uses(other, &key.name)
    };
    promised || others.any(|other| has(other))
}

impl Late {
    fn new(claim: Arc<PersistentVolumeClaim>, class: Option<&StorageClass>) -> Self {
        let makes = |class: &StorageClass| class.provisioner != claims::NO_PROVISIONER;
        Self {
            provisioned: class.is_some_and(makes),
            node: claim.annotations().get(claims::SELECTED_NODE).cloned(),
            claim,
        }
    }
}

impl Needs {
    /// Why the node cannot be the Pod's.
    pub fn objections(&self, node: &Node) -> Vec<String> {
        if self.taken {
            return vec![TAKEN.to_owned()];
        }
        let mut reasons = Vec::new();
        if self.bound.iter().any(Option::is_none) {
            reasons.push(GONE.to_owned());
        }
        let mut bound = self.bound.iter().flatten();
        if bound.any(|volume| !claims::reachable(volume, node)) {
            reasons.push(FAR.to_owned());
        }
        if self.plan(node).is_none() {
            reasons.push(NONE_FREE.to_owned());
        }
        reasons
    }

    /// What is bound if the node is chosen; none when something cannot be had there. Large claims choose after small ones,
    /// so that these do not take what only those can use (`findMatchingVolumes`).
    pub fn plan(&self, node: &Node) -> Option<Vec<Step>> {
        let mut late: Vec<&Late> = self.late.iter().collect();
        late.sort_by_key(|late| claims::requested(&late.claim));
        let mut free = self.free.clone();
        let mut steps = Vec::new();
        for Late {
            claim,
            provisioned,
            node: chosen,
        } in late
        {
            let elsewhere = chosen.as_ref().is_some_and(|chosen| *chosen != node.name_any());
            let found = match chosen {
                None => claims::best_match(claim, &free, Some(node), true),
                Some(_) => None,
            };
            let claim = claim.clone();
            match found {
                Some(volume) => {
                    free.retain(|other| other.name_any() != volume.name_any());
                    steps.push(Step::Give { volume, claim });
                }
                None if *provisioned && !elsewhere => steps.push(Step::Make { claim }),
                None => return None,
            }
        }
        Some(steps)
    }

    /// What the plan takes from others until it is carried out.
    pub fn takes<'a>(&'a self, steps: &'a [Step]) -> impl Iterator<Item = String> + 'a {
        let volumes = steps.iter().filter_map(|step| match step {
            Step::Give { volume, .. } => Some(volume.name_any()),
            Step::Make { .. } => None,
        });
        volumes.chain(self.single.iter().cloned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node(name: &str) -> Node {
        serde_json::from_value(
            json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}}),
        )
        .expect("a node")
    }

    fn volume(name: &str, host: &str, size: &str) -> Arc<PersistentVolume> {
        let volume = json!({"metadata": {"name": name}, "status": {"phase": "Available"},
            "spec": {"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "storageClassName": "c",
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                    {"key": "kubernetes.io/hostname", "operator": "In", "values": [host]}]}]}}}});
        Arc::new(serde_json::from_value(volume).expect("a volume"))
    }

    fn late(name: &str, size: &str, provisioned: bool, node: Option<&str>) -> Late {
        let claim: Value = json!({"metadata": {"name": name, "namespace": "n", "uid": name},
            "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "c",
                "resources": {"requests": {"storage": size}}}});
        Late {
            claim: Arc::new(serde_json::from_value(claim).expect("a claim")),
            provisioned,
            node: node.map(str::to_owned),
        }
    }

    fn in_short(steps: &[Step]) -> Vec<String> {
        let say = |step: &Step| match step {
            Step::Give { volume, claim } => format!("{}={}", claim.name_any(), volume.name_any()),
            Step::Make { claim } => format!("{}=new", claim.name_any()),
        };
        steps.iter().map(say).collect()
    }

    #[test]
    fn volumes_decide_which_nodes_will_do() {
        let bound = |volume| Needs {
            bound: vec![volume],
            ..Needs::default()
        };
        let cases = [
            (Needs::default(), vec![]),
            (bound(Some(volume("v", "n1", "1Gi"))), vec![]),
            (bound(Some(volume("v", "n2", "1Gi"))), vec![FAR]),
            (bound(None), vec![GONE]),
            (
                Needs {
                    taken: true,
                    ..Needs::default()
                },
                vec![TAKEN],
            ),
            (
                Needs {
                    late: vec![late("a", "1Gi", false, None)],
                    ..Needs::default()
                },
                vec![NONE_FREE],
            ),
        ];
        for (needs, expected) in cases {
            assert_eq!(needs.objections(&node("n1")), expected, "{needs:?}");
        }
    }

    #[test]
    fn small_claims_leave_large_volumes_to_large_ones() {
        let needs = Needs {
            late: vec![late("big", "5Gi", false, None), late("small", "1Gi", false, None)],
            free: vec![
                volume("l", "n1", "9Gi"),
                volume("s", "n1", "2Gi"),
                volume("x", "n2", "9Gi"),
            ],
            ..Needs::default()
        };
        let steps = needs.plan(&node("n1")).expect("a plan");
        assert_eq!(in_short(&steps), ["small=s", "big=l"]);
        assert_eq!(needs.takes(&steps).collect::<Vec<_>>(), ["s", "l"]);
        assert!(needs.plan(&node("n2")).is_none(), "one volume for two claims");
    }

    #[test]
    fn what_is_not_there_is_made_where_it_was_begun() {
        let needs = |chosen| Needs {
            late: vec![late("a", "1Gi", true, chosen)],
            ..Needs::default()
        };
        let plan = |chosen, on: &str| needs(chosen).plan(&node(on)).map(|steps| in_short(&steps));
        assert_eq!(plan(None, "n1"), Some(vec!["a=new".to_owned()]));
        assert_eq!(plan(Some("n1"), "n1"), Some(vec!["a=new".to_owned()]));
        assert_eq!(plan(Some("n1"), "n2"), None);
    }
}

//! What claims and volumes say of each other: who uses a claim, what is bound, and which volume would do. Pure; the
//! volume controllers and the scheduler decide with it.
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, NodeSelector, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;

use super::node_selector;
use super::selectors::Labels;
use super::{Pod, quantity};

/// On a claim: volume and claim refer to each other.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// On either: the reference to the other was made by a controller, not by a person.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// On a claim: the node for which its volume is to be made.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// On a volume: who made it.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// The provisioner of classes whose volumes people make.
pub const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
/// Where classes were named before there was a field.
const OLD_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
const LATE: &str = "WaitForFirstConsumer";
pub const ONE_POD: &str = "ReadWriteOncePod";

/// A claim that a Pod uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    pub name: String,
    /// The claim is made for the Pod (an ephemeral volume).
    pub own: bool,
}

/// The claims that a Pod uses, those that are made for it included.
pub fn of_pod(pod: &Pod) -> impl Iterator<Item = Use> {
    let pod_name = pod.name_any();
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref());
    volumes.unwrap_or_default().iter().filter_map(move |volume| {
        match (&volume.persistent_volume_claim, &volume.ephemeral) {
            (Some(claim), _) => Some(Use {
                name: claim.claim_name.clone(),
                own: false,
            }),
            (None, Some(_)) => Some(Use {
                name: format!("{pod_name}-{}", volume.name),
                own: true,
            }),
            (None, None) => None,
        }
    })
}

pub fn uses(pod: &Pod, claim: &str) -> bool {
    of_pod(pod).any(|used| used.name == claim)
}

/// The class a claim asks for; empty for none.
pub fn class_of(claim: &PersistentVolumeClaim) -> &str {
    let field = claim
        .spec
        .as_ref()
        .and_then(|spec| spec.storage_class_name.as_deref());
    let old = claim.annotations().get(OLD_CLASS).map(String::as_str);
    old.or(field).unwrap_or_default()
}

pub fn class_of_volume(volume: &PersistentVolume) -> &str {
    let field = volume
        .spec
        .as_ref()
        .and_then(|spec| spec.storage_class_name.as_deref());
    let old = volume.annotations().get(OLD_CLASS).map(String::as_str);
    old.or(field).unwrap_or_default()
}

/// The VolumeAttributesClasses that a claim asks for, has, or is on its way to.
pub fn attributes_classes(claim: &PersistentVolumeClaim) -> impl Iterator<Item = &str> {
    let (spec, status) = (claim.spec.as_ref(), claim.status.as_ref());
    let wanted = spec.and_then(|spec| spec.volume_attributes_class_name.as_deref());
    let current = status.and_then(|status| status.current_volume_attributes_class_name.as_deref());
    let change = status.and_then(|status| status.modify_volume_status.as_ref());
    let target = change.and_then(|change| change.target_volume_attributes_class_name.as_deref());
    let named = [wanted, current, target].into_iter().flatten();
    named.filter(|name| !name.is_empty())
}

/// The VolumeAttributesClass of a volume.
pub fn attributes_class_of_volume(volume: &PersistentVolume) -> Option<&str> {
    let spec = volume.spec.as_ref();
    let name = spec.and_then(|spec| spec.volume_attributes_class_name.as_deref());
    name.filter(|name| !name.is_empty())
}

/// Whether volumes of the class are bound only when a Pod has a node.
pub fn is_late(class: Option<&StorageClass>) -> bool {
    class.is_some_and(|class| class.volume_binding_mode.as_deref() == Some(LATE))
}

pub fn has_mark(annotations: &std::collections::BTreeMap<String, String>, mark: &str) -> bool {
    annotations.contains_key(mark)
}

/// The volume a claim names; empty for none.
pub fn volume_name(claim: &PersistentVolumeClaim) -> &str {
    let spec = claim.spec.as_ref();
    spec.and_then(|spec| spec.volume_name.as_deref())
        .unwrap_or_default()
}

pub fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    !volume_name(claim).is_empty() && has_mark(claim.annotations(), BIND_COMPLETED)
}

pub fn modes(claim: &PersistentVolumeClaim) -> &[String] {
    let spec = claim.spec.as_ref();
    spec.and_then(|spec| spec.access_modes.as_deref())
        .unwrap_or_default()
}

pub fn phase_of_volume(volume: &PersistentVolume) -> &str {
    let status = volume.status.as_ref();
    status
        .and_then(|status| status.phase.as_deref())
        .unwrap_or_default()
}

/// Bytes a claim asks for.
pub fn requested(claim: &PersistentVolumeClaim) -> i64 {
    let spec = claim.spec.as_ref();
    let requests = spec.and_then(|spec| spec.resources.as_ref()?.requests.as_ref());
    requests
        .and_then(|requests| requests.get("storage"))
        .map_or(0, quantity::units)
}

/// Bytes a claim was told that it has; 0 before it is bound.
pub fn has(claim: &PersistentVolumeClaim) -> i64 {
    let status = claim.status.as_ref();
    let capacity = status.and_then(|status| status.capacity.as_ref());
    capacity
        .and_then(|capacity| capacity.get("storage"))
        .map_or(0, quantity::units)
}

/// Bytes a volume has.
pub fn capacity(volume: &PersistentVolume) -> i64 {
    let spec = volume.spec.as_ref();
    let capacity = spec.and_then(|spec| spec.capacity.as_ref());
    capacity
        .and_then(|capacity| capacity.get("storage"))
        .map_or(0, quantity::units)
}

/// Whether the volume refers to this claim, by name at least.
pub fn is_for(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let Some(to) = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) else {
        return false;
    };
    let same_uid = to.uid.as_deref().is_none_or(|uid| uid.is_empty()) || to.uid == claim.uid();
    to.name == claim.metadata.name && to.namespace == claim.metadata.namespace && same_uid
}

fn has_claim(volume: &PersistentVolume) -> bool {
    volume.spec.as_ref().is_some_and(|spec| spec.claim_ref.is_some())
}

/// Whether nodes that the volume can be reached from include this one.
pub fn reachable(volume: &PersistentVolume, node: &Node) -> bool {
    let affinity = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref());
    let required: Option<&NodeSelector> = affinity.and_then(|affinity| affinity.required.as_ref());
    required.is_none_or(|selector| node_selector::matches(selector, node))
}

/// `Filesystem` where nothing is said.
fn mode(of: Option<&String>) -> &str {
    of.map_or("Filesystem", String::as_str)
}

pub fn same_mode(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let of_volume = volume.spec.as_ref().and_then(|spec| spec.volume_mode.as_ref());
    let of_claim = claim.spec.as_ref().and_then(|spec| spec.volume_mode.as_ref());
    mode(of_volume) == mode(of_claim)
}

fn offers(volume: &PersistentVolume, wanted: &[String]) -> bool {
    let offered = volume.spec.as_ref().and_then(|spec| spec.access_modes.as_deref());
    let offered = offered.unwrap_or_default();
    wanted.iter().all(|mode| offered.contains(mode))
}

/// Why a volume that a claim names cannot be its own; in upstream's words (`checkVolumeSatisfyClaim`).
pub fn mismatch(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<&'static str> {
    if volume.metadata.deletion_timestamp.is_some() {
        return Some("volume is being deleted");
    }
    let checks = [
        (capacity(volume) < requested(claim), "requested PV is too small"),
        (
            class_of(claim) != class_of_volume(volume),
            "storageClassName does not match",
        ),
        (!same_mode(volume, claim), "incompatible volumeMode"),
        (!offers(volume, modes(claim)), "incompatible accessMode"),
    ];
    checks.into_iter().find_map(|(wrong, text)| wrong.then_some(text))
}

/// The volume that suits a claim best: one reserved for it, else of those that are free the one with the fewest access
/// modes, then the smallest. With a node only those that it can reach; without one, claims that wait for a node are only
/// given what is reserved for them (`FindMatchingVolume`).
pub fn best_match(
    claim: &PersistentVolumeClaim,
    volumes: &[Arc<PersistentVolume>],
    node: Option<&Node>,
    late: bool,
) -> Option<Arc<PersistentVolume>> {
    let selector = claim.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let selector = selector.map(Labels::new);
    let fits = |volume: &&Arc<PersistentVolume>| {
        volume.metadata.deletion_timestamp.is_none()
            && same_mode(volume, claim)
            && capacity(volume) >= requested(claim)
            && offers(volume, modes(claim))
            && node.is_none_or(|node| reachable(volume, node))
    };
    let reserved = volumes.iter().filter(|volume| is_for(volume, claim)).find(fits);
    if reserved.is_some() {
        return reserved.cloned();
    }
    if node.is_none() && late {
        return None;
    }
    let free = volumes.iter().filter(|volume| {
        !has_claim(volume)
            && phase_of_volume(volume) == "Available"
            && class_of_volume(volume) == class_of(claim)
            && selector.as_ref().is_none_or(|s| s.matches(&volume.metadata))
    });
    free.filter(fits)
        .min_by_key(|volume| {
            let modes = volume.spec.as_ref().and_then(|spec| spec.access_modes.as_ref());
            (modes.map_or(0, Vec::len), capacity(volume), volume.name_any())
        })
        .cloned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    pub fn volume(name: &str, more: Value) -> Arc<PersistentVolume> {
        let mut volume = json!({"metadata": {"name": name},
            "spec": {"capacity": {"storage": "5Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "c"},
            "status": {"phase": "Available"}});
        json_patch::merge(&mut volume, &more);
        Arc::new(serde_json::from_value(volume).expect("a volume"))
    }

    fn claim(more: Value) -> PersistentVolumeClaim {
        let mut claim = json!({"metadata": {"name": "data", "namespace": "n", "uid": "u"},
            "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "c",
                "resources": {"requests": {"storage": "2Gi"}}}});
        json_patch::merge(&mut claim, &more);
        serde_json::from_value(claim).expect("a claim")
    }

    fn node() -> Node {
        serde_json::from_value(
            json!({"metadata": {"name": "n1", "labels": {"kubernetes.io/hostname": "n1"}}}),
        )
        .expect("a node")
    }

    fn on(host: &str) -> Value {
        json!({"spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
            {"key": "kubernetes.io/hostname", "operator": "In", "values": [host]}]}]}}}})
    }

    #[test]
    fn the_least_that_suffices_is_taken() {
        let none = json!({});
        let size = |text: &str| json!({"spec": {"capacity": {"storage": text}}});
        let modes = |list: Value| json!({"spec": {"accessModes": list}});
        let both = json!(["ReadWriteOnce", "ReadOnlyMany"]);
        type Case = (
            &'static str,
            Value,
            Vec<(&'static str, Value)>,
            Option<&'static str>,
        );
        let cases: Vec<Case> = vec![
            ("nothing there", none.clone(), vec![], None),
            (
                "the smallest",
                none.clone(),
                vec![("big", size("9Gi")), ("fit", size("3Gi"))],
                Some("fit"),
            ),
            ("too small", none.clone(), vec![("a", size("1Gi"))], None),
            (
                "fewest modes before size",
                none.clone(),
                vec![
                    ("a", json_with(size("2Gi"), modes(both.clone()))),
                    ("b", size("9Gi")),
                ],
                Some("b"),
            ),
            (
                "all modes asked for",
                json!({"spec": {"accessModes": ["ReadOnlyMany"]}}),
                vec![("a", none.clone())],
                None,
            ),
            (
                "another class",
                json!({"spec": {"storageClassName": "x"}}),
                vec![("a", none.clone())],
                None,
            ),
            (
                "no class is one too",
                json!({"spec": {"storageClassName": ""}}),
                vec![
                    ("a", none.clone()),
                    ("b", json!({"spec": {"storageClassName": null}})),
                ],
                Some("b"),
            ),
            (
                "a class by annotation",
                json!({"metadata": {"annotations": {OLD_CLASS: "y"}}}),
                vec![
                    ("a", none.clone()),
                    ("b", json!({"spec": {"storageClassName": "y"}})),
                ],
                Some("b"),
            ),
            (
                "blocks are not files",
                none.clone(),
                vec![("a", json!({"spec": {"volumeMode": "Block"}}))],
                None,
            ),
            (
                "by labels",
                json!({"spec": {"selector": {"matchLabels": {"t": "fast"}}}}),
                vec![
                    ("a", none.clone()),
                    ("b", json!({"metadata": {"labels": {"t": "fast"}}})),
                ],
                Some("b"),
            ),
            (
                "not yet available",
                none.clone(),
                vec![("a", json!({"status": {"phase": "Released"}}))],
                None,
            ),
            (
                "reserved for another",
                none.clone(),
                vec![(
                    "a",
                    json!({"spec": {"claimRef": {"name": "o", "namespace": "n"}}}),
                )],
                None,
            ),
            (
                "reserved for it, before better ones",
                none.clone(),
                vec![
                    ("a", none.clone()),
                    (
                        "b",
                        json_with(
                            size("9Gi"),
                            json!({"spec": {"claimRef": {"name": "data", "namespace": "n"}}, "status": {"phase": "Pending"}}),
                        ),
                    ),
                ],
                Some("b"),
            ),
            (
                "reserved for one that had its name",
                none.clone(),
                vec![(
                    "a",
                    json!({"spec": {"claimRef": {"name": "data", "namespace": "n", "uid": "old"}}}),
                )],
                None,
            ),
            (
                "going away",
                none.clone(),
                vec![(
                    "a",
                    json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
                )],
                None,
            ),
        ];
        for (what, wish, volumes, expected) in cases {
            let volumes: Vec<_> = volumes
                .into_iter()
                .map(|(name, more)| volume(name, more))
                .collect();
            let found = best_match(&claim(wish), &volumes, None, false);
            assert_eq!(found.map(|v| v.name_any()).as_deref(), expected, "{what}");
        }
    }

    fn json_with(mut a: Value, b: Value) -> Value {
        json_patch::merge(&mut a, &b);
        a
    }

    #[test]
    fn claims_that_wait_for_a_node_get_what_it_reaches() {
        let all = [volume("far", on("n2")), volume("near", on("n1"))];
        assert!(best_match(&claim(json!({})), &all, None, true).is_none());
        let found = best_match(&claim(json!({})), &all, Some(&node()), true);
        assert_eq!(found.map(|v| v.name_any()).as_deref(), Some("near"));
    }

    #[test]
    fn a_named_volume_must_do() {
        let cases = [
            (json!({}), None),
            (
                json!({"spec": {"capacity": {"storage": "1Gi"}}}),
                Some("requested PV is too small"),
            ),
            (
                json!({"spec": {"storageClassName": "x"}}),
                Some("storageClassName does not match"),
            ),
            (
                json!({"spec": {"volumeMode": "Block"}}),
                Some("incompatible volumeMode"),
            ),
            (
                json!({"spec": {"accessModes": ["ReadOnlyMany"]}}),
                Some("incompatible accessMode"),
            ),
        ];
        for (more, expected) in cases {
            assert_eq!(mismatch(&volume("v", more), &claim(json!({}))), expected);
        }
    }

    #[test]
    fn claims_of_a_pod() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"containers": [], "volumes": [
            {"name": "a", "persistentVolumeClaim": {"claimName": "c"}}, {"name": "e", "ephemeral": {}}, {"name": "x"}]}}))
        .expect("a Pod");
        assert_eq!(
            of_pod(&pod).map(|used| used.name).collect::<Vec<_>>(),
            ["c", "p-e"]
        );
    }
}

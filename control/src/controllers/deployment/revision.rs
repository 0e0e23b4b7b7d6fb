//! Which ReplicaSet carries the current template, how it is named, and the revisions recorded in annotations.
use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;

use super::spec;
use crate::toolkit::{names, owners, patch};

pub const HASH_LABEL: &str = "pod-template-hash";
pub const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
pub const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
/// Annotations of the Deployment that mean nothing on its ReplicaSets.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
    "deprecated.deployment.rollback.to",
];
/// The revision history is cut from its oldest end beyond this (upstream's limit).
const HISTORY_LIMIT: usize = 2000;

/// Template of the set as the Deployment would have written it.
fn template_without_hash(set: &ReplicaSet) -> PodTemplateSpec {
    let mut template = set
        .spec
        .as_ref()
        .and_then(|spec| spec.template.clone())
        .unwrap_or_default();
    if let Some(labels) = template.metadata.as_mut().and_then(|meta| meta.labels.as_mut()) {
        labels.remove(HASH_LABEL);
    }
    template
}

pub fn has_template_of(set: &ReplicaSet, deployment: &Deployment) -> bool {
    template_without_hash(set) == spec::of(deployment).template
}

/// The oldest set with the current template, so that several racing writers agree.
pub fn find_new<S: AsRef<ReplicaSet>>(deployment: &Deployment, sets: &[S]) -> Option<usize> {
    let matching = sets
        .iter()
        .enumerate()
        .filter(|(_, set)| has_template_of(set.as_ref(), deployment));
    let age = |set: &ReplicaSet| (set.metadata.creation_timestamp.clone(), set.metadata.name.clone());
    matching
        .min_by_key(|(_, set)| age(set.as_ref()))
        .map(|(index, _)| index)
}

/// The revision recorded on a Deployment or a ReplicaSet; 0 when there is none.
pub fn revision(meta: &ObjectMeta) -> i64 {
    let recorded = meta
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(REVISION));
    recorded.and_then(|revision| revision.parse().ok()).unwrap_or(0)
}

/// A short name for the template: equal templates have equal hashes, and a collision count tells unequal ones apart.
pub fn template_hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    let json = patch::to_value(template).to_string();
    let collisions = collisions.map(i32::to_le_bytes).unwrap_or_default();
    names::hash([json.as_bytes(), &collisions])
}

/// A new ReplicaSet for the current template, of size 0.
pub fn new_set(deployment: &Deployment, revision: i64) -> ReplicaSet {
    let spec = spec::of(deployment);
    let collisions = deployment
        .status
        .as_ref()
        .and_then(|status| status.collision_count);
    let hash = template_hash(&spec.template, collisions);
    let mut template = spec.template;
    let labels = template
        .metadata
        .get_or_insert_default()
        .labels
        .get_or_insert_default();
    labels.insert(HASH_LABEL.into(), hash.clone());
    let labels = labels.clone();
    let mut selector = spec.selector;
    selector
        .match_labels
        .get_or_insert_default()
        .insert(HASH_LABEL.into(), hash.clone());
    let mut set = ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", deployment.name_any())),
            namespace: deployment.namespace(),
            labels: Some(labels),
            owner_references: Some(vec![owners::controller_reference(deployment)]),
            ..Default::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(0),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    };
    set.metadata.annotations = Some(annotations(deployment, &set, revision));
    set
}

/// The annotations the new ReplicaSet must carry at `revision`: the Deployment's own, the revision and its history.
/// An existing set keeps the sizes noted on it: only scaling changes those.
pub fn annotations(deployment: &Deployment, set: &ReplicaSet, revision: i64) -> BTreeMap<String, String> {
    let mut annotations = set.metadata.annotations.clone().unwrap_or_default();
    for (key, value) in deployment.annotations() {
        if !NOT_COPIED.contains(&key.as_str()) {
            annotations.insert(key.clone(), value.clone());
        }
    }
    let recorded = self::revision(&set.metadata);
    if recorded < revision {
        if recorded > 0 {
            let history = annotations.entry(REVISION_HISTORY.into()).or_default();
            *history = lengthen(history, recorded);
        }
        annotations.insert(REVISION.into(), revision.to_string());
    }
    if set.metadata.uid.is_none() {
        annotations.extend(size_annotations(deployment));
    }
    annotations
}

fn lengthen(history: &str, recorded: i64) -> String {
    let mut entries: Vec<String> = history
        .split(',')
        .filter(|entry| !entry.is_empty())
        .map(str::to_owned)
        .collect();
    entries.push(recorded.to_string());
    while entries.join(",").len() > HISTORY_LIMIT {
        entries.remove(0);
    }
    entries.join(",")
}

/// What a ReplicaSet notes of the Deployment's size, for sharing out a later change in proportion.
pub fn size_annotations(deployment: &Deployment) -> BTreeMap<String, String> {
    let desired = spec::replicas(deployment);
    let most = desired.saturating_add(spec::max_surge(deployment));
    [
        (DESIRED_REPLICAS.to_owned(), desired.to_string()),
        (MAX_REPLICAS.to_owned(), most.to_string()),
    ]
    .into()
}

/// Old ReplicaSets without Pods beyond `revisionHistoryLimit`, the lowest revisions first.
pub fn superfluous<'a>(deployment: &Deployment, old: &[&'a ReplicaSet]) -> Vec<&'a ReplicaSet> {
    let Some(limit) = spec::of(deployment).revision_history_limit else {
        return Vec::new();
    };
    let mut sets: Vec<&ReplicaSet> = old
        .iter()
        .copied()
        .filter(|set| set.metadata.deletion_timestamp.is_none())
        .collect();
    let surplus = sets.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    sets.sort_by_key(|set| (revision(&set.metadata), set.metadata.creation_timestamp.clone()));
    sets.truncate(surplus);
    sets.retain(|set| {
        let observed = set
            .status
            .as_ref()
            .and_then(|status| status.observed_generation)
            .unwrap_or(0);
        spec::actual(set) == 0 && spec::size(set) == 0 && set.metadata.generation.unwrap_or(0) <= observed
    });
    sets
}

#[cfg(test)]
mod tests {
    use super::super::spec::fixtures::{deployment, set};
    use super::*;
    use serde_json::json;

    #[test]
    fn a_new_set_carries_the_hash_and_is_found_by_its_template() {
        let deployment = deployment(json!({"metadata": {"annotations": {"note": "x", REVISION: "7"}}}));
        let set = new_set(&deployment, 3);
        let hash = set.labels()[HASH_LABEL].clone();
        assert_eq!(set.name_any(), format!("web-{hash}"));
        let spec = set.spec.as_ref().expect("a spec");
        assert_eq!(
            spec.selector.match_labels.as_ref().expect("labels")[HASH_LABEL],
            hash
        );
        assert_eq!(
            (
                set.annotations()[REVISION].as_str(),
                set.annotations()["note"].as_str()
            ),
            ("3", "x")
        );
        assert_eq!(
            (
                set.annotations()[DESIRED_REPLICAS].as_str(),
                set.annotations()[MAX_REPLICAS].as_str()
            ),
            ("10", "10")
        );
        assert!(has_template_of(&set, &deployment));
        assert_eq!(find_new(&deployment, &[std::sync::Arc::new(set)]), Some(0));
    }

    #[test]
    fn a_collision_changes_the_hash() {
        let template = spec::of(&deployment(json!({}))).template;
        let hashes = [None, Some(1), Some(2)].map(|collisions| template_hash(&template, collisions));
        assert!(hashes[0] != hashes[1] && hashes[1] != hashes[2]);
    }

    #[test]
    fn a_set_used_again_keeps_its_history() {
        let deployment = deployment(json!({}));
        let mut old = set("web-1", 0, 0, 1);
        old.metadata.annotations = Some(
            [
                (REVISION.into(), "2".into()),
                (REVISION_HISTORY.into(), "1".into()),
            ]
            .into(),
        );
        let annotations = annotations(&deployment, &old, 5);
        assert_eq!(
            (
                annotations[REVISION].as_str(),
                annotations[REVISION_HISTORY].as_str()
            ),
            ("5", "1,2")
        );
        assert!(!annotations.contains_key(DESIRED_REPLICAS));
    }

    #[test]
    fn cleanup_spares_the_limit_and_what_still_has_pods() {
        let deployment = deployment(json!({"spec": {"revisionHistoryLimit": 1}}));
        let revised = |name: &str, revision: &str, size| {
            let mut set = set(name, size, size, 1);
            set.metadata.annotations = Some([(REVISION.into(), revision.into())].into());
            set
        };
        let sets = [revised("c", "10", 0), revised("a", "2", 0), revised("b", "3", 1)];
        let names: Vec<String> = superfluous(&deployment, &sets.iter().collect::<Vec<_>>())
            .iter()
            .map(|set| set.name_any())
            .collect();
        assert_eq!(names, ["a"]);
    }
}

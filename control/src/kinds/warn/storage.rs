//! Volumes and their classes.
use std::fmt::Display;

use serde_json::Value;

use super::{deprecated_label, pod};
use crate::kinds::quantity::Quantity;
use crate::kinds::view::View;

const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
const BETA_OPTIONS: &str = "volume.beta.kubernetes.io/mount-options";
/// Sources that nothing mounts any more: key, name in the warning, since when.
const GONE: [(&str, &str, &str); 8] = [
    (
        "photonPersistentDisk",
        "photonPersistentDisk",
        "deprecated in v1.11, non-functional in v1.16+",
    ),
    (
        "scaleIO",
        "scaleIO",
        "deprecated in v1.16, non-functional in v1.22+",
    ),
    (
        "flocker",
        "flocker",
        "deprecated in v1.22, non-functional in v1.25+",
    ),
    (
        "storageos",
        "storageOS",
        "deprecated in v1.22, non-functional in v1.25+",
    ),
    (
        "quobyte",
        "quobyte",
        "deprecated in v1.22, non-functional in v1.25+",
    ),
    (
        "glusterfs",
        "glusterfs",
        "deprecated in v1.25, non-functional in v1.26+",
    ),
    (
        "cephfs",
        "cephfs",
        "deprecated in v1.28, non-functional in v1.31+",
    ),
    ("rbd", "rbd", "deprecated in v1.28, non-functional in v1.31+"),
];
const GIT: &str = "deprecated in v1.11, and disabled by default in v1.33+";
/// Those of them that upstream does not tell about in a PersistentVolume.
const UNTOLD: [&str; 2] = ["flocker", "quobyte"];

/// The source of a Pod's volume at `path`.
pub(super) fn source(volume: &Value, path: impl Display) -> Vec<String> {
    let gone = GONE.iter().filter(|(key, ..)| volume.has(key));
    let mut told: Vec<String> = gone
        .map(|(_, name, why)| format!("{path}.{name}: {why}"))
        .collect();
    if volume.has("gitRepo") {
        told.push(format!("{path}.gitRepo: {GIT}"));
    }
    let template = volume.at("ephemeral.volumeClaimTemplate.spec");
    told.extend(claim_spec(
        template,
        &format!("{path}.ephemeral.volumeClaimTemplate.spec"),
    ));
    told
}

pub(super) fn volume(object: &Value) -> Vec<String> {
    let mut told = Vec::new();
    let annotations = object.at("metadata.annotations");
    for (key, why) in [
        (
            BETA_CLASS,
            "deprecated since v1.8; use \"storageClassName\" attribute instead",
        ),
        (
            BETA_OPTIONS,
            "deprecated since v1.31; use \"mountOptions\" attribute instead",
        ),
    ] {
        if annotations.get(key).is_some() {
            told.push(format!("metadata.annotations[{key}]: {why}"));
        }
    }
    if object.text("spec.persistentVolumeReclaimPolicy") == "Recycle" {
        told.push(
            "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended \
             approach is to use dynamic provisioning."
                .to_owned(),
        );
    }
    let terms = object.list("spec.nodeAffinity.required.nodeSelectorTerms");
    for (i, term) in terms.iter().enumerate() {
        let at = format!("spec.nodeAffinity.required.nodeSelectorTerms[{i}]");
        told.extend(pod::term_labels(term, false, &at));
    }
    let gone = GONE
        .iter()
        .filter(|(key, ..)| !UNTOLD.contains(key) && object.at("spec").has(key));
    told.extend(gone.map(|(_, name, why)| format!("spec.{name}: {why}")));
    told
}

pub(super) fn claim(object: &Value) -> Vec<String> {
    let mut told = Vec::new();
    if object.at("metadata.annotations").get(BETA_CLASS).is_some() {
        told.push(format!(
            "metadata.annotations[{BETA_CLASS}]: deprecated since v1.8; use \"storageClassName\" attribute instead"
        ));
    }
    told.extend(claim_spec(object.at("spec"), "spec"));
    told
}

/// The claims that a StatefulSet makes.
pub(super) fn claim_templates(set: &Value) -> Vec<String> {
    let templates = set.list("spec.volumeClaimTemplates").iter().enumerate();
    let mut told: Vec<String> = templates
        .flat_map(|(i, claim)| claim_spec(claim.at("spec"), &format!("spec.volumeClaimTemplates[{i}]")))
        .collect();
    if set
        .int("spec.revisionHistoryLimit")
        .is_some_and(|limit| limit < 0)
    {
        told.push(
            "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended"
                .to_owned(),
        );
    }
    told
}

fn claim_spec(spec: &Value, path: &str) -> Vec<String> {
    let fraction = |part: &&str| {
        let amount = spec.at("resources").at(part).get("storage")?.as_str()?;
        let quantity = Quantity::parse(amount).ok()?;
        (quantity.milli_value() % 1000 != 0).then(|| {
            format!(
                "{path}.resources.{part}[storage]: fractional byte value \"{quantity}\" is invalid, must be an integer"
            )
        })
    };
    ["requests", "limits"].iter().filter_map(fraction).collect()
}

pub(super) fn class(object: &Value) -> Vec<String> {
    let mut told = Vec::new();
    for (i, topology) in object.list("allowedTopologies").iter().enumerate() {
        for (j, expression) in topology.list("matchLabelExpressions").iter().enumerate() {
            let why = deprecated_label(expression.text("key"));
            let at = format!("allowedTopologies[{i}].matchLabelExpressions[{j}].key");
            told.extend(why.map(|why| format!("{at}: {why}")));
        }
    }
    told
}

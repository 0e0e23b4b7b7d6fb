//! Defaults of Deployments, ReplicaSets, DaemonSets, StatefulSets, ReplicationControllers and PodTemplates.
use serde_json::Value;

use super::{pod, storage};
use crate::kinds::view::{View, existing_mut, items_mut, object_mut, set_missing, set_zero};

/// Where `apps/v1` keeps the count of template changes that older versions had in the spec.
pub(in crate::kinds) const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

pub fn deployment(object: &mut Value) {
    pod::template(object);
    let Some(spec) = object_mut(object, "spec") else {
        return;
    };
    set_missing(spec, "replicas", 1);
    set_missing(spec, "revisionHistoryLimit", 10);
    set_missing(spec, "progressDeadlineSeconds", 600);
    if let Some(strategy) = object_mut(object, "spec.strategy") {
        set_zero(strategy, "type", "RollingUpdate");
    }
    if object.text("spec.strategy.type") == "RollingUpdate" {
        rolling_update(object);
    }
}

fn rolling_update(object: &mut Value) {
    if let Some(rolling) = object_mut(object, "spec.strategy.rollingUpdate") {
        set_missing(rolling, "maxUnavailable", "25%");
        set_missing(rolling, "maxSurge", "25%");
    }
}

pub fn replica_set(object: &mut Value) {
    pod::template(object);
    if let Some(spec) = object_mut(object, "spec") {
        set_missing(spec, "replicas", 1);
    }
}

pub fn daemon_set(object: &mut Value) {
    pod::template(object);
    if let Some(annotations) = object_mut(object, "metadata.annotations") {
        set_missing(annotations, TEMPLATE_GENERATION, "0");
    }
    let Some(strategy) = object_mut(object, "spec.updateStrategy") else {
        return;
    };
    set_zero(strategy, "type", "RollingUpdate");
    if object.text("spec.updateStrategy.type") == "RollingUpdate"
        && let Some(rolling) = object_mut(object, "spec.updateStrategy.rollingUpdate")
    {
        set_missing(rolling, "maxUnavailable", 1);
        set_missing(rolling, "maxSurge", 0);
    }
    if let Some(spec) = object_mut(object, "spec") {
        set_missing(spec, "revisionHistoryLimit", 10);
    }
}

pub fn stateful_set(object: &mut Value) {
    pod::template(object);
    stateful_strategy(object);
    if let Some(policy) = object_mut(object, "spec.persistentVolumeClaimRetentionPolicy") {
        set_zero(policy, "whenDeleted", "Retain");
        set_zero(policy, "whenScaled", "Retain");
    }
    let Some(spec) = object_mut(object, "spec") else {
        return;
    };
    set_zero(spec, "podManagementPolicy", "OrderedReady");
    set_missing(spec, "replicas", 1);
    set_missing(spec, "revisionHistoryLimit", 10);
    items_mut(spec, "volumeClaimTemplates").for_each(storage::claim_template);
}

/// A strategy that was named keeps what it says; only one that was not gets a rolling update.
fn stateful_strategy(object: &mut Value) {
    let named = !object.text("spec.updateStrategy.type").is_empty();
    let Some(strategy) = object_mut(object, "spec.updateStrategy") else {
        return;
    };
    set_zero(strategy, "type", "RollingUpdate");
    if !named {
        set_missing(strategy, "rollingUpdate", Value::Object(Default::default()));
    }
    if object.text("spec.updateStrategy.type") == "RollingUpdate"
        && let Some(rolling) = existing_mut(object, "spec.updateStrategy.rollingUpdate")
    {
        set_missing(rolling, "partition", 0);
    }
}

pub fn replication_controller(object: &mut Value) {
    if object.has("spec.template") {
        pod::template(object);
    }
    let labels = object.at("spec.template.metadata.labels").clone();
    if labels.is_object() {
        if object.map("spec.selector").is_none_or(serde_json::Map::is_empty)
            && let Some(spec) = object_mut(object, "spec")
        {
            spec.insert("selector".into(), labels.clone());
        }
        own_labels(object, labels);
    }
    if let Some(spec) = object_mut(object, "spec") {
        set_missing(spec, "replicas", 1);
    }
}

/// An object without labels gets those of its template.
pub(in crate::kinds) fn own_labels(object: &mut Value, labels: Value) {
    if labels.is_object()
        && object
            .map("metadata.labels")
            .is_none_or(serde_json::Map::is_empty)
        && let Some(meta) = object_mut(object, "metadata")
    {
        meta.insert("labels".into(), labels);
    }
}

pub fn pod_template(object: &mut Value) {
    pod::spec_at(object, "template.spec");
}

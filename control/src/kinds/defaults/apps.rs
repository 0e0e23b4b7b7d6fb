//! Defaults of Deployments and ReplicaSets.
use serde_json::Value;

use super::pod;
use crate::kinds::view::{View, object_mut, set_missing, set_zero};

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

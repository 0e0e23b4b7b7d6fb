//! Defaults of Jobs and CronJobs.
use serde_json::Value;

use super::{apps, pod};
use crate::kinds::view::{View, existing_mut, items_mut, object_mut, set_missing, set_zero};

pub fn job(object: &mut Value) {
    pod::template(object);
    let (policy, per_index) = (
        object.has("spec.podFailurePolicy"),
        object.has("spec.backoffLimitPerIndex"),
    );
    let labels = object.at("spec.template.metadata.labels").clone();
    apps::own_labels(object, labels);
    let Some(spec) = object_mut(object, "spec") else {
        return;
    };
    let unset = |key: &str, spec: &serde_json::Map<String, Value>| spec.get(key).is_none_or(Value::is_null);
    if unset("completions", spec) && unset("parallelism", spec) {
        spec.insert("completions".into(), 1.into());
    }
    set_missing(spec, "parallelism", 1);
    set_missing(spec, "backoffLimit", if per_index { i32::MAX } else { 6 });
    set_missing(spec, "completionMode", "NonIndexed");
    set_missing(spec, "suspend", false);
    let replacement = if policy { "Failed" } else { "TerminatingOrFailed" };
    set_missing(spec, "podReplacementPolicy", replacement);
    set_missing(spec, "manualSelector", false);
    failure_conditions(object, "spec.podFailurePolicy");
}

pub fn cron_job(object: &mut Value) {
    pod::spec_at(object, "spec.jobTemplate.spec.template.spec");
    failure_conditions(object, "spec.jobTemplate.spec.podFailurePolicy");
    let Some(spec) = object_mut(object, "spec") else {
        return;
    };
    set_zero(spec, "concurrencyPolicy", "Allow");
    set_missing(spec, "suspend", false);
    set_missing(spec, "successfulJobsHistoryLimit", 3);
    set_missing(spec, "failedJobsHistoryLimit", 1);
}

/// A condition that a failure policy names is one that holds.
fn failure_conditions(object: &mut Value, path: &str) {
    let Some(policy) = existing_mut(object, path) else {
        return;
    };
    for rule in items_mut(policy, "rules") {
        items_mut(rule, "onPodConditions").for_each(|condition| set_zero(condition, "status", "True"));
    }
}

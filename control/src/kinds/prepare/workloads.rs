//! DaemonSets, Jobs, PodTemplates: what the server writes into them itself.
use serde_json::{Map, Value};

use super::{STATUS, split_status, without_status};
use crate::kinds::defaults::apps::{TEMPLATE_GENERATION, own_labels};
use crate::kinds::view::{View, object_mut};

const UID_LABEL: &str = "batch.kubernetes.io/controller-uid";
const OLD_UID_LABEL: &str = "controller-uid";
const NAME_LABEL: &str = "batch.kubernetes.io/job-name";
const OLD_NAME_LABEL: &str = "job-name";

pub fn daemon_set_create(object: &mut Value) {
    without_status(object);
    let count = template_generation(object).max(1);
    set_template_generation(object, count);
}

pub fn daemon_set_update(subresource: Option<&str>, new: &mut Value, old: &Value) {
    split_status(subresource, new, old);
    if subresource != Some(STATUS) {
        let changed = new.at("spec.template") != old.at("spec.template");
        set_template_generation(new, template_generation(old) + i64::from(changed));
    }
}

fn template_generation(object: &Value) -> i64 {
    let annotations = object.at("metadata.annotations");
    let count = annotations.get(TEMPLATE_GENERATION).and_then(Value::as_str);
    count.and_then(|count| count.parse().ok()).unwrap_or(0)
}

fn set_template_generation(object: &mut Value, count: i64) {
    if let Some(annotations) = object_mut(object, "metadata.annotations") {
        annotations.insert(TEMPLATE_GENERATION.into(), count.to_string().into());
    }
}

pub fn job_create(object: &mut Value) {
    without_status(object);
    if !object.flag("spec.manualSelector") {
        generate_selector(object);
    }
    let labels = object.at("spec.template.metadata.labels").clone();
    own_labels(object, labels);
}

/// A Job picks its Pods by its own uid; what the client wrote is left for validation to refuse.
fn generate_selector(job: &mut Value) {
    let (uid, name) = (
        job.text("metadata.uid").to_owned(),
        job.text("metadata.name").to_owned(),
    );
    if let Some(labels) = object_mut(job, "spec.template.metadata.labels") {
        for (key, value) in [
            (OLD_NAME_LABEL, &name),
            (NAME_LABEL, &name),
            (OLD_UID_LABEL, &uid),
            (UID_LABEL, &uid),
        ] {
            keep_or(labels, key, value);
        }
    }
    if let Some(selected) = object_mut(job, "spec.selector.matchLabels") {
        keep_or(selected, UID_LABEL, &uid);
    }
}

fn keep_or(map: &mut Map<String, Value>, key: &str, value: &str) {
    map.entry(key).or_insert_with(|| value.into());
}

/// A PodTemplate has no spec.
pub fn pod_template_changed(new: &Value, old: &Value) -> bool {
    new.at("template") != old.at("template")
}

/// Nor has a webhook configuration.
pub fn webhooks_changed(new: &Value, old: &Value) -> bool {
    new.at("webhooks") != old.at("webhooks")
}

/// What matters of a PriorityClass never changes.
pub fn never_changed(_: &Value, _: &Value) -> bool {
    false
}

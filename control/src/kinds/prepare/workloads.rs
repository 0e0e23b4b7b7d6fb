//! DaemonSets, Jobs, PodTemplates: what the server writes into them itself.
use std::collections::HashSet;

use serde_json::{Map, Value};

use super::{STATUS, split_status, without_status};
use crate::kinds::defaults::apps::{TEMPLATE_GENERATION, own_labels};
use crate::kinds::meta;
use crate::kinds::view::{View, existing_mut, object_mut, set_missing};

const UID_LABEL: &str = "batch.kubernetes.io/controller-uid";
const OLD_UID_LABEL: &str = "controller-uid";
const NAME_LABEL: &str = "batch.kubernetes.io/job-name";
const OLD_NAME_LABEL: &str = "job-name";
const ELECTIONS: [&str; 2] = ["strategy", "preferredHolder"];
const HOST: &str = "kubernetes.io/hostname";

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
    let before = object.at("spec.template.metadata.labels").clone();
    if !object.flag("spec.manualSelector") {
        generate_selector(object);
    }
    // Labels that a Job has from its template are its template's with what is added to them.
    let shared = before.is_object() && before == *object.at("metadata.labels");
    if shared && let Some(meta) = object_mut(object, "metadata") {
        meta.remove("labels");
    }
    let labels = object.at("spec.template.metadata.labels").clone();
    own_labels(object, labels);
}

/// What KEP-961 adds is off in this version: a set that does not have it does not get it.
pub fn stateful_set_create(object: &mut Value) {
    without_status(object);
    stateful_limit(object, &Value::Null);
}

pub fn stateful_set_update(subresource: Option<&str>, new: &mut Value, old: &Value) {
    split_status(subresource, new, old);
    stateful_limit(new, old);
}

fn stateful_limit(new: &mut Value, old: &Value) {
    const ROLLING: &str = "spec.updateStrategy.rollingUpdate";
    if !old.at(ROLLING).has("maxUnavailable")
        && let Some(rolling) = existing_mut(new, ROLLING)
    {
        rolling.remove("maxUnavailable");
    }
}

/// Coordinated elections (KEP-4355) are off in this version.
pub fn lease_create(object: &mut Value) {
    lease_update(None, object, &Value::Null);
}

pub fn lease_update(_: Option<&str>, new: &mut Value, old: &Value) {
    if let Some(spec) = existing_mut(new, "spec") {
        spec.retain(|key, _| !ELECTIONS.contains(&key.as_str()) || old.at("spec").has(key));
    }
}

/// A claim says nothing more of devices that it gave back.
pub fn resource_claim_update(subresource: Option<&str>, new: &mut Value, old: &Value) {
    split_status(subresource, new, old);
    let results = "status.allocation.devices.results";
    let id = |device: &Value| ["driver", "pool", "device", "shareID"].map(|key| device.at(key).clone());
    let kept: HashSet<_> = new.list(results).iter().map(id).collect();
    let gone: HashSet<_> = old
        .list(results)
        .iter()
        .map(id)
        .filter(|id| !kept.contains(id))
        .collect();
    if let Some(status) = existing_mut(new, STATUS)
        && let Some(devices) = status.get_mut("devices").and_then(Value::as_array_mut)
    {
        devices.retain(|device| !gone.contains(&id(device)));
        if devices.is_empty() {
            status.remove("devices");
        }
    }
}

/// Topology is written into its own fields: the older one is dropped from what changes.
pub fn endpoint_slice_create(object: &mut Value) {
    endpoint_slice_update(None, object, &Value::Null);
}

/// The generation counts what was asked for, also where it is dropped.
pub fn endpoint_slice_update(_: Option<&str>, new: &mut Value, old: &Value) {
    if old.is_object() && super::objects::endpoint_slice_changed(new, old) {
        meta::set_generation(new, meta::generation(old) + 1);
    }
    if new.at("endpoints") == old.at("endpoints") {
        return;
    }
    let before = old.list("endpoints").iter();
    let before: HashSet<&Value> = before
        .filter_map(|e| e.at("deprecatedTopology").get(HOST))
        .collect();
    let endpoints = new.get_mut("endpoints").and_then(Value::as_array_mut);
    for endpoint in endpoints.into_iter().flatten().filter_map(Value::as_object_mut) {
        let host = endpoint
            .remove("deprecatedTopology")
            .and_then(|mut t| Some(t.get_mut(HOST)?.take()));
        if let Some(name) = host.filter(|name| before.contains(name)) {
            set_missing(endpoint, "nodeName", name);
        }
    }
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

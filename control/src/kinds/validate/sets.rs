//! DaemonSets, StatefulSets, ReplicationControllers, ControllerRevisions and PodTemplates.
use serde_json::{Map, Value};

use super::apps::{
    amount, collisions, count_or_percent, is_empty, kept_selector, over_all, strategy_shown,
    template_only_always,
};
use super::{complain, immutable, not_negative, pod, storage};
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::view::View;
use crate::kinds::{labels, names};

const MISMATCH: &str = "`selector` does not match template `labels`";
const FROZEN: &str = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
    'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
/// What an update of a StatefulSet may change.
const CHANGEABLE: [&str; 7] = [
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

pub fn daemon_set(object: &Value) -> FieldErrors {
    let spec = object.at("spec");
    let selector = spec.at("selector");
    let mut errors = labels::validate_selector(selector, "spec.selector");
    let own = spec.at("template.metadata.labels");
    if labels::is_usable(selector) && !labels::matches(selector, own) {
        errors.push(FieldError::invalid(
            "spec.template.metadata.labels",
            own.clone(),
            MISMATCH,
        ));
    }
    if selector.is_object() && is_empty(selector) {
        let detail = "empty selector is invalid for daemonset";
        errors.push(FieldError::invalid("spec.selector", selector.clone(), detail));
    }
    errors.extend(pod::template(spec.at("template"), "spec.template"));
    errors.extend(template_only_always(spec.at("template"), "DaemonSet"));
    errors.extend(not_negative(spec, "minReadySeconds", "spec"));
    errors.extend(daemon_strategy(spec.at("updateStrategy")));
    errors.extend(not_negative(spec, "revisionHistoryLimit", "spec"));
    errors
}

fn daemon_strategy(strategy: &Value) -> FieldErrors {
    let path = "spec.updateStrategy.rollingUpdate";
    match strategy.text("type") {
        "OnDelete" => Vec::new(),
        "RollingUpdate" if !strategy.has("rollingUpdate") => vec![FieldError::required(path, "")],
        "RollingUpdate" => daemon_rolling(strategy.at("rollingUpdate"), path),
        _ => vec![FieldError {
            bad_value: strategy_shown(strategy),
            ..FieldError::not_supported("spec.updateStrategy", Value::Null, &["RollingUpdate", "OnDelete"])
        }],
    }
}

fn daemon_rolling(rolling: &Value, path: &str) -> FieldErrors {
    let mut errors = Vec::new();
    for key in ["maxUnavailable", "maxSurge"] {
        errors.extend(count_or_percent(rolling.at(key), &format!("{path}.{key}")));
    }
    for key in ["maxUnavailable", "maxSurge"] {
        errors.extend(over_all(rolling.at(key), &format!("{path}.{key}")));
    }
    let some = |key: &str| amount(rolling.at(key)).unwrap_or(0) != 0;
    match (some("maxUnavailable"), some("maxSurge")) {
        (true, true) => errors.push(FieldError::invalid(
            format!("{path}.maxSurge"),
            rolling.at("maxSurge").clone(),
            "may not be set when maxUnavailable is non-zero",
        )),
        (false, false) => errors.push(FieldError::required(
            format!("{path}.maxUnavailable"),
            "cannot be 0 when maxSurge is 0",
        )),
        _ => {}
    }
    errors
}

pub fn daemon_set_update(subresource: Option<&str>, new: &Value, old: &Value) -> FieldErrors {
    match subresource {
        Some("status") => {
            let mut errors = counts(
                new.at("status"),
                &[
                    "currentNumberScheduled",
                    "numberMisscheduled",
                    "desiredNumberScheduled",
                    "numberReady",
                    "observedGeneration",
                    "updatedNumberScheduled",
                    "numberAvailable",
                    "numberUnavailable",
                    "collisionCount",
                ],
            );
            errors.extend(collisions(new, old));
            errors
        }
        _ => {
            let mut errors: FieldErrors = kept_selector(new, old).into_iter().collect();
            errors.extend(daemon_set(new));
            errors
        }
    }
}

/// Counts of a status that may not be negative.
fn counts(status: &Value, keys: &[&str]) -> FieldErrors {
    keys.iter()
        .filter_map(|key| not_negative(status, key, "status"))
        .collect()
}

pub fn stateful_set(object: &Value) -> FieldErrors {
    stateful_spec(object.at("spec"), true)
}

fn stateful_spec(spec: &Value, new: bool) -> FieldErrors {
    let mut errors: FieldErrors = management(spec).into_iter().collect();
    errors.extend(stateful_strategy(spec.at("updateStrategy")));
    let retention = "spec.persistentVolumeClaimRetentionPolicy";
    for key in ["whenDeleted", "whenScaled"] {
        let policy = spec.at("persistentVolumeClaimRetentionPolicy").text(key);
        if !["Retain", "Delete"].contains(&policy) {
            let at = format!("{retention}.{key}");
            errors.push(FieldError::not_supported(at, policy, &["Retain", "Delete"]));
        }
    }
    if new {
        for (i, claim) in spec.list("volumeClaimTemplates").iter().enumerate() {
            let at = format!("spec.volumeClaimTemplates[{i}].spec");
            errors.extend(storage::claim_spec(claim.at("spec"), &at));
        }
    }
    errors.extend(not_negative(spec, "replicas", "spec"));
    errors.extend(not_negative(spec, "minReadySeconds", "spec"));
    errors.extend(not_negative(spec.at("ordinals"), "start", "spec.ordinals"));
    let service = spec.text("serviceName");
    if new && !service.is_empty() {
        errors.extend(complain("spec.serviceName", service, names::label(service)));
    }
    errors.extend(stateful_selector(spec));
    errors.extend(template_only_always(spec.at("template"), "StatefulSet"));
    errors
}

fn management(spec: &Value) -> Option<FieldError> {
    let path = "spec.podManagementPolicy";
    match spec.text("podManagementPolicy") {
        "" => Some(FieldError::required(path, "")),
        "OrderedReady" | "Parallel" => None,
        other => Some(FieldError::invalid(
            path,
            other,
            "must be 'OrderedReady' or 'Parallel'",
        )),
    }
}

fn stateful_strategy(strategy: &Value) -> FieldErrors {
    let path = "spec.updateStrategy.rollingUpdate";
    let rolling = strategy.at("rollingUpdate");
    match strategy.text("type") {
        "" => vec![FieldError::required("spec.updateStrategy", "")],
        "OnDelete" if !rolling.is_null() => vec![FieldError::invalid_shown(
            path,
            partition_shown(rolling),
            "only allowed for updateStrategy 'RollingUpdate'",
        )],
        "OnDelete" => Vec::new(),
        "RollingUpdate" => stateful_rolling(rolling, path),
        kind => {
            let rolling = match rolling {
                Value::Null => "null".to_owned(),
                rolling => partition_shown(rolling),
            };
            let shown = format!("{{\"Type\":{},\"RollingUpdate\":{rolling}}}", Value::from(kind));
            let detail = "must be 'RollingUpdate' or 'OnDelete'";
            vec![FieldError::invalid_shown("spec.updateStrategy", shown, detail)]
        }
    }
}

/// A rolling update as upstream shows it.
fn partition_shown(rolling: &Value) -> String {
    format!(
        "{{\"Partition\":{},\"MaxUnavailable\":{}}}",
        rolling.int("partition").unwrap_or(0),
        rolling.at("maxUnavailable")
    )
}

fn stateful_rolling(rolling: &Value, path: &str) -> FieldErrors {
    let mut errors: FieldErrors = not_negative(rolling, "partition", path).into_iter().collect();
    let most = rolling.at("maxUnavailable");
    if !most.is_null() {
        let at = format!("{path}.maxUnavailable");
        errors.extend(count_or_percent(most, &at));
        if amount(most) == Some(0) {
            errors.push(FieldError::invalid(at.clone(), most.clone(), "cannot be 0"));
        }
        errors.extend(over_all(most, &at));
    }
    errors
}

fn stateful_selector(spec: &Value) -> FieldErrors {
    let selector = spec.at("selector");
    let mut errors = Vec::new();
    if selector.is_null() {
        errors.push(FieldError::required("spec.selector", ""));
    } else {
        errors.extend(labels::validate_selector(selector, "spec.selector"));
        if is_empty(selector) {
            let detail = "empty selector is invalid for statefulset";
            errors.push(FieldError::invalid("spec.selector", selector.clone(), detail));
        }
    }
    if !labels::is_usable(selector) {
        errors.push(FieldError::invalid("spec.selector", selector.clone(), ""));
        return errors;
    }
    let template = spec.at("template");
    let own = template.at("metadata.labels");
    if !labels::matches(selector, own) {
        let path = "spec.template.metadata.labels";
        errors.push(FieldError::invalid(path, own.clone(), MISMATCH));
    }
    errors.extend(pod::template(&with_claims(spec), "spec.template"));
    // Upstream looks at the metadata twice.
    errors.extend(pod::template_metadata(template, "spec.template"));
    errors
}

/// The template with a volume for each claim, and without the names that the controller sets.
fn with_claims(spec: &Value) -> Value {
    let mut template = spec.at("template").clone();
    let claims = spec
        .list("volumeClaimTemplates")
        .iter()
        .map(|c| c.text("metadata.name"));
    let claims: std::collections::BTreeSet<&str> = claims.collect();
    let own = template.list("spec.volumes").to_vec();
    let mut volumes: Vec<Value> = claims
        .iter()
        .map(|name| serde_json::json!({"name": name, "persistentVolumeClaim": {"claimName": name}}))
        .collect();
    volumes.extend(own.into_iter().filter(|v| !claims.contains(&v.text("name"))));
    if let Some(Value::Object(pod)) = template.get_mut("spec") {
        pod.remove("subdomain");
        pod.remove("hostname");
        if !volumes.is_empty() {
            pod.insert("volumes".into(), volumes.into());
        }
    }
    template
}

pub fn stateful_set_update(subresource: Option<&str>, new: &Value, old: &Value) -> FieldErrors {
    if subresource == Some("status") {
        let mut errors = stateful_status(new.at("status"));
        errors.extend(collisions(new, old));
        return errors;
    }
    let mut errors = stateful_spec(new.at("spec"), false);
    if fixed_part(new) != fixed_part(old) {
        errors.push(FieldError::forbidden("spec", FROZEN));
    }
    errors
}

fn fixed_part(object: &Value) -> Map<String, Value> {
    let mut spec = object.map("spec").cloned().unwrap_or_default();
    spec.retain(|key, _| !CHANGEABLE.contains(&key.as_str()));
    spec
}

fn stateful_status(status: &Value) -> FieldErrors {
    const PARTS: [&str; 4] = [
        "readyReplicas",
        "currentReplicas",
        "updatedReplicas",
        "availableReplicas",
    ];
    let mut errors = counts(status, &["replicas"]);
    errors.extend(counts(status, &PARTS));
    errors.extend(counts(status, &["observedGeneration", "collisionCount"]));
    errors.extend(above(status, &PARTS, "replicas", "status.replicas"));
    let ready = "status.readyReplicas";
    errors.extend(above(status, &["availableReplicas"], "readyReplicas", ready));
    errors
}

/// Counts greater than the one they are part of.
fn above(status: &Value, parts: &[&str], all: &str, name: &str) -> FieldErrors {
    let all = status.int(all).unwrap_or(0);
    let detail = format!("cannot be greater than {name}");
    let over = parts
        .iter()
        .filter_map(|key| Some((key, status.int(key).filter(|n| *n > all)?)));
    over.map(|(key, count)| FieldError::invalid(format!("status.{key}"), count, detail.as_str()))
        .collect()
}

pub fn replication_controller(object: &Value) -> FieldErrors {
    let spec = object.at("spec");
    let mut errors: FieldErrors = not_negative(spec, "minReadySeconds", "spec")
        .into_iter()
        .collect();
    if spec.map("selector").is_none_or(Map::is_empty) {
        errors.push(FieldError::required("spec.selector", ""));
    }
    errors.extend(not_negative(spec, "replicas", "spec"));
    let template = spec.at("template");
    if template.is_null() {
        errors.push(FieldError::required("spec.template", ""));
        return errors;
    }
    let own = template.at("metadata.labels");
    let selected = |(key, value): (&String, &Value)| own.get(key) == Some(value);
    if !spec.map("selector").into_iter().flatten().all(selected) {
        let path = "spec.template.metadata.labels";
        errors.push(FieldError::invalid(path, own.clone(), MISMATCH));
    }
    errors.extend(pod::template(template, "spec.template"));
    errors.extend(template_only_always(template, "ReplicationController"));
    errors
}

pub fn replication_controller_update(subresource: Option<&str>, new: &Value, _: &Value) -> FieldErrors {
    if subresource != Some("status") {
        return replication_controller(new);
    }
    const PARTS: [&str; 3] = ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"];
    let status = new.at("status");
    let mut errors = counts(status, &["replicas"]);
    errors.extend(counts(status, &PARTS));
    errors.extend(counts(status, &["observedGeneration"]));
    errors.extend(above(status, &PARTS, "replicas", "status.replicas"));
    errors.extend(above(
        status,
        &["availableReplicas"],
        "readyReplicas",
        "readyReplicas",
    ));
    errors
}

pub fn controller_revision(object: &Value) -> FieldErrors {
    let mut errors = revision_number(object);
    match object.at("data") {
        Value::Object(_) => {}
        Value::Null => errors.push(FieldError::required("data", "data is mandatory")),
        _ => errors.push(FieldError::required("data", "data must be a valid JSON object")),
    }
    errors
}

fn revision_number(object: &Value) -> FieldErrors {
    let negative = object.int("revision").filter(|n| *n < 0);
    let error = |n| FieldError::invalid("revision", n, super::NOT_NEGATIVE);
    negative.map(error).into_iter().collect()
}

pub fn controller_revision_update(_: Option<&str>, new: &Value, old: &Value) -> FieldErrors {
    let mut errors = revision_number(new);
    errors.extend(immutable(new, old, "data"));
    errors
}

pub fn pod_template(object: &Value) -> FieldErrors {
    pod::template(object.at("template"), "template")
}

pub fn pod_template_update(_: Option<&str>, new: &Value, _: &Value) -> FieldErrors {
    pod::template(new.at("template"), "template")
}

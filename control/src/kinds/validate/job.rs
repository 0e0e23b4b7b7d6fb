//! Jobs: counts, modes, and what the server made of them. Their policies and updates have files of their own.
use serde_json::Value;

use super::job_policy::{failure_policy, success_policy};
use super::{not_negative, pod};
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::view::View;
use crate::kinds::{domain_path, labels, names};

/// Upstream's limits of Jobs with indices (KEP-3850).
const MOST_PARALLEL: i64 = 100_000;
const MOST_FAILED: i64 = 100_000;
const MANY: i64 = 100_000;
const PARALLEL_OF_MANY: i64 = 10_000;
const MANAGER: usize = 63;
pub(super) const PREFIXED: [&str; 2] = [
    "batch.kubernetes.io/controller-uid",
    "batch.kubernetes.io/job-name",
];
pub(super) const INDEXED: &str = "requires indexed completion mode";

pub fn create(object: &Value) -> FieldErrors {
    let mut errors = generated(object, true);
    errors.extend(spec(object.at("spec"), "spec"));
    errors.extend(selector(object.at("spec")));
    errors.extend(host_names(object));
    errors
}

/// The labels and the selector that the server made are as it made them.
/// Jobs from before there were `prefixed` labels need none.
pub(super) fn generated(job: &Value, prefixed: bool) -> FieldErrors {
    if job.flag("spec.manualSelector") || !job.has("spec.selector") {
        return Vec::new();
    }
    let (uid, name) = (job.text("metadata.uid"), job.text("metadata.name"));
    let own = job.at("spec.template.metadata.labels");
    let path = "spec.template.metadata.labels";
    let wanted = [
        ("controller-uid", uid),
        ("job-name", name),
        ("batch.kubernetes.io/controller-uid", uid),
        ("batch.kubernetes.io/job-name", name),
    ];
    let mut errors = Vec::new();
    let wanted = wanted
        .into_iter()
        .filter(|(key, _)| prefixed || !PREFIXED.contains(key));
    for (key, value) in wanted.clone() {
        match own.get(key).and_then(Value::as_str) {
            None => {
                let detail = format!("must be '{value}'");
                errors.push(FieldError::required(format!("{path}[{key}]"), detail));
            }
            Some(said) if said != value => {
                let detail = format!("must be '{value}'");
                errors.push(FieldError::invalid(format!("{path}[{key}]"), own.clone(), detail));
            }
            Some(_) => {}
        }
    }
    let all: Value = wanted.map(|(k, v)| (k.to_owned(), Value::from(v))).collect();
    if labels::is_usable(job.at("spec.selector")) && !labels::matches(job.at("spec.selector"), &all) {
        let detail = "`selector` not auto-generated";
        errors.push(FieldError::invalid(
            "spec.selector",
            job.at("spec.selector").clone(),
            detail,
        ));
    }
    errors
}

pub(super) fn selector(spec: &Value) -> FieldErrors {
    let (selector, own) = (spec.at("selector"), spec.at("template.metadata.labels"));
    let mut errors = match selector.is_null() {
        true => vec![FieldError::required("spec.selector", "")],
        false => labels::validate_selector(selector, "spec.selector"),
    };
    if labels::is_usable(selector) && !labels::matches(selector, own) {
        let detail = "`selector` does not match template `labels`";
        errors.push(FieldError::invalid(
            "spec.template.metadata.labels",
            own.clone(),
            detail,
        ));
    }
    errors
}

/// The highest index is part of a Pod's host name.
pub(super) fn host_names(job: &Value) -> FieldErrors {
    let (name, last) = (
        job.text("metadata.name"),
        job.int("spec.completions").unwrap_or(0) - 1,
    );
    if job.text("spec.completionMode") != "Indexed" || last < 0 {
        return Vec::new();
    }
    let host = format!("{name}-{last}");
    let detail = format!("will not able to create pod with invalid DNS label: {host}");
    match names::label(&host).is_empty() {
        true => Vec::new(),
        false => vec![FieldError::invalid("metadata.name", name, detail)],
    }
}

/// The spec of a Job, also inside a CronJob.
pub(super) fn spec(spec: &Value, path: &str) -> FieldErrors {
    let mut errors = Vec::new();
    for key in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        errors.extend(not_negative(spec, key, path));
    }
    if spec.has("maxFailedIndexes") && !spec.has("backoffLimitPerIndex") {
        let detail = "when maxFailedIndexes is specified";
        errors.push(FieldError::required(
            format!("{path}.backoffLimitPerIndex"),
            detail,
        ));
    }
    if let Some(manager) = spec.at("managedBy").as_str() {
        errors.extend(managed_by(manager, &format!("{path}.managedBy")));
    }
    errors.extend(mode(spec, path));
    if spec.has("podFailurePolicy") {
        errors.extend(failure_policy(spec, &format!("{path}.podFailurePolicy")));
    }
    if spec.has("successPolicy") {
        errors.extend(success_policy(spec, &format!("{path}.successPolicy")));
    }
    errors.extend(replacement(spec, &format!("{path}.podReplacementPolicy")));
    errors.extend(pod::template(spec.at("template"), &format!("{path}.template")));
    errors.extend(restart_policy(
        spec,
        &format!("{path}.template.spec.restartPolicy"),
    ));
    errors
}

fn managed_by(manager: &str, path: &str) -> FieldErrors {
    let mut errors = domain_path(path, manager);
    errors.extend((manager.len() > MANAGER).then(|| FieldError::too_long(path, MANAGER)));
    errors
}

fn mode(spec: &Value, path: &str) -> FieldErrors {
    match spec.at("completionMode").as_str() {
        Some("Indexed") => indexed(spec, path),
        None | Some("NonIndexed") => ["backoffLimitPerIndex", "maxFailedIndexes"]
            .iter()
            .filter(|key| spec.has(key))
            .map(|key| FieldError::invalid(format!("{path}.{key}"), spec.at(key).clone(), INDEXED))
            .collect(),
        Some(other) => vec![FieldError::not_supported(
            format!("{path}.completionMode"),
            other,
            &["NonIndexed", "Indexed"],
        )],
    }
}

fn indexed(spec: &Value, path: &str) -> FieldErrors {
    let (completions, parallel, failed) = (
        spec.int("completions"),
        spec.int("parallelism"),
        spec.int("maxFailedIndexes"),
    );
    let mut errors = Vec::new();
    let at = |key: &str| format!("{path}.{key}");
    if completions.is_none() {
        let detail = "when completion mode is Indexed";
        errors.push(FieldError::required(at("completions"), detail));
    }
    if let Some(n) = parallel.filter(|n| *n > MOST_PARALLEL) {
        let detail = format!("must be less than or equal to {MOST_PARALLEL} when completion mode is Indexed");
        errors.push(FieldError::invalid(at("parallelism"), n, detail));
    }
    if let (Some(all), Some(n)) = (completions, failed)
        && n > all
    {
        let detail = "must be less than or equal to completions";
        errors.push(FieldError::invalid(at("maxFailedIndexes"), n, detail));
    }
    if let Some(n) = failed.filter(|n| *n > MOST_FAILED) {
        let detail = format!("must be less than or equal to {MOST_FAILED}");
        errors.push(FieldError::invalid(at("maxFailedIndexes"), n, detail));
    }
    if completions.is_some_and(|n| n > MANY) && spec.has("backoffLimitPerIndex") {
        errors.extend(many(parallel, failed, path));
    }
    errors
}

/// A Job of very many indices with limits for each of them.
fn many(parallel: Option<i64>, failed: Option<i64>, path: &str) -> FieldErrors {
    let detail = format!(
        "must be less than or equal to {PARALLEL_OF_MANY} when completions are above {MANY} and used with backoff \
         limit per index"
    );
    let mut errors = Vec::new();
    if failed.is_none() {
        let detail = format!("must be specified when completions is above {MANY}");
        errors.push(FieldError::required(format!("{path}.maxFailedIndexes"), detail));
    }
    for (key, value) in [("parallelism", parallel), ("maxFailedIndexes", failed)] {
        if let Some(n) = value.filter(|n| *n > PARALLEL_OF_MANY) {
            errors.push(FieldError::invalid(format!("{path}.{key}"), n, detail.as_str()));
        }
    }
    errors
}

fn restart_policy(spec: &Value, path: &str) -> Option<FieldError> {
    match spec.text("template.spec.restartPolicy") {
        "Always" | "" => {
            let detail = "valid values: \"OnFailure\", \"Never\"";
            Some(FieldError::required(path, detail))
        }
        "OnFailure" if spec.has("podFailurePolicy") => {
            let detail = "only \"Never\" is supported when podFailurePolicy is specified";
            Some(FieldError::invalid(path, "OnFailure", detail))
        }
        "OnFailure" | "Never" => None,
        other => Some(FieldError::not_supported(path, other, &["OnFailure", "Never"])),
    }
}

fn replacement(spec: &Value, path: &str) -> Option<FieldError> {
    let policy = spec.at("podReplacementPolicy").as_str()?;
    let supported: &[&str] = match spec.has("podFailurePolicy") {
        true => &["Failed"],
        false => &["Failed", "TerminatingOrFailed"],
    };
    (!supported.contains(&policy)).then(|| FieldError::not_supported(path, policy, supported))
}

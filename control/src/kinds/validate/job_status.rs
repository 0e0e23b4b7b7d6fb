//! What a Job's controller may write into its status: counters and conditions go one way only.
use serde_json::Value;

use super::{Seen, indexes, not_negative};
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::view::View;

const CONDITIONS: &str = "status.conditions";

pub(super) fn update(new: &Value, old: &Value) -> FieldErrors {
    let status = new.at("status");
    let mut errors: FieldErrors = ["active", "succeeded", "failed", "ready", "terminating"]
        .iter()
        .filter_map(|key| not_negative(status, key, "status"))
        .collect();
    errors.extend(uncounted(status.at("uncountedTerminatedPods")));
    errors.extend(conditions(new));
    errors.extend(times(new));
    errors.extend(finished(new));
    errors.extend(named(new));
    errors.extend(contradictions(new));
    for condition in ["Failed", "Complete", "FailureTarget"] {
        if holds(old, condition) && !holds(new, condition) {
            let detail = format!("cannot disable the terminal {condition}=True condition");
            errors.push(FieldError::without_value(CONDITIONS, detail));
        }
    }
    for key in ["failed", "succeeded"] {
        let count = |job: &Value| job.at("status").int(key).unwrap_or(0);
        if count(new) < count(old) {
            let detail = format!("cannot decrease the {key} counter");
            errors.push(FieldError::invalid(format!("status.{key}"), count(new), detail));
        }
    }
    errors.extend(kept_times(new, old));
    if holds(old, "SuccessCriteriaMet") && !holds(new, "SuccessCriteriaMet") {
        let detail = "cannot disable the SuccessCriteriaMet=True condition";
        errors.push(FieldError::without_value(CONDITIONS, detail));
    }
    errors
}

/// Pods that ended and are not counted yet: each once.
fn uncounted(pods: &Value) -> FieldErrors {
    let (mut errors, mut seen) = (Vec::new(), Seen::default());
    for key in ["succeeded", "failed"] {
        for (i, uid) in pods.list(key).iter().filter_map(Value::as_str).enumerate() {
            let at = format!("status.uncountedTerminatedPods.{key}[{i}]");
            if uid.is_empty() {
                errors.push(FieldError::invalid(at, "", "must not be empty"));
            } else if seen.again(uid) {
                errors.push(FieldError::duplicate(at, uid));
            }
        }
    }
    errors
}

/// What a Job that has ended leaves.
fn finished(job: &Value) -> Option<FieldError> {
    let pods = job.at("status.uncountedTerminatedPods");
    let left = !pods.list("failed").is_empty() || !pods.list("succeeded").is_empty();
    let ended = holds(job, "Complete") || holds(job, "Failed");
    let detail = "must be empty for finished job";
    (left && ended).then(|| FieldError::invalid("status.uncountedTerminatedPods", pods.clone(), detail))
}

/// Indices and counts that the status names.
fn named(job: &Value) -> FieldErrors {
    let mut errors = Vec::new();
    let mut bad = |key: &str, detail: String| {
        let path = format!("status.{key}");
        errors.push(FieldError::invalid(path.as_str(), job.at(&path).clone(), detail));
    };
    let (done, failed) = (
        job.text("status.completedIndexes"),
        job.at("status.failedIndexes").as_str(),
    );
    let (all, limited) = (job.int("spec.completions"), job.has("spec.backoffLimitPerIndex"));
    if let Some(why) = all.and_then(|all| indexes::count(done, all).err()) {
        bad(
            "completedIndexes",
            format!("error parsing completedIndexes: {why}"),
        );
    }
    if let Some((failed, all)) = failed.zip(all).filter(|_| limited)
        && let Err(why) = indexes::count(failed, all)
    {
        bad("failedIndexes", format!("error parsing failedIndexes: {why}"));
    }
    if !done.is_empty() && job.text("spec.completionMode") != "Indexed" {
        let detail = "cannot set non-empty completedIndexes when non-indexed completion mode";
        bad("completedIndexes", detail.to_owned());
    }
    if failed.is_some() && !limited {
        let detail = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
        bad("failedIndexes", detail.to_owned());
    }
    if let Some((failed, all)) = failed.zip(all)
        && let Some(index) = indexes::overlap(done, failed, all)
    {
        bad(
            "failedIndexes",
            format!("failedIndexes and completedIndexes overlap at index: {index}"),
        );
    }
    let count = |key: &str| job.at("status").int(key).unwrap_or(0);
    let ended = holds(job, "Complete") || holds(job, "Failed");
    if ended && count("terminating") > 0 {
        bad(
            "terminating",
            "terminating>0 is invalid for finished job".to_owned(),
        );
    }
    if count("ready") > count("active") {
        bad("ready", "cannot set more ready pods than active".to_owned());
    }
    errors
}

/// Conditions that exclude one another.
fn contradictions(job: &Value) -> FieldErrors {
    let met = holds(job, "SuccessCriteriaMet");
    let told = [
        (
            met && holds(job, "Failed"),
            "cannot set SuccessCriteriaMet=True and Failed=true conditions",
        ),
        (
            met && holds(job, "FailureTarget"),
            "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions",
        ),
        (
            job.has("spec.successPolicy") && !met && holds(job, "Complete"),
            "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True",
        ),
    ];
    let told = told.into_iter().filter(|(bad, _)| *bad);
    told.map(|(_, detail)| FieldError::without_value(CONDITIONS, detail))
        .collect()
}

fn holds(job: &Value, condition: &str) -> bool {
    let mut conditions = job.list(CONDITIONS).iter();
    conditions.any(|c| c.text("type") == condition && c.text("status") == "True")
}

fn conditions(job: &Value) -> FieldErrors {
    let (complete, failed) = (holds(job, "Complete"), holds(job, "Failed"));
    let mut errors = Vec::new();
    let mut refuse = |bad: bool, detail: &str| {
        if bad {
            errors.push(FieldError::without_value(CONDITIONS, detail));
        }
    };
    refuse(
        failed && !holds(job, "FailureTarget"),
        "cannot set Failed=True condition without the FailureTarget=true condition",
    );
    refuse(
        complete && !holds(job, "SuccessCriteriaMet"),
        "cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
    );
    refuse(
        complete && failed,
        "cannot set Complete=True and Failed=true conditions",
    );
    refuse(
        complete && holds(job, "FailureTarget"),
        "cannot set Complete=True and FailureTarget=true conditions",
    );
    errors
}

fn times(job: &Value) -> FieldErrors {
    let (complete, failed) = (holds(job, "Complete"), holds(job, "Failed"));
    let mut errors = Vec::new();
    if (complete || failed) && job.int("status.active").unwrap_or(0) > 0 {
        let active = job.at("status.active").clone();
        let detail = "active>0 is invalid for finished job";
        errors.push(FieldError::invalid("status.active", active, detail));
    }
    if (complete || failed) && !job.has("status.startTime") {
        errors.push(FieldError::required(
            "status.startTime",
            "startTime is required for finished job",
        ));
    }
    let (start, end) = (time(job, "status.startTime"), time(job, "status.completionTime"));
    if start.zip(end).is_some_and(|(start, end)| end < start) {
        let now = job.at("status.completionTime").clone();
        let detail = "must be equal to or after `startTime`";
        errors.push(FieldError::invalid("status.completionTime", now, detail));
    }
    match (complete, job.has("status.completionTime")) {
        (true, false) => errors.push(FieldError::required(
            "status.completionTime",
            "completionTime is required for Complete jobs",
        )),
        (false, true) => errors.push(FieldError::invalid(
            "status.completionTime",
            job.at("status.completionTime").clone(),
            "cannot set completionTime when there is no Complete=True condition",
        )),
        _ => {}
    }
    errors
}

fn time(job: &Value, path: &str) -> Option<jiff::Timestamp> {
    job.at(path).as_str()?.parse().ok()
}

fn kept_times(new: &Value, old: &Value) -> FieldErrors {
    let changed = |path: &str| old.has(path) && old.at(path) != new.at(path);
    let mut errors = Vec::new();
    if new.has("status.completionTime") && changed("status.completionTime") {
        let now = new.at("status.completionTime").clone();
        errors.push(FieldError::invalid(
            "status.completionTime",
            now,
            super::IMMUTABLE,
        ));
    }
    if changed("status.startTime") && !new.flag("spec.suspend") {
        let detail = "field is immutable for unsuspended job once set";
        let now = new.at("status.startTime").clone();
        errors.push(FieldError::invalid("status.startTime", now, detail));
    }
    errors
}

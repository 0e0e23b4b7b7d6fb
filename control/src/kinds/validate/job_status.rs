//! What a Job's controller may write into its status: counters and conditions go one way only.
use serde_json::Value;

use super::not_negative;
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::view::View;

const CONDITIONS: &str = "status.conditions";

pub(super) fn update(new: &Value, old: &Value) -> FieldErrors {
    let status = new.at("status");
    let mut errors: FieldErrors = ["active", "succeeded", "failed", "ready", "terminating"]
        .iter()
        .filter_map(|key| not_negative(status, key, "status"))
        .collect();
    errors.extend(conditions(new));
    errors.extend(times(new));
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

//! CronJobs.
use serde_json::Value;

use super::{job, not_negative, one_of};
use crate::kinds::cron;
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::view::View;

/// A Job's name is this one's and eleven characters of a time, within a label.
const NAME: usize = 52;

pub fn create(object: &Value) -> FieldErrors {
    let mut errors = spec(object.at("spec"), &Value::Null);
    let name = object.text("metadata.name");
    if name.len() > NAME {
        let detail = "must be no more than 52 characters";
        errors.push(FieldError::invalid("metadata.name", name, detail));
    }
    errors
}

pub fn update(subresource: Option<&str>, new: &Value, old: &Value) -> FieldErrors {
    match subresource {
        Some("status") => Vec::new(),
        _ => spec(new.at("spec"), old.at("spec")),
    }
}

fn spec(spec: &Value, old: &Value) -> FieldErrors {
    let mut errors = schedule(spec, old);
    errors.extend(not_negative(spec, "startingDeadlineSeconds", "spec"));
    if old.is_null() || spec.at("timeZone") != old.at("timeZone") {
        errors.extend(zone(spec.at("timeZone")));
    }
    errors.extend(one_of(
        "spec.concurrencyPolicy",
        spec.text("concurrencyPolicy"),
        &["Allow", "Forbid", "Replace"],
    ));
    errors.extend(template(spec.at("jobTemplate.spec")));
    errors.extend(not_negative(spec, "successfulJobsHistoryLimit", "spec"));
    errors.extend(not_negative(spec, "failedJobsHistoryLimit", "spec"));
    errors
}

fn schedule(spec: &Value, old: &Value) -> FieldErrors {
    let (path, schedule) = ("spec.schedule", spec.text("schedule"));
    if schedule.is_empty() {
        return vec![FieldError::required(path, "")];
    }
    let mut errors = Vec::new();
    if let Err(why) = cron::check(schedule) {
        errors.push(FieldError::invalid(path, schedule, why));
    }
    let tolerated = old.text("schedule").contains("TZ");
    let detail = match schedule.contains("TZ") {
        true if !tolerated => "cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
        true if spec.has("timeZone") => "cannot use both timeZone field and TZ or CRON_TZ in schedule",
        _ => return errors,
    };
    errors.push(FieldError::invalid(path, schedule, detail));
    errors
}

fn zone(zone: &Value) -> FieldErrors {
    let path = "spec.timeZone";
    let Some(zone) = zone.as_str() else {
        return Vec::new();
    };
    if zone.is_empty() {
        let detail = "timeZone must be nil or non-empty string";
        return vec![FieldError::invalid(path, zone, detail)];
    }
    let unknown = format!("unknown time zone {zone}");
    if !zone.split('/').all(is_zone_part) {
        return vec![FieldError::invalid(path, zone, unknown)];
    }
    let mut errors = Vec::new();
    if zone.eq_ignore_ascii_case("local") {
        let detail = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        errors.push(FieldError::invalid(path, zone, detail));
    } else if jiff::tz::TimeZone::get(zone).is_err() {
        errors.push(FieldError::invalid(path, zone, unknown));
    }
    errors
}

fn is_zone_part(part: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || b".-_+".contains(&b);
    (1..=14).contains(&part.len())
        && part != "."
        && part != ".."
        && !part.starts_with('-')
        && part.bytes().all(good)
}

fn template(spec: &Value) -> FieldErrors {
    let path = "spec.jobTemplate.spec";
    let mut errors = job::spec(spec, path);
    if spec.has("selector") {
        let detail = "`selector` will be auto-generated";
        let selector = spec.at("selector").clone();
        errors.push(FieldError::invalid(format!("{path}.selector"), selector, detail));
    }
    if spec.flag("manualSelector") {
        errors.push(FieldError::not_supported(
            format!("{path}.manualSelector"),
            true,
            &["nil", "false"],
        ));
    }
    errors
}

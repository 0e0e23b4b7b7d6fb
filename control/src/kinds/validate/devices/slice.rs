//! ResourceSlices: the devices of a pool, what they are, hold and consume, and who they are kept from.
use std::cmp::Ordering;

use serde_json::Value;

use super::{EFFECTS, attribute_name, each, label, own_name, pool_name, set};
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::names;
use crate::kinds::quantity::Quantity;
use crate::kinds::validate::storage::driver_name;
use crate::kinds::validate::{IMMUTABLE, complain, immutable, one_of};
use crate::kinds::view::View;

/// Upstream's limits of a slice: devices, devices with taints or counters, taints, counter sets, counters, entries of a
/// device, and values a request may have.
const DEVICES: usize = 128;
const SPECIAL_DEVICES: usize = 64;
const TAINTS: usize = 16;
const COUNTER_SETS: usize = 8;
const COUNTERS: usize = 32;
const ENTRIES: usize = 32;
const OPTIONS: usize = 10;
const ATTRIBUTE: usize = 64;
/// Members of an attribute: values, and lists of values.
const VALUES: [&str; 4] = ["bool", "int", "string", "version"];
const ONE_WAY: &str =
    "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";

pub fn slice(object: &Value) -> FieldErrors {
    checked(object.at("spec"), &Value::Null)
}

pub fn slice_update(_: Option<&str>, new: &Value, old: &Value) -> FieldErrors {
    checked(new.at("spec"), old.at("spec"))
}

fn checked(spec: &Value, old: &Value) -> FieldErrors {
    let mut errors = driver_name(spec.text("driver"), "spec.driver");
    errors.extend(pool(spec.at("pool"), "spec.pool"));
    if !old.is_null() {
        errors.extend(kept(spec, old));
    }
    errors.extend(placement(spec));
    let (devices, counters) = (spec.list("devices"), spec.list("sharedCounters"));
    if !devices.is_empty() && !counters.is_empty() {
        let detail = "only one of `sharedCounters` or `devices` is allowed";
        errors.push(FieldError::invalid("spec", "", detail));
    }
    let special = |d: &Value| !d.list("taints").is_empty() || !d.list("consumesCounters").is_empty();
    let most = match devices.iter().any(special) {
        true => SPECIAL_DEVICES,
        false => DEVICES,
    };
    errors.extend(set(devices, most, "spec.devices", own_name, |one, at| {
        let before = old
            .list("devices")
            .iter()
            .find(|d| d.text("name") == one.text("name"));
        device(one, before, at)
    }));
    errors.extend(set(
        counters,
        COUNTER_SETS,
        "spec.sharedCounters",
        own_name,
        counter_set,
    ));
    errors
}

fn pool(pool: &Value, path: &str) -> FieldErrors {
    let mut errors = pool_name(pool.text("name"), &format!("{path}.name"));
    let (count, generation) = (
        pool.int("resourceSliceCount").unwrap_or(0),
        pool.int("generation").unwrap_or(0),
    );
    if count <= 0 {
        let at = format!("{path}.resourceSliceCount");
        errors.push(FieldError::invalid(at, count, "must be greater than zero"));
    }
    if generation < 0 {
        let detail = "must be greater than or equal to zero";
        errors.push(FieldError::invalid(
            format!("{path}.generation"),
            generation,
            detail,
        ));
    }
    errors
}

fn kept(spec: &Value, old: &Value) -> FieldErrors {
    let mut errors = Vec::new();
    for key in ["pool.name", "driver"] {
        if spec.text(key) != old.text(key) {
            errors.push(FieldError::invalid(
                format!("spec.{key}"),
                spec.text(key),
                IMMUTABLE,
            ));
        }
    }
    let told = immutable(spec, old, "nodeName");
    errors.extend(told.map(|error| FieldError {
        field: "spec.nodeName".into(),
        ..error
    }));
    errors
}

/// A slice says in one way where its devices are.
fn placement(spec: &Value) -> FieldErrors {
    let (mut ways, mut errors) = (Vec::new(), Vec::new());
    match spec.at("nodeName").as_str() {
        None => {}
        Some("") => errors.push(FieldError::invalid(
            "spec.nodeName",
            "",
            "must be either unset or set to a non-empty string",
        )),
        Some(name) => {
            ways.push("`nodeName`");
            errors.extend(complain("spec.nodeName", name, names::subdomain(name)));
        }
    }
    if spec.has("nodeSelector") {
        ways.push("`nodeSelector`");
        let terms = spec.list("nodeSelector.nodeSelectorTerms");
        let at = "spec.nodeSelector";
        errors.extend(crate::kinds::validate::scheduling::required_terms(
            spec.at("nodeSelector"),
            at,
        ));
        if terms.len() != 1 {
            let detail = "must have exactly one node selector term";
            let at = format!("{at}.nodeSelectorTerms");
            errors.push(FieldError::invalid(at, terms.to_vec(), detail));
        }
    }
    for (key, way) in [
        ("allNodes", "`allNodes`"),
        ("perDeviceNodeSelection", "`perDeviceNodeSelection`"),
    ] {
        match spec.at(key).as_bool() {
            None => {}
            Some(true) => ways.push(way),
            Some(false) => {
                let detail = "must be either unset or set to true";
                errors.push(FieldError::invalid(format!("spec.{key}"), false, detail));
            }
        }
    }
    match ways.len() {
        0 => errors.push(FieldError::required("spec", ONE_WAY)),
        1 => {}
        _ => {
            let detail = format!("{ONE_WAY}, but multiple fields are set");
            errors.push(FieldError::invalid(
                "spec",
                format!("{{{}}}", ways.join(", ")),
                detail,
            ));
        }
    }
    errors
}

fn counter_set(counters: &Value, path: &str) -> FieldErrors {
    let mut errors = match counters.text("name") {
        "" => vec![FieldError::required(format!("{path}.name"), "")],
        _ => label(counters, "name", path),
    };
    let (at, count) = (
        format!("{path}.counters"),
        counters.map("counters").map_or(0, serde_json::Map::len),
    );
    match count {
        0 => errors.push(FieldError::required(at, "")),
        1..=COUNTERS => {
            let keys = counters.map("counters").into_iter().flatten().map(|(key, _)| key);
            errors.extend(keys.flat_map(|key| complain(&at, key, names::label(key))));
        }
        _ => errors.push(FieldError::too_many(at, count, COUNTERS)),
    }
    errors
}

fn device(device: &Value, before: Option<&Value>, path: &str) -> FieldErrors {
    let mut errors = label(device, "name", path);
    let size = |key: &str| device.map(key).map_or(0, serde_json::Map::len);
    let entries = size("attributes") + size("capacity");
    if entries > ENTRIES {
        let detail = format!("the total number of attributes and capacities must not exceed {ENTRIES}");
        errors.push(FieldError::invalid(path, entries, detail));
    }
    for (name, one) in device.map("attributes").into_iter().flatten() {
        errors.extend(attribute_name(name, &format!("{path}.attributes")));
        errors.extend(attribute(one, &format!("{path}.attributes[{name}]")));
    }
    let shared = device.flag("allowMultipleAllocations");
    for (name, one) in device.map("capacity").into_iter().flatten() {
        errors.extend(attribute_name(name, &format!("{path}.capacity")));
        let at = format!("{path}.capacity[{name}].requestPolicy");
        match (one.has("requestPolicy"), shared) {
            (false, _) => {}
            (true, false) => {
                let detail = "allowMultipleAllocations must be true";
                errors.push(FieldError::forbidden(at, detail));
            }
            (true, true) => errors.extend(policy(one, &at)),
        }
    }
    if before.is_none_or(|before| before.at("taints") != device.at("taints")) {
        let at = format!("{path}.taints");
        errors.extend(each(device.list("taints"), TAINTS, &at, taint));
    }
    errors
}

fn attribute(attribute: &Value, path: &str) -> FieldErrors {
    let mut errors = Vec::new();
    let bytes = |key: &str| attribute.at(key).as_str().map(str::len);
    if bytes("string").is_some_and(|n| n > ATTRIBUTE) {
        errors.push(FieldError::too_long(format!("{path}.string"), ATTRIBUTE));
    }
    if let Some(version) = attribute.at("version").as_str() {
        let at = format!("{path}.version");
        if !is_semantic(version) {
            let detail = "must be a string compatible with semver.org spec 2.0.0";
            errors.push(FieldError::invalid(at.as_str(), version, detail));
        }
        if version.len() > ATTRIBUTE {
            errors.push(FieldError::too_long(at, ATTRIBUTE));
        }
    }
    let lists = ["bools", "ints", "strings", "versions"];
    let said = VALUES
        .into_iter()
        .chain(lists)
        .filter(|key| attribute.has(key))
        .count();
    let detail = "exactly one value must be specified";
    match said {
        0 => errors.push(FieldError::invalid(path, "", detail)),
        1 => {}
        _ => errors.push(FieldError::invalid(path, attribute.clone(), detail)),
    }
    errors
}

/// `MAJOR.MINOR.PATCH[-PRE][+BUILD]` (semver.org 2.0.0).
fn is_semantic(version: &str) -> bool {
    let (version, build) = version
        .split_once('+')
        .map_or((version, None), |(v, b)| (v, Some(b)));
    let (core, pre) = version
        .split_once('-')
        .map_or((version, None), |(v, p)| (v, Some(p)));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let number = |text: &str| digits(text) && (text == "0" || !text.starts_with('0'));
    let word = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let numbers: Vec<&str> = core.split('.').collect();
    numbers.len() == 3
        && numbers.into_iter().all(number)
        && pre.is_none_or(|pre| pre.split('.').all(|p| word(p) && (!digits(p) || number(p))))
        && build.is_none_or(|build| build.split('.').all(word))
}

fn taint(taint: &Value, path: &str) -> FieldErrors {
    let (key, value) = (taint.text("key"), taint.text("value"));
    let mut errors = complain(format_args!("{path}.key"), key, names::qualified(key));
    errors.extend(complain(
        format_args!("{path}.value"),
        value,
        names::label_value(value),
    ));
    errors.extend(one_of(
        format_args!("{path}.effect"),
        taint.text("effect"),
        &EFFECTS,
    ));
    errors
}

fn amount(value: &Value) -> Option<Quantity> {
    Quantity::parse(value.as_str()?).ok()
}

fn less(one: Quantity, other: Quantity) -> bool {
    one.nanos().cmp(&other.nanos()) == Ordering::Less
}

/// How much of a shared capacity a request may take.
fn policy(capacity: &Value, path: &str) -> FieldErrors {
    let policy = capacity.at("requestPolicy");
    let (options, range) = (policy.list("validValues"), policy.at("validRange"));
    let (Some(all), default) = (
        amount(capacity.at("value")).or_else(|| Quantity::parse("0").ok()),
        amount(policy.at("default")),
    ) else {
        return Vec::new();
    };
    let missing = |what: &str| {
        let detail = format!("required when {what} is defined");
        vec![FieldError::required(format!("{path}.default"), detail)]
    };
    match (options.is_empty(), range.is_object(), default) {
        (false, true, _) => {
            let detail = "exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at the \
                same time";
            vec![FieldError::forbidden(path, detail)]
        }
        (false, false, None) => missing("validValues"),
        (true, true, None) => missing("validRange"),
        (false, false, Some(default)) => choices(options, default, all, &format!("{path}.validValues")),
        (true, true, Some(default)) => span(range, default, all, &format!("{path}.validRange")),
        (true, false, _) => Vec::new(),
    }
}

fn choices(options: &[Value], default: Quantity, all: Quantity, path: &str) -> FieldErrors {
    let amounts: Vec<Quantity> = options.iter().filter_map(amount).collect();
    let mut errors = Vec::new();
    for (i, pair) in amounts.windows(2).enumerate() {
        if less(pair[1], pair[0]) {
            let at = format!("{path}[{}]", i + 1);
            let detail = "values must be sorted in ascending order";
            errors.push(FieldError::invalid(at, pair[1].to_string(), detail));
        }
    }
    // Told by their whole value, rounded up.
    let key = |option: &Value| amount(option).map_or(Value::Null, |q| q.value().to_string().into());
    errors.extend(set(options, OPTIONS, path, key, |option, at| {
        let over = amount(option).filter(|option| less(all, *option));
        let detail = format!("option is larger than capacity value: {all}");
        over.map(|option| FieldError::invalid(at, option.to_string(), detail))
            .into_iter()
            .collect()
    }));
    if !amounts.iter().any(|one| one.nanos() == default.nanos()) {
        let detail = "default value is not valid according to the requestPolicy";
        errors.push(FieldError::invalid(path, default.to_string(), detail));
    }
    errors
}

fn span(range: &Value, default: Quantity, all: Quantity, path: &str) -> FieldErrors {
    let (min, max, step) = (
        amount(range.at("min")),
        amount(range.at("max")),
        amount(range.at("step")),
    );
    let at = |key: &str| format!("{path}.{key}");
    let Some(min) = min else {
        return vec![FieldError::required(
            at("min"),
            "required when validRange is defined",
        )];
    };
    let mut errors = Vec::new();
    let mut told = |bad: bool, key: &str, shown: Quantity, detail: String| {
        if bad {
            errors.push(FieldError::invalid(at(key), shown.to_string(), detail));
        }
    };
    told(
        less(all, min),
        "min",
        min,
        format!("min is larger than capacity value: {all}"),
    );
    told(
        less(default, min),
        "min",
        default,
        format!("default is less than min: {min}"),
    );
    if let Some(max) = max {
        told(
            less(max, min),
            "max",
            min,
            format!("min is larger than max: {max}"),
        );
        told(
            less(all, max),
            "max",
            max,
            format!("max is larger than capacity value: {all}"),
        );
        told(
            less(max, default),
            "max",
            default,
            format!("default is more than max: {max}"),
        );
    }
    let Some(step) = step.filter(|step| step.value() != 0) else {
        return errors;
    };
    let next = min.plus(step);
    told(
        less(all, next),
        "step",
        step,
        format!("one step {next} is larger than capacity value: {all}"),
    );
    for one in [Some(default), max].into_iter().flatten() {
        let off = (one.value() - min.value()) % step.value() != 0;
        let detail = format!("value is not a multiple of a given step ({step}) from ({min})");
        told(off, "step", one, detail);
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn semantic_versions() {
        for good in ["1.2.3", "0.0.0-alpha.1", "1.0.0+build.5", "1.2.3-x-y+z"] {
            assert!(is_semantic(good), "{good}");
        }
        for bad in ["", "1.2", "v1.2.3", "1.02.3", "1.2.3-", "1.2.3-01", "1.2.3+"] {
            assert!(!is_semantic(bad), "{bad}");
        }
    }
}

//! `resource.k8s.io`: device claims, their templates, and the slices that drivers publish (KEP-4381).
//!
//! Selector expressions are stored as they are: who allocates devices judges them.
use serde_json::Value;

use super::{Seen, complain, immutable, maybe_one_of, present};
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::names;
use crate::kinds::view::View;

/// Upstream's `DeviceRequestsMaxSize` and `FirstAvailableDeviceRequestMaxSize`.
const REQUESTS: usize = 32;
const ALTERNATIVES: usize = 8;
/// Upstream's `ResourceSliceMaxDevices`.
const DEVICES: usize = 128;
const MODES: [&str; 2] = ["All", "ExactCount"];

pub fn claim(object: &Value) -> FieldErrors {
    claim_spec(object.at("spec"), "spec")
}

pub fn claim_update(subresource: Option<&str>, new: &Value, old: &Value) -> FieldErrors {
    match subresource {
        Some("status") => Vec::new(),
        _ => immutable(new, old, "spec").into_iter().collect(),
    }
}

pub fn template(object: &Value) -> FieldErrors {
    claim_spec(object.at("spec.spec"), "spec.spec")
}

pub fn template_update(_: Option<&str>, new: &Value, old: &Value) -> FieldErrors {
    immutable(new, old, "spec").into_iter().collect()
}

fn claim_spec(spec: &Value, path: &str) -> FieldErrors {
    let (at, requests) = (format!("{path}.devices.requests"), spec.list("devices.requests"));
    let mut errors = Vec::new();
    if requests.len() > REQUESTS {
        errors.push(FieldError::too_many(at.as_str(), requests.len(), REQUESTS));
    }
    let mut seen = Seen::default();
    for (i, request) in requests.iter().enumerate() {
        let at = format!("{at}[{i}]");
        errors.extend(request_name(request, &mut seen, &at));
        errors.extend(request_body(request, &at));
    }
    errors
}

fn request_name(request: &Value, seen: &mut Seen, path: &str) -> FieldErrors {
    let (at, name) = (format!("{path}.name"), request.text("name"));
    let mut errors = match name {
        "" => vec![FieldError::required(at.as_str(), "")],
        _ => complain(&at, name, names::label(name)),
    };
    if seen.again(name) {
        errors.push(FieldError::duplicate(at, name));
    }
    errors
}

fn request_body(request: &Value, path: &str) -> FieldErrors {
    let alternatives = request.list("firstAvailable");
    match (request.has("exactly"), alternatives.is_empty()) {
        (true, true) => device(request.at("exactly"), &format!("{path}.exactly")),
        (false, false) => {
            let at = format!("{path}.firstAvailable");
            let mut errors = Vec::new();
            if alternatives.len() > ALTERNATIVES {
                errors.push(FieldError::too_many(
                    at.as_str(),
                    alternatives.len(),
                    ALTERNATIVES,
                ));
            }
            let mut seen = Seen::default();
            for (i, one) in alternatives.iter().enumerate() {
                let at = format!("{at}[{i}]");
                errors.extend(request_name(one, &mut seen, &at));
                errors.extend(device(one, &at));
            }
            errors
        }
        (true, false) => {
            let detail =
                "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set";
            vec![FieldError::without_value(path, detail)]
        }
        (false, true) => {
            let detail = "exactly one of `exactly` or `firstAvailable` is required";
            vec![FieldError::required(path, detail)]
        }
    }
}

fn device(request: &Value, path: &str) -> FieldErrors {
    let (at, class) = (format!("{path}.deviceClassName"), request.text("deviceClassName"));
    let mut errors = match class {
        "" => vec![FieldError::required(at, "")],
        _ => complain(&at, class, names::subdomain(class)),
    };
    errors.extend(maybe_one_of(request, "allocationMode", path, &MODES));
    let (count, field) = (request.int("count").unwrap_or(0), format!("{path}.count"));
    match request.text("allocationMode") {
        "All" if count != 0 => {
            let detail = "must not be specified when allocationMode is 'All'";
            errors.push(FieldError::invalid(field, count, detail));
        }
        "ExactCount" if count <= 0 => {
            errors.push(FieldError::invalid(field, count, "must be greater than zero"));
        }
        _ => {}
    }
    errors
}

pub fn slice(object: &Value) -> FieldErrors {
    let spec = object.at("spec");
    let (path, driver) = ("spec.driver", spec.text("driver"));
    let mut errors = match driver {
        "" => vec![FieldError::required(path, "")],
        _ => complain(path, driver, names::subdomain(driver)),
    };
    errors.extend(present(spec.at("pool"), "name", "spec.pool"));
    if spec.int("pool.resourceSliceCount").unwrap_or(0) <= 0 {
        let count = spec.int("pool.resourceSliceCount").unwrap_or(0);
        let detail = "must be greater than zero";
        errors.push(FieldError::invalid("spec.pool.resourceSliceCount", count, detail));
    }
    errors.extend(placement(spec));
    let devices = spec.list("devices");
    if devices.len() > DEVICES {
        errors.push(FieldError::too_many("spec.devices", devices.len(), DEVICES));
    }
    let mut seen = Seen::default();
    for (i, device) in devices.iter().enumerate() {
        errors.extend(request_name(device, &mut seen, &format!("spec.devices[{i}]")));
    }
    errors
}

/// A slice says in one way where its devices are.
fn placement(spec: &Value) -> Option<FieldError> {
    let ways = [
        !spec.text("nodeName").is_empty(),
        spec.has("nodeSelector"),
        spec.flag("allNodes"),
        spec.flag("perDeviceNodeSelection"),
    ];
    let detail =
        "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    match ways.iter().filter(|way| **way).count() {
        1 => None,
        0 => Some(FieldError::required("spec", detail)),
        _ => Some(FieldError::without_value("spec", detail)),
    }
}

pub fn slice_update(_: Option<&str>, new: &Value, old: &Value) -> FieldErrors {
    let mut errors = slice(new);
    for path in ["spec.driver", "spec.nodeName", "spec.pool.name"] {
        errors.extend(immutable(new, old, path));
    }
    errors
}

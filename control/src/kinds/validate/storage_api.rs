//! `storage.k8s.io`: classes, drivers, attachments.
use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::Value;

use super::storage::inline_volume;
use super::{
    IMMUTABLE, NOT_NEGATIVE, Seen, complain, complain_number, immutable, maybe_one_of, not_negative,
};
use crate::kinds::bounded::MOST;
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::indexed::by_text;
use crate::kinds::quantity::Quantity;
use crate::kinds::view::View;
use crate::kinds::{labels, names};

/// Upstream's limits of a class's parameters, in entries and bytes.
const PARAMETERS: usize = 512;
const PARAMETER_BYTES: usize = 256 * 1024;
/// Characters of a node's id at a driver.
const NODE_ID: usize = 192;
const POLICIES: [&str; 3] = ["File", "None", "ReadWriteOnceWithFSType"];
const MODES: [&str; 2] = ["Persistent", "Ephemeral"];
/// Seconds between updates of what a node can hold.
const SHORTEST_PERIOD: i64 = 10;
/// Bytes of what a driver says of an attachment.
const ATTACHED: usize = 256 * 1024;
const LONGEST_MESSAGE: usize = 1024;

pub fn class(object: &Value) -> FieldErrors {
    let mut errors = provisioner(object, "provisioner");
    errors.extend(parameters(object, true));
    if !object.text("reclaimPolicy").is_empty() {
        errors.extend(root_one_of(object, "reclaimPolicy", &["Delete", "Retain"]));
    }
    errors.extend(root_one_of(
        object,
        "volumeBindingMode",
        &["Immediate", "WaitForFirstConsumer"],
    ));
    errors.extend(topologies(object.list("allowedTopologies"), "allowedTopologies"));
    errors
}

/// A name of who makes volumes, however written.
fn provisioner(object: &Value, key: &str) -> FieldErrors {
    let name = object.text(key).to_lowercase();
    match name.as_str() {
        "" => vec![FieldError::required(key, "")],
        name => complain(key, name, names::qualified(name)),
    }
}

/// What a term of topologies allows, by key.
type Allowed<'a> = BTreeMap<&'a str, BTreeSet<&'a str>>;

fn topologies(terms: &[Value], path: &str) -> FieldErrors {
    let mut errors = Vec::new();
    // An empty term is told as a repeated one, by upstream.
    let mut seen = HashMap::from([(Allowed::new(), terms.len())]);
    for (i, term) in terms.iter().enumerate() {
        let at = format!("{path}[{i}].matchLabelExpressions");
        let (allowed, wrong) = topology(term.list("matchLabelExpressions"), &at);
        errors.extend(wrong);
        let again = seen.entry(allowed).or_default();
        // Once for each that is the same, as upstream does; not without end, as there may be as many as terms, each time.
        let told = (*again).min(MOST.saturating_sub(errors.len()).max(1));
        errors.extend((0..told).map(|_| FieldError::duplicate(at.as_str(), "")));
        *again += 1;
    }
    errors
}

fn topology<'a>(expressions: &'a [Value], path: &str) -> (Allowed<'a>, FieldErrors) {
    let (mut allowed, mut errors) = (Allowed::new(), Vec::new());
    for (i, expression) in expressions.iter().enumerate() {
        let (at, key) = (format!("{path}[{i}]"), expression.text("key"));
        let values = expression.list("values");
        if values.is_empty() {
            errors.push(FieldError::required(format!("{at}.values"), ""));
        }
        let mut set = BTreeSet::new();
        for (j, value) in values.iter().filter_map(Value::as_str).enumerate() {
            if !set.insert(value) {
                errors.push(FieldError::duplicate(format!("{at}.values[{j}]"), value));
            }
        }
        errors.extend(complain(format_args!("{at}.key"), key, names::qualified(key)));
        if allowed.insert(key, set).is_some() {
            errors.push(FieldError::duplicate(format!("{at}.key"), key));
        }
    }
    (allowed, errors)
}

/// A member of the object itself.
fn root_one_of(object: &Value, key: &str, supported: &[&str]) -> Option<FieldError> {
    let value = object.at(key).as_str()?;
    (!supported.contains(&value)).then(|| FieldError::not_supported(key, value, supported))
}

fn parameters(object: &Value, empty: bool) -> FieldErrors {
    let path = "parameters";
    let list = object.map(path);
    let count = list.map_or(0, serde_json::Map::len);
    if count > PARAMETERS {
        return vec![FieldError::too_long(path, PARAMETERS)];
    }
    let mut errors = Vec::new();
    let mut size = 0;
    for (key, value) in list.into_iter().flatten() {
        if key.is_empty() {
            errors.push(FieldError::invalid(path, "", "field can not be empty."));
        }
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > PARAMETER_BYTES {
        errors.push(FieldError::too_long(path, PARAMETER_BYTES));
    }
    if count == 0 && !empty {
        let detail = "must contain at least one key/value pair";
        errors.push(FieldError::required(path, detail));
    }
    errors
}

pub fn class_update(_: Option<&str>, new: &Value, old: &Value) -> FieldErrors {
    let mut errors = class(new);
    for path in ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"] {
        errors.extend(match path {
            "provisioner" if new.text(path) != old.text(path) => {
                Some(FieldError::invalid(path, new.text(path), IMMUTABLE))
            }
            _ => immutable(new, old, path),
        });
    }
    errors
}

pub fn attributes_class(object: &Value) -> FieldErrors {
    let mut errors = provisioner(object, "driverName");
    errors.extend(parameters(object, false));
    errors
}

pub fn attributes_class_update(_: Option<&str>, new: &Value, old: &Value) -> FieldErrors {
    let changed = ["driverName", "parameters"]
        .into_iter()
        .filter(|path| new.at(path) != old.at(path));
    let mut errors: FieldErrors = changed
        .map(|path| FieldError::forbidden(path, format!("updates to {path} are forbidden.")))
        .collect();
    errors.extend(attributes_class(new));
    errors
}

fn driver_name(name: &str, path: &str) -> FieldErrors {
    match name {
        "" => vec![FieldError::required(path, "")],
        _ if name.len() > 63 => vec![FieldError::too_long(path, 63)],
        _ => complain(path, name, names::subdomain(&name.to_lowercase())),
    }
}

pub fn driver(object: &Value) -> FieldErrors {
    let (spec, path) = (object.at("spec"), "spec");
    let mut errors: FieldErrors = ["attachRequired", "podInfoOnMount", "storageCapacity"]
        .iter()
        .filter(|key| !spec.has(key))
        .map(|key| FieldError::required(format!("{path}.{key}"), ""))
        .collect();
    errors.extend(maybe_one_of(spec, "fsGroupPolicy", path, &POLICIES));
    let mut seen = Seen::default();
    for (i, request) in spec.list("tokenRequests").iter().enumerate() {
        let (at, audience) = (format!("{path}.tokenRequests[{i}]"), request.text("audience"));
        if seen.again(audience) {
            errors.push(FieldError::duplicate(format!("{at}.audience"), audience));
        }
        if let Some(seconds) = request.int("expirationSeconds") {
            let field = format!("{at}.expirationSeconds");
            if seconds < 600 {
                let detail = "may not specify a duration less than 10 minutes";
                errors.push(FieldError::invalid(field, seconds, detail));
            } else if seconds > 1 << 32 {
                let detail = "may not specify a duration larger than 2^32 seconds";
                errors.push(FieldError::invalid(field, seconds, detail));
            }
        }
    }
    for mode in spec.list("volumeLifecycleModes") {
        if !MODES.iter().any(|known| mode == known) {
            let at = format!("{path}.volumeLifecycleModes");
            errors.push(FieldError::not_supported(at, mode.clone(), &MODES));
        }
    }
    let period = "nodeAllocatableUpdatePeriodSeconds";
    if let Some(seconds) = spec.int(period).filter(|n| *n < SHORTEST_PERIOD) {
        let detail = format!("must be greater than or equal to {SHORTEST_PERIOD} seconds");
        errors.push(FieldError::invalid(format!("{path}.{period}"), seconds, detail));
    }
    errors
}

pub fn driver_update(_: Option<&str>, new: &Value, old: &Value) -> FieldErrors {
    let mut errors = driver(new);
    for (path, shown) in [
        ("spec.attachRequired", "spec.attachedRequired"),
        ("spec.volumeLifecycleModes", "spec.volumeLifecycleModes"),
    ] {
        if new.at(path) != old.at(path) {
            errors.push(FieldError::invalid(shown, new.at(path).clone(), IMMUTABLE));
        }
    }
    errors
}

pub fn node(object: &Value) -> FieldErrors {
    let (mut errors, mut seen) = (Vec::new(), Seen::default());
    for (i, driver) in object.list("spec.drivers").iter().enumerate() {
        let (path, name) = (format!("spec.drivers[{i}]"), driver.text("name"));
        errors.extend(driver_name(name, &format!("{path}.name")));
        let id = driver.text("nodeID");
        if id.is_empty() {
            errors.push(FieldError::required(format!("{path}.nodeID"), ""));
        } else if id.len() > NODE_ID {
            let detail = format!("must be {NODE_ID} characters or less");
            errors.push(FieldError::invalid(format!("{path}.nodeID"), id, detail));
        }
        let allocatable = format!("{path}.allocatable");
        errors.extend(not_negative(driver.at("allocatable"), "count", &allocatable));
        if seen.again(name) {
            errors.push(FieldError::duplicate(format!("{path}.name"), name));
        }
        let mut keys = Seen::default();
        for key in driver.list("topologyKeys").iter().filter_map(Value::as_str) {
            if key.is_empty() {
                errors.push(FieldError::required(path.as_str(), ""));
            }
            if keys.again(key) {
                errors.push(FieldError::duplicate(path.as_str(), key));
            }
            errors.extend(complain(&path, key, names::qualified(key)));
        }
    }
    errors
}

pub fn node_update(_: Option<&str>, new: &Value, old: &Value) -> FieldErrors {
    let mut errors = node(new);
    let without_count = |driver: &Value| {
        let mut driver = driver.clone();
        if let Some(map) = driver.as_object_mut() {
            map.remove("allocatable");
        }
        driver
    };
    let drivers = by_text(new.list("spec.drivers"), "name");
    for before in old.list("spec.drivers") {
        let now = drivers.get(before.text("name")).copied();
        if let Some(now) = now.filter(|now| without_count(now) != without_count(before)) {
            errors.push(FieldError::invalid("spec.drivers", now.clone(), IMMUTABLE));
        }
    }
    errors
}

pub fn capacity(object: &Value) -> FieldErrors {
    let (path, class) = ("storageClassName", object.text("storageClassName"));
    let mut errors = complain(path, class, names::subdomain(class));
    if object.has("nodeTopology") {
        errors.extend(labels::validate_selector(
            object.at("nodeTopology"),
            "nodeTopology",
        ));
    }
    let amount = object.at("capacity").as_str();
    let amount = amount.and_then(|q| Quantity::parse(q).ok());
    if let Some(amount) = amount.filter(Quantity::is_negative) {
        errors.push(FieldError::invalid("capacity", amount.to_string(), NOT_NEGATIVE));
    }
    errors
}

pub fn capacity_update(_: Option<&str>, new: &Value, old: &Value) -> FieldErrors {
    let mut errors = capacity(new);
    errors.extend(immutable(new, old, "nodeTopology"));
    errors.extend(immutable(new, old, "storageClassName"));
    errors
}

pub fn attachment(object: &Value) -> FieldErrors {
    let spec = object.at("spec");
    let mut errors = driver_name(spec.text("attacher"), "spec.attacher");
    let (path, volume) = ("spec.source", "spec.source.persistentVolumeName");
    let detail = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    match (
        object.has("spec.source.inlineVolumeSpec"),
        object.at(volume).as_str(),
    ) {
        (false, None) => errors.push(FieldError::required(path, detail)),
        (true, Some(_)) => errors.push(FieldError::forbidden(path, detail)),
        (false, Some("")) => errors.push(FieldError::required(
            volume,
            "must specify non empty persistentVolumeName",
        )),
        (false, Some(_)) => {}
        (true, None) => errors.extend(inline_volume(
            object.at("spec.source.inlineVolumeSpec"),
            "spec.source.inlineVolumeSpec",
        )),
    }
    let node = spec.text("nodeName");
    errors.extend(complain("spec.nodeName", node, names::subdomain(node)));
    errors.extend(attachment_status(object.at("status"), "status"));
    if let Some(name) = object.at(volume).as_str() {
        errors.extend(complain(volume, name, names::subdomain(name)));
    }
    errors
}

fn attachment_status(status: &Value, path: &str) -> FieldErrors {
    let mut errors = Vec::new();
    let told = status.map("attachmentMetadata").into_iter().flatten();
    let size: usize = told.map(|(k, v)| k.len() + v.as_str().map_or(0, str::len)).sum();
    if size > ATTACHED {
        errors.push(FieldError::too_long(
            format!("{path}.attachmentMetadata"),
            ATTACHED,
        ));
    }
    for key in ["attachError", "detachError"] {
        let (error, at) = (status.at(key), format!("{path}.{key}"));
        if error.text("message").len() > LONGEST_MESSAGE {
            errors.push(FieldError::too_long(format!("{at}.message"), ATTACHED));
        }
        if let Some(code) = error.int("errorCode").filter(|n| *n < 0) {
            let detail = names::in_range(code, 0, i64::from(i32::MAX));
            errors.extend(complain_number(format_args!("{at}.errorCode"), code, detail));
        }
    }
    errors
}

pub fn attachment_update(subresource: Option<&str>, new: &Value, old: &Value) -> FieldErrors {
    if subresource == Some("status") {
        return attachment_status(new.at("status"), "status");
    }
    let mut errors = attachment(new);
    errors.extend(immutable(new, old, "spec"));
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn terms_that_are_the_same_are_told_once_for_each_before_them() {
        let term = |key: &str| json!({"matchLabelExpressions": [{"key": key, "values": ["v"]}]});
        let terms = [term("a"), term("b"), term("a"), term("a")];
        let places: Vec<String> = topologies(&terms, "t").into_iter().map(|e| e.field).collect();
        let places: Vec<&str> = places.iter().map(|place| &place[..4]).collect();
        assert_eq!(places, ["t[2]", "t[3]", "t[3]"]);
        let empty = vec![json!({}); 3_000];
        assert!(topologies(&empty[..10], "t").len() == 10 * 10 + 45);
        assert!(topologies(&empty, "t").len() <= MOST + empty.len());
    }
}

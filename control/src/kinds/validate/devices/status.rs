//! The status of a ResourceClaim: which devices it got, who uses them, and what drivers say of them.
use serde_json::{Value, json};

use super::{ITEMS, Requests, configuration, each, label, pool_name, raw, set};
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::validate::storage::driver_name;
use crate::kinds::validate::{complain, conditions, immutable, one_of, present, scheduling};
use crate::kinds::view::View;

/// Upstream's limits: users of a claim, addresses of a device, conditions of a device; bytes of names.
const USERS: usize = 256;
const ADDRESSES: usize = 16;
const CONDITIONS: usize = 8;
const INTERFACE: usize = 256;
const HARDWARE: usize = 128;

pub(super) fn update(new: &Value, old: &Value) -> FieldErrors {
    let status = new.at("status");
    let uid = |user: &Value| user.text("uid").into();
    let mut errors = set(status.list("reservedFor"), USERS, "status.reservedFor", uid, user);
    let allocated: Vec<Value> = status.list("allocation.devices.results").iter().map(id).collect();
    errors.extend(set(
        status.list("devices"),
        usize::MAX,
        "status.devices",
        id,
        |one, at| device(one, &allocated, at),
    ));
    errors.extend(reserved(new, old));
    match (old.has("status.allocation"), new.has("status.allocation")) {
        (true, true) => errors.extend(immutable(new, old, "status.allocation")),
        (false, true) => errors.extend(allocation(
            status.at("allocation"),
            &Requests::of(new.at("spec.devices")),
        )),
        _ => {}
    }
    errors
}

/// What makes a device that is shared or not.
fn id(device: &Value) -> Value {
    let mut id = json!({});
    for key in ["driver", "pool", "device", "shareID"] {
        if device.has(key) {
            id[key] = device.at(key).clone();
        }
    }
    id
}

fn user(user: &Value, path: &str) -> FieldErrors {
    let keys = ["resource", "name", "uid"].into_iter();
    keys.filter_map(|key| present(user, key, path)).collect()
}

fn reserved(new: &Value, old: &Value) -> Option<FieldError> {
    let path = "status.reservedFor";
    let users = new.list(path);
    if users.is_empty() {
        return None;
    }
    if !new.has("status.allocation") {
        let detail = "may not be specified when `allocated` is not set";
        return Some(FieldError::forbidden(path, detail));
    }
    let added = users.iter().any(|user| !old.list(path).contains(user));
    let detail = "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
    (added && new.has("metadata.deletionTimestamp")).then(|| FieldError::forbidden(path, detail))
}

fn device(device: &Value, allocated: &[Value], path: &str) -> FieldErrors {
    let mut errors = names_of(device, path);
    if !allocated.contains(&id(device)) {
        let detail = "must be an allocated device in the claim";
        errors.push(FieldError::invalid(path, id(device), detail));
    }
    let (list, at) = (device.list("conditions"), format!("{path}.conditions"));
    if list.len() > CONDITIONS {
        errors.push(FieldError::too_many(at.as_str(), list.len(), CONDITIONS));
    }
    errors.extend(conditions::all(list, &at));
    if device.has("data") {
        errors.extend(raw(device.at("data"), &format!("{path}.data")));
    }
    errors.extend(network(device.at("networkData"), &format!("{path}.networkData")));
    errors
}

fn names_of(device: &Value, path: &str) -> FieldErrors {
    let mut errors = driver_name(device.text("driver"), &format!("{path}.driver"));
    errors.extend(pool_name(device.text("pool"), &format!("{path}.pool")));
    errors.extend(label(device, "device", path));
    errors
}

fn network(data: &Value, path: &str) -> FieldErrors {
    let mut errors = Vec::new();
    for (key, most) in [("interfaceName", INTERFACE), ("hardwareAddress", HARDWARE)] {
        if data.text(key).len() > most {
            errors.push(FieldError::too_long(format!("{path}.{key}"), most));
        }
    }
    let at = format!("{path}.ips");
    errors.extend(set(data.list("ips"), ADDRESSES, &at, Value::clone, |ip, at| {
        let text = ip.as_str().unwrap_or_default();
        let detail = "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)";
        match text.parse::<ipnet::IpNet>() {
            Ok(_) => Vec::new(),
            Err(_) => complain(at, text, vec![detail.to_owned()]),
        }
    }));
    errors
}

fn allocation(allocation: &Value, requests: &Requests) -> FieldErrors {
    let path = "status.allocation";
    let mut errors = each(
        allocation.list("devices.results"),
        ITEMS,
        &format!("{path}.devices.results"),
        |result, at| {
            let mut errors = requests.check(result.text("request"), &format!("{at}.request"));
            errors.extend(names_of(result, at));
            errors
        },
    );
    errors.extend(each(
        allocation.list("devices.config"),
        2 * ITEMS,
        &format!("{path}.devices.config"),
        |config, at| {
            let sources = ["FromClaim", "FromClass"];
            let source = one_of(format_args!("{at}.source"), config.text("source"), &sources);
            let mut errors: FieldErrors = source.into_iter().collect();
            errors.extend(requests.check_all(config.list("requests"), &format!("{at}.requests")));
            errors.extend(configuration(config, at));
            errors
        },
    ));
    if allocation.has("nodeSelector") {
        let at = format!("{path}.nodeSelector");
        errors.extend(scheduling::required_terms(allocation.at("nodeSelector"), &at));
    }
    errors
}

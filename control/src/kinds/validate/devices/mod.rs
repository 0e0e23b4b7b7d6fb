//! `resource.k8s.io`: device claims, their templates, classes, and the slices that drivers publish (KEP-4381).
//!
//! Selector expressions are compiled (`selector`); who allocates devices runs them.
mod selector;
mod slice;
mod status;

use std::collections::BTreeMap;

use serde_json::Value;

use selector::selectors;
pub use slice::{slice, slice_update};

use super::storage::driver_name;
use super::{Seen, complain, immutable, meta_of_template, one_of};
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::names;
use crate::kinds::view::View;

/// Upstream's limits: requests, alternatives, constraints, configurations and selectors of a claim.
const ITEMS: usize = 32;
const ALTERNATIVES: usize = 8;
/// Bytes: names of attributes, and parameters of drivers.
const IDENTIFIER: usize = 32;
const PARAMETERS: usize = 10 * 1024;
const POOL: usize = 253;
const MODES: [&str; 2] = ["All", "ExactCount"];
const EFFECTS: [&str; 3] = ["NoExecute", "NoSchedule", "None"];
const NO_REQUEST: &str = "must be the name of a request in the claim or the name of a request and a subrequest separated \
    by '/'";
const IDENTIFIER_FORM: &str = "a valid C identifier must start with alphabetic character or '_', followed by a string of \
    alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is \
    '[A-Za-z_][A-Za-z0-9_]*')";

pub fn claim(object: &Value) -> FieldErrors {
    claim_spec(object.at("spec"), "spec")
}

pub fn claim_update(subresource: Option<&str>, new: &Value, old: &Value) -> FieldErrors {
    match subresource {
        Some("status") => status::update(new, old),
        _ => immutable(new, old, "spec").into_iter().collect(),
    }
}

pub fn template(object: &Value) -> FieldErrors {
    let mut errors = meta_of_template(object.at("spec.metadata"), "spec.metadata");
    errors.extend(claim_spec(object.at("spec.spec"), "spec.spec"));
    errors
}

pub fn template_update(_: Option<&str>, new: &Value, old: &Value) -> FieldErrors {
    let mut errors = template(new);
    errors.extend(immutable(new, old, "spec"));
    errors
}

pub fn class(object: &Value) -> FieldErrors {
    let spec = object.at("spec");
    let mut errors = selectors(spec.list("selectors"), "spec.selectors");
    errors.extend(each(spec.list("config"), ITEMS, "spec.config", configuration));
    let path = "spec.extendedResourceName";
    if let Some(name) = spec
        .at("extendedResourceName")
        .as_str()
        .filter(|name| !is_extended(name))
    {
        let detail = "must be a valid extended resource name";
        errors.push(FieldError::invalid(path, name, detail));
    }
    errors
}

pub fn class_update(_: Option<&str>, new: &Value, _: &Value) -> FieldErrors {
    class(new)
}

/// A resource that is not Kubernetes' own, and can be part of a quota's name.
fn is_extended(name: &str) -> bool {
    name.contains('/')
        && !name.contains("kubernetes.io/")
        && !name.starts_with("requests.")
        && names::qualified(&format!("requests.{name}")).is_empty()
}

/// The complaints about each item of a list that is not too long.
fn each(
    items: &[Value],
    most: usize,
    path: &str,
    check: impl Fn(&Value, &str) -> FieldErrors,
) -> FieldErrors {
    if items.len() > most {
        return vec![FieldError::too_many(path, items.len(), most)];
    }
    let items = items.iter().enumerate();
    items
        .flat_map(|(i, item)| check(item, &format!("{path}[{i}]")))
        .collect()
}

/// [`each`], and items that are there twice by their key.
fn set(
    items: &[Value],
    most: usize,
    path: &str,
    key: impl Fn(&Value) -> Value,
    check: impl Fn(&Value, &str) -> FieldErrors,
) -> FieldErrors {
    let mut errors = each(items, most, path, check);
    if items.len() <= most {
        let mut seen = Seen::default();
        let again = items
            .iter()
            .enumerate()
            .filter(|(_, item)| seen.again(key(item).to_string()));
        errors.extend(again.map(|(i, item)| FieldError::duplicate(format!("{path}[{i}]"), key(item))));
    }
    errors
}

fn own_name(item: &Value) -> Value {
    item.text("name").into()
}

fn label(object: &Value, key: &str, path: &str) -> FieldErrors {
    complain(
        format_args!("{path}.{key}"),
        object.text(key),
        names::label(object.text(key)),
    )
}

/// Requests by name, with the names of their alternatives.
struct Requests<'a>(BTreeMap<&'a str, Vec<&'a str>>);

impl<'a> Requests<'a> {
    fn of(devices: &'a Value) -> Self {
        let names = |list: &'a [Value]| list.iter().map(|item| item.text("name")).collect();
        let requests = devices.list("requests").iter();
        Self(
            requests
                .map(|r| (r.text("name"), names(r.list("firstAvailable"))))
                .collect(),
        )
    }

    /// Complaints about a text that should be `REQUEST` or `REQUEST/ALTERNATIVE`.
    fn check(&self, name: &str, path: &str) -> FieldErrors {
        let parts: Vec<&str> = name.split('/').collect();
        let mut errors = Vec::new();
        if parts.len() <= 2 {
            errors.extend(
                parts
                    .iter()
                    .flat_map(|part| complain(path, part, names::label(part))),
            );
        }
        let known = match parts[..] {
            [request] => self.0.contains_key(request),
            [request, one] => self.0.get(request).is_some_and(|ones| ones.contains(&one)),
            _ => false,
        };
        if !known {
            errors.push(FieldError::invalid(path, name, NO_REQUEST));
        }
        errors
    }

    fn check_all(&self, names: &[Value], path: &str) -> FieldErrors {
        let check = |name: &Value, at: &str| self.check(name.as_str().unwrap_or_default(), at);
        set(names, ITEMS, path, Value::clone, check)
    }
}

fn claim_spec(spec: &Value, path: &str) -> FieldErrors {
    let (devices, at) = (spec.at("devices"), format!("{path}.devices"));
    let requests = Requests::of(devices);
    let list = devices.list("requests");
    let mut errors = set(list, ITEMS, &format!("{at}.requests"), own_name, request);
    errors.extend(each(
        devices.list("constraints"),
        ITEMS,
        &format!("{at}.constraints"),
        |one, at| constraint(one, &requests, at),
    ));
    errors.extend(each(
        devices.list("config"),
        ITEMS,
        &format!("{at}.config"),
        |one, at| {
            let mut errors = requests.check_all(one.list("requests"), &format!("{at}.requests"));
            errors.extend(configuration(one, at));
            errors
        },
    ));
    errors
}

fn request(request: &Value, path: &str) -> FieldErrors {
    let alternatives = request.list("firstAvailable");
    let mut errors = label(request, "name", path);
    match (request.has("exactly"), alternatives.is_empty()) {
        (true, true) => errors.extend(device(request.at("exactly"), &format!("{path}.exactly"))),
        (false, false) => {
            let at = format!("{path}.firstAvailable");
            errors.extend(set(alternatives, ALTERNATIVES, &at, own_name, |one, at| {
                let mut errors = label(one, "name", at);
                errors.extend(device(one, at));
                errors
            }));
        }
        (true, false) => {
            let detail =
                "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set";
            errors.push(FieldError::invalid(path, Value::Null, detail));
        }
        (false, true) => {
            let detail = "exactly one of `exactly` or `firstAvailable` is required";
            errors.push(FieldError::required(path, detail));
        }
    }
    errors
}

fn device(request: &Value, path: &str) -> FieldErrors {
    let (at, class) = (format!("{path}.deviceClassName"), request.text("deviceClassName"));
    let mut errors = match class {
        "" => vec![FieldError::required(at, "")],
        _ => complain(&at, class, names::subdomain(class)),
    };
    errors.extend(selectors(request.list("selectors"), &format!("{path}.selectors")));
    let (count, field) = (request.int("count").unwrap_or(0), format!("{path}.count"));
    match request.text("allocationMode") {
        "All" if count != 0 => {
            let detail = "must not be specified when allocationMode is 'All'";
            errors.push(FieldError::invalid(field, count, detail));
        }
        "ExactCount" if count <= 0 => {
            errors.push(FieldError::invalid(field, count, "must be greater than zero"));
        }
        "All" | "ExactCount" => {}
        other => {
            let at = format!("{path}.allocationMode");
            errors.push(FieldError::not_supported(at, other, &MODES));
        }
    }
    for (i, one) in request.list("tolerations").iter().enumerate() {
        errors.extend(toleration(one, &format!("{path}.tolerations[{i}]")));
    }
    errors
}

fn toleration(toleration: &Value, path: &str) -> FieldErrors {
    let (key, value) = (toleration.text("key"), toleration.text("value"));
    let mut errors = Vec::new();
    if !key.is_empty() {
        errors.extend(complain(format_args!("{path}.key"), key, names::qualified(key)));
    }
    let at = format!("{path}.value");
    match toleration.text("operator") {
        "Exists" if !value.is_empty() => {
            let detail = "must be empty for operator `Exists`";
            errors.push(FieldError::invalid(at, value, detail));
        }
        "Equal" => errors.extend(complain(&at, value, names::label_value(value))),
        other => errors.extend(one_of(
            format_args!("{path}.operator"),
            other,
            &["Equal", "Exists"],
        )),
    }
    let effect = toleration.text("effect");
    if !effect.is_empty() {
        errors.extend(one_of(format_args!("{path}.effect"), effect, &EFFECTS));
    }
    errors
}

fn constraint(constraint: &Value, requests: &Requests, path: &str) -> FieldErrors {
    let mut errors = requests.check_all(constraint.list("requests"), &format!("{path}.requests"));
    let named = ["matchAttribute", "distinctAttribute"]
        .into_iter()
        .find_map(|key| Some((key, constraint.at(key).as_str()?)));
    match named {
        Some((key, name)) => errors.extend(full_name(name, &format!("{path}.{key}"))),
        None => {
            let detail = "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields \
                are set";
            errors.push(FieldError::required(path, detail));
        }
    }
    errors
}

fn full_name(name: &str, path: &str) -> FieldErrors {
    let mut errors = attribute_name(name, path);
    if !name.contains('/') {
        let detail = "a fully qualified name must be a domain and a name separated by a slash";
        errors.push(FieldError::invalid(path, name, detail));
    }
    errors
}

/// `NAME` or `DOMAIN/NAME` of an attribute. As upstream has it, more slashes are not looked at.
fn attribute_name(name: &str, path: &str) -> FieldErrors {
    let parts: Vec<&str> = name.split('/').collect();
    match parts[..] {
        [name] => identifier(name, path),
        [domain, name] => {
            let mut errors = match domain {
                "" => vec![FieldError::invalid(path, "", "the domain must not be empty")],
                domain => driver_name(domain, path),
            };
            errors.extend(match name {
                "" => vec![FieldError::invalid(path, "", "the name must not be empty")],
                name => identifier(name, path),
            });
            errors
        }
        _ => Vec::new(),
    }
}

fn identifier(name: &str, path: &str) -> FieldErrors {
    let mut errors = Vec::new();
    if name.len() > IDENTIFIER {
        errors.push(FieldError::too_long(path, IDENTIFIER));
    }
    let good = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if !name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') || !name.chars().all(good) {
        errors.push(FieldError::invalid(path, name, IDENTIFIER_FORM));
    }
    errors
}

fn configuration(config: &Value, path: &str) -> FieldErrors {
    let at = format!("{path}.opaque");
    if !config.has("opaque") {
        return vec![FieldError::required(at, "")];
    }
    let opaque = config.at("opaque");
    let mut errors = driver_name(opaque.text("driver"), &format!("{at}.driver"));
    errors.extend(raw(opaque.at("parameters"), &format!("{at}.parameters")));
    errors
}

/// Any JSON object of a driver.
fn raw(value: &Value, path: &str) -> Option<FieldError> {
    match value {
        Value::Null => Some(FieldError::required(path, "")),
        value if value.to_string().len() > PARAMETERS => Some(FieldError::too_long(path, PARAMETERS)),
        Value::Object(_) => None,
        _ => Some(FieldError::invalid(
            path,
            "<value omitted>",
            "must be a valid JSON object",
        )),
    }
}

fn pool_name(name: &str, path: &str) -> FieldErrors {
    if name.is_empty() {
        return vec![FieldError::required(path, "")];
    }
    let long = (name.len() > POOL).then(|| FieldError::too_long(path, POOL));
    let parts = name
        .split('/')
        .flat_map(|part| complain(path, part, names::subdomain(part)));
    long.into_iter().chain(parts).collect()
}

//! Environment variables and where their values come from.
use std::fmt::{self, Display};

use serde_json::Value;

use super::volume_sources::{mode, reserved_path};
use super::{complain, no_backsteps, present};
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::indexed::by_text;
use crate::kinds::names;
use crate::kinds::quantity::Quantity;
use crate::kinds::view::View;

const SOURCES: [&str; 5] = [
    "fieldRef",
    "resourceFieldRef",
    "configMapKeyRef",
    "secretKeyRef",
    "fileKeyRef",
];
const NO_SOURCE: &str =
    "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";
const ONE_AT_A_TIME: &str = "may not have more than one field specified at a time";
const ENV_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const VOLUME_FIELDS: [&str; 5] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];
/// Fields of a Pod that the downward API knows, beside those that one use of it allows.
const OTHER_FIELDS: [&str; 3] = ["spec.restartPolicy", "spec.schedulerName", "status.phase"];
/// The old name of `spec.nodeName`.
const OLD_NODE_FIELD: &str = "spec.host";
const SCALES: &str = "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei";
const RESOURCES: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

pub(super) fn variables(variables: &[Value], path: impl Display + Copy) -> FieldErrors {
    let mut errors = Vec::new();
    for (i, variable) in variables.iter().enumerate() {
        let at = format_args!("{path}[{i}]");
        match variable.text("name") {
            "" => errors.push(FieldError::required(format!("{at}.name"), "")),
            name => errors.extend(complain(format_args!("{at}.name"), name, names::env_name(name))),
        }
        if variable.has("valueFrom") {
            errors.extend(value_from(variable, format_args!("{at}.valueFrom")));
        }
    }
    errors
}

fn value_from(variable: &Value, path: impl Display + Copy) -> FieldErrors {
    let source = variable.at("valueFrom");
    let mut errors = field_ref(
        source.at("fieldRef"),
        format_args!("{path}.fieldRef"),
        &ENV_FIELDS,
    );
    let at = format_args!("{path}.resourceFieldRef");
    errors.extend(resource_ref(source.at("resourceFieldRef"), at, false));
    for key in ["configMapKeyRef", "secretKeyRef"] {
        errors.extend(key_ref(source.at(key), format_args!("{path}.{key}")));
    }
    errors.extend(file_ref(
        source.at("fileKeyRef"),
        format_args!("{path}.fileKeyRef"),
    ));
    let set = SOURCES.iter().filter(|key| source.has(key)).count();
    if set == 0 {
        errors.push(FieldError::invalid(path, "", NO_SOURCE));
    } else if !variable.text("value").is_empty() {
        let detail = "may not be specified when `value` is not empty";
        errors.push(FieldError::invalid(path, "", detail));
    } else if set > 1 {
        errors.push(FieldError::invalid(path, "", ONE_AT_A_TIME));
    }
    errors
}

/// A reference to a field of the Pod itself.
fn field_ref(reference: &Value, path: impl Display + Copy, allowed: &[&str]) -> FieldErrors {
    if reference.is_null() {
        return Vec::new();
    }
    let (field, at) = (reference.text("fieldPath"), format_args!("{path}.fieldPath"));
    if field.is_empty() {
        return vec![FieldError::required(at, "")];
    }
    if let Some(why) = unknown_field(reference.text("apiVersion"), field) {
        let detail = format!("error converting fieldPath: {why}");
        return vec![FieldError::invalid(at, field, detail)];
    }
    match subscript(field) {
        Some(("metadata.annotations", key)) => {
            let key = key.to_ascii_lowercase();
            complain(path, &key, names::qualified(&key))
        }
        Some((_, key)) => complain(path, key, names::qualified(key)),
        None if field == OLD_NODE_FIELD || allowed.contains(&field) => Vec::new(),
        None => vec![FieldError::not_supported(at, field, allowed)],
    }
}

/// Why the downward API does not know a field.
fn unknown_field(version: &str, field: &str) -> Option<String> {
    if version != "v1" {
        return Some(format!("unsupported pod version: {version}"));
    }
    match subscript(field) {
        Some(("metadata.annotations" | "metadata.labels", _)) => None,
        Some(_) => Some(format!("field label does not support subscript: {field}")),
        None => {
            let known = [&ENV_FIELDS[..], &VOLUME_FIELDS, &OTHER_FIELDS, &[OLD_NODE_FIELD]];
            let known = known.iter().any(|fields| fields.contains(&field));
            (!known).then(|| format!("field label not supported: {field}"))
        }
    }
}

/// `path['key']` in its two parts.
fn subscript(field: &str) -> Option<(&str, &str)> {
    field
        .strip_suffix("']")?
        .split_once("['")
        .filter(|(path, _)| !path.is_empty())
}

/// A reference to a container's own requests or limits; one from a volume says which container's.
fn resource_ref(reference: &Value, path: impl Display + Copy, from_volume: bool) -> FieldErrors {
    if reference.is_null() {
        return Vec::new();
    }
    let (resource, at) = (reference.text("resource"), format_args!("{path}.resource"));
    let mut errors = Vec::new();
    if from_volume && reference.text("containerName").is_empty() {
        errors.push(FieldError::required(format!("{path}.containerName"), ""));
    } else if resource.is_empty() {
        errors.push(FieldError::required(at, ""));
    } else if !RESOURCES.contains(&resource) && !is_huge(resource) {
        errors.push(FieldError::not_supported(at, resource, &RESOURCES));
    }
    errors.extend(divisor(reference, resource, path));
    errors
}

fn is_huge(resource: &str) -> bool {
    let prefixes = ["limits.hugepages-", "requests.hugepages-"];
    prefixes.iter().any(|prefix| resource.starts_with(prefix))
}

/// The unit in which an amount is told.
fn divisor(reference: &Value, resource: &str, path: impl Display + Copy) -> Option<FieldError> {
    let divisor = Quantity::parse(reference.text("divisor")).ok()?;
    if divisor.is_zero() {
        return None;
    }
    let (known, kind) = match resource.split_once('.')?.1 {
        "cpu" => ("1m and 1", "cpu"),
        "memory" => (SCALES, "memory"),
        "ephemeral-storage" => (SCALES, "local ephemeral storage"),
        _ if is_huge(resource) => (SCALES, "hugepages"),
        _ => return None,
    };
    let shown = divisor.to_string();
    if known.replace(" and ", ", ").split(", ").any(|one| one == shown) {
        return None;
    }
    let detail = format!("only divisor's values {known} are supported with the {kind} resource");
    Some(FieldError::invalid(format!("{path}.divisor"), resource, detail))
}

/// A reference to a key of a ConfigMap or Secret.
fn key_ref(reference: &Value, path: impl Display + Copy) -> FieldErrors {
    if reference.is_null() {
        return Vec::new();
    }
    let name = reference.text("name");
    let mut errors = complain(format_args!("{path}.name"), name, names::subdomain(name));
    match reference.text("key") {
        "" => errors.push(FieldError::required(format!("{path}.key"), "")),
        key => errors.extend(complain(format_args!("{path}.key"), key, names::config_key(key))),
    }
    errors
}

/// A reference to a variable in a file that another container wrote. KEP-3721.
fn file_ref(reference: &Value, path: impl Display + Copy) -> FieldErrors {
    if reference.is_null() {
        return Vec::new();
    }
    let mut errors = Vec::new();
    let mut check = |key: &str, complaints: &dyn Fn(fmt::Arguments<'_>, &str) -> FieldErrors| {
        let at = format_args!("{path}.{key}");
        match reference.text(key) {
            "" => errors.push(FieldError::required(at, "")),
            text => errors.extend(complaints(at, text)),
        }
    };
    check("key", &|at, text| complain(at, text, names::env_name(text)));
    check("volumeName", &|at, text| complain(at, text, names::label(text)));
    check("path", &|at, text| no_backsteps(at, text).into_iter().collect());
    errors
}

/// Files that variables are read from lie in volumes that containers can write.
pub(super) fn file_volumes(spec: &Value, path: impl Display + Copy) -> FieldErrors {
    let volumes = by_text(spec.list("volumes"), "name");
    let mut errors = Vec::new();
    for (container, at) in super::container::all(spec, path) {
        for (i, variable) in container.list("env").iter().enumerate() {
            let Some(name) = variable.at("valueFrom.fileKeyRef.volumeName").as_str() else {
                continue;
            };
            let at = format_args!("{at}.env[{i}].valueFrom.fileKeyRef.volumeName");
            match volumes.get(name) {
                None => errors.push(FieldError::not_found(at, name)),
                Some(volume) if !volume.has("emptyDir") => {
                    let detail = "referenced volume must be of type emptyDir";
                    errors.push(FieldError::invalid(at, name, detail));
                }
                Some(_) => {}
            }
        }
    }
    errors
}

pub(super) fn sources(sources: &[Value], path: impl Display + Copy) -> FieldErrors {
    let mut errors = Vec::new();
    for (i, source) in sources.iter().enumerate() {
        let at = format_args!("{path}[{i}]");
        let prefix = source.text("prefix");
        if !prefix.is_empty() {
            errors.extend(complain(
                format_args!("{at}.prefix"),
                prefix,
                names::env_name(prefix),
            ));
        }
        let set: Vec<&str> = ["configMapRef", "secretRef"]
            .into_iter()
            .filter(|k| source.has(k))
            .collect();
        for key in &set {
            let (name, at) = (source.at(key).text("name"), format_args!("{at}.{key}.name"));
            match name {
                "" => errors.push(FieldError::required(at, "")),
                name => errors.extend(complain(at, name, names::NameRule::Subdomain.check(name, true))),
            }
        }
        match set.len() {
            0 => errors.push(FieldError::invalid(
                path,
                "",
                "must specify one of: `configMapRef` or `secretRef`",
            )),
            1 => {}
            _ => errors.push(FieldError::invalid(path, "", ONE_AT_A_TIME)),
        }
    }
    errors
}

/// A file of a downward API volume; `path` is that of its list's holder.
pub(super) fn downward_item(item: &Value, path: impl Display + Copy) -> FieldErrors {
    let at = format_args!("{path}.path");
    let mut errors: FieldErrors = present(item, "path", path).into_iter().collect();
    errors.extend(reserved_path(item.text("path"), at));
    match (item.has("fieldRef"), item.has("resourceFieldRef")) {
        (true, both) => {
            let at = format_args!("{path}.fieldRef");
            errors.extend(field_ref(item.at("fieldRef"), at, &VOLUME_FIELDS));
            if both {
                let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
                errors.push(FieldError::invalid(path, "resource", detail));
            }
        }
        (false, true) => {
            let at = format_args!("{path}.resourceFieldRef");
            errors.extend(resource_ref(item.at("resourceFieldRef"), at, true));
        }
        (false, false) => {
            let detail = "one of fieldRef and resourceFieldRef is required";
            errors.push(FieldError::required(path, detail));
        }
    }
    errors.extend(mode(item, "mode", path));
    errors
}

//! Environment variables and where their values come from.
use serde_json::Value;

use super::{complain, present};
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::names;
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
const RESOURCES: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

pub(super) fn variables(variables: &[Value], path: &str) -> FieldErrors {
    let mut errors = Vec::new();
    for (i, variable) in variables.iter().enumerate() {
        let at = format!("{path}[{i}]");
        match variable.text("name") {
            "" => errors.push(FieldError::required(format!("{at}.name"), "")),
            name => errors.extend(complain(&format!("{at}.name"), name, names::env_name(name))),
        }
        if variable.has("valueFrom") {
            errors.extend(value_from(variable, &format!("{at}.valueFrom")));
        }
    }
    errors
}

fn value_from(variable: &Value, path: &str) -> FieldErrors {
    let source = variable.at("valueFrom");
    let mut errors = field_ref(source.at("fieldRef"), &format!("{path}.fieldRef"), &ENV_FIELDS);
    errors.extend(resource_ref(
        source.at("resourceFieldRef"),
        &format!("{path}.resourceFieldRef"),
    ));
    for key in ["configMapKeyRef", "secretKeyRef"] {
        errors.extend(key_ref(source.at(key), &format!("{path}.{key}")));
    }
    let set = SOURCES.iter().filter(|key| source.has(key)).count();
    if set == 0 {
        errors.push(FieldError::invalid(path, "", NO_SOURCE));
    } else if !variable.text("value").is_empty() {
        errors.push(FieldError::invalid(
            path,
            "",
            "may not be specified when `value` is not empty",
        ));
    } else if set > 1 {
        errors.push(FieldError::invalid(path, "", ONE_AT_A_TIME));
    }
    errors
}

/// A reference to a field of the Pod itself.
fn field_ref(reference: &Value, path: &str, allowed: &[&str]) -> FieldErrors {
    if reference.is_null() {
        return Vec::new();
    }
    let (field, at) = (reference.text("fieldPath"), format!("{path}.fieldPath"));
    if field.is_empty() {
        return vec![FieldError::required(at, "")];
    }
    if let Some((name, key)) = field.strip_suffix("']").and_then(|f| f.split_once("['")) {
        return match name {
            "metadata.labels" | "metadata.annotations" => {
                complain(&at, key, names::qualified(&key.to_ascii_lowercase()))
            }
            _ => vec![FieldError::invalid(at, name, "does not support subscript")],
        };
    }
    match allowed.contains(&field) {
        true => Vec::new(),
        false if ENV_FIELDS.contains(&field) || VOLUME_FIELDS.contains(&field) => {
            vec![FieldError::not_supported(at, field, allowed)]
        }
        false => {
            let detail = format!("error converting fieldPath: field label not supported: {field}");
            vec![FieldError::invalid(at, field, detail)]
        }
    }
}

/// A reference to a container's own requests or limits.
fn resource_ref(reference: &Value, path: &str) -> FieldErrors {
    if reference.is_null() {
        return Vec::new();
    }
    let resource = reference.text("resource");
    let huge = ["limits.hugepages-", "requests.hugepages-"]
        .iter()
        .any(|p| resource.starts_with(p));
    match resource {
        "" => vec![FieldError::required(format!("{path}.resource"), "")],
        resource if RESOURCES.contains(&resource) || huge => Vec::new(),
        resource => vec![FieldError::not_supported(
            format!("{path}.resource"),
            resource,
            &RESOURCES,
        )],
    }
}

/// A reference to a key of a ConfigMap or Secret.
fn key_ref(reference: &Value, path: &str) -> FieldErrors {
    if reference.is_null() {
        return Vec::new();
    }
    let mut errors: FieldErrors = present(reference, "name", path).into_iter().collect();
    match reference.text("key") {
        "" => errors.push(FieldError::required(format!("{path}.key"), "")),
        key => errors.extend(complain(&format!("{path}.key"), key, names::config_key(key))),
    }
    errors
}

pub(super) fn sources(sources: &[Value], path: &str) -> FieldErrors {
    let mut errors = Vec::new();
    for (i, source) in sources.iter().enumerate() {
        let at = format!("{path}[{i}]");
        let prefix = source.text("prefix");
        if !prefix.is_empty() {
            errors.extend(complain(&format!("{at}.prefix"), prefix, names::env_name(prefix)));
        }
        let set: Vec<&str> = ["configMapRef", "secretRef"]
            .into_iter()
            .filter(|k| source.has(k))
            .collect();
        errors.extend(
            set.iter()
                .filter_map(|key| present(source.at(key), "name", &format!("{at}.{key}"))),
        );
        match set.len() {
            0 => errors.push(FieldError::invalid(
                at,
                "",
                "must specify one of: `configMapRef` or `secretRef`",
            )),
            1 => {}
            _ => errors.push(FieldError::invalid(at, "", ONE_AT_A_TIME)),
        }
    }
    errors
}

/// Files of a downward API volume.
pub(super) fn downward_items(items: &[Value], path: &str) -> FieldErrors {
    let mut errors = Vec::new();
    for (i, item) in items.iter().enumerate() {
        let at = format!("{path}[{i}]");
        errors.extend(super::volumes::reserved_path(
            item.text("path"),
            &format!("{at}.path"),
        ));
        match (item.has("fieldRef"), item.has("resourceFieldRef")) {
            (true, true) => {
                let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
                errors.push(FieldError::invalid(at, "resource", detail));
            }
            (true, false) => errors.extend(field_ref(
                item.at("fieldRef"),
                &format!("{at}.fieldRef"),
                &VOLUME_FIELDS,
            )),
            (false, true) => {
                let at = format!("{at}.resourceFieldRef");
                errors.extend(present(item.at("resourceFieldRef"), "containerName", &at));
                errors.extend(resource_ref(item.at("resourceFieldRef"), &at));
            }
            (false, false) => {
                errors.push(FieldError::required(
                    at,
                    "one of fieldRef and resourceFieldRef is required",
                ));
            }
        }
    }
    errors
}

//! Volumes of a Pod and where containers mount them.
use std::collections::HashSet;

use serde_json::Value;

use super::env::downward_items;
use super::{Seen, complain, descending, maybe_one_of, pod, present};
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::names;
use crate::kinds::quantity::Quantity;
use crate::kinds::view::View;

const HOST_PATH_TYPES: [&str; 8] = [
    "",
    "BlockDevice",
    "CharDevice",
    "Directory",
    "DirectoryOrCreate",
    "File",
    "FileOrCreate",
    "Socket",
];
const PROPAGATIONS: [&str; 3] = ["Bidirectional", "HostToContainer", "None"];
const BAD_MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";
const TOKEN_SECONDS: std::ops::RangeInclusive<i64> = 600..=1 << 32;

pub(super) fn volumes(volumes: &[Value], path: &str) -> FieldErrors {
    let (mut errors, mut seen) = (Vec::new(), Seen::default());
    for (i, volume) in volumes.iter().enumerate() {
        let at = format!("{path}[{i}]");
        errors.extend(source(volume, &at));
        let name = volume.text("name");
        match name {
            "" => errors.push(FieldError::required(format!("{at}.name"), "")),
            name => errors.extend(complain(&format!("{at}.name"), name, names::label(name))),
        }
        if seen.again(name) {
            errors.push(FieldError::duplicate(format!("{at}.name"), name));
        }
    }
    errors
}

/// Exactly one source, and that one valid.
fn source(volume: &Value, path: &str) -> FieldErrors {
    let sources = volume.as_object().into_iter().flatten();
    let sources: Vec<&str> = sources
        .filter(|(k, v)| *k != "name" && !v.is_null())
        .map(|(k, _)| k.as_str())
        .collect();
    let Some(first) = sources.first() else {
        return vec![FieldError::required(path, "must specify a volume type")];
    };
    let mut errors = source_body(first, volume.at(first), &format!("{path}.{first}"));
    for extra in &sources[1..] {
        let detail = "may not specify more than 1 volume type";
        errors.push(FieldError::forbidden(format!("{path}.{extra}"), detail));
    }
    errors
}

pub(super) fn source_body(kind: &str, source: &Value, path: &str) -> FieldErrors {
    match kind {
        "emptyDir" => size_limit(source, path).into_iter().collect(),
        "hostPath" => host_path(source, path),
        "secret" => files(source, "secretName", path),
        "configMap" => files(source, "name", path),
        "downwardAPI" => {
            let mut errors: FieldErrors = mode(source, "defaultMode", path).into_iter().collect();
            errors.extend(downward_items(source.list("items"), &format!("{path}.items")));
            errors
        }
        "projected" => projected(source, path),
        "persistentVolumeClaim" => present(source, "claimName", path).into_iter().collect(),
        "nfs" => nfs(source, path),
        "csi" => present(source, "driver", path).into_iter().collect(),
        "image" => present(source, "reference", path).into_iter().collect(),
        "ephemeral" if !source.has("volumeClaimTemplate") => {
            vec![FieldError::required(format!("{path}.volumeClaimTemplate"), "")]
        }
        _ => Vec::new(),
    }
}

fn size_limit(source: &Value, path: &str) -> Option<FieldError> {
    let limit = Quantity::parse(source.text("sizeLimit")).ok()?;
    let detail = "SizeLimit field must be a valid resource quantity";
    limit
        .is_negative()
        .then(|| FieldError::forbidden(format!("{path}.sizeLimit"), detail))
}

fn host_path(source: &Value, path: &str) -> FieldErrors {
    let at = format!("{path}.path");
    let mut errors: FieldErrors = match source.text("path") {
        "" => vec![FieldError::required(at, "")],
        value => pod::host_path(&at, value).into_iter().collect(),
    };
    errors.extend(maybe_one_of(source, "type", path, &HOST_PATH_TYPES));
    errors
}

fn nfs(source: &Value, path: &str) -> FieldErrors {
    let mut errors: FieldErrors = present(source, "server", path).into_iter().collect();
    match source.text("path") {
        "" => errors.push(FieldError::required(format!("{path}.path"), "")),
        value if !value.starts_with('/') => {
            errors.push(FieldError::invalid(
                format!("{path}.path"),
                value,
                "must be an absolute path",
            ));
        }
        _ => {}
    }
    errors
}

/// A ConfigMap or Secret as files.
fn files(source: &Value, name: &str, path: &str) -> FieldErrors {
    let mut errors: FieldErrors = present(source, name, path).into_iter().collect();
    errors.extend(mode(source, "defaultMode", path));
    errors.extend(key_paths(source.list("items"), &format!("{path}.items")));
    errors
}

fn mode(source: &Value, key: &str, path: &str) -> Option<FieldError> {
    let mode = source.int(key).filter(|m| !(0..=0o777).contains(m))?;
    Some(FieldError::invalid(format!("{path}.{key}"), mode, BAD_MODE))
}

fn key_paths(items: &[Value], path: &str) -> FieldErrors {
    let mut errors = Vec::new();
    for (i, item) in items.iter().enumerate() {
        let at = format!("{path}[{i}]");
        errors.extend(present(item, "key", &at));
        errors.extend(reserved_path(item.text("path"), &format!("{at}.path")));
        errors.extend(mode(item, "mode", &at));
    }
    errors
}

/// A file name below the volume; names starting with two dots are the node's own.
pub(super) fn reserved_path(value: &str, path: &str) -> FieldErrors {
    if value.is_empty() {
        return vec![FieldError::required(path, "")];
    }
    let mut errors = descending(path, value);
    if value.starts_with("..") && !value.starts_with("../") && value != ".." {
        errors.push(FieldError::invalid(path, value, "must not start with '..'"));
    }
    errors
}

fn projected(source: &Value, path: &str) -> FieldErrors {
    let mut errors: FieldErrors = mode(source, "defaultMode", path).into_iter().collect();
    for (i, projection) in source.list("sources").iter().enumerate() {
        let at = format!("{path}.sources[{i}]");
        for key in ["secret", "configMap"].into_iter().filter(|k| projection.has(k)) {
            errors.extend(files(projection.at(key), "name", &format!("{at}.{key}")));
        }
        if projection.has("downwardAPI") {
            let at = format!("{at}.downwardAPI.items");
            errors.extend(downward_items(projection.list("downwardAPI.items"), &at));
        }
        if projection.has("serviceAccountToken") {
            errors.extend(token(
                projection.at("serviceAccountToken"),
                &format!("{at}.serviceAccountToken"),
            ));
        }
    }
    errors
}

fn token(token: &Value, path: &str) -> FieldErrors {
    let seconds = token.int("expirationSeconds").unwrap_or(3600);
    let mut errors: FieldErrors = present(token, "path", path).into_iter().collect();
    let detail = match seconds {
        s if s < *TOKEN_SECONDS.start() => "may not specify a duration less than 10 minutes",
        s if s > *TOKEN_SECONDS.end() => "may not specify a duration larger than 2^32 seconds",
        _ => return errors,
    };
    errors.push(FieldError::invalid(
        format!("{path}.expirationSeconds"),
        seconds,
        detail,
    ));
    errors
}

/// Mounts of a container: each volume exists, each path is taken once.
pub(super) fn mounts(container: &Value, volumes: &HashSet<&str>, path: &str) -> FieldErrors {
    let mounts = container.list("volumeMounts");
    let (mut errors, mut seen) = (Vec::new(), Seen::default());
    for (i, mount) in mounts.iter().enumerate() {
        let at = format!("{path}.volumeMounts[{i}]");
        let (name, mount_path) = (mount.text("name"), mount.text("mountPath"));
        errors.extend(present(mount, "name", &at));
        if !volumes.contains(name) {
            errors.push(FieldError::not_found(format!("{at}.name"), name));
        }
        errors.extend(present(mount, "mountPath", &at));
        if seen.again(mount_path) {
            errors.push(FieldError::invalid(
                format!("{at}.mountPath"),
                mount_path,
                "must be unique",
            ));
        }
        errors.extend(sub_paths(mount, &at));
        errors.extend(propagation(mount, container, &at));
    }
    errors
}

fn sub_paths(mount: &Value, path: &str) -> FieldErrors {
    let (plain, expression) = (mount.text("subPath"), mount.text("subPathExpr"));
    let mut errors = descending(&format!("{path}.subPath"), plain);
    if !expression.is_empty() {
        let at = format!("{path}.subPathExpr");
        if !plain.is_empty() {
            let detail = "subPathExpr and subPath are mutually exclusive";
            errors.push(FieldError::invalid(at.clone(), expression, detail));
        }
        errors.extend(descending(&at, expression));
    }
    errors
}

fn propagation(mount: &Value, container: &Value, path: &str) -> FieldErrors {
    let mut errors: FieldErrors = maybe_one_of(mount, "mountPropagation", path, &PROPAGATIONS)
        .into_iter()
        .collect();
    if mount.text("mountPropagation") == "Bidirectional" && !container.flag("securityContext.privileged") {
        let detail = "Bidirectional mount propagation is available only to privileged containers";
        errors.push(FieldError::forbidden(format!("{path}.mountPropagation"), detail));
    }
    let recursive = mount.text("recursiveReadOnly");
    if ["Enabled", "IfPossible"].contains(&recursive) && !mount.flag("readOnly") {
        let detail = "may only be specified when readOnly is true";
        errors.push(FieldError::forbidden(format!("{path}.recursiveReadOnly"), detail));
    }
    errors
}

//! Where the bytes of a volume come from: one source each, and that one valid. Shared by Pods and PersistentVolumes.
use std::fmt::{self, Display};

use serde_json::Value;

use super::pod::{Holder, Place};
use super::{
    complain, descending, env, maybe_one_of, meta_of_template, no_backsteps, old_volume_sources, one_of,
    present, projected, storage,
};
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
const PULL_POLICIES: [&str; 3] = ["Always", "IfNotPresent", "Never"];
const BAD_MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";
const ONLY_ONE: &str = "may not specify more than 1 volume type";

/// The sources a Pod's volume may have, in the order in which they are looked at.
const OF_POD: [&str; 30] = [
    "emptyDir",
    "hostPath",
    "gitRepo",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "flocker",
    "persistentVolumeClaim",
    "rbd",
    "cinder",
    "cephfs",
    "quobyte",
    "downwardAPI",
    "fc",
    "flexVolume",
    "configMap",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "storageos",
    "projected",
    "scaleIO",
    "csi",
    "ephemeral",
    "image",
];
/// The same of a PersistentVolume.
const OF_VOLUME: [&str; 22] = [
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "flocker",
    "nfs",
    "rbd",
    "quobyte",
    "cephfs",
    "iscsi",
    "cinder",
    "fc",
    "flexVolume",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "scaleIO",
    "local",
    "storageos",
    "csi",
];

/// The source of a volume of a Pod.
pub(super) fn of_pod(volume: &Value, holder: Holder<'_>, path: impl Display + Copy) -> FieldErrors {
    only_one(volume, &OF_POD, path, |kind, source, at| {
        body_in_pod(kind, source, volume.text("name"), holder, at)
    })
}

/// The source of a PersistentVolume, which is a member of its spec.
pub(super) fn of_volume(spec: &Value, name: &str, path: impl Display + Copy) -> FieldErrors {
    only_one(spec, &OF_VOLUME, path, |kind, source, at| match kind {
        "csi" => storage::csi(source, &at.to_string()),
        "local" => storage::local(spec, source, &at.to_string()),
        "iscsi" => old_volume_sources::iscsi_of_volume(source, name, &at.to_string()),
        _ => shared(kind, source, at).unwrap_or_else(|| {
            old_volume_sources::check(kind, source, &at.to_string(), old_volume_sources::In::Volume)
        }),
    })
}

fn only_one(
    holder: &Value,
    known: &[&str],
    path: impl Display + Copy,
    body: impl Fn(&str, &Value, fmt::Arguments<'_>) -> FieldErrors,
) -> FieldErrors {
    // A holder has few members, and the known ones are many.
    let members = holder.as_object().into_iter().flatten();
    let members = members.filter(|(_, source)| !source.is_null());
    let mut set: Vec<usize> = members
        .filter_map(|(key, _)| known.iter().position(|kind| kind == key))
        .collect();
    set.sort_unstable();
    let mut set = set.into_iter().map(|at| known[at]);
    let Some(first) = set.next() else {
        return vec![FieldError::required(path, "must specify a volume type")];
    };
    let mut errors = body(
        first,
        holder.at(first),
        format_args!("{path}.{}", name_in_path(first)),
    );
    errors.extend(
        set.map(|extra| FieldError::forbidden(format!("{path}.{}", name_when_extra(extra)), ONLY_ONE)),
    );
    errors
}

/// What upstream calls a source in the paths of its errors.
fn name_in_path(kind: &str) -> &str {
    match kind {
        "gcePersistentDisk" => "persistentDisk",
        kind => kind,
    }
}

fn name_when_extra(kind: &str) -> &str {
    match kind {
        "cephfs" => "cephFS",
        "downwardAPI" => "downwarAPI",
        kind => kind,
    }
}

fn body_in_pod(
    kind: &str,
    source: &Value,
    volume: &str,
    holder: Holder<'_>,
    path: impl Display + Copy,
) -> FieldErrors {
    match kind {
        "downwardAPI" => {
            let mut errors: FieldErrors = mode(source, "defaultMode", path).into_iter().collect();
            let items = source.list("items").iter();
            errors.extend(items.flat_map(|item| env::downward_item(item, path)));
            errors
        }
        "projected" => projected::projected(source, path),
        "csi" => csi(source, path),
        "ephemeral" => ephemeral(source, volume, holder.name, path),
        "image" => image(source, holder.place, path),
        _ => shared(kind, source, path).unwrap_or_else(|| {
            old_volume_sources::check(
                kind,
                source,
                &path.to_string(),
                old_volume_sources::In::Pod(volume),
            )
        }),
    }
}

/// Sources in use today.
fn shared(kind: &str, source: &Value, path: impl Display + Copy) -> Option<FieldErrors> {
    Some(match kind {
        "emptyDir" => size_limit(source, path).into_iter().collect(),
        "hostPath" => host_path(source, path),
        "secret" => files(source, "secretName", path),
        "configMap" => files(source, "name", path),
        "persistentVolumeClaim" => present(source, "claimName", path).into_iter().collect(),
        "nfs" => nfs(source, path),
        _ => return None,
    })
}

fn size_limit(source: &Value, path: impl Display + Copy) -> Option<FieldError> {
    let limit = Quantity::parse(source.text("sizeLimit")).ok()?;
    let detail = "SizeLimit field must be a valid resource quantity";
    limit
        .is_negative()
        .then(|| FieldError::forbidden(format!("{path}.sizeLimit"), detail))
}

fn host_path(source: &Value, path: impl Display + Copy) -> FieldErrors {
    let at = format_args!("{path}.path");
    let value = source.text("path");
    if value.is_empty() {
        return vec![FieldError::required(at, "")];
    }
    let mut errors: FieldErrors = no_backsteps(at, value).into_iter().collect();
    errors.extend(maybe_one_of(source, "type", path, &HOST_PATH_TYPES));
    errors
}

fn nfs(source: &Value, path: impl Display + Copy) -> FieldErrors {
    let mut errors: FieldErrors = present(source, "server", path).into_iter().collect();
    errors.extend(present(source, "path", path));
    let value = source.text("path");
    if !value.starts_with('/') {
        let at = format_args!("{path}.path");
        errors.push(FieldError::invalid(at, value, "must be an absolute path"));
    }
    errors
}

/// A ConfigMap or Secret as files.
fn files(source: &Value, name: &str, path: impl Display + Copy) -> FieldErrors {
    let mut errors: FieldErrors = present(source, name, path).into_iter().collect();
    errors.extend(mode(source, "defaultMode", path));
    for (i, item) in source.list("items").iter().enumerate() {
        errors.extend(key_path(item, format_args!("{path}.items[{i}]")));
    }
    errors
}

pub(super) fn mode(source: &Value, key: &str, path: impl Display + Copy) -> Option<FieldError> {
    let mode = source.int(key).filter(|m| !(0..=0o777).contains(m))?;
    Some(FieldError::invalid(format!("{path}.{key}"), mode, BAD_MODE))
}

pub(super) fn key_path(item: &Value, path: impl Display + Copy) -> FieldErrors {
    let mut errors: FieldErrors = present(item, "key", path).into_iter().collect();
    errors.extend(present(item, "path", path));
    errors.extend(reserved_path(item.text("path"), format_args!("{path}.path")));
    errors.extend(mode(item, "mode", path));
    errors
}

/// A file name below the volume; names starting with two dots are the node's own.
pub(super) fn reserved_path(value: &str, path: impl Display + Copy) -> FieldErrors {
    let mut errors = descending(path, value);
    if value.starts_with("..") && !value.starts_with("../") {
        errors.push(FieldError::invalid(path, value, "must not start with '..'"));
    }
    errors
}

fn csi(source: &Value, path: impl Display + Copy) -> FieldErrors {
    let mut errors = storage::driver_name(source.text("driver"), &format!("{path}.driver"));
    if source.has("nodePublishSecretRef") {
        match source.text("nodePublishSecretRef.name") {
            "" => errors.push(FieldError::required(
                format!("{path}.nodePublishSecretRef.name"),
                "",
            )),
            name => errors.extend(complain(
                format_args!("{path}.name"),
                name,
                names::subdomain(name),
            )),
        }
    }
    errors
}

fn ephemeral(source: &Value, volume: &str, pod: &str, path: impl Display + Copy) -> FieldErrors {
    let (template, at) = (
        source.at("volumeClaimTemplate"),
        format_args!("{path}.volumeClaimTemplate"),
    );
    if template.is_null() {
        return vec![FieldError::required(at, "")];
    }
    let mut errors = meta_of_template(template.at("metadata"), format_args!("{at}.metadata"));
    errors.extend(storage::claim_spec(template.at("spec"), &format!("{at}.spec")));
    if !pod.is_empty() && !volume.is_empty() {
        let claim = format!("{pod}-{volume}");
        let path = path.to_string();
        let holder = path.strip_suffix(".ephemeral").unwrap_or(&path);
        for why in names::subdomain(&claim) {
            let detail = format!("PVC name \"{claim}\": {why}");
            errors.push(FieldError::invalid(format!("{holder}.name"), volume, detail));
        }
    }
    errors
}

fn image(source: &Value, place: Place, path: impl Display + Copy) -> FieldErrors {
    let mut errors = Vec::new();
    if place == Place::Pod {
        errors.extend(present(source, "reference", path));
    }
    let policy = source.text("pullPolicy");
    errors.extend(one_of(format_args!("{path}.pullPolicy"), policy, &PULL_POLICIES));
    errors
}

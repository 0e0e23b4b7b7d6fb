//! Sources of the storage systems that were once built in. Nothing here can be mounted any more, but objects that name
//! them are still checked as they always were.
use serde_json::Value;

use super::{complain, complain_number, descending, present};
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::names;
use crate::kinds::view::View;

const HOST_PORT: &str = "must be a host:port pair or multiple pairs separated by commas";
const BAD_INITIATOR: &str = "must be valid format starting with iqn, eui, or naa";
const BAD_FORMAT: &str = "must be valid format";
const TOO_LONG: &str = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName \
    is specified.";
/// Characters of a volume's name and an iSCSI portal together.
const ISCSI_NAME: usize = 64;
const TENANT: usize = 65;
const CACHING: [&str; 3] = ["None", "ReadOnly", "ReadWrite"];
const DISKS: [&str; 3] = ["Dedicated", "Managed", "Shared"];

/// Where a source stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum In<'a> {
    /// In a volume of this name.
    Pod(&'a str),
    Volume,
}

pub(super) fn check(kind: &str, source: &Value, path: &str, place: In<'_>) -> FieldErrors {
    let mut errors = match kind {
        "iscsi" => iscsi(source, place, path),
        "fc" => fibre_channel(source, path),
        "quobyte" => quobyte(source, path),
        "flocker" => flocker(source, path),
        "azureDisk" => azure_disk(source, path),
        "flexVolume" => flex(source, path),
        "storageos" => storage_os(source, path),
        _ => required(kind)
            .iter()
            .filter_map(|key| filled(source, key, path))
            .collect(),
    };
    match kind {
        "gitRepo" => errors.extend(descending(&format!("{path}.directory"), source.text("directory"))),
        "gcePersistentDisk" | "awsElasticBlockStore" => errors.extend(partition(source, path)),
        "cinder" | "storageos" => errors.extend(secret(source, place, path)),
        "glusterfs" if source.has("endpointsNamespace") => errors.extend(endpoints_namespace(source, path)),
        "azureFile" if source.has("secretNamespace") => {
            errors.extend(present(source, "secretNamespace", path));
        }
        _ => {}
    }
    errors
}

/// Fields that must not be empty.
fn required(kind: &str) -> &'static [&'static str] {
    match kind {
        "gitRepo" => &["repository"],
        "gcePersistentDisk" => &["pdName"],
        "awsElasticBlockStore" | "cinder" | "portworxVolume" => &["volumeID"],
        "glusterfs" => &["endpoints", "path"],
        "rbd" => &["monitors", "image"],
        "cephfs" => &["monitors"],
        "azureFile" => &["secretName", "shareName"],
        "vsphereVolume" => &["volumePath"],
        "photonPersistentDisk" => &["pdID"],
        "scaleIO" => &["gateway", "system", "volumeName"],
        _ => &[],
    }
}

/// A text or a list that must not be empty.
fn filled(source: &Value, key: &str, path: &str) -> Option<FieldError> {
    match source.list(key) {
        [] => present(source, key, path),
        _ => None,
    }
}

fn partition(source: &Value, path: &str) -> Option<FieldError> {
    let number = source.int("partition").filter(|n| !(0..=255).contains(n))?;
    let detail = "must be between 1 and 255, inclusive";
    Some(FieldError::invalid(format!("{path}.partition"), number, detail))
}

fn secret(source: &Value, place: In<'_>, path: &str) -> FieldErrors {
    if !source.has("secretRef") {
        return Vec::new();
    }
    let (reference, at) = (source.at("secretRef"), format!("{path}.secretRef"));
    let mut errors: FieldErrors = present(reference, "name", &at).into_iter().collect();
    if place == In::Volume {
        errors.extend(present(reference, "namespace", &at));
    }
    errors
}

fn endpoints_namespace(source: &Value, path: &str) -> FieldErrors {
    let (name, at) = (
        source.text("endpointsNamespace"),
        format!("{path}.endpointsNamespace"),
    );
    match name {
        "" => {
            let detail = "if the endpointnamespace is set, it must be a valid namespace name";
            vec![FieldError::invalid(at, "", detail)]
        }
        name => complain(&at, name, names::label(name)),
    }
}

fn iscsi(source: &Value, place: In<'_>, path: &str) -> FieldErrors {
    let mut errors = iscsi_target(source, BAD_INITIATOR, path);
    errors.extend(initiator(source, BAD_INITIATOR, path));
    if let In::Pod(volume) = place
        && source.has("initiatorName")
        && volume.len() + 1 + source.text("targetPortal").len() > ISCSI_NAME
    {
        let holder = path.strip_suffix(".iscsi").unwrap_or(path);
        errors.push(FieldError::invalid(format!("{holder}.name"), volume, TOO_LONG));
    }
    errors
}

/// The iSCSI source of a PersistentVolume of this name.
pub(super) fn iscsi_of_volume(source: &Value, volume: &str, path: &str) -> FieldErrors {
    let portal = source.text("targetPortal");
    let mut errors = iscsi_target(source, BAD_FORMAT, path);
    if source.has("initiatorName") && volume.len() + 1 + portal.len() > ISCSI_NAME {
        let at = usize::from(portal.is_empty());
        errors.insert(
            at,
            FieldError::invalid(format!("{path}.targetportal"), portal, TOO_LONG),
        );
    }
    if source.has("secretRef") {
        let at = format!("{path}.secretRef");
        errors.extend(present(source.at("secretRef"), "name", &at));
    }
    errors.extend(initiator(source, BAD_FORMAT, path));
    errors
}

fn iscsi_target(source: &Value, unknown: &str, path: &str) -> FieldErrors {
    let mut errors: FieldErrors = present(source, "targetPortal", path).into_iter().collect();
    let (name, at) = (source.text("iqn"), format!("{path}.iqn"));
    match name {
        "" => errors.push(FieldError::required(at, "")),
        name if !["iqn", "eui", "naa"].iter().any(|p| name.starts_with(p)) => {
            errors.push(FieldError::invalid(at, name, unknown));
        }
        name if !is_qualified(name) => errors.push(FieldError::invalid(at, name, BAD_FORMAT)),
        _ => {}
    }
    let lun = source.int("lun").unwrap_or(0);
    errors.extend(complain_number(
        format_args!("{path}.lun"),
        lun,
        names::in_range(lun, 0, 255),
    ));
    if (source.flag("chapAuthDiscovery") || source.flag("chapAuthSession")) && !source.has("secretRef") {
        errors.push(FieldError::required(format!("{path}.secretRef"), ""));
    }
    errors
}

fn initiator(source: &Value, unknown: &str, path: &str) -> Option<FieldError> {
    let (name, at) = (
        source.at("initiatorName").as_str()?,
        format!("{path}.initiatorname"),
    );
    let known = ["iqn", "eui", "naa"].iter().any(|p| name.starts_with(p));
    match known {
        false => Some(FieldError::invalid(at, name, unknown)),
        true => (!is_qualified(name)).then(|| FieldError::invalid(at, name, BAD_FORMAT)),
    }
}

/// RFC 3720, names of iSCSI nodes: `iqn.2004-10.com.example:disk`, `eui.` and 16 characters, `naa.` and 32.
fn is_qualified(name: &str) -> bool {
    let alphanumeric =
        |text: &str, length: usize| text.len() == length && text.bytes().all(|b| b.is_ascii_alphanumeric());
    match name.get(..4) {
        Some("iqn.") => is_iqn(&name[4..]),
        Some(start) if start.starts_with("eui") => alphanumeric(&name[4..], 16),
        Some(start) if start.starts_with("naa") => alphanumeric(&name[4..], 32),
        _ => false,
    }
}

fn is_iqn(rest: &str) -> bool {
    let Some((date, rest)) = rest.split_once('.') else {
        return false;
    };
    let Some((authority, unique)) = rest.split_once(':') else {
        return false;
    };
    let digits = |text: &str, n: usize| text.len() == n && text.bytes().all(|b| b.is_ascii_digit());
    date.split_once('-')
        .is_some_and(|(y, m)| digits(y, 4) && digits(m, 2))
        && !authority.is_empty()
        && authority
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b))
        && !unique.is_empty()
        && !unique.contains(|c: char| ",;*&$|".contains(c) || c.is_whitespace())
}

fn fibre_channel(source: &Value, path: &str) -> FieldErrors {
    let (targets, ids) = (source.list("targetWWNs"), source.list("wwids"));
    let at = format!("{path}.targetWWNs");
    let mut errors = Vec::new();
    if targets.is_empty() && ids.is_empty() {
        let detail = "must specify either targetWWNs or wwids, but not both";
        errors.push(FieldError::required(at.as_str(), detail));
    }
    if !targets.is_empty() && !ids.is_empty() {
        let detail = "targetWWNs and wwids can not be specified simultaneously";
        errors.push(FieldError::invalid(at, targets.to_vec(), detail));
    }
    if !targets.is_empty() {
        let at = format!("{path}.lun");
        match source.int("lun") {
            None => errors.push(FieldError::required(
                at,
                "lun is required if targetWWNs is specified",
            )),
            Some(lun) => errors.extend(complain_number(&at, lun, names::in_range(lun, 0, 255))),
        }
    }
    errors
}

fn quobyte(source: &Value, path: &str) -> FieldErrors {
    let (registry, at) = (source.text("registry"), format!("{path}.registry"));
    let pair = |text: &str| text.rsplit_once(':').is_some_and(|(host, _)| !host.contains(':'));
    let mut errors = Vec::new();
    if registry.is_empty() {
        errors.push(FieldError::required(at, HOST_PORT));
    } else if source.text("tenant").len() >= TENANT {
        let detail = "must be a UUID and may not exceed a length of 64 characters";
        errors.push(FieldError::required(format!("{path}.tenant"), detail));
    } else {
        let bad = registry.split(',').filter(|text| !pair(text));
        errors.extend(bad.map(|_| FieldError::invalid(at.as_str(), registry, HOST_PORT)));
    }
    errors.extend(present(source, "volume", path));
    errors
}

fn flocker(source: &Value, path: &str) -> FieldErrors {
    let (name, id) = (source.text("datasetName"), source.text("datasetUUID"));
    let mut errors = Vec::new();
    if name.is_empty() && id.is_empty() {
        let detail = "one of datasetName and datasetUUID is required";
        errors.push(FieldError::required(path, detail));
    }
    if !name.is_empty() && !id.is_empty() {
        let detail = "datasetName and datasetUUID can not be specified simultaneously";
        errors.push(FieldError::invalid(path, "resource", detail));
    }
    if name.contains('/') {
        let at = format!("{path}.datasetName");
        errors.push(FieldError::invalid(at, name, "must not contain '/'"));
    }
    errors
}

fn azure_disk(source: &Value, path: &str) -> FieldErrors {
    const MANAGED: &str =
        "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}";
    const BLOB: &str = "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd";
    let mut errors: FieldErrors = ["diskName", "diskURI"]
        .iter()
        .filter_map(|key| present(source, key, path))
        .collect();
    errors.extend(super::maybe_one_of(source, "cachingMode", path, &CACHING));
    errors.extend(super::maybe_one_of(source, "kind", path, &DISKS));
    let (kind, uri, at) = (
        source.text("kind"),
        source.text("diskURI"),
        format!("{path}.diskURI"),
    );
    let managed = kind == "Managed";
    if managed && !uri.starts_with("/subscriptions/") {
        errors.push(FieldError::not_supported(at, uri, &[MANAGED]));
    } else if !managed && !uri.starts_with("https://") {
        errors.push(FieldError::not_supported(at, uri, &[BLOB]));
    }
    errors
}

fn flex(source: &Value, path: &str) -> FieldErrors {
    let mut errors: FieldErrors = present(source, "driver", path).into_iter().collect();
    for key in source.map("options").into_iter().flatten().map(|(key, _)| key) {
        let domain = key.split_once('/').map_or(key.as_str(), |(domain, _)| domain);
        let domain = format!(".{}", domain.to_lowercase());
        if domain.ends_with(".kubernetes.io") || domain.ends_with(".k8s.io") {
            let detail = "kubernetes.io and k8s.io namespaces are reserved";
            errors.push(FieldError::invalid(
                format!("{path}.options[{key}]"),
                key.as_str(),
                detail,
            ));
        }
    }
    errors
}

fn storage_os(source: &Value, path: &str) -> FieldErrors {
    let name = source.text("volumeName");
    let mut errors = match name {
        "" => vec![FieldError::required(format!("{path}.volumeName"), "")],
        name => complain(format_args!("{path}.volumeName"), name, names::label(name)),
    };
    let namespace = source.text("volumeNamespace");
    if !namespace.is_empty() {
        let at = format!("{path}.volumeNamespace");
        errors.extend(complain(&at, namespace, names::label(namespace)));
    }
    errors
}

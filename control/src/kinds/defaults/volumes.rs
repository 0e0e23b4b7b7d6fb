//! Defaults of a Pod's volumes.
use serde_json::{Map, Value};

use super::pod::field_reference;
use crate::kinds::image;
use crate::kinds::view::{items_mut, set_missing, set_zero};

type Object = Map<String, Value>;

/// `0644`.
const MODE: i64 = 420;

pub(super) fn volume(volume: &mut Object) {
    if volume.iter().all(|(key, value)| key == "name" || value.is_null()) {
        volume.insert("emptyDir".into(), Object::new().into());
    }
    for source in ["configMap", "secret", "downwardAPI", "projected"] {
        if let Some(Value::Object(source)) = volume.get_mut(source) {
            set_missing(source, "defaultMode", MODE);
            items_mut(source, "items").for_each(field_reference);
            items_mut(source, "sources").for_each(projection);
        }
    }
    if let Some(Value::Object(source)) = volume.get_mut("image") {
        let reference = source
            .get("reference")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let policy = if image::is_latest(reference) {
            "Always"
        } else {
            "IfNotPresent"
        };
        set_zero(source, "pullPolicy", policy);
    }
    if let Some(Value::Object(claim)) = volume
        .get_mut("ephemeral")
        .and_then(|e| e.pointer_mut("/volumeClaimTemplate/spec"))
    {
        set_missing(claim, "volumeMode", "Filesystem");
    }
    source(volume);
}

/// The sources that Pods and PersistentVolumes share.
pub(super) fn source(volume: &mut Object) {
    if let Some(Value::Object(path)) = volume.get_mut("hostPath") {
        set_missing(path, "type", "");
    }
    storage_protocols(volume);
}

fn projection(source: &mut Object) {
    if let Some(Value::Object(token)) = source.get_mut("serviceAccountToken") {
        set_missing(token, "expirationSeconds", 3600);
    }
    if let Some(Value::Object(downward)) = source.get_mut("downwardAPI") {
        items_mut(downward, "items").for_each(field_reference);
    }
}

fn storage_protocols(volume: &mut Object) {
    if let Some(Value::Object(iscsi)) = volume.get_mut("iscsi") {
        set_zero(iscsi, "iscsiInterface", "default");
    }
    if let Some(Value::Object(rbd)) = volume.get_mut("rbd") {
        set_zero(rbd, "pool", "rbd");
        set_zero(rbd, "user", "admin");
        set_zero(rbd, "keyring", "/etc/ceph/keyring");
    }
    if let Some(Value::Object(disk)) = volume.get_mut("azureDisk") {
        set_missing(disk, "cachingMode", "ReadWrite");
        set_missing(disk, "kind", "Shared");
        set_missing(disk, "fsType", "ext4");
        set_missing(disk, "readOnly", false);
    }
    if let Some(Value::Object(scale_io)) = volume.get_mut("scaleIO") {
        set_zero(scale_io, "storageMode", "ThinProvisioned");
        set_zero(scale_io, "fsType", "xfs");
    }
}

//! What a container makes of the Pod's volumes: mounted directories and block devices.
use std::collections::HashSet;
use std::fmt::Display;

use serde_json::Value;

use super::volumes::Good;
use super::{Seen, descending, maybe_one_of, no_backsteps, present};
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::indexed::texts;
use crate::kinds::view::View;

const PROPAGATIONS: [&str; 3] = ["Bidirectional", "HostToContainer", "None"];
const RECURSION: [&str; 3] = ["Disabled", "Enabled", "IfPossible"];

/// What a list of a container has taken: names of volumes, and paths.
struct Taken<'a> {
    names: HashSet<&'a str>,
    paths: HashSet<&'a str>,
}

impl<'a> Taken<'a> {
    fn of(items: &'a [Value], path: &str) -> Taken<'a> {
        Taken {
            names: texts(items, "name"),
            paths: texts(items, path),
        }
    }
}

/// Mounts of a container: each volume exists, each path is taken once. What is wrong with how a volume is mounted is
/// told, as upstream does, without the mount's number.
pub(super) fn mounts(container: &Value, volumes: &Good<'_>, path: impl Display + Copy) -> FieldErrors {
    let (mut errors, mut seen) = (Vec::new(), Seen::default());
    let list = format_args!("{path}.volumeMounts");
    let taken = Taken::of(container.list("volumeDevices"), "devicePath");
    for (i, mount) in container.list("volumeMounts").iter().enumerate() {
        let at = format_args!("{list}[{i}]");
        let (name, mount_path) = (mount.text("name"), mount.text("mountPath"));
        errors.extend(present(mount, "name", at));
        if !volumes.contains_key(name) {
            errors.push(FieldError::not_found(format!("{at}.name"), name));
        }
        errors.extend(present(mount, "mountPath", at));
        if seen.again(mount_path) {
            let at = format_args!("{at}.mountPath");
            errors.push(FieldError::invalid(at, mount_path, "must be unique"));
        }
        errors.extend(also_a_device(mount, &taken, at));
        errors.extend(sub_paths(mount, list, at));
        errors.extend(propagation(mount, container, list));
        errors.extend(recursion(mount, list));
    }
    errors
}

fn also_a_device(mount: &Value, devices: &Taken<'_>, path: impl Display + Copy) -> FieldErrors {
    let mut errors = Vec::new();
    if devices.names.contains(mount.text("name")) {
        let detail = "must not already exist in volumeDevices";
        errors.push(FieldError::invalid(
            format!("{path}.name"),
            mount.text("name"),
            detail,
        ));
    }
    if devices.paths.contains(mount.text("mountPath")) {
        let detail = "must not already exist as a path in volumeDevices";
        let at = format_args!("{path}.mountPath");
        errors.push(FieldError::invalid(at, mount.text("mountPath"), detail));
    }
    errors
}

fn sub_paths(mount: &Value, list: impl Display + Copy, path: impl Display + Copy) -> FieldErrors {
    let (plain, expression) = (mount.text("subPath"), mount.text("subPathExpr"));
    let mut errors = descending(format_args!("{list}.subPath"), plain);
    if !expression.is_empty() {
        if !plain.is_empty() {
            let at = format_args!("{path}.subPathExpr");
            let detail = "subPathExpr and subPath are mutually exclusive";
            errors.push(FieldError::invalid(at, expression, detail));
        }
        errors.extend(descending(format_args!("{list}.subPathExpr"), expression));
    }
    errors
}

fn propagation(mount: &Value, container: &Value, list: impl Display + Copy) -> FieldErrors {
    let known = maybe_one_of(mount, "mountPropagation", list, &PROPAGATIONS);
    let mut errors: FieldErrors = known.into_iter().collect();
    if mount.text("mountPropagation") == "Bidirectional" && !container.flag("securityContext.privileged") {
        let detail = "Bidirectional mount propagation is available only to privileged containers";
        errors.push(FieldError::forbidden(format!("{list}.mountPropagation"), detail));
    }
    errors
}

/// KEP-3857.
fn recursion(mount: &Value, list: impl Display + Copy) -> FieldErrors {
    let at = format_args!("{list}.recursiveReadOnly");
    let known = maybe_one_of(mount, "recursiveReadOnly", list, &RECURSION);
    let mut errors: FieldErrors = known.into_iter().collect();
    if !["Enabled", "IfPossible"].contains(&mount.text("recursiveReadOnly")) {
        return errors;
    }
    if !mount.flag("readOnly") {
        let detail = "may only be specified when readOnly is true";
        errors.push(FieldError::forbidden(at, detail));
    }
    if mount.has("mountPropagation") && mount.text("mountPropagation") != "None" {
        let detail = "may only be specified when mountPropagation is None or not specified";
        errors.push(FieldError::forbidden(at, detail));
    }
    errors
}

/// Block devices of a container.
pub(super) fn devices(container: &Value, volumes: &Good<'_>, path: impl Display + Copy) -> FieldErrors {
    let (mut errors, mut names, mut paths) = (Vec::new(), Seen::default(), Seen::default());
    let taken = Taken::of(container.list("volumeMounts"), "mountPath");
    for (i, device) in container.list("volumeDevices").iter().enumerate() {
        let at = format_args!("{path}.volumeDevices[{i}]");
        let (name, device_path) = (device.text("name"), device.text("devicePath"));
        let (name_at, path_at) = (format_args!("{at}.name"), format_args!("{at}.devicePath"));
        errors.extend(present(device, "name", at));
        if !name.is_empty() && names.again(name) {
            errors.push(FieldError::invalid(name_at, name, "must be unique"));
        }
        errors.extend(block_volume(volumes, name, name_at));
        errors.extend(present(device, "devicePath", at));
        let stays = no_backsteps(path_at, device_path).is_none();
        if paths.0.contains(device_path) {
            errors.push(FieldError::invalid(path_at, device_path, "must be unique"));
        }
        match stays {
            true => drop(paths.again(device_path)),
            false => {
                let detail = "can not contain backsteps ('..')";
                errors.push(FieldError::invalid(path_at, device_path, detail));
            }
        }
        errors.extend(also_a_mount(device, &taken, at));
    }
    errors
}

fn block_volume(volumes: &Good<'_>, name: &str, path: impl Display + Copy) -> Option<FieldError> {
    let Some(volume) = volumes.get(name) else {
        return Some(FieldError::not_found(path, name));
    };
    let claimed = volume.has("persistentVolumeClaim") || volume.has("ephemeral");
    let detail = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
    (!claimed).then(|| FieldError::invalid(path, name, detail))
}

fn also_a_mount(device: &Value, mounts: &Taken<'_>, path: impl Display + Copy) -> FieldErrors {
    let mut errors = Vec::new();
    if mounts.names.contains(device.text("name")) {
        let detail = "must not already exist in volumeMounts";
        errors.push(FieldError::invalid(
            format!("{path}.name"),
            device.text("name"),
            detail,
        ));
    }
    if mounts.paths.contains(device.text("devicePath")) {
        let detail = "must not already exist as a path in volumeMounts";
        let at = format_args!("{path}.devicePath");
        errors.push(FieldError::invalid(at, device.text("devicePath"), detail));
    }
    errors
}

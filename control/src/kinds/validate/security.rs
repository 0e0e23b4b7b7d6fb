//! Security contexts of Pods and containers.
use std::fmt::Display;

use serde_json::Value;

use super::{Seen, complain_number, container, descending, maybe_one_of, windows};
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::names;
use crate::kinds::view::View;

const MAX_ID: i64 = i32::MAX as i64;
/// `PATH_MAX` without its final zero.
const LONGEST_PATH: usize = 4095;
const PROFILES: [&str; 3] = ["Localhost", "RuntimeDefault", "Unconfined"];
const SYSCTL: &str = "must have at most 253 characters and match regex \
    ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";

fn id(context: &Value, key: &str, path: impl Display + Copy) -> FieldErrors {
    match context.int(key) {
        Some(id) => complain_number(format_args!("{path}.{key}"), id, names::in_range(id, 0, MAX_ID)),
        None => Vec::new(),
    }
}

/// `spec.securityContext`, and what of the spec depends on it.
pub(super) fn pod(spec: &Value, path: impl Display + Copy) -> FieldErrors {
    let context = spec.at("securityContext");
    let mut errors: FieldErrors = ["fsGroup", "runAsUser", "runAsGroup"]
        .iter()
        .flat_map(|key| id(context, key, path))
        .collect();
    for (i, group) in context
        .list("supplementalGroups")
        .iter()
        .filter_map(Value::as_i64)
        .enumerate()
    {
        let at = format_args!("{path}.supplementalGroups[{i}]");
        errors.extend(complain_number(at, group, names::in_range(group, 0, MAX_ID)));
    }
    if spec.flag("shareProcessNamespace") && spec.flag("hostPID") {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.push(FieldError::invalid(
            format!("{path}.shareProcessNamespace"),
            true,
            detail,
        ));
    }
    errors.extend(sysctls(spec, format_args!("{path}.sysctls")));
    errors.extend(maybe_one_of(
        context,
        "fsGroupChangePolicy",
        path,
        &["Always", "OnRootMismatch"],
    ));
    errors.extend(profiles(context, path));
    errors.extend(maybe_one_of(
        context,
        "supplementalGroupsPolicy",
        path,
        &["Merge", "Strict"],
    ));
    errors.extend(maybe_one_of(
        context,
        "seLinuxChangePolicy",
        path,
        &["MountOption", "Recursive"],
    ));
    errors
}

fn sysctls(spec: &Value, path: impl Display + Copy) -> FieldErrors {
    let sysctls = spec.list("securityContext.sysctls");
    let (mut errors, mut seen) = (Vec::new(), Seen::default());
    for (i, name) in sysctls.iter().map(|s| s.text("name")).enumerate() {
        let at = format_args!("{path}[{i}].name");
        if name.is_empty() {
            errors.push(FieldError::required(at, ""));
            continue;
        }
        if !is_sysctl(name) {
            errors.push(FieldError::invalid(at, name, SYSCTL));
        } else if seen.again(name) {
            errors.push(FieldError::duplicate(at, name));
        }
        errors.extend(host_sysctl(spec, name, at));
    }
    errors
}

fn is_sysctl(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let segment = |s: &str| {
        let bytes = s.as_bytes();
        edge(bytes.first()) && edge(bytes.last()) && bytes.iter().all(|b| inner(*b))
    };
    name.len() <= 253 && name.split(['.', '/']).all(segment)
}

/// A sysctl of a namespace the Pod shares with its host would change the host.
fn host_sysctl(spec: &Value, name: &str, path: impl Display) -> Option<FieldError> {
    let ipc = ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."]
        .iter()
        .any(|p| name.starts_with(p));
    if spec.flag("hostNetwork") && name.starts_with("net.") {
        return Some(FieldError::invalid(
            path,
            name,
            "may not be specified when 'hostNetwork' is true",
        ));
    }
    (spec.flag("hostIPC") && ipc)
        .then(|| FieldError::invalid(path, name, "may not be specified when 'hostIPC' is true"))
}

/// Seccomp and AppArmor profiles, and what Windows has instead.
fn profiles(context: &Value, path: impl Display + Copy) -> FieldErrors {
    let mut errors = seccomp(
        context.at("seccompProfile"),
        format_args!("{path}.seccompProfile"),
    );
    errors.extend(windows::options(
        context.at("windowsOptions"),
        format_args!("{path}.windowsOptions"),
    ));
    errors.extend(app_armor(
        context.at("appArmorProfile"),
        format_args!("{path}.appArmorProfile"),
    ));
    errors
}

fn seccomp(profile: &Value, path: impl Display + Copy) -> FieldErrors {
    if profile.is_null() {
        return Vec::new();
    }
    let mut errors = Vec::new();
    let kind = profile.text("type");
    errors.extend(profile_kind(kind, "seccompProfile", path));
    let (local, at) = (
        profile.at("localhostProfile"),
        format_args!("{path}.localhostProfile"),
    );
    match (kind, local.as_str()) {
        ("Localhost", None) => {
            let detail = "must be set when seccomp type is Localhost";
            errors.push(FieldError::required(at, detail));
        }
        ("Localhost", Some(local)) => errors.extend(descending(at, local)),
        (_, Some(local)) => {
            let shown = format!(
                "{{\"Type\":{},\"LocalhostProfile\":{}}}",
                Value::from(kind),
                Value::from(local)
            );
            let detail = "can only be set when seccomp type is Localhost";
            errors.push(FieldError::invalid_shown(at, shown, detail));
        }
        (_, None) => {}
    }
    errors
}

fn profile_kind(kind: &str, field: &str, path: impl Display + Copy) -> Option<FieldError> {
    let at = format_args!("{path}.type");
    match kind {
        "" => {
            let detail = format!("type is required when {field} is set");
            Some(FieldError::required(at, detail))
        }
        kind if PROFILES.contains(&kind) => None,
        kind => Some(FieldError::not_supported(at, kind, &PROFILES)),
    }
}

/// What is wrong with an AppArmor profile that is nowhere yet.
pub(in crate::kinds) fn app_armor_errors(profile: &Value) -> FieldErrors {
    app_armor(profile, "")
}

fn app_armor(profile: &Value, path: impl Display + Copy) -> FieldErrors {
    if profile.is_null() {
        return Vec::new();
    }
    let (kind, at) = (profile.text("type"), format_args!("{path}.localhostProfile"));
    let local = profile.at("localhostProfile").as_str();
    let unset = "must be set when AppArmor type is Localhost";
    match (kind, local) {
        ("Localhost", None) => vec![FieldError::required(at, unset)],
        ("Localhost", Some(local)) => {
            let mut errors = Vec::new();
            if local.trim() != local {
                let detail = "must not be padded with whitespace";
                errors.push(FieldError::invalid(at, local, detail));
            } else if local.is_empty() {
                errors.push(FieldError::required(at, unset));
            }
            if local.len() > LONGEST_PATH {
                errors.push(FieldError::too_long(at, LONGEST_PATH));
            }
            errors
        }
        ("RuntimeDefault" | "Unconfined", Some(local)) => {
            let detail = "can only be set when AppArmor type is Localhost";
            vec![FieldError::invalid(at, local, detail)]
        }
        _ => profile_kind(kind, "appArmorProfile", path).into_iter().collect(),
    }
}

/// A container's `securityContext`; `own_users` when the Pod has user ids of its own.
pub(super) fn container(context: &Value, own_users: bool, path: impl Display + Copy) -> FieldErrors {
    if context.is_null() {
        return Vec::new();
    }
    let mut errors = id(context, "runAsUser", path);
    errors.extend(id(context, "runAsGroup", path));
    errors.extend(maybe_one_of(context, "procMount", path, &["Default", "Unmasked"]));
    if !own_users && context.text("procMount") == "Unmasked" {
        let detail = "`hostUsers` must be false to use `Unmasked`";
        errors.push(FieldError::invalid(
            format!("{path}.procMount"),
            "Unmasked",
            detail,
        ));
    }
    errors.extend(seccomp(
        context.at("seccompProfile"),
        format_args!("{path}.seccompProfile"),
    ));
    errors.extend(escalation(context, path));
    errors.extend(windows::options(
        context.at("windowsOptions"),
        format_args!("{path}.windowsOptions"),
    ));
    errors.extend(app_armor(
        context.at("appArmorProfile"),
        format_args!("{path}.appArmorProfile"),
    ));
    errors
}

/// Annotations that say the same as fields, from before there were fields.
pub(super) fn agree_with_annotations(pod: &Value, path: impl Display + Copy) -> FieldErrors {
    let spec = pod.at("spec");
    let annotation = |key: &str| pod.at("metadata.annotations").get(key).and_then(Value::as_str);
    let mut errors = Vec::new();
    let pod_wide = spec.at("securityContext.seccompProfile");
    errors.extend(agrees(
        "seccomp",
        pod_wide,
        || annotation("seccomp.security.alpha.kubernetes.io/pod"),
        format_args!("{path}.securityContext.seccompProfile"),
    ));
    let beside =
        |prefix: &str, container: &Value| annotation(&format!("{prefix}/{}", container.text("name")));
    let containers = container::all(spec, path);
    for (container, at) in containers.clone() {
        let theirs = || beside("container.seccomp.security.alpha.kubernetes.io", container);
        let own = container.at("securityContext.seccompProfile");
        let at = format_args!("{at}.securityContext.seccompProfile");
        errors.extend(agrees("seccomp", own, theirs, at));
    }
    for (container, at) in containers.filter(|_| spec.text("os.name") != "windows") {
        let theirs = || beside("container.apparmor.security.beta.kubernetes.io", container);
        let own = container.at("securityContext.appArmorProfile");
        let own = if own.is_null() {
            spec.at("securityContext.appArmorProfile")
        } else {
            own
        };
        let at = format_args!("{at}.securityContext.appArmorProfile");
        errors.extend(agrees("apparmor", own, theirs, at));
    }
    errors
}

fn agrees<'a>(
    name: &str,
    profile: &Value,
    annotation: impl FnOnce() -> Option<&'a str>,
    path: impl Display + Copy,
) -> Option<FieldError> {
    if profile.is_null() {
        return None;
    }
    let annotation = annotation()?;
    let same_kind = match profile.text("type") {
        "Unconfined" => annotation == "unconfined",
        "RuntimeDefault" => {
            annotation == "runtime/default" || name == "seccomp" && annotation == "docker/default"
        }
        "Localhost" => {
            let local = annotation.strip_prefix("localhost/");
            if local.is_some() && local != profile.at("localhostProfile").as_str() {
                let detail = format!("{name} profile in annotation and field must match");
                return Some(FieldError::forbidden(format!("{path}.localhostProfile"), detail));
            }
            local.is_some()
        }
        _ => true,
    };
    (!same_kind).then(|| {
        let detail = format!("{name} type in annotation and field must match");
        FieldError::forbidden(format!("{path}.type"), detail)
    })
}

/// What implies more rights cannot go with a promise not to gain any.
fn escalation(context: &Value, path: impl Display + Copy) -> FieldErrors {
    if context.at("allowPrivilegeEscalation") != &Value::Bool(false) {
        return Vec::new();
    }
    let mut errors = Vec::new();
    if context.flag("privileged") {
        let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
        errors.push(FieldError::invalid(path, context.clone(), detail));
    }
    if context
        .list("capabilities.add")
        .iter()
        .any(|c| c == "CAP_SYS_ADMIN")
    {
        let detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
        errors.push(FieldError::invalid(path, context.clone(), detail));
    }
    errors
}

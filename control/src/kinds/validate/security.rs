//! Security contexts of Pods and containers.
use serde_json::Value;

use super::{Seen, complain_number, maybe_one_of, pod};
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::names;
use crate::kinds::view::View;

const MAX_ID: i64 = i32::MAX as i64;
const PROFILES: [&str; 3] = ["Localhost", "RuntimeDefault", "Unconfined"];
const SYSCTL: &str = "must have at most 253 characters and match regex \
    ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";

fn id(context: &Value, key: &str, path: &str) -> FieldErrors {
    match context.int(key) {
        Some(id) => complain_number(&format!("{path}.{key}"), id, names::in_range(id, 0, MAX_ID)),
        None => Vec::new(),
    }
}

/// `spec.securityContext`, and what of the spec depends on it.
pub(super) fn pod(spec: &Value, path: &str) -> FieldErrors {
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
        let at = format!("{path}.supplementalGroups[{i}]");
        errors.extend(complain_number(&at, group, names::in_range(group, 0, MAX_ID)));
    }
    if spec.flag("shareProcessNamespace") && spec.flag("hostPID") {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.push(FieldError::invalid(
            format!("{path}.shareProcessNamespace"),
            true,
            detail,
        ));
    }
    errors.extend(sysctls(spec, &format!("{path}.sysctls")));
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

fn sysctls(spec: &Value, path: &str) -> FieldErrors {
    let sysctls = spec.list("securityContext.sysctls");
    let (mut errors, mut seen) = (Vec::new(), Seen::default());
    for (i, name) in sysctls.iter().map(|s| s.text("name")).enumerate() {
        let at = format!("{path}[{i}].name");
        if name.is_empty() {
            errors.push(FieldError::required(at, ""));
            continue;
        }
        if !is_sysctl(name) {
            errors.push(FieldError::invalid(at.clone(), name, SYSCTL));
        } else if seen.again(name) {
            errors.push(FieldError::duplicate(at.clone(), name));
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
fn host_sysctl(spec: &Value, name: &str, path: String) -> Option<FieldError> {
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

/// Seccomp and AppArmor profiles.
fn profiles(context: &Value, path: &str) -> FieldErrors {
    let mut errors = profile(context.at("seccompProfile"), "seccomp", "seccompProfile", path);
    errors.extend(profile(
        context.at("appArmorProfile"),
        "AppArmor",
        "appArmorProfile",
        path,
    ));
    errors
}

fn profile(profile: &Value, name: &str, key: &str, path: &str) -> FieldErrors {
    if profile.is_null() {
        return Vec::new();
    }
    let at = format!("{path}.{key}");
    let local = profile.at("localhostProfile");
    match profile.text("type") {
        "" => vec![FieldError::required(
            format!("{at}.type"),
            format!("type is required when {key} is set"),
        )],
        "Localhost" if local.is_null() => {
            let detail = format!("must be set when {name} type is Localhost");
            vec![FieldError::required(format!("{at}.localhostProfile"), detail)]
        }
        "Localhost" => pod::local_path(
            &format!("{at}.localhostProfile"),
            local.as_str().unwrap_or_default(),
        ),
        known if PROFILES.contains(&known) && local.is_null() => Vec::new(),
        known if PROFILES.contains(&known) => {
            let detail = format!("can only be set when {name} type is Localhost");
            vec![FieldError::invalid(
                format!("{at}.localhostProfile"),
                profile.clone(),
                detail,
            )]
        }
        other => vec![FieldError::not_supported(format!("{at}.type"), other, &PROFILES)],
    }
}

/// A container's `securityContext`.
pub(super) fn container(context: &Value, path: &str) -> FieldErrors {
    if context.is_null() {
        return Vec::new();
    }
    let mut errors = escalation(context, path);
    errors.extend(id(context, "runAsUser", path));
    errors.extend(id(context, "runAsGroup", path));
    errors.extend(maybe_one_of(context, "procMount", path, &["Default", "Unmasked"]));
    errors.extend(profiles(context, path));
    errors
}

/// What implies more rights cannot go with a promise not to gain any.
fn escalation(context: &Value, path: &str) -> FieldErrors {
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

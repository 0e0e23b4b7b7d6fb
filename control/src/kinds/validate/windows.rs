//! What holds for Windows only, and what does not hold there. No node of ours runs Windows, but clusters may have nodes
//! of others.
use std::fmt::Display;

use serde_json::Value;

use super::{complain, container};
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::names;
use crate::kinds::view::View;

const SPEC_LENGTH: usize = 64 * 1024;
const DOMAIN_LENGTH: usize = 256;
const USER_LENGTH: usize = 104;
const NOT_THERE: &str = "cannot be set for a windows pod";
/// Fields of a Pod's spec and security context that Windows has not, in the order in which they are looked at.
const OF_POD: [&str; 15] = [
    "securityContext.appArmorProfile",
    "securityContext.seLinuxOptions",
    "hostUsers",
    "hostPID",
    "hostIPC",
    "securityContext.seccompProfile",
    "securityContext.fsGroup",
    "securityContext.fsGroupChangePolicy",
    "securityContext.sysctls",
    "shareProcessNamespace",
    "securityContext.runAsUser",
    "securityContext.runAsGroup",
    "securityContext.supplementalGroups",
    "securityContext.supplementalGroupsPolicy",
    "securityContext.seLinuxChangePolicy",
];
const OF_CONTAINER: [&str; 10] = [
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "capabilities",
    "readOnlyRootFilesystem",
    "privileged",
    "allowPrivilegeEscalation",
    "procMount",
    "runAsUser",
    "runAsGroup",
];

/// A `windowsOptions` at `path`.
pub(super) fn options(options: &Value, path: impl Display + Copy) -> FieldErrors {
    let mut errors = Vec::new();
    if let Some(name) = options.at("gmsaCredentialSpecName").as_str() {
        let at = format_args!("{path}.gmsaCredentialSpecName");
        errors.extend(complain(at, name, names::subdomain(name)));
    }
    if let Some(spec) = options.at("gmsaCredentialSpec").as_str() {
        let detail = match spec.len() {
            0 => Some("gmsaCredentialSpec cannot be an empty string"),
            n if n > SPEC_LENGTH => Some("gmsaCredentialSpec size must be under 64 KiB"),
            _ => None,
        };
        let at = format_args!("{path}.gmsaCredentialSpec");
        errors.extend(detail.map(|detail| FieldError::invalid(at, spec, detail)));
    }
    if let Some(name) = options.at("runAsUserName").as_str() {
        errors.extend(complain(
            format_args!("{path}.runAsUserName"),
            name,
            user_name(name),
        ));
    }
    errors
}

/// `DOMAIN\USER` or `USER`.
fn user_name(name: &str) -> Vec<String> {
    let parts: Vec<&str> = name.split('\\').collect();
    if name.is_empty() {
        return vec!["runAsUserName cannot be an empty string".to_owned()];
    }
    if name.chars().any(char::is_control) {
        return vec!["runAsUserName cannot contain control characters".to_owned()];
    }
    let (domain, user) = match parts[..] {
        [user] => (None, user),
        [domain, user] => (Some(domain), user),
        _ => return vec!["runAsUserName cannot contain more than one backslash".to_owned()],
    };
    let mut why = Vec::new();
    if domain.is_some_and(|domain| domain.len() >= DOMAIN_LENGTH) {
        why.push(format!(
            "runAsUserName's Domain length must be under {DOMAIN_LENGTH} characters"
        ));
    }
    if domain.is_some_and(|domain| !is_net_bios(domain) && !is_dns(domain)) {
        why.push("runAsUserName's Domain doesn't match the NetBios nor the DNS format".to_owned());
    }
    match user.len() {
        0 => why.push("runAsUserName's User cannot be empty".to_owned()),
        n if n > USER_LENGTH => why.push(format!(
            "runAsUserName's User length must not be longer than {USER_LENGTH} characters"
        )),
        _ => {}
    }
    if !user.is_empty() && user.chars().all(|c| ". ".contains(c)) {
        why.push("runAsUserName's User cannot contain only periods or spaces".to_owned());
    }
    if user.contains(|c: char| "\"/\\:;|=,+*?<>@[]".contains(c)) {
        let detail = "runAsUserName's User cannot contain the following characters: \"/\\:;|=,+*?<>@[]";
        why.push(detail.to_owned());
    }
    why
}

fn is_net_bios(domain: &str) -> bool {
    let bad = |c: char| "\\/:*?\"<>|".contains(c);
    (1..=15).contains(&domain.chars().count()) && !domain.starts_with('.') && !domain.contains(bad)
}

fn is_dns(domain: &str) -> bool {
    let label = |part: &str| part.len() <= 63 && names::label(&part.to_ascii_lowercase()).is_empty();
    domain.split('.').all(label)
}

/// Containers that are processes of the host: all of a Pod or none, and on the host's network.
pub(super) fn host_processes(spec: &Value, path: impl Display + Copy) -> FieldErrors {
    let flag = |holder: &Value| holder.at("securityContext.windowsOptions.hostProcess").as_bool();
    let whole = flag(spec);
    let (mut errors, mut count, mut all) = (Vec::new(), 0, 0);
    for (container, at) in container::all(spec, path) {
        let own = flag(container);
        if let (Some(whole), Some(own)) = (whole, own)
            && whole != own
        {
            let detail =
                format!("pod hostProcess value must be identical if both are specified, was {whole}");
            let at = format_args!("{at}.securityContext.windowsOptions.hostProcess");
            errors.push(FieldError::invalid(at, own, detail));
        }
        count += usize::from(own.or(whole).unwrap_or(false));
        all += 1;
    }
    if count > 0 && count != all {
        let detail =
            "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        errors.push(FieldError::invalid(path, "", detail));
    }
    if count > 0 && !spec.flag("hostNetwork") {
        let detail = "hostNetwork must be true if pod contains any hostProcess containers";
        errors.push(FieldError::invalid(format!("{path}.hostNetwork"), false, detail));
    }
    errors
}

/// What the operating system that a Pod names does not have.
pub(super) fn operating_system(spec: &Value, path: impl Display + Copy) -> FieldErrors {
    let at = format_args!("{path}.os");
    match spec.at("os") {
        Value::Null => Vec::new(),
        os => match os.text("name") {
            "" => vec![FieldError::required(format!("{at}.name"), "")],
            "linux" => linux(spec, path),
            "windows" => windows(spec, path),
            other => vec![FieldError::not_supported(at, other, &["linux", "windows"])],
        },
    }
}

fn linux(spec: &Value, path: impl Display + Copy) -> FieldErrors {
    let key = "securityContext.windowsOptions";
    let detail = "windows options cannot be set for a linux pod";
    let own = spec
        .has(key)
        .then(|| FieldError::forbidden(format!("{path}.{key}"), detail));
    let containers = container::all(spec, path);
    let theirs = containers
        .filter(|(container, _)| container.has(key))
        .map(|(_, at)| FieldError::forbidden(format!("{at}.{key}"), detail));
    own.into_iter().chain(theirs).collect()
}

fn windows(spec: &Value, path: impl Display + Copy) -> FieldErrors {
    let set = |holder: &Value, key: &str| match holder.at(key) {
        Value::Null => false,
        Value::Bool(flag) => *flag || !matches!(key, "hostPID" | "hostIPC"),
        Value::Array(list) => !list.is_empty(),
        _ => true,
    };
    let own = OF_POD.iter().filter(|key| set(spec, key));
    let mut errors: FieldErrors = own
        .map(|key| FieldError::forbidden(format!("{path}.{key}"), NOT_THERE))
        .collect();
    for (container, at) in container::all(spec, path) {
        let context = container.at("securityContext");
        let theirs = OF_CONTAINER.iter().filter(|key| set(context, key));
        errors.extend(
            theirs.map(|key| FieldError::forbidden(format!("{at}.securityContext.{key}"), NOT_THERE)),
        );
    }
    errors
}

//! Pods and Pod templates.
use std::fmt::Display;

use serde_json::Value;

use super::{
    Seen, complain, container, env, immutable, ip, one_of, pod_annotations, resources, restarts, scheduling,
    security, volumes, windows,
};
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::indexed::by_text;
use crate::kinds::view::View;
use crate::kinds::{meta, names};

const RESTART_POLICIES: [&str; 3] = ["Always", "OnFailure", "Never"];
const DNS_POLICIES: [&str; 4] = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCH_PATHS: usize = 32;
const MAX_SEARCH_CHARS: usize = 2048;

/// Where a Pod spec stands: some rules hold only for Pods themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Pod,
    Template,
}

/// Whose Pod spec it is; the Pod of a template has no name yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Holder<'a> {
    pub name: &'a str,
    pub place: Place,
}

/// Characters of a host's name, as Linux has it.
const HOST_NAME: usize = 64;

/// A new Pod.
pub fn create(pod: &Value) -> FieldErrors {
    let mut errors = pod_body(pod);
    if !pod.list("spec.ephemeralContainers").is_empty() {
        errors.push(FieldError::forbidden(
            "spec.ephemeralContainers",
            "cannot be set on create",
        ));
    }
    if !pod.text("spec.nodeName").is_empty() && !pod.list("spec.schedulingGates").is_empty() {
        let detail = "cannot be set until all schedulingGates have been cleared";
        errors.push(FieldError::forbidden("spec.nodeName", detail));
    }
    errors.extend(security::agree_with_annotations(pod, "spec"));
    errors
}

/// What holds for a Pod at any time.
pub(super) fn pod_body(pod: &Value) -> FieldErrors {
    let mut errors = pod_annotations::of(pod, "metadata.annotations");
    let holder = Holder {
        name: pod.text("metadata.name"),
        place: Place::Pod,
    };
    errors.extend(spec(pod.at("spec"), "spec", holder));
    for list in ["containers", "initContainers"] {
        for (i, container) in pod.at("spec").list(list).iter().enumerate() {
            errors.extend(container::image_padding(
                container,
                format_args!("spec.{list}[{i}]"),
            ));
        }
    }
    errors
}

/// Labels and annotations of a template at `path`.
pub(super) fn template_metadata(template: &Value, path: impl Display + Copy) -> FieldErrors {
    let metadata = template.at("metadata");
    let mut errors = meta::labels(metadata.at("labels"), format_args!("{path}.labels"));
    let annotations = format!("{path}.annotations");
    errors.extend(meta::annotations(metadata.at("annotations"), &annotations));
    errors.extend(pod_annotations::of(template, &annotations));
    errors
}

/// A Pod template at `path`.
pub(super) fn template(template: &Value, path: impl Display + Copy) -> FieldErrors {
    let mut errors = template_metadata(template, path);
    let holder = Holder {
        name: "",
        place: Place::Template,
    };
    errors.extend(spec(template.at("spec"), format_args!("{path}.spec"), holder));
    errors.extend(security::agree_with_annotations(
        template,
        format_args!("{path}.spec"),
    ));
    if !template.list("spec.ephemeralContainers").is_empty() {
        let detail = "ephemeral containers not allowed in pod template";
        errors.push(FieldError::forbidden(
            format!("{path}.spec.ephemeralContainers"),
            detail,
        ));
    }
    errors
}

/// A Pod spec at `path`.
fn spec(spec: &Value, path: impl Display + Copy, holder: Holder<'_>) -> FieldErrors {
    let mut errors = Vec::new();
    if !spec.has("terminationGracePeriodSeconds") {
        errors.push(FieldError::required(
            format_args!("{path}.terminationGracePeriodSeconds"),
            "",
        ));
    }
    let (volumes, wrong) = volumes::volumes(spec.list("volumes"), holder, format_args!("{path}.volumes"));
    errors.extend(wrong);
    errors.extend(resources::pod_claims(spec, format_args!("{path}.resourceClaims")));
    errors.extend(container::containers(spec, &volumes, path));
    errors.extend(resources::pod_level(spec, path));
    errors.extend(container::host_network_ports(spec, path, holder.place));
    let restart = spec.text("restartPolicy");
    errors.extend(one_of(
        format_args!("{path}.restartPolicy"),
        restart,
        &RESTART_POLICIES,
    ));
    errors.extend(one_of(
        format_args!("{path}.dnsPolicy"),
        spec.text("dnsPolicy"),
        &DNS_POLICIES,
    ));
    errors.extend(meta::labels(
        spec.at("nodeSelector"),
        format_args!("{path}.nodeSelector"),
    ));
    errors.extend(security::pod(spec, format_args!("{path}.securityContext")));
    errors.extend(scheduling::affinity(
        spec.at("affinity"),
        format_args!("{path}.affinity"),
    ));
    errors.extend(dns(spec, format_args!("{path}.dnsConfig")));
    errors.extend(gates(spec, path));
    errors.extend(scheduling::spread(
        spec.list("topologySpreadConstraints"),
        format_args!("{path}.topologySpreadConstraints"),
    ));
    errors.extend(windows::host_processes(spec, path));
    errors.extend(host_users(spec, path));
    errors.extend(host_name_override(spec, format_args!("{path}.hostnameOverride")));
    errors.extend(references(spec, path));
    errors.extend(deadline(spec, path));
    errors.extend(host_names(spec, path));
    errors.extend(scheduling::tolerations(
        spec.list("tolerations"),
        format_args!("{path}.tolerations"),
    ));
    errors.extend(host_aliases(
        spec.list("hostAliases"),
        format_args!("{path}.hostAliases"),
    ));
    errors.extend(classes(spec, path));
    errors.extend(resources::limits(
        spec.at("overhead"),
        format_args!("{path}.overhead"),
    ));
    errors.extend(windows::operating_system(spec, path));
    errors.extend(env::file_volumes(spec, path));
    errors
}

/// KEP-4762.
fn host_name_override(spec: &Value, path: impl Display + Copy) -> FieldErrors {
    let Some(name) = spec.at("hostnameOverride").as_str() else {
        return Vec::new();
    };
    let mut errors = Vec::new();
    for key in ["setHostnameAsFQDN", "hostNetwork"] {
        if spec.flag(key) {
            let detail = format!("may not be specified when {key} is true");
            errors.push(FieldError::forbidden(path, detail));
        }
    }
    if name.len() > HOST_NAME {
        errors.push(FieldError::too_long(path, HOST_NAME));
    }
    errors.extend(complain(path, name, names::subdomain(name)));
    errors
}

fn gates(spec: &Value, path: impl Display + Copy) -> FieldErrors {
    let mut errors = Vec::new();
    for (i, gate) in spec.list("readinessGates").iter().enumerate() {
        let kind = gate.text("conditionType");
        errors.extend(complain(
            format_args!("{path}.readinessGates[{i}].conditionType"),
            kind,
            names::qualified(kind),
        ));
    }
    let names: Vec<&str> = spec
        .list("schedulingGates")
        .iter()
        .map(|g| g.text("name"))
        .collect();
    let at = |i: usize| format!("{path}.schedulingGates[{i}]");
    let mut seen = Seen::default();
    for (i, name) in names.iter().enumerate() {
        errors.extend(complain(at(i), name, names::qualified(name)));
        if seen.again(*name) {
            errors.push(FieldError::duplicate(at(i), *name));
        }
    }
    errors
}

fn dns(spec: &Value, path: impl Display + Copy) -> FieldErrors {
    let config = spec.at("dnsConfig");
    let servers = config.list("nameservers");
    if spec.text("dnsPolicy") == "None" {
        if config.is_null() {
            return vec![FieldError::required(
                path,
                "must provide `dnsConfig` when `dnsPolicy` is None",
            )];
        }
        if servers.is_empty() {
            let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            return vec![FieldError::required(format!("{path}.nameservers"), detail)];
        }
    }
    let mut errors = Vec::new();
    if servers.len() > MAX_NAMESERVERS {
        let detail = format!("must not have more than {MAX_NAMESERVERS} nameservers");
        errors.push(FieldError::invalid(
            format!("{path}.nameservers"),
            servers.to_vec(),
            detail,
        ));
    }
    for (i, server) in servers.iter().filter_map(Value::as_str).enumerate() {
        errors.extend(ip(format_args!("{path}.nameservers[{i}]"), server));
    }
    errors.extend(searches(config.list("searches"), format_args!("{path}.searches")));
    for (i, option) in config.list("options").iter().enumerate() {
        if option.text("name").is_empty() {
            errors.push(FieldError::required(
                format!("{path}.options[{i}]"),
                "must not be empty",
            ));
        }
    }
    errors
}

fn searches(searches: &[Value], path: impl Display + Copy) -> FieldErrors {
    let mut errors = Vec::new();
    if searches.len() > MAX_SEARCH_PATHS {
        let detail = format!("must not have more than {MAX_SEARCH_PATHS} search paths");
        errors.push(FieldError::invalid(path, searches.to_vec(), detail));
    }
    let texts: Vec<&str> = searches.iter().filter_map(Value::as_str).collect();
    if texts.join(" ").len() > MAX_SEARCH_CHARS {
        let detail = format!(
            "must not have more than {MAX_SEARCH_CHARS} characters (including spaces) in the search list"
        );
        errors.push(FieldError::invalid(path, searches.to_vec(), detail));
    }
    for (i, text) in texts.iter().enumerate().filter(|(_, t)| **t != ".") {
        let text = text.strip_suffix('.').unwrap_or(text);
        let relaxed = text.replace('_', "a");
        if !names::subdomain(&relaxed).is_empty() {
            errors.extend(complain(
                format_args!("{path}[{i}]"),
                text,
                names::subdomain(text),
            ));
        }
    }
    errors
}

fn host_users(spec: &Value, path: impl Display + Copy) -> FieldErrors {
    if spec.at("hostUsers") != &Value::Bool(false) {
        return Vec::new();
    }
    let fields = [
        ("hostNetwork", "hostNetwork"),
        ("hostPID", "HostPID"),
        ("hostIPC", "HostIPC"),
    ];
    let detail = "when `hostUsers` is false";
    let set = fields.into_iter().filter(|(key, _)| spec.flag(key));
    let mut errors: FieldErrors = set
        .map(|(_, name)| FieldError::forbidden(format!("{path}.{name}"), detail))
        .collect();
    for (container, at) in container::all(spec, path) {
        if !container.list("volumeDevices").is_empty() {
            errors.push(FieldError::forbidden(format!("{at}.volumeDevices"), detail));
        }
    }
    errors
}

/// Names of other objects.
fn references(spec: &Value, path: impl Display + Copy) -> FieldErrors {
    let keys = ["serviceAccountName", "nodeName"];
    let set = keys.into_iter().filter(|key| !spec.text(key).is_empty());
    set.flat_map(|key| {
        complain(
            format_args!("{path}.{key}"),
            spec.text(key),
            names::subdomain(spec.text(key)),
        )
    })
    .collect()
}

fn deadline(spec: &Value, path: impl Display + Copy) -> FieldErrors {
    let Some(seconds) = spec.int("activeDeadlineSeconds") else {
        return Vec::new();
    };
    super::complain_number(
        format_args!("{path}.activeDeadlineSeconds"),
        seconds,
        names::in_range(seconds, 1, i64::from(i32::MAX)),
    )
}

fn host_names(spec: &Value, path: impl Display + Copy) -> FieldErrors {
    let keys = ["hostname", "subdomain"];
    let set = keys.into_iter().filter(|key| !spec.text(key).is_empty());
    set.flat_map(|key| {
        complain(
            format_args!("{path}.{key}"),
            spec.text(key),
            names::label(spec.text(key)),
        )
    })
    .collect()
}

fn host_aliases(aliases: &[Value], path: impl Display + Copy) -> FieldErrors {
    let mut errors = Vec::new();
    for (i, alias) in aliases.iter().enumerate() {
        errors.extend(ip(format_args!("{path}[{i}].ip"), alias.text("ip")));
        for (j, name) in alias
            .list("hostnames")
            .iter()
            .filter_map(Value::as_str)
            .enumerate()
        {
            errors.extend(complain(
                format_args!("{path}[{i}].hostnames[{j}]"),
                name,
                names::subdomain(name),
            ));
        }
    }
    errors
}

fn classes(spec: &Value, path: impl Display + Copy) -> FieldErrors {
    let mut errors = Vec::new();
    for key in ["priorityClassName", "runtimeClassName"] {
        let name = spec.text(key);
        if spec.has(key) && (key == "runtimeClassName" || !name.is_empty()) {
            errors.extend(complain(
                format_args!("{path}.{key}"),
                name,
                names::subdomain(name),
            ));
        }
    }
    if let Some(policy) = spec.at("preemptionPolicy").as_str() {
        let policies = ["PreemptLowerPriority", "Never"];
        errors.extend(one_of(format_args!("{path}.preemptionPolicy"), policy, &policies));
    }
    errors
}

/// A status written by a node.
pub fn status_update(new: &Value, old: &Value) -> FieldErrors {
    let mut errors = Vec::new();
    let nominated = new.text("status.nominatedNodeName");
    if nominated != old.text("status.nominatedNodeName") && !nominated.is_empty() {
        errors.extend(complain(
            "status.nominatedNodeName",
            nominated,
            names::subdomain(nominated),
        ));
    }
    errors.extend(immutable(new, old, "status.qosClass"));
    errors.extend(terminated_stays(new, old));
    for (i, address) in new.list("status.podIPs").iter().enumerate() {
        errors.extend(ip(format_args!("status.podIPs[{i}]"), address.text("ip")));
    }
    let host = new.list("status.hostIPs");
    if let Some(first) = host.first().filter(|f| f.text("ip") != new.text("status.hostIP")) {
        errors.push(FieldError::invalid(
            "status.hostIPs[0].ip",
            first.text("ip"),
            "must be equal to `hostIP`",
        ));
    }
    for (i, address) in host.iter().enumerate() {
        errors.extend(ip(format_args!("status.hostIPs[{i}]"), address.text("ip")));
    }
    errors
}

/// A container that ended for good does not run again.
fn terminated_stays(new: &Value, old: &Value) -> FieldErrors {
    let detail = "may not be transitioned to non-terminated state";
    let mut errors = Vec::new();
    if restarts::all_may_restart(old.at("spec")) {
        return errors;
    }
    for (list, containers) in [
        ("containerStatuses", "containers"),
        ("initContainerStatuses", "initContainers"),
    ] {
        let path = format!("status.{list}");
        let specs = by_text(old.at("spec").list(containers), "name");
        let statuses = by_text(new.list(&path), "name");
        for (i, before) in old
            .list(&path)
            .iter()
            .enumerate()
            .filter(|(_, s)| s.has("state.terminated"))
        {
            let (name, code) = (
                before.text("name"),
                before.int("state.terminated.exitCode").unwrap_or(0),
            );
            let container = specs.get(name);
            let again = container.is_some_and(|c| restarts_after(c, old.text("spec.restartPolicy"), code));
            if !again && statuses.get(name).is_some_and(|s| !s.has("state.terminated")) {
                errors.push(FieldError::forbidden(format!("{path}[{i}].state"), detail));
            }
        }
    }
    errors
}

/// Whether a container that ended so starts again: by its own rules, its own policy, or its Pod's. KEP-5307.
fn restarts_after(container: &Value, pod_policy: &str, code: i64) -> bool {
    let listed = |rule: &Value| {
        rule.list("exitCodes.values")
            .iter()
            .any(|v| v.as_i64() == Some(code))
    };
    let applies = |rule: &&Value| listed(rule) == (rule.text("exitCodes.operator") == "In");
    let own = container.at("restartPolicy").as_str();
    if own.is_some()
        && container
            .list("restartPolicyRules")
            .iter()
            .any(|rule| applies(&rule))
    {
        return true;
    }
    match own.unwrap_or(pod_policy) {
        "Never" => false,
        "OnFailure" => code != 0,
        _ => true,
    }
}

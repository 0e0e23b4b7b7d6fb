//! Pods and Pod templates.
use serde_json::Value;

use super::{
    Seen, complain, container, descending, immutable, ip, no_backsteps, one_of, resize, resources,
    scheduling, security, volumes,
};
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::view::View;
use crate::kinds::{meta, names};

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
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
    errors
}

/// What holds for a Pod at any time.
pub(super) fn pod_body(pod: &Value) -> FieldErrors {
    let mut errors = deletion_cost(pod);
    errors.extend(spec(pod.at("spec"), "spec", Place::Pod));
    for list in ["containers", "initContainers"] {
        for (i, container) in pod.list(&format!("spec.{list}")).iter().enumerate() {
            errors.extend(container::image_padding(container, &format!("spec.{list}[{i}]")));
        }
    }
    errors
}

fn deletion_cost(pod: &Value) -> FieldErrors {
    let cost = pod
        .at("metadata.annotations")
        .get(DELETION_COST)
        .and_then(Value::as_str);
    let bad = cost.filter(|c| c.parse::<i32>().is_err() || c.starts_with('+'));
    let path = format!("metadata.annotations[{DELETION_COST}]");
    bad.map(|c| FieldError::invalid(path, c, "must be a 32bit integer"))
        .into_iter()
        .collect()
}

/// A Pod template at `path`.
pub(super) fn template(template: &Value, path: &str) -> FieldErrors {
    let metadata = template.at("metadata");
    let mut errors = meta::labels(metadata.at("labels"), &format!("{path}.metadata.labels"));
    errors.extend(meta::annotations(
        metadata.at("annotations"),
        &format!("{path}.metadata.annotations"),
    ));
    errors.extend(spec(
        template.at("spec"),
        &format!("{path}.spec"),
        Place::Template,
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
fn spec(spec: &Value, path: &str, place: Place) -> FieldErrors {
    let mut errors = volumes::volumes(spec.list("volumes"), &format!("{path}.volumes"));
    errors.extend(container::containers(spec, path));
    errors.extend(resize::policies(spec, path));
    errors.extend(resources::pod_level(spec, path));
    errors.extend(container::host_network_ports(spec, path, place));
    errors.extend(one_of(
        format!("{path}.restartPolicy"),
        spec.text("restartPolicy"),
        &RESTART_POLICIES,
    ));
    errors.extend(one_of(
        format!("{path}.dnsPolicy"),
        spec.text("dnsPolicy"),
        &DNS_POLICIES,
    ));
    errors.extend(meta::labels(
        spec.at("nodeSelector"),
        &format!("{path}.nodeSelector"),
    ));
    errors.extend(security::pod(spec, &format!("{path}.securityContext")));
    errors.extend(scheduling::affinity(
        spec.at("affinity"),
        &format!("{path}.affinity"),
    ));
    errors.extend(dns(spec, &format!("{path}.dnsConfig")));
    errors.extend(gates(spec, path));
    errors.extend(scheduling::spread(
        spec.list("topologySpreadConstraints"),
        &format!("{path}.topologySpreadConstraints"),
    ));
    errors.extend(host_users(spec, path));
    errors.extend(references(spec, path));
    errors.extend(deadline(spec, path));
    errors.extend(host_names(spec, path));
    errors.extend(scheduling::tolerations(
        spec.list("tolerations"),
        &format!("{path}.tolerations"),
    ));
    errors.extend(host_aliases(
        spec.list("hostAliases"),
        &format!("{path}.hostAliases"),
    ));
    errors.extend(classes(spec, path));
    errors
}

fn gates(spec: &Value, path: &str) -> FieldErrors {
    let mut errors = Vec::new();
    for (i, gate) in spec.list("readinessGates").iter().enumerate() {
        let kind = gate.text("conditionType");
        errors.extend(complain(
            &format!("{path}.readinessGates[{i}].conditionType"),
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
        errors.extend(complain(&at(i), name, names::qualified(name)));
        if seen.again(*name) {
            errors.push(FieldError::duplicate(at(i), *name));
        }
    }
    errors
}

fn dns(spec: &Value, path: &str) -> FieldErrors {
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
        errors.extend(ip(&format!("{path}.nameservers[{i}]"), server));
    }
    errors.extend(searches(config.list("searches"), &format!("{path}.searches")));
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

fn searches(searches: &[Value], path: &str) -> FieldErrors {
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
            errors.extend(complain(&format!("{path}[{i}]"), text, names::subdomain(text)));
        }
    }
    errors
}

fn host_users(spec: &Value, path: &str) -> FieldErrors {
    if spec.at("hostUsers") != &Value::Bool(false) {
        return Vec::new();
    }
    let fields = [
        ("hostNetwork", "hostNetwork"),
        ("hostPID", "HostPID"),
        ("hostIPC", "HostIPC"),
    ];
    let set = fields.into_iter().filter(|(key, _)| spec.flag(key));
    set.map(|(_, name)| FieldError::forbidden(format!("{path}.{name}"), "when `pod.Spec.HostUsers` is false"))
        .collect()
}

/// Names of other objects.
fn references(spec: &Value, path: &str) -> FieldErrors {
    let keys = ["serviceAccountName", "nodeName"];
    let set = keys.into_iter().filter(|key| !spec.text(key).is_empty());
    set.flat_map(|key| {
        complain(
            &format!("{path}.{key}"),
            spec.text(key),
            names::subdomain(spec.text(key)),
        )
    })
    .collect()
}

fn deadline(spec: &Value, path: &str) -> FieldErrors {
    let Some(seconds) = spec.int("activeDeadlineSeconds") else {
        return Vec::new();
    };
    super::complain_number(
        &format!("{path}.activeDeadlineSeconds"),
        seconds,
        names::in_range(seconds, 1, i64::from(i32::MAX)),
    )
}

fn host_names(spec: &Value, path: &str) -> FieldErrors {
    let keys = ["hostname", "subdomain"];
    let set = keys.into_iter().filter(|key| !spec.text(key).is_empty());
    set.flat_map(|key| {
        complain(
            &format!("{path}.{key}"),
            spec.text(key),
            names::label(spec.text(key)),
        )
    })
    .collect()
}

fn host_aliases(aliases: &[Value], path: &str) -> FieldErrors {
    let mut errors = Vec::new();
    for (i, alias) in aliases.iter().enumerate() {
        errors.extend(ip(&format!("{path}[{i}].ip"), alias.text("ip")));
        for (j, name) in alias
            .list("hostnames")
            .iter()
            .filter_map(Value::as_str)
            .enumerate()
        {
            errors.extend(complain(
                &format!("{path}[{i}].hostnames[{j}]"),
                name,
                names::subdomain(name),
            ));
        }
    }
    errors
}

fn classes(spec: &Value, path: &str) -> FieldErrors {
    let mut errors = Vec::new();
    for key in ["priorityClassName", "runtimeClassName"] {
        let name = spec.text(key);
        if spec.has(key) && (key == "runtimeClassName" || !name.is_empty()) {
            errors.extend(complain(&format!("{path}.{key}"), name, names::subdomain(name)));
        }
    }
    let policies = ["PreemptLowerPriority", "Never"];
    errors.extend(super::maybe_one_of(spec, "preemptionPolicy", path, &policies));
    errors.extend(super::maybe_one_of(
        spec.at("os"),
        "name",
        &format!("{path}.os"),
        &["linux", "windows"],
    ));
    errors
}

/// Paths inside a profile directory or a volume.
pub(super) fn local_path(path: &str, value: &str) -> FieldErrors {
    descending(path, value)
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
        errors.extend(ip(&format!("status.podIPs[{i}]"), address.text("ip")));
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
        errors.extend(ip(&format!("status.hostIPs[{i}]"), address.text("ip")));
    }
    errors
}

/// A container that ended for good does not run again.
fn terminated_stays(new: &Value, old: &Value) -> FieldErrors {
    let policy = old.text("spec.restartPolicy");
    if policy == "Always" {
        return Vec::new();
    }
    let done = |s: &&Value| {
        s.has("state.terminated") && (policy != "OnFailure" || s.int("state.terminated.exitCode") == Some(0))
    };
    let mut errors = Vec::new();
    for list in ["containerStatuses", "initContainerStatuses"] {
        let path = format!("status.{list}");
        for (i, old_status) in old.list(&path).iter().enumerate().filter(|(_, s)| done(s)) {
            let same = |s: &&Value| s.text("name") == old_status.text("name") && !s.has("state.terminated");
            if !restarts_alone(old, old_status.text("name")) && new.list(&path).iter().any(|s| same(&s)) {
                let detail = "may not be transitioned to non-terminated state";
                errors.push(FieldError::forbidden(format!("{path}[{i}].state"), detail));
            }
        }
    }
    errors
}

fn restarts_alone(pod: &Value, name: &str) -> bool {
    pod.list("spec.initContainers")
        .iter()
        .any(|c| c.text("name") == name && c.text("restartPolicy") == "Always")
}

/// A path on the node.
pub(super) fn host_path(path: &str, value: &str) -> Option<FieldError> {
    no_backsteps(path, value)
}

//! Pods and Pod templates.
use std::collections::HashSet;
use std::fmt::Display;

use serde_json::Value;

use super::{deprecated_label, overlaps, ports, service, storage};
use crate::kinds::app_armor;
use crate::kinds::names;
use crate::kinds::quantity::Quantity;
use crate::kinds::view::View;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const SURPRISING: &str = "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS \
    label is recommended: ";
const NO_POD: &str = "a null labelSelector results in matching no pod";
const ANNOTATIONS: [(&str, &str); 3] = [
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    (
        "security.alpha.kubernetes.io/sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
    (
        "security.alpha.kubernetes.io/unsafe-sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
];
const SECCOMP: &str = "non-functional in v1.27+; use the \"seccompProfile\" field instead";
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";

/// A new Pod.
pub(super) fn made(pod: &Value) -> Vec<String> {
    let complaints = names::label(pod.text("metadata.name"));
    let named = (!complaints.is_empty()).then(|| format!("{SURPRISING}[{}]", complaints.join(" ")));
    let mut told: Vec<String> = named.into_iter().collect();
    told.extend(warnings(pod, "", false));
    told
}

/// A Pod, or a template at `path`.
pub(super) fn warnings(pod: &Value, path: &str, template: bool) -> Vec<String> {
    let spec = pod.at("spec");
    let below = |part: &str| match path {
        "" => part.to_owned(),
        path => format!("{path}.{part}"),
    };
    let (at, annotations) = (below("spec"), below("metadata.annotations"));
    let mut told = placement(spec, &at);
    let annotated = |key: &str| pod.at("metadata.annotations").get(key);
    for (key, why) in ANNOTATIONS.iter().filter(|(key, _)| annotated(key).is_some()) {
        told.push(format!("{annotations}[{key}]: {why}"));
    }
    for (i, volume) in spec.list("volumes").iter().enumerate() {
        told.extend(storage::source(volume, format_args!("{at}.volumes[{i}]")));
    }
    told.extend(overlaps::of_volumes(spec.list("volumes")));
    told.extend(repeated_names(spec, &at));
    told.extend(fractions(spec.at("overhead"), format_args!("{at}.overhead")));
    if annotated(SECCOMP_POD).is_some() && !spec.has("securityContext.seccompProfile") {
        told.push(format!("{annotations}[{SECCOMP_POD}]: {SECCOMP}"));
    }
    let containers = containers(spec, &at);
    for (container, at) in &containers {
        told.extend(old_profiles(container, &annotated, template, &annotations, spec));
        for part in ["limits", "requests"] {
            let at = format_args!("{at}.resources.{part}");
            told.extend(fractions(container.at("resources").at(part), at));
        }
        told.extend(hidden_variables(container, at));
    }
    told.extend(ports::of_containers(&containers));
    if spec.int("terminationGracePeriodSeconds").is_some_and(|s| s < 0) {
        told.push(format!(
            "{at}.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1"
        ));
    }
    told.extend(affinity(spec, &at));
    told.extend(addresses(spec, &at));
    told
}

fn containers<'a>(spec: &'a Value, path: &str) -> Vec<(&'a Value, String)> {
    let lists = ["initContainers", "containers", "ephemeralContainers"];
    let of = |list: &'static str| {
        let containers = spec.list(list).iter().enumerate();
        containers.map(move |(i, container)| (container, format!("{path}.{list}[{i}]")))
    };
    lists.into_iter().flat_map(of).collect()
}

/// Labels of nodes that have new names.
fn placement(spec: &Value, path: &str) -> Vec<String> {
    let mut told = Vec::new();
    for key in spec.map("nodeSelector").into_iter().flatten().map(|(key, _)| key) {
        told.extend(deprecated_label(key).map(|why| format!("{path}.nodeSelector[{key}]: {why}")));
    }
    let node = spec.at("affinity.nodeAffinity");
    let required = node.at(REQUIRED).list("nodeSelectorTerms").iter().enumerate();
    for (i, term) in required {
        let at = format!("{path}.affinity.nodeAffinity.{REQUIRED}.nodeSelectorTerms[{i}]");
        told.extend(term_labels(term, false, &at));
    }
    for (i, term) in node.list(PREFERRED).iter().enumerate() {
        let at = format!("{path}.affinity.nodeAffinity.{PREFERRED}[{i}].preference");
        told.extend(term_labels(term.at("preference"), true, &at));
    }
    for (i, constraint) in spec.list("topologySpreadConstraints").iter().enumerate() {
        let (at, key) = (
            format!("{path}.topologySpreadConstraints[{i}]"),
            constraint.text("topologyKey"),
        );
        told.extend(deprecated_label(key).map(|why| format!("{at}.topologyKey: {key} is {why}")));
        if !constraint.has("labelSelector") {
            told.push(format!("{at}.labelSelector: {NO_POD}"));
        }
    }
    told
}

/// Labels that a node selector term at `path` asks for.
pub(super) fn term_labels(term: &Value, values: bool, path: &str) -> Vec<String> {
    let mut told = Vec::new();
    for (i, expression) in term.list("matchExpressions").iter().enumerate() {
        let (key, at) = (expression.text("key"), format!("{path}.matchExpressions[{i}]"));
        told.extend(deprecated_label(key).map(|why| format!("{at}.key: {key} is {why}")));
        let asked = expression.list("values").iter().filter_map(Value::as_str);
        for (j, value) in asked.enumerate().filter(|_| values) {
            let complaints = names::label_value(value).into_iter();
            told.extend(complaints.map(|why| format!("{at}.values[{j}]: {value} is invalid, {why}")));
        }
    }
    told
}

fn repeated_names(spec: &Value, path: &str) -> Vec<String> {
    let mut told = Vec::new();
    for (list, key) in [("hostAliases", "ip"), ("imagePullSecrets", "name")] {
        let mut before = HashSet::new();
        let names = spec.list(list).iter().map(|item| item.text(key)).enumerate();
        for (i, name) in names.filter(|(_, name)| !before.insert(*name)) {
            told.push(format!("{path}.{list}[{i}].{key}: duplicate {key} \"{name}\""));
        }
    }
    for (i, secret) in spec.list("imagePullSecrets").iter().enumerate() {
        if secret.text("name").is_empty() {
            told.push(format!(
                "{path}.imagePullSecrets[{i}].name: invalid empty name \"\""
            ));
        }
    }
    told
}

/// Bytes come whole.
fn fractions(amounts: &Value, path: impl Display + Copy) -> Vec<String> {
    let fraction = |name: &&str| {
        let quantity = Quantity::parse(amounts.get(*name)?.as_str()?).ok()?;
        (quantity.milli_value() % 1000 != 0).then(|| {
            format!("{path}[{name}]: fractional byte value \"{quantity}\" is invalid, must be an integer")
        })
    };
    ["memory", "ephemeral-storage"]
        .iter()
        .filter_map(fraction)
        .collect()
}

fn old_profiles<'a>(
    container: &Value,
    annotated: &impl Fn(&str) -> Option<&'a Value>,
    template: bool,
    path: &str,
    spec: &Value,
) -> Vec<String> {
    let name = container.text("name");
    let mut told = Vec::new();
    let key = format!("{SECCOMP_CONTAINER}{name}");
    if annotated(&key).is_some() && !container.has("securityContext.seccompProfile") {
        told.push(format!("{path}[{key}]: {SECCOMP}"));
    }
    let key = format!("{}{name}", app_armor::ANNOTATION);
    // Pods are told of it before their annotations are carried into fields.
    if template && annotated(&key).is_some() && !container.has("securityContext.appArmorProfile") {
        let said = annotated(&key)
            .and_then(Value::as_str)
            .and_then(app_armor::profile);
        let pods = spec.at("securityContext.appArmorProfile");
        if pods.is_null() || said.as_ref() != Some(pods) {
            told.push(app_armor::deprecated(path, &key));
        }
    }
    told
}

/// A variable that comes twice must build on what was there.
fn hidden_variables(container: &Value, path: &str) -> Vec<String> {
    let (mut before, mut told) = (HashSet::new(), Vec::new());
    for (i, variable) in container.list("env").iter().enumerate() {
        let (name, value) = (variable.text("name"), variable.text("value"));
        let builds = || {
            let reference = format!("$({name})");
            !variable.has("valueFrom") && value != reference && value.contains(&reference)
        };
        if !before.insert(name) && !builds() {
            told.push(format!(
                "{path}.env[{i}]: hides previous definition of \"{name}\", which may be dropped when using apply"
            ));
        }
    }
    told
}

fn affinity(spec: &Value, path: &str) -> Vec<String> {
    let mut told = Vec::new();
    for key in ["podAffinity", "podAntiAffinity"] {
        let (terms, at) = (spec.at("affinity").at(key), format_args!("{path}.affinity.{key}"));
        for (i, term) in terms.list(REQUIRED).iter().enumerate() {
            if !term.has("labelSelector") {
                told.push(format!("{at}.{REQUIRED}[{i}].labelSelector: {NO_POD}"));
            }
        }
        for (i, term) in terms.list(PREFERRED).iter().enumerate() {
            if !term.has("podAffinityTerm.labelSelector") {
                told.push(format!(
                    "{at}.{PREFERRED}[{i}].podAffinityTerm.labelSelector: {NO_POD}"
                ));
            }
        }
    }
    told
}

fn addresses(spec: &Value, path: &str) -> Vec<String> {
    let servers = spec
        .list("dnsConfig.nameservers")
        .iter()
        .filter_map(Value::as_str);
    let mut told: Vec<String> = servers
        .enumerate()
        .filter_map(|(i, ip)| service::odd_ip(&format!("{path}.dnsConfig.nameservers[{i}]"), ip))
        .collect();
    let aliases = spec.list("hostAliases").iter().enumerate();
    told.extend(
        aliases.filter_map(|(i, alias)| {
            service::odd_ip(&format!("{path}.hostAliases[{i}].ip"), alias.text("ip"))
        }),
    );
    told
}

//! What is odd about a valid object: told in `Warning` headers of the answer to who wrote it. KEP-1693.
//!
//! Owns what is told in which words. Refuses to know headers.
mod overlaps;
mod pod;
mod ports;
mod secret;
mod service;
mod storage;
#[cfg(test)]
mod tests;

use serde_json::Value;

use super::kind::Kind;
use super::names;
use super::view::View;

/// Further ones of what may be told of each two parts are not looked for: an answer's headers carry 4 KiB of warnings (upstream's
/// `truncateAtTotalRunes`).
const TOLD: usize = 4_096;
const SURPRISING: &str = "metadata.name: this is used in Pod names and hostnames, which can result in surprising \
    behavior; a DNS label is recommended: ";
const INGRESS_CLASS: &str = "kubernetes.io/ingress.class";
const MOUNTABLE_SECRETS: &str = "kubernetes.io/enforce-mountable-secrets";
const NODE_LABELS: [(&str, &str); 8] = [
    (
        "beta.kubernetes.io/arch",
        "deprecated since v1.14; use \"kubernetes.io/arch\" instead",
    ),
    (
        "beta.kubernetes.io/os",
        "deprecated since v1.14; use \"kubernetes.io/os\" instead",
    ),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    (
        "failure-domain.beta.kubernetes.io/zone",
        "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead",
    ),
    (
        "beta.kubernetes.io/instance-type",
        "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead",
    ),
    ("app.kubernetes.io/created-by", "deprecated since v1.9"),
    (
        "scheduler.alpha.kubernetes.io/preferAvoidPods",
        "deprecated since v1.22; use Taints and Tolerations instead",
    ),
    (
        "node-role.kubernetes.io/master",
        "use \"node-role.kubernetes.io/control-plane\" instead",
    ),
];

/// Why a label of nodes should not be used any more.
fn deprecated_label(key: &str) -> Option<&'static str> {
    NODE_LABELS
        .iter()
        .find(|(label, _)| *label == key)
        .map(|(_, why)| *why)
}

/// What every client of a kind is told.
pub(super) fn deprecated(kind: &Kind) -> Option<&'static str> {
    match (kind.group.as_str(), kind.plural.as_str()) {
        ("", "endpoints") => {
            Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice")
        }
        ("", "componentstatuses") => Some("v1 ComponentStatus is deprecated in v1.19+"),
        _ => None,
    }
}

/// What the writer of an object is told; `old` is what it replaces.
pub(super) fn of(kind: &Kind, new: &Value, old: Option<&Value>) -> Vec<String> {
    match (kind.group.as_str(), kind.plural.as_str()) {
        ("", "pods") => match old {
            None => pod::made(new),
            // Who writes Pods again and again is no person who reads this.
            Some(_) => Vec::new(),
        },
        ("", "services") => service::warnings(new),
        ("", "persistentvolumes") => storage::volume(new),
        ("", "persistentvolumeclaims") => storage::claim(new),
        ("storage.k8s.io", "storageclasses") => storage::class(new),
        ("", "serviceaccounts") => service_account(new, old),
        ("", "resourcequotas") if old.is_none() => quota(new),
        ("networking.k8s.io", "ingresses") if old.is_none() => ingress(new),
        ("", "secrets") => secret::key_pair(new).into_iter().collect(),
        ("storage.k8s.io", "csidrivers") => tokens_in_attributes(new, old),
        ("discovery.k8s.io", "endpointslices") if old.is_none() => fqdn(new),
        _ => workload(kind, new, old),
    }
}

/// What has Pods made.
fn workload(kind: &Kind, new: &Value, old: Option<&Value>) -> Vec<String> {
    let Some(path) = kind.template_path() else {
        return Vec::new();
    };
    let generation = |object: &Value| object.int("metadata.generation");
    let mut told = Vec::new();
    let named = !matches!(
        kind.plural.as_str(),
        "daemonsets" | "statefulsets" | "podtemplates"
    );
    match old {
        None if named => told.extend(surprising_name(new)),
        None => {}
        Some(old) if generation(old) == generation(new) => return told,
        Some(_) => {}
    }
    told.extend(pod::warnings(new.at(path), path, true));
    if kind.plural == "statefulsets" {
        told.extend(storage::claim_templates(new));
    }
    told
}

fn surprising_name(object: &Value) -> Option<String> {
    let complaints = names::label(object.text("metadata.name"));
    (!complaints.is_empty()).then(|| format!("{SURPRISING}[{}]", complaints.join(" ")))
}

fn tokens_in_attributes(new: &Value, old: Option<&Value>) -> Vec<String> {
    let asked = "spec.tokenRequests";
    let changed = old.is_none_or(|old| old.at(asked) != new.at(asked));
    let told = changed && !new.list(asked).is_empty() && !new.has("spec.serviceAccountTokenInSecrets");
    told.then(|| {
        "spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible \
         logging of tokens in volume attributes"
            .to_owned()
    })
    .into_iter()
    .collect()
}

fn fqdn(slice: &Value) -> Vec<String> {
    let told = slice.text("addressType") == "FQDN";
    told.then(|| "spec.addressType: FQDN endpoints are deprecated".to_owned())
        .into_iter()
        .collect()
}

fn ingress(object: &Value) -> Vec<String> {
    let annotated = object.at("metadata.annotations").get(INGRESS_CLASS).is_some();
    let told = annotated && !object.has("spec.ingressClassName");
    told.then(|| {
        format!("annotation \"{INGRESS_CLASS}\" is deprecated, please use 'spec.ingressClassName' instead")
    })
    .into_iter()
    .collect()
}

fn service_account(new: &Value, old: Option<&Value>) -> Vec<String> {
    let annotation = |object: &Value| object.at("metadata.annotations").get(MOUNTABLE_SECRETS).cloned();
    let now = annotation(new);
    let told = now.is_some() && old.is_none_or(|old| annotation(old).is_none());
    told.then(|| {
        format!(
            "metadata.annotations[{MOUNTABLE_SECRETS}]: deprecated in v1.32+; prefer separate namespaces to isolate \
             access to mounted secrets"
        )
    })
    .into_iter()
    .collect()
}

/// More that may be asked for than may be used.
fn quota(object: &Value) -> Vec<String> {
    let hard = object.at("spec.hard");
    let amount = |name: &str| super::quantity::Quantity::parse(hard.get(name)?.as_str()?).ok();
    let compare = |resource: &&str| {
        let (request, limit) = (format!("requests.{resource}"), format!("limits.{resource}"));
        let plain = matches!(*resource, "cpu" | "memory");
        let asked = amount(&request).map(|amount| (request.as_str(), amount));
        let asked = asked.or_else(|| {
            amount(resource)
                .filter(|_| plain)
                .map(|amount| (*resource, amount))
        });
        let (name, asked) = asked?;
        let most = amount(&limit)?;
        (asked > most).then(|| format!("ResourceQuota {name} ({asked}) should be less than {limit} ({most})"))
    };
    ["cpu", "memory", "storage", "ephemeral-storage"]
        .iter()
        .filter_map(compare)
        .collect()
}

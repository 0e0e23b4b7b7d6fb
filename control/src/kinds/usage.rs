//! What objects count for a ResourceQuota, and which objects a quota is about.
//!
//! Pure, and shared by the admission that charges and the controller that counts again.
use std::collections::BTreeMap;

use serde_json::Value;

use super::device_usage::{CLASS_OF_DEVICES, Classes, devices};
use super::kind::Kind;
use super::quantity::Quantity;
use super::resources::{self, List};
use super::view::View;

/// Amounts by the names that a quota has for them.
pub type Usage = BTreeMap<String, Quantity>;

/// Kinds of the core group that are counted under their own name, too.
const COUNTED: [&str; 6] = [
    "configmaps",
    "persistentvolumeclaims",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
];
/// What Services, and claims, are counted for besides their number.
const SERVICE: [&str; 3] = ["services", "services.nodeports", "services.loadbalancers"];
const CLAIM: [&str; 2] = ["persistentvolumeclaims", "requests.storage"];
const CLASS_SUFFIX: &str = ".storageclass.storage.k8s.io/";
const COMPUTE: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

/// `count/deployments.apps`, `count/pods`.
pub fn count_name(kind: &Kind) -> String {
    format!("count/{}", kind.group_resource())
}

/// What the object counts, of a claim without what Pods call its devices ([`Classes::add`]). `now` decides whether a Pod that
/// is long deleted still does.
pub fn of(kind: &Kind, object: &Value, now: jiff::Timestamp) -> Usage {
    let mut usage = Usage::from([(count_name(kind), Quantity::whole(1))]);
    match (kind.group.as_str(), kind.plural.as_str()) {
        ("", "pods") if lives(object, now) => usage.extend(pod(object)),
        ("", "services") => usage.extend(service(object)),
        ("", "persistentvolumeclaims") => usage.extend(claim(object)),
        ("resource.k8s.io", "resourceclaims") => usage.extend(devices(object)),
        _ => {}
    }
    if kind.group.is_empty() && COUNTED.contains(&kind.plural.as_str()) {
        usage.insert(kind.plural.clone(), Quantity::whole(1));
    }
    usage
}

/// Ended Pods, and those whose node never let them go, cost nothing.
fn lives(pod: &Value, now: jiff::Timestamp) -> bool {
    if matches!(pod.text("status.phase"), "Failed" | "Succeeded") {
        return false;
    }
    let meta = pod.at("metadata");
    let deleted = meta.at("deletionTimestamp").as_str().and_then(super::time::parse);
    match (deleted, meta.int("deletionGracePeriodSeconds")) {
        (Some(deleted), Some(grace)) => now.as_second() <= deleted.as_second().saturating_add(grace),
        _ => true,
    }
}

fn pod(pod: &Value) -> Usage {
    let mut usage = compute(
        &resources::with_overhead(pod, resources::pod(pod, "requests")),
        &resources::with_overhead(pod, resources::pod(pod, "limits")),
    );
    usage.insert("pods".into(), Quantity::whole(1));
    usage
}

/// The names that a quota has for requests and limits.
fn compute(requests: &List, limits: &List) -> Usage {
    let mut usage = Usage::new();
    for (name, amount) in requests {
        let plain = COMPUTE.contains(&name.as_str()) || name.starts_with("hugepages-");
        if plain {
            usage.insert(name.clone(), *amount);
        }
        if plain || name.contains('/') {
            usage.insert(format!("requests.{name}"), *amount);
        }
    }
    let limited = limits.iter().filter(|(name, _)| COMPUTE.contains(&name.as_str()));
    usage.extend(limited.map(|(name, amount)| (format!("limits.{name}"), *amount)));
    usage
}

fn service(service: &Value) -> Usage {
    let (kind, ports) = (service.text("spec.type"), service.list("spec.ports"));
    let explicit = ports
        .iter()
        .filter(|p| p.int("nodePort").unwrap_or(0) != 0)
        .count();
    let allocates = service.at("spec.allocateLoadBalancerNodePorts") != &Value::Bool(false);
    let node_ports = match kind {
        "NodePort" => ports.len(),
        "LoadBalancer" if allocates => ports.len(),
        "LoadBalancer" => explicit,
        _ => 0,
    };
    Usage::from([
        ("services.nodeports".into(), Quantity::whole(as_count(node_ports))),
        (
            "services.loadbalancers".into(),
            Quantity::whole(i64::from(kind == "LoadBalancer")),
        ),
    ])
}

/// A length that is far below what a number holds.
fn as_count(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

fn claim(claim: &Value) -> Usage {
    let class = claim.text("spec.storageClassName");
    let storage = claim.at("spec.resources.requests").get("storage");
    let storage = storage.and_then(|q| Quantity::parse(q.as_str()?).ok());
    let mut usage = Usage::new();
    if let Some(storage) = storage {
        usage.insert("requests.storage".into(), storage);
    }
    if !class.is_empty() {
        let one = Quantity::whole(1);
        usage.insert(format!("{class}{CLASS_SUFFIX}persistentvolumeclaims"), one);
        if let Some(storage) = storage {
            usage.insert(format!("{class}{CLASS_SUFFIX}requests.storage"), storage);
        }
    }
    usage
}

/// Whether a resource that a quota names is one that objects of the kind count for, where there are these classes of devices.
pub fn concerns(kind: &Kind, resource: &str, classes: &Classes) -> bool {
    if resource == count_name(kind) {
        return true;
    }
    match (kind.group.as_str(), kind.plural.as_str()) {
        ("", "pods") => is_pod_resource(resource),
        ("", "services") => SERVICE.contains(&resource),
        ("", "persistentvolumeclaims") => {
            let of_class = |(_, of): (&str, &str)| CLAIM.contains(&of);
            CLAIM.contains(&resource) || resource.rsplit_once(CLASS_SUFFIX).is_some_and(of_class)
        }
        ("resource.k8s.io", "resourceclaims") => classes.concern(resource),
        ("", plural) => COUNTED.contains(&plural) && resource == plural,
        _ => false,
    }
}

fn is_pod_resource(resource: &str) -> bool {
    let requested = resource.strip_prefix("requests.");
    let either = requested.or_else(|| resource.strip_prefix("limits."));
    let asked = requested.unwrap_or(resource);
    let extended = |name: &str| {
        let foreign = name.contains('/') && !name.contains("kubernetes.io/");
        foreign || name.starts_with(CLASS_OF_DEVICES)
    };
    resource == "pods"
        || COMPUTE.contains(&either.unwrap_or(resource))
        || asked.starts_with("hugepages-")
        || requested.is_some_and(extended)
}

/// Whether the quota's scopes take in the object. A quota with scopes is about Pods (and claims, by their attributes'
/// class) only.
pub fn in_scope(kind: &Kind, quota: &Value, object: &Value) -> bool {
    let plain = quota.list("spec.scopes").iter().filter_map(Value::as_str);
    let selected = quota.list("spec.scopeSelector.matchExpressions");
    let mut plain = plain.map(|scope| (scope, "Exists", &[] as &[Value]));
    let mut selected = selected
        .iter()
        .map(|e| (e.text("scopeName"), e.text("operator"), e.list("values")));
    plain.all(|(scope, op, values)| matches(kind, object, scope, op, values))
        && selected.all(|(scope, op, values)| matches(kind, object, scope, op, values))
}

fn matches(kind: &Kind, object: &Value, scope: &str, operator: &str, values: &[Value]) -> bool {
    let is_pod = kind.group.is_empty() && kind.plural == "pods";
    if kind.group.is_empty() && kind.plural == "persistentvolumeclaims" && scope == "VolumeAttributesClass" {
        return chosen(object.text("spec.volumeAttributesClassName"), operator, values);
    }
    let ends = object.int("spec.activeDeadlineSeconds").is_some_and(|s| s >= 0);
    is_pod
        && match scope {
            "Terminating" => ends,
            "NotTerminating" => !ends,
            "BestEffort" => is_best_effort(object),
            "NotBestEffort" => !is_best_effort(object),
            "PriorityClass" => chosen(object.text("spec.priorityClassName"), operator, values),
            "CrossNamespacePodAffinity" => crosses_namespaces(object.at("spec.affinity")),
            _ => false,
        }
}

/// Whether a selector with this operator and these values picks the class.
fn chosen(class: &str, operator: &str, values: &[Value]) -> bool {
    let listed = values.iter().any(|v| v == class);
    match operator {
        "Exists" => !class.is_empty(),
        "DoesNotExist" => class.is_empty(),
        "In" => !class.is_empty() && listed,
        "NotIn" => !listed,
        _ => false,
    }
}

fn is_best_effort(pod: &Value) -> bool {
    super::prepare::pod::qos_class(pod) == "BestEffort"
}

/// Whether an affinity term looks at Pods of other namespaces (KEP-2249).
fn crosses_namespaces(affinity: &Value) -> bool {
    let crosses = |term: &Value| term.has("namespaceSelector") || !term.list("namespaces").is_empty();
    ["podAffinity", "podAntiAffinity"].iter().any(|key| {
        let terms = affinity.at(key);
        let required = terms
            .list("requiredDuringSchedulingIgnoredDuringExecution")
            .iter();
        let preferred = terms
            .list("preferredDuringSchedulingIgnoredDuringExecution")
            .iter();
        required
            .chain(preferred.map(|p| p.at("podAffinityTerm")))
            .any(crosses)
    })
}

/// Which of the required resources containers of the Pod do not ask for, and which containers those are.
pub fn missing(pod: &Value, required: &[&str]) -> BTreeMap<String, Vec<String>> {
    const CHECKED: [&str; 6] = [
        "cpu",
        "memory",
        "requests.cpu",
        "requests.memory",
        "limits.cpu",
        "limits.memory",
    ];
    let mut missing: BTreeMap<String, Vec<String>> = BTreeMap::new();
    if pod.has("spec.resources.requests") || pod.has("spec.resources.limits") {
        return missing;
    }
    let all = pod
        .list("spec.containers")
        .iter()
        .chain(pod.list("spec.initContainers"));
    for container in all {
        let has = compute(
            &resources::list(container.at("resources.requests")),
            &resources::list(container.at("resources.limits")),
        );
        let lacking = required
            .iter()
            .filter(|r| CHECKED.contains(r) && !has.contains_key(**r));
        for resource in lacking {
            let names = missing.entry((*resource).to_owned()).or_default();
            names.push(container.text("name").to_owned());
        }
    }
    missing.values_mut().for_each(|names| {
        names.sort();
        names.dedup();
    });
    missing
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Registry;
    use crate::kinds::device_usage::DEVICES;
    use serde_json::json;

    fn shown(plural: &str, object: &Value) -> String {
        let kind = Registry::builtin().resource("", "v1", plural).expect("served");
        let usage = of(kind, object, jiff::Timestamp::UNIX_EPOCH);
        let pairs: Vec<String> = usage.iter().map(|(k, v)| format!("{k}={v}")).collect();
        pairs.join(",")
    }

    #[test]
    fn what_objects_count() {
        let pod = json!({"spec": {"containers": [
            {"resources": {"requests": {"cpu": "1"}, "limits": {"memory": "1Gi"}}},
            {"resources": {"requests": {"cpu": "500m", "example.com/gpu": "1"}}}]}});
        assert_eq!(
            shown("pods", &pod),
            "count/pods=1,cpu=1500m,limits.memory=1Gi,pods=1,requests.cpu=1500m,requests.example.com/gpu=1"
        );
        let mut ended = pod;
        ended["status"] = json!({"phase": "Succeeded"});
        assert_eq!(shown("pods", &ended), "count/pods=1");
        let service = json!({"spec": {"type": "LoadBalancer", "ports": [{"port": 1}, {"port": 2}]}});
        assert_eq!(
            shown("services", &service),
            "count/services=1,services=1,services.loadbalancers=1,services.nodeports=2"
        );
        let claim =
            json!({"spec": {"storageClassName": "fast", "resources": {"requests": {"storage": "1Gi"}}}});
        assert!(
            shown("persistentvolumeclaims", &claim)
                .contains("fast.storageclass.storage.k8s.io/requests.storage=1Gi")
        );
        assert_eq!(shown("configmaps", &json!({})), "configmaps=1,count/configmaps=1");
    }

    #[test]
    fn claims_count_the_devices_that_they_may_come_to() {
        let kind = Registry::builtin().resource("resource.k8s.io", "v1", "resourceclaims");
        let kind = kind.expect("served");
        let exact = |class: &str, count: i64| json!({"deviceClassName": class, "allocationMode": "ExactCount", "count": count});
        let all = json!({"deviceClassName": "b", "allocationMode": "All"});
        for (requests, want) in [
            (json!([]), ""),
            (
                json!([{"exactly": exact("a", 2)}, {"exactly": exact("a", 3)}]),
                "a=5,",
            ),
            (json!([{"exactly": all}]), "b=32,"),
            (
                json!([{"firstAvailable": [exact("a", 2), exact("a", 4), exact("b", 1)]}, {"exactly": exact("a", 1)}]),
                "a=5,b=1,",
            ),
        ] {
            let claim = json!({"spec": {"devices": {"requests": requests}}});
            let usage = of(kind, &claim, jiff::Timestamp::UNIX_EPOCH);
            let found: String = usage
                .iter()
                .filter_map(|(name, q)| Some(format!("{}={q},", name.strip_suffix(DEVICES)?)))
                .collect();
            assert_eq!(found, want);
            assert_eq!(usage["count/resourceclaims.resource.k8s.io"].to_string(), "1");
        }
    }

    /// Upstream's evaluators (`pkg/quota/v1/evaluator/core`).
    #[test]
    fn names_that_objects_count_for() {
        for (plural, name, counts) in [
            ("services", "services", true),
            ("services", "count/services", true),
            ("services", "services.nodeports", true),
            ("services", "services.loadbalancers", true),
            ("services", "services.foo/bar", false),
            ("pods", "limits.cpu", true),
            ("pods", "hugepages-2Mi", true),
            ("pods", "requests.hugepages-2Mi", true),
            ("pods", "limits.hugepages-2Mi", false),
            ("pods", "requests.example.com/gpu", true),
            ("pods", "requests.deviceclass.resource.kubernetes.io/d", true),
            ("pods", "requests.sub.kubernetes.io/gpu", false),
            ("pods", "limits.example.com/gpu", false),
            ("persistentvolumeclaims", "requests.storage", true),
            (
                "persistentvolumeclaims",
                "a.storageclass.storage.k8s.io/requests.storage",
                true,
            ),
            (
                "persistentvolumeclaims",
                "a.storageclass.storage.k8s.io/persistentvolumeclaims",
                true,
            ),
            (
                "persistentvolumeclaims",
                "a.storageclass.storage.k8s.io/foo",
                false,
            ),
            ("configmaps", "configmaps", true),
        ] {
            let kind = Registry::builtin().resource("", "v1", plural).expect("served");
            assert_eq!(
                concerns(kind, name, &Classes::default()),
                counts,
                "{plural} {name}"
            );
        }
    }

    #[test]
    fn scopes() {
        let kind = Registry::builtin().resource("", "v1", "pods").expect("served");
        let best_effort = json!({"spec": {"containers": [{}], "priorityClassName": "high"}});
        for (spec, want) in [
            (json!({"scopes": ["BestEffort"]}), true),
            (json!({"scopes": ["NotBestEffort"]}), false),
            (json!({"scopes": ["Terminating"]}), false),
            (
                json!({"scopeSelector": {"matchExpressions": [
                {"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}]}}),
                true,
            ),
            (
                json!({"scopeSelector": {"matchExpressions": [
                {"scopeName": "PriorityClass", "operator": "NotIn", "values": ["high"]}]}}),
                false,
            ),
            (json!({}), true),
        ] {
            assert_eq!(
                in_scope(kind, &json!({"spec": spec}), &best_effort),
                want,
                "{spec}"
            );
        }
    }
}

//! Resizing a Pod in place: what may change, and what its containers say about it beforehand. KEP-1287.
use serde_json::Value;

use super::pod;
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::prepare::pod::qos_class;
use crate::kinds::view::View;

/// What can be changed while a container runs.
const RESIZABLE: [&str; 2] = ["cpu", "memory"];
/// A node's own Pod, shown in the API.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Whether the Pod is a node's own.
pub(super) fn is_static(pod: &Value) -> bool {
    pod.at("metadata.annotations").get(MIRROR).is_some()
}

/// Everything wrong with a resize (`ValidatePodResize`).
pub(super) fn update(new: &Value, old: &Value) -> FieldErrors {
    if is_static(old) {
        return vec![FieldError::forbidden("", "static pods cannot be resized")];
    }
    if old.text("spec.os.name") == "windows" {
        return vec![FieldError::forbidden("", "windows pods cannot be resized")];
    }
    let mut errors = pod::pod_body(new);
    let class = match old.text("status.qosClass") {
        "" => qos_class(old),
        class => class,
    };
    if class != qos_class(new) {
        let detail = "Pod QOS Class may not change as a result of resizing";
        errors.push(FieldError::invalid("spec", new.text("status.qosClass"), detail));
    }
    if !is_supported(old) {
        errors.push(FieldError::forbidden(
            "spec",
            "Pod running on node without support for resize",
        ));
    }
    if has_own(old) || has_own(new) {
        errors.extend(around(new, old));
    }
    let moved = moved(new, old);
    if !moved.is_empty() {
        errors.extend(moved);
        return errors;
    }
    errors.extend(removed(new, old));
    errors.extend(other_changes(new, old));
    errors
}

/// Whether the Pod's node tells the resources of what runs.
fn is_supported(pod: &Value) -> bool {
    let mut running = pod
        .list("status.containerStatuses")
        .iter()
        .filter(|s| s.has("state.running"));
    running.next().is_none_or(|status| status.has("resources"))
}

/// Whether the Pod as a whole has requests or limits.
fn has_own(pod: &Value) -> bool {
    let filled = |key: &str| pod.at(key).as_object().is_some_and(|list| !list.is_empty());
    filled("spec.resources.requests") || filled("spec.resources.limits")
}

/// What the Pod has as a whole: amounts of CPU and memory may change, and none is taken away (`validatePodLevelResourcesResize`).
fn around(new: &Value, old: &Value) -> FieldErrors {
    const PATH: &str = "spec.resources";
    if old.has(PATH) && !new.has(PATH) {
        let detail = "pod-level resources cannot be removed";
        return vec![FieldError::forbidden(PATH, detail)];
    }
    let mut errors = Vec::new();
    for part in ["requests", "limits"] {
        let path = format!("{PATH}.{part}");
        if is_less(new.at(&path), old.at(&path)) {
            let detail = format!("pod-level resource {part} cannot be removed");
            errors.push(FieldError::forbidden(path, detail));
        }
    }
    // Nothing is left of resources that are all CPU and memory.
    let fixed = |pod: &Value| {
        let own = serde_json::json!({"resources": pod.at(PATH)});
        let left = fixed_part(&own).at("resources").clone();
        Some(left).filter(|left| left.as_object().is_some_and(|left| !left.is_empty()))
    };
    if fixed(new) != fixed(old) {
        let detail = "only cpu and memory resources are mutable at pod-level";
        errors.push(FieldError::forbidden("spec", detail));
    }
    errors
}

/// Whether a list lacks an amount that it had.
fn is_less(now: &Value, before: &Value) -> bool {
    let now = now.as_object();
    let mut had = before.as_object().into_iter().flatten();
    had.any(|(name, _)| !now.is_some_and(|now| now.contains_key(name)))
}

fn moved(new: &Value, old: &Value) -> FieldErrors {
    let mut errors = Vec::new();
    for list in ["containers", "initContainers"] {
        let path = format!("spec.{list}");
        let (now, before) = (new.list(&path), old.list(&path));
        if now.len() != before.len() {
            let detail = format!("{list} may not be added or removed on resize");
            errors.push(FieldError::forbidden(path, detail));
            continue;
        }
        let renamed = now
            .iter()
            .zip(before)
            .enumerate()
            .filter(|(_, (n, b))| n.text("name") != b.text("name"));
        errors.extend(renamed.map(|(i, _)| {
            let detail = format!("{list} may not be renamed or reordered on resize");
            FieldError::forbidden(format!("{path}[{i}].name"), detail)
        }));
    }
    errors
}

fn removed(new: &Value, old: &Value) -> FieldErrors {
    let mut errors = Vec::new();
    for list in ["initContainers", "containers"] {
        let path = format!("spec.{list}");
        for (i, (now, before)) in new.list(&path).iter().zip(old.list(&path)).enumerate() {
            for part in ["requests", "limits"] {
                let key = format!("resources.{part}");
                if is_less(now.at(&key), before.at(&key)) {
                    let detail = format!("resource {part} cannot be removed");
                    errors.push(FieldError::forbidden(format!("{path}[{i}].{key}"), detail));
                }
            }
        }
    }
    errors
}

/// Other resources than CPU and memory, and resize policies, stay as they were.
fn other_changes(new: &Value, old: &Value) -> FieldErrors {
    const DETAIL: &str = "only cpu and memory resources are mutable";
    let pairs = |path: &str| -> Vec<(Value, Value)> {
        let wanted = new
            .list(path)
            .iter()
            .map(|wanted| without_claims(fixed_part(wanted)));
        wanted.zip(old.list(path).iter().map(fixed_part)).collect()
    };
    let mut errors: FieldErrors = pairs("spec.containers")
        .iter()
        .filter(|(now, before)| now != before)
        .map(|_| FieldError::forbidden("spec", DETAIL))
        .collect();
    for (i, (now, before)) in pairs("spec.initContainers").iter().enumerate() {
        if now != before {
            let detail = "only cpu and memory resources for init or sidecar containers are mutable";
            errors.push(FieldError::forbidden(format!("spec.initContainers[{i}]"), detail));
        }
    }
    errors
}

/// As upstream looks at what is wanted: claims of devices are overlooked there, and what had some is another container then.
fn without_claims(mut container: Value) -> Value {
    if let Some(Value::Object(resources)) = container.get_mut("resources") {
        resources.remove("claims");
    }
    container
}

/// The container without amounts of CPU and memory.
fn fixed_part(container: &Value) -> Value {
    let mut container = container.clone();
    let Some(Value::Object(resources)) = container.get_mut("resources") else {
        return container;
    };
    for part in ["requests", "limits"] {
        if let Some(Value::Object(list)) = resources.get_mut(part) {
            list.retain(|name, _| !RESIZABLE.contains(&name.as_str()));
        }
    }
    resources.retain(|_, part| part.as_object().is_none_or(|list| !list.is_empty()));
    container
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::error::join;

    fn pod(resources: Value) -> Value {
        let mut pod = json!({"metadata": {"name": "p", "namespace": "n"},
            "spec": {"containers": [{"name": "c", "image": "i", "resources": resources}]}});
        crate::kinds::defaults::pod::pod(&mut pod);
        pod
    }

    fn said(new: Value, old: Value) -> String {
        join(&update(&pod(new), &pod(old)))
    }

    #[test]
    fn cpu_and_memory_may_change_within_the_class() {
        let old = json!({"requests": {"cpu": "1", "memory": "1Gi"}});
        let new = json!({"requests": {"cpu": "2", "memory": "1Gi"}, "limits": {"memory": "2Gi"}});
        assert_eq!(update(&pod(new), &pod(old.clone())), []);
        let guaranteed = json!({"limits": {"cpu": "2", "memory": "1Gi"}});
        assert_eq!(
            said(guaranteed, old.clone()),
            "spec: Invalid value: \"\": Pod QOS Class may not change as a result of resizing"
        );
        assert_eq!(
            said(json!({"requests": {"cpu": "1"}}), old.clone()),
            "spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed"
        );
        let storage = json!({"requests": {"cpu": "1", "memory": "1Gi", "ephemeral-storage": "1Gi"}});
        assert_eq!(
            said(storage, old),
            "spec: Forbidden: only cpu and memory resources are mutable"
        );
    }

    #[test]
    fn what_the_pod_has_as_a_whole_may_change_too() {
        let own = |resources: Value| {
            let mut pod = pod(json!({"requests": {"cpu": "100m"}}));
            pod["spec"]["resources"] = resources;
            pod
        };
        let old = own(json!({"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}));
        let said = |resources: Value| join(&update(&own(resources), &old));
        let more = own(json!({"requests": {"cpu": "2"}, "limits": {"cpu": "3", "memory": "1Gi"}}));
        assert_eq!(update(&more, &old), []);
        assert_eq!(
            said(json!({"requests": {"cpu": "1"}})),
            "spec.resources.limits: Forbidden: pod-level resource limits cannot be removed"
        );
        assert_eq!(
            join(&update(&pod(json!({"requests": {"cpu": "100m"}})), &old)),
            "spec.resources: Forbidden: pod-level resources cannot be removed"
        );
    }

    /// As upstream 1.36, which looks at the claims of what there was alone.
    #[test]
    fn claims_of_devices_are_no_change_of_their_own() {
        let with = |resources: Value| {
            let mut pod = pod(resources);
            pod["spec"]["resourceClaims"] = json!([{"name": "d", "resourceClaimName": "d"}]);
            pod
        };
        let plain = json!({"requests": {"cpu": "1"}});
        let claims = json!({"requests": {"cpu": "1"}, "claims": [{"name": "d"}]});
        let fixed = "spec: Forbidden: only cpu and memory resources are mutable";
        for (new, old, said) in [
            (&claims, &plain, "[]"),
            (&claims, &claims, fixed),
            (&plain, &claims, fixed),
        ] {
            let errors = update(&with(new.clone()), &with(old.clone()));
            assert_eq!(join(&errors), said, "{new} over {old}");
        }
    }

    #[test]
    fn a_node_that_tells_no_resources_cannot_resize() {
        let mut old = pod(json!({}));
        old["status"] = json!({"qosClass": "BestEffort", "containerStatuses": [{"state": {"running": {}}}]});
        let errors = join(&update(&pod(json!({})), &old));
        assert_eq!(
            errors,
            "spec: Forbidden: Pod running on node without support for resize"
        );
    }
}

//! What a Pod's status says about its life: active, ready, available; and what of a Pod the control plane keeps.
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use serde_json::{Map, Value, json};

/// How a container runs is for the node: most of a Pod's memory.
const OF_THE_NODE: [&str; 15] = [
    "args",
    "command",
    "env",
    "envFrom",
    "imagePullPolicy",
    "lifecycle",
    "livenessProbe",
    "readinessProbe",
    "securityContext",
    "startupProbe",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "volumeDevices",
    "volumeMounts",
    "workingDir",
];
/// Volumes that are claims; only these matter to whom a Pod is given and what is protected.
const CLAIMS: [&str; 2] = ["persistentVolumeClaim", "ephemeral"];

/// The one annotation of Pods that a controller reads: lower is deleted earlier (KEP-2255).
pub const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Takes out of a Pod what neither the scheduler nor any controller reads.
pub fn lighten(pod: &mut Value) {
    if let Some(meta) = pod.get_mut("metadata").and_then(Value::as_object_mut) {
        let cost = meta.remove("annotations");
        let cost = cost
            .as_ref()
            .and_then(|annotations| annotations.get(DELETION_COST));
        if let Some(cost) = cost {
            meta.insert("annotations".into(), json!({ DELETION_COST: cost }));
        }
    }
    let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) else {
        return;
    };
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for container in members(spec, list) {
            OF_THE_NODE.iter().for_each(|key| drop(container.remove(*key)));
            if let Some(resources) = container.get_mut("resources").and_then(Value::as_object_mut) {
                resources.remove("limits");
            }
        }
    }
    if let Some(volumes) = spec.get_mut("volumes").and_then(Value::as_array_mut) {
        volumes.retain(|volume| CLAIMS.iter().any(|key| volume.get(key).is_some()));
        volumes.shrink_to_fit();
    }
}

fn members<'v>(
    spec: &'v mut Map<String, Value>,
    list: &str,
) -> impl Iterator<Item = &'v mut Map<String, Value>> {
    let items = spec.get_mut(list).and_then(Value::as_array_mut);
    items.into_iter().flatten().filter_map(Value::as_object_mut)
}

pub fn phase(pod: &Pod) -> &str {
    pod.status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .unwrap_or("Pending")
}

pub fn node_name(pod: &Pod) -> Option<&str> {
    pod.spec
        .as_ref()
        .and_then(|spec| spec.node_name.as_deref())
        .filter(|name| !name.is_empty())
}

/// Succeeded or Failed: its containers will not run again.
pub fn is_terminal(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

pub fn is_dying(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Neither finished nor on its way out: it counts towards a controller's replicas.
pub fn is_active(pod: &Pod) -> bool {
    !is_terminal(pod) && !is_dying(pod)
}

pub fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<&'a PodCondition> {
    pod.status
        .as_ref()?
        .conditions
        .as_ref()?
        .iter()
        .find(|condition| condition.type_ == type_)
}

pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|ready| ready.status == "True")
}

/// Since when the Pod is ready, if it is.
pub fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let ready = condition(pod, "Ready").filter(|ready| ready.status == "True")?;
    ready.last_transition_time.as_ref().map(|time| time.0)
}

/// When a ready Pod will have been ready for `min_ready_seconds`; `None` for one that is not ready.
pub fn available_at(pod: &Pod, min_ready_seconds: i32) -> Option<Timestamp> {
    if !is_ready(pod) {
        return None;
    }
    if min_ready_seconds <= 0 {
        return Some(Timestamp::MIN);
    }
    ready_since(pod)?
        .checked_add(Duration::from_secs(min_ready_seconds.unsigned_abs().into()))
        .ok()
}

pub fn is_available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> bool {
    available_at(pod, min_ready_seconds).is_some_and(|at| at <= now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_light_pod_still_says_what_it_asks_for() {
        let annotations = json!({DELETION_COST: "3", "other": "x"});
        let mut pod = json!({"metadata": {"name": "p", "annotations": annotations}, "spec": {
            "containers": [{"name": "c", "image": "i", "env": [{"name": "A"}], "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "2"}},
                "ports": [{"containerPort": 80, "name": "http"}], "livenessProbe": {}}],
            "initContainers": [{"name": "i", "restartPolicy": "Always", "command": ["x"]}],
            "volumes": [{"name": "a", "emptyDir": {}}, {"name": "b", "persistentVolumeClaim": {"claimName": "c"}}],
        }});
        lighten(&mut pod);
        assert_eq!(
            pod,
            json!({"metadata": {"name": "p", "annotations": {DELETION_COST: "3"}}, "spec": {
                "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "1"}},
                    "ports": [{"containerPort": 80, "name": "http"}]}],
                "initContainers": [{"name": "i", "restartPolicy": "Always"}],
                "volumes": [{"name": "b", "persistentVolumeClaim": {"claimName": "c"}}],
            }})
        );
    }
}

//! What the scheduler writes: the binding, and the condition of a Pod that fits nowhere.
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Binding, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::{Client, ResourceExt};
use serde_json::json;

use crate::toolkit::patch::to_value;
use crate::toolkit::{Objects, Pod, StepError, Steps, pods};

/// Assigns the Pod to the node (`pods/binding`); the uid keeps a successor of the same name from being bound instead.
pub async fn bind(client: &Client, pod: &Pod, node: &str) -> Result<(), StepError> {
    let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
    let binding = Binding {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(namespace.clone()),
            uid: pod.uid(),
            ..Default::default()
        },
        target: ObjectReference {
            kind: Some("Node".into()),
            name: Some(node.to_owned()),
            ..Default::default()
        },
    };
    let api: Objects<Pod> = Objects::in_namespace(client, &namespace);
    api.post("binding", &name, &to_value(&binding))
        .await
        .step(|| format!("bind Pod {namespace}/{name} to {node}"))
}

/// Sets `PodScheduled` to False with the reason and the message, unless it says so already.
pub async fn write_condition(
    client: &Client,
    pod: &Pod,
    reason: &str,
    message: &str,
) -> Result<(), StepError> {
    let known = pods::condition(pod, "PodScheduled");
    let same = |known: &k8s_openapi::api::core::v1::PodCondition| {
        known.status == "False"
            && known.reason.as_deref() == Some(reason)
            && known.message.as_deref() == Some(message)
    };
    if known.is_some_and(same) {
        return Ok(());
    }
    let since = known
        .filter(|known| known.status == "False")
        .and_then(|known| known.last_transition_time.clone());
    let condition = json!({
        "type": "PodScheduled",
        "status": "False",
        "reason": reason,
        "message": message,
        "lastProbeTime": null,
        "lastTransitionTime": since.unwrap_or_else(|| Time(Timestamp::now())),
        "observedGeneration": pod.metadata.generation,
    });
    let patch = json!({"metadata": {"uid": pod.uid()}, "status": {"conditions": [condition]}});
    let api: Objects<Pod> = Objects::in_namespace(client, &pod.namespace().unwrap_or_default());
    let name = pod.name_any();
    api.strategic_status(&name, patch)
        .await
        .step_opt(|| format!("write the PodScheduled condition of {name}"))
        .map(drop)
}

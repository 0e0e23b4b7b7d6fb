//! What the scheduler writes: the binding, and the condition of a Pod that fits nowhere.
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Binding, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use crate::toolkit::{StepError, Steps, pods};

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
    let api: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let answer: Result<Value, kube::Error> = api
        .create_subresource("binding", &name, &PostParams::default(), &binding)
        .await;
    answer
        .step(|| format!("bind Pod {namespace}/{name} to {node}"))
        .map(drop)
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
    let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let name = pod.name_any();
    api.patch_status(&name, &PatchParams::default(), &Patch::Strategic(patch))
        .await
        .step_opt(|| format!("write the PodScheduled condition of {name}"))
        .map(drop)
}

//! The condition that tells why a Pod was taken away by the control plane (KEP-3329).
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Client;
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::toolkit::{Objects, Pod, StepError, Steps, pods};

/// Sets `DisruptionTarget` on the Pod, and its phase when it cannot end by itself any more.
pub async fn mark(
    client: &Client,
    pod: &Pod,
    reason: &str,
    message: &str,
    failed: bool,
) -> Result<(), StepError> {
    if pods::condition(pod, "DisruptionTarget").is_some_and(|known| known.status == "True") {
        return if failed { fail(client, pod).await } else { Ok(()) };
    }
    let mut status = json!({"conditions": [condition(pod, "DisruptionTarget", "True", reason, message)]});
    if failed && !pods::is_terminal(pod) {
        status["phase"] = json!("Failed");
    }
    write(client, pod, status).await
}

/// Sets the phase of a Pod that cannot end by itself any more.
pub async fn fail(client: &Client, pod: &Pod) -> Result<(), StepError> {
    match pods::is_terminal(pod) {
        true => Ok(()),
        false => write(client, pod, json!({"phase": "Failed"})).await,
    }
}

/// Sets the Pod's `Ready` to False because its node is silent.
pub async fn mark_unready(client: &Client, pod: &Pod) -> Result<(), StepError> {
    let mut ready = condition(pod, "Ready", "False", "", "");
    if let Some(known) = pods::condition(pod, "Ready") {
        (ready["reason"], ready["message"]) = (json!(known.reason), json!(known.message));
    }
    write(client, pod, json!({"conditions": [ready]})).await
}

fn condition(pod: &Pod, type_: &str, status: &str, reason: &str, message: &str) -> Value {
    json!({
        "type": type_, "status": status, "reason": reason, "message": message,
        "lastProbeTime": null, "lastTransitionTime": Time(Timestamp::now()),
        "observedGeneration": pod.metadata.generation,
    })
}

async fn write(client: &Client, pod: &Pod, status: Value) -> Result<(), StepError> {
    let name = pod.name_any();
    let api: Objects<Pod> = Objects::in_namespace(client, &pod.namespace().unwrap_or_default());
    let body = json!({"metadata": {"uid": pod.uid()}, "status": status});
    api.strategic_status(&name, body)
        .await
        .step_opt(|| format!("write the conditions of Pod {name}"))
        .map(drop)
}

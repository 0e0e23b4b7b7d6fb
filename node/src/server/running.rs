//! What `/runningpods/` shows: the Pods that run here, with those of their containers that do, as upstream's runtime knows them: by
//! name and image alone.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use serde_json::{Value, json};

/// A PodList of what runs, by the status last reported.
pub fn running(pods: &[Arc<Pod>]) -> Value {
    let items: Vec<Value> = pods.iter().filter_map(|pod| shown(pod)).collect();
    json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})
}

fn shown(pod: &Pod) -> Option<Value> {
    let status = pod.status.as_ref()?;
    let all = [
        &status.init_container_statuses,
        &status.container_statuses,
        &status.ephemeral_container_statuses,
    ];
    let runs = |status: &&ContainerStatus| status.state.as_ref().is_some_and(|s| s.running.is_some());
    let all = all.into_iter().flat_map(|statuses| statuses.iter().flatten());
    let containers: Vec<Value> = all
        .filter(runs)
        .map(|c| json!({"name": c.name, "image": c.image_id, "resources": {}}))
        .collect();
    let meta = &pod.metadata;
    (!containers.is_empty()).then(|| {
        json!({
            "metadata": {"name": meta.name, "namespace": meta.namespace, "uid": meta.uid},
            "spec": {"containers": containers},
            "status": {},
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_runs_is_shown() {
        let status = |name: &str, state: &str| {
            json!({"name": name, "image": "i", "imageID": "i@sha256:1", "ready": true, "restartCount": 0,
                "state": {state: {}}})
        };
        let pod = |name: &str, statuses: Value| -> Arc<Pod> {
            let pod = json!({"metadata": {"name": name, "namespace": "n", "uid": "u"},
                "spec": {"containers": []}, "status": statuses});
            Arc::new(serde_json::from_value(pod).unwrap())
        };
        let pods = [
            pod("new", json!({})),
            pod("over", json!({"containerStatuses": [status("c", "terminated")]})),
            pod(
                "runs",
                json!({"initContainerStatuses": [status("side", "running")],
                    "containerStatuses": [status("c", "running"), status("d", "waiting")]}),
            ),
        ];
        let shown = |name: &str| json!({"name": name, "image": "i@sha256:1", "resources": {}});
        assert_eq!(
            running(&pods)["items"],
            json!([{"metadata": {"name": "runs", "namespace": "n", "uid": "u"},
                "spec": {"containers": [shown("side"), shown("c")]}, "status": {}}])
        );
    }
}

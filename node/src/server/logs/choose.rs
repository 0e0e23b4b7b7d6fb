//! Which attempt of a container a log request means, or why there is none to read. Pure.

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod};

/// Whether the Pod's spec has such a container, of any kind.
pub fn has_container(pod: &Pod, name: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let ephemeral = spec.ephemeral_containers.iter().flatten().any(|c| c.name == name);
    let others = spec.init_containers.iter().flatten().chain(&spec.containers);
    ephemeral || others.into_iter().any(|c| c.name == name)
}

/// The id, without scheme, of the attempt to read. The words of errors are upstream's.
pub fn choose<'a>(pod: &'a Pod, container: &str, previous: bool) -> Result<&'a str, String> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let status = status(pod, container)
        .ok_or_else(|| format!("container {container:?} in pod {name:?} is not available"))?;
    let last = status.last_state.as_ref().and_then(terminated);
    if previous {
        return last
            .ok_or_else(|| format!("previous terminated container {container:?} in pod {name:?} not found"));
    }
    let state = status.state.clone().unwrap_or_default();
    if state.running.is_some() || state.terminated.is_some() {
        let own = status
            .container_id
            .as_deref()
            .map(bare)
            .filter(|id| !id.is_empty());
        let ended = status.state.as_ref().and_then(terminated);
        return ended.or(own).or(last).ok_or_else(|| waits(container, name, None));
    }
    // In between two attempts the one that ended is what there is to read.
    last.ok_or_else(|| waits(container, name, state.waiting.and_then(|w| w.reason).as_deref()))
}

fn waits(container: &str, pod: &str, reason: Option<&str>) -> String {
    let subject = format!("container {container:?} in pod {pod:?} is waiting to start");
    match reason {
        None => format!("{subject} - no logs yet"),
        Some("ErrImagePull") => format!("{subject}: image can't be pulled"),
        Some("ImagePullBackOff") => format!("{subject}: trying and failing to pull image"),
        Some(reason) => format!("{subject}: {reason}"),
    }
}

fn status<'a>(pod: &'a Pod, container: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let all = [
        &status.container_statuses,
        &status.init_container_statuses,
        &status.ephemeral_container_statuses,
    ];
    all.into_iter().flatten().flatten().find(|s| s.name == container)
}

fn terminated(state: &ContainerState) -> Option<&str> {
    let id = state.terminated.as_ref()?.container_id.as_deref()?;
    Some(bare(id)).filter(|id| !id.is_empty())
}

/// An id without the `scheme://` in front.
fn bare(id: &str) -> &str {
    id.split_once("://").map_or(id, |(_, id)| id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(state: Value, last: Value, id: &str) -> Pod {
        let status = json!({"name": "c", "ready": false, "restartCount": 0, "image": "", "imageID": "",
            "containerID": id, "state": state, "lastState": last});
        serde_json::from_value(
            json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}],
            "initContainers": [{"name": "i"}]}, "status": {"containerStatuses": [status]}}),
        )
        .unwrap()
    }

    fn ended(id: &str) -> Value {
        json!({"terminated": {"exitCode": 1, "containerID": id}})
    }

    fn waiting(reason: &str) -> Value {
        json!({"waiting": {"reason": reason}})
    }

    #[test]
    fn the_attempt_is_the_one_that_runs_or_ended_last() {
        let running = json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}});
        for (state, last, id, previous, expected) in [
            (running.clone(), json!({}), "amphipod://b", false, Ok("b")),
            (
                running.clone(),
                ended("amphipod://a"),
                "amphipod://b",
                true,
                Ok("a"),
            ),
            (
                running,
                json!({}),
                "amphipod://b",
                true,
                Err("previous terminated container \"c\" in pod \"p\" not found"),
            ),
            (
                ended("amphipod://b"),
                ended("amphipod://a"),
                "amphipod://b",
                false,
                Ok("b"),
            ),
            (
                waiting("CrashLoopBackOff"),
                ended("x://a"),
                "x://a",
                false,
                Ok("a"),
            ),
            (
                waiting("ContainerCreating"),
                json!({}),
                "",
                false,
                Err("container \"c\" in pod \"p\" is waiting to start: ContainerCreating"),
            ),
            (
                waiting("ErrImagePull"),
                json!({}),
                "",
                false,
                Err("container \"c\" in pod \"p\" is waiting to start: image can't be pulled"),
            ),
            (
                waiting("ImagePullBackOff"),
                json!({}),
                "",
                false,
                Err("container \"c\" in pod \"p\" is waiting to start: trying and failing to pull image"),
            ),
            (
                json!({}),
                json!({}),
                "",
                false,
                Err("container \"c\" in pod \"p\" is waiting to start - no logs yet"),
            ),
        ] {
            let pod = pod(state, last, id);
            assert_eq!(choose(&pod, "c", previous), expected.map_err(str::to_owned));
        }
    }

    #[test]
    fn containers_without_a_status_and_unknown_ones_differ() {
        let pod = pod(json!({}), json!({}), "");
        assert!(has_container(&pod, "i") && has_container(&pod, "c") && !has_container(&pod, "../c"));
        assert_eq!(
            choose(&pod, "i", false).unwrap_err(),
            "container \"i\" in pod \"p\" is not available"
        );
    }
}

//! What the API remembers of containers whose records this host has lost (`amphipod down`, another disk): they
//! ended, nobody knows how. Without it a Pod that must not run twice would. Pure.

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus};

use super::record::{Exit, Record, RuntimeKind, State};
use super::status::{CONTAINER_ID_SCHEME, UNKNOWN_EXIT_CODE, UNKNOWN_MESSAGE, UNKNOWN_REASON};
use super::view::PodView;

/// A record for every container of the Pod's status that has run, but not on record here.
pub fn lost_records(pod: PodView<'_>, known: &[Record]) -> Vec<Record> {
    let Some(status) = &pod.pod.status else {
        return Vec::new();
    };
    let all = status
        .init_container_statuses
        .iter()
        .chain(&status.container_statuses)
        .chain(&status.ephemeral_container_statuses)
        .flatten();
    let unknown = all.filter(|s| known.iter().all(|record| record.container != s.name));
    unknown.filter_map(|s| lost(pod, s)).collect()
}

fn lost(pod: PodView<'_>, status: &ContainerStatus) -> Option<Record> {
    let id = status
        .container_id
        .as_deref()?
        .strip_prefix(CONTAINER_ID_SCHEME)?;
    Some(Record {
        id: id.to_owned(),
        pod_uid: pod.uid().to_owned(),
        pod_namespace: pod.namespace().to_owned(),
        pod_name: pod.name().to_owned(),
        container: status.name.clone(),
        attempt: u32::try_from(status.restart_count).unwrap_or(0),
        image: status.image.clone(),
        image_id: status.image_id.clone(),
        runtime: RuntimeKind::Native,
        user: None,
        address: None,
        stop_signal: 0,
        log_path: Default::default(),
        spec_hash: String::new(),
        resources: None,
        pod_resources: None,
        boot_id: String::new(),
        created_at: started(status.state.as_ref()).unwrap_or_default(),
        state: State::Exited(end(status)),
    })
}

fn started(state: Option<&ContainerState>) -> Option<jiff::Timestamp> {
    let state = state?;
    let running = state.running.as_ref().and_then(|r| r.started_at.as_ref());
    running
        .or(state.terminated.as_ref().and_then(|t| t.started_at.as_ref()))
        .map(|t| t.0)
}

/// The end the API knows, or the one nobody saw.
fn end(status: &ContainerStatus) -> Exit {
    let terminated = |state: &Option<ContainerState>| state.as_ref().and_then(|s| s.terminated.clone());
    let is_running = status.state.as_ref().is_some_and(|s| s.running.is_some());
    let known = terminated(&status.state).or_else(|| terminated(&status.last_state).filter(|_| !is_running));
    match known {
        Some(ended) => Exit {
            started_at: ended.started_at.map(|t| t.0),
            finished_at: ended.finished_at.map(|t| t.0),
            exit_code: ended.exit_code,
            reason: ended.reason.unwrap_or_default(),
            message: ended.message,
        },
        None => Exit {
            started_at: started(status.state.as_ref()),
            finished_at: None,
            exit_code: UNKNOWN_EXIT_CODE,
            reason: UNKNOWN_REASON.into(),
            message: Some(UNKNOWN_MESSAGE.into()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};

    fn ends(statuses: Value) -> Vec<(String, u32, i32, String)> {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"containers": [{"name": "a"}]}, "status": {"containerStatuses": statuses}}))
            .unwrap();
        let found = lost_records(PodView::new(&pod).unwrap(), &[]);
        let end = |r: &Record| r.exit().map(|e| (e.exit_code, e.reason.clone())).unwrap();
        found
            .iter()
            .map(|r| (r.id.clone(), r.attempt, end(r).0, end(r).1))
            .collect()
    }

    fn status(id: Value, state: Value, last: Value) -> Value {
        json!([{"name": "a", "image": "i", "imageID": "", "ready": true, "restartCount": 3,
            "containerID": id, "state": state, "lastState": last}])
    }

    #[test]
    fn what_ran_has_ended() {
        let id = json!("amphipod://x");
        let over = json!({"terminated": {"exitCode": 5, "reason": "Error"}});
        for (state, last, code, reason) in [
            (json!({"running": {}}), json!({}), 137, "ContainerStatusUnknown"),
            (
                json!({"running": {}}),
                over.clone(),
                137,
                "ContainerStatusUnknown",
            ),
            (over.clone(), json!({}), 5, "Error"),
            (
                json!({"waiting": {"reason": "CrashLoopBackOff"}}),
                over.clone(),
                5,
                "Error",
            ),
        ] {
            let found = ends(status(id.clone(), state.clone(), last.clone()));
            assert_eq!(
                found,
                [("x".to_owned(), 3, code, reason.to_owned())],
                "{state} {last}"
            );
        }
    }

    #[test]
    fn what_never_ran_is_not_made_up() {
        assert_eq!(ends(status(Value::Null, json!({"waiting": {}}), json!({}))), []);
    }
}

//! When an applied object is what its manifest asked for, and what to say until then. Refuses to know who makes it so.

use std::time::Duration;

use anyhow::{Context, Result};
use futures::TryStreamExt;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition};
use kube::ResourceExt;
use kube::api::DynamicObject;
use kube::runtime::watcher::watch_object;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::apply::Applied;
use crate::progress::{Progress, Task};

/// How long `up` watches before it says what is not ready yet; the cluster goes on trying after that.
const PATIENCE: Duration = Duration::from_secs(180);

/// How long a running Pod that may end (`restartPolicy` other than Always) is given to do so before it counts as ready.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// How far an object is.
#[derive(Debug, PartialEq, Eq)]
pub enum Stage {
    Waiting(String),
    /// It runs, and may be about to end: a Job-like Pod.
    Running,
    Ready(String),
}

/// Watches the objects side by side until each is ready. Returns the names of those that are not in time.
pub async fn wait(applied: &[Applied], progress: &Progress) -> Result<Vec<String>> {
    let watches = applied
        .iter()
        .filter(|applied| stage(&applied.resource.kind, &applied.object).is_some());
    let outcomes = futures::future::join_all(watches.map(|applied| wait_one(applied, progress))).await;
    Ok(outcomes
        .into_iter()
        .collect::<Result<Vec<_>>>()?
        .into_iter()
        .flatten()
        .collect())
}

async fn wait_one(applied: &Applied, progress: &Progress) -> Result<Option<String>> {
    let title = format!("{} {}", applied.resource.kind, applied.object.name_any());
    let mut task = progress.task(title.clone());
    match tokio::time::timeout(PATIENCE, follow(applied, &title, &mut task)).await {
        Ok(how) => {
            task.done(&how?);
            Ok(None)
        }
        Err(_elapsed) => {
            task.done("not ready yet");
            Ok(Some(title))
        }
    }
}

/// The last word on an object, when it can be said.
async fn follow(applied: &Applied, title: &str, task: &mut Task) -> Result<String> {
    let mut states = std::pin::pin!(watch_object(applied.api.clone(), &applied.object.name_any()));
    let mut deadline = None;
    loop {
        let next = match deadline {
            None => states.try_next().await,
            Some(deadline) => match tokio::time::timeout_at(deadline, states.try_next()).await {
                Ok(next) => next,
                Err(_elapsed) => return Ok("running".into()),
            },
        };
        let Some(object) = next.with_context(|| format!("watching {title}"))? else {
            return Ok("gone".into());
        };
        match object.and_then(|object| stage(&applied.resource.kind, &object)) {
            Some(Stage::Waiting(why)) => task.update(&why),
            Some(Stage::Running) => deadline = deadline.or(Some(Instant::now() + LAST_WORDS)),
            Some(Stage::Ready(how)) => return Ok(how),
            None => {}
        }
    }
}

/// `None` for kinds that have nothing to wait for.
fn stage(kind: &str, object: &DynamicObject) -> Option<Stage> {
    match kind {
        "Deployment" => typed(object).map(|deployment| deployment_stage(&deployment)),
        "ReplicaSet" => typed(object).map(|set| replica_set_stage(&set)),
        "Pod" => typed(object).map(|pod| pod_stage(&pod)),
        _ => None,
    }
}

fn typed<T: DeserializeOwned>(object: &DynamicObject) -> Option<T> {
    serde_json::to_value(object)
        .ok()
        .and_then(|value| serde_json::from_value(value).ok())
}

/// As `kubectl rollout status` sees it.
fn deployment_stage(deployment: &Deployment) -> Stage {
    let wanted = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1);
    let status = deployment.status.clone().unwrap_or_default();
    let seen = status.observed_generation >= deployment.metadata.generation;
    let (updated, available) = (
        status.updated_replicas.unwrap_or(0),
        status.available_replicas.unwrap_or(0),
    );
    replicas_stage(wanted, if seen { updated.min(available) } else { 0 })
}

fn replica_set_stage(set: &ReplicaSet) -> Stage {
    let wanted = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    replicas_stage(
        wanted,
        set.status
            .as_ref()
            .and_then(|status| status.available_replicas)
            .unwrap_or(0),
    )
}

fn replicas_stage(wanted: i32, ready: i32) -> Stage {
    match ready >= wanted {
        true => Stage::Ready(format!("{ready}/{wanted} ready")),
        false => Stage::Waiting(format!("{ready}/{wanted} ready")),
    }
}

fn pod_stage(pod: &Pod) -> Stage {
    let status = pod.status.clone().unwrap_or_default();
    let containers = status.container_statuses.unwrap_or_default();
    let phase = status.phase.as_deref().unwrap_or("Pending");
    let may_end = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.restart_policy.as_deref())
        .is_some_and(|policy| policy != "Always");
    let conditions = status.conditions.unwrap_or_default();
    let ready = conditions
        .iter()
        .any(|c| c.type_ == "Ready" && c.status == "True");
    match phase {
        "Succeeded" | "Failed" => Stage::Ready(ended(phase, &containers)),
        "Running" if ready && may_end => Stage::Running,
        "Running" if ready => Stage::Ready("ready".into()),
        _ => Stage::Waiting(
            containers
                .iter()
                .find_map(waiting_reason)
                .or_else(|| unscheduled(&conditions))
                .unwrap_or_else(|| phase.to_owned()),
        ),
    }
}

/// The scheduler's words on a Pod that it has no node for.
fn unscheduled(conditions: &[PodCondition]) -> Option<String> {
    let scheduled = conditions
        .iter()
        .find(|c| c.type_ == "PodScheduled" && c.status == "False")?;
    let reason = scheduled.reason.as_deref()?;
    Some(match &scheduled.message {
        Some(message) => format!("{reason}: {message}"),
        None => reason.to_owned(),
    })
}

fn ended(phase: &str, containers: &[ContainerStatus]) -> String {
    let codes = containers.iter().filter_map(|container| {
        let ended = container.state.as_ref()?.terminated.as_ref()?;
        Some(format!(
            "{} ended with exit code {}",
            container.name, ended.exit_code
        ))
    });
    format!("{phase}: {}", codes.collect::<Vec<_>>().join(", "))
}

fn waiting_reason(container: &ContainerStatus) -> Option<String> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.as_deref()?;
    Some(match &waiting.message {
        Some(message) => format!("{}: {reason}: {message}", container.name),
        None => format!("{}: {reason}", container.name),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn stage_of(object: serde_json::Value) -> Option<Stage> {
        let kind = object["kind"].as_str().unwrap().to_owned();
        stage(&kind, &serde_json::from_value(object).unwrap())
    }

    #[test]
    fn deployments_are_ready_when_the_new_pods_are_available() {
        let deployment = |observed, updated, available| {
            stage_of(
                json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "generation": 2},
                "spec": {"replicas": 3, "selector": {}, "template": {}},
                "status": {"observedGeneration": observed, "updatedReplicas": updated, "availableReplicas": available}}),
            )
        };
        assert_eq!(deployment(2, 3, 3), Some(Stage::Ready("3/3 ready".into())));
        assert_eq!(deployment(2, 1, 3), Some(Stage::Waiting("1/3 ready".into())));
        assert_eq!(deployment(1, 3, 3), Some(Stage::Waiting("0/3 ready".into())));
    }

    #[test]
    fn pods_say_why_they_wait_and_how_they_ended() {
        let pod = |status| {
            stage_of(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "status": status}))
        };
        let container = |state| json!({"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state});
        let waiting = container(json!({"waiting": {"reason": "ErrImagePull", "message": "no"}}));
        let failed = container(json!({"terminated": {"exitCode": 3}}));
        assert_eq!(pod(json!({})), Some(Stage::Waiting("Pending".into())));
        assert_eq!(
            pod(json!({"phase": "Pending", "containerStatuses": [waiting]})),
            Some(Stage::Waiting("c: ErrImagePull: no".into()))
        );
        let unscheduled = json!([{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}]);
        assert_eq!(
            pod(json!({"phase": "Pending", "conditions": unscheduled})),
            Some(Stage::Waiting("Unschedulable: 0/1 nodes".into()))
        );
        assert_eq!(
            pod(json!({"phase": "Failed", "containerStatuses": [failed]})),
            Some(Stage::Ready("Failed: c ended with exit code 3".into()))
        );
        assert_eq!(
            pod(json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]})),
            Some(Stage::Ready("ready".into()))
        );
    }
}

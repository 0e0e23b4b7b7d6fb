//! The status of a set from its Pods.
use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::kind::Replicated;
use super::scale::Failure;
use crate::toolkit::{Pod, pods, selectors};

/// Pods asked for; the API defaults it to 1.
pub fn replicas(set: &impl Replicated) -> i32 {
    set.wanted().unwrap_or(1)
}

pub fn compute<K: Replicated>(
    set: &K,
    claimed: &[Arc<Pod>],
    failure: Option<&Failure>,
    now: Timestamp,
) -> ReplicaSetStatus {
    let min_ready = set.min_ready_seconds().unwrap_or(0);
    let labels = template_labels(set);
    let active: Vec<&Arc<Pod>> = claimed.iter().filter(|pod| pods::is_active(pod)).collect();
    let count = |wanted: &dyn Fn(&Pod) -> bool| to_i32(active.iter().filter(|pod| wanted(pod)).count());
    ReplicaSetStatus {
        replicas: to_i32(active.len()),
        fully_labeled_replicas: nonzero(count(&|pod| selectors::contains_all(&pod.metadata, &labels))),
        ready_replicas: nonzero(count(&|pod| pods::is_ready(pod))),
        available_replicas: nonzero(count(&|pod| pods::is_available(pod, min_ready, now))),
        terminating_replicas: K::COUNTS_DYING
            .then(|| to_i32(claimed.iter().filter(|pod| pods::is_dying(pod)).count())),
        observed_generation: set.meta().generation,
        conditions: conditions(set, failure, now),
    }
}

fn template_labels(set: &impl Replicated) -> BTreeMap<String, String> {
    let labels = set
        .template()
        .and_then(|template| template.metadata.as_ref()?.labels.clone());
    labels.unwrap_or_default()
}

/// Sets ReplicaFailure while Pods cannot be created or deleted, and removes it once they can.
fn conditions(
    set: &impl Replicated,
    failure: Option<&Failure>,
    now: Timestamp,
) -> Option<Vec<ReplicaSetCondition>> {
    let mut conditions = set
        .status()
        .and_then(|status| status.conditions)
        .unwrap_or_default();
    let known = conditions
        .iter()
        .any(|condition| condition.type_ == "ReplicaFailure");
    match failure {
        Some(failure) if !known => conditions.push(ReplicaSetCondition {
            type_: "ReplicaFailure".into(),
            status: "True".into(),
            reason: Some(failure.reason.into()),
            message: Some(failure.error.message()),
            last_transition_time: Some(Time(now)),
        }),
        Some(_) => {}
        None => conditions.retain(|condition| condition.type_ != "ReplicaFailure"),
    }
    (!conditions.is_empty()).then_some(conditions)
}

fn to_i32(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// Upstream omits these counts when they are 0.
fn nonzero(count: i32) -> Option<i32> {
    (count != 0).then_some(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::apps::v1::ReplicaSet;
    use k8s_openapi::api::core::v1::ReplicationController;
    use serde_json::{Value, json};

    fn set(status: Value) -> ReplicaSet {
        serde_json::from_value(json!({
            "metadata": {"name": "rs", "generation": 3},
            "spec": {"replicas": 3, "minReadySeconds": 10, "selector": {"matchLabels": {"app": "x"}},
                "template": {"metadata": {"labels": {"app": "x", "v": "1"}}, "spec": {"containers": []}}},
            "status": status
        }))
        .expect("a ReplicaSet")
    }

    fn pod(details: Value) -> Arc<Pod> {
        let mut base =
            json!({"metadata": {"labels": {"app": "x", "v": "1"}}, "status": {"phase": "Running"}});
        json_patch::merge(&mut base, &details);
        Arc::new(serde_json::from_value(base).expect("a pod"))
    }

    fn ready_since(time: &str) -> Value {
        json!({"status": {"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": time}]}})
    }

    #[test]
    fn counts_come_from_active_pods() {
        let now = "2026-01-01T00:01:00Z".parse().expect("a time");
        let pods = [
            pod(ready_since("2026-01-01T00:00:00Z")),
            pod(ready_since("2026-01-01T00:00:55Z")),
            pod(json!({"metadata": {"labels": {"v": "2"}}})),
            pod(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})),
        ];
        let status = compute(&set(json!({"replicas": 0})), &pods, None, now);
        let expected = ReplicaSetStatus {
            replicas: 3,
            fully_labeled_replicas: Some(2),
            ready_replicas: Some(2),
            available_replicas: Some(1),
            terminating_replicas: Some(1),
            observed_generation: Some(3),
            conditions: None,
        };
        assert_eq!(status, expected);
    }

    #[test]
    fn a_failure_is_a_condition_until_it_ends() {
        let error = StepErrorFixture::refused();
        let failure = Failure {
            reason: "FailedCreate",
            error,
        };
        let now = Timestamp::UNIX_EPOCH;
        let failed = compute(&set(json!({"replicas": 0})), &[], Some(&failure), now);
        let condition = &failed.conditions.as_ref().expect("a condition")[0];
        assert_eq!(condition.reason.as_deref(), Some("FailedCreate"));
        assert_eq!(condition.message.as_deref(), Some("quota exceeded"));
        let healed = compute(&set(serde_json::to_value(&failed).expect("json")), &[], None, now);
        assert_eq!(healed.conditions, None);
    }

    #[test]
    fn a_replication_controller_says_what_its_kind_can() {
        let mut object = serde_json::to_value(set(json!({"replicas": 1}))).expect("json");
        object["kind"] = "ReplicationController".into();
        object["apiVersion"] = "v1".into();
        object["spec"]["selector"] = json!({"app": "x"});
        object["status"]["conditions"] = json!([
            {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "m"}, {"type": "Own", "status": "True"}]);
        let controller: ReplicationController =
            serde_json::from_value(object).expect("a ReplicationController");
        let pods = [
            pod(ready_since("2026-01-01T00:00:00Z")),
            pod(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})),
        ];
        let now = "2026-01-01T00:01:00Z".parse().expect("a time");
        let status = serde_json::to_value(compute(&controller, &pods, None, now)).expect("json");
        let expected = json!({"replicas": 1, "fullyLabeledReplicas": 1, "readyReplicas": 1, "availableReplicas": 1,
            "observedGeneration": 3, "conditions": [{"type": "Own", "status": "True"}]});
        assert_eq!(status, expected);
        assert!(
            controller
                .selector()
                .is_some_and(|selector| selector.matches(&pods[0].metadata))
        );
    }

    struct StepErrorFixture;

    impl StepErrorFixture {
        fn refused() -> crate::toolkit::StepError {
            let status = kube::core::Status::failure("quota exceeded", "Forbidden").with_code(403);
            crate::toolkit::StepError::new("create a Pod", kube::Error::Api(Box::new(status)))
        }
    }
}

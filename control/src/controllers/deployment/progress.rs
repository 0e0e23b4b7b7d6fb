//! The status of a Deployment: counts, and the conditions Available, Progressing and ReplicaFailure in upstream's words.
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet, ReplicaSetStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::spec;

pub const AVAILABLE: &str = "Available";
pub const PROGRESSING: &str = "Progressing";
pub const REPLICA_FAILURE: &str = "ReplicaFailure";
const COMPLETE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";

pub fn condition(
    type_: &str,
    status: &str,
    reason: &str,
    message: String,
    now: Timestamp,
) -> DeploymentCondition {
    DeploymentCondition {
        type_: type_.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message),
        last_update_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    }
}

pub fn find<'a>(status: &'a DeploymentStatus, type_: &str) -> Option<&'a DeploymentCondition> {
    status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == type_)
}

/// Sets a condition; one with the same status and reason is left as it is, one with the same status keeps the time of
/// its transition.
pub fn set(status: &mut DeploymentStatus, mut condition: DeploymentCondition) {
    if let Some(known) = find(status, &condition.type_) {
        if known.status == condition.status && known.reason == condition.reason {
            return;
        }
        if known.status == condition.status {
            condition.last_transition_time = known.last_transition_time.clone();
        }
    }
    remove(status, &condition.type_);
    status.conditions.get_or_insert_default().push(condition);
}

pub fn remove(status: &mut DeploymentStatus, type_: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|condition| condition.type_ != type_);
    }
    status.conditions.take_if(|conditions| conditions.is_empty());
}

/// Notes that a rollout was paused or resumed, so that the time it was paused does not count against its deadline.
pub fn note_pause(deployment: &Deployment, status: &mut DeploymentStatus, now: Timestamp) {
    if spec::progress_deadline(deployment).is_none() {
        return;
    }
    let reason = find(status, PROGRESSING)
        .and_then(|known| known.reason.clone())
        .unwrap_or_default();
    match (spec::paused(deployment), reason.as_str()) {
        (_, TIMED_OUT) | (true, PAUSED) => {}
        (true, _) => set(
            status,
            condition(PROGRESSING, "Unknown", PAUSED, "Deployment is paused".into(), now),
        ),
        (false, PAUSED) => {
            let resumed = condition(
                PROGRESSING,
                "Unknown",
                "DeploymentResumed",
                "Deployment is resumed".into(),
                now,
            );
            set(status, resumed);
        }
        (false, _) => {}
    }
}

/// Counts and availability from the ReplicaSets, keeping the other conditions of `before`.
pub fn calculate(
    deployment: &Deployment,
    before: &DeploymentStatus,
    all: &[&ReplicaSet],
    new: Option<&ReplicaSet>,
    now: Timestamp,
) -> DeploymentStatus {
    let sum = |field: fn(&ReplicaSetStatus) -> i32| -> i32 {
        all.iter().filter_map(|set| set.status.as_ref()).map(field).sum()
    };
    let available = sum(|status| status.available_replicas.unwrap_or(0));
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: nonzero(sum(|status| status.replicas)),
        updated_replicas: nonzero(new.map_or(0, spec::actual)),
        ready_replicas: nonzero(sum(|status| status.ready_replicas.unwrap_or(0))),
        available_replicas: nonzero(available),
        unavailable_replicas: nonzero((spec::total_size(all.iter().copied()) - available).max(0)),
        terminating_replicas: Some(sum(|status| status.terminating_replicas.unwrap_or(0))),
        collision_count: before.collision_count,
        conditions: before.conditions.clone(),
    };
    let enough = available >= spec::replicas(deployment) - spec::max_unavailable(deployment);
    let (value, reason, message) = if enough {
        (
            "True",
            "MinimumReplicasAvailable",
            "Deployment has minimum availability.",
        )
    } else {
        (
            "False",
            "MinimumReplicasUnavailable",
            "Deployment does not have minimum availability.",
        )
    };
    set(
        &mut status,
        condition(AVAILABLE, value, reason, message.into(), now),
    );
    status
}

/// Upstream omits these counts when they are 0.
fn nonzero(count: i32) -> Option<i32> {
    (count != 0).then_some(count)
}

/// Moves Progressing and ReplicaFailure on: `before` is the status as the API has it, `status` as it will be.
pub fn judge(
    deployment: &Deployment,
    before: &DeploymentStatus,
    status: &mut DeploymentStatus,
    all: &[&ReplicaSet],
    new: Option<&ReplicaSet>,
    now: Timestamp,
) {
    let subject = match new {
        Some(new) => format!("ReplicaSet {:?}", new.name_any()),
        None => format!("Deployment {:?}", deployment.name_any()),
    };
    let known = find(before, PROGRESSING).cloned();
    if spec::progress_deadline(deployment).is_none() {
        remove(status, PROGRESSING);
    } else if !was_complete(status, known.as_ref()) {
        match phase(deployment, before, status, now) {
            Phase::Complete => {
                let message = format!("{subject} has successfully progressed.");
                set(status, condition(PROGRESSING, "True", COMPLETE, message, now));
            }
            Phase::Progressing => {
                let mut progress = condition(
                    PROGRESSING,
                    "True",
                    "ReplicaSetUpdated",
                    format!("{subject} is progressing."),
                    now,
                );
                if let Some(known) = known.filter(|known| known.status == "True") {
                    progress.last_transition_time = known.last_transition_time;
                }
                // Set afresh even if it says so already: its update time is what the deadline counts from.
                remove(status, PROGRESSING);
                set(status, progress);
            }
            Phase::TimedOut => {
                let message = format!("{subject} has timed out progressing.");
                set(status, condition(PROGRESSING, "False", TIMED_OUT, message, now));
            }
            Phase::Waiting => {}
        }
    }
    carry_failure(status, all, new, now);
}

fn was_complete(status: &DeploymentStatus, known: Option<&DeploymentCondition>) -> bool {
    status.replicas == status.updated_replicas
        && known.is_some_and(|known| known.reason.as_deref() == Some(COMPLETE))
}

#[derive(Debug, Eq, PartialEq)]
enum Phase {
    Complete,
    Progressing,
    TimedOut,
    Waiting,
}

fn phase(
    deployment: &Deployment,
    before: &DeploymentStatus,
    status: &DeploymentStatus,
    now: Timestamp,
) -> Phase {
    if is_complete(deployment, status) {
        Phase::Complete
    } else if has_progressed(before, status) {
        Phase::Progressing
    } else if has_timed_out(deployment, status, now) {
        Phase::TimedOut
    } else {
        Phase::Waiting
    }
}

/// All replicas are of the current template and available, and nothing else runs.
pub fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let desired = spec::replicas(deployment);
    let all = |count: Option<i32>| count.unwrap_or(0) == desired;
    all(status.updated_replicas)
        && all(status.replicas)
        && all(status.available_replicas)
        && status.observed_generation >= deployment.metadata.generation
}

fn has_progressed(before: &DeploymentStatus, status: &DeploymentStatus) -> bool {
    let updated = |status: &DeploymentStatus| status.updated_replicas.unwrap_or(0);
    let old = |status: &DeploymentStatus| status.replicas.unwrap_or(0) - updated(status);
    updated(status) > updated(before)
        || old(status) < old(before)
        || status.ready_replicas.unwrap_or(0) > before.ready_replicas.unwrap_or(0)
        || status.available_replicas.unwrap_or(0) > before.available_replicas.unwrap_or(0)
}

fn has_timed_out(deployment: &Deployment, status: &DeploymentStatus, now: Timestamp) -> bool {
    match find(status, PROGRESSING).map(|known| (known, known.reason.as_deref())) {
        None | Some((_, Some(COMPLETE))) => false,
        Some((_, Some(TIMED_OUT))) => true,
        Some((known, _)) => deadline(deployment, known).is_some_and(|deadline| deadline < now),
    }
}

fn deadline(deployment: &Deployment, progressing: &DeploymentCondition) -> Option<Timestamp> {
    let seconds = u64::try_from(spec::progress_deadline(deployment)?).ok()?;
    progressing
        .last_update_time
        .as_ref()?
        .0
        .checked_add(Duration::from_secs(seconds))
        .ok()
}

/// How long until a rollout that makes no progress must be called timed out.
pub fn look_again_in(deployment: &Deployment, status: &DeploymentStatus, now: Timestamp) -> Option<Duration> {
    let progressing = find(status, PROGRESSING)?;
    let settled = progressing.reason.as_deref() == Some(TIMED_OUT) || spec::paused(deployment);
    if settled || is_complete(deployment, status) {
        return None;
    }
    let wait = Duration::try_from(deadline(deployment, progressing)?.duration_since(now)).unwrap_or_default();
    Some(wait + Duration::from_secs(1))
}

/// Shows on the Deployment why its ReplicaSets cannot make Pods; the new one's reason first.
fn carry_failure(
    status: &mut DeploymentStatus,
    all: &[&ReplicaSet],
    new: Option<&ReplicaSet>,
    now: Timestamp,
) {
    let failure = new.into_iter().chain(all.iter().copied()).find_map(|set| {
        let conditions = set.status.as_ref()?.conditions.as_ref()?;
        conditions
            .iter()
            .find(|condition| condition.type_ == REPLICA_FAILURE)
    });
    match failure {
        None => remove(status, REPLICA_FAILURE),
        Some(failure) => {
            let reason = failure.reason.clone().unwrap_or_default();
            let message = failure.message.clone().unwrap_or_default();
            set(
                status,
                condition(REPLICA_FAILURE, &failure.status, &reason, message, now),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::spec::fixtures::{deployment, set as replica_set};
    use super::*;
    use serde_json::json;

    const START: &str = "2026-01-01T00:00:00Z";

    fn at(seconds: i64) -> Timestamp {
        START.parse::<Timestamp>().expect("a time") + Duration::from_secs(seconds.unsigned_abs())
    }

    fn progressing(reason: &str) -> DeploymentStatus {
        let mut status = DeploymentStatus {
            observed_generation: Some(1),
            ..Default::default()
        };
        set(
            &mut status,
            condition(PROGRESSING, "True", reason, String::new(), at(0)),
        );
        status
    }

    fn judged(before: &DeploymentStatus, set: &ReplicaSet, now: i64) -> (String, String) {
        let deployment = deployment(json!({"spec": {"replicas": 3}}));
        let mut status = calculate(&deployment, before, &[set], Some(set), at(now));
        judge(&deployment, before, &mut status, &[set], Some(set), at(now));
        let condition = find(&status, PROGRESSING).expect("Progressing");
        (
            condition.reason.clone().unwrap_or_default(),
            condition.message.clone().unwrap_or_default(),
        )
    }

    #[test]
    fn progress_ends_in_completion_or_in_the_deadline() {
        let new = progressing("NewReplicaSetCreated");
        let cases = [
            (
                "complete",
                &new,
                (3, 3),
                5,
                COMPLETE,
                "ReplicaSet \"web-1\" has successfully progressed.",
            ),
            (
                "moving",
                &new,
                (3, 1),
                5,
                "ReplicaSetUpdated",
                "ReplicaSet \"web-1\" is progressing.",
            ),
            ("nothing yet", &new, (0, 0), 5, "NewReplicaSetCreated", ""),
            (
                "too long",
                &new,
                (0, 0),
                700,
                TIMED_OUT,
                "ReplicaSet \"web-1\" has timed out progressing.",
            ),
        ];
        for (name, before, (size, available), now, reason, message) in cases {
            let got = judged(before, &replica_set("web-1", size, available, 0), now);
            assert_eq!(got, (reason.to_owned(), message.to_owned()), "{name}");
        }
    }

    #[test]
    fn a_complete_rollout_stays_complete_when_a_pod_dies() {
        let mut before = progressing(COMPLETE);
        (
            before.replicas,
            before.updated_replicas,
            before.available_replicas,
        ) = (Some(3), Some(3), Some(3));
        let (reason, _) = judged(&before, &replica_set("web-1", 3, 2, 0), 10_000);
        assert_eq!(reason, COMPLETE);
    }

    #[test]
    fn availability_counts_what_may_be_missing() {
        let rolling = json!({"maxSurge": 0, "maxUnavailable": 1});
        let deployment = deployment(json!({"spec": {"replicas": 3, "strategy": {"rollingUpdate": rolling}}}));
        for (available, expected) in [(3, "True"), (2, "True"), (1, "False")] {
            let set = replica_set("web-1", 3, available, 0);
            let status = calculate(
                &deployment,
                &DeploymentStatus::default(),
                &[&set],
                Some(&set),
                at(0),
            );
            assert_eq!(
                find(&status, AVAILABLE).expect("Available").status,
                expected,
                "{available}"
            );
            assert_eq!(
                status.unavailable_replicas,
                (available < 3).then_some(3 - available)
            );
        }
    }

    #[test]
    fn pausing_and_resuming_is_noted_once() {
        let paused = deployment(json!({"spec": {"paused": true}}));
        let mut status = progressing("ReplicaSetUpdated");
        note_pause(&paused, &mut status, at(1));
        assert_eq!(
            find(&status, PROGRESSING).expect("condition").reason.as_deref(),
            Some(PAUSED)
        );
        note_pause(&deployment(json!({})), &mut status, at(2));
        assert_eq!(
            find(&status, PROGRESSING).expect("condition").reason.as_deref(),
            Some("DeploymentResumed")
        );
        let before = status.clone();
        note_pause(&deployment(json!({})), &mut status, at(3));
        assert_eq!(status, before);
    }

    #[test]
    fn a_failure_of_a_set_shows_on_the_deployment() {
        let mut set = replica_set("web-1", 3, 0, 0);
        let mut status = serde_json::to_value(set.status.clone()).expect("json");
        status["conditions"] =
            json!([{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "m"}]);
        set.status = serde_json::from_value(status).expect("a status");
        let mut status = DeploymentStatus::default();
        carry_failure(&mut status, &[&set], Some(&set), at(0));
        let failure = find(&status, REPLICA_FAILURE).expect("ReplicaFailure");
        assert_eq!(
            (failure.reason.as_deref(), failure.message.as_deref()),
            (Some("FailedCreate"), Some("m"))
        );
    }
}

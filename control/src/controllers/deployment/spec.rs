//! What a Deployment asks for, with percentages resolved (apps/v1 DeploymentStrategy).
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet, RollingUpdateDeployment};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// What the API server defaults `progressDeadlineSeconds` to stands for itself; this value means "none".
const NO_DEADLINE: i32 = i32::MAX;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Strategy {
    Recreate,
    RollingUpdate,
}

pub fn of(deployment: &Deployment) -> DeploymentSpec {
    deployment.spec.clone().unwrap_or_default()
}

pub fn replicas(deployment: &Deployment) -> i32 {
    deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1)
}

pub fn strategy(deployment: &Deployment) -> Strategy {
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
    match strategy.and_then(|strategy| strategy.type_.as_deref()) {
        Some("Recreate") => Strategy::Recreate,
        _ => Strategy::RollingUpdate,
    }
}

pub fn paused(deployment: &Deployment) -> bool {
    deployment.spec.as_ref().and_then(|spec| spec.paused) == Some(true)
}

pub fn progress_deadline(deployment: &Deployment) -> Option<i32> {
    deployment
        .spec
        .as_ref()?
        .progress_deadline_seconds
        .filter(|seconds| *seconds != NO_DEADLINE)
}

/// Pods beyond the desired number during an update.
pub fn max_surge(deployment: &Deployment) -> i32 {
    match strategy(deployment) {
        Strategy::Recreate => 0,
        Strategy::RollingUpdate => fenceposts(deployment).0,
    }
}

/// Pods of the desired number that may be missing during an update.
pub fn max_unavailable(deployment: &Deployment) -> i32 {
    match strategy(deployment) {
        Strategy::Recreate => 0,
        Strategy::RollingUpdate => fenceposts(deployment).1.min(replicas(deployment)),
    }
}

/// Surge rounds up, unavailability down; were both 0 nothing could ever move, so one may be missing.
fn fenceposts(deployment: &Deployment) -> (i32, i32) {
    let rolling = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.strategy.as_ref()?.rolling_update.as_ref());
    let desired = replicas(deployment);
    let part = |field: fn(&RollingUpdateDeployment) -> Option<&IntOrString>, up| {
        rolling
            .and_then(field)
            .map_or(0, |value| resolve(value, desired, up))
    };
    match (
        part(|r| r.max_surge.as_ref(), true),
        part(|r| r.max_unavailable.as_ref(), false),
    ) {
        (0, 0) => (0, 1),
        both => both,
    }
}

fn resolve(value: &IntOrString, of: i32, round_up: bool) -> i32 {
    match value {
        IntOrString::Int(number) => *number,
        IntOrString::String(text) => {
            let percent: i64 = text
                .strip_suffix('%')
                .and_then(|number| number.parse().ok())
                .unwrap_or(0);
            let hundredfold = percent.saturating_mul(i64::from(of));
            let rounded = if round_up {
                hundredfold.saturating_add(99) / 100
            } else {
                hundredfold / 100
            };
            i32::try_from(rounded).unwrap_or(i32::MAX)
        }
    }
}

/// Replicas a ReplicaSet is asked for.
pub fn size(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

pub fn total_size<'a>(sets: impl IntoIterator<Item = &'a ReplicaSet>) -> i32 {
    sets.into_iter().map(size).sum()
}

/// Pods a ReplicaSet says are available.
pub fn available(set: &ReplicaSet) -> i32 {
    set.status
        .as_ref()
        .and_then(|status| status.available_replicas)
        .unwrap_or(0)
}

/// Pods a ReplicaSet says exist.
pub fn actual(set: &ReplicaSet) -> i32 {
    set.status.as_ref().map_or(0, |status| status.replicas)
}

#[cfg(test)]
pub mod fixtures {
    //! Deployments and ReplicaSets for the tables of this folder.
    use super::*;
    use serde_json::{Value, json};

    /// A Deployment `web` with 10 replicas, changed by `details`.
    pub fn deployment(details: Value) -> Deployment {
        let mut base = json!({
            "metadata": {"name": "web", "namespace": "n", "uid": "d", "generation": 1},
            "spec": {"replicas": 10, "selector": {"matchLabels": {"app": "web"}},
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}},
                "progressDeadlineSeconds": 600,
                "template": {"metadata": {"labels": {"app": "web"}},
                    "spec": {"containers": [{"name": "c", "image": "new"}]}}}
        });
        json_patch::merge(&mut base, &details);
        serde_json::from_value(base).expect("a Deployment")
    }

    pub fn rolling(replicas: i32, surge: Value, unavailable: Value) -> Deployment {
        let rolling = json!({"maxSurge": surge, "maxUnavailable": unavailable});
        deployment(json!({"spec": {"replicas": replicas, "strategy": {"rollingUpdate": rolling}}}))
    }

    /// A ReplicaSet of a certain size with so many available Pods; `age` orders them, higher is older.
    pub fn set(name: &str, size: i32, available: i32, age: i64) -> ReplicaSet {
        let created = jiff::Timestamp::from_second(1_000_000 - age).expect("a time");
        serde_json::from_value(json!({
            "metadata": {"name": name, "uid": name, "creationTimestamp": created},
            "spec": {"replicas": size, "selector": {}},
            "status": {"replicas": size, "availableReplicas": available, "readyReplicas": available}
        }))
        .expect("a ReplicaSet")
    }
}

#[cfg(test)]
mod tests {
    use super::fixtures::rolling;
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn surge_rounds_up_and_unavailability_down() {
        let cases: [(i32, Value, Value, (i32, i32)); 8] = [
            (10, json!("25%"), json!("25%"), (3, 2)),
            (1, json!("25%"), json!("25%"), (1, 0)),
            (4, json!(2), json!(1), (2, 1)),
            (10, json!(0), json!(0), (0, 1)),
            (2, json!("0%"), json!("10%"), (0, 1)),
            (3, json!(0), json!(5), (0, 3)),
            (0, json!("25%"), json!("25%"), (0, 0)),
            (100, json!("33%"), json!("33%"), (33, 33)),
        ];
        for (replicas, surge, unavailable, expected) in cases {
            let deployment = rolling(replicas, surge.clone(), unavailable.clone());
            let got = (max_surge(&deployment), max_unavailable(&deployment));
            assert_eq!(
                got, expected,
                "{replicas} replicas, surge {surge}, unavailable {unavailable}"
            );
        }
    }
}

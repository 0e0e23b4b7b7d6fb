//! Which Pods to delete first when there are too many: upstream's `ActivePodsWithRanks`.
use std::cmp::{Ordering, Reverse};
use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use kube::ResourceExt;

use crate::toolkit::Pod;
use crate::toolkit::pod::DELETION_COST;
use crate::toolkit::pods;

/// The `count` Pods of `active` to delete. `related` are the active Pods of all sets with the same owner: where
/// many of them share a node, one there goes first.
pub fn victims(active: &[Arc<Pod>], related: &[Arc<Pod>], count: usize, now: Timestamp) -> Vec<Arc<Pod>> {
    let mut candidates = active.to_vec();
    if count < candidates.len() {
        let crowding = crowding(related);
        candidates.sort_by(|a, b| order(a, b, &crowding, now));
        candidates.truncate(count);
    }
    candidates
}

fn crowding(related: &[Arc<Pod>]) -> HashMap<String, usize> {
    let mut per_node = HashMap::new();
    for node in related
        .iter()
        .filter(|pod| pods::is_active(pod))
        .filter_map(|pod| pods::node_name(pod))
    {
        *per_node.entry(node.to_owned()).or_insert(0) += 1;
    }
    per_node
}

fn order(a: &Pod, b: &Pod, crowding: &HashMap<String, usize>, now: Timestamp) -> Ordering {
    let crowd = |pod: &Pod| {
        Reverse(
            pods::node_name(pod)
                .and_then(|node| crowding.get(node))
                .copied()
                .unwrap_or(0),
        )
    };
    let key = |pod: &Pod| {
        (
            pods::node_name(pod).is_some(),
            phase_order(pod),
            pods::is_ready(pod),
            deletion_cost(pod),
        )
    };
    key(a)
        .cmp(&key(b))
        .then_with(|| crowd(a).cmp(&crowd(b)))
        .then_with(|| age_class(pods::ready_since(a), now).cmp(&age_class(pods::ready_since(b), now)))
        .then_with(|| restarts(b).cmp(&restarts(a)))
        .then_with(|| age_class(created(a), now).cmp(&age_class(created(b), now)))
        .then_with(|| a.uid().cmp(&b.uid()))
}

fn phase_order(pod: &Pod) -> u8 {
    match pods::phase(pod) {
        "Pending" => 0,
        "Running" => 2,
        _ => 1,
    }
}

fn deletion_cost(pod: &Pod) -> i32 {
    pod.annotations()
        .get(DELETION_COST)
        .and_then(|cost| cost.parse().ok())
        .unwrap_or(0)
}

fn created(pod: &Pod) -> Option<Timestamp> {
    pod.metadata.creation_timestamp.as_ref().map(|time| time.0)
}

/// Ages on a logarithmic scale, so that Pods of about the same age are picked at random (by uid), not newest first
/// (KEP-2185).
fn age_class(since: Option<Timestamp>, now: Timestamp) -> u32 {
    let seconds = since.map_or(0, |since| now.duration_since(since).as_secs().max(0));
    u64::try_from(seconds)
        .unwrap_or(0)
        .checked_ilog2()
        .map_or(0, |log| log + 1)
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod
        .status
        .as_ref()
        .and_then(|status| status.container_statuses.as_ref());
    statuses
        .into_iter()
        .flatten()
        .map(|container| container.restart_count)
        .max()
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(name: &str, details: Value) -> Arc<Pod> {
        let mut base = json!({
            "metadata": {"name": name, "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"nodeName": "n1", "containers": []},
            "status": {"phase": "Running", "conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}
        });
        json_patch::merge(&mut base, &details);
        Arc::new(serde_json::from_value(base).expect("a pod"))
    }

    fn first_victim(a: Value, b: Value, related: &[Arc<Pod>]) -> String {
        let now = "2026-01-02T00:00:00Z".parse().expect("a time");
        let pods = [pod("keep", b), pod("delete", a)];
        victims(&pods, related, 1, now)[0].name_any()
    }

    #[test]
    fn each_rule_decides_when_those_before_it_tie() {
        let unready = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
        let ready_at = |time: &str| json!({"status": {"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": time}]}});
        let restarted = |count: i32| {
            json!({"status": {"containerStatuses": [
                {"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": count}]}})
        };
        let cases = [
            (
                "unassigned before assigned",
                json!({"spec": {"nodeName": null}}),
                json!({}),
            ),
            (
                "pending before running",
                json!({"status": {"phase": "Pending"}}),
                json!({}),
            ),
            (
                "unknown before running",
                json!({"status": {"phase": "Unknown"}}),
                json!({}),
            ),
            ("unready before ready", unready, json!({})),
            (
                "cheaper before dearer",
                json!({"metadata": {"annotations": {DELETION_COST: "-5"}}}),
                json!({}),
            ),
            (
                "ready for less time",
                ready_at("2026-01-01T23:59:00Z"),
                ready_at("2026-01-01T00:00:00Z"),
            ),
            ("more restarts", restarted(3), restarted(1)),
            (
                "newer",
                json!({"metadata": {"creationTimestamp": "2026-01-01T23:00:00Z"}}),
                json!({}),
            ),
        ];
        for (name, delete, keep) in cases {
            assert_eq!(first_victim(delete, keep, &[]), "delete", "{name}");
        }
    }

    #[test]
    fn the_crowded_node_loses_one_first() {
        let related = [pod("x", json!({"spec": {"nodeName": "n2"}}))];
        assert_eq!(
            first_victim(json!({"spec": {"nodeName": "n2"}}), json!({}), &related),
            "delete"
        );
    }

    #[test]
    fn all_go_when_all_must() {
        let pods = [pod("a", json!({})), pod("b", json!({}))];
        assert_eq!(victims(&pods, &[], 2, Timestamp::UNIX_EPOCH).len(), 2);
    }
}

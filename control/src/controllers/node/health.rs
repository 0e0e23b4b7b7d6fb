//! Judges from its heartbeats whether a node is alive. Pure.
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tokio::time::Instant;

use crate::controllers::ControllerOptions;

/// Conditions that mean nothing once the agent is silent.
const REPORTED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// The last heartbeat and when it was seen here: the clocks of nodes are not compared with ours.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Heartbeat {
    lease: Option<Timestamp>,
    status: Option<Timestamp>,
    seen: Instant,
}

impl Heartbeat {
    /// The heartbeat after looking at the node again: fresh if either sign of life moved.
    pub fn after(before: Option<&Self>, node: &Node, lease: Option<&Lease>, now: Instant) -> Self {
        let lease = lease
            .and_then(|lease| lease.spec.as_ref()?.renew_time.as_ref())
            .map(|time| time.0);
        let status = condition(node, "Ready")
            .and_then(|ready| ready.last_heartbeat_time.as_ref())
            .map(|time| time.0);
        match before {
            Some(before) if before.lease == lease && before.status == status => before.clone(),
            _ => Self {
                lease,
                status,
                seen: now,
            },
        }
    }

    /// Time left until the node counts as silent; nothing when it does.
    pub fn left(&self, grace: Duration, now: Instant) -> Option<Duration> {
        grace
            .checked_sub(now.duration_since(self.seen))
            .filter(|left| !left.is_zero())
    }
}

pub fn condition<'a>(node: &'a Node, type_: &str) -> Option<&'a NodeCondition> {
    node.status
        .as_ref()?
        .conditions
        .as_ref()?
        .iter()
        .find(|condition| condition.type_ == type_)
}

/// `True`, `False` or `Unknown`; nothing of a node that has never reported, until its first grace is over.
pub fn readiness(node: &Node) -> &str {
    condition(node, "Ready").map_or("", |ready| ready.status.as_str())
}

/// How long a node may stay silent: one that has yet to report for the first time has its own time for that.
pub fn grace(node: &Node, options: &ControllerOptions) -> Duration {
    match condition(node, "Ready") {
        Some(_) => options.node_monitor_grace,
        None => options.node_startup_grace,
    }
}

/// The conditions of a silent node: all that its agent would report become Unknown.
pub fn silenced(node: &Node, now: Timestamp) -> Vec<NodeCondition> {
    let known = node
        .status
        .as_ref()
        .and_then(|status| status.conditions.clone())
        .unwrap_or_default();
    let mut conditions: Vec<NodeCondition> = known
        .into_iter()
        .map(|condition| silence(condition, now))
        .collect();
    for type_ in REPORTED {
        if !conditions.iter().any(|condition| condition.type_ == type_) {
            conditions.push(never_reported(node, type_, now));
        }
    }
    conditions
}

fn silence(condition: NodeCondition, now: Timestamp) -> NodeCondition {
    if !REPORTED.contains(&condition.type_.as_str()) || condition.status == "Unknown" {
        return condition;
    }
    NodeCondition {
        status: "Unknown".into(),
        reason: Some("NodeStatusUnknown".into()),
        message: Some("Kubelet stopped posting node status.".into()),
        last_transition_time: Some(Time(now)),
        ..condition
    }
}

fn never_reported(node: &Node, type_: &str, now: Timestamp) -> NodeCondition {
    NodeCondition {
        type_: type_.into(),
        status: "Unknown".into(),
        reason: Some("NodeStatusNeverUpdated".into()),
        message: Some("Kubelet never posted node status.".into()),
        last_heartbeat_time: node.metadata.creation_timestamp.clone(),
        last_transition_time: Some(Time(now)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(heartbeat: &str) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": "n", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "status": {"conditions": [
                {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": heartbeat},
                {"type": "NetworkUnavailable", "status": "False"}]}
        }))
        .expect("a node")
    }

    fn lease(renewed: &str) -> Lease {
        serde_json::from_value(json!({"metadata": {"name": "n"}, "spec": {"renewTime": renewed}}))
            .expect("a lease")
    }

    #[test]
    fn either_sign_of_life_counts_and_silence_runs_out() {
        let (start, grace) = (Instant::now(), Duration::from_secs(40));
        let at = |seconds| start + Duration::from_secs(seconds);
        let (old, new) = ("2026-01-01T00:00:00.000000Z", "2026-01-01T00:00:10.000000Z");
        let first = Heartbeat::after(None, &node(old), Some(&lease(old)), at(0));
        assert_eq!(first.left(grace, at(30)), Some(Duration::from_secs(10)));
        assert_eq!(first.left(grace, at(40)), None);
        let silent = Heartbeat::after(Some(&first), &node(old), Some(&lease(old)), at(30));
        assert_eq!(silent.left(grace, at(41)), None);
        let leased = Heartbeat::after(Some(&first), &node(old), Some(&lease(new)), at(30));
        assert_eq!(leased.left(grace, at(41)), Some(Duration::from_secs(29)));
        let posted = Heartbeat::after(Some(&first), &node(new), Some(&lease(old)), at(30));
        assert_eq!(posted.left(grace, at(41)), Some(Duration::from_secs(29)));
    }

    #[test]
    fn a_node_has_longer_for_its_first_report() {
        let options = ControllerOptions::new("10.0.0.0/16".parse().expect("a range"));
        let born: Node = serde_json::from_value(json!({"metadata": {"name": "n"}})).expect("a node");
        assert_eq!(
            (readiness(&born), grace(&born, &options)),
            ("", Duration::from_secs(60))
        );
        let known = node("2026-01-01T00:00:00Z");
        assert_eq!(
            (readiness(&known), grace(&known, &options)),
            ("True", Duration::from_secs(50))
        );
    }

    #[test]
    fn a_silent_node_knows_nothing() {
        let conditions = silenced(&node("2026-01-01T00:00:00Z"), Timestamp::UNIX_EPOCH);
        let summary: Vec<(&str, &str, &str)> = conditions
            .iter()
            .map(|c| {
                (
                    c.type_.as_str(),
                    c.status.as_str(),
                    c.reason.as_deref().unwrap_or_default(),
                )
            })
            .collect();
        assert_eq!(
            summary,
            [
                ("Ready", "Unknown", "NodeStatusUnknown"),
                ("NetworkUnavailable", "False", ""),
                ("MemoryPressure", "Unknown", "NodeStatusNeverUpdated"),
                ("DiskPressure", "Unknown", "NodeStatusNeverUpdated"),
                ("PIDPressure", "Unknown", "NodeStatusNeverUpdated"),
            ]
        );
    }
}

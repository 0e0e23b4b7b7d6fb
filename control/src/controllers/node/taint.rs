//! Which taints a node's conditions call for (KEP-166). Pure.
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::health::{condition, readiness};
use crate::toolkit::taints::{self, NO_EXECUTE, NO_SCHEDULE};

pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
pub const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Conditions other than Ready and the taints that follow from them being True.
const BY_CONDITION: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];

/// The taints the node should have: those set by others stay. `evict` says whether Pods may be driven off it.
pub fn wanted(node: &Node, evict: bool, now: Timestamp) -> Vec<Taint> {
    let called_for = called_for(node, evict);
    let is = |taint: &Taint, (key, effect): &(&str, &str)| taint.key == *key && taint.effect == *effect;
    let current = taints::of_node(node);
    let mut wanted: Vec<Taint> = current
        .iter()
        .filter(|taint| !is_ours(taint) || called_for.iter().any(|called| is(taint, called)))
        .cloned()
        .collect();
    for called in &called_for {
        if !wanted.iter().any(|taint| is(taint, called)) {
            let (key, effect) = called;
            wanted.push(Taint {
                key: (*key).to_owned(),
                effect: (*effect).to_owned(),
                time_added: Some(Time(now)),
                value: None,
            });
        }
    }
    wanted
}

fn is_ours(taint: &Taint) -> bool {
    let by_condition = || BY_CONDITION.iter().any(|(_, key)| *key == taint.key);
    match taint.effect.as_str() {
        NO_SCHEDULE => {
            [NOT_READY, UNREACHABLE, UNSCHEDULABLE].contains(&taint.key.as_str()) || by_condition()
        }
        NO_EXECUTE => [NOT_READY, UNREACHABLE].contains(&taint.key.as_str()),
        _ => false,
    }
}

fn called_for(node: &Node, evict: bool) -> Vec<(&'static str, &'static str)> {
    let mut called = Vec::new();
    let key = match readiness(node) {
        "True" | "" => None,
        "False" => Some(NOT_READY),
        _ => Some(UNREACHABLE),
    };
    if let Some(key) = key {
        called.push((key, NO_SCHEDULE));
        if evict {
            called.push((key, NO_EXECUTE));
        }
    }
    let holds = |type_: &str| condition(node, type_).is_some_and(|condition| condition.status == "True");
    called.extend(
        BY_CONDITION
            .iter()
            .filter(|(type_, _)| holds(type_))
            .map(|(_, key)| (*key, NO_SCHEDULE)),
    );
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        called.push((UNSCHEDULABLE, NO_SCHEDULE));
    }
    called
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn keys(conditions: Value, spec: Value, evict: bool) -> Vec<String> {
        let node = json!({"metadata": {"name": "n"}, "spec": spec, "status": {"conditions": conditions}});
        let node: Node = serde_json::from_value(node).expect("a node");
        let short = |taint: &Taint| {
            format!(
                "{}:{}",
                taint.key.trim_start_matches("node.kubernetes.io/"),
                taint.effect
            )
        };
        wanted(&node, evict, Timestamp::UNIX_EPOCH)
            .iter()
            .map(short)
            .collect()
    }

    #[test]
    fn conditions_call_for_taints_and_the_absence_of_conditions_removes_them() {
        let ready = |status: &str| json!([{"type": "Ready", "status": status}]);
        let tainted = json!({"taints": [
            {"key": UNREACHABLE, "effect": "NoSchedule"}, {"key": UNREACHABLE, "effect": "NoExecute"},
            {"key": "mine", "effect": "NoSchedule"}]});
        let pressed =
            json!([{"type": "Ready", "status": "True"}, {"type": "DiskPressure", "status": "True"}]);
        let cases: [(&str, Value, Value, bool, &[&str]); 8] = [
            ("yet to report", json!([]), json!({}), true, &[]),
            ("ready", ready("True"), json!({}), true, &[]),
            (
                "not ready",
                ready("False"),
                json!({}),
                true,
                &["not-ready:NoSchedule", "not-ready:NoExecute"],
            ),
            (
                "unknown",
                ready("Unknown"),
                json!({}),
                true,
                &["unreachable:NoSchedule", "unreachable:NoExecute"],
            ),
            (
                "unknown, like all nodes",
                ready("Unknown"),
                json!({}),
                false,
                &["unreachable:NoSchedule"],
            ),
            ("ready again", ready("True"), tainted, true, &["mine:NoSchedule"]),
            (
                "cordoned",
                ready("True"),
                json!({"unschedulable": true}),
                true,
                &["unschedulable:NoSchedule"],
            ),
            (
                "pressure",
                pressed,
                json!({}),
                true,
                &["disk-pressure:NoSchedule"],
            ),
        ];
        for (name, conditions, spec, evict, expected) in cases {
            assert_eq!(keys(conditions, spec, evict), expected, "{name}");
        }
    }
}

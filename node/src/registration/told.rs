//! Which events a Node's changes are, in upstream's words. Pure.

use k8s_openapi::api::core::v1::{Node, NodeCondition};

use crate::events::Severity::{self, Normal, Warning};

/// An event of the Node.
#[derive(Debug, PartialEq)]
pub struct Event {
    pub severity: Severity,
    pub reason: &'static str,
    pub message: String,
}

/// Conditions, and the events for their statuses `True` and `False`, in the order in which upstream looks at them.
const CONDITIONS: [(&str, &str, &str); 4] = [
    (
        "MemoryPressure",
        "NodeHasInsufficientMemory",
        "NodeHasSufficientMemory",
    ),
    ("DiskPressure", "NodeHasDiskPressure", "NodeHasNoDiskPressure"),
    ("PIDPressure", "NodeHasInsufficientPID", "NodeHasSufficientPID"),
    ("Ready", "NodeReady", "NodeNotReady"),
];

/// What the node's own report has changed.
pub fn of_report(before: &Node, now: &Node) -> Vec<Event> {
    let (old, new) = (boot_id(before), boot_id(now));
    let name = now.metadata.name.as_deref().unwrap_or_default();
    let rebooted = (!old.is_empty() && old != new).then(|| Event {
        severity: Warning,
        reason: "Rebooted",
        message: format!("Node {name} has been rebooted, boot id: {new}"),
    });
    let changed = CONDITIONS.into_iter().filter_map(|(kind, holds, does_not)| {
        let status = status(now, kind)?;
        let reason = if status == "True" { holds } else { does_not };
        (self::status(before, kind) != Some(status)).then(|| turned(now, reason))
    });
    rebooted.into_iter().chain(changed).collect()
}

/// Whether somebody has closed the node for new Pods, or opened it again.
pub fn of_schedulability(before: &Node, now: &Node) -> Option<Event> {
    let closed = |node: &Node| node.spec.as_ref().and_then(|s| s.unschedulable) == Some(true);
    match (closed(before), closed(now)) {
        (false, true) => Some(turned(now, "NodeNotSchedulable")),
        (true, false) => Some(turned(now, "NodeSchedulable")),
        _ => None,
    }
}

fn turned(node: &Node, reason: &'static str) -> Event {
    let name = node.metadata.name.as_deref().unwrap_or_default();
    Event {
        severity: Normal,
        reason,
        message: format!("Node {name} status is now: {reason}"),
    }
}

fn status<'a>(node: &'a Node, kind: &str) -> Option<&'a str> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    let found = conditions.iter().find(|c: &&NodeCondition| c.type_ == kind)?;
    Some(found.status.as_str())
}

fn boot_id(node: &Node) -> &str {
    let info = node.status.as_ref().and_then(|s| s.node_info.as_ref());
    info.map_or("", |info| info.boot_id.as_str())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn node(boot: &str, conditions: &[(&str, &str)]) -> Node {
        let one = |(kind, status): &(&str, &str)| json!({"type": kind, "status": status});
        let conditions: Vec<Value> = conditions.iter().map(one).collect();
        let mut node: Node = serde_json::from_value(json!({"metadata": {"name": "n"},
            "status": {"conditions": conditions}}))
        .unwrap();
        let status = node.status.as_mut().unwrap();
        status.node_info = Some(k8s_openapi::api::core::v1::NodeSystemInfo {
            boot_id: boot.to_owned(),
            ..Default::default()
        });
        node
    }

    fn reasons(before: &Node, now: &Node) -> Vec<&'static str> {
        of_report(before, now).iter().map(|told| told.reason).collect()
    }

    #[test]
    fn a_report_tells_what_it_changed() {
        let calm = [
            ("MemoryPressure", "False"),
            ("DiskPressure", "False"),
            ("Ready", "True"),
        ];
        let (new, well) = (node("", &[]), node("b", &calm));
        let first = ["NodeHasSufficientMemory", "NodeHasNoDiskPressure", "NodeReady"];
        assert_eq!(reasons(&new, &well), first);
        assert_eq!(reasons(&well, &well), [""; 0]);
        let short = [
            ("MemoryPressure", "True"),
            ("DiskPressure", "False"),
            ("Ready", "False"),
        ];
        assert_eq!(
            reasons(&well, &node("b", &short)),
            ["NodeHasInsufficientMemory", "NodeNotReady"]
        );
        let lost = node(
            "b",
            &[
                ("MemoryPressure", "False"),
                ("DiskPressure", "False"),
                ("Ready", "Unknown"),
            ],
        );
        assert_eq!(
            of_report(&lost, &well),
            [Event {
                severity: Normal,
                reason: "NodeReady",
                message: "Node n status is now: NodeReady".into(),
            }]
        );
        let again = of_report(&well, &node("c", &calm));
        assert_eq!(again[0].message, "Node n has been rebooted, boot id: c");
    }

    #[test]
    fn closing_and_opening_the_node_is_told_once() {
        let open = node("b", &[]);
        let closed: Node =
            serde_json::from_value(json!({"metadata": {"name": "n"}, "spec": {"unschedulable": true}}))
                .unwrap();
        let reason = |before, now| of_schedulability(before, now).map(|told| told.reason);
        assert_eq!(reason(&open, &closed), Some("NodeNotSchedulable"));
        assert_eq!(reason(&closed, &closed), None);
        assert_eq!(reason(&closed, &open), Some("NodeSchedulable"));
    }
}

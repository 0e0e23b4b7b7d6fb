//! Rows of Pods: READY, STATUS and RESTARTS as upstream's printer reckons them.
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{age, name, or_none};
use crate::kinds::indexed::{by_text, texts};
use crate::kinds::time;
use crate::kinds::view::View;

pub fn row(pod: &Value, now: Timestamp) -> Vec<Value> {
    let ready = pod
        .list("status.containerStatuses")
        .iter()
        .filter(|s| is_ready_running(s))
        .count();
    let sidecars = pod
        .list("spec.initContainers")
        .iter()
        .filter(|c| is_sidecar(c))
        .count();
    let ready_sidecars = sidecar_statuses(pod)
        .filter(|s| s.flag("started") && s.flag("ready"))
        .count();
    let total = pod.list("spec.containers").len() + sidecars;
    vec![
        name(pod),
        json!(format!("{}/{total}", ready + ready_sidecars)),
        json!(status(pod)),
        json!(restarts(pod, now)),
        age(pod, now),
        or_none(first_ip(pod)),
        or_none(pod.text("spec.nodeName")),
        or_none(pod.text("status.nominatedNodeName")),
        json!(readiness_gates(pod)),
    ]
}

fn first_ip(pod: &Value) -> &str {
    match pod.list("status.podIPs").first() {
        Some(ip) => ip.text("ip"),
        None => pod.text("status.podIP"),
    }
}

fn is_sidecar(container: &Value) -> bool {
    container.text("restartPolicy") == "Always"
}

fn is_ready_running(status: &Value) -> bool {
    status.flag("ready") && status.has("state.running")
}

/// Statuses of init containers that keep running beside the others.
fn sidecar_statuses(pod: &Value) -> impl Iterator<Item = &Value> {
    let sidecars = pod.list("spec.initContainers").iter().filter(|c| is_sidecar(c));
    let sidecars = texts(sidecars, "name");
    let statuses = pod.list("status.initContainerStatuses").iter();
    statuses.filter(move |s| sidecars.contains(s.text("name")))
}

/// The STATUS column: the phase, or what better says why the Pod is not running.
pub fn status(pod: &Value) -> String {
    let mut reason = match pod.text("status.reason") {
        "" => pod.text("status.phase").to_owned(),
        reason => reason.to_owned(),
    };
    let gated = |c: &Value| c.text("type") == "PodScheduled" && c.text("reason") == "SchedulingGated";
    if pod.list("status.conditions").iter().any(gated) {
        reason = "SchedulingGated".into();
    }
    match initializing(pod) {
        Some(initializing) => reason = initializing,
        None => reason = containers_reason(pod, reason),
    }
    if pod.has("metadata.deletionTimestamp") {
        reason = deleting(pod, reason);
    }
    reason
}

fn deleting(pod: &Value, reason: String) -> String {
    if pod.text("status.reason") == "NodeLost" {
        return "Unknown".into();
    }
    match pod.text("status.phase") {
        "Succeeded" | "Failed" => reason,
        _ => "Terminating".into(),
    }
}

/// What the first init container that is not done is doing, unless the Pod is past that.
fn initializing(pod: &Value) -> Option<String> {
    let initialized = pod
        .list("status.conditions")
        .iter()
        .any(|c| c.text("type") == "Initialized" && c.text("status") == "True");
    let total = pod.list("spec.initContainers").len();
    let specs = by_text(pod.list("spec.initContainers"), "name");
    for (i, status) in pod.list("status.initContainerStatuses").iter().enumerate() {
        let spec = specs.get(status.text("name"));
        let started_sidecar = spec.is_some_and(|spec| is_sidecar(spec)) && status.flag("started");
        if started_sidecar
            || status.has("state.terminated") && status.int("state.terminated.exitCode") == Some(0)
        {
            continue;
        }
        if initialized && !has_waiting_or_failed(status) {
            return None;
        }
        return (!initialized).then(|| init_reason(status, i, total));
    }
    None
}

fn has_waiting_or_failed(status: &Value) -> bool {
    status.has("state.terminated") || status.has("state.waiting")
}

fn init_reason(status: &Value, i: usize, total: usize) -> String {
    let waiting = status.text("state.waiting.reason");
    if status.has("state.terminated") {
        return format!("Init:{}", terminated(status));
    }
    match waiting {
        "" | "PodInitializing" => format!("Init:{i}/{total}"),
        reason => format!("Init:{reason}"),
    }
}

/// How a terminated container ended: its reason, or its signal or exit code when it gave none.
fn terminated(status: &Value) -> String {
    match (
        status.text("state.terminated.reason"),
        status.int("state.terminated.signal").unwrap_or(0),
    ) {
        ("", 0) => format!(
            "ExitCode:{}",
            status.int("state.terminated.exitCode").unwrap_or(0)
        ),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn containers_reason(pod: &Value, mut reason: String) -> String {
    let mut running = false;
    for status in pod.list("status.containerStatuses").iter().rev() {
        if !status.text("state.waiting.reason").is_empty() {
            reason = status.text("state.waiting.reason").to_owned();
        } else if status.has("state.terminated") {
            reason = terminated(status);
        } else if is_ready_running(status) {
            running = true;
        }
    }
    if reason == "Completed" && running {
        let ready = |c: &Value| c.text("type") == "Ready" && c.text("status") == "True";
        let ready = pod.list("status.conditions").iter().any(ready);
        reason = if ready {
            "Running".into()
        } else {
            "NotReady".into()
        };
    }
    reason
}

/// `3 (5m ago)`: how often containers were restarted, and when last.
fn restarts(pod: &Value, now: Timestamp) -> String {
    let counted = || -> Box<dyn Iterator<Item = &Value>> {
        match initializing(pod) {
            Some(_) => Box::new(pod.list("status.initContainerStatuses").iter()),
            None => Box::new(
                pod.list("status.containerStatuses")
                    .iter()
                    .chain(sidecar_statuses(pod)),
            ),
        }
    };
    let count: i64 = counted().filter_map(|s| s.int("restartCount")).sum();
    let finished = counted().filter_map(|s| time::parse(s.text("lastState.terminated.finishedAt")));
    match finished.max() {
        Some(last) if count > 0 => {
            format!(
                "{count} ({} ago)",
                time::human_duration(now.as_second() - last.as_second())
            )
        }
        _ => count.to_string(),
    }
}

fn readiness_gates(pod: &Value) -> String {
    let gates = pod.list("spec.readinessGates");
    if gates.is_empty() {
        return "<none>".into();
    }
    let holds = |gate: &&Value| {
        let kind = gate.text("conditionType");
        pod.list("status.conditions")
            .iter()
            .any(|c| c.text("type") == kind && c.text("status") == "True")
    };
    format!("{}/{}", gates.iter().filter(holds).count(), gates.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pod: Value, want: [&str; 3]) {
        let now = "2024-01-01T00:10:00Z".parse().expect("time");
        let cells = row(&pod, now);
        assert_eq!(
            [&cells[1], &cells[2], &cells[3]],
            want.map(|w| json!(w)).each_ref(),
            "{pod}"
        );
    }

    fn waiting(reason: &str) -> Value {
        json!({"name": "c", "restartCount": 3, "state": {"waiting": {"reason": reason}},
               "lastState": {"terminated": {"finishedAt": "2024-01-01T00:05:00Z"}}})
    }

    #[test]
    fn running_and_waiting() {
        let spec = json!({"containers": [{"name": "c"}]});
        check(
            json!({"spec": spec, "status": {"phase": "Pending"}}),
            ["0/1", "Pending", "0"],
        );
        check(
            json!({"spec": spec, "status": {"phase": "Running", "containerStatuses": [{"name": "c", "ready": true, "state": {"running": {}}}]}}),
            ["1/1", "Running", "0"],
        );
        check(
            json!({"spec": spec, "status": {"phase": "Running", "containerStatuses": [waiting("CrashLoopBackOff")]}}),
            ["0/1", "CrashLoopBackOff", "3 (5m ago)"],
        );
    }

    #[test]
    fn ended_and_deleted() {
        let spec = json!({"containers": [{"name": "c"}]});
        let ended = |state: Value| json!({"phase": "Failed", "containerStatuses": [{"name": "c", "state": {"terminated": state}}]});
        check(
            json!({"spec": spec, "status": ended(json!({"exitCode": 0, "reason": "Completed"}))}),
            ["0/1", "Completed", "0"],
        );
        check(
            json!({"spec": spec, "status": ended(json!({"exitCode": 3}))}),
            ["0/1", "ExitCode:3", "0"],
        );
        check(
            json!({"spec": spec, "status": ended(json!({"signal": 9, "exitCode": 137}))}),
            ["0/1", "Signal:9", "0"],
        );
        check(
            json!({"metadata": {"deletionTimestamp": "T"}, "spec": spec, "status": {"phase": "Running"}}),
            ["0/1", "Terminating", "0"],
        );
        check(
            json!({"spec": spec, "status": {"phase": "Failed", "reason": "Evicted"}}),
            ["0/1", "Evicted", "0"],
        );
    }

    #[test]
    fn init_containers() {
        let spec = json!({"containers": [{"name": "c"}], "initContainers": [{"name": "i"}, {"name": "j"}]});
        let init = |first: Value| json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": first}, {"name": "j", "state": {"waiting": {"reason": "PodInitializing"}}}]});
        check(
            json!({"spec": spec, "status": init(json!({"running": {}}))}),
            ["0/1", "Init:0/2", "0"],
        );
        check(
            json!({"spec": spec, "status": init(json!({"terminated": {"exitCode": 0}}))}),
            ["0/1", "Init:1/2", "0"],
        );
        check(
            json!({"spec": spec, "status": init(json!({"terminated": {"exitCode": 1, "reason": "Error"}}))}),
            ["0/1", "Init:Error", "0"],
        );
        check(
            json!({"spec": spec, "status": init(json!({"waiting": {"reason": "CrashLoopBackOff"}}))}),
            ["0/1", "Init:CrashLoopBackOff", "0"],
        );
    }

    #[test]
    fn gates() {
        let pod = json!({"spec": {"readinessGates": [{"conditionType": "a"}, {"conditionType": "b"}]},
            "status": {"conditions": [{"type": "a", "status": "True"}]}});
        assert_eq!(readiness_gates(&pod), "1/2");
    }
}

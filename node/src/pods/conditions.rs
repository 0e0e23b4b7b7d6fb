//! Pod conditions with upstream's reasons and messages. Pure. Owns the conditions a node reports;
//! the rest belong to others and are left alone.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, PodCondition, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::observed::Observed;
use super::resize;
use super::restart_all::{self, Stage};
use super::status::has_sandbox;
use super::view::{PodView, Role};

/// Conditions that are not always there.
pub const RESIZE_PENDING: &str = "PodResizePending";
pub const RESIZE_IN_PROGRESS: &str = "PodResizeInProgress";

/// The conditions that a node tells, or tells as others do (DisruptionTarget); the rest are only others'.
pub fn is_told_by_nodes(kind: &str) -> bool {
    matches!(
        kind,
        "PodReadyToStartContainers"
            | "Initialized"
            | "Ready"
            | "ContainersReady"
            | "PodScheduled"
            | "DisruptionTarget"
            | restart_all::CONDITION
            | RESIZE_PENDING
            | RESIZE_IN_PROGRESS
    )
}

/// What a condition says, before it is compared with what it said.
struct Said {
    kind: &'static str,
    holds: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl Said {
    fn of(kind: &'static str, holds: bool) -> Self {
        Said {
            kind,
            holds,
            reason: None,
            message: None,
        }
    }

    fn because(kind: &'static str, holds: bool, reason: &'static str) -> Self {
        Said {
            kind,
            holds,
            reason: Some(reason),
            message: None,
        }
    }
}

/// What the conditions are made from.
pub struct Report<'a> {
    pub pod: PodView<'a>,
    pub seen: &'a Observed,
    pub phase: &'a str,
    pub inits: &'a [ContainerStatus],
    pub mains: &'a [ContainerStatus],
    /// The status last reported.
    pub old: Option<&'a PodStatus>,
}

/// The node's conditions of a Pod, in upstream's order.
pub fn conditions(report: &Report<'_>, now: Timestamp) -> Vec<PodCondition> {
    let containers = containers_ready(report);
    let ready = ready(report.pod, &containers);
    let said = [
        Said::of("PodReadyToStartContainers", has_sandbox(report.seen)),
        initialized(report),
        ready,
        containers,
        Said::of("PodScheduled", true),
    ];
    let said = said.into_iter().chain(restarting_all(report));
    let said = said.chain(resize(report)).chain(disruption(report));
    said.map(|s| dated(report, s, now)).collect()
}

/// There for every Pod in which it can happen (KEP-5532).
fn restarting_all(report: &Report<'_>) -> Option<Said> {
    const KIND: &str = restart_all::CONDITION;
    if !restart_all::is_possible(report.pod) {
        return None;
    }
    Some(
        match (report.phase, restart_all::stage(report.pod, report.seen)) {
            ("Succeeded", _) => Said::because(KIND, false, "PodCompleted"),
            ("Failed", _) => Said::because(KIND, false, "PodFailed"),
            (_, Stage::Ending) => Said {
                message: Some("container exited with restart policy rule".to_owned()),
                ..Said::because(KIND, true, "RestartAllContainersStarted")
            },
            (_, Stage::None | Stage::Ended) => Said::of(KIND, false),
        },
    )
}

/// The two conditions of a resize (KEP-1287), there only while they hold.
fn resize(report: &Report<'_>) -> Vec<Said> {
    let pending = report.seen.pending.as_ref().map(|pending| Said {
        message: Some(pending.message.clone()),
        ..Said::because(RESIZE_PENDING, true, pending.reason)
    });
    let progress = resize::in_progress(report.pod, report.seen).map(|failure| match failure {
        None => Said::of(RESIZE_IN_PROGRESS, true),
        message => Said {
            message,
            ..Said::because(RESIZE_IN_PROGRESS, true, "Error")
        },
    });
    pending.into_iter().chain(progress).collect()
}

/// The node ends the Pod because it needs its room (KEP-3329).
fn disruption(report: &Report<'_>) -> Option<Said> {
    let message = report.seen.verdict.as_ref()?.disruption.clone()?;
    Some(Said {
        message: Some(message),
        ..Said::because("DisruptionTarget", true, "TerminationByKubelet")
    })
}

/// Keeps the time of the last transition when the status did not change.
fn dated(report: &Report<'_>, said: Said, now: Timestamp) -> PodCondition {
    let old = condition(report.old, said.kind);
    let status = if said.holds { "True" } else { "False" };
    let since = old
        .filter(|c| c.status == status)
        .and_then(|c| c.last_transition_time.clone());
    PodCondition {
        type_: said.kind.to_owned(),
        status: status.to_owned(),
        reason: said.reason.map(str::to_owned),
        message: said.message,
        last_transition_time: Some(since.unwrap_or(Time(now))),
        observed_generation: report.pod.pod.metadata.generation,
        last_probe_time: None,
    }
}

fn condition<'a>(status: Option<&'a PodStatus>, kind: &str) -> Option<&'a PodCondition> {
    status?.conditions.as_ref()?.iter().find(|c| c.type_ == kind)
}

/// A Pod that was initialized stays so, whatever becomes of its sidecars.
fn initialized(report: &Report<'_>) -> Said {
    let Report {
        pod, phase, inits, ..
    } = *report;
    if phase == "Succeeded" && !inits.is_empty() {
        return Said::because("Initialized", true, "PodCompleted");
    }
    let done = |s: &&ContainerStatus| match pod.container(&s.name) {
        Some((_, Role::Sidecar)) => s.started != Some(true),
        _ => !s.ready,
    };
    let open: Vec<&str> = inits.iter().filter(done).map(|s| s.name.as_str()).collect();
    // Once it is, it stays so, also when init containers run again.
    let was = condition(report.old, "Initialized").is_some_and(|c| c.status == "True");
    let started = |s: &ContainerStatus| {
        let state = s.state.as_ref();
        state.is_some_and(|state| state.running.is_some() || state.terminated.is_some())
    };
    if open.is_empty() || phase == "Running" || was || report.mains.iter().any(started) {
        return Said::of("Initialized", true);
    }
    let message = Some(format!("containers with incomplete status: [{}]", open.join(" ")));
    Said {
        message,
        ..Said::because("Initialized", false, "ContainersNotInitialized")
    }
}

fn containers_ready(report: &Report<'_>) -> Said {
    const KIND: &str = "ContainersReady";
    match report.phase {
        "Succeeded" => return Said::because(KIND, false, "PodCompleted"),
        "Failed" => return Said::because(KIND, false, "PodFailed"),
        _ => {}
    }
    let sidecar = |s: &&ContainerStatus| {
        report
            .pod
            .container(&s.name)
            .is_some_and(|(_, r)| r == Role::Sidecar)
    };
    let counted = report.inits.iter().filter(sidecar).chain(report.mains);
    let unready: Vec<&str> = counted.filter(|s| !s.ready).map(|s| s.name.as_str()).collect();
    if unready.is_empty() {
        return Said::of(KIND, true);
    }
    let message = Some(format!("containers with unready status: [{}]", unready.join(" ")));
    Said {
        message,
        ..Said::because(KIND, false, "ContainersNotReady")
    }
}

/// KEP-580: a Pod is ready when its containers are and every readiness gate is True.
fn ready(pod: PodView<'_>, containers: &Said) -> Said {
    const KIND: &str = "Ready";
    if !containers.holds {
        return Said {
            kind: KIND,
            message: containers.message.clone(),
            ..*containers
        };
    }
    let gates = pod.spec.readiness_gates.iter().flatten();
    let closed: Vec<String> = gates
        .filter_map(|gate| closed_gate(pod, &gate.condition_type))
        .collect();
    if closed.is_empty() {
        return Said::of(KIND, true);
    }
    Said {
        message: Some(closed.join(", ")),
        ..Said::because(KIND, false, "ReadinessGatesNotReady")
    }
}

fn closed_gate(pod: PodView<'_>, kind: &str) -> Option<String> {
    match condition(pod.pod.status.as_ref(), kind) {
        None => Some(format!(
            "corresponding condition of pod readiness gate {kind:?} does not exist."
        )),
        Some(c) if c.status != "True" => Some(format!(
            "the status of pod readiness gate {kind:?} is not \"True\", but {}",
            c.status
        )),
        Some(_) => None,
    }
}

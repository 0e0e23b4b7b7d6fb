//! The report: `PodStatus` from a Pod, what was seen of it and what the API last held. Pure. Owns phases
//! and container states as the API documents them (core/v1 PodStatus); refuses to know how it is written.

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, ContainerUser, EphemeralContainer, HostIP, LinuxContainerUser, PodIP, PodStatus,
    ResourceRequirements, VolumeMount, VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::conditions::{Report, conditions};
use super::observed::{Observed, Sandbox, Seen, Waiting};
use super::phase::phase;
use super::plan::{has_initialized, is_ending, is_finished};
use super::qos;
use super::record::{Record, User};
use super::restart_all::{self, Stage, Superseded};
use super::view::{PodView, Role, as_container, restarts_after};
use super::whole;
use crate::volumes::is_recursive;

/// What ids of containers begin with in the API.
pub const CONTAINER_ID_SCHEME: &str = "amphipod://";
/// Reason and words for a container nothing is known of, as upstream puts them.
pub const UNKNOWN_REASON: &str = "ContainerStatusUnknown";
pub const UNKNOWN_MESSAGE: &str = "The container could not be located when the pod was terminated";
/// Exit code of such a container.
pub const UNKNOWN_EXIT_CODE: i32 = 137;

/// Computes the whole status; `old` is the one last reported.
pub fn status(
    pod: PodView<'_>,
    seen: &Observed,
    host_ips: &[IpAddr],
    old: Option<&PodStatus>,
    now: Timestamp,
) -> PodStatus {
    let over = is_over(pod, seen);
    let (inits, mains) = containers(pod, seen, over);
    let added = ephemeral(pod, seen);
    let ended = ended(pod, old);
    let final_phase = ended.and_then(|status| status.phase.clone());
    let phase = final_phase.unwrap_or_else(|| phase(pod, &inits, &mains, over, seen));
    let report = Report {
        pod,
        seen,
        phase: &phase,
        inits: &inits,
        mains: &mains,
        old,
    };
    let conditions = conditions(&report, now);
    let (reason, message) = verdict(seen, ended, over);
    let is_running = phase == "Running";
    PodStatus {
        phase: Some(phase),
        reason,
        message,
        conditions: Some(conditions),
        host_ip: host_ips.first().map(IpAddr::to_string),
        host_ips: Some(host_ips.iter().map(|ip| HostIP { ip: ip.to_string() }).collect()),
        pod_ip: seen.ips.first().map(IpAddr::to_string),
        pod_ips: Some(seen.ips.iter().map(|ip| PodIP { ip: ip.to_string() }).collect()),
        start_time: seen.start_time.map(Time),
        init_container_statuses: (!inits.is_empty()).then_some(inits),
        container_statuses: (!was_refused(seen)).then_some(mains),
        ephemeral_container_statuses: (!added.is_empty()).then_some(added),
        resources: (!was_refused(seen)).then(|| whole::resources(pod, seen, is_running)),
        allocated_resources: whole::allocated(pod.spec).filter(|_| !was_refused(seen)),
        qos_class: Some(qos::class(pod.spec).to_owned()),
        observed_generation: pod.pod.metadata.generation,
        ..PodStatus::default()
    }
}

/// Statuses of init containers and of main ones.
fn containers(pod: PodView<'_>, seen: &Observed, over: bool) -> (Vec<ContainerStatus>, Vec<ContainerStatus>) {
    // Both are kept as long as the Pod runs.
    let mut inits = Vec::with_capacity(pod.init_containers().len());
    let mut mains = Vec::with_capacity(pod.spec.containers.len());
    let stage = restart_all::stage(pod, seen);
    for (container, role) in pod.containers() {
        let list = if role == Role::Main {
            &mut mains
        } else {
            &mut inits
        };
        list.push(container_status(
            pod,
            container,
            role,
            seen.containers.get(&container.name).map(Box::as_ref),
            stage,
        ));
    }
    if over {
        account_for_all(pod, seen, &mut inits, &mut mains);
    }
    // As upstream lists them, whatever the order of the spec; init containers keep theirs.
    mains.sort_by(|a, b| a.name.cmp(&b.name));
    (inits, mains)
}

/// Statuses of containers added to the Pod: never ready, nobody waits for them.
fn ephemeral(pod: PodView<'_>, seen: &Observed) -> Vec<ContainerStatus> {
    let status = |c: &EphemeralContainer| {
        let seen = seen.containers.get(&c.name).map(Box::as_ref);
        ContainerStatus {
            ready: false,
            started: None,
            ..container_status(pod, &as_container(c), Role::Ephemeral, seen, Stage::None)
        }
    };
    let mut all: Vec<ContainerStatus> = pod.ephemeral().iter().map(status).collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// Why the Pod was ended: the node's verdict once no container lives, or what a final status already says.
fn verdict(seen: &Observed, ended: Option<&PodStatus>, over: bool) -> (Option<String>, Option<String>) {
    if let Some(verdict) = seen.verdict.as_ref().filter(|_| over) {
        return (Some(verdict.reason.clone()), Some(verdict.message.clone()));
    }
    ended.map_or((None, None), |s| (s.reason.clone(), s.message.clone()))
}

/// A Pod that was ended before anything of it was tried has no containers to tell of, as upstream's rejected ones.
fn was_refused(seen: &Observed) -> bool {
    seen.verdict.is_some() && seen.containers.is_empty()
}

/// True when the Pod is ending and no container lives.
fn is_over(pod: PodView<'_>, seen: &Observed) -> bool {
    is_ending(pod, seen) && !seen.containers.values().any(|seen| seen.may_live())
}

/// A final status is never left again: the one told before, or the API's, where somebody else has ended the Pod.
fn ended<'a>(pod: PodView<'a>, old: Option<&'a PodStatus>) -> Option<&'a PodStatus> {
    let is_final = |status: &&PodStatus| matches!(status.phase.as_deref(), Some("Failed" | "Succeeded"));
    let both = [old, pod.pod.status.as_ref()];
    both.into_iter().flatten().find(is_final)
}

/// One container's status.
fn container_status(
    pod: PodView<'_>,
    c: &Container,
    role: Role,
    seen: Option<&Seen>,
    stage: Stage,
) -> ContainerStatus {
    let nothing = Seen::default();
    let seen = seen.unwrap_or(&nothing);
    let last = seen.last.as_ref();
    let (state, last_state) = states(pod, c, role, seen, stage);
    let superseded = restart_all::told(c, seen, stage);
    let running = state.running.is_some();
    let done = role == Role::Init && seen.exit_code() == Some(0);
    let ready = if role == Role::Init {
        done
    } else {
        running && seen.health.ready
    };
    ContainerStatus {
        name: c.name.clone(),
        image: last.map_or(c.image.clone().unwrap_or_default(), |r| r.image.clone()),
        image_id: last.map_or(String::new(), |r| r.image_id.clone()),
        container_id: last
            .filter(|_| state.waiting.is_none() || last_state.is_some() && superseded.is_none())
            .map(container_id),
        ready,
        started: Some(running && (role == Role::Init || seen.health.started)),
        restart_count: last.map_or(0, |r| r.attempt as i32)
            + i32::from(superseded == Some(Superseded::Removed)),
        state: Some(state),
        last_state: Some(last_state.unwrap_or_default()),
        allocated_resources: c.resources.as_ref().and_then(|r| r.requests.clone()),
        resources: Some(resources(c, last.filter(|_| running))),
        volume_mounts: last.and_then(|_| volume_mounts(c)),
        user: last.and_then(|r| r.user.as_ref()).map(user),
        ..ContainerStatus::default()
    }
}

/// What a running attempt was given, else what the next one gets.
fn resources(container: &Container, running: Option<&Record>) -> ResourceRequirements {
    let given = running.and_then(|record| record.resources.clone());
    given.or_else(|| container.resources.clone()).unwrap_or_default()
}

/// What is mounted where, and whether read-only reaches what is mounted below (KEP-3857).
fn volume_mounts(container: &Container) -> Option<Vec<VolumeMountStatus>> {
    let shown = |mount: &VolumeMount| {
        let read_only = mount.read_only.filter(|read_only| *read_only);
        VolumeMountStatus {
            name: mount.name.clone(),
            mount_path: mount.mount_path.clone(),
            read_only,
            recursive_read_only: read_only.map(|_| match is_recursive(mount) {
                true => "Enabled".to_owned(),
                false => "Disabled".to_owned(),
            }),
            ..VolumeMountStatus::default()
        }
    };
    let mounts = container.volume_mounts.as_ref().filter(|m| !m.is_empty())?;
    Some(mounts.iter().map(shown).collect())
}

/// Whom the first process was started as (KEP-3619).
fn user(user: &User) -> ContainerUser {
    ContainerUser {
        linux: Some(LinuxContainerUser {
            uid: user.uid.into(),
            gid: user.gid.into(),
            supplemental_groups: Some(user.groups.iter().map(|gid| i64::from(*gid)).collect()),
        }),
    }
}

/// The id the API shows for an attempt.
pub fn container_id(record: &Record) -> String {
    format!("{CONTAINER_ID_SCHEME}{}", record.id)
}

/// As the API keeps it: whoever asks this node for the time is told the same before and after the API has it.
fn whole_seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

fn states(
    pod: PodView<'_>,
    c: &Container,
    role: Role,
    seen: &Seen,
    stage: Stage,
) -> (ContainerState, Option<ContainerState>) {
    let before = seen.previous.as_ref();
    let before = before.and_then(|record| end(record, seen.previous_superseded));
    let Some(last) = &seen.last else {
        return (waiting_state(pod, role, seen), before);
    };
    if let Some(why) = restart_all::told(c, seen, stage) {
        let waits_for_that = stage != Stage::None && seen.waiting.is_none() && why == Superseded::Removed;
        let waiting = match waits_for_that {
            true => waiting(restart_all::REASON, Some(restart_all::MESSAGE.into())),
            false => waiting_state(pod, role, seen),
        };
        return (waiting, end(last, Some(why)));
    }
    if let Some(started_at) = last.is_running().then(|| last.started_at()).flatten() {
        let running = ContainerStateRunning {
            started_at: Some(Time(whole_seconds(started_at))),
        };
        return (
            ContainerState {
                running: Some(running),
                ..ContainerState::default()
            },
            before,
        );
    }
    let Some(ended) = terminated(last) else {
        return (waiting_state(pod, role, seen), before);
    };
    let code = last.exit().map_or(0, |exit| exit.exit_code);
    let restarts = restarts_after(role, c, pod.restart_policy(), code);
    let waits = match seen.due {
        // The API does not let go again of an end that its policy says is for good.
        Some(_) => !restarts || seen.waiting.is_some(),
        None => restarts && seen.waiting.is_some(),
    };
    if waits && !pod.is_deleted() {
        return (waiting_state(pod, role, seen), Some(ended));
    }
    (ended, before)
}

fn waiting_state(pod: PodView<'_>, role: Role, seen: &Seen) -> ContainerState {
    let (reason, message) = match &seen.waiting {
        Some(Waiting { reason, message, .. }) => (*reason, Some(message.clone()).filter(|m| !m.is_empty())),
        None if role == Role::Ephemeral || pod.init_containers().is_empty() => ("ContainerCreating", None),
        None => ("PodInitializing", None),
    };
    waiting(reason, message)
}

fn waiting(reason: &str, message: Option<String>) -> ContainerState {
    let waiting = ContainerStateWaiting {
        reason: Some(reason.to_owned()),
        message,
    };
    ContainerState {
        waiting: Some(waiting),
        ..ContainerState::default()
    }
}

/// How an attempt is told to have ended.
fn end(record: &Record, superseded: Option<Superseded>) -> Option<ContainerState> {
    match superseded {
        Some(Superseded::Removed) => Some(restart_all::removed()),
        Some(Superseded::Over) | None => terminated(record),
    }
}

fn terminated(record: &Record) -> Option<ContainerState> {
    let exit = record.exit()?;
    let terminated = ContainerStateTerminated {
        container_id: Some(container_id(record)),
        exit_code: exit.exit_code,
        reason: Some(exit.reason.clone()),
        message: exit.message.clone(),
        started_at: exit.started_at.map(Time),
        finished_at: exit.finished_at.map(Time),
        signal: None,
    };
    Some(ContainerState {
        terminated: Some(terminated),
        ..ContainerState::default()
    })
}

/// In a Pod that is over, a container that should have run and left no trace counts as failed.
fn account_for_all(
    pod: PodView<'_>,
    seen: &Observed,
    inits: &mut [ContainerStatus],
    mains: &mut [ContainerStatus],
) {
    let started_inits = inits.iter().rposition(was_started).map_or(0, |last| last + 1);
    let lost = inits[..started_inits].iter_mut().filter(|s| !has_terminated(s));
    lost.for_each(mark_unknown);
    if has_initialized(pod, seen) {
        mains
            .iter_mut()
            .filter(|s| !has_terminated(s))
            .for_each(mark_unknown);
    }
}

fn was_started(status: &ContainerStatus) -> bool {
    let has_run = |s: &ContainerState| s.running.is_some() || s.terminated.is_some();
    status.state.as_ref().is_some_and(has_run) || status.last_state.as_ref().is_some_and(has_run)
}

fn has_terminated(status: &ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|s| s.terminated.is_some())
}

fn mark_unknown(status: &mut ContainerStatus) {
    let before = status.last_state.take().filter(|s| s.terminated.is_some());
    status.state = Some(before.unwrap_or_else(|| ContainerState {
        terminated: Some(ContainerStateTerminated {
            reason: Some(UNKNOWN_REASON.into()),
            message: Some(UNKNOWN_MESSAGE.into()),
            exit_code: UNKNOWN_EXIT_CODE,
            ..ContainerStateTerminated::default()
        }),
        ..ContainerState::default()
    }));
    status.last_state = Some(ContainerState::default());
    status.ready = false;
    status.started = Some(false);
}

/// Whether the Pod counts against the room of the node. One that is over does not, though it has yet to be taken apart: the
/// scheduler gives its room away as soon as it is told; nor does one whose object is gone (upstream's active Pods).
pub fn takes_room(pod: PodView<'_>, seen: &Observed) -> bool {
    !seen.orphaned && !is_over(pod, seen)
}

/// True while the Pod has namespaces with an address.
pub fn has_sandbox(seen: &Observed) -> bool {
    matches!(seen.sandbox, Sandbox::Ready)
}

/// True when no container of the report runs: its object may go.
pub fn is_settled(status: &PodStatus) -> bool {
    let all = status
        .container_statuses
        .iter()
        .flatten()
        .chain(status.init_container_statuses.iter().flatten())
        .chain(status.ephemeral_container_statuses.iter().flatten());
    all.filter_map(|c| c.state.as_ref())
        .all(|state| state.running.is_none())
}

/// True when the Pod ended by itself: it stays until someone deletes it.
pub fn is_terminal(pod: PodView<'_>, seen: &Observed) -> bool {
    (seen.verdict.is_some() || is_finished(pod, seen)) && is_over(pod, seen)
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;

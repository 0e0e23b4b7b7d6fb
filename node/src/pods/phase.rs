//! The phase of a Pod: what the states of its containers come to, as the API documents it (core/v1 PodPhase). Pure. Refuses to
//! know where the states are from.

use k8s_openapi::api::core::v1::ContainerStatus;

use super::observed::Observed;
use super::plan::has_initialized;
use super::restart_all;
use super::view::{PodView, Role, restarts_after};

/// The phase; `over` when nothing of the Pod shall run any more and no container lives.
pub fn phase(
    pod: PodView<'_>,
    inits: &[ContainerStatus],
    mains: &[ContainerStatus],
    over: bool,
    seen: &Observed,
) -> String {
    let t = tally(mains);
    if seen.verdict.is_some() && over {
        return "Failed".into();
    }
    let phase = if init_failed(pod, inits) {
        "Failed"
    } else if init_pending(pod, inits, seen) || t.waiting > 0 {
        if over { "Failed" } else { "Pending" }
    } else if t.running > 0 {
        "Running"
    } else if t.stopped == 0 {
        "Pending"
    } else if !over && (inits.iter().any(runs) || some_restart(pod, mains, seen)) {
        "Running"
    } else if t.stopped == t.succeeded {
        "Succeeded"
    } else {
        "Failed"
    };
    phase.to_owned()
}

/// How many containers are in which state.
#[derive(Default)]
struct Tally {
    waiting: usize,
    running: usize,
    stopped: usize,
    succeeded: usize,
}

fn tally(mains: &[ContainerStatus]) -> Tally {
    let mut tally = Tally::default();
    for status in mains {
        let state = status.state.as_ref();
        let before = status.last_state.as_ref().and_then(|s| s.terminated.as_ref());
        match state.map(|s| (&s.running, &s.terminated)) {
            Some((Some(_), _)) => tally.running += 1,
            Some((None, Some(ended))) => {
                tally.stopped += 1;
                tally.succeeded += usize::from(ended.exit_code == 0);
            }
            _ if before.is_some() => tally.stopped += 1,
            _ => tally.waiting += 1,
        }
    }
    tally
}

/// A sidecar that has yet to end: others have by now.
fn runs(init: &ContainerStatus) -> bool {
    init.state.as_ref().is_some_and(|s| s.running.is_some())
}

fn exit_of(status: &ContainerStatus) -> Option<i32> {
    status.state.as_ref()?.terminated.as_ref().map(|t| t.exit_code)
}

fn init_failed(pod: PodView<'_>, inits: &[ContainerStatus]) -> bool {
    let is_init = |s: &&ContainerStatus| pod.container(&s.name).is_some_and(|(_, r)| r == Role::Init);
    let failed = |s: &ContainerStatus| exit_of(s).is_some_and(|code| code != 0) && !restarts(pod, s);
    inits.iter().filter(is_init).any(failed)
}

/// Whether a container that ended starts again; one that is held back ended as its last state says.
fn restarts(pod: PodView<'_>, status: &ContainerStatus) -> bool {
    let before = || {
        status
            .last_state
            .as_ref()?
            .terminated
            .as_ref()
            .map(|t| t.exit_code)
    };
    let code = exit_of(status).or_else(before).unwrap_or_default();
    let found = pod.container(&status.name);
    restart_all::is_removed(status)
        || found.is_some_and(|(c, role)| restarts_after(role, &c, pod.restart_policy(), code))
}

/// Whether a container starts again: by its own rules, its own policy, or its Pod's, or because the node wants it to.
fn some_restart(pod: PodView<'_>, mains: &[ContainerStatus], seen: &Observed) -> bool {
    let is_due = |name: &str| seen.containers.get(name).is_some_and(|s| s.due.is_some());
    mains.iter().any(|s| is_due(&s.name) || restarts(pod, s))
}

fn init_pending(pod: PodView<'_>, inits: &[ContainerStatus], seen: &Observed) -> bool {
    if has_initialized(pod, seen) {
        return false;
    }
    inits.iter().any(|s| match pod.container(&s.name) {
        _ if restart_all::is_removed(s) => false,
        Some((_, Role::Sidecar)) => s.started != Some(true),
        _ => exit_of(s) != Some(0),
    })
}

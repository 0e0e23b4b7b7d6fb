//! A container's end that starts everything of its Pod anew, in the sandbox and with the volumes that it has (KEP-5532): who asks
//! for it, what has to end for it, what the API is told meanwhile. Pure; the worker carries it out.
//!
//! Flow: an end asks → starts under way come to their end → which attempts count no more is noted on disk → those that run are
//! stopped → everything starts as in a new Pod. Guarantees: what is stopped for it has been noted before, so that an agent that returns
//! in between neither takes a Pod for finished nor begins again.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, ContainerState, ContainerStateTerminated, ContainerStatus};
use serde::{Deserialize, Serialize};

use super::observed::{Busy, Observed, Seen};
use super::plan::{Action, Plan};
use super::view::{PodView, RESTART_ALL, Role, rule_action};

/// The condition that is true while containers end for it.
pub const CONDITION: &str = "AllContainersRestarting";
/// What the API is told of a container that has ended for it, as upstream puts it.
pub const REASON: &str = "RestartingAllContainers";
pub const MESSAGE: &str = "The container is removed because RestartAllContainers in place";
const EXIT_CODE: i32 = 137;
/// Seconds a container has to end: upstream's least, without hooks, whatever the Pod asks for.
pub const GRACE_SECONDS: i64 = 2;
/// From one time to the next at least. There is no back-off upstream either, which looks for ends once a second.
const PAUSE: SignedDuration = SignedDuration::from_secs(1);

/// Why an attempt counts no more, which decides what is told of its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Superseded {
    /// It ended for it.
    Removed,
    /// It had ended before, and the next one was waited for: its end stays its own, as upstream's.
    Over,
}

impl Superseded {
    /// For what the newest attempt counts no more if everything starts anew now.
    pub fn of(seen: &Seen) -> Self {
        let waited = seen.waiting.is_some() && seen.last.as_ref().is_some_and(|last| last.exit().is_some());
        let now = if waited { Self::Over } else { Self::Removed };
        seen.superseded.unwrap_or(now)
    }
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Nothing asks for it, or what is left of it is as in a Pod that is new.
    None,
    /// Containers end for it.
    Ending,
    /// They have ended, and none runs again.
    Ended,
}

/// Whether the end of some container of the Pod can ask for it.
pub fn is_possible(pod: PodView<'_>) -> bool {
    let mut rules = pod
        .containers()
        .flat_map(|(c, _)| c.restart_policy_rules.iter().flatten());
    rules.any(|rule| rule.action == RESTART_ALL)
}

pub fn stage(pod: PodView<'_>, seen: &Observed) -> Stage {
    let all = || with_seen(pod, seen).filter(|(_, _, s)| s.last.is_some());
    if seen.noting || all().any(|(c, _, s)| asks(c, s) || lives_on(s)) {
        Stage::Ending
    } else if all().next().is_some() && all().all(|(_, _, s)| s.superseded.is_some()) {
        Stage::Ended
    } else {
        Stage::None
    }
}

fn with_seen<'a>(
    pod: PodView<'a>,
    seen: &'a Observed,
) -> impl Iterator<Item = (&'a Container, Role, &'a Seen)> {
    let found = move |c: &Container| seen.containers.get(&c.name).map(Box::as_ref);
    pod.containers()
        .filter_map(move |(c, role)| Some((c, role, found(c)?)))
}

/// Whether the newest attempt ended so. What the node has stopped to start it again asks for nothing.
fn asks(container: &Container, seen: &Seen) -> bool {
    let code = seen.exit_code().filter(|_| seen.due.is_none());
    code.is_some_and(|code| rule_action(container, code) == Some(RESTART_ALL))
}

/// Whether it counts no more, and has yet to end.
fn lives_on(seen: &Seen) -> bool {
    seen.superseded.is_some() && seen.last.as_ref().is_some_and(|last| last.exit().is_none())
}

/// Plans what comes before all else; false when there is nothing.
pub fn precedes(pod: PodView<'_>, seen: &Observed, now: Timestamp, plan: &mut Plan) -> bool {
    if stage(pod, seen) != Stage::Ending {
        return false;
    }
    if seen.noting {
        return true;
    }
    match with_seen(pod, seen).any(|(c, _, s)| asks(c, s)) {
        true => begin(pod, seen, now, plan),
        false => stop(pod, seen, now, plan),
    }
    true
}

fn begin(pod: PodView<'_>, seen: &Observed, now: Timestamp, plan: &mut Plan) {
    let due = seen.restarted_all.and_then(|last| last.checked_add(PAUSE).ok());
    if let Some(due) = due.filter(|due| now < *due) {
        plan.wake_at(due);
        return;
    }
    // What comes up is let, as upstream: every container that was to be there has run before it runs again.
    let comes_up = |s: &Seen| matches!(s.busy, Busy::Starting | Busy::Cancelling);
    if !with_seen(pod, seen).any(|(_, _, s)| comes_up(s)) {
        plan.actions.push(Action::RestartAll);
    }
}

/// Main containers first, as upstream, which knows no other order here.
fn stop(pod: PodView<'_>, seen: &Observed, now: Timestamp, plan: &mut Plan) {
    let living = |of_main: bool| {
        with_seen(pod, seen).filter(move |(_, role, s)| lives_on(s) && (*role == Role::Main) == of_main)
    };
    let is_main = living(true).next().is_some();
    let soon = now.checked_add(SignedDuration::from_secs(GRACE_SECONDS)).ok();
    let to_stop = |s: &Seen| match s.busy {
        Busy::Idle => true,
        Busy::Killing { until, .. } => soon.is_some_and(|soon| soon < until),
        Busy::Starting | Busy::Cancelling | Busy::Resizing => false,
    };
    let targets = living(is_main).filter(|(_, _, s)| to_stop(s));
    plan.actions.extend(targets.map(|(c, _, _)| Action::Reset {
        container: c.name.clone(),
    }));
}

/// Whether it is told that the newest attempt counts no more: when it has ended, but for the one whose end asked for it, before the
/// others have ended: that is told as it was.
pub fn told(container: &Container, seen: &Seen, stage: Stage) -> Option<Superseded> {
    let superseded = seen.superseded?;
    let exit = seen.last.as_ref()?.exit()?;
    let asked = rule_action(container, exit.exit_code) == Some(RESTART_ALL);
    (stage != Stage::Ending || !asked).then_some(superseded)
}

/// The end of an attempt that was removed, however it ended.
pub fn removed() -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            exit_code: EXIT_CODE,
            reason: Some(REASON.into()),
            message: Some(MESSAGE.into()),
            ..ContainerStateTerminated::default()
        }),
        ..ContainerState::default()
    }
}

/// Whether the status is of a container that has ended for it and does not run again yet.
pub fn is_removed(status: &ContainerStatus) -> bool {
    let state = status.state.as_ref();
    let ended = |state: &ContainerState| state.terminated.clone();
    let before = || ended(status.last_state.as_ref()?);
    let waits = state.is_some_and(|s| s.waiting.is_some());
    waits && before().is_some_and(|t| t.reason.as_deref() == Some(REASON))
}

#[cfg(test)]
#[path = "restart_all_tests.rs"]
mod tests;

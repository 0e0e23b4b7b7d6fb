//! The decision: what to do next for one Pod, from its spec, what was seen of it, and the time. Pure; the
//! worker executes it and asks again after whatever changes. Owns restart policy, back-off, the order of
//! init containers and of the end; refuses to know how anything is done.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Container;

use super::observed::{Busy, Due, Observed, Sandbox, Seen, Verdict, Waiting};
use super::resize::{Change, change};
use super::restart_all;
use super::view::{PodView, RestartPolicy, Role, as_container, policy_of, restarts_after, spec_hash};
use go_values::duration;

/// How long a failed pull is shown as `ErrImagePull` before it becomes `ImagePullBackOff`.
const PULL_ERROR_SHOWN: SignedDuration = SignedDuration::from_secs(2);

/// Why a container that ended is not started at once.
pub const CRASH_LOOP: &str = "CrashLoopBackOff";

/// One step; each is safe to repeat.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Make volumes, files and namespaces.
    Prepare,
    /// Pull, create and start the container's next attempt.
    Start { container: String, attempt: u32 },
    /// Give up a start that is under way.
    Cancel { container: String },
    /// Stop the running attempt within `grace` seconds; `message` becomes the Killing event. One that `waits` gets its
    /// `preStop` now and its signal later.
    Kill {
        container: String,
        grace: i64,
        message: String,
        waits: bool,
    },
    /// The signal that waited may go: those that were to end before have.
    TakeTurn { container: String },
    /// Change the limits of the running attempt.
    Resize { container: String },
    /// The same, and the next is started whatever the restart policy.
    Restart {
        container: String,
        grace: i64,
        message: String,
        due: Due,
    },
    /// Note that no attempt of before counts any more.
    RestartAll,
    /// Stop a running attempt that counts no more.
    Reset { container: String },
    /// Show why a container is not being started.
    Hold { container: String, waiting: Waiting },
    /// End the Pod for this reason.
    End(Verdict),
    /// Remove namespaces and volumes; no container lives.
    TearDown,
}

/// What to do now, and when to ask again at the latest.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    pub actions: Vec<Action>,
    pub wake: Option<Timestamp>,
    /// Nothing of the Pod is left but its records and logs.
    pub ended: bool,
}

impl Plan {
    pub fn wake_at(&mut self, when: Timestamp) {
        self.wake = Some(self.wake.map_or(when, |earlier| earlier.min(when)));
    }
}

/// Decides the next steps.
pub fn plan(pod: PodView<'_>, seen: &Observed, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    if is_ending(pod, seen) {
        end(pod, seen, now, &mut plan);
    } else if !past_deadline(pod, seen, now, &mut plan) {
        run(pod, seen, now, &mut plan);
    }
    plan
}

/// True when nothing of the Pod shall run any more.
pub fn is_ending(pod: PodView<'_>, seen: &Observed) -> bool {
    pod.is_deleted() || seen.orphaned || seen.verdict.is_some() || was_over(pod) || is_finished(pod, seen)
}

/// The API already holds a final phase: it is never left again.
fn was_over(pod: PodView<'_>) -> bool {
    let phase = pod.pod.status.as_ref().and_then(|s| s.phase.as_deref());
    matches!(phase, Some("Failed" | "Succeeded"))
}

/// True when the containers ended and the restart policy lets none start again.
pub fn is_finished(pod: PodView<'_>, seen: &Observed) -> bool {
    let policy = pod.restart_policy();
    let over = |c: &Container, role| {
        let code = seen
            .containers
            .get(&c.name)
            .filter(|s| s.busy != Busy::Starting && s.due.is_none())
            .and_then(|seen| seen.exit_code());
        code.is_some_and(|code| !restarts_after(role, c, policy, code))
    };
    let init_failed = pod.containers().any(|(c, role)| {
        let code = seen.containers.get(&c.name).and_then(|seen| seen.exit_code());
        let failed = code.is_some_and(|code| code != 0 && !restarts_after(role, c, policy, code));
        role == Role::Init && failed
    });
    !seen.noting && (init_failed || pod.spec.containers.iter().all(|c| over(c, Role::Main)))
}

fn past_deadline(pod: PodView<'_>, seen: &Observed, now: Timestamp, plan: &mut Plan) -> bool {
    let (Some(seconds), Some(start)) = (pod.spec.active_deadline_seconds, seen.active_since) else {
        return false;
    };
    let Ok(deadline) = start.checked_add(SignedDuration::from_secs(seconds)) else {
        return false;
    };
    if now < deadline {
        plan.wake_at(deadline);
        return false;
    }
    plan.actions.push(Action::End(Verdict {
        reason: "DeadlineExceeded".into(),
        message: "Pod was active on the node longer than the specified deadline".into(),
        ..Verdict::default()
    }));
    true
}

/// Stops all containers, then tears down. The signals of sidecars wait for the end of the main containers, and then go in
/// reverse order; all that has one grace period together (upstream's terminationOrdering).
fn end(pod: PodView<'_>, seen: &Observed, now: Timestamp, plan: &mut Plan) {
    let alive = |name: &&str| seen.containers.get(*name).is_some_and(|seen| seen.may_live());
    let living = |of: Role| -> Vec<&str> {
        let all = pod.containers().filter(|(_, role)| *role == of);
        all.map(|(c, _)| c.name.as_str()).filter(alive).collect()
    };
    let (mains, sidecars) = (living(Role::Main), living(Role::Sidecar));
    let others = pod.ephemeral().iter().map(|c| c.name.as_str()).filter(alive);
    let others: Vec<&str> = living(Role::Init).into_iter().chain(others).collect();
    let hurried = seen.verdict.as_ref().and_then(|verdict| verdict.grace);
    let all = [hurried, seen.orphan_grace].into_iter().flatten();
    let grace = all.fold(pod.grace_seconds(), i64::min);
    let mut stop = |name: &str, waits| {
        let stop = stop(name, &seen.containers[name], grace, waits, now);
        plan.actions.extend(stop);
    };
    mains.iter().chain(&others).for_each(|name| stop(name, false));
    for (before, name) in sidecars.iter().rev().enumerate() {
        stop(name, before > 0 || !mains.is_empty());
    }
    if mains.is_empty() && sidecars.is_empty() && others.is_empty() {
        match seen.sandbox {
            Sandbox::Preparing | Sandbox::TearingDown => {}
            Sandbox::Gone => plan.ended = true,
            Sandbox::Stays { retry_at } if now < retry_at => plan.wake_at(retry_at),
            Sandbox::Absent | Sandbox::Ready | Sandbox::Failed { .. } | Sandbox::Stays { .. } => {
                plan.actions.push(Action::TearDown)
            }
        }
    }
}

fn stop(name: &str, seen: &Seen, grace: i64, waits: bool, now: Timestamp) -> Option<Action> {
    let kill = || {
        Some(Action::Kill {
            container: name.to_owned(),
            grace,
            message: format!("Stopping container {name}"),
            waits,
        })
    };
    match seen.busy {
        Busy::Starting => Some(Action::Cancel {
            container: name.to_owned(),
        }),
        Busy::Cancelling | Busy::Resizing => None,
        Busy::Idle => kill(),
        Busy::Killing { until, .. } if now.saturating_add(SignedDuration::from_secs(grace)).ok()? < until => {
            kill()
        }
        Busy::Killing { waits: true, .. } if !waits => Some(Action::TakeTurn {
            container: name.to_owned(),
        }),
        Busy::Killing { .. } => None,
    }
}

fn run(pod: PodView<'_>, seen: &Observed, now: Timestamp, plan: &mut Plan) {
    if restart_all::precedes(pod, seen, now, plan) {
        return;
    }
    match &seen.sandbox {
        Sandbox::Absent | Sandbox::Gone => plan.actions.push(Action::Prepare),
        Sandbox::Failed { retry_at, .. } | Sandbox::Stays { retry_at } if now >= *retry_at => {
            plan.actions.push(Action::Prepare)
        }
        Sandbox::Failed { retry_at, .. } | Sandbox::Stays { retry_at } => plan.wake_at(*retry_at),
        Sandbox::Preparing | Sandbox::TearingDown => {}
        Sandbox::Ready => run_containers(pod, seen, now, plan),
    }
}

fn run_containers(pod: PodView<'_>, seen: &Observed, now: Timestamp, plan: &mut Plan) {
    let nothing = Seen::default();
    let of = |c: &Container| seen.containers.get(&c.name).map_or(&nothing, Box::as_ref);
    for (container, role) in pod.containers() {
        match kill_if_unfit(container, role, of(container), pod) {
            Some(kill) => plan.actions.push(kill),
            None => resize(container, of(container), pod, now, plan),
        }
    }
    // Before all others, so that one can be added to a Pod whose init containers fail.
    for container in pod.ephemeral() {
        let container = as_container(container);
        consider(pod, &container, Role::Ephemeral, of(&container), now, plan);
    }
    let initialized = has_initialized(pod, seen);
    for (container, role) in pod.containers() {
        let state = of(container);
        match role {
            Role::Init if initialized || completed(state, &seen.boot_id) => continue,
            Role::Init => {
                consider(pod, container, role, state, now, plan);
                return;
            }
            Role::Sidecar => {
                consider(pod, container, role, state, now, plan);
                let is_up = state.is_running() && state.health.started;
                if !initialized && !is_up {
                    return;
                }
            }
            Role::Main | Role::Ephemeral => consider(pod, container, role, state, now, plan),
        }
    }
}

/// True once a main container was started in this boot: init containers are not run again.
pub fn has_initialized(pod: PodView<'_>, seen: &Observed) -> bool {
    pod.spec.containers.iter().any(|c| {
        let found = seen.containers.get(&c.name).filter(|s| s.superseded.is_none());
        let last = found.and_then(|s| s.last.as_ref());
        last.is_some_and(|record| record.boot_id == seen.boot_id)
    })
}

/// True when an init container has succeeded in this boot.
pub fn completed(seen: &Seen, boot_id: &str) -> bool {
    seen.exit_code() == Some(0) && seen.last.as_ref().is_some_and(|r| r.boot_id == boot_id)
}

fn kill_if_unfit(container: &Container, role: Role, seen: &Seen, pod: PodView<'_>) -> Option<Action> {
    let record = seen
        .last
        .as_ref()
        // An init container that has yet to end is let come to it.
        .filter(|r| r.is_running() && seen.busy == Busy::Idle && role != Role::Init)?;
    let changed = record.spec_hash != spec_hash(container);
    let failed = seen.health.failed.filter(|_| !changed);
    let why = match failed {
        _ if changed => "definition changed".to_owned(),
        Some(probe) => format!("failed {probe} probe"),
        None => return None,
    };
    let name = container.name.clone();
    let grace = probe_grace(container, failed).unwrap_or_else(|| pod.grace_seconds());
    // Rules are about ends; this is none of its own.
    let restarts = changed || policy_of(container, pod.restart_policy()) != RestartPolicy::Never;
    let (message, due) = match role {
        Role::Sidecar => (format!("Init container {name} {why}"), Due::Unfit),
        _ if restarts => (format!("Container {name} {why}, will be restarted"), Due::Unfit),
        _ => {
            return Some(Action::Kill {
                message: format!("Container {name} {why}"),
                container: name,
                grace,
                waits: false,
            });
        }
    };
    Some(Action::Restart {
        container: name,
        grace,
        message,
        due,
    })
}

/// Brings a running container to the resources that the Pod was promised.
fn resize(container: &Container, seen: &Seen, pod: PodView<'_>, now: Timestamp, plan: &mut Plan) {
    let running = seen
        .last
        .as_ref()
        .filter(|r| r.is_running() && seen.busy == Busy::Idle);
    let change = running.map_or(Change::None, |record| change(pod, container, record));
    let name = || container.name.clone();
    match (change, &seen.resize_failed) {
        (Change::None, _) => {}
        (Change::InPlace, Some(failed)) if now < failed.retry_at => plan.wake_at(failed.retry_at),
        (Change::InPlace, _) => plan.actions.push(Action::Resize { container: name() }),
        (Change::Restart, _) => plan.actions.push(Action::Restart {
            container: name(),
            grace: pod.grace_seconds(),
            message: format!("Container {} resize requires restart", container.name),
            due: Due::Resize,
        }),
    }
}

/// `terminationGracePeriodSeconds` of the probe that failed (KEP-2238).
fn probe_grace(container: &Container, failed: Option<&str>) -> Option<i64> {
    let probe = match failed? {
        "startup" => container.startup_probe.as_ref(),
        "liveness" => container.liveness_probe.as_ref(),
        _ => None,
    };
    probe?.termination_grace_period_seconds.map(|grace| grace.max(1))
}

/// Starts a container that is not running when policy and back-off allow.
fn consider(pod: PodView<'_>, c: &Container, role: Role, seen: &Seen, now: Timestamp, plan: &mut Plan) {
    if seen.busy != Busy::Idle {
        return;
    }
    if let Some(record) = seen.last.as_ref().filter(|_| seen.superseded.is_none()) {
        let Some(exit) = record.exit() else { return };
        let succeeded_before_reboot = role == Role::Init && exit.exit_code == 0;
        if !succeeded_before_reboot
            && seen.due.is_none()
            && !restarts_after(role, c, pod.restart_policy(), exit.exit_code)
        {
            return;
        }
        // The back-off is of the container as it was: one that was changed starts at once.
        let changed = record.spec_hash != spec_hash(c) || seen.due == Some(Due::Resize);
        let held = seen.ended.and_then(|ended| seen.restarts.until(ended));
        let held = held.filter(|until| now < *until && !changed);
        if let Some(until) = held {
            hold(pod, c, seen, now, until, plan);
            return;
        }
    }
    // What counts no more is started again as for the first time.
    let holds = |w: &&Waiting| now < w.retry_at && (seen.superseded.is_none() || w.reason != CRASH_LOOP);
    match seen.waiting.as_ref().filter(holds) {
        Some(waiting) => wait(c, waiting, now, plan),
        None => plan.actions.push(Action::Start {
            container: c.name.clone(),
            attempt: seen.next_attempt(),
        }),
    }
}

fn hold(pod: PodView<'_>, c: &Container, seen: &Seen, now: Timestamp, until: Timestamp, plan: &mut Plan) {
    plan.wake_at(until);
    if seen
        .waiting
        .as_ref()
        .is_some_and(|w| w.reason == CRASH_LOOP && w.retry_at == until)
    {
        return;
    }
    let message = format!(
        "back-off {} restarting failed container={} pod={}",
        duration::print(seen.restarts.delay()),
        c.name,
        pod.full_name()
    );
    let waiting = Waiting {
        reason: CRASH_LOOP,
        message,
        image: String::new(),
        retry_at: until,
        since: now,
    };
    plan.actions.push(Action::Hold {
        container: c.name.clone(),
        waiting,
    });
}

/// Waits for the retry; a failed pull turns into a back-off after it was shown.
fn wait(c: &Container, waiting: &Waiting, now: Timestamp, plan: &mut Plan) {
    plan.wake_at(waiting.retry_at);
    if waiting.reason != "ErrImagePull" {
        return;
    }
    let Ok(shown) = waiting.since.checked_add(PULL_ERROR_SHOWN) else {
        return;
    };
    if now < shown {
        plan.wake_at(shown);
        return;
    }
    let Waiting { image, message, .. } = waiting;
    let message = format!("Back-off pulling image {image:?}: ErrImagePull: {message}");
    let waiting = Waiting {
        reason: "ImagePullBackOff",
        message,
        ..waiting.clone()
    };
    plan.actions.push(Action::Hold {
        container: c.name.clone(),
        waiting,
    });
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;

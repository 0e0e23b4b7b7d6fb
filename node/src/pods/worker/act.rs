//! What a worker does with each action of a plan: note it as under way and start it.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Outcome, Worker};
use crate::events::Severity::{Normal, Warning};
use crate::pods::admission::{self, Refusal, Rejection};
use crate::pods::observed::{Busy, Sandbox, Verdict, Waiting};
use crate::pods::plan::{Action, CRASH_LOOP};
use crate::pods::record::Record;
use crate::pods::refresh;
use crate::pods::restart_all;
use crate::pods::sandbox::{self, PrepareError, Unprepared};
use crate::pods::start::{self, Job};
use crate::pods::target::Target;
use crate::pods::tasks::{self, Stopping};
use crate::pods::uses::Uses;
use crate::pods::view::PodView;
use crate::steady;

/// How a container is stopped.
struct Stop {
    with_hook: bool,
    /// Its signal waits for its turn.
    waits: bool,
}

impl Worker {
    pub(super) fn act(&mut self, pod: PodView<'_>, action: Action) {
        match action {
            Action::Prepare => self.prepare(),
            Action::Start { container, attempt } => self.start(pod, container, attempt),
            Action::Cancel { container } => self.cancel(&container),
            Action::Kill {
                container,
                grace,
                message,
                waits,
            } => {
                let with_hook = grace > 0;
                self.stop(pod, &container, grace, message, Stop { with_hook, waits });
            }
            Action::TakeTurn { container } => self.take_turn(&container),
            Action::Resize { container } => self.resize(pod, &container),
            Action::Restart {
                container,
                grace,
                message,
                due,
            } => {
                self.kill(pod, &container, grace, message);
                self.seen.containers.entry(container).or_default().due = Some(due);
            }
            Action::RestartAll => self.restart_all(pod),
            Action::Reset { container } => self.reset(pod, &container),
            Action::Hold { container, waiting } => self.hold(pod, container, waiting),
            Action::End(verdict) => self.end(pod, verdict),
            Action::TearDown => self.tear_down(),
        }
    }

    /// Makes what the containers share, if the node takes the Pod.
    pub(super) fn prepare(&mut self) {
        let pod = self.pod.clone();
        // Before anything is fetched: no change is missed.
        refresh::watch(&self.ctx, &self.pod, &self.refresh_wanted, &mut self.watches);
        self.seen.sandbox = Sandbox::Preparing;
        let ctx = self.ctx.clone();
        self.under_way.spawn(async move {
            let Some(view) = PodView::new(&pod) else {
                return Outcome::Stopped;
            };
            match admission::admit(&ctx, view).await {
                Ok(()) => Outcome::Prepared(sandbox::prepare(&ctx, view).await),
                Err(Refusal::Rejected(rejection)) => Outcome::Rejected(rejection),
                Err(Refusal::Unknown(error)) => Outcome::Prepared(Err(Unprepared {
                    error: PrepareError::Node(error),
                    rebuilt: false,
                })),
            }
        });
    }

    /// Whose processes an ephemeral container is to see.
    fn target_of(&self, container: &str) -> Option<Target> {
        let view = PodView::new(&self.pod)?;
        let added = view.ephemeral().iter().find(|c| c.name == container)?;
        let name = added
            .target_container_name
            .clone()
            .filter(|name| !name.is_empty())?;
        let last = self.seen.containers.get(&name).and_then(|seen| seen.last.clone());
        Some(Target {
            running: last.filter(Record::is_running),
            name,
        })
    }

    pub(super) fn start(&mut self, pod: PodView<'_>, container: String, attempt: u32) {
        let now = steady::now();
        let seen = self.seen.containers.entry(container.clone()).or_default();
        if seen.last.as_ref().is_some_and(|last| last.exit().is_some()) && seen.superseded.is_none() {
            seen.restarts.next(seen.ended.unwrap_or(now), now);
        }
        seen.busy = Busy::Starting;
        let (cancel, turn) = self.starts.begin(pod, &container);
        let job = Job {
            pod: self.pod.clone(),
            container: container.clone(),
            attempt,
            ips: self.seen.ips.clone(),
            namespaces: self.namespaces.clone(),
            handler: self.handler.clone(),
            target: self.target_of(&container),
            cancel,
            turn,
            kills: self.kills.clone(),
        };
        let ctx = self.ctx.clone();
        self.under_way.spawn(async move {
            let pod = job.pod.clone();
            let result = start::start(ctx, job).await;
            Outcome::Started {
                container,
                pod,
                result,
            }
        });
    }

    pub(super) fn cancel(&mut self, container: &str) {
        self.starts.cancel(container);
        if let Some(seen) = self.seen.containers.get_mut(container) {
            seen.busy = Busy::Cancelling;
        }
    }

    pub(super) fn kill(&mut self, pod: PodView<'_>, container: &str, grace: i64, message: String) {
        let how = Stop {
            with_hook: grace > 0,
            waits: false,
        };
        self.stop(pod, container, grace, message, how);
    }

    /// Without its hook, and with the shortest time: it is started again at once.
    fn reset(&mut self, pod: PodView<'_>, container: &str) {
        let how = Stop {
            with_hook: false,
            waits: false,
        };
        self.stop(
            pod,
            container,
            restart_all::GRACE_SECONDS,
            "killing".to_owned(),
            how,
        );
    }

    fn stop(&mut self, pod: PodView<'_>, container: &str, grace: i64, message: String, how: Stop) {
        let Some(seen) = self.seen.containers.get_mut(container) else {
            return;
        };
        let Some(record) = seen.last.clone() else { return };
        let is_first = seen.busy == Busy::Idle;
        if is_first {
            self.ctx
                .recorder
                .container(pod, container, Normal, "Killing", message);
        }
        let grace = SignedDuration::from_secs(grace.max(0));
        let until = steady::now().checked_add(grace).unwrap_or(Timestamp::MAX);
        seen.busy = Busy::Killing {
            until,
            waits: how.waits,
        };
        let grace = Duration::try_from(grace).unwrap_or_default();
        let turn = CancellationToken::new();
        if !how.waits {
            turn.cancel();
        }
        let stopping = Stopping {
            ctx: self.ctx.clone(),
            pod: self.pod.clone(),
            record,
            ip: self.seen.ips.first().copied(),
            hook_is_due: is_first && how.with_hook,
            turn: turn.clone(),
            kill: self.kills.begin(container),
        };
        let stop = self.under_way.spawn(async move {
            tasks::stop(stopping, grace).await;
            Outcome::Stopped
        });
        if let Some((slower, _)) = self.stops.insert(container.to_owned(), (stop, turn)) {
            slower.abort();
        }
    }

    fn take_turn(&mut self, container: &str) {
        if let Some((_, turn)) = self.stops.get(container) {
            turn.cancel();
        }
        let seen = self.seen.containers.get_mut(container);
        if let Some(Busy::Killing { waits, .. }) = seen.map(|seen| &mut seen.busy) {
            *waits = false;
        }
    }

    pub(super) fn hold(&mut self, pod: PodView<'_>, container: String, waiting: Waiting) {
        let event = |severity, message| {
            self.ctx
                .recorder
                .container(pod, &container, severity, "BackOff", message);
        };
        if waiting.reason == CRASH_LOOP {
            let name = pod.full_name();
            event(
                Warning,
                format!("Back-off restarting failed container {container} in pod {name}"),
            );
        } else {
            event(Normal, format!("Back-off pulling image {:?}", waiting.image));
            let message = format!("Error: {}", waiting.reason);
            self.ctx
                .recorder
                .container(pod, &container, Warning, "Failed", message);
        }
        self.seen.containers.entry(container).or_default().waiting = Some(waiting);
    }

    pub(super) fn end(&mut self, pod: PodView<'_>, verdict: Verdict) {
        self.ctx
            .recorder
            .pod(pod, Normal, "DeadlineExceeded", verdict.message.clone());
        self.seen.verdict = Some(verdict);
    }

    /// Refuses the Pod for good.
    pub(super) fn reject(&mut self, Rejection { reason, message }: Rejection) {
        self.seen.sandbox = Sandbox::Absent;
        self.warn(reason, message.clone());
        self.seen.verdict = Some(Verdict {
            reason: reason.to_owned(),
            message: format!("Pod was rejected: {message}"),
            ..Verdict::default()
        });
    }

    /// Ends the Pod because the node says so; the first verdict holds, and a later one may hurry it.
    pub(super) fn evict(&mut self, verdict: Verdict) {
        if let Some(held) = &mut self.seen.verdict {
            held.hurry(&verdict);
            return;
        }
        if let Some(view) = PodView::new(&self.pod).filter(|_| verdict.reason == "Evicted") {
            let annotations = verdict.annotations.clone();
            self.ctx
                .recorder
                .annotated(view, Warning, "Evicted", verdict.message.clone(), annotations);
        }
        self.seen.verdict = Some(verdict);
    }

    pub(super) fn tear_down(&mut self) {
        self.seen.sandbox = Sandbox::TearingDown;
        self.watches = JoinSet::new();
        let (ctx, pod) = (self.ctx.clone(), self.pod.clone());
        self.under_way.spawn(async move {
            let Some(view) = PodView::new(&pod) else {
                return Outcome::Stopped;
            };
            Outcome::TornDown(sandbox::tear_down(&ctx, view).await)
        });
    }

    pub(super) fn refresh(&mut self) {
        if self.seen.sandbox != Sandbox::Ready {
            return;
        }
        let (ctx, pod, ips) = (self.ctx.clone(), self.pod.clone(), self.seen.ips.clone());
        self.under_way.spawn(async move {
            let Some(view) = PodView::new(&pod) else {
                return Outcome::Stopped;
            };
            Outcome::Refreshed(sandbox::set_up_volumes(&ctx, view, &ips, &Uses::of(view)).await)
        });
    }
}

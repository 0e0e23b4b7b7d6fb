//! What a worker learns when something under way has ended.

use amphipod_shim_api::stdio::remove_log;
use jiff::{SignedDuration, Timestamp};

use super::{Outcome, Worker};
use crate::events::Severity::{Normal, Warning};
use crate::pods::failure::{FailureKind, StartFailure};
use crate::pods::kills;
use crate::pods::log_links;
use crate::pods::observed::{Busy, Due, Health, Sandbox, Waiting};
use crate::pods::record::Record;
use crate::pods::sandbox::{PrepareError, Surroundings, TearDownError, Unprepared};
use crate::pods::start::POST_START_FAILED;
use crate::pods::tasks;
use crate::pods::unmounted::{self, Told};
use crate::pods::view::PodView;
use crate::removal;
use crate::steady;

/// Pause before something that failed is tried again; upstream's back-off period of a Pod worker.
const RETRY: SignedDuration = SignedDuration::from_secs(10);

impl Worker {
    pub(super) fn take_in(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Prepared(result) => {
                self.prepared(result);
                self.consider_resize();
            }
            Outcome::Rejected(rejection) => self.reject(rejection),
            Outcome::Started {
                container,
                pod,
                result,
            } => {
                self.started(container, result);
                self.bound_anew(pod);
            }
            Outcome::Ended { record, end } => self.settle_end(record, end),
            Outcome::Exited(record) => self.exited(record),
            Outcome::Noted(attempts) => self.noted(&attempts),
            Outcome::Resized { record, result } => self.resized(record, result),
            Outcome::TornDown(Ok(())) => self.seen.sandbox = Sandbox::Gone,
            Outcome::TornDown(Err(error)) => self.sandbox_stays(&error),
            Outcome::Refreshed(Err(unmounted)) => {
                let (_, told) = self.volume_failures.take_in(&unmounted);
                self.warn_all(told);
            }
            Outcome::Refreshed(Ok(())) => self.volume_failures = unmounted::Failures::default(),
            Outcome::Bounded { known } => self.bound_anew(known),
            Outcome::Stopped => {}
        }
    }

    pub(super) fn warn(&self, reason: &'static str, message: String) {
        if let Some(view) = PodView::new(&self.pod) {
            self.ctx.recorder.pod(view, Warning, reason, message);
        }
    }

    fn warn_all(&self, told: Vec<Told>) {
        told.into_iter()
            .for_each(|(reason, message)| self.warn(reason, message));
    }

    /// Of volumes and cgroups that stay upstream's kubelet tells its log only.
    fn sandbox_stays(&mut self, error: &TearDownError) {
        let retry_at = steady::now().checked_add(RETRY).unwrap_or(Timestamp::MAX);
        self.seen.sandbox = Sandbox::Stays { retry_at };
        let uid = self.uid();
        match error {
            TearDownError::Network(_) => self.warn(kills::REASON, kills::sandbox(uid, error)),
            _ => tracing::warn!(%error, uid, "what a Pod had on the host is not all taken away yet"),
        }
    }

    pub(super) fn prepared(&mut self, result: Result<Surroundings, Unprepared>) {
        match result {
            Ok(made) => {
                self.volume_failures = unmounted::Failures::default();
                self.seen.sandbox = Sandbox::Ready;
                self.seen.ips = made.ips;
                self.namespaces = made.namespaces;
                self.handler = made.handler;
                if !made.adopted {
                    self.forsake_running();
                }
            }
            Err(Unprepared { error, rebuilt }) => {
                if rebuilt {
                    self.forsake_running();
                }
                self.unprepared(&error);
            }
        }
    }

    /// Volumes are tried again soon: what they show is often made together with the Pod.
    fn unprepared(&mut self, error: &PrepareError) {
        let (pause, told) = match error {
            PrepareError::Volumes(unmounted) => self.volume_failures.take_in(unmounted),
            other => (RETRY, vec![other.told()]),
        };
        self.seen.sandbox = Sandbox::Failed {
            message: error.to_string(),
            retry_at: steady::now().checked_add(pause).unwrap_or(Timestamp::MAX),
        };
        self.warn_all(told);
    }

    /// Containers that ran in namespaces which are no more are stopped at once; the plan starts them anew.
    pub(super) fn forsake_running(&mut self) {
        let pod = self.pod.clone();
        let Some(view) = PodView::new(&pod) else { return };
        let running: Vec<String> = self
            .seen
            .containers
            .iter()
            .filter(|(_, s)| s.is_running())
            .map(|(name, _)| name.clone())
            .collect();
        if running.is_empty() {
            return;
        }
        let message = "Pod sandbox changed, it will be killed and re-created.";
        self.ctx
            .recorder
            .pod(view, Normal, "SandboxChanged", message.to_owned());
        for name in running {
            self.kill(view, &name, 0, format!("Stopping container {name}"));
        }
    }

    pub(super) fn started(&mut self, container: String, result: Result<Record, StartFailure>) {
        self.starts.end(&container);
        let seen = self.seen.containers.entry(container.clone()).or_default();
        seen.busy = Busy::Idle;
        match result {
            Ok(record) => {
                // What was added to the Pod has made its volumes itself.
                if PodView::new(&self.pod)
                    .is_some_and(|pod| pod.ephemeral().iter().any(|c| c.name == container))
                {
                    self.volume_failures = unmounted::Failures::default();
                }
                seen.waiting = None;
                let was_resize = seen.due.take() == Some(Due::Resize);
                self.push(record.clone());
                self.watch(record);
                self.forget_old(&container);
                if was_resize {
                    self.tell_when_resized();
                }
            }
            Err(failure) => self.start_failed(container, failure),
        }
    }

    pub(super) fn start_failed(&mut self, container: String, failure: StartFailure) {
        let StartFailure {
            reason,
            message,
            kind,
        } = failure;
        let now = steady::now();
        if matches!(kind, FailureKind::Cancelled) {
            return;
        }
        let mut pause = RETRY;
        match &kind {
            FailureKind::Volumes(unmounted) => {
                let (soon, told) = self.volume_failures.take_in(unmounted);
                pause = soon;
                self.warn_all(told);
            }
            FailureKind::Image(_) => self.tell_failed(&container, reason),
            // Of a hook that fails upstream tells without its words: they may hold secrets.
            _ if reason == POST_START_FAILED => {}
            _ => self.tell_failed(&container, &message),
        }
        let mut retry_at = now.checked_add(pause).unwrap_or(Timestamp::MAX);
        let seen = self.seen.containers.entry(container.clone()).or_default();
        let mut image = String::new();
        if let FailureKind::Image(name) = &kind {
            image.clone_from(name);
            seen.pulls.next(now, now);
            retry_at = seen.pulls.until(now).unwrap_or(retry_at);
        }
        seen.waiting = Some(Waiting {
            reason,
            message,
            image,
            retry_at,
            since: now,
        });
        if let FailureKind::Attempt(record) = kind {
            self.push(*record);
            self.seen.containers.entry(container.clone()).or_default().ended = Some(now);
            self.forget_old(&container);
        }
    }

    fn tell_failed(&self, container: &str, what: &str) {
        if let Some(view) = PodView::new(&self.pod) {
            let message = format!("Error: {what}");
            self.ctx
                .recorder
                .container(view, container, Warning, "Failed", message);
        }
    }

    pub(super) fn exited(&mut self, record: Record) {
        if let Some((stop, _)) = self.stops.remove(&record.container) {
            stop.abort();
        }
        if let Some(view) = PodView::new(&self.pod) {
            self.probes.stop(view, &record.container);
        }
        let Some(seen) = self.seen.containers.get_mut(&record.container) else {
            return;
        };
        seen.busy = Busy::Idle;
        seen.health = Health::default();
        seen.last = Some(record);
        seen.ended = Some(steady::now());
    }

    /// Takes an attempt as the container's newest.
    pub(super) fn push(&mut self, record: Record) {
        let seen = self.seen.containers.entry(record.container.clone()).or_default();
        let ended = record
            .exit()
            .map(|exit| exit.finished_at.unwrap_or(record.created_at));
        seen.previous = seen.last.take();
        seen.previous_superseded = seen.superseded.take();
        seen.last = Some(record);
        seen.ended = ended.map(steady::since);
        seen.health = Health::default();
    }

    /// Takes in what the probes found.
    pub(super) fn read_health(&mut self) {
        for (name, health) in self.probes.results() {
            if let Some(seen) = self.seen.containers.get_mut(name) {
                seen.health = health;
            }
        }
    }

    /// Follows a running attempt: its probes and its end.
    pub(super) fn watch(&mut self, record: Record) {
        let health = self
            .probes
            .start(&self.pod, &record, self.seen.ips.first().copied());
        if let (Some(health), Some(seen)) = (health, self.seen.containers.get_mut(&record.container)) {
            seen.health = health;
        }
        let clients = self.ctx.tasks.clone();
        self.under_way.spawn(async move {
            let end = tasks::end_of(&clients, &record).await;
            Outcome::Ended { record, end }
        });
    }

    fn settle_end(&mut self, record: Record, end: tasks::End) {
        let (ctx, pod) = (self.ctx.clone(), self.pod.clone());
        self.under_way
            .spawn(async move { Outcome::Exited(tasks::settle(&ctx, &pod, record, end).await) });
    }

    /// Removes attempts older than the last two, with their logs.
    pub(super) fn forget_old(&self, container: &str) {
        let Some(view) = PodView::new(&self.pod) else {
            return;
        };
        let Some(seen) = self.seen.containers.get(container) else {
            return;
        };
        let Some(oldest) = seen.previous.as_ref().map(|r| r.attempt) else {
            return;
        };
        let dirs = self.ctx.dirs(view);
        let Some(gone) = oldest.checked_sub(1) else { return };
        let (attempt, log) = (dirs.attempt(container, gone), dirs.log(container, gone));
        log_links::forget_attempt(&self.ctx.options.layout, &attempt);
        let removed = removal::remove(&attempt).and_then(|()| remove_log(&log));
        if let Err(error) = removed {
            tracing::warn!(%error, path = %attempt.display(), "cannot remove an old attempt and its log");
        }
    }
}

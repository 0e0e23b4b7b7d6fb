//! One worker per Pod: it alone holds what was seen of the Pod, asks `plan`, starts what the plan says and
//! reports.
//!
//! Flow: desired object, outcome of something under way, timer → plan → actions → status. Guarantees: one thing
//! per container at a time; an action's outcome is seen exactly once. Assumes one worker per uid (the manager's
//! care).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::context::Context;
use super::failure::{FailureKind, StartFailure};
use super::observed::{Busy, Observed, Sandbox, Verdict, Waiting};
use super::plan::{Action, Plan, plan};
use super::record::{self, Record};
use super::refresh;
use super::reporter::{self, Report};
use super::sandbox::{self, PrepareError, Surroundings, TearDownError};
use super::start::{self, Job};
use super::status;
use super::tasks;
use super::view::PodView;
use crate::bundle::Namespaces;
use crate::events::Severity::{Normal, Warning};
use crate::volumes::host;

/// Pause before something that failed is tried again; upstream's back-off period of a Pod worker.
const RETRY: SignedDuration = SignedDuration::from_secs(10);
/// Plans made in a row before waiting: an action always changes what the next plan sees.
const PLANS_IN_A_ROW: usize = 16;
/// Longest sleep: a lost wake-up costs this much.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// What the API wants of a Pod.
#[derive(Clone)]
pub struct Desired {
    pub pod: Arc<Pod>,
    /// The object is gone.
    pub gone: bool,
}

/// How something under way ended.
enum Outcome {
    Prepared(Result<Surroundings, PrepareError>),
    Started {
        container: String,
        result: Result<Record, StartFailure>,
    },
    Exited(Record),
    TornDown(Result<(), TearDownError>),
    Refreshed(Result<(), PrepareError>),
    Stopped,
}

struct Worker {
    ctx: Arc<Context>,
    pod: Arc<Pod>,
    seen: Observed,
    namespaces: Namespaces,
    under_way: JoinSet<Outcome>,
    starts: BTreeMap<String, CancellationToken>,
    stops: BTreeMap<String, AbortHandle>,
    refresh_wanted: Arc<Notify>,
    watches: JoinSet<()>,
    reports: watch::Sender<Report>,
    last_status: Option<PodStatus>,
}

/// Runs one Pod until it is gone from API and host, or the agent ends.
pub async fn run(ctx: Arc<Context>, mut desired: watch::Receiver<Desired>) {
    let first = desired.borrow_and_update().clone();
    let (reports, to_write) = watch::channel(Report::default());
    let shutdown = ctx.shutdown.clone();
    let reporter = tokio::spawn(reporter::run(
        ctx.clone(),
        first.pod.clone(),
        to_write,
        shutdown.clone(),
    ));
    let mut worker = Worker::new(ctx, first, reports);
    worker.adopt().await;
    while !worker.step() {
        if shutdown
            .run_until_cancelled(worker.wait(&mut desired))
            .await
            .is_none()
        {
            break;
        }
    }
    drop(worker);
    if let Err(error) = reporter.await {
        tracing::error!(%error, "a status reporter failed");
    }
}

impl Worker {
    fn new(ctx: Arc<Context>, desired: Desired, reports: watch::Sender<Report>) -> Self {
        let status = desired.pod.status.clone();
        let ips = status
            .iter()
            .flat_map(|s| s.pod_ips.iter().flatten())
            .filter_map(|ip| ip.ip.parse().ok());
        let since = status.as_ref().and_then(|s| s.start_time.as_ref()).map(|t| t.0);
        let seen = Observed {
            ips: ips.collect(),
            start_time: Some(since.unwrap_or_else(Timestamp::now)),
            boot_id: ctx.boot_id.clone(),
            orphaned: desired.gone,
            ..Observed::default()
        };
        Worker {
            ctx,
            pod: desired.pod,
            seen,
            namespaces: Namespaces::default(),
            under_way: JoinSet::new(),
            starts: BTreeMap::new(),
            stops: BTreeMap::new(),
            refresh_wanted: Arc::new(Notify::new()),
            watches: JoinSet::new(),
            reports,
            last_status: status,
        }
    }

    /// Takes back what an earlier agent started.
    async fn adopt(&mut self) {
        let pod = self.pod.clone();
        let Some(view) = PodView::new(&pod) else { return };
        let records = record::load_all(&self.ctx.dirs(view).containers()).unwrap_or_else(|error| {
            tracing::error!(%error, pod = %view.full_name(), "records of containers cannot be read");
            Vec::new()
        });
        for record in records {
            let record = tasks::adopt(&self.ctx, &pod, record).await;
            self.push(record);
        }
        if self.seen.containers.values().any(|s| s.is_running()) {
            let result = sandbox::prepare(&self.ctx, view).await;
            self.prepared(result);
        }
        let running: Vec<Record> = self
            .seen
            .containers
            .values()
            .filter_map(|s| s.last.clone())
            .filter(Record::is_running)
            .collect();
        running.into_iter().for_each(|record| self.watch(record));
    }

    /// Plans and acts until there is nothing to do now; true when the Pod is gone for good.
    fn step(&mut self) -> bool {
        let pod = self.pod.clone();
        let Some(view) = PodView::new(&pod) else {
            return true;
        };
        let mut decided = Plan::default();
        for _ in 0..PLANS_IN_A_ROW {
            decided = plan(view, &self.seen, Timestamp::now());
            let actions = std::mem::take(&mut decided.actions);
            if actions.is_empty() {
                break;
            }
            actions.into_iter().for_each(|action| self.act(view, action));
        }
        self.wake_at(decided.wake);
        if decided.ended && self.seen.orphaned {
            self.clean_up(view);
            return true;
        }
        self.report(view, decided.ended && view.is_deleted());
        false
    }

    /// Sets the timer for the next plan.
    fn wake_at(&mut self, when: Option<Timestamp>) {
        self.seen.wake = when;
    }

    fn sleep(&self) -> Duration {
        let until = self.seen.wake.map(|when| when.duration_since(Timestamp::now()));
        let until = until.map_or(LONGEST_SLEEP, |d| Duration::try_from(d).unwrap_or(Duration::ZERO));
        until.min(LONGEST_SLEEP)
    }

    /// Waits for whatever comes first and takes it in.
    async fn wait(&mut self, desired: &mut watch::Receiver<Desired>) {
        let sleep = self.sleep();
        tokio::select! {
            changed = desired.changed() => match changed {
                Ok(()) => {
                    let new = desired.borrow_and_update().clone();
                    self.desire(new);
                }
                // The manager is ending: so is the agent.
                Err(_) => self.ctx.shutdown.cancelled().await,
            },
            Some(outcome) = self.under_way.join_next(), if !self.under_way.is_empty() => match outcome {
                Ok(outcome) => self.take_in(outcome),
                Err(error) if error.is_cancelled() => {}
                Err(error) => tracing::error!(%error, "a step of a Pod failed unexpectedly"),
            },
            () = self.refresh_wanted.notified() => self.refresh(),
            () = tokio::time::sleep(sleep) => {}
        }
    }

    fn desire(&mut self, desired: Desired) {
        self.seen.orphaned |= desired.gone;
        let changed = self.pod.metadata.labels != desired.pod.metadata.labels
            || self.pod.metadata.annotations != desired.pod.metadata.annotations;
        self.pod = desired.pod;
        if changed {
            self.refresh_wanted.notify_one();
        }
    }

    fn act(&mut self, pod: PodView<'_>, action: Action) {
        match action {
            Action::Prepare => self.prepare(),
            Action::Start { container, attempt } => self.start(container, attempt),
            Action::Cancel { container } => self.cancel(&container),
            Action::Kill {
                container,
                grace,
                message,
            } => self.kill(pod, &container, grace, message),
            Action::Hold { container, waiting } => self.hold(pod, container, waiting),
            Action::End(verdict) => self.end(pod, verdict),
            Action::TearDown => self.tear_down(),
        }
    }

    fn prepare(&mut self) {
        self.seen.sandbox = Sandbox::Preparing;
        let (ctx, pod) = (self.ctx.clone(), self.pod.clone());
        self.under_way.spawn(async move {
            let Some(view) = PodView::new(&pod) else {
                return Outcome::Stopped;
            };
            Outcome::Prepared(sandbox::prepare(&ctx, view).await)
        });
    }

    fn start(&mut self, container: String, attempt: u32) {
        let now = Timestamp::now();
        let seen = self.seen.containers.entry(container.clone()).or_default();
        if let Some(exit) = seen.last.as_ref().and_then(Record::exit) {
            let finished = exit.finished_at.unwrap_or(now);
            seen.restarts.next(finished, now);
        }
        seen.busy = Busy::Starting;
        let cancel = CancellationToken::new();
        self.starts.insert(container.clone(), cancel.clone());
        let job = Job {
            pod: self.pod.clone(),
            container: container.clone(),
            attempt,
            ips: self.seen.ips.clone(),
            namespaces: self.namespaces.clone(),
            cancel,
        };
        let ctx = self.ctx.clone();
        self.under_way.spawn(async move {
            let result = start::start(ctx, job).await;
            Outcome::Started { container, result }
        });
    }

    fn cancel(&mut self, container: &str) {
        if let Some(token) = self.starts.get(container) {
            token.cancel();
        }
        if let Some(seen) = self.seen.containers.get_mut(container) {
            seen.busy = Busy::Cancelling;
        }
    }

    fn kill(&mut self, pod: PodView<'_>, container: &str, grace: i64, message: String) {
        let Some(seen) = self.seen.containers.get_mut(container) else {
            return;
        };
        let Some(record) = seen.last.clone() else { return };
        if seen.busy == Busy::Idle {
            self.ctx
                .recorder
                .container(pod, container, Normal, "Killing", message);
        }
        let grace = SignedDuration::from_secs(grace.max(0));
        let until = Timestamp::now().checked_add(grace).unwrap_or(Timestamp::MAX);
        seen.busy = Busy::Killing { until };
        seen.health.ready = false;
        let grace = Duration::try_from(grace).unwrap_or_default();
        let stop = self.under_way.spawn(async move {
            tasks::stop(record, grace).await;
            Outcome::Stopped
        });
        if let Some(slower) = self.stops.insert(container.to_owned(), stop) {
            slower.abort();
        }
    }

    fn hold(&mut self, pod: PodView<'_>, container: String, waiting: Waiting) {
        let event = |severity, message| {
            self.ctx
                .recorder
                .container(pod, &container, severity, "BackOff", message);
        };
        if waiting.reason == "CrashLoopBackOff" {
            let name = pod.full_name();
            event(
                Warning,
                format!("Back-off restarting failed container {container} in pod {name}"),
            );
        } else {
            let image = pod
                .container(&container)
                .and_then(|(c, _)| c.image.clone())
                .unwrap_or_default();
            event(Normal, format!("Back-off pulling image {image:?}"));
            let message = format!("Error: {}", waiting.reason);
            self.ctx
                .recorder
                .container(pod, &container, Warning, "Failed", message);
        }
        self.seen.containers.entry(container).or_default().waiting = Some(waiting);
    }

    fn end(&mut self, pod: PodView<'_>, verdict: Verdict) {
        self.ctx
            .recorder
            .pod(pod, Normal, "DeadlineExceeded", verdict.message.clone());
        self.seen.verdict = Some(verdict);
    }

    fn tear_down(&mut self) {
        self.seen.sandbox = Sandbox::TearingDown;
        self.watches.abort_all();
        let (ctx, pod) = (self.ctx.clone(), self.pod.clone());
        self.under_way.spawn(async move {
            let Some(view) = PodView::new(&pod) else {
                return Outcome::Stopped;
            };
            Outcome::TornDown(sandbox::tear_down(&ctx, view).await)
        });
    }

    fn refresh(&mut self) {
        if self.seen.sandbox != Sandbox::Ready {
            return;
        }
        let (ctx, pod, ips) = (self.ctx.clone(), self.pod.clone(), self.seen.ips.clone());
        self.under_way.spawn(async move {
            let Some(view) = PodView::new(&pod) else {
                return Outcome::Stopped;
            };
            Outcome::Refreshed(sandbox::set_up_volumes(&ctx, view, &ips).await)
        });
    }

    fn take_in(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Prepared(result) => self.prepared(result),
            Outcome::Started { container, result } => self.started(container, result),
            Outcome::Exited(record) => self.exited(record),
            Outcome::TornDown(Ok(())) => self.seen.sandbox = Sandbox::Gone,
            Outcome::TornDown(Err(error)) => self.sandbox_failed("FailedKillPod", error.to_string()),
            Outcome::Refreshed(Err(error)) => self.warn(error.event_reason(), error.to_string()),
            Outcome::Refreshed(Ok(())) | Outcome::Stopped => {}
        }
    }

    fn warn(&self, reason: &'static str, message: String) {
        if let Some(view) = PodView::new(&self.pod) {
            self.ctx.recorder.pod(view, Warning, reason, message);
        }
    }

    fn sandbox_failed(&mut self, reason: &'static str, message: String) {
        let retry_at = Timestamp::now().checked_add(RETRY).unwrap_or(Timestamp::MAX);
        self.seen.sandbox = Sandbox::Failed {
            message: message.clone(),
            retry_at,
        };
        self.warn(reason, message);
    }

    fn prepared(&mut self, result: Result<Surroundings, PrepareError>) {
        match result {
            Ok(made) => {
                self.seen.sandbox = Sandbox::Ready;
                self.seen.ips = made.ips;
                self.namespaces = made.namespaces;
                if !made.adopted {
                    self.forsake_running();
                }
                refresh::watch(&self.ctx, &self.pod, &self.refresh_wanted, &mut self.watches);
            }
            Err(error) => {
                let reason = error.event_reason();
                let message = match &error {
                    PrepareError::Volume { .. } | PrepareError::Objects { .. } => error.to_string(),
                    other => format!("Failed to create pod sandbox: {other}"),
                };
                self.sandbox_failed(reason, message);
            }
        }
    }

    /// Containers that ran in namespaces which are no more are stopped at once; the plan starts them anew.
    fn forsake_running(&mut self) {
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

    fn started(&mut self, container: String, result: Result<Record, StartFailure>) {
        self.starts.remove(&container);
        let seen = self.seen.containers.entry(container.clone()).or_default();
        seen.busy = Busy::Idle;
        match result {
            Ok(record) => {
                seen.waiting = None;
                self.push(record.clone());
                self.fresh_health(&container);
                self.watch(record);
                self.forget_old(&container);
            }
            Err(failure) => self.start_failed(container, failure),
        }
    }

    fn start_failed(&mut self, container: String, failure: StartFailure) {
        let StartFailure {
            reason,
            message,
            kind,
        } = failure;
        let now = Timestamp::now();
        if matches!(kind, FailureKind::Cancelled) {
            return;
        }
        if let Some(view) = PodView::new(&self.pod) {
            let what = if matches!(kind, FailureKind::Image) {
                reason
            } else {
                message.as_str()
            };
            self.ctx
                .recorder
                .container(view, &container, Warning, "Failed", format!("Error: {what}"));
        }
        let mut retry_at = now.checked_add(RETRY).unwrap_or(Timestamp::MAX);
        let seen = self.seen.containers.entry(container.clone()).or_default();
        if matches!(kind, FailureKind::Image) {
            seen.pulls.next(now, now);
            retry_at = seen.pulls.until(now).unwrap_or(retry_at);
        }
        seen.waiting = Some(Waiting {
            reason,
            message,
            retry_at,
            since: now,
        });
        if let FailureKind::Attempt(record) = kind {
            self.push(*record);
            self.forget_old(&container);
        }
    }

    fn exited(&mut self, record: Record) {
        if let Some(stop) = self.stops.remove(&record.container) {
            stop.abort();
        }
        let Some(seen) = self.seen.containers.get_mut(&record.container) else {
            return;
        };
        seen.busy = Busy::Idle;
        seen.health = Default::default();
        seen.last = Some(record);
    }

    /// Takes an attempt as the container's newest.
    fn push(&mut self, record: Record) {
        let seen = self.seen.containers.entry(record.container.clone()).or_default();
        seen.previous = seen.last.take();
        seen.last = Some(record);
        let name = seen
            .last
            .as_ref()
            .map(|r| r.container.clone())
            .unwrap_or_default();
        self.fresh_health(&name);
    }

    /// Without a probe a running container is started and ready.
    fn fresh_health(&mut self, name: &str) {
        let pod = self.pod.clone();
        let spec = PodView::new(&pod).and_then(|view| view.container(name));
        let Some((container, _)) = spec else { return };
        if let Some(seen) = self.seen.containers.get_mut(name) {
            let started = container.startup_probe.is_none();
            seen.health.started = started;
            seen.health.ready = started && container.readiness_probe.is_none();
            seen.health.failed = None;
        }
    }

    fn watch(&mut self, record: Record) {
        let (ctx, pod) = (self.ctx.clone(), self.pod.clone());
        self.under_way
            .spawn(async move { Outcome::Exited(tasks::wait(ctx, pod, record).await) });
    }

    /// Removes attempts older than the last two, with their logs.
    fn forget_old(&self, container: &str) {
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
        for path in [dirs.attempt(container, gone), dirs.log(container, gone)] {
            let removed = if path.is_dir() {
                std::fs::remove_dir_all(&path)
            } else {
                std::fs::remove_file(&path)
            };
            if let Err(error) = removed.or_else(ignore_absent) {
                tracing::warn!(%error, path = %path.display(), "cannot remove an old attempt");
            }
        }
    }

    fn report(&mut self, pod: PodView<'_>, remove: bool) {
        if self.seen.orphaned {
            return;
        }
        let host = &self.ctx.host_ips;
        let status = status::status(pod, &self.seen, host, self.last_status.as_ref(), Timestamp::now());
        let remove = remove && status::is_settled(&status);
        self.last_status = Some(status.clone());
        let report = Report {
            status: Some(status),
            remove,
        };
        self.reports.send_if_modified(|old| {
            let changed = *old != report;
            *old = report;
            changed
        });
    }

    /// The Pod is gone from the API and runs nowhere: nothing of it is kept.
    fn clean_up(&self, pod: PodView<'_>) {
        let dirs = self.ctx.dirs(pod);
        for dir in [&dirs.root, &dirs.logs] {
            if let Err(error) = host::remove_tree(dir) {
                tracing::warn!(%error, pod = %pod.full_name(), "a directory of a removed Pod stays");
            }
        }
    }
}

fn ignore_absent(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::NotFound {
        Ok(())
    } else {
        Err(error)
    }
}

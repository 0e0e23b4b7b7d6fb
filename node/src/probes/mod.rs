//! Startup, liveness and readiness probes of running containers, by HTTP, TCP, gRPC and commands.
//!
//! One [`Probing`] per running attempt of a container; what it learns goes to a [`ProbeSink`]. Follows
//! the documentation of probes (Concepts, Pod Lifecycle; API reference, Probe). Knows a container's
//! spec and the Pod's address; refuses to know how containers are started or ended.

mod check;
mod dial;
mod grpc;
pub mod hook;
mod http;
mod tally;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Probe};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

pub use check::Exec;
use check::{Check, Outcome};
use tally::{Tally, Verdict};

/// Which of a container's probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Startup,
    Liveness,
    Readiness,
}

impl Kind {
    /// As events begin.
    fn title(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }

    /// As in "failed liveness probe".
    pub fn name(self) -> &'static str {
        match self {
            Self::Startup => "startup",
            Self::Liveness => "liveness",
            Self::Readiness => "readiness",
        }
    }

    fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Self::Startup => container.startup_probe.as_ref(),
            Self::Liveness => container.liveness_probe.as_ref(),
            Self::Readiness => container.readiness_probe.as_ref(),
        }
    }
}

/// What the probes say of one running attempt of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// The startup probe has succeeded, or there is none.
    pub started: bool,
    /// Started, and the readiness probe succeeded last or there is none.
    pub ready: bool,
    /// The probe that failed for good: the container must be restarted.
    pub failed: Option<Kind>,
}

impl Health {
    /// What holds before anything was probed: what no probe speaks against.
    pub fn unprobed(container: &Container) -> Self {
        let started = container.startup_probe.is_none();
        Self {
            started,
            ready: started && container.readiness_probe.is_none(),
            failed: None,
        }
    }
}

/// A warning for the Pod's events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeEvent {
    /// `Unhealthy` or `ProbeWarning`.
    pub reason: &'static str,
    pub message: String,
}

/// Who hears what probes find. Called from the probes' tasks: must not block.
pub trait ProbeSink: Send + Sync + 'static {
    /// The health of an attempt is another than before.
    fn health(&self, container_id: &str, health: Health);
    /// A probe was made: its title, whether the answer was `successful` or `failed`, and how long it took.
    fn probed(&self, container: &str, probe: &'static str, result: &'static str, took: Duration);
    /// Something to tell the user; the event's type is Warning.
    fn event(&self, container: &str, event: ProbeEvent);
}

/// A running attempt of a container.
#[derive(Clone, Debug)]
pub struct Target {
    pub container: Container,
    pub container_id: String,
    /// The Pod's address, or the node's for Pods in the host's network.
    pub pod_ip: IpAddr,
    pub started_at: Timestamp,
    /// How commands are run in it; `None` where nothing can be.
    pub exec: Option<Exec>,
    /// What was known of this attempt before the agent was restarted.
    pub before: Option<Health>,
}

/// The probing of one attempt, until dropped.
#[derive(Debug)]
pub struct Probing {
    health: watch::Receiver<Health>,
    terminating: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

impl Probing {
    /// Starts the probes a container has; for one without, nothing runs. Must be called within a tokio runtime.
    pub fn start(target: Target, sink: Arc<dyn ProbeSink>) -> Self {
        let initial = target
            .before
            .unwrap_or_else(|| Health::unprobed(&target.container));
        let (health, seen) = watch::channel(initial);
        let (terminating, _) = watch::channel(false);
        let shared = Arc::new(Shared { target, sink, health });
        let mut tasks = JoinSet::new();
        for kind in [Kind::Startup, Kind::Liveness, Kind::Readiness] {
            if let Some(probe) = kind.of(&shared.target.container) {
                let worker = Worker::new(kind, probe, shared.clone());
                tasks.spawn(worker.run(terminating.subscribe()));
            }
        }
        Self {
            health: seen,
            terminating,
            _tasks: tasks,
        }
    }

    /// What is known now.
    pub fn health(&self) -> Health {
        *self.health.borrow()
    }

    /// The Pod is being deleted: only readiness matters from now on.
    pub fn pod_is_terminating(&self) {
        self.terminating.send_replace(true);
    }
}

struct Shared {
    target: Target,
    sink: Arc<dyn ProbeSink>,
    health: watch::Sender<Health>,
}

impl Shared {
    fn update(&self, change: impl FnOnce(&mut Health)) {
        let changed = self.health.send_if_modified(|health| {
            let before = *health;
            change(health);
            before != *health
        });
        if changed {
            self.sink.health(&self.target.container_id, *self.health.borrow());
        }
    }
}

/// One probe of one attempt.
struct Worker {
    kind: Kind,
    check: Check,
    tally: Tally,
    first: Instant,
    period: Duration,
    shared: Arc<Shared>,
}

impl Worker {
    fn new(kind: Kind, probe: &Probe, shared: Arc<Shared>) -> Self {
        let period = seconds(probe.period_seconds, 10);
        let check = Check::of(probe, &shared.target);
        let delay = Duration::from_secs(u64::try_from(probe.initial_delay_seconds.unwrap_or(0)).unwrap_or(0));
        let mut first = Instant::now() + delay.saturating_sub(age(shared.target.started_at));
        if shared.target.before.is_some() {
            // A restarted agent finds many containers at once; their probes are spread over a period.
            first += period.mul_f64(rand::random());
        }
        let tally = Tally::new(probe.success_threshold, probe.failure_threshold);
        Self {
            kind,
            check,
            tally,
            first,
            period,
            shared,
        }
    }

    async fn run(mut self, terminating: watch::Receiver<bool>) {
        if self.kind == Kind::Readiness {
            return self.probe_until_verdict_is_final().await;
        }
        let mut terminating = terminating;
        tokio::select! {
            () = self.probe_until_verdict_is_final() => {}
            // An error means that the owner is gone, and this task with it.
            _ = terminating.wait_for(|is| *is) => {}
        }
    }

    async fn probe_until_verdict_is_final(&mut self) {
        if self.kind == Kind::Startup && self.shared.health.borrow().started {
            return;
        }
        if self.kind != Kind::Startup {
            let mut health = self.shared.health.subscribe();
            // The sender lives in self.shared.
            let _ = health.wait_for(|h| h.started).await;
        }
        let mut ticks = interval_at(self.first.max(Instant::now()), self.period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let begun = Instant::now();
            let outcome = self.check.run().await;
            self.tell(&outcome, begun.elapsed());
            if self
                .tally
                .record(&outcome)
                .is_some_and(|verdict| self.apply(verdict))
            {
                return;
            }
        }
    }

    /// Notes a verdict; true when this probe has nothing more to find out about this attempt.
    fn apply(&self, verdict: Verdict) -> bool {
        let passed = verdict == Verdict::Passed;
        let has_readiness = self.shared.target.container.readiness_probe.is_some();
        self.shared.update(|health| match self.kind {
            Kind::Readiness => health.ready = passed,
            Kind::Startup if passed => {
                health.started = true;
                health.ready = !has_readiness;
            }
            Kind::Startup | Kind::Liveness => {
                if !passed {
                    health.failed = Some(self.kind);
                }
            }
        });
        match self.kind {
            Kind::Readiness => false,
            Kind::Startup => true,
            Kind::Liveness => !passed,
        }
    }

    fn tell(&self, outcome: &Outcome, took: Duration) {
        let title = self.kind.title();
        let container = &self.shared.target.container.name;
        if let Some(result) = outcome.result() {
            self.shared.sink.probed(container, title, result, took);
        }
        let (reason, message) = match outcome {
            Outcome::Success => return,
            Outcome::Warning(text) => ("ProbeWarning", format!("{title} probe warning: {text}")),
            Outcome::Failure(text) => ("Unhealthy", format!("{title} probe failed: {text}")),
            Outcome::Error(text) => (
                "Unhealthy",
                format!("{title} probe errored and resulted in unknown state: {text}"),
            ),
            Outcome::BrokenOff(text) => (
                "Unhealthy",
                format!("{title} probe errored and resulted in failure state: {text}"),
            ),
        };
        self.shared.sink.event(container, ProbeEvent { reason, message });
    }
}

/// A number of seconds, or the default where it is absent or makes no sense.
fn seconds(given: Option<i32>, default: u64) -> Duration {
    Duration::from_secs(
        given
            .and_then(|s| u64::try_from(s).ok())
            .filter(|s| *s > 0)
            .unwrap_or(default),
    )
}

fn age(since: Timestamp) -> Duration {
    Duration::try_from(Timestamp::now().duration_since(since)).unwrap_or_default()
}

#[cfg(test)]
mod tests;

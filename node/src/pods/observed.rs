//! What a worker has seen of its Pod on this host: the sandbox, each container's attempts, what is under
//! way. Plain data that `plan` and `status` read; only the worker changes it. Times that something waits for are steady ones; those
//! that the API is told, and those in records, are the wall clock's.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;

use super::backoff::Backoff;
use super::record::Record;
use super::resize::{Failed, Pending};
use super::restart_all::Superseded;

/// A Pod as seen on this host.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    pub sandbox: Sandbox,
    /// In boxes: a map has room for eleven from the first on.
    pub containers: BTreeMap<String, Box<Seen>>,
    /// Address the Pod has or had.
    pub ips: Vec<IpAddr>,
    /// When this agent first took the Pod on: `status.startTime`.
    pub start_time: Option<Timestamp>,
    /// The same in steady time, as everything that decisions go by.
    pub active_since: Option<Timestamp>,
    /// A verdict of the node that ends the Pod whatever its restart policy.
    pub verdict: Option<Verdict>,
    /// The API object is gone: nothing is left to report to.
    pub orphaned: bool,
    /// Seconds its containers have at most, where it was gone before this agent came.
    pub orphan_grace: Option<i64>,
    /// Identity of this boot: init containers of another do not count.
    pub boot_id: String,
    /// All attempts that there are count no more as soon as that is on disk (KEP-5532).
    pub noting: bool,
    /// When everything was started anew last.
    pub restarted_all: Option<Timestamp>,
    /// Why the resources that the API wants are not given yet.
    pub pending: Option<Pending>,
    /// When to plan again at the latest.
    pub wake: Option<Timestamp>,
}

/// Volumes, files and namespaces a Pod's containers share.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Sandbox {
    #[default]
    Absent,
    Preparing,
    /// Could not be made; tried again at the time given.
    Failed {
        message: String,
        retry_at: Timestamp,
    },
    Ready,
    TearingDown,
    /// Could not be taken away; tried again at the time given.
    Stays {
        retry_at: Timestamp,
    },
    /// Torn down for good.
    Gone,
}

/// Why the node ends a Pod: `status.reason` and `status.message`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdict {
    pub reason: String,
    pub message: String,
    /// Seconds its containers get, when not what the Pod asks for.
    pub grace: Option<i64>,
    /// What the condition DisruptionTarget says, where there is one: the node needs its room (KEP-3329).
    pub disruption: Option<String>,
    /// What the event says besides: who used how much of what.
    pub annotations: BTreeMap<String, String>,
}

impl Verdict {
    /// Takes over the shorter time of another verdict.
    pub fn hurry(&mut self, other: &Verdict) {
        self.grace = [self.grace, other.grace].into_iter().flatten().min();
    }
}

/// One container as seen on this host.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// The newest attempt.
    pub last: Option<Record>,
    /// It counts no more: everything of the Pod starts anew since (KEP-5532).
    pub superseded: Option<Superseded>,
    /// The attempt before it.
    pub previous: Option<Record>,
    /// The same of that one.
    pub previous_superseded: Option<Superseded>,
    /// When the end of the newest was seen, if that was while this agent ran.
    pub ended: Option<Timestamp>,
    pub busy: Busy,
    /// Why the next attempt is not running yet.
    pub waiting: Option<Waiting>,
    /// Delays between restarts.
    pub restarts: Backoff,
    /// Delays between pulls of its image.
    pub pulls: Backoff,
    pub health: Health,
    /// It was stopped to be started again, whatever its restart policy.
    pub due: Option<Due>,
    /// The last try to change its limits failed.
    pub resize_failed: Option<Failed>,
}

/// Why the node stopped a container that it starts again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// A probe failed, or its definition has changed.
    Unfit,
    /// It gets other resources.
    Resize,
}

/// The one thing under way with a container.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Busy {
    #[default]
    Idle,
    /// Pulling, creating or starting the next attempt.
    Starting,
    /// That start was given up and has not ended yet.
    Cancelling,
    /// `preStop` was begun, then SIGTERM; SIGKILL follows at `until`. While it `waits`, SIGTERM is for after the end of
    /// others.
    Killing { until: Timestamp, waits: bool },
    /// Its limits are being changed.
    Resizing,
}

/// A reason for waiting as the API reports it.
#[derive(Clone, Debug, PartialEq)]
pub struct Waiting {
    pub reason: &'static str,
    pub message: String,
    /// The image that could not be had, when it is for that.
    pub image: String,
    /// When to try again.
    pub retry_at: Timestamp,
    /// When the failure happened.
    pub since: Timestamp,
}

/// What the probes say of the running attempt.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Health {
    /// The readiness probe succeeded last, or there is none.
    pub ready: bool,
    /// The startup probe has succeeded, or there is none.
    pub started: bool,
    /// The liveness or startup probe has failed for good.
    pub failed: Option<&'static str>,
}

impl Seen {
    pub fn is_running(&self) -> bool {
        self.last.as_ref().is_some_and(Record::is_running)
    }

    /// True when a task may exist at a shim for this container.
    pub fn may_live(&self) -> bool {
        matches!(self.busy, Busy::Starting | Busy::Cancelling)
            || self.last.as_ref().is_some_and(|r| r.exit().is_none())
    }

    /// How it ended, unless that counts no more.
    pub fn exit_code(&self) -> Option<i32> {
        let counts = self.last.as_ref().filter(|_| self.superseded.is_none());
        counts.and_then(Record::exit).map(|exit| exit.exit_code)
    }

    /// Number the next attempt gets.
    pub fn next_attempt(&self) -> u32 {
        self.last.as_ref().map_or(0, |r| r.attempt + 1)
    }
}

//! What became of the requests of one schema in one level, for `/metrics` (upstream's `apiserver_flowcontrol_…`). Counts
//! only; knows nothing of why.
use crate::measures::{Histogram, Scale};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Upstream's buckets of `request_wait_duration_seconds`, in microseconds.
const WAITS: [u64; 13] = [
    0, 5_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000, 2_000_000, 5_000_000, 10_000_000,
    15_000_000, 30_000_000,
];

/// Why a request is sent back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Its level lets nobody wait.
    ConcurrencyLimit,
    QueueFull,
    /// It, or its client, did not wait any longer.
    TimeOut,
}

impl Reason {
    pub const ALL: [Reason; 3] = [Reason::ConcurrencyLimit, Reason::QueueFull, Reason::TimeOut];

    pub fn word(self) -> &'static str {
        match self {
            Reason::ConcurrencyLimit => "concurrency-limit",
            Reason::QueueFull => "queue-full",
            Reason::TimeOut => "time-out",
        }
    }
}

/// Requests and their seats.
#[derive(Debug, Default)]
pub struct Load {
    pub requests: AtomicI64,
    pub seats: AtomicI64,
}

impl Load {
    fn add(&self, seats: i64) {
        self.requests.fetch_add(seats.signum(), Ordering::Relaxed);
        self.seats.fetch_add(seats, Ordering::Relaxed);
    }
}

#[derive(Debug)]
pub struct Counts {
    pub dispatched: AtomicU64,
    rejected: [AtomicU64; Reason::ALL.len()],
    pub waiting: Load,
    pub executing: Load,
    /// How long those waited who were seated at last.
    pub seated: Histogram<{ WAITS.len() }>,
    /// How long those waited who were not.
    pub given_up: Histogram<{ WAITS.len() }>,
}

impl Default for Counts {
    fn default() -> Self {
        Counts {
            dispatched: AtomicU64::default(),
            rejected: Default::default(),
            waiting: Load::default(),
            executing: Load::default(),
            seated: Histogram::new(Scale::Microseconds, &WAITS),
            given_up: Histogram::new(Scale::Microseconds, &WAITS),
        }
    }
}

impl Counts {
    pub fn rejected(&self, reason: Reason) -> u64 {
        self.rejected[reason as usize].load(Ordering::Relaxed)
    }

    pub(super) fn reject(&self, reason: Reason) {
        self.rejected[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// A request has so many seats, until what this returns is dropped.
    pub(super) fn dispatch(self: &Arc<Self>, seats: usize) -> Executing {
        let seats = i64::try_from(seats).unwrap_or(i64::MAX);
        self.dispatched.fetch_add(1, Ordering::Relaxed);
        self.executing.add(seats);
        Executing {
            counts: self.clone(),
            seats,
        }
    }

    /// A request waits for so many seats.
    pub(super) fn queue(&self, seats: usize) -> Queued<'_> {
        let seats = i64::try_from(seats).unwrap_or(i64::MAX);
        self.waiting.add(seats);
        Queued {
            counts: self,
            seats,
            since: Instant::now(),
            seated: false,
        }
    }

    /// A request had its seats at once.
    pub(super) fn seat_at_once(&self) {
        self.seated.observe(Duration::ZERO);
    }
}

/// A request that is worked on.
pub(super) struct Executing {
    pub(super) counts: Arc<Counts>,
    seats: i64,
}

impl Executing {
    /// It has so many seats from now on.
    pub(super) fn has(&mut self, seats: usize) {
        let seats = i64::try_from(seats).unwrap_or(i64::MAX);
        let before = std::mem::replace(&mut self.seats, seats);
        self.counts
            .executing
            .seats
            .fetch_add(seats - before, Ordering::Relaxed);
    }
}

impl Drop for Executing {
    fn drop(&mut self) {
        self.counts.executing.add(-self.seats);
    }
}

/// A request that waits; one that is dropped before it is seated has given up.
pub(super) struct Queued<'a> {
    counts: &'a Counts,
    seats: i64,
    since: Instant,
    seated: bool,
}

impl Queued<'_> {
    /// How long it was.
    pub(super) fn seated(mut self) -> Duration {
        self.seated = true;
        self.since.elapsed()
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.counts.waiting.add(-self.seats);
        let waited = self.since.elapsed();
        if self.seated {
            return self.counts.seated.observe(waited);
        }
        self.counts.given_up.observe(waited);
        self.counts.reject(Reason::TimeOut);
    }
}

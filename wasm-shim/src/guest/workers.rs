//! How many threads run a container's guests, and how much of a processor each has beside others.
//!
//! Owns the numbers. Refuses to know threads.

use crate::engine::meter::Quota;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Workers beyond the first of each container which all containers of this process may have, for each processor. When so
/// many are at work, more threads answer no sooner.
const SPARE_PER_PROCESSOR: usize = 16;

/// The default share of a cgroup (`cpu.shares`), which is nice 0.
const DEFAULT_SHARES: u64 = 1024;

/// The kernel's nice levels differ by this factor (sched(7)).
const NICE_STEP: f64 = 1.25;

/// Workers that containers of this process share among themselves.
#[derive(Clone)]
pub struct Spare(Arc<Semaphore>);

impl Spare {
    /// As many as do some good on this machine.
    pub fn of_this_machine() -> Self {
        Self::new(processors() * SPARE_PER_PROCESSOR)
    }

    /// So many workers.
    pub fn new(workers: usize) -> Self {
        Self(Arc::new(Semaphore::new(workers)))
    }

    /// Those that nobody has.
    pub fn left(&self) -> usize {
        self.0.available_permits()
    }

    /// What there is of `wanted`, until it is dropped.
    pub fn take(&self, wanted: usize) -> Option<OwnedSemaphorePermit> {
        let there = wanted.min(self.left());
        let there = u32::try_from(there).ok().filter(|there| *there > 0)?;
        // Another container was faster: one worker will do.
        Arc::clone(&self.0).try_acquire_many_owned(there).ok()
    }
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Workers for a container that may use this much of the processors' time.
pub fn workers(quota: Option<Quota>) -> usize {
    let most = processors();
    let allowed = quota.map(|quota| quota.time.as_nanos().div_ceil(quota.period.as_nanos().max(1)));
    let allowed = allowed.and_then(|allowed| usize::try_from(allowed).ok());
    allowed.unwrap_or(most).clamp(1, most)
}

/// The nice value whose weight is nearest to `shares`.
pub fn nice(shares: u64) -> i32 {
    let ratio = DEFAULT_SHARES as f64 / shares.max(2) as f64;
    (ratio.ln() / NICE_STEP.ln()).round().clamp(-20.0, 19.0) as i32
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn shares_become_nice_values() {
        for (shares, expected) in [(1024, 0), (2048, -3), (512, 3), (2, 19), (0, 19), (1 << 18, -20)] {
            assert_eq!(nice(shares), expected, "{shares}");
        }
    }

    #[test]
    fn workers_follow_the_limit() {
        let quota = |millis| {
            Some(Quota {
                time: Duration::from_millis(millis),
                period: Duration::from_millis(100),
            })
        };
        assert_eq!(workers(None), processors());
        assert_eq!(workers(quota(1)), 1);
        assert_eq!(workers(quota(100)), 1);
        assert_eq!(workers(quota(101)), 2.min(processors()));
        assert_eq!(workers(quota(1_000_000)), processors());
    }
}

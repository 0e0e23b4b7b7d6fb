//! Turns at computing, for guests that use whole epochs.
//!
//! Owns who computes next. Refuses to know guests. The kernel would schedule a hundred spinning threads well enough
//! among themselves, but one that wakes for a request would queue behind all of them. So no more of them are runnable
//! than there are processors, and those who wait here are let in by virtual time, as the kernel's own fair scheduler
//! does it: CPU time divided by shares, least first (`sched(7)`, `sched-design-CFS`). A guest that answers within an
//! epoch never waits.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// Shares at which virtual time is CPU time (the default of a cgroup's `cpu.shares`).
const DEFAULT_SHARES: u64 = 1024;

/// The least a cgroup may have; what was not said counts as that.
const LEAST_SHARES: u64 = 2;

/// The clock of one container among all: CPU time divided by shares.
#[derive(Debug)]
pub struct VirtualTime {
    nanos: AtomicU64,
    shares: AtomicU64,
}

impl VirtualTime {
    /// The clock of a container with these shares.
    pub fn new(shares: u64) -> Self {
        Self {
            nanos: AtomicU64::new(0),
            shares: AtomicU64::new(shares.max(LEAST_SHARES)),
        }
    }

    /// From now on it goes by these shares.
    pub fn weigh(&self, shares: u64) {
        self.shares.store(shares.max(LEAST_SHARES), Ordering::Relaxed);
    }

    /// Moves on by CPU time that was used.
    pub fn spend(&self, time: Duration) {
        let shares = self.shares.load(Ordering::Relaxed);
        let scaled = time.as_nanos() * u128::from(DEFAULT_SHARES) / u128::from(shares);
        let scaled = u64::try_from(scaled).unwrap_or(u64::MAX);
        self.nanos.fetch_add(scaled, Ordering::Relaxed);
    }

    /// Moves to `floor` if it is behind: who did not compute for long has saved nothing up.
    fn at_least(&self, floor: u64) -> u64 {
        self.nanos.fetch_max(floor, Ordering::Relaxed).max(floor)
    }
}

/// The order of those who wait: by virtual time, then by arrival.
type Place = (u64, u64);

struct Queue {
    free: usize,
    /// Virtual time of the last one let in.
    floor: u64,
    arrivals: u64,
    waiting: BTreeMap<Place, Waker>,
}

/// As many turns as there are processors.
pub struct Turns(Mutex<Queue>);

impl Turns {
    /// `most` turns at once.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Queue {
            free: most,
            floor: 0,
            arrivals: 0,
            waiting: BTreeMap::new(),
        })))
    }

    /// A turn for each processor this process may use.
    pub fn of_this_machine() -> Arc<Self> {
        Self::new(std::thread::available_parallelism().map_or(1, usize::from))
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a turn.
    pub fn wait(self: &Arc<Self>, time: &VirtualTime) -> Waiting {
        let mut queue = self.queue();
        let now = time.at_least(queue.floor);
        if queue.free > 0 {
            queue.free -= 1;
            return Waiting {
                turn: Some(Turn(Arc::clone(self))),
                queued: None,
            };
        }
        queue.arrivals += 1;
        let place = (now, queue.arrivals);
        queue.waiting.insert(place, Waker::noop().clone());
        drop(queue);
        Waiting {
            turn: None,
            queued: Some((Arc::clone(self), place)),
        }
    }

    /// Hands a turn to the next in the queue.
    fn release(&self) {
        let mut queue = self.queue();
        let Some((place, waker)) = queue.waiting.pop_first() else {
            queue.free += 1;
            return;
        };
        queue.floor = queue.floor.max(place.0);
        drop(queue);
        waker.wake();
    }
}

/// A turn at computing; it ends when this is dropped.
pub struct Turn(Arc<Turns>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.release();
    }
}

/// A place in the queue.
pub struct Waiting {
    turn: Option<Turn>,
    queued: Option<(Arc<Turns>, Place)>,
}

impl Future for Waiting {
    type Output = Turn;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Turn> {
        if let Some(turn) = self.turn.take() {
            return Poll::Ready(turn);
        }
        let Some((turns, place)) = &self.queued else {
            return Poll::Pending;
        };
        if let Some(waker) = turns.queue().waiting.get_mut(place) {
            waker.clone_from(cx.waker());
            return Poll::Pending;
        }
        // Whoever is no longer in the queue was let in.
        let turn = Turn(Arc::clone(turns));
        self.queued = None;
        Poll::Ready(turn)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some((turns, place)) = self.queued.take()
            && turns.queue().waiting.remove(&place).is_none()
        {
            turns.release();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poll(waiting: &mut Waiting) -> Option<Turn> {
        match Pin::new(waiting).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(turn) => Some(turn),
            Poll::Pending => None,
        }
    }

    #[test]
    fn the_least_served_is_next() {
        let turns = Turns::new(1);
        let (old, new) = (VirtualTime::new(1024), VirtualTime::new(1024));
        old.spend(Duration::from_secs(1));
        let running = poll(&mut turns.wait(&new));
        assert!(running.is_some());
        let (mut first, mut second) = (turns.wait(&old), turns.wait(&new));
        assert!(poll(&mut first).is_none() && poll(&mut second).is_none());
        drop(running);
        assert!(poll(&mut first).is_none());
        let turn = poll(&mut second);
        assert!(turn.is_some());
        drop(turn);
        assert!(poll(&mut first).is_some());
    }

    #[test]
    fn who_gives_up_hands_on_what_it_was_given() {
        let turns = Turns::new(1);
        let time = VirtualTime::new(2);
        let running = poll(&mut turns.wait(&time));
        let (first, waits_in_vain) = (turns.wait(&time), turns.wait(&time));
        let mut last = turns.wait(&time);
        drop(waits_in_vain);
        drop(running);
        drop(first);
        assert!(poll(&mut last).is_some());
        assert_eq!(turns.queue().free, 1);
    }

    #[test]
    fn shares_are_weights_and_idleness_saves_nothing_up() {
        let (large, small) = (VirtualTime::new(2048), VirtualTime::new(512));
        large.spend(Duration::from_millis(4));
        small.spend(Duration::from_millis(1));
        assert_eq!(large.at_least(0), small.at_least(0));
        small.weigh(2048);
        large.spend(Duration::from_millis(1));
        small.spend(Duration::from_millis(1));
        assert_eq!(large.at_least(0), small.at_least(0));
        assert_eq!(VirtualTime::new(0).at_least(7), 7);
    }
}

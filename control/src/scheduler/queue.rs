//! Pods waiting for a node: by priority, then by arrival; those that failed wait out a backoff or a change.
//!
//! A change that arrives while a Pod is being tried counts for it: it then waits only for its backoff.
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::toolkit::ObjectKey;
use crate::toolkit::lock::lock;

/// First wait of a Pod that could not be placed (upstream's default).
const BACKOFF_BASE: Duration = Duration::from_secs(1);
/// Longest wait (upstream's default).
const BACKOFF_MAX: Duration = Duration::from_secs(10);

pub struct SchedulingQueue {
    state: Mutex<State>,
    changed: Notify,
}

/// A Pod being tried, and what the queue knew when it was handed out.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Ticket {
    pub key: ObjectKey,
    cycle: u64,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Place {
    /// May be tried now; the number is its rank of arrival.
    Active(u64),
    /// May be tried from then on.
    Backoff(Instant, u64),
    /// Waits for something to change.
    Parked,
    /// Handed out.
    Tried,
}

struct Entry {
    priority: i32,
    attempts: u32,
    last_attempt: Instant,
    place: Place,
}

#[derive(Default)]
struct State {
    entries: HashMap<ObjectKey, Entry>,
    active: BTreeSet<(Reverse<i32>, u64, ObjectKey)>,
    backoff: BTreeMap<(Instant, u64), ObjectKey>,
    arrivals: u64,
    /// Counts changes, so that one during an attempt is noticed after it.
    cycle: u64,
}

impl SchedulingQueue {
    pub fn new() -> Self {
        Self {
            state: Mutex::new(State::default()),
            changed: Notify::new(),
        }
    }

    /// A Pod that is new, or asks for something else now: it may be tried at once.
    pub fn add(&self, key: ObjectKey, priority: i32) {
        lock(&self.state).add(key, priority);
        self.changed.notify_one();
    }

    /// A Pod that needs no node any more.
    pub fn forget(&self, key: &ObjectKey) {
        lock(&self.state).forget(key);
    }

    /// The most important Pod that may be tried; waits for one.
    pub async fn next(&self) -> Ticket {
        loop {
            let changed = self.changed.notified();
            let wake = {
                let mut state = lock(&self.state);
                state.promote(Instant::now());
                if let Some(ticket) = state.take(Instant::now()) {
                    return ticket;
                }
                state.backoff.keys().next().map(|(at, _)| *at)
            };
            match wake {
                Some(at) => tokio::select! { () = changed => {}, () = tokio::time::sleep_until(at) => {} },
                None => changed.await,
            }
        }
    }

    /// No node can take the Pod: it waits for a change.
    pub fn unschedulable(&self, ticket: &Ticket) {
        lock(&self.state).put_back(ticket, false);
        self.changed.notify_one();
    }

    /// Something went wrong that may go right next time: it waits for its backoff.
    pub fn failed(&self, ticket: &Ticket) {
        lock(&self.state).put_back(ticket, true);
        self.changed.notify_one();
    }

    /// A node or a Pod changed so that a parked Pod may fit.
    pub fn something_changed(&self) {
        lock(&self.state).unpark();
        self.changed.notify_one();
    }
}

impl State {
    fn add(&mut self, key: ObjectKey, priority: i32) {
        self.detach(&key);
        let (attempts, last_attempt) = self
            .entries
            .get(&key)
            .map_or((0, Instant::now()), |entry| (entry.attempts, entry.last_attempt));
        self.entries.insert(
            key.clone(),
            Entry {
                priority,
                attempts,
                last_attempt,
                place: Place::Parked,
            },
        );
        self.activate(&key);
    }

    fn activate(&mut self, key: &ObjectKey) {
        self.arrivals += 1;
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        entry.place = Place::Active(self.arrivals);
        self.active
            .insert((Reverse(entry.priority), self.arrivals, key.clone()));
    }

    fn detach(&mut self, key: &ObjectKey) {
        let Some(entry) = self.entries.get(key) else {
            return;
        };
        match entry.place {
            Place::Active(rank) => {
                self.active.remove(&(Reverse(entry.priority), rank, key.clone()));
            }
            Place::Backoff(at, rank) => {
                self.backoff.remove(&(at, rank));
            }
            Place::Parked | Place::Tried => {}
        }
    }

    fn forget(&mut self, key: &ObjectKey) {
        self.detach(key);
        self.entries.remove(key);
    }

    fn promote(&mut self, now: Instant) {
        while let Some(first) = self.backoff.first_entry().filter(|first| first.key().0 <= now) {
            let key = first.remove();
            self.activate(&key);
        }
    }

    fn take(&mut self, now: Instant) -> Option<Ticket> {
        let (_, _, key) = self.active.pop_first()?;
        let entry = self.entries.get_mut(&key)?;
        entry.place = Place::Tried;
        entry.attempts = entry.attempts.saturating_add(1);
        entry.last_attempt = now;
        Some(Ticket {
            key,
            cycle: self.cycle,
        })
    }

    /// A Pod that was forgotten or added anew meanwhile is left as it is.
    fn put_back(&mut self, ticket: &Ticket, soon: bool) {
        let missed_a_change = ticket.cycle != self.cycle;
        let Some(entry) = self
            .entries
            .get_mut(&ticket.key)
            .filter(|entry| entry.place == Place::Tried)
        else {
            return;
        };
        entry.place = Place::Parked;
        if soon || missed_a_change {
            self.wait_for_backoff(&ticket.key);
        }
    }

    fn wait_for_backoff(&mut self, key: &ObjectKey) {
        self.arrivals += 1;
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        let at = entry.last_attempt + backoff(entry.attempts);
        entry.place = Place::Backoff(at, self.arrivals);
        self.backoff.insert((at, self.arrivals), key.clone());
    }

    fn unpark(&mut self) {
        self.cycle += 1;
        let parked: Vec<ObjectKey> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.place == Place::Parked)
            .map(|(key, _)| key.clone())
            .collect();
        for key in parked {
            self.wait_for_backoff(&key);
        }
    }
}

fn backoff(attempts: u32) -> Duration {
    BACKOFF_BASE
        .saturating_mul(1 << attempts.saturating_sub(1).min(10))
        .min(BACKOFF_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new("n", name)
    }

    fn with(pods: &[(&str, i32)]) -> State {
        let mut state = State::default();
        pods.iter()
            .for_each(|(name, priority)| state.add(key(name), *priority));
        state
    }

    fn name(ticket: Option<Ticket>) -> Option<String> {
        ticket.map(|ticket| ticket.key.name)
    }

    #[test]
    fn priority_first_then_arrival() {
        let mut state = with(&[("a", 0), ("b", 10), ("c", 0)]);
        let order: Vec<String> = (0..3).filter_map(|_| name(state.take(Instant::now()))).collect();
        assert_eq!(order, ["b", "a", "c"]);
    }

    #[test]
    fn an_unschedulable_pod_waits_for_a_change_and_its_backoff() {
        let mut state = with(&[("a", 0)]);
        let start = Instant::now();
        let ticket = state.take(start).expect("a Pod");
        state.put_back(&ticket, false);
        state.promote(start + Duration::from_secs(3600));
        assert_eq!(name(state.take(start)), None, "nothing changed");
        state.unpark();
        state.promote(start + Duration::from_millis(999));
        assert_eq!(name(state.take(start)), None, "its backoff is not over");
        state.promote(start + BACKOFF_BASE);
        assert_eq!(name(state.take(start)), Some("a".into()));
    }

    #[test]
    fn a_change_during_the_attempt_is_not_lost() {
        let mut state = with(&[("a", 0)]);
        let start = Instant::now();
        let ticket = state.take(start).expect("a Pod");
        state.unpark();
        state.put_back(&ticket, false);
        state.promote(start + BACKOFF_BASE);
        assert_eq!(name(state.take(start)), Some("a".into()));
    }

    #[test]
    fn failures_double_the_wait() {
        let mut state = with(&[("a", 0)]);
        let mut waits = Vec::new();
        let mut now = Instant::now();
        for _ in 0..6 {
            let ticket = state.take(now).expect("the Pod");
            state.put_back(&ticket, true);
            let due = state.backoff.keys().next().expect("a wait").0;
            waits.push((due - now).as_secs());
            now = due;
            state.promote(now);
        }
        assert_eq!(waits, [1, 2, 4, 8, 10, 10]);
    }

    #[test]
    fn a_forgotten_pod_does_not_come_back() {
        let mut state = with(&[("a", 0)]);
        let ticket = state.take(Instant::now()).expect("a Pod");
        state.forget(&key("a"));
        state.put_back(&ticket, true);
        assert!(state.entries.is_empty() && state.backoff.is_empty());
    }
}

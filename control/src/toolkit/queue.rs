//! A work queue of keys: one worker per key at a time, repeated adds fold into one, failures back off.
//!
//! Guarantees: a key added while it is being worked on is handed out again afterwards; a key is never handed to two
//! workers at once. Assumes: every `next` is followed by `done`.
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::lock::lock;

/// First wait after a failure; doubles each time (client-go's default).
const BACKOFF_BASE: Duration = Duration::from_millis(5);
/// Longest wait after repeated failures: long enough to cost nothing, short enough that a person sees the recovery.
const BACKOFF_MAX: Duration = Duration::from_secs(60);

pub struct Queue<T> {
    state: Mutex<State<T>>,
    changed: Notify,
}

struct State<T> {
    ready: VecDeque<T>,
    dirty: HashSet<T>,
    working: HashSet<T>,
    later: BinaryHeap<Reverse<(Instant, T)>>,
    earliest: HashMap<T, Instant>,
    failures: HashMap<T, u32>,
}

impl<T: Clone + Eq + Hash + Ord> Default for Queue<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Clone + Eq + Hash + Ord> Queue<T> {
    pub fn new() -> Self {
        Self {
            state: Mutex::new(State::default()),
            changed: Notify::new(),
        }
    }

    pub fn add(&self, key: T) {
        lock(&self.state).add(key);
        self.changed.notify_one();
    }

    /// Adds whatever keys there are.
    pub fn extend(&self, keys: impl IntoIterator<Item = T>) {
        keys.into_iter().for_each(|key| self.add(key));
    }

    /// Adds the key once `delay` has passed; of several such promises for one key the earliest counts.
    pub fn add_after(&self, key: T, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        lock(&self.state).add_at(key, Instant::now() + delay);
        self.changed.notify_one();
    }

    /// Adds the key after a wait that grows with its failures.
    pub fn retry(&self, key: T) {
        self.retry_within(key, BACKOFF_MAX);
    }

    /// As [`Queue::retry`], but after `longest` at most.
    pub fn retry_within(&self, key: T, longest: Duration) {
        let delay = {
            let mut state = lock(&self.state);
            let failures = state.failures.entry(key.clone()).or_insert(0);
            let delay = backoff(*failures);
            *failures = failures.saturating_add(1);
            delay
        };
        self.add_after(key, delay.min(longest));
    }

    /// Forgets the failures of a key that succeeded.
    pub fn forget(&self, key: &T) {
        lock(&self.state).failures.remove(key);
    }

    /// The next key that is due, marked as being worked on.
    pub async fn next(&self) -> T {
        loop {
            let changed = self.changed.notified();
            let wake = {
                let mut state = lock(&self.state);
                state.promote(Instant::now());
                if let Some(key) = state.take() {
                    if !state.ready.is_empty() {
                        self.changed.notify_one();
                    }
                    return key;
                }
                state.next_due()
            };
            match wake {
                Some(at) => tokio::select! { () = changed => {}, () = tokio::time::sleep_until(at) => {} },
                None => changed.await,
            }
        }
    }

    /// Says that the work on `key` ended; if it was added meanwhile it becomes ready again.
    pub fn done(&self, key: &T) {
        let again = lock(&self.state).done(key);
        if again {
            self.changed.notify_one();
        }
    }
}

impl<T: Ord> Default for State<T> {
    fn default() -> Self {
        Self {
            ready: VecDeque::new(),
            dirty: HashSet::new(),
            working: HashSet::new(),
            later: BinaryHeap::new(),
            earliest: HashMap::new(),
            failures: HashMap::new(),
        }
    }
}

impl<T: Clone + Eq + Hash + Ord> State<T> {
    fn add(&mut self, key: T) {
        if self.dirty.insert(key.clone()) && !self.working.contains(&key) {
            self.ready.push_back(key);
        }
    }

    fn add_at(&mut self, key: T, at: Instant) {
        match self.earliest.get(&key) {
            Some(known) if *known <= at => {}
            _ => {
                self.earliest.insert(key.clone(), at);
                self.later.push(Reverse((at, key)));
            }
        }
    }

    fn promote(&mut self, now: Instant) {
        while self.later.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            let Some(Reverse((at, key))) = self.later.pop() else {
                return;
            };
            if self.earliest.get(&key) == Some(&at) {
                self.earliest.remove(&key);
                self.add(key);
            }
        }
    }

    fn next_due(&self) -> Option<Instant> {
        self.later.peek().map(|Reverse((at, _))| *at)
    }

    fn take(&mut self) -> Option<T> {
        let key = self.ready.pop_front()?;
        self.dirty.remove(&key);
        self.working.insert(key.clone());
        Some(key)
    }

    fn done(&mut self, key: &T) -> bool {
        self.working.remove(key);
        let again = self.dirty.contains(key);
        if again {
            self.ready.push_back(key.clone());
        }
        again
    }
}

fn backoff(failures: u32) -> Duration {
    BACKOFF_BASE
        .checked_mul(1 << failures.min(20))
        .map_or(BACKOFF_MAX, |delay| delay.min(BACKOFF_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_up_to_its_limit() {
        let cases = [
            (0, 5),
            (1, 10),
            (4, 80),
            (13, 40_960),
            (14, 60_000),
            (u32::MAX, 60_000),
        ];
        for (failures, millis) in cases {
            assert_eq!(
                backoff(failures),
                Duration::from_millis(millis),
                "after {failures}"
            );
        }
    }

    fn state(keys: &[&'static str]) -> State<&'static str> {
        let mut state = State::default();
        keys.iter().for_each(|key| state.add(*key));
        state
    }

    #[test]
    fn repeated_adds_fold_into_one() {
        let mut state = state(&["a", "a", "b"]);
        assert_eq!(
            [state.take(), state.take(), state.take()],
            [Some("a"), Some("b"), None]
        );
    }

    #[test]
    fn a_key_added_during_its_work_comes_again_only_after_done() {
        let mut state = state(&["a"]);
        let key = state.take().expect("a key");
        state.add("a");
        assert_eq!(state.take(), None);
        assert!(state.done(&key));
        assert_eq!(state.take(), Some("a"));
        assert!(!state.done(&key));
    }

    #[test]
    fn the_earliest_promise_counts() {
        let mut state = state(&[]);
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        for seconds in [10, 2, 5] {
            state.add_at("a", at(seconds));
        }
        state.promote(at(1));
        assert_eq!((state.take(), state.next_due()), (None, Some(at(2))));
        state.promote(at(2));
        let key = state.take().expect("due");
        state.done(&key);
        state.promote(at(60));
        assert_eq!(state.take(), None, "the later promises were dropped");
    }

    #[tokio::test]
    async fn success_forgets_the_failures() {
        let queue = Queue::new();
        queue.retry("a");
        assert_eq!(queue.next().await, "a");
        queue.forget(&"a");
        queue.done(&"a");
        assert!(lock(&queue.state).failures.is_empty());
    }
}

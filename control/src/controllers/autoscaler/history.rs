//! What an autoscaler remembers: which numbers it came to, and how the workload was changed. In memory only, as upstream's: who starts anew
//! begins with the number that is there.
use std::time::Duration;

use tokio::time::Instant;

#[derive(Clone, Debug)]
pub struct History {
    recommended: Vec<(Instant, i32)>,
    added: Vec<(Instant, i32)>,
    removed: Vec<(Instant, i32)>,
}

impl History {
    /// Of a workload that is seen for the first time.
    pub fn new(replicas: i32, now: Instant) -> Self {
        Self {
            recommended: vec![(now, replicas)],
            added: Vec::new(),
            removed: Vec::new(),
        }
    }

    /// What was recommended less than this long ago.
    pub fn within(&self, window: Duration, now: Instant) -> impl Iterator<Item = i32> {
        recent(&self.recommended, window, now)
    }

    /// Notes a recommendation; what is older than `longest` is of no use any more.
    pub fn recommend(&mut self, replicas: i32, longest: Duration, now: Instant) {
        note(&mut self.recommended, replicas, longest, now);
    }

    /// How many more there are by what was done less than this long ago.
    pub fn change(&self, period: Duration, now: Instant) -> i64 {
        let sum = |all| recent(all, period, now).map(i64::from).sum::<i64>();
        sum(&self.added) - sum(&self.removed)
    }

    /// Notes that the workload was changed.
    pub fn changed(&mut self, from: i32, to: i32, longest: Duration, now: Instant) {
        match to > from {
            true => note(&mut self.added, to - from, longest, now),
            false => note(&mut self.removed, from - to, longest, now),
        }
    }
}

fn recent(all: &[(Instant, i32)], window: Duration, now: Instant) -> impl Iterator<Item = i32> {
    let is_recent = move |at: Instant| now.saturating_duration_since(at) < window;
    let recent = all.iter().filter(move |(at, _)| is_recent(*at));
    recent.map(|(_, replicas)| *replicas)
}

fn note(all: &mut Vec<(Instant, i32)>, replicas: i32, longest: Duration, now: Instant) {
    all.retain(|(at, _)| now.saturating_duration_since(*at) < longest);
    all.push((now, replicas));
}

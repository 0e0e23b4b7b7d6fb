//! What of many events is written, as upstream's recorder decides it (client-go `tools/record/events_cache.go`): events of an
//! object that are alike but for their words become one, and an object that goes on having others is heard now and then. Pure but for
//! what it remembers; refuses to know how events are written.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

/// From the how manieth different message of one reason on they are one event, which has the newest.
const DIFFERENT: usize = 10;
/// They are counted anew after a pause of this length.
const ALIKE_WITHIN: Duration = Duration::from_secs(600);
/// So many events of one object may come at once.
const BURST: f64 = 25.0;
/// Then one in this time.
const REFILL: Duration = Duration::from_secs(300);
/// Objects, and reasons of theirs, that are remembered.
const REMEMBERED: usize = 4096;

/// `O`: an object, who tells of it and how bad it is. `R`: why.
pub struct Correlator<O, R> {
    alike: HashMap<(O, R), Alike>,
    objects: HashMap<O, Budget>,
}

struct Alike {
    messages: HashSet<String>,
    last: Instant,
}

struct Budget {
    left: f64,
    at: Instant,
}

impl<O: Eq + Hash + Clone, R: Eq + Hash> Correlator<O, R> {
    pub fn new() -> Self {
        Self {
            alike: HashMap::new(),
            objects: HashMap::new(),
        }
    }

    /// Whether this is one of too many messages, which are to be one event.
    pub fn combines(&mut self, object: &O, reason: R, message: &str, now: Instant) -> bool {
        if self.alike.len() >= REMEMBERED {
            self.alike.retain(|_, alike| now - alike.last < ALIKE_WITHIN);
        }
        if self.alike.len() >= REMEMBERED {
            self.alike.clear();
        }
        let alike = self
            .alike
            .entry((object.clone(), reason))
            .or_insert_with(|| Alike {
                messages: HashSet::new(),
                last: now,
            });
        if now - alike.last > ALIKE_WITHIN {
            alike.messages.clear();
        }
        alike.last = now;
        if alike.messages.len() + 1 < DIFFERENT {
            alike.messages.insert(message.to_owned());
        }
        !alike.messages.contains(message)
    }

    /// Whether one more event of this object may be written.
    pub fn lets(&mut self, object: O, now: Instant) -> bool {
        if self.objects.len() >= REMEMBERED {
            self.objects.retain(|_, budget| budget.at(now) < BURST);
        }
        if self.objects.len() >= REMEMBERED {
            self.objects.clear();
        }
        let budget = self
            .objects
            .entry(object)
            .or_insert(Budget { left: BURST, at: now });
        *budget = Budget {
            left: budget.at(now),
            at: now,
        };
        let may = budget.left >= 1.0;
        if may {
            budget.left -= 1.0;
        }
        may
    }
}

impl Budget {
    fn at(&self, now: Instant) -> f64 {
        let refilled = (now - self.at).as_secs_f64() / REFILL.as_secs_f64();
        (self.left + refilled).min(BURST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type All = Correlator<&'static str, ()>;

    #[test]
    fn the_tenth_message_of_a_kind_and_those_after_it_are_one() {
        let (mut all, now) = (All::new(), Instant::now());
        let combined = |all: &mut All, object, numbers: std::ops::Range<u32>, at| -> Vec<bool> {
            numbers
                .map(|i| all.combines(&object, (), &format!("m{i}"), at))
                .collect()
        };
        assert_eq!(combined(&mut all, "a", 0..9, now), [false; 9]);
        assert_eq!(combined(&mut all, "a", 9..12, now), [true; 3]);
        assert_eq!(
            combined(&mut all, "a", 3..5, now),
            [false; 2],
            "those told go on being told"
        );
        assert_eq!(combined(&mut all, "b", 20..22, now), [false; 2]);
        let later = now + ALIKE_WITHIN + Duration::from_secs(1);
        assert_eq!(combined(&mut all, "a", 20..22, later), [false; 2]);
    }

    #[test]
    fn an_object_is_heard_25_times_and_then_every_five_minutes() {
        let (mut all, now) = (All::new(), Instant::now());
        let heard = |all: &mut All, object, at| (0..100).filter(|_| all.lets(object, at)).count();
        assert_eq!(heard(&mut all, "a", now), 25);
        assert_eq!(heard(&mut all, "b", now), 25);
        assert_eq!(heard(&mut all, "a", now + REFILL / 2), 0);
        assert_eq!(heard(&mut all, "a", now + REFILL + Duration::from_millis(1)), 1);
        assert_eq!(heard(&mut all, "a", now + REFILL * 1000), 25);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut all, now) = (Correlator::new(), Instant::now());
        for i in 0..3 * REMEMBERED {
            all.lets(i, now);
            all.combines(&i, (), "m", now);
        }
        assert!(all.objects.len() <= REMEMBERED && all.alike.len() <= REMEMBERED);
    }
}

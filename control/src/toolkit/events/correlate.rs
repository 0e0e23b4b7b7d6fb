//! Decides what becomes of an occurrence: a new Event, a count on an old one, or nothing.
//!
//! The rules are client-go's `EventCorrelator`: equal events are counted; more than ten that differ only in their message
//! within ten minutes are combined; one object and source may send a burst of 25, then one every five minutes.
use std::collections::{HashMap, HashSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;

use super::Occurrence;

/// Objects and events remembered; beyond it the memory starts afresh (client-go keeps as many).
const MEMORY_LIMIT: usize = 4096;
const SIMILAR_LIMIT: usize = 10;
const SIMILAR_WINDOW_SECONDS: i64 = 600;
const BURST: f64 = 25.0;
const REFILL_PER_SECOND: f64 = 1.0 / 300.0;

#[derive(Debug, Eq, PartialEq)]
pub(super) enum Verdict {
    Create {
        name: String,
        message: String,
    },
    Count {
        name: String,
        count: i32,
        message: String,
    },
    Drop,
}

#[derive(Default)]
pub(super) struct Correlator {
    seen: HashMap<Identity, Seen>,
    similar: HashMap<Identity, Similar>,
    budgets: HashMap<(String, &'static str), Budget>,
}

/// Everything that makes two events the same; the message is empty where only similarity counts.
#[derive(Clone, Eq, Hash, PartialEq)]
struct Identity {
    component: &'static str,
    object: String,
    type_: &'static str,
    reason: String,
    message: String,
}

struct Seen {
    name: String,
    count: i32,
}

struct Similar {
    messages: HashSet<String>,
    last: Timestamp,
}

struct Budget {
    tokens: f64,
    last: Timestamp,
}

impl Correlator {
    pub(super) fn observe(&mut self, occurrence: &Occurrence, now: Timestamp) -> Verdict {
        self.bound();
        let (identity, message) = self.combine(occurrence, now);
        if !self.spend(occurrence, now) {
            return Verdict::Drop;
        }
        match self.seen.get_mut(&identity) {
            Some(seen) => {
                seen.count = seen.count.saturating_add(1);
                Verdict::Count {
                    name: seen.name.clone(),
                    count: seen.count,
                    message,
                }
            }
            None => {
                let name = event_name(&occurrence.about, now);
                self.seen.insert(
                    identity,
                    Seen {
                        name: name.clone(),
                        count: 1,
                    },
                );
                Verdict::Create { name, message }
            }
        }
    }

    /// The Event was never written: the next one like it is new again.
    pub(super) fn forget(&mut self, occurrence: &Occurrence) {
        self.seen.remove(&identity(occurrence, &occurrence.message));
    }

    fn combine(&mut self, occurrence: &Occurrence, now: Timestamp) -> (Identity, String) {
        let key = identity(occurrence, "");
        let similar = self.similar.entry(key.clone()).or_insert_with(|| Similar {
            messages: HashSet::new(),
            last: now,
        });
        if now.as_second() - similar.last.as_second() > SIMILAR_WINDOW_SECONDS {
            similar.messages.clear();
        }
        similar.last = now;
        if similar.messages.len() < SIMILAR_LIMIT {
            similar.messages.insert(occurrence.message.clone());
        }
        if similar.messages.len() < SIMILAR_LIMIT {
            return (
                identity(occurrence, &occurrence.message),
                occurrence.message.clone(),
            );
        }
        (
            key,
            format!("(combined from similar events): {}", occurrence.message),
        )
    }

    fn spend(&mut self, occurrence: &Occurrence, now: Timestamp) -> bool {
        let key = (object(&occurrence.about), occurrence.component);
        let budget = self.budgets.entry(key).or_insert(Budget {
            tokens: BURST,
            last: now,
        });
        let elapsed = now.duration_since(budget.last).as_secs_f64().max(0.0);
        budget.tokens = (budget.tokens + elapsed * REFILL_PER_SECOND).min(BURST);
        budget.last = now;
        let allowed = budget.tokens >= 1.0;
        if allowed {
            budget.tokens -= 1.0;
        }
        allowed
    }

    fn bound(&mut self) {
        if self.seen.len() >= MEMORY_LIMIT {
            self.seen.clear();
        }
        if self.similar.len() >= MEMORY_LIMIT {
            self.similar.clear();
        }
        if self.budgets.len() >= MEMORY_LIMIT {
            self.budgets.clear();
        }
    }
}

fn identity(occurrence: &Occurrence, message: &str) -> Identity {
    Identity {
        component: occurrence.component,
        object: object(&occurrence.about),
        type_: occurrence.type_,
        reason: occurrence.reason.clone(),
        message: message.to_owned(),
    }
}

fn object(about: &ObjectReference) -> String {
    let part = |field: &Option<String>| field.clone().unwrap_or_default();
    format!(
        "{}/{}/{}/{}",
        part(&about.kind),
        part(&about.namespace),
        part(&about.name),
        part(&about.uid)
    )
}

/// `<object>.<nanoseconds in hex>`, as client-go names them.
fn event_name(about: &ObjectReference, now: Timestamp) -> String {
    format!(
        "{}.{:x}",
        about.name.as_deref().unwrap_or("event"),
        now.as_nanosecond()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn occurrence(message: &str) -> Occurrence {
        Occurrence {
            component: "test",
            about: ObjectReference {
                kind: Some("Pod".into()),
                name: Some("p".into()),
                ..Default::default()
            },
            type_: "Normal",
            reason: "Happened".into(),
            message: message.into(),
            at: at(0),
            due: tokio::time::Instant::now(),
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    #[test]
    fn equal_events_are_counted() {
        let mut correlator = Correlator::default();
        let Verdict::Create { name, .. } = correlator.observe(&occurrence("m"), at(1)) else {
            panic!("first is new")
        };
        let second = correlator.observe(&occurrence("m"), at(2));
        assert_eq!(
            second,
            Verdict::Count {
                name,
                count: 2,
                message: "m".into()
            }
        );
    }

    #[test]
    fn the_tenth_different_message_is_combined() {
        let mut correlator = Correlator::default();
        for i in 0..9 {
            let verdict = correlator.observe(&occurrence(&format!("m{i}")), at(i));
            assert!(matches!(verdict, Verdict::Create { message, .. } if message == format!("m{i}")));
        }
        let Verdict::Create { message, name } = correlator.observe(&occurrence("m9"), at(9)) else {
            panic!("new")
        };
        assert_eq!(message, "(combined from similar events): m9");
        let next = correlator.observe(&occurrence("m10"), at(10));
        let combined = "(combined from similar events): m10".to_owned();
        assert_eq!(
            next,
            Verdict::Count {
                name,
                count: 2,
                message: combined
            }
        );
    }

    #[test]
    fn a_burst_is_cut_and_time_refills_it() {
        let mut correlator = Correlator::default();
        for _ in 0..25 {
            assert_ne!(correlator.observe(&occurrence("m"), at(0)), Verdict::Drop);
        }
        assert_eq!(correlator.observe(&occurrence("m"), at(1)), Verdict::Drop);
        assert_ne!(correlator.observe(&occurrence("m"), at(301)), Verdict::Drop);
    }

    #[test]
    fn an_event_that_was_not_written_is_new_again() {
        let mut correlator = Correlator::default();
        correlator.observe(&occurrence("m"), at(1));
        correlator.forget(&occurrence("m"));
        assert!(matches!(
            correlator.observe(&occurrence("m"), at(2)),
            Verdict::Create { .. }
        ));
    }
}

//! Going back and forth in time with undo records. Pure: no database here.
//!
//! The log holds, for each change, what the key was *before*. What it was *after* is therefore the `before` of that
//! key's next change, or its current value when there was none.
use super::record::Undo;
use super::{Event, KeyValue};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Turns consecutive undo records into events. `current` answers for a key that did not change again.
pub(super) fn events<E>(
    log: Vec<Undo>,
    mut current: impl FnMut(&str) -> Result<Option<KeyValue>, E>,
) -> Result<Vec<Event>, E> {
    let mut next: HashMap<Arc<str>, Option<KeyValue>> = HashMap::new();
    let mut out = Vec::with_capacity(log.len());
    for undo in log.into_iter().rev() {
        let after = match next.insert(undo.key.clone(), undo.before.clone()) {
            Some(after) => after,
            None if undo.deleted => None,
            None => current(&undo.key)?,
        };
        let now = if undo.deleted { None } else { after };
        out.push(Event {
            revision: undo.revision,
            key: undo.key,
            now,
            before: undo.before,
        });
    }
    out.reverse();
    Ok(out)
}

/// What differs between now and the revision just before the first record: keys with the value they had then.
pub(super) fn past(log: impl DoubleEndedIterator<Item = Undo>) -> BTreeMap<Arc<str>, Option<KeyValue>> {
    log.rev().map(|undo| (undo.key, undo.before)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kv(key: &str, value: &'static str, mod_revision: u64) -> KeyValue {
        KeyValue {
            key: key.into(),
            value: value.into(),
            create_revision: 2,
            mod_revision,
            version: 1,
        }
    }

    fn undo(revision: u64, key: &str, before: Option<KeyValue>, deleted: bool) -> Undo {
        Undo {
            revision,
            key: key.into(),
            deleted,
            before,
        }
    }

    /// a created at 2, b created at 3, a changed at 4, b deleted at 5, b created again at 6.
    fn history() -> Vec<Undo> {
        vec![
            undo(2, "a", None, false),
            undo(3, "b", None, false),
            undo(4, "a", Some(kv("a", "a2", 2)), false),
            undo(5, "b", Some(kv("b", "b3", 3)), true),
            undo(6, "b", None, false),
        ]
    }

    fn now(key: &str) -> Result<Option<KeyValue>, std::convert::Infallible> {
        Ok(match key {
            "a" => Some(kv("a", "a4", 4)),
            _ => Some(kv("b", "b6", 6)),
        })
    }

    #[test]
    fn events_carry_the_value_of_their_own_time() {
        let Ok(events) = events(history(), now);
        let seen: Vec<_> = events
            .iter()
            .map(|e| {
                (
                    e.revision,
                    e.now.as_ref().map(|k| k.mod_revision),
                    e.before.as_ref().map(|k| k.mod_revision),
                )
            })
            .collect();
        assert_eq!(
            seen,
            [
                (2, Some(2), None),
                (3, Some(3), None),
                (4, Some(4), Some(2)),
                (5, None, Some(3)),
                (6, Some(6), None),
            ]
        );
    }

    #[test]
    fn the_past_is_the_oldest_before_of_each_key() {
        let since_four = history().into_iter().skip(2);
        let past = past(since_four);
        assert_eq!(past["a"].as_ref().map(|k| k.mod_revision), Some(2));
        assert_eq!(past["b"].as_ref().map(|k| k.mod_revision), Some(3));
    }
}

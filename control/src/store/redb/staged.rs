//! Transactions of one commit: each is compared with what is there once those before it have happened, and applied.
//! Pure but for `find`; knows nothing of files, watchers or who waits.
use crate::store::{Batch, Event, KeyValue, Op, Revision, Txn, TxnOutcome};
use std::collections::HashMap;
use std::sync::Arc;

pub(super) struct Staged<F> {
    find: F,
    /// Keys as the transactions up to now leave them, or as they were found.
    keys: HashMap<Arc<str>, Option<KeyValue>>,
    revision: Revision,
    batches: Vec<Batch>,
}

impl<E, F: Fn(&str) -> Result<Option<KeyValue>, E>> Staged<F> {
    /// Begins on top of `revision`, whose keys `find` knows.
    pub(super) fn new(revision: Revision, find: F) -> Self {
        Staged {
            find,
            keys: HashMap::new(),
            revision,
            batches: Vec::new(),
        }
    }

    pub(super) fn batches(self) -> Vec<Batch> {
        self.batches
    }

    /// After an error nothing of what is staged may be committed.
    pub(super) fn apply(&mut self, txn: Txn) -> Result<TxnOutcome, E> {
        for compare in txn.compare {
            let current = self.get(&compare.key)?;
            if current.as_ref().map_or(0, |kv| kv.mod_revision) != compare.mod_revision {
                return Ok(TxnOutcome::Conflict {
                    key: compare.key,
                    current,
                });
            }
        }
        let next = self.revision + 1;
        let mut events = Vec::with_capacity(txn.ops.len());
        for op in txn.ops {
            events.extend(self.change(op, next)?);
        }
        if !events.is_empty() {
            self.revision = next;
            self.batches.push(Batch {
                revision: next,
                events: events.into(),
            });
        }
        Ok(TxnOutcome::Committed {
            revision: self.revision,
        })
    }

    /// Deleting what is not there is no event.
    fn change(&mut self, op: Op, revision: Revision) -> Result<Option<Event>, E> {
        let (key, value) = match op {
            Op::Put { key, value } => (key, Some(value)),
            Op::Delete { key } => (key, None),
        };
        let before = self.get(&key)?;
        if before.is_none() && value.is_none() {
            return Ok(None);
        }
        let key: Arc<str> = before.as_ref().map_or_else(|| key.into(), |kv| kv.key.clone());
        let now = value.map(|value| KeyValue {
            key: key.clone(),
            value,
            create_revision: before.as_ref().map_or(revision, |kv| kv.create_revision),
            mod_revision: revision,
            version: before.as_ref().map_or(1, |kv| kv.version + 1),
        });
        self.keys.insert(key.clone(), now.clone());
        Ok(Some(Event {
            revision,
            key,
            now,
            before,
        }))
    }

    fn get(&mut self, key: &str) -> Result<Option<KeyValue>, E> {
        if let Some(known) = self.keys.get(key) {
            return Ok(known.clone());
        }
        let found = (self.find)(key)?;
        self.keys.insert(key.into(), found.clone());
        Ok(found)
    }
}

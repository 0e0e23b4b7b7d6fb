//! What one transaction does to the tables: it is compared, applied, and what it undid is logged.
//! Knows nothing of who waits, watches or commits.
use super::{CURRENT, LOG, META, text};
use crate::store::record::{self, Undo};
use crate::store::{Batch, Event, KeyValue, Op, Revision, Txn, TxnOutcome};
use ::redb::{Database, Durability, ReadableTable, Table, WriteTransaction};
use std::sync::Arc;

pub(super) fn begin(db: &Database) -> Result<WriteTransaction, String> {
    let mut write = db.begin_write().map_err(text)?;
    write.set_durability(Durability::Immediate).map_err(text)?;
    // One fsync instead of two: what is half on disk after a crash is known by its checksums, and the commit before it
    // counts. A second would guard against who writes objects whose checksums collide *and* crashes this machine, not
    // only us, between the pages that its disk takes.
    write.set_two_phase_commit(false);
    Ok(write)
}

/// The tables, open for writing.
pub(super) struct Tables<'t> {
    pub(super) current: Table<'t, &'static str, &'static [u8]>,
    pub(super) log: Table<'t, (u64, u32), &'static [u8]>,
    pub(super) meta: Table<'t, &'static str, u64>,
}

impl<'t> Tables<'t> {
    pub(super) fn open(write: &'t WriteTransaction) -> Result<Self, String> {
        Ok(Tables {
            current: write.open_table(CURRENT).map_err(text)?,
            log: write.open_table(LOG).map_err(text)?,
            meta: write.open_table(META).map_err(text)?,
        })
    }

    /// Applies one transaction on top of `revision`. No batch means that nothing changed.
    pub(super) fn apply(
        &mut self,
        txn: Txn,
        revision: Revision,
    ) -> Result<(TxnOutcome, Option<Batch>), String> {
        for compare in txn.compare {
            let found = self.mod_revision(&compare.key)?;
            if found != compare.mod_revision {
                let current = self.get(&compare.key)?;
                return Ok((
                    TxnOutcome::Conflict {
                        key: compare.key,
                        current,
                    },
                    None,
                ));
            }
        }
        let next = revision + 1;
        let mut events = Vec::with_capacity(txn.ops.len());
        for op in txn.ops {
            let event = match op {
                Op::Put { key, value } => Some(self.put(key.into(), value, next)?),
                Op::Delete { key } => self.delete(&key, next)?,
            };
            if let Some(event) = event {
                self.log_event(&event, events.len())?;
                events.push(event);
            }
        }
        if events.is_empty() {
            return Ok((TxnOutcome::Committed { revision }, None));
        }
        Ok((
            TxnOutcome::Committed { revision: next },
            Some(Batch {
                revision: next,
                events: events.into(),
            }),
        ))
    }

    fn mod_revision(&self, key: &str) -> Result<Revision, String> {
        let found = self.current.get(key).map_err(text)?;
        found.map_or(Ok(0), |v| record::mod_revision(key, v.value()).map_err(text))
    }

    fn get(&self, key: &str) -> Result<Option<KeyValue>, String> {
        let found = self.current.get(key).map_err(text)?;
        found
            .map(|v| record::decode_current(key.into(), v.value()).map_err(text))
            .transpose()
    }

    fn put(&mut self, key: Arc<str>, value: bytes::Bytes, revision: Revision) -> Result<Event, String> {
        let before = self.get(&key)?;
        let (create_revision, version) = before
            .as_ref()
            .map_or((revision, 1), |old| (old.create_revision, old.version + 1));
        let now = KeyValue {
            key: key.clone(),
            value,
            create_revision,
            mod_revision: revision,
            version,
        };
        self.current
            .insert(&*key, record::encode_current(&now).as_slice())
            .map_err(text)?;
        Ok(Event {
            revision,
            key,
            now: Some(now),
            before,
        })
    }

    fn delete(&mut self, key: &str, revision: Revision) -> Result<Option<Event>, String> {
        let Some(before) = self.get(key)? else {
            return Ok(None);
        };
        self.current.remove(key).map_err(text)?;
        Ok(Some(Event {
            revision,
            key: before.key.clone(),
            now: None,
            before: Some(before),
        }))
    }

    fn log_event(&mut self, event: &Event, position: usize) -> Result<(), String> {
        let position = u32::try_from(position).map_err(text)?;
        let undo = Undo {
            revision: event.revision,
            key: event.key.clone(),
            deleted: event.now.is_none(),
            before: event.before.clone(),
        };
        self.log
            .insert((event.revision, position), record::encode_undo(&undo).as_slice())
            .map_err(text)?;
        Ok(())
    }
}

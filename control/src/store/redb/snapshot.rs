//! One consistent view of the store: reads of the present, of the past through the log, and the events since.
//! Knows nothing of writing or of watchers.
use super::{CURRENT, LOG, META, read_error};
use crate::store::record::{self, Undo};
use crate::store::{Event, KeyValue, Range, RangeResult, ReadError, Revision, replay};
use ::redb::{Database, ReadOnlyTable, ReadTransaction, ReadableDatabase, TableDefinition};

/// One MVCC snapshot, with the bounds of what it can answer.
pub(super) struct Snapshot {
    current: ReadOnlyTable<&'static str, &'static [u8]>,
    log: ReadOnlyTable<(u64, u32), &'static [u8]>,
    pub(super) revision: Revision,
    compacted: Revision,
}

impl Snapshot {
    pub(super) fn open(db: &Database) -> Result<Self, ReadError> {
        let read = db.begin_read().map_err(read_error)?;
        let number = |name: &str| -> Result<u64, ReadError> {
            let meta = read.open_table(META).map_err(read_error)?;
            Ok(meta.get(name).map_err(read_error)?.map_or(0, |v| v.value()))
        };
        Ok(Snapshot {
            revision: number("revision")?,
            compacted: number("compacted")?,
            current: table(&read, CURRENT)?,
            log: table(&read, LOG)?,
        })
    }

    pub(super) fn get(&self, key: &str) -> Result<Option<KeyValue>, ReadError> {
        let found = self.current.get(key).map_err(read_error)?;
        found
            .map(|v| record::decode_current(key.into(), v.value()).map_err(read_error))
            .transpose()
    }

    pub(super) fn range(&self, range: &Range) -> Result<RangeResult, ReadError> {
        let revision = range.revision.unwrap_or(self.revision);
        if revision > self.revision {
            return Err(ReadError::Future {
                wanted: revision,
                newest: self.revision,
            });
        }
        self.check_retained(revision)?;
        let limit = range.limit.unwrap_or(usize::MAX);
        let start = range.after.as_deref().unwrap_or(&range.prefix);
        let (items, more) = if revision == self.revision {
            self.present(&range.prefix, start, range.after.as_deref(), limit)?
        } else {
            self.past(&range.prefix, range.after.as_deref(), limit, revision)?
        };
        Ok(RangeResult {
            items,
            revision,
            more,
        })
    }

    fn present(
        &self,
        prefix: &str,
        start: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<KeyValue>, bool), ReadError> {
        let mut items = Vec::new();
        for entry in self.current.range(start..).map_err(read_error)? {
            let (key, value) = entry.map_err(read_error)?;
            let key = key.value();
            if !key.starts_with(prefix) {
                break;
            }
            if after == Some(key) {
                continue;
            }
            if items.len() == limit {
                return Ok((items, true));
            }
            items.push(record::decode_current(key.into(), value.value()).map_err(read_error)?);
        }
        Ok((items, false))
    }

    /// Reads the present and takes back what happened after `revision`.
    fn past(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        revision: Revision,
    ) -> Result<(Vec<KeyValue>, bool), ReadError> {
        let (present, _) = self.present(prefix, prefix, None, usize::MAX)?;
        let mut keys: std::collections::BTreeMap<_, _> =
            present.into_iter().map(|kv| (kv.key.clone(), kv)).collect();
        for (key, then) in replay::past(self.undo_after(revision)?.into_iter()) {
            match then {
                Some(kv) if key.starts_with(prefix) => drop(keys.insert(key, kv)),
                Some(_) => {}
                None => drop(keys.remove(&key)),
            }
        }
        let mut rest = keys
            .into_values()
            .filter(|kv| after.is_none_or(|after| &*kv.key > after));
        let items: Vec<_> = rest.by_ref().take(limit).collect();
        Ok((items, rest.next().is_some()))
    }

    pub(super) fn events_after(&self, after: Revision) -> Result<Vec<Event>, ReadError> {
        self.check_retained(after)?;
        replay::events(self.undo_after(after)?, |key| self.get(key))
    }

    fn undo_after(&self, after: Revision) -> Result<Vec<Undo>, ReadError> {
        let range = self
            .log
            .range((after.saturating_add(1), 0)..)
            .map_err(read_error)?;
        range
            .map(|entry| {
                let (key, value) = entry.map_err(read_error)?;
                record::decode_undo(key.value().0, value.value()).map_err(read_error)
            })
            .collect()
    }

    /// `revision` itself must be readable: the log holds everything after `compacted`.
    pub(super) fn check_retained(&self, revision: Revision) -> Result<(), ReadError> {
        if revision < self.compacted {
            return Err(ReadError::Compacted {
                wanted: revision,
                oldest: self.compacted,
            });
        }
        Ok(())
    }
}

fn table<K: ::redb::Key + 'static, V: ::redb::Value + 'static>(
    read: &ReadTransaction,
    definition: TableDefinition<'static, K, V>,
) -> Result<ReadOnlyTable<K, V>, ReadError> {
    read.open_table(definition).map_err(read_error)
}

//! What redb's tables say at one moment: values of then, and undo records up to then. Knows nothing of the journal.
use super::{CURRENT, LOG, META, read_error};
use crate::store::record::{self, Undo};
use crate::store::{KeyValue, ReadError, Revision};
use ::redb::{Database, ReadOnlyTable, ReadTransaction, ReadableDatabase, TableDefinition};

/// One MVCC snapshot of redb.
pub(super) struct Base {
    current: ReadOnlyTable<&'static str, &'static [u8]>,
    log: ReadOnlyTable<(u64, u32), &'static [u8]>,
    pub(super) revision: Revision,
    pub(super) compacted: Revision,
}

impl Base {
    pub(super) fn open(db: &Database) -> Result<Self, ReadError> {
        let read = db.begin_read().map_err(read_error)?;
        let number = |name: &str| -> Result<u64, ReadError> {
            let meta = read.open_table(META).map_err(read_error)?;
            Ok(meta.get(name).map_err(read_error)?.map_or(0, |v| v.value()))
        };
        Ok(Base {
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

    /// All keys from `start` on, in order.
    pub(super) fn from(
        &self,
        start: &str,
    ) -> Result<impl Iterator<Item = Result<KeyValue, ReadError>>, ReadError> {
        let entries = self.current.range(start..).map_err(read_error)?;
        Ok(entries.map(|entry| {
            let (key, value) = entry.map_err(read_error)?;
            record::decode_current(key.value().into(), value.value()).map_err(read_error)
        }))
    }

    pub(super) fn undo_after(&self, after: Revision) -> Result<Vec<Undo>, ReadError> {
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

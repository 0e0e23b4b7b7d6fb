//! What is written to redb: a generation of changes, and what compaction cuts off.
//! Knows nothing of who waits, watches or reads.
use super::pending::Generation;
use super::{CURRENT, LOG, META, text};
use crate::store::Revision;
use crate::store::record;
use ::redb::{Database, Durability, ReadableTable, Table, WriteTransaction};

/// Undo records deleted in one commit while compacting, so that settling is not held up.
const COMPACT_CHUNK: usize = 4096;

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
    current: Table<'t, &'static str, &'static [u8]>,
    log: Table<'t, (u64, u32), &'static [u8]>,
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

    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, String> {
        Ok(self.meta.get(name).map_err(text)?.map(|v| v.value()))
    }

    /// Notes that the journal has so many bytes at least.
    fn expect_journal(&mut self, size: u64) -> Result<(), String> {
        if self.number("journal_size")?.is_none_or(|known| known < size) {
            self.meta.insert("journal_size", size).map_err(text)?;
        }
        Ok(())
    }

    fn take_over(&mut self, generation: &Generation) -> Result<(), String> {
        for (key, now) in &generation.keys {
            match now {
                Some(kv) => drop(
                    self.current
                        .insert(&**key, record::encode_current(kv).as_slice())
                        .map_err(text)?,
                ),
                None => drop(self.current.remove(&**key).map_err(text)?),
            }
        }
        for of_one in generation.log.chunk_by(|a, b| a.revision == b.revision) {
            for (position, undo) in (0..).zip(of_one) {
                let record = record::encode_undo(undo);
                self.log
                    .insert((undo.revision, position), record.as_slice())
                    .map_err(text)?;
            }
        }
        if let (Some(newest), Some(span)) = (generation.newest(), generation.span) {
            self.meta.insert("revision", newest).map_err(text)?;
            self.meta.insert("journal", span.end).map_err(text)?;
            self.expect_journal(span.end)?;
        }
        Ok(())
    }
}

/// From here on the journal is missed when it is not there.
pub(super) fn expect_journal(db: &Database, size: u64) -> Result<(), String> {
    let write = begin(db)?;
    Tables::open(&write)?.expect_journal(size)?;
    write.commit().map_err(text)
}

/// Makes a generation's changes last in the tables, all or none. Doing it again changes nothing.
pub(super) fn settle(db: &Database, generation: &Generation) -> Result<(), String> {
    let write = begin(db)?;
    Tables::open(&write)?.take_over(generation)?;
    write.commit().map_err(text)
}

/// Deletes one chunk of history up to `revision`; whether more is left.
pub(super) fn compact_some(db: &Database, revision: Revision) -> Result<bool, String> {
    let write = begin(db)?;
    let more = {
        let mut tables = Tables::open(&write)?;
        let revision = revision.min(tables.number("revision")?.unwrap_or(0));
        if tables.number("compacted")?.unwrap_or(0) < revision {
            tables.meta.insert("compacted", revision).map_err(text)?;
        }
        let doomed = keys_until(&tables.log, revision)?;
        for key in &doomed {
            tables.log.remove(*key).map_err(text)?;
        }
        doomed.len() == COMPACT_CHUNK
    };
    write.commit().map_err(text)?;
    Ok(more)
}

fn keys_until(
    log: &Table<'_, (u64, u32), &'static [u8]>,
    revision: Revision,
) -> Result<Vec<(u64, u32)>, String> {
    let range = log.range(..=(revision, u32::MAX)).map_err(text)?;
    range
        .take(COMPACT_CHUNK)
        .map(|entry| Ok(entry.map_err(text)?.0.value()))
        .collect()
}

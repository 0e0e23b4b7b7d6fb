//! The store on one machine: a journal, and a redb file that follows it.
//!
//! Flow: callers queue transactions → the writer takes whatever is queued into one frame of the journal (group commit) →
//! one write and one fdatasync → callers are answered → watchers are told. From then on the changes are *pending*:
//! readers see them over redb's tables, until the settler has written some of them, by size or after some seconds,
//! to the tables in one transaction, and the journal may be overwritten there. Opening reads the journal behind the
//! tables. Readers never wait for the writer.
//!
//! Guarantees: an acknowledged transaction is on disk; revisions have no gaps and no reuse; a batch that a watcher
//! sees is durable. Assumes: nobody else writes the files (redb locks its own).
mod base;
mod frame;
mod journal;
mod pending;
mod ring;
mod settler;
mod staged;
mod tables;
#[cfg(test)]
mod tests;
mod view;
mod writer;

use super::{
    Batch, Event, KeyValue, Op, OpenError, Range, RangeResult, ReadError, Revision, Store, Txn, TxnOutcome,
    WatchError, WatchStream, WriteError,
};
use ::redb::{Builder, Database, DatabaseError, TableDefinition};
use async_trait::async_trait;
use base::Base;
use frame::Frame;
use futures::{StreamExt, stream};
use journal::{Journal, Span};
use pending::{Found, Generation, Pending};
use staged::Staged;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use tables::{Tables, begin};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio_stream::wrappers::BroadcastStream;
use writer::{Command, Writer};

/// key → what it is now.
const CURRENT: TableDefinition<&str, &[u8]> = TableDefinition::new("current");
/// (revision, position inside it) → undo record.
const LOG: TableDefinition<(u64, u32), &[u8]> = TableDefinition::new("log");
/// `format`, `revision`, `compacted`; `identity`, which the journal's frames bear; `journal`, where in it the first frame
/// after `revision` may be; `journal_size`, what it has at least, from when it was first there.
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

/// Version of the tables above and of the journal.
const FORMAT: u64 = 2;
/// The same tables, without a journal.
const FORMAT_WITHOUT_JOURNAL: u64 = 1;
/// Revision of an empty store, as etcd's.
const FIRST_REVISION: Revision = 1;
/// Transactions waiting for the writer; more callers wait in line for a place.
const QUEUE: usize = 4096;
/// Batches a watcher may be behind before it has to read the log again.
const WATCH_BACKLOG: usize = 8192;
/// redb's page cache. Hot objects are in the watch cache above, so this need not be large.
const PAGE_CACHE: usize = 32 << 20;
/// etcd has no such limit, but a Kubernetes key (`/registry/…/namespace/name`) cannot be longer.
const KEY_LIMIT: usize = 2048;
/// Bytes of what stat(2) counts in, whatever the file system does.
const BLOCK: u64 = 512;

/// A handle on an open store; dropping it finishes queued writes, brings the tables up to date and closes the files.
pub struct RedbStore {
    pending: Arc<Pending>,
    newest: Arc<AtomicU64>,
    watchers: broadcast::Sender<Batch>,
    queue: Option<mpsc::Sender<Command>>,
    writer: Option<JoinHandle<()>>,
    settler: Option<JoinHandle<()>>,
    failing: Arc<AtomicBool>,
    /// The tables and the journal.
    files: [PathBuf; 2],
}

impl RedbStore {
    /// Opens or creates the file at `path`, and the journal beside it.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|source| OpenError::Folder {
                path: folder.display().to_string(),
                source,
            })?;
        }
        let writer = recovered(path)?;
        Self::start(writer, path).map_err(|e| PrepareError::Backend(text(e)).at(path))
    }

    fn start(writer: Writer, path: &Path) -> std::io::Result<Self> {
        let (pending, newest) = (writer.pending.clone(), writer.newest.clone());
        let (watchers, failing) = (writer.watchers.clone(), writer.failing.clone());
        let (queue, commands) = mpsc::channel(QUEUE);
        let named = |name: &str| std::thread::Builder::new().name(name.into());
        let writer = named("store-writer").spawn(move || writer.run(commands))?;
        let settling = pending.clone();
        let settler = named("store-settler").spawn(move || settler::run(&settling))?;
        Ok(RedbStore {
            pending,
            newest,
            watchers,
            queue: Some(queue),
            writer: Some(writer),
            settler: Some(settler),
            failing,
            files: [path.to_owned(), journal_of(path)],
        })
    }

    async fn read<T: Send + 'static>(
        f: impl FnOnce() -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, ReadError> {
        tokio::task::spawn_blocking(f).await.map_err(read_error)?
    }
}

impl Drop for RedbStore {
    fn drop(&mut self) {
        drop(self.queue.take());
        join(self.writer.take());
        self.pending.close();
        join(self.settler.take());
    }
}

fn join(thread: Option<JoinHandle<()>>) {
    if let Some(thread) = thread
        && thread.join().is_err()
    {
        tracing::error!("a thread of the store panicked");
    }
}

#[async_trait]
impl Store for RedbStore {
    async fn revision(&self) -> Result<Revision, ReadError> {
        Ok(self.newest.load(Ordering::Acquire))
    }

    async fn retains(&self, revision: Revision) -> Result<(), ReadError> {
        self.pending.check_retained(revision)
    }

    async fn get(&self, key: &str) -> Result<Option<KeyValue>, ReadError> {
        match self.pending.find(key) {
            Found::Pending(now) => Ok(now),
            Found::Below(base) => {
                let key = key.to_owned();
                Self::read(move || base.get(&key)).await
            }
        }
    }

    async fn range(&self, range: Range) -> Result<RangeResult, ReadError> {
        let pending = self.pending.clone();
        Self::read(move || pending.view_of(&range).range(&range)).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, WriteError> {
        check_keys(&txn)?;
        let (reply, answer) = oneshot::channel();
        let queue = self.queue.as_ref().ok_or(WriteError::Closed)?;
        queue.send((txn, reply)).await.map_err(|_| WriteError::Closed)?;
        answer.await.map_err(|_| WriteError::Closed)?
    }

    /// What failed is tried again by this, also when nobody writes.
    async fn writable(&self) -> Result<(), WriteError> {
        if self.failing.load(Ordering::Acquire) {
            self.txn(Txn::default()).await?;
        }
        self.pending.check_settled().map_err(WriteError::Backend)
    }

    async fn watch(&self, after: Revision) -> Result<WatchStream, WatchError> {
        let live = BroadcastStream::new(self.watchers.subscribe());
        let pending = self.pending.clone();
        let history = move || {
            let view = pending.view_since(after);
            Ok((view.revision, view.events_after(after)?))
        };
        let (seen, missed) = Self::read(history).await.map_err(watch_error)?;
        let seen = seen.max(after);
        let missed = stream::iter(batches(missed)).map(Ok);
        let live = live.filter_map(move |batch| async move {
            match batch {
                Ok(batch) if batch.revision <= seen => None,
                Ok(batch) => Some(Ok(batch)),
                Err(_) => Some(Err(WatchError::Lagged)),
            }
        });
        Ok(missed.chain(live).boxed())
    }

    async fn size(&self) -> Result<u64, ReadError> {
        let files = self.files.clone();
        Self::read(move || {
            let sizes = files
                .iter()
                .map(|file| Ok(std::fs::metadata(file)?.blocks() * BLOCK));
            let sum: std::io::Result<u64> = sizes.sum();
            sum.map_err(read_error)
        })
        .await
    }

    async fn compact(&self, revision: Revision) -> Result<(), WriteError> {
        let (reply, answer) = oneshot::channel();
        self.pending.compact((revision, reply));
        answer.await.map_err(|_| WriteError::Closed)?
    }
}

/// Groups events of one revision, as they were committed.
fn batches(events: Vec<Event>) -> Vec<Batch> {
    events
        .chunk_by(|a, b| a.revision == b.revision)
        .map(|events| Batch {
            revision: events[0].revision,
            events: events.into(),
        })
        .collect()
}

/// Opens both files and reads what the journal has over the tables. The journal is made after the tables: one without the other
/// is a store of which a part was lost, and no new one.
fn recovered(path: &Path) -> Result<Writer, OpenError> {
    let beside = journal_of(path);
    if !has_bytes(path) && has_bytes(&beside) {
        let message = format!(
            "it is gone or empty, though its journal {} is there",
            beside.display()
        );
        return Err(PrepareError::Backend(message).at(path));
    }
    let db = Builder::new()
        .set_cache_size(PAGE_CACHE)
        .create(path)
        .map_err(|e| open_error(path, &e))?;
    let settled = prepare(&db).map_err(|e| e.at(path))?;
    let unusable = |message: String| PrepareError::Backend(message).at(path);
    let base = Base::open(&db).map_err(|e| unusable(text(e)))?;
    let least = settled.journal_size.unwrap_or(0).max(settled.journal);
    let mut journal = Journal::open(&beside, settled.identity, least).map_err(|e| unusable(text(e)))?;
    if settled.journal_size.is_none() {
        tables::expect_journal(&db, journal.capacity()).map_err(unusable)?;
    }
    let frames = journal
        .recover(settled.journal, settled.revision)
        .map_err(|e| unusable(text(e)))?;
    let filling = replayed(&base, frames).map_err(unusable)?;
    let pending = Pending::new(db, base, filling);
    Ok(Writer {
        journal,
        newest: Arc::new(AtomicU64::new(pending.newest())),
        watchers: broadcast::channel(WATCH_BACKLOG).0,
        pending: Arc::new(pending),
        failing: Arc::default(),
    })
}

fn journal_of(path: &Path) -> PathBuf {
    path.with_extension("journal")
}

fn has_bytes(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|file| file.len() > 0)
}

/// What the tables know of the journal.
struct Settled {
    revision: Revision,
    identity: u64,
    journal: u64,
    journal_size: Option<u64>,
}

/// Makes the tables of a new file, or checks those of an old one.
fn prepare(db: &Database) -> Result<Settled, PrepareError> {
    let write = begin(db).map_err(PrepareError::Backend)?;
    let settled = {
        let mut tables = Tables::open(&write).map_err(PrepareError::Backend)?;
        match tables.number("format").map_err(PrepareError::Backend)? {
            Some(FORMAT) => {}
            Some(FORMAT_WITHOUT_JOURNAL) => begin_journal(&mut tables).map_err(PrepareError::Backend)?,
            Some(found) => return Err(PrepareError::Format(found)),
            None => initialise(&mut tables).map_err(PrepareError::Backend)?,
        }
        let number = |name: &str| {
            let found = tables.number(name).map_err(PrepareError::Backend)?;
            found.ok_or_else(|| PrepareError::Backend(format!("it has no {name}")))
        };
        Settled {
            revision: number("revision")?,
            identity: number("identity")?,
            journal: number("journal")?,
            journal_size: tables.number("journal_size").map_err(PrepareError::Backend)?,
        }
    };
    write.commit().map_err(|e| PrepareError::Backend(text(e)))?;
    Ok(settled)
}

fn initialise(tables: &mut Tables<'_>) -> Result<(), String> {
    tables.meta.insert("revision", FIRST_REVISION).map_err(text)?;
    begin_journal(tables)
}

fn begin_journal(tables: &mut Tables<'_>) -> Result<(), String> {
    tables.meta.insert("format", FORMAT).map_err(text)?;
    tables
        .meta
        .insert("identity", rand::random::<u64>())
        .map_err(text)?;
    tables.meta.insert("journal", 0).map_err(text)?;
    Ok(())
}

/// What the journal has over the tables.
fn replayed(base: &Base, frames: Vec<(Span, Frame)>) -> Result<Generation, String> {
    let mut generation = Generation::default();
    for (span, frame) in frames {
        let newest = generation.newest().unwrap_or(base.revision);
        let mut staged = Staged::new(newest, |key: &str| match generation.keys.get(key) {
            Some(now) => Ok(now.clone()),
            None => base.get(key),
        });
        for changes in frame.changes.chunk_by(|a, b| a.0 == b.0) {
            let ops = changes.iter().map(|(_, op)| op.clone()).collect();
            let compare = Vec::new();
            staged.apply(Txn { compare, ops }).map_err(text)?;
        }
        let batches = staged.batches();
        generation.add(&batches, span);
    }
    Ok(generation)
}

enum PrepareError {
    Format(u64),
    Backend(String),
}

impl PrepareError {
    fn at(self, path: &Path) -> OpenError {
        let path = path.display().to_string();
        match self {
            PrepareError::Format(found) => OpenError::Format {
                path,
                found,
                wanted: FORMAT,
            },
            PrepareError::Backend(message) => OpenError::Backend { path, message },
        }
    }
}

fn open_error(path: &Path, error: &DatabaseError) -> OpenError {
    let path = path.display().to_string();
    match error {
        DatabaseError::DatabaseAlreadyOpen => OpenError::InUse { path },
        other => OpenError::Backend {
            path,
            message: other.to_string(),
        },
    }
}

fn check_keys(txn: &Txn) -> Result<(), WriteError> {
    let keys = txn.ops.iter().map(|op| match op {
        Op::Put { key, .. } | Op::Delete { key } => key,
    });
    match keys.map(String::len).find(|size| *size > KEY_LIMIT) {
        Some(size) => Err(WriteError::KeyTooLong {
            size,
            limit: KEY_LIMIT,
        }),
        None => Ok(()),
    }
}

fn watch_error(error: ReadError) -> WatchError {
    match error {
        ReadError::Compacted { wanted, oldest } => WatchError::Compacted { wanted, oldest },
        other => WatchError::Backend(other.to_string()),
    }
}

fn read_error(error: impl std::fmt::Display) -> ReadError {
    ReadError::Backend(error.to_string())
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

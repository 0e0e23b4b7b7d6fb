//! The store on one machine: a redb file with one writer thread.
//!
//! Flow: callers queue transactions → the writer takes whatever is queued into one redb transaction (group commit) →
//! one durable commit → watchers are told → callers are answered. Readers use redb's MVCC snapshots and
//! never wait for the writer.
//!
//! Guarantees: an acknowledged transaction is on disk; revisions have no gaps and no reuse; a batch that a watcher
//! sees is durable. Assumes: nobody else writes the file (redb locks it).
mod snapshot;
mod tables;
mod writer;

use super::{
    Batch, Event, KeyValue, Op, OpenError, Range, RangeResult, ReadError, Revision, Store, Txn, TxnOutcome,
    WatchError, WatchStream, WriteError,
};
use ::redb::{Builder, Database, DatabaseError, ReadableTable, TableDefinition};
use async_trait::async_trait;
use futures::{StreamExt, stream};
use snapshot::Snapshot;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tables::{Tables, begin};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio_stream::wrappers::BroadcastStream;
use writer::{Command, Writer};

/// key → what it is now.
const CURRENT: TableDefinition<&str, &[u8]> = TableDefinition::new("current");
/// (revision, position inside it) → undo record.
const LOG: TableDefinition<(u64, u32), &[u8]> = TableDefinition::new("log");
/// `format`, `revision`, `compacted`.
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

/// Version of the tables above.
const FORMAT: u64 = 1;
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

/// A handle on an open store; dropping it finishes queued writes and closes the file.
pub struct RedbStore {
    db: Arc<Database>,
    newest: Arc<AtomicU64>,
    watchers: broadcast::Sender<Batch>,
    queue: Option<mpsc::Sender<Command>>,
    writer: Option<std::thread::JoinHandle<()>>,
}

impl RedbStore {
    /// Opens or creates the file at `path`.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|source| OpenError::Folder {
                path: folder.display().to_string(),
                source,
            })?;
        }
        let db = Builder::new()
            .set_cache_size(PAGE_CACHE)
            .create(path)
            .map_err(|e| open_error(path, &e))?;
        let revision = prepare(&db).map_err(|e| e.at(path))?;
        Self::start(db, revision).map_err(|e| OpenError::Backend {
            path: path.display().to_string(),
            message: e.to_string(),
        })
    }

    fn start(db: Database, revision: Revision) -> std::io::Result<Self> {
        let db = Arc::new(db);
        let newest = Arc::new(AtomicU64::new(revision));
        let (watchers, _) = broadcast::channel(WATCH_BACKLOG);
        let (queue, commands) = mpsc::channel(QUEUE);
        let writer = Writer {
            db: db.clone(),
            newest: newest.clone(),
            watchers: watchers.clone(),
            revision,
        };
        let writer = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer.run(commands))?;
        Ok(RedbStore {
            db,
            newest,
            watchers,
            queue: Some(queue),
            writer: Some(writer),
        })
    }

    async fn command<T>(
        &self,
        make: impl FnOnce(oneshot::Sender<Result<T, WriteError>>) -> Command,
    ) -> Result<T, WriteError> {
        let (reply, answer) = oneshot::channel();
        let queue = self.queue.as_ref().ok_or(WriteError::Closed)?;
        queue.send(make(reply)).await.map_err(|_| WriteError::Closed)?;
        answer.await.map_err(|_| WriteError::Closed)?
    }

    async fn read<T: Send + 'static>(
        &self,
        f: impl FnOnce(&Snapshot) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, ReadError> {
        let db = self.db.clone();
        tokio::task::spawn_blocking(move || f(&Snapshot::open(&db)?))
            .await
            .map_err(read_error)?
    }
}

impl Drop for RedbStore {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the store's writer thread panicked");
        }
    }
}

#[async_trait]
impl Store for RedbStore {
    async fn revision(&self) -> Result<Revision, ReadError> {
        Ok(self.newest.load(Ordering::Acquire))
    }

    async fn retains(&self, revision: Revision) -> Result<(), ReadError> {
        self.read(move |snapshot| snapshot.check_retained(revision)).await
    }

    async fn get(&self, key: &str) -> Result<Option<KeyValue>, ReadError> {
        let key = key.to_owned();
        self.read(move |snapshot| snapshot.get(&key)).await
    }

    async fn range(&self, range: Range) -> Result<RangeResult, ReadError> {
        self.read(move |snapshot| snapshot.range(&range)).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, WriteError> {
        check_keys(&txn)?;
        self.command(|reply| Command::Txn(txn, reply)).await
    }

    async fn watch(&self, after: Revision) -> Result<WatchStream, WatchError> {
        let live = BroadcastStream::new(self.watchers.subscribe());
        let (seen, missed) = self
            .read(move |snapshot| Ok((snapshot.revision, snapshot.events_after(after)?)))
            .await
            .map_err(watch_error)?;
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

    async fn compact(&self, revision: Revision) -> Result<(), WriteError> {
        self.command(|reply| Command::Compact(revision, reply)).await
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

/// Makes the tables of a new file, or checks those of an old one. Answers with the newest revision.
fn prepare(db: &Database) -> Result<Revision, PrepareError> {
    let write = begin(db).map_err(PrepareError::Backend)?;
    let revision = {
        let mut tables = Tables::open(&write).map_err(PrepareError::Backend)?;
        let format = tables
            .meta
            .get("format")
            .map_err(|e| PrepareError::Backend(text(e)))?
            .map(|v| v.value());
        match format {
            Some(FORMAT) => {}
            Some(found) => return Err(PrepareError::Format(found)),
            None => initialise(&mut tables).map_err(PrepareError::Backend)?,
        }
        tables
            .meta
            .get("revision")
            .map_err(|e| PrepareError::Backend(text(e)))?
            .map_or(0, |v| v.value())
    };
    write.commit().map_err(|e| PrepareError::Backend(text(e)))?;
    Ok(revision)
}

fn initialise(tables: &mut Tables<'_>) -> Result<(), String> {
    tables.meta.insert("format", FORMAT).map_err(text)?;
    tables.meta.insert("revision", FIRST_REVISION).map_err(text)?;
    Ok(())
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

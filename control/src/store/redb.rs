//! The store on one machine: a redb file with one writer thread.
//!
//! Flow: callers queue transactions → the writer takes whatever is queued into one redb transaction (group commit) →
//! one durable, two-phase commit → watchers are told → callers are answered. Readers use redb's MVCC snapshots and
//! never wait for the writer.
//!
//! Guarantees: an acknowledged transaction is on disk; revisions have no gaps and no reuse; a batch that a watcher
//! sees is durable. Assumes: nobody else writes the file (redb locks it).
use super::record::{self, Undo};
use super::{
    Batch, Event, KeyValue, OpenError, Range, RangeResult, ReadError, Revision, Store, Txn, TxnOutcome,
    WatchError, WatchStream, WriteError, replay,
};
use ::redb::{
    Builder, Database, DatabaseError, Durability, ReadOnlyTable, ReadTransaction, ReadableDatabase,
    ReadableTable, Table, TableDefinition, WriteTransaction,
};
use async_trait::async_trait;
use futures::{StreamExt, stream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio_stream::wrappers::BroadcastStream;

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
/// Transactions in one commit: bounds how long the first one waits for the last.
const GROUP: usize = 512;
/// Batches a watcher may be behind before it has to read the log again.
const WATCH_BACKLOG: usize = 8192;
/// Undo records deleted in one commit while compacting, so that writers are not held up.
const COMPACT_CHUNK: usize = 4096;
/// redb's page cache. Hot objects are in the watch cache above, so this need not be large.
const PAGE_CACHE: usize = 32 << 20;
/// etcd has no such limit, but a Kubernetes key (`/registry/…/namespace/name`) cannot be longer.
const KEY_LIMIT: usize = 2048;

enum Command {
    Txn(Txn, oneshot::Sender<Result<TxnOutcome, WriteError>>),
    Compact(Revision, oneshot::Sender<Result<(), WriteError>>),
}

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

/// The one thread that writes.
struct Writer {
    db: Arc<Database>,
    newest: Arc<AtomicU64>,
    watchers: broadcast::Sender<Batch>,
    revision: Revision,
}

/// A caller waiting for the commit, with what it will be told.
type Waiting = (oneshot::Sender<Result<TxnOutcome, WriteError>>, TxnOutcome);

impl Writer {
    fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        while let Some(first) = commands.blocking_recv() {
            let mut next = Some(first);
            while let Some(command) = next.take() {
                match command {
                    Command::Txn(txn, reply) => next = self.group(txn, reply, &mut commands),
                    Command::Compact(revision, reply) => drop(reply.send(self.compact(revision))),
                }
            }
        }
    }

    /// Commits one transaction and all that are queued behind it. Returns a command of another kind met on the way.
    fn group(
        &mut self,
        txn: Txn,
        reply: oneshot::Sender<Result<TxnOutcome, WriteError>>,
        commands: &mut mpsc::Receiver<Command>,
    ) -> Option<Command> {
        let mut group = vec![(txn, reply)];
        let mut other = None;
        while group.len() < GROUP {
            match commands.try_recv() {
                Ok(Command::Txn(txn, reply)) => group.push((txn, reply)),
                Ok(command) => {
                    other = Some(command);
                    break;
                }
                Err(_) => break,
            }
        }
        let (txns, replies): (Vec<_>, Vec<_>) = group.into_iter().unzip();
        match self.commit(txns) {
            Ok((outcomes, batches)) => self.publish(batches, replies.into_iter().zip(outcomes).collect()),
            Err(message) => refuse(replies, &message),
        }
        other
    }

    fn commit(&self, txns: Vec<Txn>) -> Result<(Vec<TxnOutcome>, Vec<Batch>), String> {
        let write = begin(&self.db)?;
        let mut revision = self.revision;
        let (mut outcomes, mut batches) = (Vec::with_capacity(txns.len()), Vec::new());
        {
            let mut tables = Tables::open(&write)?;
            for txn in txns {
                let (outcome, batch) = tables.apply(txn, revision)?;
                if let Some(batch) = batch {
                    revision = batch.revision;
                    batches.push(batch);
                }
                outcomes.push(outcome);
            }
            if revision != self.revision {
                tables.meta.insert("revision", revision).map_err(text)?;
            }
        }
        if batches.is_empty() {
            write.abort().map_err(text)?
        } else {
            write.commit().map_err(text)?
        }
        Ok((outcomes, batches))
    }

    fn publish(&mut self, batches: Vec<Batch>, waiting: Vec<Waiting>) {
        if let Some(last) = batches.last() {
            self.revision = last.revision;
            self.newest.store(last.revision, Ordering::Release);
        }
        for batch in batches {
            // Nobody watching is fine.
            let _ = self.watchers.send(batch);
        }
        for (reply, outcome) in waiting {
            // The caller may have gone; the write stands all the same.
            let _ = reply.send(Ok(outcome));
        }
    }

    fn compact(&self, revision: Revision) -> Result<(), WriteError> {
        let revision = revision.min(self.revision);
        while self.compact_some(revision).map_err(WriteError::Backend)? {}
        Ok(())
    }

    /// Deletes one chunk of history; whether more is left.
    fn compact_some(&self, revision: Revision) -> Result<bool, String> {
        let write = begin(&self.db)?;
        let more = {
            let mut tables = Tables::open(&write)?;
            let compacted = tables
                .meta
                .get("compacted")
                .map_err(text)?
                .map_or(0, |v| v.value());
            if compacted < revision {
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

fn refuse(replies: Vec<oneshot::Sender<Result<TxnOutcome, WriteError>>>, message: &str) {
    tracing::error!(message, "a group of writes failed");
    for reply in replies {
        let _ = reply.send(Err(WriteError::Backend(message.to_owned())));
    }
}

fn begin(db: &Database) -> Result<WriteTransaction, String> {
    let mut write = db.begin_write().map_err(text)?;
    write.set_durability(Durability::Immediate).map_err(text)?;
    write.set_two_phase_commit(true);
    Ok(write)
}

/// The tables, open for writing.
struct Tables<'t> {
    current: Table<'t, &'static str, &'static [u8]>,
    log: Table<'t, (u64, u32), &'static [u8]>,
    meta: Table<'t, &'static str, u64>,
}

impl<'t> Tables<'t> {
    fn open(write: &'t WriteTransaction) -> Result<Self, String> {
        Ok(Tables {
            current: write.open_table(CURRENT).map_err(text)?,
            log: write.open_table(LOG).map_err(text)?,
            meta: write.open_table(META).map_err(text)?,
        })
    }

    /// Applies one transaction on top of `revision`. No batch means that nothing changed.
    fn apply(&mut self, txn: Txn, revision: Revision) -> Result<(TxnOutcome, Option<Batch>), String> {
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
                super::Op::Put { key, value } => Some(self.put(key.into(), value, next)?),
                super::Op::Delete { key } => self.delete(&key, next)?,
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

/// One MVCC snapshot, with the bounds of what it can answer.
struct Snapshot {
    current: ReadOnlyTable<&'static str, &'static [u8]>,
    log: ReadOnlyTable<(u64, u32), &'static [u8]>,
    revision: Revision,
    compacted: Revision,
}

impl Snapshot {
    fn open(db: &Database) -> Result<Self, ReadError> {
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

    fn get(&self, key: &str) -> Result<Option<KeyValue>, ReadError> {
        let found = self.current.get(key).map_err(read_error)?;
        found
            .map(|v| record::decode_current(key.into(), v.value()).map_err(read_error))
            .transpose()
    }

    fn range(&self, range: &Range) -> Result<RangeResult, ReadError> {
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

    fn events_after(&self, after: Revision) -> Result<Vec<Event>, ReadError> {
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
    fn check_retained(&self, revision: Revision) -> Result<(), ReadError> {
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
        super::Op::Put { key, .. } | super::Op::Delete { key } => key,
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

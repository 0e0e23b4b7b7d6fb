//! The one thread that writes: it groups what is queued into one commit, tells watchers, then answers; and it compacts.
//! Knows nothing of what is inside a transaction: that is `tables.rs`.
use super::tables::{Tables, begin};
use super::text;
use crate::store::{Batch, Revision, Txn, TxnOutcome, WriteError};
use ::redb::{Database, ReadableTable, Table};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{broadcast, mpsc, oneshot};

/// Transactions in one commit: bounds how long the first one waits for the last.
const GROUP: usize = 512;
/// Undo records deleted in one commit while compacting, so that writers are not held up.
const COMPACT_CHUNK: usize = 4096;

pub(super) enum Command {
    Txn(Txn, oneshot::Sender<Result<TxnOutcome, WriteError>>),
    Compact(Revision, oneshot::Sender<Result<(), WriteError>>),
}

/// The one thread that writes.
pub(super) struct Writer {
    pub(super) db: Arc<Database>,
    pub(super) newest: Arc<AtomicU64>,
    pub(super) watchers: broadcast::Sender<Batch>,
    pub(super) revision: Revision,
}

/// A caller waiting for the commit, with what it will be told.
type Waiting = (oneshot::Sender<Result<TxnOutcome, WriteError>>, TxnOutcome);

impl Writer {
    pub(super) fn run(mut self, mut commands: mpsc::Receiver<Command>) {
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
        // The caller may have gone: nobody is left to tell.
        let _ = reply.send(Err(WriteError::Backend(message.to_owned())));
    }
}

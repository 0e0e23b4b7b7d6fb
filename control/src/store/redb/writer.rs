//! The one thread that commits: it puts what is queued into one frame of the journal, answers, then tells watchers.
//! Knows nothing of what is inside a transaction (`staged.rs`) nor of tables.
use super::journal::{AppendError, Journal, Span};
use super::pending::Pending;
use super::staged::Staged;
use crate::store::{Batch, Op, Txn, TxnOutcome, WriteError};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::{broadcast, mpsc, oneshot};

/// Transactions in one commit: bounds how long the first one waits for the last.
const GROUP: usize = 512;
/// Bytes of values after which a commit takes no further transaction: bounds the frame.
const GROUP_BYTES: usize = 4 << 20;

/// A transaction, and who waits for its outcome.
pub(super) type Command = (Txn, Reply);
type Reply = oneshot::Sender<Result<TxnOutcome, WriteError>>;

/// The one thread that commits.
pub(super) struct Writer {
    pub(super) journal: Journal,
    pub(super) pending: Arc<Pending>,
    pub(super) newest: Arc<AtomicU64>,
    pub(super) watchers: broadcast::Sender<Batch>,
    /// Set while the disk does not take what is written.
    pub(super) failing: Arc<AtomicBool>,
}

impl Writer {
    pub(super) fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        while let Some(first) = commands.blocking_recv() {
            let (txns, replies) = group(first, &mut commands);
            match self.commit(txns) {
                Ok((outcomes, batches)) => self.publish(batches, replies.into_iter().zip(outcomes)),
                Err(message) => refuse(replies, &message),
            }
        }
    }

    pub(super) fn commit(&mut self, txns: Vec<Txn>) -> Result<(Vec<TxnOutcome>, Vec<Batch>), String> {
        self.mend()?;
        let mut staged = Staged::new(self.pending.newest(), |key: &str| self.pending.get(key));
        let outcomes = txns.into_iter().map(|txn| staged.apply(txn));
        let outcomes = outcomes.collect::<Result<_, _>>().map_err(|e| e.to_string())?;
        let batches = staged.batches();
        if !batches.is_empty() {
            let span = self.append(&batches)?;
            self.pending.add(&batches, span);
        }
        Ok((outcomes, batches))
    }

    fn append(&mut self, batches: &[Batch]) -> Result<Span, String> {
        loop {
            let kept = self.pending.kept();
            match self.journal.append(batches, kept) {
                Ok(span) => return Ok(span),
                Err(AppendError::Full) => self.pending.wait_for_room(kept)?,
                // A full disk: there may be room in what there is when something has been settled.
                Err(AppendError::Grow(_)) if kept.is_some() => self.pending.wait_for_room(kept)?,
                Err(error) => {
                    let unknown = matches!(error, AppendError::Write(_));
                    self.failing.fetch_or(unknown, Ordering::Release);
                    return Err(error.to_string());
                }
            }
        }
    }

    /// After a failed write, also one whose outcome nobody asked for: until the disk takes that it never was.
    fn mend(&mut self) -> Result<(), String> {
        let mended = self.journal.mend();
        mended.map_err(|error| format!("the journal cannot be written since a write failed: {error}"))?;
        if self.failing.swap(false, Ordering::AcqRel) {
            tracing::warn!("the store's journal can be written again");
        }
        Ok(())
    }

    /// Who waits is answered first: what tells watchers takes the processor from him.
    fn publish(&self, batches: Vec<Batch>, waiting: impl Iterator<Item = (Reply, TxnOutcome)>) {
        if let Some(last) = batches.last() {
            self.newest.store(last.revision, Ordering::Release);
        }
        for (reply, outcome) in waiting {
            // The caller may have gone; the write stands all the same.
            let _ = reply.send(Ok(outcome));
        }
        for batch in batches {
            // Nobody watching is fine.
            let _ = self.watchers.send(batch);
        }
    }
}

/// The first transaction and what is queued behind it.
fn group(first: Command, commands: &mut mpsc::Receiver<Command>) -> (Vec<Txn>, Vec<Reply>) {
    let (mut bytes, mut next) = (0, Some(first));
    let (mut txns, mut replies) = (Vec::new(), Vec::new());
    while let Some((txn, reply)) = next.take() {
        bytes += size(&txn);
        txns.push(txn);
        replies.push(reply);
        if txns.len() < GROUP && bytes < GROUP_BYTES {
            next = commands.try_recv().ok();
        }
    }
    (txns, replies)
}

fn size(txn: &Txn) -> usize {
    let sizes = txn.ops.iter().map(|op| match op {
        Op::Put { value, .. } => value.len(),
        Op::Delete { .. } => 0,
    });
    sizes.sum()
}

fn refuse(replies: Vec<Reply>, message: &str) {
    tracing::error!(message, "a group of writes failed");
    for reply in replies {
        // The caller may have gone: nobody is left to tell.
        let _ = reply.send(Err(WriteError::Backend(message.to_owned())));
    }
}

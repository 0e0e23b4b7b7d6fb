//! Where cluster state lives: etcd's data model behind one trait.
//!
//! Owns: revisions, compare-and-swap transactions, range reads at a revision, watch from a revision, compaction.
//! Refuses to know: kinds, HTTP, JSON. A value is bytes.
//!
//! One revision counter orders every write of the cluster. A key remembers the revision that created it, the one
//! that last changed it (`mod_revision`, which the API serves as `resourceVersion`) and how often it changed.
mod compactor;
mod record;
mod redb;
mod replay;
mod sealed;
#[cfg(test)]
mod tests;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use std::sync::Arc;

pub use compactor::run as run_compactor;
pub use redb::RedbStore;
pub use sealed::{Keyring, KeyringError, SealedStore};

/// Position in the cluster's one total order of writes; 0 is "before everything".
pub type Revision = u64;

/// One key at one revision (etcd's `mvccpb.KeyValue`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    pub key: Arc<str>,
    pub value: Bytes,
    pub create_revision: Revision,
    pub mod_revision: Revision,
    /// Number of writes since creation, starting at 1.
    pub version: u64,
}

/// What a key must look like for a transaction to happen: its `mod_revision`, 0 meaning "absent".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    pub key: String,
    pub mod_revision: Revision,
}

/// One change inside a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    Put { key: String, value: Bytes },
    Delete { key: String },
}

/// All comparisons hold and all operations happen at one revision, or nothing happens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    pub compare: Vec<Compare>,
    pub ops: Vec<Op>,
}

impl Txn {
    /// Writes `key` if it is absent.
    pub fn create(key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        Self::swap(key, 0, value)
    }

    /// Writes `key` if it was last changed at `mod_revision`.
    pub fn swap(key: impl Into<String>, mod_revision: Revision, value: impl Into<Bytes>) -> Self {
        let key = key.into();
        Txn {
            compare: vec![Compare {
                key: key.clone(),
                mod_revision,
            }],
            ops: vec![Op::Put {
                key,
                value: value.into(),
            }],
        }
    }

    /// Removes `key` if it was last changed at `mod_revision`.
    pub fn remove(key: impl Into<String>, mod_revision: Revision) -> Self {
        let key = key.into();
        Txn {
            compare: vec![Compare {
                key: key.clone(),
                mod_revision,
            }],
            ops: vec![Op::Delete { key }],
        }
    }
}

/// What became of a transaction. A conflict is an answer, not an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxnOutcome {
    Committed {
        revision: Revision,
    },
    /// The first comparison that did not hold, with what the key is now.
    Conflict {
        key: String,
        current: Option<KeyValue>,
    },
}

/// Which keys to read, and when.
#[derive(Clone, Debug, Default)]
pub struct Range {
    pub prefix: String,
    /// Continue after this key (exclusive).
    pub after: Option<String>,
    /// At most this many; `None` is all.
    pub limit: Option<usize>,
    /// Read as of this revision; `None` is now.
    pub revision: Option<Revision>,
}

impl Range {
    pub fn prefix(prefix: impl Into<String>) -> Self {
        Range {
            prefix: prefix.into(),
            ..Range::default()
        }
    }
}

/// A consistent answer to a [`Range`].
#[derive(Clone, Debug)]
pub struct RangeResult {
    pub items: Vec<KeyValue>,
    /// The revision that the answer is of.
    pub revision: Revision,
    /// Whether keys of the range were left out by the limit.
    pub more: bool,
}

/// One change of one key. A deletion has no `now`; a creation has no `before`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub revision: Revision,
    pub key: Arc<str>,
    pub now: Option<KeyValue>,
    pub before: Option<KeyValue>,
}

/// Everything that one revision changed, plus the revision itself, so that a watcher with no matching keys
/// still learns how far the store has come.
#[derive(Clone, Debug)]
pub struct Batch {
    pub revision: Revision,
    pub events: Arc<[Event]>,
}

pub type WatchStream = BoxStream<'static, Result<Batch, WatchError>>;

/// etcd's data model. The seam for other backends and for faults in tests.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The newest revision that is durable.
    async fn revision(&self) -> Result<Revision, ReadError>;

    /// Whether the state at `revision` can still be told; [`ReadError::Compacted`] when not.
    async fn retains(&self, revision: Revision) -> Result<(), ReadError>;

    /// One key as it is now.
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, ReadError>;

    /// Keys under a prefix, in order, of one revision.
    async fn range(&self, range: Range) -> Result<RangeResult, ReadError>;

    /// Compare, then swap. `Committed` means the write is on disk.
    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, WriteError>;

    /// Whether what is written lasts; fails while the disk does not take it.
    async fn writable(&self) -> Result<(), WriteError>;

    /// Every change after revision `after`, in order and without gaps.
    async fn watch(&self, after: Revision) -> Result<WatchStream, WatchError>;

    /// Bytes of the disk that it takes.
    async fn size(&self) -> Result<u64, ReadError>;

    /// Forgets history up to and including `revision`; the keys themselves stay.
    async fn compact(&self, revision: Revision) -> Result<(), WriteError>;
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot create the store's folder {path}: {source}")]
    Folder { path: String, source: std::io::Error },
    #[error("the store {path} is open in another process; stop that one first, or use another --data-dir")]
    InUse { path: String },
    #[error(
        "the store {path} has format {found}, this program writes format {wanted}; use the program that made it, or another --data-dir"
    )]
    Format { path: String, found: u64, wanted: u64 },
    #[error(
        "cannot open the store {path}: {message}; if the disk is full or read-only, mend that; else restore the file from a copy"
    )]
    Backend { path: String, message: String },
}

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("revision {wanted} has been compacted; the oldest readable is {oldest}")]
    Compacted { wanted: Revision, oldest: Revision },
    #[error("revision {wanted} is in the future; the newest is {newest}")]
    Future { wanted: Revision, newest: Revision },
    #[error("reading the store failed: {0}")]
    Backend(String),
}

#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("a key may have at most {limit} bytes, this one has {size}")]
    KeyTooLong { size: usize, limit: usize },
    #[error("the store is shutting down")]
    Closed,
    #[error("writing the store failed: {0}")]
    Backend(String),
}

#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    #[error("revision {wanted} has been compacted; the oldest watchable is {oldest}")]
    Compacted { wanted: Revision, oldest: Revision },
    #[error("the watcher fell behind and must read again")]
    Lagged,
    #[error("watching the store failed: {0}")]
    Backend(String),
}

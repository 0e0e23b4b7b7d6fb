//! What belongs into the transaction that writes an object, beside the object.
use crate::store::{Compare, Op, Revision, Txn};
use bytes::Bytes;
use tokio::sync::OwnedMutexGuard;

/// Keys beside the object that its transaction takes, makes, gives back or replaces. Keep it until the transaction is over.
#[derive(Debug, Default)]
pub struct Claims {
    /// Taken: must be absent.
    pub take: Vec<String>,
    /// Objects of their own that come to be: must be absent.
    pub make: Vec<(String, Bytes)>,
    /// Left alone, but must still be at this revision.
    pub unchanged: Vec<(String, Revision)>,
    /// Given back: removed, whatever they are.
    pub release: Vec<String>,
    /// Replaced, if still at this revision.
    pub replace: Vec<(String, Revision, Bytes)>,
    /// Held while the transaction runs, so that those who want the same keys queue instead of failing.
    pub turn: Option<OwnedMutexGuard<()>>,
}

impl Claims {
    /// Whether the transaction has nothing to do beside the object.
    pub fn is_empty(&self) -> bool {
        self.take.is_empty() && self.make.is_empty() && self.release.is_empty() && self.replace.is_empty()
    }

    /// Joins the claims to the transaction that writes `owner`, so that both happen or neither.
    pub fn join(&self, owner: &str, txn: &mut Txn) {
        for key in &self.take {
            compare(txn, key, 0);
            put(txn, key, owner.to_owned().into());
        }
        for (key, value) in &self.make {
            compare(txn, key, 0);
            put(txn, key, value.clone());
        }
        for (key, revision) in &self.unchanged {
            compare(txn, key, *revision);
        }
        for key in &self.release {
            txn.ops.push(Op::Delete { key: key.clone() });
        }
        for (key, revision, value) in &self.replace {
            compare(txn, key, *revision);
            put(txn, key, value.clone());
        }
    }
}

fn compare(txn: &mut Txn, key: &str, mod_revision: Revision) {
    txn.compare.push(Compare {
        key: key.to_owned(),
        mod_revision,
    });
}

fn put(txn: &mut Txn, key: &str, value: Bytes) {
    txn.ops.push(Op::Put {
        key: key.to_owned(),
        value,
    });
}

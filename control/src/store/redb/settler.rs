//! The thread that brings the tables up to what the journal has, and compacts them. Only it writes to redb.
use super::base::Base;
use super::pending::{Generation, Pending};
use super::tables;
use crate::store::{Revision, WriteError};

/// Runs until the store is closed; then everything is in the tables, or still in the journal if they cannot be
/// written.
pub(super) fn run(pending: &Pending) {
    loop {
        let work = pending.next_work();
        let settled = settle(pending, work.generation.as_deref());
        if let Err(message) = &settled {
            tracing::error!(
                message,
                "bringing the store's tables up to date failed; they are tried again"
            );
            pending.failed(message.clone());
        }
        for (revision, reply) in work.compactions {
            let done = settled.clone().and_then(|()| compact(pending, revision));
            // Who asked may have gone.
            let _ = reply.send(done.map_err(WriteError::Backend));
        }
        if work.closing {
            return;
        }
    }
}

fn settle(pending: &Pending, generation: Option<&Generation>) -> Result<(), String> {
    let Some(generation) = generation else {
        return Ok(());
    };
    tables::settle(&pending.db, generation)?;
    renew(pending)
}

/// Nothing is compacted that is not settled.
fn compact(pending: &Pending, revision: Revision) -> Result<(), String> {
    while tables::compact_some(&pending.db, revision)? {}
    renew(pending)
}

fn renew(pending: &Pending) -> Result<(), String> {
    let base = Base::open(&pending.db).map_err(|e| e.to_string())?;
    pending.settled(base);
    Ok(())
}

//! Forgets history on a timer, so that the file does not grow without end.
//!
//! Flow: every [`PERIOD`] compact up to the revision seen one period ago. A watcher or a continue token can thus be
//! between one and two periods old, as with upstream's etcd compactor.
use super::{Revision, Store};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Upstream's `--etcd-compaction-interval`.
const PERIOD: Duration = Duration::from_secs(300);

/// Runs until `shutdown`. A failed round is logged and tried again a period later.
pub async fn run(store: Arc<dyn Store>, shutdown: CancellationToken) {
    let mut horizon: Option<Revision> = None;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(PERIOD) => {}
        }
        horizon = round(store.as_ref(), horizon).await;
    }
}

/// Compacts up to `horizon` and returns the next one.
async fn round(store: &dyn Store, horizon: Option<Revision>) -> Option<Revision> {
    if let Some(revision) = horizon
        && let Err(error) = store.compact(revision).await
    {
        tracing::warn!(%error, revision, "compacting the store failed; trying again later");
        return horizon;
    }
    store
        .revision()
        .await
        .inspect_err(|error| tracing::warn!(%error, "reading the store's revision failed"))
        .ok()
}

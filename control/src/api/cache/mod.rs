//! The watch cache: every object in memory in its served form, fed by one watch of the store.
//!
//! Flow: store batch → [`Resource::apply`] per event (update the map, remember the event, hand it to watchers) →
//! progress is announced. Guarantees: readers that wait for a revision see everything up to it; a watcher gets every
//! matching event after its revision once, in order, or is closed. Assumes: keys under a kind's prefix hold that
//! kind's stored form.
mod event;
mod index;
mod resource;
mod watchers;

pub use event::{ChangeKind, Delivery, First, Shown, frame};
pub use index::field as indexed_field;
pub use resource::{Resource, Start, Subscription};
pub use watchers::Scope;

use super::object::Object;
use super::status::{ApiError, Result};
use crate::kinds::{Kind, Registry};
use crate::store::{Batch, Range, ReadError, Revision, Store, WatchError};
use futures::StreamExt;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;

/// How long a reader waits for the cache to reach a revision before it is told to come back (upstream's 3 s).
const FRESH_WITHIN: Duration = Duration::from_secs(3);

/// How long to wait before watching the store again after a failure.
const RETRY: Duration = Duration::from_millis(200);

/// What there is of a resource.
pub struct Count {
    pub kind: Arc<Kind>,
    pub objects: usize,
    /// How many the store told of since the server began.
    pub changes: u64,
}

/// All resources, by storage prefix.
pub struct Cache {
    store: Arc<dyn Store>,
    resources: RwLock<HashMap<String, Arc<Resource>>>,
    /// Held while events are taken in, and while a resource is added: it must miss none.
    feeding: Mutex<()>,
    progress: watch::Sender<Revision>,
}

impl Cache {
    /// Reads everything once. [`Cache::run`] keeps it up to date.
    pub async fn load(store: Arc<dyn Store>, kinds: &Registry) -> std::result::Result<Self, ReadError> {
        let revision = store.revision().await?;
        let mut resources = HashMap::new();
        for kind in kinds.iter().filter(|kind| kind.stored_as_served()) {
            let resource = Resource::new(kind.clone(), revision);
            resources.insert(kind.storage_prefix.clone(), Arc::new(resource));
        }
        let cache = Cache {
            store,
            resources: RwLock::new(resources),
            feeding: Mutex::new(()),
            progress: watch::Sender::new(0),
        };
        cache.reload().await?;
        Ok(cache)
    }

    /// The objects behind a kind, whichever version or group it shows them in.
    pub fn resource(&self, kind: &Kind) -> Result<Arc<Resource>> {
        // Only a custom resource goes away, with its definition, between a look-up of the kind and this one.
        let missing = || ApiError::no_resource();
        self.read().get(&kind.storage_prefix).cloned().ok_or_else(missing)
    }

    /// Begins to hold the objects that are stored as `kind`, anew when they were held before: watches of them end.
    pub async fn install(&self, kind: Arc<Kind>) -> std::result::Result<(), ReadError> {
        let _feeding = self.feeding.lock().await;
        let (prefix, revision) = (kind.storage_prefix.clone(), self.revision());
        let resource = Arc::new(Resource::new(kind, revision));
        self.fill(&resource, revision).await?;
        let before = self.write().insert(prefix, resource);
        before.into_iter().for_each(|resource| resource.close());
        Ok(())
    }

    /// Lets go of the objects under a prefix.
    pub fn forget(&self, prefix: &str) {
        let gone = self.write().remove(prefix);
        gone.into_iter().for_each(|resource| resource.close());
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<String, Arc<Resource>>> {
        self.resources.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<String, Arc<Resource>>> {
        self.resources.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn all(&self) -> Vec<Arc<Resource>> {
        self.read().values().cloned().collect()
    }

    /// What there is of each resource, by group and plural.
    pub fn counts(&self) -> Vec<Count> {
        let count = |resource: &Arc<Resource>| Count {
            kind: resource.kind.clone(),
            objects: resource.len(),
            changes: resource.changes(),
        };
        let mut counts: Vec<_> = self.all().iter().map(count).collect();
        counts.sort_by(|a, b| (&a.kind.group, &a.kind.plural).cmp(&(&b.kind.group, &b.kind.plural)));
        counts
    }

    /// How far the cache has come.
    pub fn revision(&self) -> Revision {
        *self.progress.borrow()
    }

    /// Waits until all that is durable now is in the cache: what is read next is as consistent as the store.
    pub async fn fresh(&self) -> Result<Revision> {
        let revision = self.store.revision().await?;
        self.at_least(revision).await
    }

    /// Waits for a revision, for a while.
    pub async fn at_least(&self, revision: Revision) -> Result<Revision> {
        if self.revision() >= revision {
            return Ok(self.revision());
        }
        let mut progress = self.progress.subscribe();
        let reached = tokio::time::timeout(FRESH_WITHIN, progress.wait_for(|now| *now >= revision)).await;
        match reached {
            Ok(Ok(now)) => Ok(*now),
            Ok(Err(_)) | Err(_) => Err(ApiError::too_large_revision(revision, self.revision())),
        }
    }

    /// Waits for a revision later than `seen`; false when there is none by `deadline`.
    pub async fn passes(&self, seen: Revision, deadline: tokio::time::Instant) -> bool {
        let mut progress = self.progress.subscribe();
        let later = tokio::time::timeout_at(deadline, progress.wait_for(|now| *now > seen)).await;
        matches!(later, Ok(Ok(_)))
    }

    /// Follows the store until `shutdown`. When the cache falls behind the retained history it reads all again.
    pub async fn run(&self, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            tokio::select! {
                () = shutdown.cancelled() => {}
                error = self.follow() => {
                    tracing::warn!(%error, "the watch cache lost the store's watch; watching again");
                    self.recover(error).await;
                }
            }
        }
        self.all().iter().for_each(|resource| resource.stop());
    }

    async fn follow(&self) -> WatchError {
        let mut batches = match self.store.watch(self.revision()).await {
            Ok(batches) => batches,
            Err(error) => return error,
        };
        while let Some(batch) = batches.next().await {
            match batch {
                Ok(batch) => {
                    let _feeding = self.feeding.lock().await;
                    self.apply(&batch);
                }
                Err(error) => return error,
            }
        }
        WatchError::Lagged
    }

    async fn recover(&self, error: WatchError) {
        match error {
            WatchError::Lagged => {}
            WatchError::Compacted { .. } => {
                self.all().iter().for_each(|resource| resource.close());
                let _feeding = self.feeding.lock().await;
                if let Err(error) = self.reload().await {
                    tracing::error!(%error, "the watch cache cannot read the store");
                }
            }
            WatchError::Backend(_) => tokio::time::sleep(RETRY).await,
        }
    }

    fn apply(&self, batch: &Batch) {
        let resources = self.read();
        for event in batch.events.iter() {
            if let Some(resource) = owner(&resources, &event.key) {
                resource.apply(event);
            }
        }
        drop(resources);
        self.progress.send_replace(batch.revision);
    }

    async fn reload(&self) -> std::result::Result<(), ReadError> {
        let revision = self.store.revision().await?;
        for resource in self.all() {
            self.fill(&resource, revision).await?;
        }
        self.progress.send_replace(revision);
        Ok(())
    }

    /// Reads the objects of one resource as they were at `revision`.
    async fn fill(&self, resource: &Resource, revision: Revision) -> std::result::Result<(), ReadError> {
        let range = Range {
            revision: Some(revision),
            ..Range::prefix(format!("{}/", resource.kind.storage_prefix))
        };
        let found = self.store.range(range).await?;
        let read = found.items.iter().filter_map(|kv| readable(&resource.kind, kv));
        resource.replace(read.collect(), revision);
        Ok(())
    }
}

/// The resource whose prefix the key is under.
fn owner<'a>(resources: &'a HashMap<String, Arc<Resource>>, key: &str) -> Option<&'a Arc<Resource>> {
    let mut end = key.len();
    while let Some(at) = key[..end].rfind('/') {
        if let Some(resource) = resources.get(&key[..at]) {
            return Some(resource);
        }
        end = at;
    }
    None
}

/// A damaged object is logged and left out: the others must still be served.
fn readable(kind: &Kind, kv: &crate::store::KeyValue) -> Option<Arc<Object>> {
    Object::read(kind, kv)
        .inspect_err(|error| tracing::error!(%error, "an object cannot be served"))
        .ok()
        .map(Arc::new)
}

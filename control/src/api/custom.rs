//! Serving custom resources: follows the CustomResourceDefinitions in the watch cache and swaps the registry of kinds.
//!
//! Flow: a definition comes → its storage kind's objects are read into the cache → the new registry is published; one changes → the
//! registry is published → its objects are read anew; one goes → its kind leaves the registry before its objects leave the cache. Watches of a changed kind end
//! and begin again. Knows definitions as opaque facts: what they mean is `kinds::custom`'s.
use super::cache::{Cache, Scope, Start};
use crate::kinds::{Kind, Live, Registry, custom};
use crate::store::{ReadError, Revision};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

const GROUP: &str = "apiextensions.k8s.io";
const PLURAL: &str = "customresourcedefinitions";
/// How long to wait before trying again after the store could not be read.
const RETRY: Duration = Duration::from_secs(1);

/// The definitions that are served.
pub struct Definitions {
    cache: Arc<Cache>,
    live: Arc<Live>,
    served: Mutex<Served>,
}

#[derive(Default)]
struct Served {
    /// The last change of any definition that was taken in.
    revision: Revision,
    /// By name of the definition.
    by_name: HashMap<String, Entry>,
}

struct Entry {
    fingerprint: u64,
    prefix: String,
}

impl Definitions {
    /// Nothing is served before the first [`Definitions::sync`].
    pub fn new(cache: Arc<Cache>, live: Arc<Live>) -> Self {
        Definitions {
            cache,
            live,
            served: Mutex::default(),
        }
    }

    /// Brings what is served up to what the cache holds. Cheap when nothing changed.
    pub async fn sync(&self) -> Result<(), ReadError> {
        let Some(kind) = definition_kind() else {
            return Ok(());
        };
        let Ok(resource) = self.cache.resource(kind) else {
            return Ok(());
        };
        let mut served = self.served.lock().await;
        let (objects, revision) = resource.list(&format!("{}/", kind.storage_prefix), None);
        if served.revision == revision {
            return Ok(());
        }
        let definitions: Vec<Value> = objects.iter().filter_map(|o| o.value().ok()).collect();
        let kinds = definitions.iter().flat_map(custom::kinds).collect();
        let registry = Arc::new(Registry::builtin().extended(kinds));
        let (kept, fresh, changed) = sort(&served, &definitions);
        // What is new is served once it can be read. What is changed is read by its new schema once it is written by it: who sees a new
        // default in what is read may expect it of what he writes next.
        self.install(fresh).await?;
        self.live.store(registry);
        self.install(changed).await?;
        let gone = served
            .by_name
            .iter()
            .filter(|(name, _)| !kept.contains_key(*name));
        gone.for_each(|(_, entry)| self.cache.forget(&entry.prefix));
        served.by_name = kept;
        served.revision = revision;
        Ok(())
    }

    /// Reads the objects of definitions.
    async fn install(&self, storages: Vec<Kind>) -> Result<(), ReadError> {
        for storage in storages {
            self.cache.install(Arc::new(storage)).await?;
        }
        Ok(())
    }

    /// Follows the definitions until `shutdown`.
    pub async fn run(&self, shutdown: CancellationToken) {
        while shutdown.run_until_cancelled(self.follow()).await.is_some() {
            if shutdown
                .run_until_cancelled(tokio::time::sleep(RETRY))
                .await
                .is_none()
            {
                return;
            }
        }
    }

    /// Ends when the watch ends or the store fails.
    async fn follow(&self) {
        let Some(kind) = definition_kind() else { return };
        let Ok(resource) = self.cache.resource(kind) else {
            return;
        };
        let prefix = format!("{}/", kind.storage_prefix);
        let Some(mut changes) = resource.subscribe(Scope::all(prefix), Start::Now) else {
            return;
        };
        loop {
            if let Err(error) = self.sync().await {
                return tracing::error!(%error, "custom resources cannot be read; trying again");
            }
            if changes.next().await.is_none() {
                return;
            }
        }
    }
}

/// All definitions by their names, and as what those are stored that are not known yet, and those that were otherwise.
fn sort(served: &Served, definitions: &[Value]) -> (HashMap<String, Entry>, Vec<Kind>, Vec<Kind>) {
    let (mut kept, mut fresh, mut changed) = (HashMap::new(), Vec::new(), Vec::new());
    for definition in definitions {
        let name = definition["metadata"]["name"].as_str().unwrap_or_default();
        let Some(storage) = custom::storage_kind(definition) else {
            continue;
        };
        let entry = Entry {
            fingerprint: custom::fingerprint(definition),
            prefix: storage.storage_prefix.clone(),
        };
        match served.by_name.get(name).map(|known| known.fingerprint) {
            None => fresh.push(storage),
            Some(known) if known != entry.fingerprint => changed.push(storage),
            Some(_) => {}
        }
        kept.insert(name.to_owned(), entry);
    }
    (kept, fresh, changed)
}

fn definition_kind() -> Option<&'static Arc<Kind>> {
    Registry::builtin().resource(GROUP, "v1", PLURAL)
}

//! A local copy of one kind, kept by list and watch, with handlers told of every change.
//!
//! Guarantees: the cache already holds a change when its handler runs; changes of one object arrive in order; an object
//! that vanished while the watch was broken is reported as deleted. Assumes: handlers only note what changed (they run
//! on the watch task and must not block).
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, RwLock};

use futures::StreamExt;
use kube::ResourceExt;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::key::ObjectKey;
use super::lock::{read, write};
use super::raw::{Kind, Objects, Raw};

/// How an object changed.
#[derive(Clone, Debug)]
pub enum Change<K> {
    Added(Arc<K>),
    Updated { old: Arc<K>, new: Arc<K> },
    Deleted(Arc<K>),
}

impl<K> Change<K> {
    /// The object as it is now, or as it last was.
    pub fn object(&self) -> &Arc<K> {
        match self {
            Self::Added(object) | Self::Deleted(object) => object,
            Self::Updated { new, .. } => new,
        }
    }

    /// The object before an update.
    pub fn old(&self) -> Option<&Arc<K>> {
        match self {
            Self::Updated { old, .. } => Some(old),
            _ => None,
        }
    }
}

/// A secondary index: the value under which an object can be found, if any.
pub type IndexFn<K> = fn(&K) -> Option<String>;
type Handler<K> = Box<dyn Fn(&Change<K>) + Send + Sync>;
/// Value → the objects found under it.
type Index = HashMap<String, HashSet<ObjectKey>>;
type ByName<K> = BTreeMap<String, Arc<K>>;

pub struct Informer<K> {
    cache: RwLock<Cache<K>>,
    handlers: RwLock<Vec<Handler<K>>>,
    synced: watch::Sender<bool>,
}

struct Cache<K> {
    namespaces: HashMap<String, ByName<K>>,
    indexes: Vec<(IndexFn<K>, Index)>,
}

impl<K: Kind> Informer<K> {
    /// An empty cache; `indexes` are queried by their position with [`Informer::indexed`].
    pub fn new(indexes: &[IndexFn<K>]) -> Arc<Self> {
        let indexes = indexes.iter().map(|index| (*index, HashMap::new())).collect();
        Arc::new(Self {
            cache: RwLock::new(Cache {
                namespaces: HashMap::new(),
                indexes,
            }),
            handlers: RwLock::new(Vec::new()),
            synced: watch::channel(false).0,
        })
    }

    /// Calls `handler` on every change from now on: register before [`Informer::run`].
    pub fn on_change(&self, handler: impl Fn(&Change<K>) + Send + Sync + 'static) {
        write(&self.handlers).push(Box::new(handler));
    }

    pub fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        read(&self.cache)
            .namespaces
            .get(&key.namespace)?
            .get(&key.name)
            .cloned()
    }

    pub fn list(&self) -> Vec<Arc<K>> {
        read(&self.cache)
            .namespaces
            .values()
            .flat_map(BTreeMap::values)
            .cloned()
            .collect()
    }

    /// How many there are, without looking at any.
    pub fn count(&self) -> usize {
        read(&self.cache).namespaces.values().map(BTreeMap::len).sum()
    }

    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        read(&self.cache)
            .namespaces
            .get(namespace)
            .into_iter()
            .flat_map(BTreeMap::values)
            .cloned()
            .collect()
    }

    /// The objects which index number `index` files under `value`.
    pub fn indexed(&self, index: usize, value: &str) -> Vec<Arc<K>> {
        self.indexed_any(index, &[value])
    }

    /// The objects which index number `index` files under one of `values`, as of one moment: one that moves from one
    /// value to another is found once.
    pub fn indexed_any(&self, index: usize, values: &[&str]) -> Vec<Arc<K>> {
        let cache = read(&self.cache);
        let entries = cache.indexes.get(index).map(|(_, entries)| entries);
        let keys = values.iter().filter_map(|value| entries?.get(*value)).flatten();
        keys.filter_map(|key| cache.get(key)).collect()
    }

    /// Waits until the first list is in the cache.
    pub async fn synced(&self) {
        // The sender lives in self, so waiting can only end with the value.
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }

    /// Follows `objects` until `shutdown`, starting over with backoff whenever the watch breaks.
    pub async fn run(
        self: Arc<Self>,
        objects: Objects<K>,
        config: watcher::Config,
        shutdown: CancellationToken,
    ) {
        let api = objects.into_raw();
        let url = api.resource_url().to_owned();
        let mut events = std::pin::pin!(watcher(api, config).default_backoff());
        let mut listed = HashSet::new();
        while let Some(Some(event)) = shutdown.run_until_cancelled(events.next()).await {
            match event {
                Ok(event) => self.apply(event, &mut listed),
                Err(error) => tracing::debug!(%url, %error, "watch broke; starting it again"),
            }
        }
        // Handlers usually hold what holds this cache: without them nothing keeps the client alive after the end.
        write(&self.handlers).clear();
    }

    fn apply(&self, event: watcher::Event<Raw>, listed: &mut HashSet<ObjectKey>) {
        match event {
            watcher::Event::Init => listed.clear(),
            watcher::Event::InitApply(object) => {
                listed.insert(ObjectKey::of(&object));
                self.take(object);
            }
            watcher::Event::InitDone => self.finish_list(std::mem::take(listed)),
            watcher::Event::Apply(object) => self.take(object),
            watcher::Event::Delete(object) => {
                let key = ObjectKey::of(&object);
                self.remove(&key, typed(&object).ok());
            }
        }
    }

    fn take(&self, object: Raw) {
        let key = ObjectKey::of(&object);
        match typed(&object) {
            Ok(object) => self.store(object),
            Err(error) => tracing::warn!(kind = %K::kind(&()), %key, %error, "an object was not understood"),
        }
    }

    /// Puts an object into the cache, as a watch does.
    #[cfg(test)]
    pub fn show(&self, object: &serde_json::Value) {
        self.store(serde_json::from_value(object.clone()).expect("an object of the kind"));
    }

    fn finish_list(&self, listed: HashSet<ObjectKey>) {
        let gone: Vec<ObjectKey> = self
            .list()
            .iter()
            .map(|object| ObjectKey::of(object.as_ref()))
            .filter(|key| !listed.contains(key))
            .collect();
        for key in gone {
            self.remove(&key, None);
        }
        self.synced.send_replace(true);
    }

    fn store(&self, object: K) {
        let new = Arc::new(object);
        let old = write(&self.cache).insert(new.clone());
        match old {
            Some(old) if old.resource_version() == new.resource_version() => {}
            Some(old) if old.uid() != new.uid() => {
                self.tell(&Change::Deleted(old));
                self.tell(&Change::Added(new));
            }
            Some(old) => self.tell(&Change::Updated { old, new }),
            None => self.tell(&Change::Added(new)),
        }
    }

    fn remove(&self, key: &ObjectKey, last: Option<K>) {
        let known = write(&self.cache).remove(key);
        if let Some(object) = known {
            self.tell(&Change::Deleted(last.map_or(object, Arc::new)));
        }
    }

    fn tell(&self, change: &Change<K>) {
        for handler in read(&self.handlers).iter() {
            handler(change);
        }
    }
}

/// The object without who owns its fields: nobody here reads that, and writes are patches, so nothing is lost.
fn typed<K: Kind>(object: &Raw) -> Result<K, serde_json::Error> {
    let mut object: K = object.parse()?;
    object.meta_mut().managed_fields = None;
    Ok(object)
}

impl<K: ResourceExt> Cache<K> {
    fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.namespaces.get(&key.namespace)?.get(&key.name).cloned()
    }

    fn insert(&mut self, object: Arc<K>) -> Option<Arc<K>> {
        let key = ObjectKey::of(object.as_ref());
        let objects = self.namespaces.entry(key.namespace.clone()).or_default();
        let old = objects.insert(key.name.clone(), object.clone());
        self.reindex(&key, old.as_deref(), Some(&object));
        old
    }

    fn remove(&mut self, key: &ObjectKey) -> Option<Arc<K>> {
        let objects = self.namespaces.get_mut(&key.namespace)?;
        let old = objects.remove(&key.name);
        if objects.is_empty() {
            self.namespaces.remove(&key.namespace);
        }
        self.reindex(key, old.as_deref(), None);
        old
    }

    fn reindex(&mut self, key: &ObjectKey, old: Option<&K>, new: Option<&K>) {
        for (index, entries) in &mut self.indexes {
            let (before, after) = (old.and_then(*index), new.and_then(*index));
            if before == after {
                continue;
            }
            if let Some(value) = before {
                unfile(entries, &value, key);
            }
            if let Some(value) = after {
                entries.entry(value).or_default().insert(key.clone());
            }
        }
    }
}

fn unfile(entries: &mut HashMap<String, HashSet<ObjectKey>>, value: &str, key: &ObjectKey) {
    if let Some(keys) = entries.get_mut(value) {
        keys.remove(key);
        if keys.is_empty() {
            entries.remove(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use serde_json::json;

    use super::*;
    use crate::toolkit::Pod;
    use crate::toolkit::lock::lock;
    use crate::toolkit::pods;

    fn pod(name: &str, uid: &str, version: &str, node: &str) -> Raw {
        let pod = json!({
            "metadata": {"namespace": "n", "name": name, "uid": uid, "resourceVersion": version},
            "spec": {"nodeName": node, "containers": []}
        });
        serde_json::from_str(&pod.to_string()).expect("an object")
    }

    fn recorded() -> (Arc<Informer<Pod>>, Arc<Mutex<Vec<String>>>) {
        let informer = Informer::new(&[|pod: &Pod| pods::node_name(pod).map(str::to_owned)]);
        let log = Arc::new(Mutex::new(Vec::new()));
        let sink = log.clone();
        informer.on_change(move |change| {
            let word = match change {
                Change::Added(_) => "added",
                Change::Updated { .. } => "updated",
                Change::Deleted(_) => "deleted",
            };
            lock(&sink).push(format!("{word} {}", change.object().name_any()));
        });
        (informer, log)
    }

    fn replay(informer: &Informer<Pod>, events: Vec<watcher::Event<Raw>>) {
        let mut listed = HashSet::new();
        for event in events {
            informer.apply(event, &mut listed);
        }
    }

    #[test]
    fn what_a_relist_no_longer_shows_is_deleted() {
        use watcher::Event::{Apply, Init, InitApply, InitDone};
        let (informer, log) = recorded();
        replay(
            &informer,
            vec![
                Init,
                InitApply(pod("a", "1", "1", "x")),
                InitDone,
                Apply(pod("b", "2", "2", "x")),
            ],
        );
        replay(
            &informer,
            vec![Init, InitApply(pod("b", "2", "2", "x")), InitDone],
        );
        assert_eq!(*lock(&log), ["added a", "added b", "deleted a"]);
        assert_eq!(informer.count(), 1);
    }

    #[test]
    fn a_name_reused_by_another_object_is_a_delete_and_an_add() {
        use watcher::Event::Apply;
        let (informer, log) = recorded();
        replay(
            &informer,
            vec![Apply(pod("a", "1", "1", "")), Apply(pod("a", "2", "2", ""))],
        );
        assert_eq!(*lock(&log), ["added a", "deleted a", "added a"]);
    }

    #[test]
    fn indexes_follow_updates_and_deletes() {
        use watcher::Event::{Apply, Delete};
        let (informer, _) = recorded();
        replay(
            &informer,
            vec![Apply(pod("a", "1", "1", "")), Apply(pod("a", "1", "2", "x"))],
        );
        assert_eq!(informer.indexed(0, "x").len(), 1);
        replay(&informer, vec![Apply(pod("a", "1", "3", "y"))]);
        assert_eq!(
            (informer.indexed(0, "x").len(), informer.indexed(0, "y").len()),
            (0, 1)
        );
        replay(&informer, vec![Delete(pod("a", "1", "4", "y"))]);
        assert!(informer.indexed(0, "y").is_empty() && informer.list().is_empty());
    }

    #[test]
    fn what_moves_within_an_index_is_found_once_meanwhile() {
        use watcher::Event::Apply;
        let (informer, _) = recorded();
        replay(&informer, vec![Apply(pod("a", "1", "0", "x"))]);
        std::thread::scope(|threads| {
            threads.spawn(|| {
                for version in 1..2_000 {
                    let value = if version % 2 == 0 { "x" } else { "y" };
                    replay(&informer, vec![Apply(pod("a", "1", &version.to_string(), value))]);
                }
            });
            for _ in 0..10_000 {
                assert_eq!(informer.indexed_any(0, &["x", "y"]).len(), 1);
            }
        });
    }
}

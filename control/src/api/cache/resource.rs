//! The objects of one resource, its recent events, and who watches them.
use super::super::object::Object;
use super::event::{ChangeKind, Delivery, Shown};
use crate::kinds::Kind;
use crate::store::{Event, Revision};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::sync::mpsc;

/// Events kept in memory for watches that start a little in the past; older ones are read from the store's log.
const WINDOW: usize = 1024;
/// Events a watcher may leave unread before its watch is closed. Events are shared, so a place costs two words.
const WATCHER_QUEUE: usize = 16_384;
/// … and what these may weigh: a watcher who does not read must not keep the past in memory.
const WATCHER_BYTES: usize = 64 << 20;

/// Whether an object is part of what a watcher asked for.
pub type Filter = Arc<dyn Fn(&Object) -> bool + Send + Sync>;

/// One resource's part of the cache.
pub struct Resource {
    /// The kind that objects are stored as.
    pub kind: Arc<Kind>,
    state: RwLock<State>,
    /// How many watch, as of the last change.
    watching: AtomicUsize,
}

struct State {
    objects: BTreeMap<Arc<str>, Arc<Object>>,
    recent: VecDeque<Arc<Shown>>,
    /// `recent` holds everything after this revision.
    recent_after: Revision,
    /// The revision of the last change.
    changed: Revision,
    watchers: Vec<Watcher>,
    /// The server is stopping: new watches end at once.
    stopped: bool,
}

struct Watcher {
    prefix: String,
    filter: Filter,
    queue: mpsc::Sender<Delivery>,
    /// Bytes in the queue.
    unread: Arc<AtomicUsize>,
}

impl Watcher {
    /// Whether the watcher takes it; one that is gone, or has left too much unread, does not.
    fn take(&self, delivery: Delivery) -> bool {
        let size = delivery.shown.size();
        let unread = self.unread.fetch_add(size, Ordering::Relaxed);
        unread < WATCHER_BYTES && self.queue.try_send(delivery).is_ok()
    }
}

/// Where a watch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With what is there now.
    Now,
    /// With what happened after this revision.
    After(Revision),
}

/// A watch that has begun.
pub struct Subscription {
    /// What to show before the queue: existing objects or past events.
    pub initial: Vec<Delivery>,
    /// The resource's last change when the watch began; `initial` includes it.
    pub revision: Revision,
    queue: mpsc::Receiver<Delivery>,
    unread: Arc<AtomicUsize>,
}

impl Subscription {
    /// The next change; none when the watch is closed.
    pub async fn next(&mut self) -> Option<Delivery> {
        let delivery = self.queue.recv().await;
        delivery.inspect(|delivery| self.read(delivery))
    }

    /// The next change that is there already.
    pub fn waiting(&mut self) -> Option<Delivery> {
        let delivery = self.queue.try_recv().ok();
        delivery.inspect(|delivery| self.read(delivery))
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    fn read(&self, delivery: &Delivery) {
        self.unread.fetch_sub(delivery.shown.size(), Ordering::Relaxed);
    }
}

impl Resource {
    pub(super) fn new(kind: Arc<Kind>, revision: Revision) -> Self {
        let state = State {
            objects: BTreeMap::new(),
            recent: VecDeque::new(),
            recent_after: revision,
            changed: revision,
            watchers: Vec::new(),
            stopped: false,
        };
        Resource {
            kind,
            state: RwLock::new(state),
            watching: AtomicUsize::new(0),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.read().objects.len()
    }

    pub fn is_empty(&self) -> bool {
        self.read().objects.is_empty()
    }

    pub fn get(&self, key: &str) -> Option<Arc<Object>> {
        self.read().objects.get(key).cloned()
    }

    /// Objects whose keys begin with `prefix`, after `after`, in order; and the revision of the last change, so that
    /// these are the objects at every revision from it to the cache's.
    pub fn list(&self, prefix: &str, after: Option<&str>) -> (Vec<Arc<Object>>, Revision) {
        let state = self.read();
        let from = after.map_or(Bound::Included(prefix), Bound::Excluded);
        let rest = state.objects.range::<str, _>((from, Bound::Unbounded));
        let mine = rest
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(_, object)| object.clone());
        (mine.collect(), state.changed)
    }

    /// Begins a watch of the keys under `prefix`. `None` when the past asked for is no longer in memory.
    pub fn subscribe(&self, prefix: String, filter: Filter, start: Start) -> Option<Subscription> {
        let mut state = self.write();
        let initial = match start {
            Start::Now => state.existing(&prefix, &filter),
            Start::After(revision) => state.past(&prefix, &filter, revision)?,
        };
        let (queue, events) = mpsc::channel(WATCHER_QUEUE);
        let unread = Arc::new(AtomicUsize::new(0));
        state.watchers.retain(|watcher| !watcher.queue.is_closed());
        if !state.stopped {
            state.watchers.push(Watcher {
                prefix,
                filter,
                queue,
                unread: unread.clone(),
            });
        }
        self.watching.store(state.watchers.len(), Ordering::Relaxed);
        Some(Subscription {
            initial,
            revision: state.changed,
            queue: events,
            unread,
        })
    }

    /// How many watch.
    pub fn watching(&self) -> usize {
        self.watching.load(Ordering::Relaxed)
    }

    /// The revision of the last change.
    pub fn changed(&self) -> Revision {
        self.read().changed
    }

    /// What the memory still holds begins after this revision.
    pub fn recent_after(&self) -> Revision {
        self.read().recent_after
    }

    pub(super) fn apply(&self, event: &Event) {
        let now = event.now.as_ref().and_then(|kv| super::readable(&self.kind, kv));
        let mut state = self.write();
        let before = match &now {
            Some(object) => state.objects.insert(event.key.clone(), object.clone()),
            None => state.objects.remove(&event.key),
        };
        state.changed = event.revision;
        let shown = Arc::new(Shown::new(event.revision, now, before));
        state.remember(shown.clone());
        state.deliver(&event.key, &shown);
        self.watching.store(state.watchers.len(), Ordering::Relaxed);
    }

    pub(super) fn replace(&self, objects: Vec<Arc<Object>>, revision: Revision) {
        let mut state = self.write();
        state.objects = objects
            .into_iter()
            .map(|object| (object.key.clone(), object))
            .collect();
        state.recent.clear();
        state.recent_after = revision;
        state.changed = revision;
    }

    /// Ends all watches; the clients begin again.
    pub(super) fn close(&self) {
        self.write().watchers.clear();
    }

    /// Ends all watches, and those that are still to begin.
    pub(super) fn stop(&self) {
        self.write().stopped = true;
        self.close();
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn existing(&self, prefix: &str, filter: &Filter) -> Vec<Delivery> {
        let rest = self
            .objects
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
        rest.take_while(|(key, _)| key.starts_with(prefix))
            .filter(|(_, object)| filter(object))
            .map(|(_, object)| Delivery {
                kind: ChangeKind::Added,
                shown: Arc::new(Shown::existing(object.clone())),
            })
            .collect()
    }

    fn past(&self, prefix: &str, filter: &Filter, after: Revision) -> Option<Vec<Delivery>> {
        if after < self.recent_after {
            return None;
        }
        let events = self.recent.iter().filter(|shown| shown.revision > after);
        let mine = events.filter(|shown| key_of(shown).is_some_and(|key| key.starts_with(prefix)));
        Some(mine.filter_map(|shown| delivery(shown, filter)).collect())
    }

    fn remember(&mut self, shown: Arc<Shown>) {
        if self.recent.len() == WINDOW
            && let Some(oldest) = self.recent.pop_front()
        {
            self.recent_after = oldest.revision;
        }
        self.recent.push_back(shown);
    }

    /// A watcher that cannot keep up, or is gone, is dropped: its stream ends and the client watches again.
    fn deliver(&mut self, key: &str, shown: &Arc<Shown>) {
        self.watchers.retain(|watcher| {
            if !key.starts_with(&watcher.prefix) {
                return !watcher.queue.is_closed();
            }
            match delivery(shown, &watcher.filter) {
                Some(delivery) => watcher.take(delivery),
                None => !watcher.queue.is_closed(),
            }
        });
    }
}

fn key_of(shown: &Shown) -> Option<&str> {
    shown
        .now
        .as_ref()
        .or(shown.before.as_ref())
        .map(|object| &*object.key)
}

fn delivery(shown: &Arc<Shown>, filter: &Filter) -> Option<Delivery> {
    let kind = shown.seen_by(|object| filter(object))?;
    Some(Delivery {
        kind,
        shown: shown.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Registry;
    use crate::store::KeyValue;

    fn changed(revision: Revision, data: &str) -> Event {
        let object = serde_json::json!({
            "kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "c", "namespace": "n"}, "data": {"a": data},
        });
        let key: Arc<str> = "/registry/configmaps/n/c".into();
        let now = KeyValue {
            key: key.clone(),
            value: super::super::super::object::encode(&object),
            create_revision: 1,
            mod_revision: revision,
            version: 1,
        };
        Event {
            revision,
            key,
            now: Some(now),
            before: None,
        }
    }

    fn watched() -> (Resource, Subscription) {
        let kind = Registry::builtin().resource("", "v1", "configmaps").unwrap();
        let resource = Resource::new(kind.clone(), 1);
        let watch = resource.subscribe("/registry/configmaps/".into(), Arc::new(|_| true), Start::Now);
        (resource, watch.unwrap())
    }

    async fn read_all(mut watch: Subscription) -> usize {
        let mut count = 0;
        while watch.next().await.is_some() {
            count += 1;
        }
        count
    }

    #[tokio::test]
    async fn who_leaves_too_many_unread_is_closed() {
        let (resource, watch) = watched();
        let events = WATCHER_QUEUE as u64 + 1;
        (0..events).for_each(|i| resource.apply(&changed(2 + i, "")));
        assert_eq!(resource.watching(), 0);
        assert_eq!(read_all(watch).await, WATCHER_QUEUE);
    }

    #[tokio::test]
    async fn who_leaves_too_much_unread_is_closed() {
        let (resource, watch) = watched();
        let data = "x".repeat(WATCHER_BYTES / 8);
        (0..10).for_each(|i| resource.apply(&changed(2 + i, &data)));
        assert_eq!(resource.watching(), 0);
        assert_eq!(read_all(watch).await, 8);
    }

    #[tokio::test]
    async fn who_reads_goes_on() {
        let (resource, mut watch) = watched();
        let data = "x".repeat(WATCHER_BYTES / 2);
        for i in 0..6 {
            resource.apply(&changed(2 + i, &data));
            assert_eq!(watch.next().await.unwrap().shown.revision, 2 + i);
        }
        assert!(watch.is_empty() && watch.waiting().is_none());
        assert_eq!(resource.watching(), 1);
    }
}

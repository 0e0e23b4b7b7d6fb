//! The objects of one resource, its recent events, and who watches them.
use super::super::object::Object;
use super::event::{Delivery, First, Shown};
use super::index::Index;
use super::watchers::{Scope, WATCHER_QUEUE, Watcher, Watchers};
use crate::kinds::Kind;
use crate::store::{Event, Revision};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::sync::mpsc;

/// Events kept in memory for watches that start a little in the past; older ones are read from the store's log.
const WINDOW: usize = 1024;
/// And so many bytes of them: objects may have some MiB each.
const WINDOW_BYTES: usize = 32 << 20;
/// One resource's part of the cache.
pub struct Resource {
    /// The kind that objects are stored as.
    pub kind: Arc<Kind>,
    state: RwLock<State>,
    /// How many watch, as of the last change.
    watching: AtomicUsize,
    /// How many changes the store told of.
    changes: AtomicU64,
}

struct State {
    objects: BTreeMap<Arc<str>, Arc<Object>>,
    index: Index,
    recent: VecDeque<Arc<Shown>>,
    /// Of `recent`.
    recent_bytes: usize,
    /// `recent` holds everything after this revision.
    recent_after: Revision,
    /// The revision of the last change.
    changed: Revision,
    watchers: Watchers,
    /// The server is stopping: new watches end at once.
    stopped: bool,
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
    pub initial: Vec<First>,
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
            index: Index::of(&kind),
            recent: VecDeque::new(),
            recent_bytes: 0,
            recent_after: revision,
            changed: revision,
            watchers: Watchers::default(),
            stopped: false,
        };
        Resource {
            kind,
            state: RwLock::new(state),
            watching: AtomicUsize::new(0),
            changes: AtomicU64::new(0),
        }
    }

    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
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
        (state.under(prefix, from).cloned().collect(), state.changed)
    }

    /// The Pods of a node (or what else the kind is looked up by) whose keys begin with `prefix`.
    pub fn indexed(&self, prefix: &str, value: &str) -> Vec<Arc<Object>> {
        self.read().indexed(prefix, value)
    }

    /// What is there of a part, in order, before its filter; and the revision of the last change, as in [`Resource::list`].
    pub fn within(&self, scope: &Scope) -> (Vec<Arc<Object>>, Revision) {
        match &scope.value {
            Some(value) => {
                let state = self.read();
                (state.indexed(&scope.prefix, value), state.changed)
            }
            None => self.list(&scope.prefix, None),
        }
    }

    /// Begins a watch. `None` when the past asked for is no longer in memory.
    pub fn subscribe(&self, scope: Scope, start: Start) -> Option<Subscription> {
        let mut state = self.write();
        let initial = match start {
            Start::Now => state.existing(&scope),
            Start::After(revision) => state.past(&scope, revision)?,
        };
        let (queue, events) = mpsc::channel(WATCHER_QUEUE);
        let unread = Arc::new(AtomicUsize::new(0));
        if !state.stopped {
            state.watchers.add(Watcher {
                scope,
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
        self.changes.fetch_add(1, Ordering::Relaxed);
        let now = event.now.as_ref().and_then(|kv| super::readable(&self.kind, kv));
        let mut state = self.write();
        let before = match &now {
            Some(object) => state.objects.insert(event.key.clone(), object.clone()),
            None => state.objects.remove(&event.key),
        };
        state.index.replace(before.as_deref(), now.as_deref());
        state.changed = event.revision;
        let shown = Arc::new(Shown::new(event.revision, now, before));
        state.remember(shown.clone());
        let state = &mut *state;
        let sides = [&shown.before, &shown.now];
        let values = sides.map(|object| state.index.value(object.as_deref()?));
        state.watchers.deliver(&event.key, &shown, values);
        self.watching.store(state.watchers.len(), Ordering::Relaxed);
    }

    pub(super) fn replace(&self, objects: Vec<Arc<Object>>, revision: Revision) {
        let mut state = self.write();
        state.index.clear();
        objects
            .iter()
            .for_each(|object| state.index.replace(None, Some(object)));
        state.objects = objects
            .into_iter()
            .map(|object| (object.key.clone(), object))
            .collect();
        state.recent.clear();
        state.recent_bytes = 0;
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
    fn indexed(&self, prefix: &str, value: &str) -> Vec<Arc<Object>> {
        let mine = self.index.keys(value).filter(|key| key.starts_with(prefix));
        mine.filter_map(|key| self.objects.get(key).cloned()).collect()
    }

    fn under(&self, prefix: &str, from: Bound<&str>) -> impl Iterator<Item = &Arc<Object>> {
        let rest = self.objects.range::<str, _>((from, Bound::Unbounded));
        rest.take_while(move |(key, _)| key.starts_with(prefix))
            .map(|(_, object)| object)
    }

    fn existing(&self, scope: &Scope) -> Vec<First> {
        let chosen = |object: &Arc<Object>| (scope.filter)(object);
        match &scope.value {
            Some(value) => {
                let all = self.indexed(&scope.prefix, value);
                all.into_iter().filter(chosen).map(First::There).collect()
            }
            None => {
                let all = self.under(&scope.prefix, Bound::Included(&scope.prefix));
                all.filter(|object| chosen(object))
                    .cloned()
                    .map(First::There)
                    .collect()
            }
        }
    }

    fn past(&self, scope: &Scope, after: Revision) -> Option<Vec<First>> {
        if after < self.recent_after {
            return None;
        }
        let events = self.recent.iter().filter(|shown| shown.revision > after);
        let mine = events.filter(|shown| key_of(shown).is_some_and(|key| key.starts_with(&scope.prefix)));
        Some(
            mine.filter_map(|shown| scope.delivery(shown))
                .map(First::Past)
                .collect(),
        )
    }

    fn remember(&mut self, shown: Arc<Shown>) {
        self.recent_bytes += shown.size();
        self.recent.push_back(shown);
        while (self.recent.len() > WINDOW || self.recent_bytes > WINDOW_BYTES)
            && let Some(oldest) = self.recent.pop_front()
        {
            self.recent_bytes -= oldest.size();
            self.recent_after = oldest.revision;
        }
    }
}

fn key_of(shown: &Shown) -> Option<&str> {
    shown
        .now
        .as_ref()
        .or(shown.before.as_ref())
        .map(|object| &*object.key)
}

#[cfg(test)]
mod tests {
    use super::super::watchers::WATCHER_BYTES;
    use super::*;
    use crate::api::texts::Lookup;
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
        let watch = resource.subscribe(Scope::all("/registry/configmaps/".into()), Start::Now);
        (resource, watch.unwrap())
    }

    async fn read_all(mut watch: Subscription) -> usize {
        let mut count = 0;
        while watch.next().await.is_some() {
            count += 1;
        }
        count
    }

    fn pod(revision: Revision, name: &str, node: &str) -> Event {
        let object = serde_json::json!({
            "kind": "Pod", "apiVersion": "v1", "metadata": {"name": name, "namespace": "n"}, "spec": {"nodeName": node},
        });
        let key: Arc<str> = format!("/registry/pods/n/{name}").into();
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

    #[test]
    fn few_events_of_large_objects_are_kept() {
        let (resource, _) = watched();
        let large = "x".repeat(WINDOW_BYTES / 8);
        (2..100).for_each(|revision| resource.apply(&changed(revision, &large)));
        let scope = || Scope::all("/registry/configmaps/".into());
        assert!(resource.subscribe(scope(), Start::After(91)).is_none());
        let kept = resource.subscribe(scope(), Start::After(92)).unwrap();
        assert_eq!(kept.initial.len(), 7);
    }

    #[test]
    fn pods_are_found_by_their_node() {
        let kind = Registry::builtin().resource("", "v1", "pods").unwrap();
        let pods = Resource::new(kind.clone(), 1);
        let on = |node: &str| -> Vec<String> {
            let found = pods.indexed("/registry/pods/n/", node);
            found.iter().map(|pod| pod.key.to_string()).collect()
        };
        pods.apply(&pod(2, "b", ""));
        pods.apply(&pod(3, "a", "one"));
        assert_eq!(on(""), [""; 0]);
        pods.apply(&pod(4, "b", "one"));
        assert_eq!(on("one"), ["/registry/pods/n/a", "/registry/pods/n/b"]);
        assert!(pods.indexed("/registry/pods/m/", "one").is_empty());
        let gone = Event {
            now: None,
            ..pod(5, "a", "one")
        };
        pods.apply(&gone);
        assert_eq!(on("one"), ["/registry/pods/n/b"]);
        pods.replace(pods.list("/registry/pods/", None).0, 5);
        assert_eq!(on("one"), ["/registry/pods/n/b"]);
        pods.replace(Vec::new(), 6);
        assert_eq!(on("one"), [""; 0]);
    }

    #[tokio::test]
    async fn who_watches_a_node_sees_its_pods_come_and_go() {
        let kind = Registry::builtin().resource("", "v1", "pods").unwrap();
        let pods = Resource::new(kind.clone(), 1);
        pods.apply(&pod(2, "a", "one"));
        let of = |node: &'static str| {
            let scope = Scope {
                prefix: "/registry/pods/".into(),
                value: Some(node.into()),
                filter: Arc::new(move |pod| pod.fields.find("spec.nodeName") == Some(node)),
            };
            pods.subscribe(scope, Start::Now).unwrap()
        };
        let (mut one, other) = (of("one"), of("two"));
        assert_eq!((one.initial.len(), other.initial.len()), (1, 0));
        pods.apply(&pod(3, "b", ""));
        pods.apply(&pod(4, "b", "one"));
        pods.apply(&pod(5, "b", "one"));
        pods.apply(&Event {
            now: None,
            ..pod(6, "b", "one")
        });
        let mut seen = Vec::new();
        while let Some(delivery) = one.waiting() {
            seen.push((delivery.kind, delivery.shown.revision));
        }
        use super::super::ChangeKind::{Added, Deleted, Modified};
        assert_eq!(seen, [(Added, 4), (Modified, 5), (Deleted, 6)]);
        assert!(other.is_empty());
        assert_eq!(pods.watching(), 2);
        drop(one);
        pods.apply(&pod(7, "b", "one"));
        assert_eq!(pods.watching(), 1);
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

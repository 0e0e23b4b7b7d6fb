//! Who watches a resource, and who of them gets an event. Those who ask for one value of the field that the kind is indexed by
//! (agents: the Pods of their node) are not looked at for the others'. Refuses to know objects but by [`Scope`].
use super::super::object::Object;
use super::event::{Delivery, Shown};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::mpsc;

/// Events a watcher may leave unread before its watch is closed. Events are shared, so a place costs two words.
pub const WATCHER_QUEUE: usize = 16_384;
/// … and what these may weigh: a watcher who does not read must not keep the past in memory.
pub const WATCHER_BYTES: usize = 64 << 20;

/// Whether an object is part of what was asked for.
pub type Filter = Arc<dyn Fn(&Object) -> bool + Send + Sync>;

/// The part of a resource that is asked for.
#[derive(Clone)]
pub struct Scope {
    /// What the keys begin with.
    pub prefix: String,
    /// The value of the field that the kind is indexed by, where only objects with it are asked for.
    pub value: Option<String>,
    pub filter: Filter,
}

impl Scope {
    /// Everything below a prefix.
    pub fn all(prefix: String) -> Self {
        Scope {
            prefix,
            value: None,
            filter: Arc::new(|_| true),
        }
    }

    /// What who asked sees of an event.
    pub fn delivery(&self, shown: &Arc<Shown>) -> Option<Delivery> {
        let kind = shown.seen_by(|object| (self.filter)(object))?;
        Some(Delivery {
            kind,
            shown: shown.clone(),
        })
    }
}

pub struct Watcher {
    pub scope: Scope,
    pub queue: mpsc::Sender<Delivery>,
    /// Bytes in the queue.
    pub unread: Arc<AtomicUsize>,
}

impl Watcher {
    /// Whether the watcher is to go on: it has taken what is its own. One that is gone, or has left too much unread, does not.
    fn is_told(&self, key: &str, shown: &Arc<Shown>) -> bool {
        if !key.starts_with(&self.scope.prefix) {
            return !self.queue.is_closed();
        }
        match self.scope.delivery(shown) {
            Some(delivery) => self.take(delivery),
            None => !self.queue.is_closed(),
        }
    }

    fn take(&self, delivery: Delivery) -> bool {
        let size = delivery.shown.size();
        let unread = self.unread.fetch_add(size, Ordering::Relaxed);
        unread < WATCHER_BYTES && self.queue.try_send(delivery).is_ok()
    }
}

/// The watchers of a resource. One that cannot keep up, or is gone, is dropped: its stream ends and the client watches again.
#[derive(Default)]
pub struct Watchers {
    of_all: Vec<Watcher>,
    of_value: HashMap<String, Vec<Watcher>>,
    count: usize,
}

impl Watchers {
    pub fn add(&mut self, watcher: Watcher) {
        self.sweep();
        let list = match &watcher.scope.value {
            Some(value) => self.of_value.entry(value.clone()).or_default(),
            None => &mut self.of_all,
        };
        list.push(watcher);
        self.count += 1;
    }

    fn sweep(&mut self) {
        let open = |watcher: &Watcher| !watcher.queue.is_closed();
        self.of_all.retain(open);
        self.of_value.retain(|_, list| {
            list.retain(open);
            !list.is_empty()
        });
        self.count = self.of_all.len() + self.of_value.values().map(Vec::len).sum::<usize>();
    }

    /// Hands an event to those whose it is; `values` are those of the indexed field before and after.
    pub fn deliver(&mut self, key: &str, shown: &Arc<Shown>, values: [Option<&str>; 2]) {
        let [before, now] = values;
        let also = now.filter(|_| now != before);
        let mut left = retain(&mut self.of_all, key, shown);
        for value in [before, also].into_iter().flatten() {
            let list = self.of_value.get_mut(value);
            left += list.map_or(0, |list| retain(list, key, shown));
        }
        self.count -= left;
    }

    pub fn len(&self) -> usize {
        self.count
    }

    /// Ends all watches.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Tells all of a list; how many have gone.
fn retain(list: &mut Vec<Watcher>, key: &str, shown: &Arc<Shown>) -> usize {
    let were = list.len();
    list.retain(|watcher| watcher.is_told(key, shown));
    were - list.len()
}

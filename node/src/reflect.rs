//! A local copy of all objects of a kind, kept by a watch.

use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _};
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};

/// Tells whenever the copy may have changed, and what went wrong with the watch, which is then tried again.
pub type Changes = BoxStream<'static, Result<(), watcher::Error>>;

/// A copy, and its changes, which somebody must follow for it to be kept. Nobody sees what `trim` takes away.
pub fn reflect<K>(client: Client, trim: fn(&mut K)) -> (Store<K>, Changes)
where
    K: kube::Resource<DynamicType = ()>
        + Clone
        + serde::de::DeserializeOwned
        + std::fmt::Debug
        + Send
        + Sync
        + 'static,
{
    let (store, writer) = reflector::store();
    let events = watcher(Api::<K>::all(client), watcher::Config::default()).default_backoff();
    let changes = reflector::reflector(writer, events.modify(trim)).filter_map(async |event| match event {
        Ok(watcher::Event::Apply(_) | watcher::Event::Delete(_) | watcher::Event::InitDone) => Some(Ok(())),
        Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => None,
        Err(error) => Some(Err(error)),
    });
    (store, changes.boxed())
}

/// Whether all objects were listed once.
pub fn is_ready<K>(store: &Store<K>) -> bool
where
    K: reflector::Lookup + Clone + 'static,
    K::DynamicType: Eq + std::hash::Hash + Clone,
{
    store
        .wait_until_ready()
        .now_or_never()
        .is_some_and(|ready| ready.is_ok())
}

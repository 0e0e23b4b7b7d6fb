//! A local copy of all objects of a kind, kept by a watch. An object that is not understood is passed over: it must not
//! keep the node from the others.

use std::borrow::Cow;

use futures::stream::{self, BoxStream};
use futures::{FutureExt as _, Stream, StreamExt as _, TryStreamExt as _};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::json;
use serde_json::value::RawValue;

/// Tells whenever the copy may have changed, and what went wrong with the watch, which is then tried again.
pub type Changes = BoxStream<'static, Result<(), watcher::Error>>;

/// A copy, and its changes, which somebody must follow for it to be kept. Nobody sees what `trim` takes away.
pub fn reflect<K>(client: Client, trim: fn(&mut K)) -> (Store<K>, Changes)
where
    K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + Sync + 'static,
{
    let (store, writer) = reflector::store();
    let events = answered(watcher(Api::<Seen<K>>::all(client), watcher::Config::default()));
    let events = events
        .default_backoff()
        .try_filter_map(async |event| Ok(understood(event)));
    let changes = reflector::reflector(writer, events.modify(trim)).filter_map(async |event| match event {
        Ok(watcher::Event::Apply(_) | watcher::Event::Delete(_) | watcher::Event::InitDone) => Some(Ok(())),
        Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => None,
        Err(error) => Some(Err(error)),
    });
    (store, changes.boxed())
}

/// The events, with the beginning of a list told when the server has answered. `kube` tells it before it asks, which its back-off takes
/// for success: a list that is refused would be asked for every second for ever.
fn answered<K: Send + 'static>(
    events: impl Stream<Item = watcher::Result<watcher::Event<K>>> + Send + 'static,
) -> impl Stream<Item = watcher::Result<watcher::Event<K>>> + Send + 'static {
    let mut begun = false;
    let told = move |event| {
        let began = std::mem::replace(&mut begun, matches!(event, Ok(watcher::Event::Init)));
        let before = (began && event.is_ok()).then_some(Ok(watcher::Event::Init));
        let event = (!begun).then_some(event);
        stream::iter(before.into_iter().chain(event))
    };
    events.map(told).flatten()
}

/// An event of an object that was understood, or of none.
fn understood<K: kube::Resource<DynamicType = ()> + DeserializeOwned>(
    event: watcher::Event<Seen<K>>,
) -> Option<watcher::Event<K>> {
    Some(match event {
        watcher::Event::Apply(seen) => watcher::Event::Apply(seen.object()?),
        watcher::Event::Delete(seen) => watcher::Event::Delete(seen.named()?),
        watcher::Event::Init => watcher::Event::Init,
        watcher::Event::InitApply(seen) => watcher::Event::InitApply(seen.object()?),
        watcher::Event::InitDone => watcher::Event::InitDone,
    })
}

/// An object as it came: of its metadata what a watch needs, and what the rest was understood as.
#[derive(Clone, Debug)]
struct Seen<K> {
    metadata: ObjectMeta,
    object: Result<K, String>,
}

impl<K: kube::Resource<DynamicType = ()>> Seen<K> {
    fn object(self) -> Option<K> {
        let told = |why: &String| {
            let (kind, metadata) = (K::kind(&()), &self.metadata);
            tracing::warn!(%kind, namespace = metadata.namespace, name = metadata.name, why, "an object was not understood");
        };
        self.object.inspect_err(told).ok()
    }

    /// The object, or at least one of its name: whichever copy there is of it must go.
    fn named(self) -> Option<K>
    where
        K: DeserializeOwned,
    {
        let by_name = |_| serde_json::from_value(json!({"metadata": self.metadata}));
        self.object.or_else(by_name).ok()
    }
}

impl<'de, K: DeserializeOwned> Deserialize<'de> for Seen<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Head {
            metadata: ObjectMeta,
        }
        let json: Box<RawValue> = Box::deserialize(deserializer)?;
        let Head { metadata } = serde_json::from_str(json.get()).map_err(D::Error::custom)?;
        let object = go_values::object::read(json.get()).map_err(|why| why.to_string());
        Ok(Self { metadata, object })
    }
}

impl<K: kube::Resource<DynamicType = ()>> kube::Resource for Seen<K> {
    type DynamicType = ();
    type Scope = K::Scope;

    fn kind(_: &()) -> Cow<'_, str> {
        K::kind(&())
    }

    fn group(_: &()) -> Cow<'_, str> {
        K::group(&())
    }

    fn version(_: &()) -> Cow<'_, str> {
        K::version(&())
    }

    fn plural(_: &()) -> Cow<'_, str> {
        K::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Service;

    fn seen(change: serde_json::Value) -> Seen<Service> {
        let mut service =
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": "n"}});
        service["status"] = change;
        serde_json::from_str(&service.to_string()).unwrap()
    }

    /// A list that fails is no success in between, so the time between two tries grows.
    #[tokio::test]
    async fn a_list_begins_when_it_is_answered() {
        use watcher::Event::{Apply, Init, InitApply, InitDone};
        let failed = || Err(watcher::Error::NoResourceVersion);
        let events = vec![
            Ok(Init),
            failed(),
            Ok(Init),
            failed(),
            Ok(Init),
            Ok(InitApply(1)),
            Ok(InitDone),
            Ok(Apply(2)),
            Ok(Init),
            Ok(InitDone),
        ];
        let told: Vec<String> = answered(stream::iter(events))
            .map(|event| event.map_or("failed".into(), |event| format!("{event:?}")))
            .collect()
            .await;
        let expected = [
            "failed",
            "failed",
            "Init",
            "InitApply(1)",
            "InitDone",
            "Apply(2)",
            "Init",
            "InitDone",
        ];
        assert_eq!(told, expected);
    }

    fn name(event: Option<watcher::Event<Service>>) -> Option<String> {
        match event? {
            watcher::Event::Apply(service) | watcher::Event::Delete(service) => service.metadata.name,
            _ => None,
        }
    }

    /// Go writes its zero time as null; one such Service once kept a node from all others.
    #[test]
    fn an_object_that_is_not_understood_is_passed_over_and_goes_all_the_same() {
        let condition =
            json!({"type": "A", "status": "True", "reason": "r", "message": "", "lastTransitionTime": null});
        for (status, is_understood) in [
            (json!({}), true),
            (json!({"conditions": [condition]}), true),
            (json!({"conditions": [{"lastTransitionTime": 5}]}), false),
        ] {
            let applied = name(understood(watcher::Event::Apply(seen(status.clone()))));
            assert_eq!(applied.is_some(), is_understood, "{status}");
            let deleted = name(understood(watcher::Event::Delete(seen(status.clone()))));
            assert_eq!(deleted.as_deref(), Some("s"), "{status}");
        }
    }
}

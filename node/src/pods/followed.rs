//! The objects that Pods' volumes show, each followed by one watch for all Pods of the node, as the kubelet's does: hundreds of Pods
//! have the same ConfigMap `kube-root-ca.crt`, and a connection for each would be most of the agent's memory. Owns the watches, by
//! name, as a node may; refuses to know what a change means.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// What is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    ConfigMap,
    Secret,
}

/// Kind, namespace and name.
pub type Key = (Kind, String, String);

/// A watch that goes on as long as somebody holds this.
pub struct Followed {
    changed: watch::Sender<()>,
    task: AbortHandle,
}

impl Followed {
    /// Changes whenever the object does, from now on; and once when a new watch has begun.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The watches of a node.
#[derive(Default)]
pub struct Follower(Mutex<HashMap<Key, Weak<Followed>>>);

impl Follower {
    /// Follows an object, by the watch that is there or by a new one. Must be called within a tokio runtime.
    pub fn follow(&self, client: &Client, key: Key) -> Arc<Followed> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(followed) = all.get(&key).and_then(Weak::upgrade) {
            return followed;
        }
        // Those whose last Pod has gone.
        all.retain(|_, followed| followed.strong_count() > 0);
        let (client, (kind, namespace, name)) = (client.clone(), key.clone());
        let (changed, _) = watch::channel(());
        let teller = changed.clone();
        let task = match kind {
            Kind::ConfigMap => tokio::spawn(run::<ConfigMap>(
                Api::namespaced(client, &namespace),
                name,
                teller,
            )),
            Kind::Secret => tokio::spawn(run::<Secret>(Api::namespaced(client, &namespace), name, teller)),
        };
        let followed = Arc::new(Followed {
            changed,
            task: task.abort_handle(),
        });
        all.insert(key, Arc::downgrade(&followed));
        followed
    }
}

async fn run<K>(api: Api<K>, name: String, changed: watch::Sender<()>)
where
    K: kube::Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let stream = watcher::watch_object(api, &name).default_backoff();
    let mut stream = std::pin::pin!(stream);
    while let Some(event) = stream.next().await {
        match event {
            Ok(_) => changed.send_replace(()),
            Err(error) => tracing::debug!(%error, name, "watching an object of a volume failed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client of nobody: the watch waits for ever between its tries.
    fn client() -> Client {
        let nobody = tower::service_fn(|_: http::Request<kube::client::Body>| async {
            std::future::pending::<Result<http::Response<kube::client::Body>, std::convert::Infallible>>()
                .await
        });
        Client::new(nobody, "default")
    }

    fn key(name: &str) -> Key {
        (Kind::ConfigMap, "n".into(), name.into())
    }

    #[tokio::test]
    async fn one_watch_for_all_who_follow_and_none_for_nobody() {
        let (follower, client) = (Follower::default(), client());
        let (one, other) = (
            follower.follow(&client, key("a")),
            follower.follow(&client, key("a")),
        );
        assert!(Arc::ptr_eq(&one, &other));
        let mut changes = other.changes();
        one.changed.send_replace(());
        changes.changed().await.unwrap();
        let task = one.task.clone();
        drop((one, other));
        while !task.is_finished() {
            tokio::task::yield_now().await;
        }
        let _again = follower.follow(&client, key("b"));
        assert_eq!(
            follower.0.lock().unwrap().len(),
            1,
            "those that ended are forgotten"
        );
    }
}

//! Makes this node's Wasm Pods keep to NetworkPolicies: their rules go to the shims, with the bundle and when they change.
//!
//! Flow: watches (`follow`) → a [`Judge`] → rules of each guest → the shim, where they differ from what it was given.
//! Guarantees: no Wasm container of a Pod of the API starts before it is known which policies select the Pod and what they
//! allow; what cannot be known later stays as it was. A node that never had the right to read NetworkPolicies keeps to none, as
//! one whose network plugin knows none: upstream's control plane gives nodes no such right, and Pods run all the same. A right
//! that is withdrawn later opens nothing: then no container starts. Refuses
//! to know what policies mean (`policy`), and native Pods, which nothing narrows yet.

mod follow;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use amphipod_shim_api::network::NetworkRules;
use tokio::sync::watch;

use crate::network::services::Lists;
use crate::policy::{Judge, Peer};

pub use follow::run;

/// Time that policies, and those they name, may take to be known when a container starts.
const LIMIT: Duration = Duration::from_secs(10);
/// The same for a static Pod, which may be there to make the API server run: after that it starts without rules, and has them
/// when they are known.
const LIMIT_STATIC: Duration = Duration::from_secs(1);

/// Why a container cannot start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the network policies of the Pod are not known: {0}")]
pub struct Unknown(String);

/// What is known of policies.
#[derive(Debug, Default)]
struct Known {
    judge: Option<Arc<Judge>>,
    /// What keeps the rest from being known.
    trouble: Option<Trouble>,
    /// This node may not read policies, and never could: they are not its business.
    are_withheld: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Trouble {
    message: String,
    /// Waiting does not help.
    forbidden: bool,
}

impl Known {
    fn rules(&self, pod: &Peer) -> Option<NetworkRules> {
        if self.are_withheld {
            return Some(NetworkRules::default());
        }
        self.judge.as_ref()?.rules(pod)
    }

    fn is_hopeless(&self) -> bool {
        self.trouble.as_ref().is_some_and(|trouble| trouble.forbidden)
    }
}

/// What starts of containers, the service proxy and the follower of policies share.
#[derive(Default)]
pub struct Narrower {
    /// Pods whose containers wait for rules, by the task's id.
    asking: watch::Sender<HashMap<String, Peer>>,
    /// What each task was given last.
    given: Mutex<HashMap<String, NetworkRules>>,
    known: watch::Sender<Known>,
    services: watch::Sender<Option<Lists>>,
}

/// A question that ends with whoever asks.
struct Asking<'a> {
    narrower: &'a Narrower,
    id: &'a str,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        // Nobody is to do anything about it.
        self.narrower.asking.send_if_modified(|all| {
            all.remove(self.id);
            false
        });
    }
}

impl Narrower {
    fn given(&self) -> MutexGuard<'_, HashMap<String, NetworkRules>> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The rules that a task about to be made is to have; it counts as having been given them. Waits until they are known.
    ///
    /// # Errors
    /// When they stay unknown.
    pub async fn rules(&self, id: &str, pod: &Peer, is_static: bool) -> Result<NetworkRules, Unknown> {
        let found = self
            .find(id, pod, if is_static { LIMIT_STATIC } else { LIMIT })
            .await;
        let rules = match found {
            Err(unknown) if is_static => {
                tracing::warn!(%unknown, namespace = pod.namespace, "a static Pod starts without its rules");
                NetworkRules::default()
            }
            found => found?,
        };
        self.given().insert(id.to_owned(), rules.clone());
        Ok(rules)
    }

    async fn find(&self, id: &str, pod: &Peer, limit: Duration) -> Result<NetworkRules, Unknown> {
        if let Some(rules) = self.known.borrow().rules(pod) {
            return Ok(rules);
        }
        self.asking
            .send_modify(|all| drop(all.insert(id.to_owned(), pod.clone())));
        let _asking = Asking { narrower: self, id };
        let mut known = self.known.subscribe();
        let is_settled = |known: &Known| known.rules(pod).is_some() || known.is_hopeless();
        // When time is up, what is known by then tells why.
        drop(tokio::time::timeout(limit, known.wait_for(is_settled)).await);
        let known = known.borrow();
        known.rules(pod).ok_or_else(|| {
            let trouble = known.trouble.as_ref().map(|trouble| trouble.message.clone());
            Unknown(trouble.unwrap_or_else(|| "the API server has not listed all of them yet".to_owned()))
        })
    }

    /// Forgets a task that has ended.
    pub fn forget(&self, id: &str) {
        self.given().remove(id);
    }

    /// Takes all Services and their endpoints.
    pub fn learn(&self, lists: &Lists) {
        self.services.send_replace(Some(lists.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trouble(forbidden: bool) -> Known {
        Known {
            judge: None,
            trouble: Some(Trouble {
                message: "no way".into(),
                forbidden,
            }),
            are_withheld: false,
        }
    }

    #[tokio::test]
    async fn no_rules_no_container() {
        let (narrower, pod) = (Narrower::default(), Peer::default());
        let now = Duration::ZERO;
        let unlisted = Unknown("the API server has not listed all of them yet".into());
        assert_eq!(narrower.find("a", &pod, now).await, Err(unlisted));
        narrower.known.send_replace(trouble(false));
        let why = Unknown("no way".into());
        assert_eq!(narrower.find("a", &pod, now).await, Err(why.clone()));
        narrower.known.send_replace(trouble(true));
        let began = std::time::Instant::now();
        assert_eq!(narrower.rules("b", &pod, false).await, Err(why));
        assert!(began.elapsed() < LIMIT, "nobody waits for what is forbidden");
        assert!(
            narrower.rules("a", &pod, true).await.unwrap().is_open(),
            "a static Pod starts"
        );
        narrower.known.send_replace(Known {
            are_withheld: true,
            ..trouble(true)
        });
        assert!(
            narrower.rules("c", &pod, false).await.unwrap().is_open(),
            "policies are somebody else's"
        );
        assert!(narrower.asking.borrow().is_empty() && narrower.given().len() == 2);
    }

    #[tokio::test]
    async fn rules_are_waited_for() {
        let (narrower, pod) = (Arc::new(Narrower::default()), Peer::default());
        let mut asking = narrower.asking.subscribe();
        let start = tokio::spawn({
            let (narrower, pod) = (narrower.clone(), pod.clone());
            async move { narrower.rules("a", &pod, false).await }
        });
        asking.wait_for(|all| all.contains_key("a")).await.unwrap();
        narrower.known.send_replace(Known {
            judge: Some(Arc::default()),
            ..Known::default()
        });
        assert!(start.await.unwrap().unwrap().is_open());
        assert_eq!(narrower.given().get("a"), Some(&NetworkRules::default()));
        narrower.forget("a");
        assert!(narrower.given().is_empty());
    }
}

//! Doing a thing once when several ask for it: whole pulls shared by all who wait, and locks by key for the parts
//! different pulls have in common.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use tokio::sync::OwnedMutexGuard;

use super::error::PullError;
use super::image::Pulled;

type Outcome = Result<Pulled, PullError>;
type Flight = Shared<BoxFuture<'static, Outcome>>;
/// Reference and a digest of the credentials: whose rights a pull uses decides what it may see.
type Key = (String, String);

/// Pulls under way. A pull nobody waits for any more is dropped, and cleans up after itself.
#[derive(Default)]
pub struct Flights {
    running: Mutex<HashMap<Key, WeakShared<BoxFuture<'static, Outcome>>>>,
}

impl std::fmt::Debug for Flights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Flights")
    }
}

impl Flights {
    /// Joins the pull under `key`, starting it when there is none under way.
    pub fn join(&self, key: Key, start: impl FnOnce() -> BoxFuture<'static, Outcome>) -> Flight {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|_, flight| flight.upgrade().is_some_and(|flight| flight.peek().is_none()));
        if let Some(flight) = running.get(&key).and_then(WeakShared::upgrade) {
            return flight;
        }
        let flight = start().shared();
        running.extend(flight.downgrade().map(|weak| (key, weak)));
        flight
    }
}

/// Mutexes by name, gone when nobody holds or waits for them.
#[derive(Debug, Default)]
pub struct KeyedLocks {
    locks: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

impl KeyedLocks {
    /// Waits for the lock `key`.
    pub async fn lock(&self, key: &str) -> OwnedMutexGuard<()> {
        self.get(key).lock_owned().await
    }

    /// The lock `key` if nobody has it.
    pub fn try_lock(&self, key: &str) -> Option<OwnedMutexGuard<()>> {
        self.get(key).try_lock_owned().ok()
    }

    fn get(&self, key: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = locks.get(key).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::new(tokio::sync::Mutex::new(()));
        locks.insert(key.to_owned(), Arc::downgrade(&lock));
        lock
    }
}

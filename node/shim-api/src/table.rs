//! The containers of one shim by id, and when its process may end: one that goes has none and gets no more.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::error::TaskError;

/// Most containers in one process: the project's aim for the Wasm Pods of a node, with room.
const MAX_CONTAINERS: usize = 20_000;
/// A server whose agent never came, or went away after the last Delete, leaves by itself after this.
const IDLE_LIMIT: Duration = Duration::from_secs(1800);

/// A place in the table. Taken while a container is made, so that two calls cannot make the same.
enum Slot<C> {
    Making,
    Made(Arc<C>),
}

/// The containers there are.
pub struct Table<C> {
    slots: Mutex<Slots<C>>,
    asked: Notify,
}

struct Slots<C> {
    by_id: HashMap<String, Slot<C>>,
    /// Places taken and given back so far.
    changes: u64,
    /// There is no container, and there will be none.
    is_leaving: bool,
}

impl<C> Default for Table<C> {
    fn default() -> Self {
        let slots = Slots {
            by_id: HashMap::new(),
            changes: 0,
            is_leaving: false,
        };
        Self {
            slots: Mutex::new(slots),
            asked: Notify::new(),
        }
    }
}

impl<C> Table<C> {
    fn slots(&self) -> MutexGuard<'_, Slots<C>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// # Errors
    /// When there is none of this id, or not yet.
    pub fn get(&self, id: &str) -> Result<Arc<C>, TaskError> {
        match self.slots().by_id.get(id) {
            Some(Slot::Made(container)) => Ok(Arc::clone(container)),
            Some(Slot::Making) => Err(TaskError::FailedPrecondition(format!(
                "container {id:?} is being made"
            ))),
            None => Err(TaskError::NotFound(format!("no container {id:?}"))),
        }
    }

    /// Whether there is no container, not even one that is being made.
    pub fn is_empty(&self) -> bool {
        self.slots().by_id.is_empty()
    }

    /// Holds a place for a container that is to be made.
    ///
    /// # Errors
    /// When it is taken, or there are too many; [`TaskError::Disconnected`] when the process goes: another is to be started.
    pub fn reserve(&self, id: &str) -> Result<Reserved<'_, C>, TaskError> {
        let mut slots = self.slots();
        if slots.is_leaving {
            return Err(TaskError::Disconnected("this shim is leaving".to_owned()));
        }
        if slots.by_id.len() >= MAX_CONTAINERS {
            return Err(TaskError::FailedPrecondition(format!(
                "this shim holds {MAX_CONTAINERS} containers already"
            )));
        }
        match slots.by_id.entry(id.to_owned()) {
            Entry::Occupied(_) => {
                return Err(TaskError::AlreadyExists(format!(
                    "container {id:?} exists already"
                )));
            }
            Entry::Vacant(place) => place.insert(Slot::Making),
        };
        slots.changes += 1;
        Ok(Reserved {
            table: self,
            id: id.to_owned(),
        })
    }

    /// Forgets a container.
    pub fn remove(&self, id: &str) {
        let mut slots = self.slots();
        slots.by_id.remove(id);
        slots.changes += 1;
    }

    /// Shutdown: asks the process to end if there is no container.
    pub fn ask_to_leave(&self) {
        if self.slots().by_id.is_empty() {
            self.asked.notify_one();
        }
    }

    /// Completes when the process is to end: asked for it and empty `linger` later, or half an hour without a container. From
    /// then on there is none.
    pub async fn left(&self, linger: Duration) {
        tokio::select! {
            () = self.left_as_asked(linger) => {}
            () = self.left_idle() => {}
        }
    }

    async fn left_as_asked(&self, linger: Duration) {
        loop {
            self.asked.notified().await;
            tokio::time::sleep(linger).await;
            if self.leave() {
                return;
            }
        }
    }

    async fn left_idle(&self) {
        let mut before = None;
        loop {
            let now = self.slots().changes;
            if before == Some(now) && self.leave() {
                return;
            }
            before = Some(now);
            tokio::time::sleep(IDLE_LIMIT).await;
        }
    }

    fn leave(&self) -> bool {
        let mut slots = self.slots();
        slots.is_leaving |= slots.by_id.is_empty();
        slots.is_leaving
    }
}

/// A place held while its container is made; given back when that fails.
pub struct Reserved<'a, C> {
    table: &'a Table<C>,
    id: String,
}

impl<C> Reserved<'_, C> {
    /// Puts the container in its place.
    pub fn fill(self, container: Arc<C>) {
        let made = Slot::Made(container);
        self.table.slots().by_id.insert(self.id.clone(), made);
    }
}

impl<C> Drop for Reserved<'_, C> {
    fn drop(&mut self) {
        let making = matches!(self.table.slots().by_id.get(&self.id), Some(Slot::Making));
        if making {
            self.table.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_goes_has_no_container_and_gets_none() {
        let table = Table::<()>::default();
        let making = table.reserve("a").unwrap();
        assert!(matches!(table.reserve("a"), Err(TaskError::AlreadyExists(_))));
        assert!(!table.leave(), "one is being made");
        assert!(matches!(table.get("a"), Err(TaskError::FailedPrecondition(_))));
        making.fill(Arc::new(()));
        assert!(table.get("a").is_ok() && !table.leave(), "one is there");
        table.remove("a");
        table.ask_to_leave();
        table.left(Duration::ZERO).await;
        assert!(matches!(table.reserve("a"), Err(TaskError::Disconnected(_))));
    }

    #[tokio::test]
    async fn a_container_of_the_time_that_is_waited_keeps_the_process() {
        let table = Table::<()>::default();
        table.ask_to_leave();
        let making = table.reserve("a").unwrap();
        let mut leaving = std::pin::pin!(table.left_as_asked(Duration::ZERO));
        let limit = Duration::from_millis(20);
        assert!(tokio::time::timeout(limit, &mut leaving).await.is_err());
        drop(making);
        assert!(matches!(table.get("a"), Err(TaskError::NotFound(_))));
        table.ask_to_leave();
        leaving.await;
    }
}

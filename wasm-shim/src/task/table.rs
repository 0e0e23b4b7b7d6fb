//! The containers of one process by id, and when it may end: a process that goes has none and gets no more.

use super::container::Container;
use amphipod_shim_api::TaskError;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio_util::sync::CancellationToken;

/// Most containers in one process: the project's aim for a node, with room.
const MAX_CONTAINERS: usize = 20_000;

/// A place in the table. Taken while a container is made, so that two calls cannot make the same.
enum Slot {
    Making,
    Made(Arc<Container>),
}

/// The containers there are.
pub struct Table {
    slots: Mutex<HashMap<String, Slot>>,
    /// Cancelled, and looked at, under the lock of the slots.
    shutdown: CancellationToken,
}

impl Table {
    /// An empty one; `shutdown` is cancelled when the process may end.
    pub fn new(shutdown: CancellationToken) -> Self {
        Self {
            slots: Mutex::default(),
            shutdown,
        }
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<String, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// # Errors
    /// When there is none of this id.
    pub fn get(&self, id: &str) -> Result<Arc<Container>, TaskError> {
        match self.slots().get(id) {
            Some(Slot::Made(container)) => Ok(Arc::clone(container)),
            Some(Slot::Making) | None => Err(TaskError::NotFound(format!("no container {id:?}"))),
        }
    }

    /// Holds a place for a container that is to be made.
    ///
    /// # Errors
    /// When it is taken, or there are too many; [`TaskError::Disconnected`] when the process goes: another is to be started.
    pub fn reserve(&self, id: &str) -> Result<Reserved<'_>, TaskError> {
        let mut slots = self.slots();
        if self.shutdown.is_cancelled() {
            return Err(TaskError::Disconnected("this shim is leaving".to_owned()));
        }
        if slots.len() >= MAX_CONTAINERS {
            return Err(TaskError::FailedPrecondition(format!(
                "this shim holds {MAX_CONTAINERS} containers already"
            )));
        }
        match slots.entry(id.to_owned()) {
            Entry::Occupied(_) => Err(TaskError::AlreadyExists(format!(
                "container {id:?} exists already"
            ))),
            Entry::Vacant(place) => {
                place.insert(Slot::Making);
                Ok(Reserved {
                    table: self,
                    id: id.to_owned(),
                })
            }
        }
    }

    /// Forgets a container.
    pub fn remove(&self, id: &str) {
        self.slots().remove(id);
    }

    /// Lets the process end if there is no container.
    pub fn leave(&self) {
        let slots = self.slots();
        if slots.is_empty() {
            self.shutdown.cancel();
        }
    }
}

/// A place held while its container is made; given back when that fails.
pub struct Reserved<'a> {
    table: &'a Table,
    id: String,
}

impl Reserved<'_> {
    /// Puts the container in its place.
    pub fn fill(self, container: Arc<Container>) {
        self.table.slots().insert(self.id.clone(), Slot::Made(container));
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        let mut slots = self.table.slots();
        if matches!(slots.get(&self.id), Some(Slot::Making)) {
            slots.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_goes_has_no_container_and_gets_none() {
        let shutdown = CancellationToken::new();
        let table = Table::new(shutdown.clone());
        let making = table.reserve("a").unwrap();
        assert!(matches!(table.reserve("a"), Err(TaskError::AlreadyExists(_))));
        table.leave();
        assert!(!shutdown.is_cancelled(), "one is being made");
        drop(making);
        table.leave();
        assert!(shutdown.is_cancelled());
        assert!(matches!(table.reserve("a"), Err(TaskError::Disconnected(_))));
    }
}

//! Tasks by what they are for. Whose a task was is known also when it panicked.

use std::collections::HashMap;

use tokio::task::{Id, JoinError, JoinSet};

pub struct Keyed<K, T> {
    running: JoinSet<T>,
    keys: HashMap<Id, K>,
}

impl<K, T: Send + 'static> Keyed<K, T> {
    pub fn new() -> Self {
        Self {
            running: JoinSet::new(),
            keys: HashMap::new(),
        }
    }

    pub fn spawn(&mut self, key: K, task: impl Future<Output = T> + Send + 'static) {
        let task = self.running.spawn(task);
        self.keys.insert(task.id(), key);
    }

    /// The next one that has ended; `None` when none is running. Nothing is lost by waiting no longer.
    pub async fn next(&mut self) -> Option<(K, Result<T, JoinError>)> {
        let (id, ended) = match self.running.join_next_with_id().await? {
            Ok((id, done)) => (id, Ok(done)),
            Err(error) => (error.id(), Err(error)),
        };
        Some((self.keys.remove(&id)?, ended))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_panicked_is_known() {
        let mut tasks = Keyed::new();
        tasks.spawn("a", async { panic!("as it does now and then") });
        let (key, ended) = tasks.next().await.unwrap();
        assert!(key == "a" && ended.unwrap_err().is_panic());
        tasks.spawn("b", async { 1 });
        let (key, ended) = tasks.next().await.unwrap();
        assert_eq!((key, ended.unwrap()), ("b", 1));
        assert!(tasks.next().await.is_none());
    }
}

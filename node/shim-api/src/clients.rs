//! Clients of many shims: one connection for each, shared by all that have to do with it, as long as anybody has.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::client::{Shim, TaskClient};
use crate::start::ShimAddress;

/// Clients that somebody has, by the shims' addresses. A cheap handle.
#[derive(Clone, Default)]
pub struct TaskClients(Arc<Mutex<HashMap<ShimAddress, Weak<Shim>>>>);

impl std::fmt::Debug for TaskClients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TaskClients").finish_non_exhaustive()
    }
}

impl TaskClients {
    /// The client of a shim: the one that others have, or a new one.
    pub fn of(&self, address: &ShimAddress) -> TaskClient {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shim) = all.get(address).and_then(Weak::upgrade) {
            return TaskClient(shim);
        }
        all.retain(|_, shim| shim.strong_count() > 0);
        let client = TaskClient::new(address.clone());
        all.insert(address.clone(), Arc::downgrade(&client.0));
        client
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;

    fn address(path: &std::path::Path) -> ShimAddress {
        ShimAddress {
            address: format!("unix://{}", path.display()),
            version: 3,
        }
    }

    #[tokio::test]
    async fn who_asks_the_same_shim_shares_a_connection_that_ends_with_the_last() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let (clients, here) = (TaskClients::default(), address(&path));
        let waiting: Vec<_> = (0..3).map(|_| tokio::spawn(wait(clients.of(&here)))).collect();
        let (first, _) = listener.accept().await.unwrap();
        // Nobody answers: all are told when the connection ends, and make one again.
        drop(first);
        for waiting in waiting {
            waiting.await.unwrap();
        }
        let (one, other) = (clients.of(&here), clients.of(&here));
        let asking = tokio::spawn(wait(one));
        let (mut second, _) = listener.accept().await.unwrap();
        let more = tokio::spawn(wait(other));
        tokio::task::yield_now().await;
        asking.abort();
        more.abort();
        let mut sent = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut second, &mut sent)
            .await
            .unwrap();
        assert_eq!(clients.0.lock().unwrap()[&here].strong_count(), 0);
    }

    async fn wait(client: TaskClient) {
        client.wait("c").await.unwrap_err();
    }

    #[test]
    fn shims_that_nobody_asks_are_forgotten() {
        let clients = TaskClients::default();
        for n in 0..100 {
            drop(clients.of(&address(std::path::Path::new(&n.to_string()))));
        }
        assert_eq!(clients.0.lock().unwrap().len(), 1);
    }
}

//! Shims that serve already: the Wasm containers of a namespace share one, and another container of it asks there without
//! running the shim's program only to be told the same address, as containerd does for the containers of a sandbox. Owns what is
//! remembered; that it may be out of date is for the caller to see at its next call. And when such a shim is told that it may go:
//! a while after its container's end, since starting another takes longer than all the rest of a container's start.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use amphipod_shim_api::start::{ServeError, forget_all_dead, forget_dead};
use amphipod_shim_api::{ShimAddress, TaskClient};
use futures::{StreamExt, stream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::stuck;

/// Namespaces remembered; with more of them all are asked for anew.
const MOST: usize = 1000;

/// How long a shim stays for the next container, when it may have none.
const LINGER: Duration = Duration::from_secs(30);

/// Where their sockets are, below the node's directory of this boot.
pub const SOCKETS: &str = "s";
/// So many are told something at once. Their answers are mostly waiting: for the kernel to take namespaces down, for systemd to
/// end a scope.
pub const AT_ONCE: usize = 32;
/// Version of the Task API that our own shims speak.
const TASK_API: u32 = 3;
/// Time that shims of an earlier agent have to take it in that they may go, before what dead ones have left is removed.
const DISMISS_LIMIT: Duration = Duration::from_secs(5);

/// Whoever starts a shim, or ends, holds their lock for a moment. What one that does not let go of it keeps from being removed goes
/// next time.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
/// Between two tries.
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// A shim, and whether somebody is going to tell it that it may go.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    address: ShimAddress,
    is_leaving: bool,
}

/// Addresses of shims, by namespace. A cheap handle.
#[derive(Clone, Default)]
pub struct Shims(Arc<Mutex<HashMap<String, Known>>>);

impl Shims {
    fn known(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn of(&self, namespace: &str) -> Option<ShimAddress> {
        self.known().get(namespace).map(|known| known.address.clone())
    }

    /// Whether the shim at `address` serves the containers of a namespace; if so it is told to go by and by, unless it has
    /// containers then. When the agent ends it is told at once.
    pub fn let_go(&self, namespace: &str, address: &ShimAddress, shutdown: CancellationToken) -> bool {
        let mut all = self.known();
        let Some(known) = all.get_mut(namespace).filter(|known| known.address == *address) else {
            return false;
        };
        if !std::mem::replace(&mut known.is_leaving, true) {
            let (shims, namespace, address) = (self.clone(), namespace.to_owned(), address.clone());
            tokio::spawn(async move {
                shutdown.run_until_cancelled(tokio::time::sleep(LINGER)).await;
                if let Some(known) = shims.known().get_mut(&namespace) {
                    known.is_leaving = false;
                }
                if let Err(error) = stuck::let_go(TaskClient::new(address), String::new()).await {
                    tracing::debug!(%error, namespace, "the shim stays");
                }
            });
        }
        true
    }

    pub fn note(&self, namespace: &str, address: &ShimAddress) {
        let mut known = self.known();
        if known.len() >= MOST && !known.contains_key(namespace) {
            known.clear();
        }
        let is_leaving = known
            .get(namespace)
            .is_some_and(|known| known.address == *address && known.is_leaving);
        let address = address.clone();
        known.insert(namespace.to_owned(), Known { address, is_leaving });
    }

    /// Nobody answered there.
    pub fn forget(&self, namespace: &str) {
        self.known().remove(namespace);
    }
}

/// The addresses of all shims that this node started and that have not removed their sockets.
pub fn addresses(run_dir: &Path) -> io::Result<Vec<ShimAddress>> {
    let entries = match fs::read_dir(run_dir.join(SOCKETS)) {
        Ok(entries) => entries.collect::<io::Result<Vec<_>>>()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let paths = entries.into_iter().map(|entry| entry.path());
    let sockets = paths.filter(|path| path.extension().is_some_and(|end| end == "sock"));
    let address = |socket: PathBuf| ShimAddress {
        address: format!("unix://{}", socket.display()),
        version: TASK_API,
    };
    Ok(sockets.map(address).collect())
}

/// Tells every shim that it may go: those between two containers when an earlier agent ended would stay for good. One that
/// has containers stays, one that does not answer is ended by and by. Who starts a container meanwhile in one that leaves is told
/// so, and starts another.
pub async fn dismiss(run_dir: &Path) {
    let all = addresses(run_dir).unwrap_or_else(|error| {
        tracing::warn!(%error, "the shims of an earlier agent cannot be listed");
        Vec::new()
    });
    let tell = |shim: ShimAddress| async move {
        let told = stuck::let_go(TaskClient::new(shim.clone()), String::new()).await;
        if let Err(error) = told {
            tracing::debug!(%error, ?shim, "nobody serves here any more");
        }
    };
    let told = tokio::spawn(stream::iter(all).for_each_concurrent(AT_ONCE, tell));
    if tokio::time::timeout(DISMISS_LIMIT, told).await.is_err() {
        tracing::warn!("not every shim of an earlier agent took it in that it may go");
    }
}

/// Removes what shims that were killed have left beside those that live. Waits while one is being started, but not for ever.
pub async fn sweep(run_dir: &Path) {
    let sockets = run_dir.join(SOCKETS);
    aside(move || forget_all_dead(&sockets)).await;
}

/// The same of the shim of a task that was lost, if it is one of ours: what others leave is theirs to remove.
pub async fn forget_lost(run_dir: &Path, address: &ShimAddress) {
    let Some(socket) = socket(address).filter(|path| path.parent() == Some(&run_dir.join(SOCKETS))) else {
        return;
    };
    aside(move || forget_dead(&socket)).await;
}

fn socket(address: &ShimAddress) -> Option<PathBuf> {
    address.address.strip_prefix("unix://").map(PathBuf::from)
}

/// Tries until the lock of shims can be had, for some time.
async fn aside(forget: impl Fn() -> Result<(), ServeError> + Clone + Send + 'static) {
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match tokio::task::spawn_blocking(forget.clone()).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) if error.is_busy() && Instant::now() < deadline => {}
            Ok(Err(error)) => return tracing::warn!(%error, "what killed shims have left stays"),
            Err(error) => return tracing::error!(%error, "what killed shims have left stays"),
        }
        tokio::time::sleep(LOCK_PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    fn address(path: &str) -> ShimAddress {
        ShimAddress {
            address: format!("unix://{path}"),
            version: 3,
        }
    }

    #[tokio::test]
    async fn only_the_shim_of_a_namespace_lingers_and_is_told_once() {
        let (shims, shutdown) = (Shims::default(), CancellationToken::new());
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("s");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let here = address(&path.display().to_string());
        shims.note("n", &here);
        assert!(!shims.let_go("n", &address("/other"), shutdown.clone()));
        assert!(!shims.let_go("other", &here, shutdown.clone()));
        for _ in 0..3 {
            assert!(shims.let_go("n", &here, shutdown.clone()));
        }
        tokio::task::yield_now().await;
        assert!(listener.accept().now_or_never().is_none(), "it lingers");
        shutdown.cancel();
        listener.accept().await.unwrap();
        tokio::task::yield_now().await;
        assert!(listener.accept().now_or_never().is_none(), "it was told once");
    }

    #[tokio::test]
    async fn every_shim_that_is_there_is_told_that_it_may_go() {
        let run_dir = tempfile::tempdir().unwrap();
        let sockets = run_dir.path().join(SOCKETS);
        dismiss(run_dir.path()).await;
        fs::create_dir(&sockets).unwrap();
        let listen = |name: &str| tokio::net::UnixListener::bind(sockets.join(name)).unwrap();
        let (one, other, not_one) = (listen("1.sock"), listen("2.sock"), listen("1.pipe"));
        drop(listen("dead.sock"));
        // They hang up, which is an answer.
        let answered = async { drop((one.accept().await.unwrap(), other.accept().await.unwrap())) };
        tokio::join!(dismiss(run_dir.path()), answered);
        assert!(not_one.accept().now_or_never().is_none());
    }

    #[tokio::test]
    async fn what_killed_shims_have_left_goes_by_itself() {
        let run_dir = tempfile::tempdir().unwrap();
        sweep(run_dir.path()).await;
        let sockets = run_dir.path().join(SOCKETS);
        fs::create_dir(&sockets).unwrap();
        let path = |name: &str| sockets.join(name);
        let listen = |name: &str| tokio::net::UnixListener::bind(path(name)).unwrap();
        let _living = listen("living.sock");
        drop((listen("lost.sock"), listen("other.sock")));
        let elsewhere = run_dir.path().join("theirs.sock");
        drop(tokio::net::UnixListener::bind(&elsewhere).unwrap());
        for socket in [&path("lost.sock"), &path("living.sock"), &elsewhere] {
            forget_lost(run_dir.path(), &address(&socket.display().to_string())).await;
        }
        let there = |name: &str| path(name).exists();
        assert!(!there("lost.sock") && there("other.sock") && elsewhere.exists());
        sweep(run_dir.path()).await;
        assert!(there("living.sock") && !there("other.sock"));
    }

    #[test]
    fn what_is_remembered_has_an_end() {
        let (shims, address) = (Shims::default(), address("/a"));
        for n in 0..MOST {
            shims.note(&n.to_string(), &address);
        }
        shims.note("0", &address);
        assert_eq!(shims.of("1"), Some(address.clone()));
        shims.note("one more", &address);
        assert_eq!((shims.of("1"), shims.of("one more")), (None, Some(address)));
        shims.forget("one more");
        assert_eq!(shims.of("one more"), None);
    }
}

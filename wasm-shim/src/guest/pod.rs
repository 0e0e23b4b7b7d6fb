//! One tokio runtime per Pod, all of whose threads are in the Pod's network namespace.
//!
//! Owns the threads and their priority. Refuses to know what runs on them. wasmtime-wasi makes sockets on the thread
//! that polls the guest and resolves names on the blocking pool, so both kinds of thread must be inside. Names are
//! resolved with the host's `/etc/resolv.conf`: a mount namespace per Pod would be needed for another.
//!
//! One worker per Pod: two threads that instantiate in one process are slower than one (they meet at `mmap_lock`),
//! and a node holds ten thousand Pods. Blocking threads come when needed and go when idle.

use crate::sys;
use nix::sched::{CloneFlags, setns};
use nix::unistd::{Pid, gettid};
use std::collections::HashMap;
use std::fs::File;
use std::future::Future;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinHandle;

/// Threads that run guests of one Pod.
const WORKERS: usize = 1;

/// Threads for blocking file system calls and name lookups of one Pod.
const BLOCKING_THREADS: usize = 8;

/// How long an idle blocking thread stays.
const BLOCKING_KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Host code only: guests have stacks of their own.
const THREAD_STACK: usize = 512 << 10;

/// The default share of a cgroup (`cpu.shares`), which is nice 0.
const DEFAULT_SHARES: u64 = 1024;

/// The kernel's nice levels differ by this factor (sched(7)).
const NICE_STEP: f64 = 1.25;

/// Why a Pod's threads cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum PodError {
    #[error("opening the network namespace {path}: {source}")]
    Open { path: PathBuf, source: io::Error },
    #[error(
        "entering the network namespace {path}: {source}; is it a namespace, and may this process enter it?"
    )]
    Enter { path: PathBuf, source: nix::Error },
    #[error("starting the Pod's threads: {0}")]
    Threads(io::Error),
}

/// The runtime of one Pod. Dropped with its last container.
pub struct Pod {
    runtime: Option<Runtime>,
    threads: Arc<Mutex<Vec<Pid>>>,
    shares: Mutex<u64>,
}

impl Pod {
    /// Starts a Pod's threads inside the network namespace at `netns`, or in the host's when there is none.
    ///
    /// # Errors
    /// When the namespace cannot be entered or no thread can be made.
    pub fn start(netns: Option<&Path>) -> Result<Arc<Self>, PodError> {
        let namespace = netns.map(open_namespace).transpose()?;
        let threads: Arc<Mutex<Vec<Pid>>> = Arc::default();
        let (started, stopped) = (Arc::clone(&threads), Arc::clone(&threads));
        let runtime = Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .max_blocking_threads(BLOCKING_THREADS)
            .thread_keep_alive(BLOCKING_KEEP_ALIVE)
            .thread_stack_size(THREAD_STACK)
            .thread_name("pod")
            .on_thread_start(move || {
                enter_or_abort(namespace.as_ref());
                started
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(gettid());
            })
            .on_thread_stop(move || {
                stopped
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .retain(|thread| *thread != gettid());
            })
            .enable_all()
            .build()
            .map_err(PodError::Threads)?;
        Ok(Arc::new(Self {
            runtime: Some(runtime),
            threads,
            shares: Mutex::new(0),
        }))
    }

    /// A handle to the Pod's runtime.
    pub fn handle(&self) -> &Handle {
        self.runtime
            .as_ref()
            .map(Runtime::handle)
            .expect("a Pod has its runtime until it is dropped")
    }

    /// Runs a task on the Pod's threads.
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.handle().spawn(future)
    }

    /// Adds (or, negative, takes away) the CPU shares of a container. The Pod's worker is one thread, so its weight
    /// against other Pods is the kernel's business: a nice value nearest to the sum of shares.
    pub fn add_shares(&self, shares: i64) {
        let mut sum = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        *sum = sum.saturating_add_signed(shares);
        let nice = nice(*sum);
        for thread in self.threads.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            if let Err(error) = sys::set_thread_nice(*thread, nice) {
                tracing::debug!(%error, nice, "the CPU share of a Pod is not set");
            }
        }
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Dropping waits for blocking threads, which is forbidden on a thread of another runtime.
            runtime.shutdown_background();
        }
    }
}

/// The nice value whose weight is nearest to `shares`.
fn nice(shares: u64) -> i32 {
    let ratio = DEFAULT_SHARES as f64 / shares.max(2) as f64;
    (ratio.ln() / NICE_STEP.ln()).round().clamp(-20.0, 19.0) as i32
}

fn open_namespace(path: &Path) -> Result<File, PodError> {
    let file = File::open(path).map_err(|source| PodError::Open {
        path: path.to_owned(),
        source,
    })?;
    let probe = file.try_clone().map_err(|source| PodError::Open {
        path: path.to_owned(),
        source,
    })?;
    // Tried on a thread of its own, which ends inside: the error is one container's, not this process's.
    let entered = std::thread::Builder::new()
        .spawn(move || setns(probe.as_fd(), CloneFlags::CLONE_NEWNET))
        .map_err(PodError::Threads)?
        .join()
        .unwrap_or(Err(nix::Error::EINVAL));
    entered.map_err(|source| PodError::Enter {
        path: path.to_owned(),
        source,
    })?;
    Ok(file)
}

/// A guest on a thread outside its Pod's network would reach the host's: rather no process than that.
fn enter_or_abort(namespace: Option<&File>) {
    let Some(namespace) = namespace else { return };
    if let Err(error) = setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET) {
        tracing::error!(%error, "a Pod's thread cannot enter the Pod's network namespace");
        std::process::abort();
    }
}

/// The Pods of this process, by sandbox and network namespace.
#[derive(Default)]
pub struct Pods(Mutex<HashMap<PodKey, Weak<Pod>>>);

/// Sandbox and network namespace.
type PodKey = (String, Option<PathBuf>);

impl Pods {
    /// The Pod's runtime, started if this is its first container.
    ///
    /// # Errors
    /// As [`Pod::start`].
    pub fn get(&self, sandbox: &str, netns: Option<&Path>) -> Result<Arc<Pod>, PodError> {
        let mut pods = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (sandbox.to_owned(), netns.map(Path::to_owned));
        if let Some(pod) = pods.get(&key).and_then(Weak::upgrade) {
            return Ok(pod);
        }
        let pod = Pod::start(netns)?;
        pods.retain(|_, pod| pod.strong_count() > 0);
        pods.insert(key, Arc::downgrade(&pod));
        Ok(pod)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_nice_values() {
        for (shares, expected) in [(1024, 0), (2048, -3), (512, 3), (2, 19), (0, 19), (1 << 18, -20)] {
            assert_eq!(nice(shares), expected, "{shares}");
        }
    }

    #[test]
    fn what_is_no_namespace_is_an_error_of_one_pod() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(matches!(
            Pod::start(Some(file.path())),
            Err(PodError::Enter { .. })
        ));
        assert!(matches!(
            Pod::start(Some(Path::new("/nonexistent"))),
            Err(PodError::Open { .. })
        ));
    }

    #[test]
    fn containers_of_one_pod_share_threads() {
        let pods = Pods::default();
        let first = pods.get("a", None).unwrap();
        assert!(Arc::ptr_eq(&first, &pods.get("a", None).unwrap()));
        assert!(!Arc::ptr_eq(&first, &pods.get("b", None).unwrap()));
    }
}

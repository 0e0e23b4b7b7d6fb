//! One tokio runtime per container, all of whose threads are in its Pod's network namespace and behind the fences of
//! `sandbox`.
//!
//! Owns the threads and their priority. Refuses to know what runs on them. wasmtime-wasi makes sockets on the thread
//! that polls the guest and resolves names on the blocking pool, so both kinds of thread must be inside. Names are
//! looked up by ourselves (`names`): the C library knows one `/etc/resolv.conf` only, the host's.
//!
//! One worker per container: two threads that instantiate in one process are slower than one (they meet at `mmap_lock`),
//! and a node holds ten thousand of them. Blocking threads come when needed and go when idle.

use crate::engine::pace::{self, Pace};
use crate::sandbox::{self, Nursery, Sandbox};
use crate::sys;
use nix::sched::{CloneFlags, setns};
use nix::unistd::{Pid, gettid};
use std::fs::File;
use std::future::Future;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinHandle;

/// Threads that run the guests of one container.
const WORKERS: usize = 1;

/// Threads for blocking file system calls and the like of one container.
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

/// The runtime of one container, in its Pod's network.
pub struct Pod {
    runtime: Option<Runtime>,
    threads: Arc<Mutex<Vec<Pid>>>,
    shares: Mutex<u64>,
}

impl Pod {
    /// Starts threads inside the network namespace at `netns`, or in the host's when there is none, behind the fences of
    /// `sandbox`.
    ///
    /// # Errors
    /// When the namespace cannot be entered or no thread can be made.
    pub fn start(netns: Option<&Path>, sandbox: Sandbox, nursery: &Nursery) -> Result<Arc<Self>, PodError> {
        let namespace = netns.map(open_namespace).transpose()?;
        let threads: Arc<Mutex<Vec<Pid>>> = Arc::default();
        let (started, stopped) = (Arc::clone(&threads), Arc::clone(&threads));
        let is_first = AtomicBool::new(true);
        let mut builder = Builder::new_multi_thread();
        builder
            .worker_threads(WORKERS)
            .max_blocking_threads(BLOCKING_THREADS)
            .thread_keep_alive(BLOCKING_KEEP_ALIVE)
            .thread_stack_size(THREAD_STACK)
            .thread_name("pod")
            .on_thread_start(move || {
                // Threads that these start are inside already, and could not enter again.
                if is_first.swap(false, Ordering::Relaxed) || sandbox::is_outside() {
                    enter_or_abort(namespace.as_ref());
                    settle(&sandbox);
                }
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
            .enable_all();
        let built = nursery.run(move || builder.build());
        let built = built.unwrap_or_else(|| Err(io::Error::other("the thread that starts them is gone")));
        let runtime = built.map_err(PodError::Threads)?;
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

    /// Adds (or, negative, takes away) CPU shares. The worker is one thread, so its weight against others is the kernel's business: a nice value nearest to the sum of shares.
    pub fn add_shares(&self, shares: i64) {
        let mut sum = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        *sum = sum.saturating_add_signed(shares);
        let nice = nice(*sum);
        for thread in self.threads.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            if let Err(error) = sys::set_thread_nice(*thread, nice) {
                tracing::debug!(%error, nice, "the CPU share of a container is not set");
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

/// What a kernel cannot do is left out: the guest is behind wasmtime's fences all the same.
fn settle(sandbox: &Sandbox) {
    pace::set(Pace::Answering);
    if let Err(error) = sandbox.enter() {
        tracing::warn!(%error, "a container's thread lacks a fence");
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

    fn sandbox() -> Sandbox {
        Sandbox::for_guests(&[]).unwrap()
    }

    #[test]
    fn what_is_no_namespace_is_an_error_of_one_pod() {
        let (file, nursery) = (tempfile::NamedTempFile::new().unwrap(), Nursery::start().unwrap());
        assert!(matches!(
            Pod::start(Some(file.path()), sandbox(), &nursery),
            Err(PodError::Enter { .. })
        ));
        assert!(matches!(
            Pod::start(Some(Path::new("/nonexistent")), sandbox(), &nursery),
            Err(PodError::Open { .. })
        ));
    }
}

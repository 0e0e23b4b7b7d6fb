//! The threads of one container, all of them in its Pod's network namespace and behind the fences of `sandbox`.
//!
//! Owns when there are threads: a tokio runtime that somebody asked for, and that ends with the last who uses it. Refuses
//! to know what runs on them. wasmtime-wasi makes sockets on the thread that polls the guest and resolves names on the
//! blocking pool, so both kinds of thread must be inside. Names are looked up by ourselves (`names`): the C library knows
//! one `/etc/resolv.conf` only, the host's.
//!
//! A container that nobody asks has no thread: a node holds ten thousand of them. One that is asked has a worker for each
//! processor it may use, as far as all containers of the process together have not too many, or one where more cannot be
//! had. Blocking threads come when needed, from the workers, and go when idle.

use super::ids::Ids;
use super::launch::{Launch, try_threads};
use super::namespace::Namespace;
use super::workers::{Spare, nice};
use crate::engine::pace::{self, Pace};
use crate::sandbox::{self, Nursery, Sandbox, SandboxError};
use crate::sys;
use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::future::Future;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::JoinHandle;

/// Threads for blocking file system calls and the like of one container.
const BLOCKING_THREADS: usize = 8;

/// How long an idle blocking thread stays.
const BLOCKING_KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Host code only: guests have stacks of their own.
const THREAD_STACK: usize = 512 << 10;

/// Why a Pod's threads cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum PodError {
    #[error("opening the network namespace {path}: {source}")]
    Open { path: PathBuf, source: io::Error },
    #[error(
        "entering the network namespace {path}: {source}; is it a namespace, and may this process enter it?"
    )]
    Enter { path: PathBuf, source: io::Error },
    #[error("opening the Pod's network namespace again: {0}")]
    Reopen(io::Error),
    #[error("starting the Pod's threads: {0}")]
    Threads(io::Error),
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
}

/// Makes the fences around a container's threads, for as long as there are any.
pub type Fences = Arc<dyn Fn() -> Result<Sandbox, SandboxError> + Send + Sync>;

/// What one container's threads are to be like.
pub struct Plan {
    pub fences: Fences,
    /// Threads that run guests, at most.
    pub workers: usize,
    /// CPU shares: the weight of each worker among others'.
    pub shares: u64,
}

/// The place of one container's threads.
pub struct Pod {
    namespace: Option<Arc<Namespace>>,
    fences: Fences,
    nursery: Nursery,
    spare: Spare,
    starting: tokio::sync::Mutex<()>,
    crew: Mutex<Crew>,
}

/// The threads there are, and what they should be like.
struct Crew {
    workers: usize,
    nice: i32,
    threads: Weak<Threads>,
}

impl Pod {
    /// A place inside the network namespace at `netns`, or in the host's when there is none. Waits for a thread that
    /// tries to enter, and to become the container's user.
    ///
    /// # Errors
    /// When the namespace cannot be entered, this process may not become that user, or the kernel refuses the fences.
    pub async fn new(
        netns: Option<&Path>,
        plan: Plan,
        nursery: Nursery,
        spare: Spare,
    ) -> Result<Arc<Self>, PodError> {
        let namespace = netns.map(find_namespace).transpose()?.map(Arc::new);
        let inside = Inside::of(namespace.as_deref(), &plan.fences)?;
        try_out(netns, inside, &nursery).await?;
        Ok(Arc::new(Self {
            namespace,
            fences: plan.fences,
            nursery,
            spare,
            starting: tokio::sync::Mutex::default(),
            crew: Mutex::new(Crew {
                workers: plan.workers,
                nice: nice(plan.shares),
                threads: Weak::new(),
            }),
        }))
    }

    /// A place like this one with one worker of its own: for what may end before the container, so that nothing it waits for
    /// in the kernel keeps a thread of the container's.
    pub fn beside(&self) -> Arc<Self> {
        Arc::new(Self {
            namespace: self.namespace.clone(),
            fences: Arc::clone(&self.fences),
            nursery: self.nursery.clone(),
            spare: self.spare.clone(),
            starting: tokio::sync::Mutex::default(),
            crew: Mutex::new(Crew {
                workers: 1,
                nice: self.crew().nice,
                threads: Weak::new(),
            }),
        })
    }

    /// The threads there are, or new ones: they end when nobody holds them any more.
    ///
    /// # Errors
    /// When no thread can be made.
    pub async fn threads(&self) -> Result<Arc<Threads>, PodError> {
        let _one_at_a_time = self.starting.lock().await;
        let (known, workers) = {
            let crew = self.crew();
            (crew.threads.upgrade(), crew.workers)
        };
        if let Some(threads) = known {
            return Ok(threads);
        }
        let inside = Arc::new(Inside::of(self.namespace.as_deref(), &self.fences)?);
        let started = Threads::start(self, workers, inside).await;
        let threads = Arc::new(started.map_err(PodError::Threads)?);
        let mut crew = self.crew();
        crew.threads = Arc::downgrade(&threads);
        threads.weigh(crew.nice);
        Ok(threads)
    }

    /// From now on threads have the weight of `shares`; how many they may be counts when they are started again.
    pub fn resize(&self, workers: usize, shares: u64) {
        let mut crew = self.crew();
        (crew.workers, crew.nice) = (workers, nice(shares));
        if let Some(threads) = crew.threads.upgrade() {
            threads.weigh(crew.nice);
        }
    }

    fn crew(&self) -> MutexGuard<'_, Crew> {
        self.crew.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs host code inside the Pod's network: a socket belongs to the network of the thread that makes it.
    ///
    /// # Errors
    /// What `work` answers; or when no thread can be made, or the namespace cannot be entered any more.
    pub async fn inside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let namespace = self.namespace.as_deref().map(Namespace::open).transpose()?;
        let (answer, answered) = oneshot::channel();
        std::thread::Builder::new().spawn(move || {
            let done = enter(namespace.as_deref()).and_then(|()| work());
            // Whoever does not wait any more does not want it.
            drop(answer.send(done));
        })?;
        answered
            .await
            .unwrap_or_else(|_| Err(io::Error::other("the thread in the Pod's network is gone")))
    }
}

/// Where threads are to go, and behind what: descriptors that nobody has when there are no threads.
struct Inside {
    namespace: Option<Arc<File>>,
    sandbox: Sandbox,
}

impl Inside {
    fn of(namespace: Option<&Namespace>, fences: &Fences) -> Result<Self, PodError> {
        Ok(Self {
            namespace: namespace
                .map(Namespace::open)
                .transpose()
                .map_err(PodError::Reopen)?,
            sandbox: fences()?,
        })
    }
}

/// The threads of one container, for as long as somebody uses them.
pub struct Threads {
    runtime: Option<Runtime>,
    ids: Arc<Ids>,
    /// Those of their number that others will have.
    _spare: Option<OwnedSemaphorePermit>,
}

impl Threads {
    /// As many as there are to be, or one: that may be had where more cannot.
    async fn start(pod: &Pod, workers: usize, inside: Arc<Inside>) -> io::Result<Self> {
        let spare = pod.spare.take(workers - 1);
        let workers = 1 + spare.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        match Self::launch(pod, workers, spare, Arc::clone(&inside)).await {
            Err(error) if workers > 1 => {
                tracing::warn!(%error, workers, "a container has one worker only");
                Self::launch(pod, 1, None, inside).await
            }
            launched => launched,
        }
    }

    /// Answers when every worker is where it belongs and behind its fences.
    async fn launch(
        pod: &Pod,
        workers: usize,
        spare: Option<OwnedSemaphorePermit>,
        inside: Arc<Inside>,
    ) -> io::Result<Self> {
        let (ids, fenced): (Arc<Ids>, _) = (Arc::default(), Arc::new(Semaphore::new(0)));
        let (entered, settled, left) = (Arc::clone(&ids), Arc::clone(&fenced), Arc::clone(&ids));
        let launch = Arc::new(Launch::new());
        let launched = Arc::clone(&launch);
        let to_come = AtomicUsize::new(workers);
        let on_start = move || {
            let one_less = |left: usize| left.checked_sub(1);
            let is_worker = to_come.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
            if is_worker.is_ok() {
                launched.wait_or_end();
            }
            // Threads that workers start are inside already, and could not enter again.
            if is_worker.is_ok() || sandbox::is_outside() {
                enter_or_abort(inside.namespace.as_deref());
                settle_or_abort(&inside.sandbox);
            }
            entered.enter();
            if is_worker.is_ok() {
                settled.add_permits(1);
            }
        };
        let careful = pod.nursery.has_failed();
        let build = move || {
            // A runtime that fails is not freed by tokio.
            if careful {
                try_threads(workers, THREAD_STACK)?;
            }
            let mut builder = Builder::new_multi_thread();
            builder
                .worker_threads(workers)
                .max_blocking_threads(BLOCKING_THREADS)
                .thread_keep_alive(BLOCKING_KEEP_ALIVE)
                .thread_stack_size(THREAD_STACK)
                .thread_name("pod")
                .on_thread_start(on_start)
                .on_thread_stop(move || left.leave())
                .enable_all();
            let threads = Self {
                runtime: Some(builder.build()?),
                ids,
                _spare: spare,
            };
            launch.complete()?;
            Ok(threads)
        };
        let gone = || Err(io::Error::other("the thread that starts them failed"));
        let threads = pod.nursery.run(build).await.unwrap_or_else(gone)?;
        let all = u32::try_from(workers).map_err(io::Error::other)?;
        drop(fenced.acquire_many(all).await.map_err(io::Error::other)?);
        Ok(threads)
    }

    fn weigh(&self, nice: i32) {
        for thread in self.ids.all().iter() {
            if let Err(error) = sys::set_thread_nice(*thread, nice) {
                tracing::debug!(%error, nice, "the CPU share of a container is not set");
            }
        }
    }

    /// Runs a task on these threads. It is ended with them.
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.runtime().spawn(future)
    }

    /// Runs what blocks on one of these threads. The others' work goes on: another takes its place, started by one of
    /// them and so behind the same fences. One that the runtime starts for a caller outside would be behind the caller's.
    pub fn spawn_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        self.spawn(async { tokio::task::block_in_place(work) })
    }

    fn runtime(&self) -> &Runtime {
        self.runtime
            .as_ref()
            .expect("there is a runtime until the threads are dropped")
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Dropping waits for blocking threads, which is forbidden on a thread of another runtime.
            runtime.shutdown_background();
            if let Ok(service) = Handle::try_current() {
                service.spawn(Arc::clone(&self.ids).wake_until_gone());
            }
        }
    }
}

fn find_namespace(path: &Path) -> Result<Namespace, PodError> {
    Namespace::find(path).map_err(|source| PodError::Open {
        path: path.to_owned(),
        source,
    })
}

/// Does on a thread of its own, which ends there, what the container's threads will have to: the error is one container's,
/// not this process's.
async fn try_out(path: Option<&Path>, inside: Inside, nursery: &Nursery) -> Result<(), PodError> {
    let path = path.map(Path::to_owned).unwrap_or_default();
    let (answer, answered) = oneshot::channel();
    let try_it = move || {
        enter(inside.namespace.as_deref()).map_err(|source| PodError::Enter { path, source })?;
        Ok(inside.sandbox.become_user()?)
    };
    // Whoever does not wait any more does not want it.
    let start = move || std::thread::Builder::new().spawn(move || drop(answer.send(try_it())));
    let failed = || PodError::Threads(io::Error::other("the thread that tries is gone"));
    let started = nursery.run(start).await.ok_or_else(failed)?;
    started.map_err(PodError::Threads)?;
    answered.await.map_err(|_| failed())?
}

fn enter(namespace: Option<&File>) -> io::Result<()> {
    let Some(namespace) = namespace else { return Ok(()) };
    Ok(setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)?)
}

/// A guest on a thread outside its Pod's network would reach the host's: rather no process than that.
fn enter_or_abort(namespace: Option<&File>) {
    if let Err(error) = enter(namespace) {
        tracing::error!(%error, "a Pod's thread cannot enter the Pod's network namespace");
        std::process::abort();
    }
}

/// What a kernel cannot do is left out: the guest is behind wasmtime's fences all the same. But it has the files of its user,
/// or there is no process.
fn settle_or_abort(sandbox: &Sandbox) {
    pace::set(Pace::Answering);
    if let Err(error) = sandbox.become_user() {
        tracing::error!(%error, "a container's thread cannot become its user");
        std::process::abort();
    }
    if let Err(error) = sandbox.enter() {
        tracing::warn!(%error, "a container's thread lacks a fence");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::unistd::{Pid, gettid};

    async fn pod(netns: Option<&Path>, workers: usize, spare: &Spare) -> Result<Arc<Pod>, PodError> {
        let plan = Plan {
            fences: Arc::new(|| Sandbox::for_guests(crate::sandbox::root(), &[])),
            workers,
            shares: 0,
        };
        Pod::new(netns, plan, Nursery::start().unwrap(), spare.clone()).await
    }

    #[tokio::test]
    async fn what_is_no_namespace_is_an_error_of_one_pod() {
        let (file, spare) = (tempfile::NamedTempFile::new().unwrap(), Spare::new(0));
        assert!(matches!(
            pod(Some(file.path()), 1, &spare).await,
            Err(PodError::Enter { .. })
        ));
        assert!(matches!(
            pod(Some(Path::new("/nonexistent")), 1, &spare).await,
            Err(PodError::Open { .. })
        ));
    }

    #[tokio::test]
    async fn threads_are_shared_while_somebody_has_them_and_all_are_fenced() {
        let spare = Spare::new(4);
        let pod = pod(None, 3, &spare).await.unwrap();
        let threads = pod.threads().await.unwrap();
        assert_eq!(spare.left(), 2);
        assert!(Arc::ptr_eq(&threads, &pod.threads().await.unwrap()));
        let meeting = Arc::new(std::sync::Barrier::new(3));
        let met: Vec<_> = (0..3)
            .map(|_| {
                let meeting = Arc::clone(&meeting);
                threads.spawn(async move {
                    meeting.wait();
                    (gettid(), sandbox::is_outside())
                })
            })
            .collect();
        let mut ids = Vec::new();
        for one in met {
            let (id, is_outside) = one.await.unwrap();
            assert!(!is_outside);
            ids.push(id);
        }
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 3, "each has a thread of its own");
        drop(threads);
        assert_eq!(spare.left(), 4);
    }

    #[tokio::test]
    async fn what_blocks_is_behind_the_filter_of_guests_and_another_thread_takes_its_place() {
        let pod = pod(None, 1, &Spare::new(0)).await.unwrap();
        let threads = pod.threads().await.unwrap();
        let (told, blocking) = oneshot::channel();
        let (go_on, held) = std::sync::mpsc::channel::<()>();
        let blocked = threads.spawn_blocking(move || {
            told.send(gettid()).unwrap();
            // Until the sender is gone.
            assert!(held.recv().is_err());
        });
        let (blocking, working) = (blocking.await.unwrap(), threads.spawn(async { gettid() }));
        let working = working.await.unwrap();
        assert_ne!(blocking, working);
        for thread in [blocking, working] {
            let (filters, own) = (filters(thread), filters(gettid()));
            assert!(filters > own, "{filters} of a guest's thread, {own} of any other");
            assert!(threads.ids.all().contains(&thread), "its weight would not be set");
        }
        drop(go_on);
        blocked.await.unwrap();
    }

    /// The filters of system calls around a thread of this process (proc(5)).
    fn filters(thread: Pid) -> u32 {
        let status = std::fs::read_to_string(format!("/proc/self/task/{thread}/status")).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("Seccomp_filters:"));
        line.unwrap().trim().parse().unwrap()
    }

    #[tokio::test]
    async fn a_thread_that_waits_in_the_kernel_goes_with_its_container() {
        let pod = pod(None, 1, &Spare::new(0)).await.unwrap();
        let (reader, _writer) = io::pipe().unwrap();
        let threads = pod.threads().await.unwrap();
        let (told, waiting) = oneshot::channel();
        let read = threads.spawn_blocking(move || {
            told.send(()).unwrap();
            nix::unistd::read(&reader, &mut [0])
        });
        waiting.await.unwrap();
        drop(threads);
        assert_eq!(read.await.unwrap(), Err(nix::Error::EINTR));
    }

    #[tokio::test]
    async fn after_a_failure_threads_are_tried_first() {
        let pod = pod(None, 2, &Spare::new(1)).await.unwrap();
        assert!(pod.nursery.run(|| -> u8 { panic!("no thread") }).await.is_none());
        assert!(pod.nursery.has_failed());
        let threads = pod.threads().await.unwrap();
        assert_eq!(threads.ids.all().len(), 2);
    }

    #[tokio::test]
    async fn without_spare_workers_there_is_one() {
        let spare = Spare::new(1);
        let (first, second) = (
            pod(None, 2, &spare).await.unwrap(),
            pod(None, 2, &spare).await.unwrap(),
        );
        let held = first.threads().await.unwrap();
        let threads = second.threads().await.unwrap();
        assert_eq!(spare.left(), 0);
        assert_eq!(threads.spawn(async { 7 }).await.unwrap(), 7);
        drop(held);
        assert_eq!(spare.left(), 1);
    }
}

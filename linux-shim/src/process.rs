//! One process in a container, from its making to its end: `Prepared → Running → Exited`.
//!
//! Owns that order and the exit status. Refuses to know which calls of the Task API ask for what.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use amphipod_shim_api::client::Exit;
use nix::sched::CloneFlags;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tokio::sync::{oneshot, watch};

use crate::hooks::{self, Hook, Subject};
use crate::init::channel::{self, Ask, ChildEnd, Report, ShimEnd};
use crate::init::{self, ChildStreams, ContainerPlan, ProcessPlan};
use crate::launch::{self, LaunchError, Running};
use crate::overseer::{Overseer, OverseerError};
use crate::reaper::Reaper;
use crate::streams::{Addresses, Opened, StreamError, Streams};
use crate::sys::clone::{SingleThread, spawn};

/// A child that neither reports nor ends within this is stuck in a mount or a cgroup file, and is killed.
const INIT_LIMIT: Duration = Duration::from_secs(90);

/// Why a process could not be made or started.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error(transparent)]
    Launch(#[from] LaunchError),
    #[error(transparent)]
    Overseer(#[from] OverseerError),
    #[error("cannot talk to the container's first process: {0}")]
    Channel(std::io::Error),
    #[error("{0}")]
    Init(String),
    #[error("the process ended before it could run its program")]
    Vanished,
    #[error("the process was not ready within {INIT_LIMIT:?}")]
    Stuck,
    #[error("the process has been started already")]
    Started,
    #[error("cannot send signal {signal}: {errno}")]
    Signal { signal: i32, errno: nix::errno::Errno },
    #[error("process already finished")]
    Finished,
}

#[derive(Debug)]
enum Phase {
    Prepared(ShimEnd),
    Running,
}

/// A process the shim made.
#[derive(Debug)]
pub struct ContainerProcess {
    pid: Pid,
    addresses: Addresses,
    phase: Mutex<Option<Phase>>,
    streams: Mutex<Option<Streams>>,
    /// It has been waited for, and its number may be another's; its exit is told when its output is complete.
    ended: AtomicBool,
    exit: watch::Sender<Option<Exit>>,
}

/// What makes one: the child differs, the rest is the same.
struct Making<'a> {
    reaper: &'a Reaper,
    addresses: &'a Addresses,
    overseer: Overseer<'a>,
    /// The child is known by the pid it reports.
    handed_over: bool,
}

impl ContainerProcess {
    /// Makes the first process of a container, up to the moment before its program runs.
    pub async fn create(
        reaper: &Reaper,
        plan: &ContainerPlan,
        addresses: &Addresses,
    ) -> Result<Made, ProcessError> {
        let making = Making {
            reaper,
            addresses,
            overseer: Overseer::of(plan),
            handed_over: plan.is_staged(),
        };
        making.run(|streams, end| launch::first(plan, streams, end)).await
    }

    /// Makes another process in a running container.
    pub async fn exec(
        reaper: &Reaper,
        container: Running<'_>,
        plan: &ProcessPlan,
        subject: &Subject,
        addresses: &Addresses,
    ) -> Result<Made, ProcessError> {
        let making = Making {
            reaper,
            addresses,
            overseer: Overseer::of_exec(plan, subject),
            handed_over: true,
        };
        making
            .run(|streams, end| launch::another(container, plan, streams, end))
            .await
    }

    /// Makes the init of a PID namespace to be shared, which is in these namespaces and has no program to run.
    pub async fn keeper(reaper: &Reaper, join: &[(CloneFlags, PathBuf)]) -> Result<Made, ProcessError> {
        let (addresses, subject) = (Addresses::default(), Subject::default());
        let making = Making {
            reaper,
            addresses: &addresses,
            overseer: Overseer::of_nothing(&subject),
            handed_over: true,
        };
        making
            .run(|streams, end| launch::keeper(join, streams, end))
            .await
    }

    /// Lets the program run. After an error it does not, and the process has ended.
    pub async fn start(&self) -> Result<(), ProcessError> {
        let started = self.let_go().await;
        if !matches!(started, Ok(()) | Err(ProcessError::Started)) {
            self.wait().await;
        }
        started
    }

    async fn let_go(&self) -> Result<(), ProcessError> {
        let phase = lock(&self.phase).replace(Phase::Running);
        let Some(Phase::Prepared(channel)) = phase else {
            return Err(ProcessError::Started);
        };
        channel.go().map_err(|_| ProcessError::Vanished)?;
        loop {
            match channel.next().await.map_err(ProcessError::Channel)? {
                None => return Ok(()),
                Some(Report::Failed(text)) => return Err(ProcessError::Init(text)),
                Some(_) => {}
            }
        }
    }

    pub fn pid(&self) -> u32 {
        self.pid.as_raw().cast_unsigned()
    }

    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    pub fn exit(&self) -> Option<Exit> {
        *self.exit.borrow()
    }

    /// Whether its number is no longer its own.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    pub fn is_started(&self) -> bool {
        matches!(*lock(&self.phase), Some(Phase::Running))
    }

    /// Waits, however many wait, for the end.
    pub async fn wait(&self) -> Exit {
        let mut exit = self.exit.subscribe();
        match exit.wait_for(Option::is_some).await {
            Ok(seen) => seen.unwrap_or_else(gone),
            Err(_) => gone(),
        }
    }

    /// Sends a signal, which may be a real-time one.
    pub fn kill(&self, signal: i32) -> Result<(), ProcessError> {
        if self.has_ended() {
            return Err(ProcessError::Finished);
        }
        match crate::sys::process::kill(self.pid.as_raw(), signal) {
            Ok(()) => Ok(()),
            Err(nix::errno::Errno::ESRCH) => Err(ProcessError::Finished),
            Err(errno) => Err(ProcessError::Signal { signal, errno }),
        }
    }

    pub fn close_stdin(&self) {
        if let Some(streams) = lock(&self.streams).as_mut() {
            streams.stdin = None;
        }
    }

    /// Without a terminal there is nothing to resize, and nothing is said about it (as containerd has it).
    pub fn resize(&self, width: u16, height: u16) -> std::io::Result<()> {
        let master = lock(&self.streams).as_ref().and_then(|s| s.master.clone());
        master.map_or(Ok(()), |master| master.resize(width, height))
    }
}

fn gone() -> Exit {
    Exit {
        status: 255,
        at: jiff::Timestamp::now(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A process made, and the raw end of it: whoever holds this decides when the exit is told.
#[derive(Debug)]
pub struct Made {
    pub process: Arc<ContainerProcess>,
    status: oneshot::Receiver<u32>,
}

impl Made {
    /// Follows the process to its end: its output is complete and `before_exit` has run, with the exit, when others see
    /// that. Before its output is waited for, `at_end` lets go who else would write to its streams.
    pub fn follow(
        self,
        at_end: impl FnOnce() + Send + 'static,
        before_exit: impl FnOnce(Exit) + Send + 'static,
    ) -> Arc<ContainerProcess> {
        let process = Arc::clone(&self.process);
        tokio::spawn(async move {
            let status = self.status.await.unwrap_or_else(|_| gone().status);
            self.process.ended.store(true, Ordering::Relaxed);
            let at = jiff::Timestamp::now();
            at_end();
            let streams = lock(&self.process.streams).take();
            if let Some(mut streams) = streams {
                streams.drain().await;
            }
            let exit = Exit { status, at };
            before_exit(exit);
            self.process.exit.send_replace(Some(exit));
        });
        process
    }
}

impl Making<'_> {
    async fn run(
        self,
        launch: impl FnOnce(&ChildStreams, &mut ChildEnd) -> Result<Pid, LaunchError>,
    ) -> Result<Made, ProcessError> {
        let _readers = crate::streams::readers(self.addresses).await?;
        let mut opened = crate::streams::open(self.addresses)?;
        let (ours, mut theirs) = channel::pair().map_err(ProcessError::Channel)?;
        let child = launch(&opened.child, &mut theirs)?;
        let status = self.reaper.expect(child);
        opened.child = ChildStreams::default();
        drop(theirs);
        let mut first = Born {
            pid: child,
            status,
            reaper: self.reaper,
        };
        match tokio::time::timeout(INIT_LIMIT, first.prepared(&ours, &self)).await {
            Ok(Ok(master)) => first.finish(ours, opened, master, self.addresses),
            Ok(Err(error)) => {
                first.end().await;
                Err(error)
            }
            Err(_) => {
                first.end().await;
                Err(ProcessError::Stuck)
            }
        }
    }
}

/// A child on its way.
struct Born<'a> {
    pid: Pid,
    status: oneshot::Receiver<u32>,
    reaper: &'a Reaper,
}

impl Born<'_> {
    /// Listens, and does what the child asks for, until it is ready.
    async fn prepared(
        &mut self,
        channel: &ShimEnd,
        making: &Making<'_>,
    ) -> Result<Option<OwnedFd>, ProcessError> {
        loop {
            match channel.next().await.map_err(ProcessError::Channel)? {
                Some(Report::Pid(pid)) if making.handed_over => {
                    self.pid = Pid::from_raw(pid);
                    self.status = self.reaper.adopt(self.pid);
                }
                Some(Report::Pid(_)) => {}
                Some(Report::Ask(Ask::Hooks)) => {
                    let pid = self.pid;
                    let prepare = || making.overseer.prepare(pid).map_err(|e| e.to_string());
                    apart(self.reaper, prepare).await?;
                    channel.done(self.pid).map_err(ProcessError::Channel)?;
                }
                Some(Report::Ask(ask)) => {
                    making.overseer.answer(ask, self.pid)?;
                    channel.done(self.pid).map_err(ProcessError::Channel)?;
                }
                Some(Report::Warning(text)) => tracing::warn!(pid = self.pid.as_raw(), "{text}"),
                Some(Report::Ready(master)) => return Ok(master),
                Some(Report::Failed(text)) => return Err(ProcessError::Init(text)),
                None => return Err(ProcessError::Vanished),
            }
        }
    }

    fn finish(
        self,
        channel: ShimEnd,
        opened: Opened,
        master: Option<OwnedFd>,
        addresses: &Addresses,
    ) -> Result<Made, ProcessError> {
        let streams = opened
            .connect(master)
            .map_err(|e| ProcessError::Stream(e.into()))?;
        let process = ContainerProcess {
            pid: self.pid,
            addresses: addresses.clone(),
            phase: Mutex::new(Some(Phase::Prepared(channel))),
            streams: Mutex::new(Some(streams)),
            ended: AtomicBool::new(false),
            exit: watch::Sender::new(None),
        };
        Ok(Made {
            process: Arc::new(process),
            status: self.status,
        })
    }

    /// Kills what will not run, and waits until it is gone.
    async fn end(self) {
        // ESRCH: it is gone already.
        let _ = nix::sys::signal::kill(self.pid, Signal::SIGKILL);
        let _ = self.status.await;
    }
}

/// Runs hooks in a child of ours: they may block, and the one who waits for every child here is the [`Reaper`].
pub async fn run_hooks(reaper: &Reaper, hooks: &[Hook], state: &str) -> Result<(), ProcessError> {
    if hooks.is_empty() {
        return Ok(());
    }
    apart(reaper, || hooks::run(hooks, state).map_err(|e| e.to_string())).await
}

/// Does in a child of ours what may block.
async fn apart(reaper: &Reaper, work: impl FnOnce() -> Result<(), String>) -> Result<(), ProcessError> {
    let (ours, theirs) = channel::pair().map_err(ProcessError::Channel)?;
    let single = SingleThread::check().map_err(LaunchError::Clone)?;
    let child = spawn(&single, 0, None, |_| {
        let done = init::begin(&ChildStreams::default(), &theirs, &[]).map_err(|e| e.to_string());
        let done = done.and_then(|()| work());
        done.is_err_and(|text| theirs.failed(&text).is_err()).into()
    });
    let child = child.map_err(LaunchError::Clone)?;
    let ended = reaper.expect(child);
    drop(theirs);
    let report = ours.next().await.map_err(ProcessError::Channel)?;
    let _ = ended.await;
    match report {
        Some(Report::Failed(text)) => Err(ProcessError::Init(text)),
        _ => Ok(()),
    }
}

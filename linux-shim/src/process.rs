//! One process in a container, from its making to its end: `Prepared → Running → Exited`.
//!
//! Owns that order and the exit status. Refuses to know which calls of the Task API ask for what.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use amphipod_shim_api::cgroup::Cgroup;
use amphipod_shim_api::client::Exit;
use nix::sched::CloneFlags;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tokio::sync::{oneshot, watch};

use crate::init::channel::{self, ChildEnd, Report, ShimEnd};
use crate::init::{self, ChildStreams, ContainerPlan, ProcessPlan};
use crate::reaper::Reaper;
use crate::streams::{Addresses, Opened, StreamError, Streams};
use crate::sys::clone::{CloneError, SingleThread, spawn};
use crate::sys::process::set_window_size;
use crate::sys::socket::pidfd;

/// A child that neither reports nor ends within this is stuck in a mount or a cgroup file, and is killed.
const INIT_LIMIT: Duration = Duration::from_secs(90);

/// Why a process could not be made or started.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("cannot make a process: {0}")]
    Clone(#[from] CloneError),
    #[error("cannot talk to the container's first process: {0}")]
    Channel(std::io::Error),
    #[error("cannot open the container's cgroup: {0}")]
    Cgroup(std::io::Error),
    #[error("cannot find the container's first process: {0}")]
    Container(std::io::Error),
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
    exit: watch::Sender<Option<Exit>>,
}

/// What makes one: the body of the child differs, the rest is the same.
struct Making<'a> {
    reaper: &'a Reaper,
    addresses: &'a Addresses,
}

impl ContainerProcess {
    /// Makes the first process of a container, up to the moment before its program runs.
    pub async fn create(
        reaper: &Reaper,
        plan: &ContainerPlan,
        addresses: &Addresses,
    ) -> Result<Made, ProcessError> {
        let cgroup = open_cgroup(&plan.cgroup)?;
        let single = SingleThread::check()?;
        let body = |streams: &ChildStreams, end: &ChildEnd| {
            let flags = plan.new_namespaces.bits();
            let cgroup = cgroup.as_ref().map(AsFd::as_fd);
            match &plan.join_pid {
                None => spawn(&single, flags, cgroup, |_| {
                    init::run_container(plan, streams, end)
                }),
                Some(path) => spawn(&single, 0, cgroup, |single| {
                    let joined =
                        init::begin(streams, end, None).and_then(|()| init::join_pid_namespace(path));
                    hand_over(single, end, joined, flags, || {
                        init::run_container(plan, streams, end)
                    })
                }),
            }
        };
        let making = Making { reaper, addresses };
        making.run(plan.join_pid.is_some(), body).await
    }

    /// Makes another process in the container whose first process is `container`.
    pub async fn exec(
        reaper: &Reaper,
        container: Pid,
        cgroup: &Cgroup,
        plan: &ProcessPlan,
        addresses: &Addresses,
    ) -> Result<Made, ProcessError> {
        let container = pidfd(container).map_err(ProcessError::Container)?;
        let score = plan.identity.oom_score_adj;
        let single = SingleThread::check()?;
        let body = |streams: &ChildStreams, end: &ChildEnd| {
            spawn(&single, 0, None, |single| {
                let target = container.as_fd();
                let joined = init::begin(streams, end, Some(target))
                    .and_then(|()| init::join_container(target, cgroup, score));
                hand_over(single, end, joined, 0, || init::run_exec(plan, streams, end))
            })
        };
        Making { reaper, addresses }.run(true, body).await
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
        if self.exit().is_some() {
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
        master.map_or(Ok(()), |master| set_window_size(master.as_fd(), width, height))
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
    /// Follows the process to its end: its output is complete and `before_exit` has run, with the status, when others
    /// see the exit.
    pub fn follow(self, before_exit: impl FnOnce(u32) + Send + 'static) -> Arc<ContainerProcess> {
        let process = Arc::clone(&self.process);
        tokio::spawn(async move {
            let status = self.status.await.unwrap_or_else(|_| gone().status);
            let at = jiff::Timestamp::now();
            let streams = lock(&self.process.streams).take();
            if let Some(mut streams) = streams {
                streams.drain().await;
            }
            before_exit(status);
            self.process.exit.send_replace(Some(Exit { status, at }));
        });
        process
    }
}

impl Making<'_> {
    async fn run(
        self,
        handed_over: bool,
        body: impl FnOnce(&ChildStreams, &ChildEnd) -> Result<Pid, CloneError>,
    ) -> Result<Made, ProcessError> {
        let mut opened = crate::streams::open(self.addresses)?;
        let (ours, theirs) = channel::pair().map_err(ProcessError::Channel)?;
        let child = body(&opened.child, &theirs)?;
        let status = self.reaper.expect(child);
        opened.child = ChildStreams::default();
        drop(theirs);
        let mut first = Born {
            pid: child,
            status,
            reaper: self.reaper,
        };
        match tokio::time::timeout(INIT_LIMIT, first.prepared(&ours, handed_over)).await {
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
    /// Listens until the child is ready; `handed_over` children are known by the pid they report.
    async fn prepared(
        &mut self,
        channel: &ShimEnd,
        handed_over: bool,
    ) -> Result<Option<OwnedFd>, ProcessError> {
        loop {
            match channel.next().await.map_err(ProcessError::Channel)? {
                Some(Report::Pid(pid)) if handed_over => {
                    self.pid = Pid::from_raw(pid);
                    self.status = self.reaper.adopt(self.pid);
                }
                Some(Report::Pid(_)) => {}
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

/// In the intermediate child: makes the real one as its sibling, tells its pid, and ends.
fn hand_over(
    single: &SingleThread,
    end: &ChildEnd,
    joined: Result<(), init::InitError>,
    flags: libc::c_int,
    body: impl FnOnce() -> i32,
) -> i32 {
    let made = joined.map_err(|e| e.to_string()).and_then(|()| {
        spawn(single, flags | CloneFlags::CLONE_PARENT.bits(), None, |_| body()).map_err(|e| e.to_string())
    });
    let told = match made {
        Ok(pid) => end.pid(pid.as_raw()),
        Err(text) => end.failed(&text),
    };
    i32::from(told.is_err())
}

fn open_cgroup(cgroup: &Cgroup) -> Result<Option<OwnedFd>, ProcessError> {
    let flags = nix::fcntl::OFlag::O_PATH | nix::fcntl::OFlag::O_DIRECTORY | nix::fcntl::OFlag::O_CLOEXEC;
    let open = |dir| nix::fcntl::open(dir, flags, nix::sys::stat::Mode::empty());
    cgroup
        .unified_dir()
        .map(open)
        .transpose()
        .map_err(|e| ProcessError::Cgroup(e.into()))
}

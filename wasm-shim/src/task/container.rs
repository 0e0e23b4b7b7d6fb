//! One container: from a loaded program to an exit status.
//!
//! Owns a container's signals, the commands exec'd into it, and the supervision of its guest. Refuses to know ttrpc.

use super::exec::{Exec, Home};
use super::life::{Life, NO_PID};
use super::phase::{IllegalEdge, Phase};
use crate::bundle::{Container as Granted, Limits};
use crate::engine::budget::Budget;
use crate::engine::commons::{Bounds, Common};
use crate::engine::meter::{Meter, Metered};
use crate::guest::command::Job;
use crate::guest::debug::Profile;
use crate::guest::http::{Handler, Served, bind, called};
use crate::guest::instance::Mould;
use crate::guest::output::{Output, drain};
use crate::guest::pod::{Pod, PodError, Threads};
use crate::guest::terminal::Terminal;
use crate::guest::wasi::Stdio;
use crate::guest::workers::workers;
use crate::guest::{Disposition, Ending, disposition};
use crate::program::load::Program;
use amphipod_shim_api::annotations::WASM_HTTP_PORT_DEFAULT;
use amphipod_shim_api::events::Story;
use amphipod_shim_api::network::NetworkRules;
use amphipod_shim_api::watchers::Watchers;
use amphipod_shim_api::{Exit, TaskStats, last_words, oom, serving};
use jiff::Timestamp;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::future::Future;
use std::io;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::JoinError;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Why a container cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Phase(#[from] IllegalEdge),
    #[error("listening on port {port} in the Pod's network: {source}")]
    Listen { port: u16, source: io::Error },
    #[error(transparent)]
    Pod(#[from] PodError),
}

/// Pause after threads could not be had for a client, who waits meanwhile.
const THREADS_PAUSE: Duration = Duration::from_millis(50);

/// How long a container's end waits for its profile to be written, whose volume may hang.
const PROFILE_LIMIT: Duration = Duration::from_secs(30);

/// Most commands in one container at once: probes, hooks and people.
const MAX_EXECS: usize = 64;

/// Why a command is not taken in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExecRefused {
    #[error("the container is not running")]
    NotRunning,
    #[error("there are {MAX_EXECS} commands in this container already")]
    TooMany,
    #[error("there is an exec {0:?} already")]
    Exists(String),
}

/// A limit of memory below what is in use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the {of}'s limit of memory {limit} is below current usage {used}")]
pub struct TooSmall {
    /// Whose limit it is: `container` or `Pod`.
    of: &'static str,
    limit: u64,
    used: u64,
}

/// The addresses a container's outputs were opened from, told back by State.
#[derive(Debug, Clone, Default)]
pub struct StdioAddresses {
    pub stdin: String,
    pub stdout: String,
    pub stderr: String,
}

/// Everything a container is made of.
pub struct Made {
    pub id: String,
    pub bundle: PathBuf,
    pub story: Story,
    pub addresses: StdioAddresses,
    pub granted: Arc<Granted>,
    pub program: Arc<Program>,
    pub pod: Arc<Pod>,
    pub meter: Arc<Meter>,
    pub common: Arc<Common>,
    pub stdio: Stdio,
    pub terminal: Option<Terminal>,
    /// Who is attached.
    pub watchers: Option<Watchers>,
    /// Ends the standard input.
    pub close_stdin: CancellationToken,
    /// What it is asked to leave of where its guests were.
    pub profile: Option<Arc<Profile>>,
}

/// What a container needs to be running.
enum Place {
    Port(Arc<Handler>, TcpListener),
    Threads(Arc<Threads>),
}

/// One container of this process.
pub struct Container {
    pub id: String,
    pub bundle: PathBuf,
    pub addresses: StdioAddresses,
    pub life: Life,
    /// What containerd is told of its guest.
    pub story: Story,
    pub close_stdin: CancellationToken,
    pub terminal: Option<Terminal>,
    granted: Arc<Granted>,
    program: Arc<Program>,
    pod: Arc<Pod>,
    budget: Arc<Budget>,
    meter: Arc<Meter>,
    common: Arc<Common>,
    stdio: Mutex<Option<Stdio>>,
    stdout: Output,
    stderr: Output,
    profile: Option<Arc<Profile>>,
    watchers: Mutex<Option<Watchers>>,
    execs: Mutex<HashMap<String, Arc<Exec>>>,
    drain: CancellationToken,
    end: CancellationToken,
}

impl Container {
    /// A container in phase created.
    pub fn new(made: Made) -> Arc<Self> {
        Arc::new(Self {
            id: made.id,
            bundle: made.bundle,
            addresses: made.addresses,
            budget: Budget::new(made.granted.limits.memory, Arc::clone(&made.common.memory)),
            granted: made.granted,
            program: made.program,
            pod: made.pod,
            meter: made.meter,
            common: made.common,
            stdout: made.stdio.stdout.clone(),
            stderr: made.stdio.stderr.clone(),
            stdio: Mutex::new(Some(made.stdio)),
            watchers: Mutex::new(made.watchers),
            profile: made.profile,
            life: Life::new(),
            story: made.story,
            close_stdin: made.close_stdin,
            terminal: made.terminal,
            execs: Mutex::default(),
            drain: CancellationToken::new(),
            end: CancellationToken::new(),
        })
    }

    /// What a command exec'd into this container shares with it.
    pub fn home(&self) -> Home {
        Home {
            granted: Arc::clone(&self.granted),
            pod: Arc::clone(&self.pod),
            budget: Arc::clone(&self.budget),
            meter: Arc::clone(&self.meter),
        }
    }

    fn execs(&self) -> MutexGuard<'_, HashMap<String, Arc<Exec>>> {
        self.execs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The command exec'd under this id.
    pub fn exec(&self, id: &str) -> Option<Arc<Exec>> {
        self.execs().get(id).cloned()
    }

    /// Takes in a command.
    ///
    /// # Errors
    /// When the container does not run, the id is taken, or there are too many.
    pub fn add_exec(&self, id: &str, exec: Arc<Exec>) -> Result<(), ExecRefused> {
        let mut execs = self.execs();
        if self.life.phase() != Phase::Running {
            return Err(ExecRefused::NotRunning);
        }
        if execs.len() >= MAX_EXECS {
            return Err(ExecRefused::TooMany);
        }
        match execs.entry(id.to_owned()) {
            Entry::Occupied(_) => Err(ExecRefused::Exists(id.to_owned())),
            Entry::Vacant(place) => {
                place.insert(exec);
                Ok(())
            }
        }
    }

    /// Who runs in it, for people: the guest and the commands beside it.
    pub fn listed(&self) -> String {
        let execs = self.execs();
        let running = execs.values().filter(|exec| exec.life.phase() == Phase::Running);
        let mut lines: Vec<String> = running
            .map(|exec| format!("exec\t{}", exec.words().join(" ")))
            .collect();
        lines.sort();
        lines.insert(0, format!("main\t{}", self.granted.command.args.join(" ")));
        lines.join("\n")
    }

    /// Forgets a command.
    pub fn remove_exec(&self, id: &str) {
        self.execs().remove(id);
    }

    /// Starts the guest. An HTTP container is listening when this returns.
    ///
    /// # Errors
    /// When it is not in phase created, or its port cannot be bound.
    pub async fn start(self: &Arc<Self>) -> Result<(), StartError> {
        let _told = self.story.hold();
        let starting = self.life.begin()?;
        let place = self.place().await?;
        starting.done();
        self.story.started(NO_PID);
        if let Some(terminal) = &self.terminal {
            let this = Arc::downgrade(self);
            terminal.begin(&self.close_stdin, move |signal| {
                this.upgrade().map(|this| this.signal(signal));
            });
        }
        let this = Arc::clone(self);
        match place {
            Place::Port(handler, listener) => self.supervise(this.serve(handler, listener)),
            Place::Threads(threads) => self.supervise(async move { threads.spawn(this.run()).await }),
        }
        Ok(())
    }

    /// Gives the container other limits while its guest runs; without one of memory that stays what it is.
    ///
    /// # Errors
    /// When it uses more memory than it may; then nothing has changed.
    pub fn resize(&self, limits: Limits) -> Result<(), TooSmall> {
        if let Some(limit) = limits.memory {
            let resized = self.budget.resize(limit);
            resized.map_err(|used| TooSmall {
                of: "container",
                limit,
                used,
            })?;
        }
        self.meter.resize(limits.quota, limits.shares);
        let workers = if self.serves() { workers(limits.quota) } else { 1 };
        self.pod.resize(workers, limits.shares);
        Ok(())
    }

    /// Bounds its Pod anew, while guests run.
    ///
    /// # Errors
    /// When they use more memory than the Pod may; then that limit has not changed.
    pub fn bound(&self, bounds: Bounds) -> Result<(), TooSmall> {
        self.common.bound(bounds).map_err(|used| TooSmall {
            of: "Pod",
            limit: bounds.memory.unwrap_or(u64::MAX),
            used,
        })
    }

    /// Gives the container other rules for its network: for what begins from now on.
    pub fn narrow(&self, rules: NetworkRules) {
        self.granted.grants.narrowing.set(rules);
    }

    /// Has who listens to the container's output find its socket.
    ///
    /// # Errors
    /// When it has none, or has ended, or the socket cannot be made.
    pub fn open_socket(&self) -> io::Result<()> {
        let watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        let absent = || io::Error::other("the container has no socket, or has ended");
        watchers.as_ref().ok_or_else(absent)?.open()
    }

    /// Whether this container serves HTTP rather than run a command.
    fn serves(&self) -> bool {
        self.program
            .linked
            .http(self.granted.serving.port.is_some())
            .is_some()
    }

    fn handler(&self) -> Option<Arc<Handler>> {
        let pre = self.program.linked.http(self.granted.serving.port.is_some())?;
        let mould = Mould {
            pre: pre.clone(),
            initial_bytes: self.program.initial_bytes,
            container: Arc::clone(&self.granted),
            budget: Arc::clone(&self.budget),
            stdout: self.stdout.clone(),
            stderr: self.stderr.clone(),
            profile: self.profile.clone(),
        };
        Some(Handler::new(mould, Arc::clone(&self.meter)))
    }

    async fn place(&self) -> Result<Place, StartError> {
        let Some(handler) = self.handler() else {
            return Ok(Place::Threads(self.pod.threads().await?));
        };
        let port = self.granted.serving.port.unwrap_or(WASM_HTTP_PORT_DEFAULT);
        let bound = self.pod.inside(move || bind(port)).await;
        let listener = bound.map_err(|source| StartError::Listen { port, source })?;
        if let Err(error) = serving::tell(&self.bundle, port) {
            tracing::warn!(id = self.id, %error, "nobody is told where the container listens");
        }
        Ok(Place::Port(handler, listener))
    }

    /// Keeps the guest's ending, whatever becomes of its task.
    fn supervise(self: &Arc<Self>, guest: impl Future<Output = Result<Ending, JoinError>> + Send + 'static) {
        let this = Arc::clone(self);
        tokio::spawn(async move {
            let ending = guest.await.unwrap_or_else(|error| {
                this.stderr
                    .say(&format!("the host failed while running this container: {error}"));
                Ending::Trapped
            });
            if timeout(PROFILE_LIMIT, this.write_profile()).await.is_err() {
                tracing::warn!(id = this.id, "the container's profile takes too long");
            }
            drain([&this.stdout, &this.stderr], this.terminal.as_ref(), ending).await;
            this.ended(ending);
        });
    }

    /// On the Pod's threads, which may reach its mounts and little else.
    async fn write_profile(&self) {
        let Some(profile) = self.profile.clone() else {
            return;
        };
        let threads = match self.pod.threads().await {
            Ok(threads) => threads,
            Err(error) => return tracing::warn!(id = self.id, %error, "the container's profile is lost"),
        };
        match threads.spawn_blocking(move || profile.finish()).await {
            Ok(line) => line.iter().for_each(|line| self.stderr.line(line)),
            Err(error) => tracing::warn!(id = self.id, %error, "the container's profile is lost"),
        }
    }

    async fn run(self: Arc<Self>) -> Ending {
        let Some(stdio) = self.stdio.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return self.life.signalled();
        };
        let job = Job {
            program: &self.program,
            command: &self.granted.command,
            grants: &self.granted.grants,
            budget: &self.budget,
            invoke: self.granted.invoke.as_ref().map(|invoke| invoke.name.as_str()),
            dumps: self.granted.debugging.dumps.as_deref(),
            profile: self.profile.as_ref(),
        };
        let guest = Metered::new(Arc::clone(&self.meter), job.run(stdio));
        self.end
            .run_until_cancelled(guest)
            .await
            .unwrap_or_else(|| self.life.signalled())
    }

    /// Between clients there is the listener and nothing else: threads come with the first and go after the last. The log is
    /// opened by who writes to it.
    async fn serve(
        self: Arc<Self>,
        handler: Arc<Handler>,
        mut listener: TcpListener,
    ) -> Result<Ending, JoinError> {
        loop {
            self.stdout.rest();
            self.stderr.rest();
            let called = tokio::select! {
                biased;
                () = self.drain.cancelled() => break,
                () = self.end.cancelled() => break,
                called = called(listener) => called,
            };
            let serving = match called {
                Ok(listener) => Arc::clone(&handler).serve(listener, self.drain.clone()),
                Err(error) => return Ok(self.failed(&error)),
            };
            // A shortage may last: who came meanwhile is not waited for.
            let threads = tokio::select! {
                biased;
                () = self.drain.cancelled() => break,
                () = self.end.cancelled() => break,
                threads = self.threads() => threads,
            };
            let end = self.end.clone();
            let served = threads.spawn(async move { end.run_until_cancelled(serving).await });
            listener = match served.await? {
                Some(Ok(Served::Idle(listener))) => listener,
                Some(Ok(Served::OutOfMemory)) => return Ok(Ending::OutOfMemory),
                Some(Ok(Served::Drained)) | None => break,
                Some(Err(error)) => return Ok(self.failed(&error)),
            };
        }
        Ok(self.life.signalled())
    }

    /// Threads for a client that has come; a shortage is waited out.
    async fn threads(&self) -> Arc<Threads> {
        loop {
            match self.pod.threads().await {
                Ok(threads) => return threads,
                Err(error) => tracing::warn!(id = self.id, %error, "trying again"),
            }
            tokio::time::sleep(THREADS_PAUSE).await;
        }
    }

    fn failed(&self, error: &io::Error) -> Ending {
        self.stderr
            .say(&format!("the host cannot listen any more: {error}"));
        Ending::Trapped
    }

    fn ended(&self, ending: Ending) {
        // Of one that was never started: a terminal ends with its last user.
        drop(self.stdio.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.stdout.finish();
        self.stderr.finish();
        self.close_watchers();
        if let Err(error) = self.explain(ending) {
            tracing::warn!(id = self.id, %error, "the agent will not learn why the container ended");
        }
        let (status, at) = (ending.status(), Timestamp::now());
        self.story.ended(NO_PID, Exit { status, at });
        self.life.end(ending, at);
        // No more are taken in after the end; those there are end with their container.
        let execs: Vec<Arc<Exec>> = self.execs().values().cloned().collect();
        for exec in execs {
            exec.signal(libc::SIGKILL as u8);
        }
    }

    fn close_watchers(&self) {
        if let Some(watchers) = self
            .watchers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
        {
            watchers.close();
        }
    }

    /// Leaves in the bundle what an exit status does not tell.
    fn explain(&self, ending: Ending) -> io::Result<()> {
        match ending {
            Ending::OutOfMemory => {
                self.story.out_of_memory();
                oom::mark(&self.bundle)?;
            }
            Ending::Trapped => {}
            Ending::Exited(_) | Ending::Signalled(_) => return Ok(()),
        }
        last_words::leave(&self.bundle, &self.stderr.last_words())
    }

    /// Sends a signal. One to a container that has stopped is `false`.
    pub fn signal(&self, signal: u8) -> bool {
        if matches!(self.life.phase(), Phase::Stopped { .. }) {
            return false;
        }
        let effect = match disposition(signal) {
            Disposition::Ignore => return true,
            Disposition::Drain if self.serves() => &self.drain,
            Disposition::Drain | Disposition::End => &self.end,
        };
        if !effect.is_cancelled() {
            self.life.note_signal(signal);
            effect.cancel();
        }
        if self.life.phase() == Phase::Created {
            self.ended(Ending::Signalled(signal));
        }
        true
    }

    /// What it uses. Memory is linear memory, tables and instances; there are no processes to count.
    pub fn stats(&self) -> TaskStats {
        let spent = u64::try_from(self.meter.spent().as_nanos()).unwrap_or(u64::MAX);
        TaskStats {
            cpu_usage_nanos: spent,
            cpu_user_nanos: spent,
            memory_usage: self.budget.used(),
            memory_anon: self.budget.used(),
            memory_limit: self.budget.limit().unwrap_or(u64::MAX),
            oom_kills: u64::from(self.budget.exceeded()),
            ..TaskStats::default()
        }
    }
}

/// One that was never started is deleted without an end.
impl Drop for Container {
    fn drop(&mut self) {
        self.close_watchers();
    }
}

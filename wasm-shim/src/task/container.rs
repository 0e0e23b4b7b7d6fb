//! One container: from a loaded program to an exit status.
//!
//! Owns a container's signals, the commands exec'd into it, and the supervision of its guest. Refuses to know ttrpc.

use super::exec::{Exec, Home};
use super::life::Life;
use super::phase::{Event, IllegalEdge, Phase};
use crate::bundle::Container as Granted;
use crate::engine::budget::Budget;
use crate::engine::meter::{Meter, Metered};
use crate::guest::command::Job;
use crate::guest::http::{Handler, Served, bind};
use crate::guest::instance::Mould;
use crate::guest::output::Output;
use crate::guest::pod::Pod;
use crate::guest::wasi::Stdio;
use crate::guest::{Disposition, Ending, disposition};
use crate::program::load::Program;
use amphipod_shim_api::annotations::WASM_HTTP_PORT_DEFAULT;
use amphipod_shim_api::watchers::Watchers;
use amphipod_shim_api::{TaskStats, last_words, oom};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Why a container cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Phase(#[from] IllegalEdge),
    #[error("listening on port {port} in the Pod's network: {source}")]
    Listen { port: u16, source: io::Error },
}

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
    pub addresses: StdioAddresses,
    pub granted: Granted,
    pub program: Arc<Program>,
    pub pod: Arc<Pod>,
    pub meter: Arc<Meter>,
    pub stdio: Stdio,
    /// Who is attached.
    pub watchers: Option<Watchers>,
    /// Ends the standard input.
    pub close_stdin: CancellationToken,
}

/// One container of this process.
pub struct Container {
    pub id: String,
    pub bundle: PathBuf,
    pub addresses: StdioAddresses,
    pub life: Life,
    pub close_stdin: CancellationToken,
    granted: Arc<Granted>,
    program: Arc<Program>,
    pod: Arc<Pod>,
    budget: Arc<Budget>,
    meter: Arc<Meter>,
    stdio: Mutex<Option<Stdio>>,
    stdout: Output,
    stderr: Output,
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
            budget: Budget::new(made.granted.memory_limit),
            granted: Arc::new(made.granted),
            program: made.program,
            pod: made.pod,
            meter: made.meter,
            stdout: made.stdio.stdout.clone(),
            stderr: made.stdio.stderr.clone(),
            stdio: Mutex::new(Some(made.stdio)),
            watchers: Mutex::new(made.watchers),
            life: Life::new(),
            close_stdin: made.close_stdin,
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

    /// Forgets a command.
    pub fn remove_exec(&self, id: &str) {
        self.execs().remove(id);
    }

    /// Starts the guest. An HTTP container is listening when this returns.
    ///
    /// # Errors
    /// When it is not in phase created, or its port cannot be bound.
    pub async fn start(self: &Arc<Self>) -> Result<(), StartError> {
        self.life.step(Event::Start)?;
        let listener = match self.listen().await {
            Ok(listener) => listener,
            Err(error) => {
                self.life.step(Event::StartFailed)?;
                return Err(error);
            }
        };
        self.life.step(Event::Started)?;
        self.pod.add_shares(self.shares());
        let this = Arc::clone(self);
        match (self.handler(), listener) {
            (Some(handler), Some(listener)) => self.supervise(this.serve(handler, listener)),
            _ => self.supervise(this.run()),
        }
        Ok(())
    }

    fn shares(&self) -> i64 {
        i64::try_from(self.granted.shares).unwrap_or(i64::MAX)
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
        };
        Some(Handler::new(mould, Arc::clone(&self.meter)))
    }

    /// Binds on a thread of the Pod, because a socket belongs to the network of the thread that makes it.
    async fn listen(&self) -> Result<Option<TcpListener>, StartError> {
        if !self.serves() {
            return Ok(None);
        }
        let port = self.granted.serving.port.unwrap_or(WASM_HTTP_PORT_DEFAULT);
        let bound = self.pod.spawn(bind(port)).await;
        let bound = bound.unwrap_or_else(|error| Err(io::Error::other(error)));
        bound
            .map(Some)
            .map_err(|source| StartError::Listen { port, source })
    }

    /// Runs the guest on the Pod's threads and keeps its ending, whatever becomes of the task.
    fn supervise(self: &Arc<Self>, guest: impl Future<Output = Ending> + Send + 'static) {
        let this = Arc::clone(self);
        let running = self.pod.spawn(guest);
        tokio::spawn(async move {
            let ending = running.await.unwrap_or_else(|error| {
                this.stderr
                    .say(&format!("the host failed while running this container: {error}"));
                Ending::Trapped
            });
            this.pod.add_shares(-this.shares());
            if !matches!(ending, Ending::Signalled(_)) {
                tokio::join!(this.stdout.drain(), this.stderr.drain());
            }
            this.ended(ending);
        });
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
            invoke: self.granted.invoke.as_deref(),
        };
        let guest = Metered::new(Arc::clone(&self.meter), job.run(stdio));
        self.end
            .run_until_cancelled(guest)
            .await
            .unwrap_or_else(|| self.life.signalled())
    }

    async fn serve(self: Arc<Self>, handler: Arc<Handler>, listener: TcpListener) -> Ending {
        let serving = handler.serve(listener, self.drain.clone());
        match self.end.run_until_cancelled(serving).await {
            Some(Served::OutOfMemory) => Ending::OutOfMemory,
            Some(Served::Drained) | None => self.life.signalled(),
        }
    }

    fn ended(&self, ending: Ending) {
        self.stdout.finish();
        self.stderr.finish();
        self.close_watchers();
        if let Err(error) = self.explain(ending) {
            tracing::warn!(id = self.id, %error, "the agent will not learn why the container ended");
        }
        self.life.end(ending);
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
            Ending::OutOfMemory => oom::mark(&self.bundle)?,
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
        TaskStats {
            cpu_usage_nanos: u64::try_from(self.meter.spent().as_nanos()).unwrap_or(u64::MAX),
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

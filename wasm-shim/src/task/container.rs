//! One container: from a loaded program to an exit status.
//!
//! Owns a container's phase, its signals, and the supervision of its guest. Refuses to know ttrpc.

use super::phase::{Event, IllegalEdge, Phase};
use crate::bundle::Container as Granted;
use crate::engine::budget::Budget;
use crate::engine::meter::{Meter, Metered};
use crate::guest::http::{Handler, Served, bind};
use crate::guest::instance::Mould;
use crate::guest::output::Output;
use crate::guest::pod::Pod;
use crate::guest::{Disposition, Ending, command, disposition};
use crate::program::load::Program;
use amphipod_shim_api::annotations::WASM_HTTP_PORT_DEFAULT;
use amphipod_shim_api::{TaskStats, oom};
use jiff::Timestamp;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Why a container cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Phase(#[from] IllegalEdge),
    #[error("listening on port {port} in the Pod's network: {source}")]
    Listen { port: u16, source: io::Error },
}

/// The addresses a container's outputs were opened from, told back by State.
#[derive(Debug, Clone, Default)]
pub struct StdioAddresses {
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
    pub stdout: Output,
    pub stderr: Output,
}

/// One container of this process.
pub struct Container {
    pub id: String,
    pub bundle: PathBuf,
    pub addresses: StdioAddresses,
    granted: Arc<Granted>,
    program: Arc<Program>,
    pod: Arc<Pod>,
    budget: Arc<Budget>,
    meter: Arc<Meter>,
    stdout: Output,
    stderr: Output,
    phase: watch::Sender<Phase>,
    signal: AtomicU8,
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
            stdout: made.stdout,
            stderr: made.stderr,
            phase: watch::Sender::new(Phase::Created),
            signal: AtomicU8::new(0),
            drain: CancellationToken::new(),
            end: CancellationToken::new(),
        })
    }

    /// The phase now.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// The ending, once there is one.
    pub async fn wait(&self) -> (Ending, Timestamp) {
        let mut phases = self.phase.subscribe();
        loop {
            if let Phase::Stopped { ending, at } = *phases.borrow_and_update() {
                return (ending, at);
            }
            if phases.changed().await.is_err() {
                // The sender is a field of `self`: it is there as long as this borrow.
                std::future::pending::<()>().await;
            }
        }
    }

    fn step(&self, event: Event) -> Result<(), IllegalEdge> {
        let mut result = Ok(());
        self.phase.send_if_modified(|phase| match phase.after(event) {
            Ok(next) => {
                *phase = next;
                true
            }
            Err(error) => {
                result = Err(error);
                false
            }
        });
        result
    }

    /// Starts the guest. An HTTP container is listening when this returns.
    ///
    /// # Errors
    /// When it is not in phase created, or its port cannot be bound.
    pub async fn start(self: &Arc<Self>) -> Result<(), StartError> {
        self.step(Event::Start)?;
        let listener = match self.listen().await {
            Ok(listener) => listener,
            Err(error) => {
                self.step(Event::StartFailed)?;
                return Err(error);
            }
        };
        self.step(Event::Started)?;
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
            this.ended(ending);
        });
    }

    async fn run(self: Arc<Self>) -> Ending {
        let guest = command::run(
            &self.program,
            &self.granted,
            &self.budget,
            &self.stdout,
            &self.stderr,
        );
        let guest = Metered::new(Arc::clone(&self.meter), guest);
        self.end
            .run_until_cancelled(guest)
            .await
            .unwrap_or_else(|| self.signalled())
    }

    async fn serve(self: Arc<Self>, handler: Arc<Handler>, listener: TcpListener) -> Ending {
        let serving = handler.serve(listener, self.drain.clone());
        match self.end.run_until_cancelled(serving).await {
            Some(Served::OutOfMemory) => Ending::OutOfMemory,
            Some(Served::Drained) | None => self.signalled(),
        }
    }

    fn signalled(&self) -> Ending {
        Ending::Signalled(self.signal.load(Ordering::Acquire))
    }

    fn ended(&self, ending: Ending) {
        self.stdout.finish();
        self.stderr.finish();
        if ending == Ending::OutOfMemory
            && let Err(error) = oom::mark(&self.bundle)
        {
            tracing::warn!(id = self.id, %error, "the agent will not learn that memory ran out");
        }
        if let Err(error) = self.step(Event::Ended {
            ending,
            at: Timestamp::now(),
        }) {
            tracing::warn!(id = self.id, %error, "an ending came twice");
        }
    }

    /// Sends a signal. One to a container that has stopped is `false`.
    pub fn signal(&self, signal: u8) -> bool {
        if matches!(self.phase(), Phase::Stopped { .. }) {
            return false;
        }
        let effect = match disposition(signal) {
            Disposition::Ignore => return true,
            Disposition::Drain if self.serves() => &self.drain,
            Disposition::Drain | Disposition::End => &self.end,
        };
        if !effect.is_cancelled() {
            self.signal.store(signal, Ordering::Release);
            effect.cancel();
        }
        if self.phase() == Phase::Created {
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

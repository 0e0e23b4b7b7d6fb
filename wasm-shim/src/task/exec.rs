//! A command exec'd into a container: one more guest in the container's own world.
//!
//! Owns its life and streams, and what may be run: a word is a command of the built-in toolbox, a path a module or
//! component among the container's files. Refuses to know ttrpc. It has the container's preopens, network, memory
//! budget and CPU account, and ends with it.

use super::container::{StartError, StdioAddresses};
use super::life::{Life, NO_PID};
use super::phase::Phase;
use crate::bundle::{Command, Container as Granted};
use crate::engine::budget::Budget;
use crate::engine::meter::{Meter, Metered};
use crate::guest::command::Job;
use crate::guest::output::{Output, drain};
use crate::guest::pod::Pod;
use crate::guest::terminal::Terminal;
use crate::guest::wasi::Stdio;
use crate::guest::{Disposition, Ending, disposition};
use crate::program::load::Program;
use amphipod_shim_api::Exit;
use amphipod_shim_api::events::Story;
use jiff::Timestamp;
use std::sync::{Arc, Mutex, PoisonError};
use tokio_util::sync::CancellationToken;

/// The toolbox: `workloads/src/bin/toolbox/`, compiled to Wasm.
pub const TOOLBOX: &[u8] = include_bytes!("../../../workloads/wasm/toolbox.wasm");

/// What the toolbox is called; its commands follow as the first argument.
const TOOLBOX_NAME: &str = "toolbox";

/// The variable that tells the toolbox's `ps` who runs in the container.
pub const PROCESSES: &str = "AMPHIPOD_PROCESSES";

/// What a command line names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    /// A command of the toolbox, with the arguments it is to be run with.
    Toolbox(Vec<String>),
    /// A file, by an absolute path as the guest sees it.
    File(String),
}

/// Reads a command line. `None` when it is empty.
pub fn named(command: &Command) -> Option<Named> {
    let first = command.args.first()?;
    if !first.contains('/') {
        let mut args = vec![TOOLBOX_NAME.to_owned()];
        args.extend_from_slice(&command.args);
        return Some(Named::Toolbox(args));
    }
    let path = std::path::Path::new(command.cwd.as_deref().unwrap_or("/")).join(first);
    Some(Named::File(path.to_string_lossy().into_owned()))
}

/// What an exec takes from its container.
#[derive(Clone)]
pub struct Home {
    pub granted: Arc<Granted>,
    pub pod: Arc<Pod>,
    pub budget: Arc<Budget>,
    pub meter: Arc<Meter>,
}

/// Everything an exec is made of.
pub struct Made {
    pub home: Home,
    pub story: Story,
    pub addresses: StdioAddresses,
    pub command: Arc<Command>,
    pub program: Arc<Program>,
    pub stdio: Stdio,
    pub terminal: Option<Terminal>,
    /// Ends the standard input.
    pub close_stdin: CancellationToken,
}

/// One command in a container.
pub struct Exec {
    pub addresses: StdioAddresses,
    pub life: Life,
    pub close_stdin: CancellationToken,
    pub terminal: Option<Terminal>,
    home: Home,
    /// What containerd is told of it.
    story: Story,
    command: Arc<Command>,
    program: Arc<Program>,
    stdio: Mutex<Option<Stdio>>,
    stdout: Output,
    stderr: Output,
    end: CancellationToken,
}

impl Exec {
    /// A command in phase created.
    pub fn new(made: Made) -> Arc<Self> {
        Arc::new(Self {
            addresses: made.addresses,
            life: Life::new(),
            close_stdin: made.close_stdin,
            terminal: made.terminal,
            home: made.home,
            story: made.story,
            command: made.command,
            program: made.program,
            stdout: made.stdio.stdout.clone(),
            stderr: made.stdio.stderr.clone(),
            stdio: Mutex::new(Some(made.stdio)),
            end: CancellationToken::new(),
        })
    }

    /// Starts it on threads of its own: what it waits for in the kernel ends with it.
    ///
    /// # Errors
    /// When it was started before, or there are no threads for it.
    pub async fn start(self: &Arc<Self>) -> Result<(), StartError> {
        let _told = self.story.hold();
        let starting = self.life.begin()?;
        let threads = self.home.pod.beside().threads().await?;
        starting.done();
        self.story.started(NO_PID);
        let Some(stdio) = self.stdio.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return Ok(());
        };
        if let Some(terminal) = &self.terminal {
            let this = Arc::downgrade(self);
            terminal.begin(&self.close_stdin, move |signal| {
                this.upgrade().map(|this| this.signal(signal));
            });
        }
        let this = Arc::clone(self);
        let running = threads.spawn(async move { this.run(stdio).await });
        let this = Arc::clone(self);
        tokio::spawn(async move {
            let ending = running.await.unwrap_or_else(|error| {
                this.stderr
                    .say(&format!("the host failed while running this command: {error}"));
                Ending::Trapped
            });
            drop(threads);
            drain([&this.stdout, &this.stderr], this.terminal.as_ref(), ending).await;
            this.ended(ending);
        });
        Ok(())
    }

    async fn run(&self, stdio: Stdio) -> Ending {
        let job = Job {
            program: &self.program,
            command: &self.command,
            grants: &self.home.granted.grants,
            budget: &self.home.budget,
            invoke: None,
            dumps: None,
            profile: None,
        };
        let guest = Metered::new(Arc::clone(&self.home.meter), job.run(stdio));
        self.end
            .run_until_cancelled(guest)
            .await
            .unwrap_or_else(|| self.life.signalled())
    }

    /// What it was asked to run.
    pub fn words(&self) -> &[String] {
        match self.command.args.as_slice() {
            [first, words @ ..] if first == TOOLBOX_NAME => words,
            words => words,
        }
    }

    fn ended(&self, ending: Ending) {
        // Of one that was never started: a terminal ends with its last user.
        drop(self.stdio.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.stdout.finish();
        self.stderr.finish();
        let (status, at) = (ending.status(), Timestamp::now());
        if ending == Ending::OutOfMemory {
            self.story.out_of_memory();
        }
        self.story.ended(NO_PID, Exit { status, at });
        self.life.end(ending, at);
    }

    /// Sends a signal: whatever is not ignored ends it. One to a command that has ended is `false`.
    pub fn signal(&self, signal: u8) -> bool {
        match self.life.phase() {
            Phase::Stopped { .. } => return false,
            _ if disposition(signal) == Disposition::Ignore => return true,
            _ => {}
        }
        if !self.end.is_cancelled() {
            self.life.note_signal(signal);
            self.end.cancel();
        }
        if self.life.phase() == Phase::Created {
            self.ended(Ending::Signalled(signal));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_the_toolboxs_and_paths_are_files() {
        let read = |args: &[&str], cwd: Option<&str>| {
            named(&Command {
                args: args.iter().map(|arg| (*arg).to_owned()).collect(),
                env: Vec::new(),
                cwd: cwd.map(str::to_owned),
            })
        };
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let file = |path: &str| Some(Named::File(path.to_owned()));
        assert_eq!(
            read(&["ls", "/data"], None),
            Some(Named::Toolbox(words(&["toolbox", "ls", "/data"])))
        );
        assert_eq!(read(&["/data/x.wasm", "a"], None), file("/data/x.wasm"));
        assert_eq!(read(&["./x.wasm"], Some("/data")), file("/data/./x.wasm"));
        assert_eq!(read(&[], None), None);
    }
}

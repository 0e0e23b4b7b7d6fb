//! Other processes in a running container, by the Task API's Exec: for `kubectl exec`, probes and hooks. And the
//! container's own streams, for `kubectl attach`.
//!
//! Owns their streams (FIFOs below the run directory) and their end: one nobody waits for any more is killed and
//! forgotten at its shim. Refuses to know who asked, and Pods.

mod attached;
mod doors;
mod fifos;

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use amphipod_shim_api::client::{ExecTask, Exit};
use amphipod_shim_api::{ShimAddress, TaskClient, TaskClients, TaskError};
pub use attached::{AttachError, Attached};
pub use doors::Doors;
use fifos::Fifos;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::{Receiver, Sender};

use go_values::duration;

const SIGKILL: u32 = 9;
/// What is kept of the output of a command run to its end; upstream keeps as much of a probe's.
const OUTPUT_LIMIT: u64 = 10 << 10;
/// A killed process ends at once, unless the kernel is stuck in it.
const END_LIMIT: Duration = Duration::from_secs(30);

/// A running container, as commands in it need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Id of the task.
    pub id: String,
    pub address: ShimAddress,
    /// Where its `config.json` is.
    pub bundle: PathBuf,
    /// Whether it is Wasm, which has no processes and no cgroup of its own.
    pub is_guest: bool,
}

/// What to run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Command {
    pub args: Vec<String>,
    pub stdin: bool,
    pub terminal: bool,
}

/// Why a command did not run, or its end is not known.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    #[error("cannot read the container's configuration {}: {source}", path.display())]
    Config { path: PathBuf, source: io::Error },
    #[error("cannot make the command's streams below {}: {source}", path.display())]
    Streams { path: PathBuf, source: io::Error },
    #[error("the container's runtime runs no further commands in it")]
    Unsupported,
    #[error(transparent)]
    Task(TaskError),
    #[error("command timed out: {command:?} timed out after {}", duration::print(*limit))]
    TimedOut { command: String, limit: Duration },
}

impl From<TaskError> for ExecError {
    fn from(error: TaskError) -> Self {
        match error {
            TaskError::Unimplemented(_) => Self::Unsupported,
            other => Self::Task(other),
        }
    }
}

/// How a command run to its end has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    pub status: u32,
    /// The first [`OUTPUT_LIMIT`] bytes of both outputs.
    pub output: String,
    /// Of these, what was said as an error.
    pub errors: String,
}

/// Starts commands; their streams are below one directory.
#[derive(Clone, Debug)]
pub struct Execs {
    root: PathBuf,
    run_dir: PathBuf,
    tasks: TaskClients,
}

impl Execs {
    /// `run_dir` is the cluster's, on a tmpfs.
    pub fn new(run_dir: &Path, tasks: TaskClients) -> Self {
        Execs {
            root: run_dir.join("x"),
            run_dir: run_dir.into(),
            tasks,
        }
    }

    /// Removes the streams of commands whose agent was killed. To be called before any command is started.
    pub fn forget_old(&self) -> io::Result<()> {
        match std::fs::remove_dir_all(&self.root) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Starts a command; it is killed when the answer is dropped.
    pub async fn start(&self, target: &Target, command: Command) -> Result<Process, ExecError> {
        let process = process(&target.bundle, &command).await?;
        let (mut fifos, outputs) =
            Fifos::make(&self.root, &command).map_err(|source| ExecError::Streams {
                path: self.root.clone(),
                source,
            })?;
        let client = self.tasks.of(&target.address);
        let exec = fifos.name.clone();
        let request = ExecTask {
            id: target.id.clone(),
            exec_id: exec.clone(),
            terminal: command.terminal,
            stdin: fifos.address("in"),
            stdout: fifos.address("out"),
            stderr: fifos.address("err"),
            process,
        };
        client.exec(&request).await?;
        let task = Task {
            client,
            container: target.id.clone(),
            exec,
        };
        let mut made = Process {
            task: Arc::new(task),
            ended: AtomicBool::new(false),
            stdin: None,
            stdout: outputs.stdout,
            stderr: outputs.stderr,
            _fifos: fifos.clone_guard(),
        };
        made.task.client.start(made.task.process()).await?;
        made.stdin = fifos.open_stdin();
        Ok(made)
    }

    /// Runs a command to its end and keeps the beginning of what it says. One that takes too long is killed.
    pub async fn run(
        &self,
        target: &Target,
        args: Vec<String>,
        limit: Duration,
    ) -> Result<Finished, ExecError> {
        let command = args.join(" ");
        let to_end = async {
            let command = Command {
                args,
                ..Command::default()
            };
            let mut process = self.start(target, command).await?;
            let (stdout, stderr) = (process.stdout.take(), process.stderr.take());
            let (mut output, errors) = tokio::join!(keep(stdout), keep(stderr));
            output.extend_from_slice(&errors);
            let exit = process.wait().await?;
            Ok(Finished {
                status: exit.status,
                output: String::from_utf8_lossy(&output).into_owned(),
                errors: String::from_utf8_lossy(&errors).into_owned(),
            })
        };
        match tokio::time::timeout(limit, to_end).await {
            Ok(done) => done,
            Err(_) => Err(ExecError::TimedOut { command, limit }),
        }
    }
}

/// The process the container was made with, running another program.
async fn process(bundle: &Path, command: &Command) -> Result<Value, ExecError> {
    let path = bundle.join("config.json");
    let failed = |source| ExecError::Config {
        path: path.clone(),
        source,
    };
    let text = tokio::fs::read(&path).await.map_err(failed)?;
    let mut config: Value = serde_json::from_slice(&text).map_err(|e| failed(e.into()))?;
    Ok(altered(config["process"].take(), command))
}

fn altered(mut process: Value, command: &Command) -> Value {
    process["args"] = json!(command.args);
    process["terminal"] = json!(command.terminal);
    let has_term = |env: &Vec<Value>| {
        env.iter()
            .any(|e| e.as_str().is_some_and(|e| e.starts_with("TERM=")))
    };
    if command.terminal
        && let Some(env) = process["env"].as_array_mut().filter(|env| !has_term(env))
    {
        env.push(json!("TERM=xterm"));
    }
    process
}

/// The beginning of a stream; the rest is read and dropped, so that the writer can go on.
async fn keep(stream: Option<Receiver>) -> Vec<u8> {
    let mut kept = Vec::new();
    let Some(mut stream) = stream else {
        return kept;
    };
    let read = async {
        (&mut stream).take(OUTPUT_LIMIT).read_to_end(&mut kept).await?;
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
    };
    if let Err(error) = read.await {
        tracing::debug!(%error, "the output of a command could not be read to its end");
    }
    kept
}

/// The process at its shim.
#[derive(Debug)]
struct Task {
    client: TaskClient,
    container: String,
    exec: String,
}

impl Task {
    fn process(&self) -> (&str, &str) {
        (self.container.as_str(), self.exec.as_str())
    }

    async fn delete(&self) {
        match self.client.delete(self.process()).await {
            Ok(_) | Err(TaskError::NotFound(_) | TaskError::Disconnected(_)) => {}
            Err(error) => tracing::warn!(%error, exec = self.exec, "an ended command stays at its shim"),
        }
    }

    /// Kills it and lets the shim forget it.
    async fn end(&self) {
        match self.client.kill(self.process(), SIGKILL, false).await {
            Ok(()) => {}
            Err(error) => tracing::debug!(%error, exec = self.exec, "a command was not killed"),
        }
        if tokio::time::timeout(END_LIMIT, self.client.wait(self.process()))
            .await
            .is_err()
        {
            tracing::warn!(exec = self.exec, "a killed command did not end");
        }
        self.delete().await;
    }
}

/// A command that runs in a container; dropping it kills it.
#[derive(Debug)]
pub struct Process {
    task: Arc<Task>,
    ended: AtomicBool,
    /// Dropping it is not the end of the command's input: [`Process::close_stdin`] is.
    pub stdin: Option<Sender>,
    pub stdout: Option<Receiver>,
    pub stderr: Option<Receiver>,
    _fifos: fifos::Guard,
}

/// What can be done to the process at the other end of streams.
pub trait Controls {
    fn resize(&self, width: u16, height: u16) -> impl Future<Output = Result<(), ExecError>> + Send;
    /// Its input has ended.
    fn close_stdin(&self) -> impl Future<Output = Result<(), ExecError>> + Send;
}

impl Process {
    /// Waits for its end, and lets the shim forget it. Its outputs are complete then.
    pub async fn wait(&self) -> Result<Exit, ExecError> {
        let exit = self.task.client.wait(self.task.process()).await?;
        self.ended.store(true, Ordering::Relaxed);
        self.task.delete().await;
        Ok(exit)
    }
}

impl Controls for Process {
    async fn resize(&self, width: u16, height: u16) -> Result<(), ExecError> {
        let (width, height) = (width.into(), height.into());
        let resized = self.task.client.resize_pty(self.task.process(), width, height);
        Ok(resized.await?)
    }

    async fn close_stdin(&self) -> Result<(), ExecError> {
        Ok(self.task.client.close_stdin(self.task.process()).await?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended.load(Ordering::Relaxed) {
            return;
        }
        let (stdout, stderr) = (self.stdout.take(), self.stderr.take());
        let task = Arc::clone(&self.task);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                tokio::join!(task.end(), keep(stdout), keep(stderr));
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_the_containers_process_with_other_words() {
        let given = json!({"args": ["serve"], "env": ["A=b"], "cwd": "/w", "user": {"uid": 5}});
        let command = Command {
            args: vec!["sh".into()],
            terminal: true,
            ..Command::default()
        };
        let made = altered(given.clone(), &command);
        let expected = json!({"args": ["sh"], "env": ["A=b", "TERM=xterm"], "cwd": "/w", "user": {"uid": 5},
            "terminal": true});
        assert_eq!(made, expected);
        let again = altered(made, &command);
        assert_eq!(again["env"], json!(["A=b", "TERM=xterm"]));
        let plain = Command {
            args: vec!["ls".into()],
            ..Command::default()
        };
        assert_eq!(altered(given, &plain)["env"], json!(["A=b"]));
    }

    #[test]
    fn what_no_runtime_offers_is_said_so() {
        let error = ExecError::from(TaskError::Unimplemented("Exec".into()));
        assert!(matches!(error, ExecError::Unsupported));
        let late = ExecError::TimedOut {
            command: "sleep 100".into(),
            limit: Duration::from_secs(90),
        };
        assert_eq!(
            late.to_string(),
            "command timed out: \"sleep 100\" timed out after 1m30s"
        );
    }
}

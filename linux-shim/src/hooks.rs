//! Hooks of config.json: programs of the host's administrator, run at set moments of a container's life with its state
//! on standard input (OCI runtime-spec, "POSIX-platform Hooks").
//!
//! Owns how one is run. Refuses to know when. Blocks, so the shim runs hooks in a child of its own.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::Pid;

use crate::sys::socket::pidfd;

/// As much of what a failed hook said on standard error as is repeated.
const SAID_LIMIT: u64 = 1024;

/// One program to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    pub path: PathBuf,
    /// The whole argv; with nothing in it the path is its own name.
    pub args: Vec<String>,
    /// `None` has it begin with ours.
    pub env: Option<Vec<String>>,
    /// Where it begins; `None`, or what cannot be entered (any more), leaves it where we are.
    pub dir: Option<PathBuf>,
    pub timeout: Option<Duration>,
}

/// All of them, by the moment they are for.
#[derive(Debug, Clone, Default)]
pub struct Hooks {
    /// `prestart`, then `createRuntime`: in the runtime's namespaces, before the root is changed.
    pub runtime: Vec<Hook>,
    /// In the container's namespaces, before the root is changed.
    pub create_container: Vec<Hook>,
    /// In the container, by its process, before that becomes the program.
    pub start_container: Vec<Hook>,
    pub poststart: Vec<Hook>,
    pub poststop: Vec<Hook>,
}

impl Hooks {
    /// Whether the container's first process has to ask for, or to run, any.
    pub fn before_start(&self) -> bool {
        !(self.runtime.is_empty() && self.create_container.is_empty() && self.start_container.is_empty())
    }
}

/// What a hook is told about the container.
#[derive(Debug, Clone, Default)]
pub struct Subject {
    pub version: String,
    pub id: String,
    pub bundle: PathBuf,
    pub annotations: HashMap<String, String>,
}

impl Subject {
    /// The state as JSON (OCI runtime-spec, "State"); without a process for pid 0.
    pub fn state(&self, status: &str, pid: i32) -> String {
        let mut state = serde_json::json!({
            "ociVersion": self.version,
            "id": self.id,
            "status": status,
            "bundle": self.bundle,
            "annotations": self.annotations,
        });
        if pid > 0 {
            state["pid"] = pid.into();
        }
        state.to_string()
    }
}

/// A hook that failed; those after it were not run.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    #[error("hook {path:?}: {source}")]
    Run { path: PathBuf, source: io::Error },
    #[error("hook {path:?} ended with {status}: {said}")]
    Failed {
        path: PathBuf,
        status: ExitStatus,
        said: String,
    },
    #[error("hook {path:?} was killed: it took longer than its timeout of {limit:?}")]
    TimedOut { path: PathBuf, limit: Duration },
}

/// Runs hooks in order, each to its end, and stops at the first that fails.
pub fn run(hooks: &[Hook], state: &str) -> Result<(), HookError> {
    hooks.iter().try_for_each(|hook| run_one(hook, state))
}

/// Runs every hook, whatever becomes of the others, and answers what went wrong (`poststop`, which changes nothing any
/// more).
pub fn run_all(hooks: &[Hook], state: &str) -> Vec<HookError> {
    hooks
        .iter()
        .filter_map(|hook| run_one(hook, state).err())
        .collect()
}

/// Files in memory, not pipes: neither a hook that reads nothing nor one that says much can hold us up.
fn run_one(hook: &Hook, state: &str) -> Result<(), HookError> {
    let fail = |source| HookError::Run {
        path: hook.path.clone(),
        source,
    };
    let mut input = memory().map_err(fail)?;
    input
        .write_all(state.as_bytes())
        .and_then(|()| input.rewind())
        .map_err(fail)?;
    let mut said = memory().map_err(fail)?;
    let mut command = Command::new(&hook.path);
    if let Some((name, rest)) = hook.args.split_first() {
        command.arg0(name).args(rest);
    }
    if let Some(dir) = hook.dir.as_ref().filter(|dir| dir.is_dir()) {
        command.current_dir(dir);
    }
    if let Some(env) = &hook.env {
        let pairs = env.iter().filter_map(|e| e.split_once('='));
        command.env_clear().envs(pairs);
    }
    let mut child = command
        .stdin(input)
        .stdout(Stdio::null())
        .stderr(said.try_clone().map_err(fail)?)
        .spawn()
        .map_err(fail)?;
    let Some(status) = wait(&mut child, hook.timeout).map_err(fail)? else {
        return Err(HookError::TimedOut {
            path: hook.path.clone(),
            limit: hook.timeout.unwrap_or_default(),
        });
    };
    if status.success() {
        return Ok(());
    }
    let mut text = Vec::new();
    said.rewind()
        .and_then(|()| said.take(SAID_LIMIT).read_to_end(&mut text))
        .map_err(fail)?;
    Err(HookError::Failed {
        path: hook.path.clone(),
        status,
        said: String::from_utf8_lossy(&text).trim_end().to_owned(),
    })
}

fn memory() -> io::Result<File> {
    Ok(memfd_create(c"hook", MFdFlags::MFD_CLOEXEC)?.into())
}

/// `None` for a child that had to be killed.
fn wait(child: &mut Child, limit: Option<Duration>) -> io::Result<Option<ExitStatus>> {
    if let Some(limit) = limit {
        let process = pidfd(Pid::from_raw(child.id().cast_signed()))?;
        let mut watched = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        if poll(&mut watched, timeout)? == 0 {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
    }
    child.wait().map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(script: &str) -> Hook {
        Hook {
            path: "/bin/sh".into(),
            args: ["sh", "-c", script].map(str::to_owned).to_vec(),
            env: Some(vec!["WORD=said".into(), "PATH=/bin:/usr/bin".into()]),
            dir: None,
            timeout: Some(Duration::from_secs(30)),
        }
    }

    #[test]
    fn a_hook_reads_the_state_and_has_its_own_environment() {
        let subject = Subject {
            id: "c1".into(),
            ..Default::default()
        };
        let state = subject.state("creating", 7);
        run(
            &[hook(
                r#"grep -q '"id":"c1"' && test "$WORD" = said && test -z "$HOME""#,
            )],
            &state,
        )
        .unwrap();
        assert!(!subject.state("stopped", 0).contains("pid"));
    }

    #[test]
    fn a_hook_begins_where_it_is_to_if_that_is_there() {
        let home = tempfile::tempdir().unwrap();
        let at = |dir: PathBuf, script: String| Hook {
            dir: Some(dir),
            ..hook(&script)
        };
        let wanted = format!("test $(pwd) = {}", home.path().display());
        run(&[at(home.path().into(), wanted)], "{}").unwrap();
        run(&[at(home.path().join("gone"), "true".into())], "{}").unwrap();
    }

    #[test]
    fn a_failing_hook_stops_those_after_it_and_is_quoted() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("ran");
        let later = hook(&format!("touch {}", file.display()));
        let error = run(&[hook("echo broken >&2; exit 3"), later], "{}").unwrap_err();
        assert!(error.to_string().contains("broken"), "{error}");
        assert!(!file.exists());
        let absent = Hook {
            path: "/no/such".into(),
            ..hook("")
        };
        assert!(matches!(run(&[absent], "{}"), Err(HookError::Run { .. })));
    }

    #[test]
    fn a_hook_over_its_time_is_killed() {
        let slow = Hook {
            timeout: Some(Duration::from_millis(20)),
            ..hook("exec sleep 100")
        };
        assert!(matches!(run(&[slow], "{}"), Err(HookError::TimedOut { .. })));
    }
}

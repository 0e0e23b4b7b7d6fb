//! The last part of the way in, the same for a first process and an exec'd one: streams, limits, user, filters, and the
//! program when the word comes.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::sys::personality;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout};

use super::channel::ChildEnd;
use super::devices::Terminal;
use super::error::During;
use super::program::Program;
use super::warn::Warnings;
use super::{Built, ChildStreams, InitError, ProcessPlan, identity, keyring, labels, memory, scheduling};
use crate::hooks::{self, Hook};
use crate::sys::process::{close_on_exec_from, set_controlling_terminal};

/// Exit code of a child that never ran its program; what happened was reported.
pub const NOT_STARTED: i32 = 127;

/// A process that only waits for the word.
pub struct Settled<'a> {
    program: Program,
    master: Option<OwnedFd>,
    plan: &'a ProcessPlan,
    start_hooks: Option<(&'a [Hook], String)>,
}

/// Inside the container: streams, limits, working directory, user, program.
pub fn settle<'a>(
    plan: &'a ProcessPlan,
    streams: &ChildStreams,
    built: Built<'a>,
    channel: &ChildEnd,
    warnings: &mut Warnings,
) -> Result<Settled<'a>, InitError> {
    umask(Mode::from_bits_truncate(plan.identity.umask & 0o777));
    let master = connect(plan, streams, built.terminal)?;
    let mut env = plan.env.clone();
    if !env.iter().any(|e| e.starts_with("HOME=")) {
        env.push(format!("HOME={}", identity::home_of(plan.identity.uid)));
    }
    identity::set_rlimits(&plan.identity, warnings)?;
    scheduling::apply(&plan.scheduling)?;
    if let Some(persona) = plan.personality {
        personality::set(persona).during(|| "set the personality".into())?;
    }
    if let Some(policy) = &plan.memory {
        memory::apply(policy)?;
    }
    labels::apply(&plan.labels)?;
    if let Some(name) = &plan.keyring {
        keyring::join(name, warnings)?;
    }
    let early = std::env::set_current_dir(&plan.cwd);
    close_on_exec_from(3 + streams.preserved).during(|| "close descriptors".into())?;
    identity::become_user(&plan.identity, warnings)?;
    enter_cwd(&plan.cwd, early)?;
    let program = Program::find(&plan.args, &env)?;
    identity::install_filters_with_listener(&plan.identity, channel)?;
    Ok(Settled {
        program,
        master,
        plan,
        start_hooks: built.start_hooks,
    })
}

fn connect(
    plan: &ProcessPlan,
    streams: &ChildStreams,
    terminal: Option<Terminal>,
) -> Result<Option<OwnedFd>, InitError> {
    let step = || "connect the standard streams".to_owned();
    let Some(Terminal { master, peer }) = terminal else {
        identity::own_streams(&plan.identity, &streams.borrowed());
        replace([&streams.stdin, &streams.stdout, &streams.stderr].map(Option::as_ref)).during(step)?;
        return Ok(None);
    };
    identity::own_streams(&plan.identity, &[peer.as_fd()]);
    set_controlling_terminal(peer.as_fd()).during(|| "take the terminal".into())?;
    replace([Some(&peer); 3]).during(step)?;
    Ok(Some(master))
}

fn replace([stdin, stdout, stderr]: [Option<&OwnedFd>; 3]) -> nix::Result<()> {
    stdin.map_or(Ok(()), dup2_stdin)?;
    stdout.map_or(Ok(()), dup2_stdout)?;
    stderr.map_or(Ok(()), dup2_stderr)
}

/// A directory only root or only the user may enter is entered as the one who may. Then the kernel is asked where we
/// are: a working directory outside the root has no path there (CVE-2024-21626).
fn enter_cwd(cwd: &Path, early: std::io::Result<()>) -> Result<(), InitError> {
    let step = || format!("chdir to cwd ({cwd:?}) set in config.json failed");
    if early.is_err() {
        std::env::set_current_dir(cwd).during(step)?;
    }
    match nix::unistd::getcwd() {
        Ok(path) if path.is_absolute() => Ok(()),
        _ => Err(InitError::Refused(format!(
            "the working directory {cwd:?} is outside of the container"
        ))),
    }
}

/// Reports, waits for the word, executes.
pub fn finish(
    prepared: Result<Settled<'_>, InitError>,
    channel: &mut ChildEnd,
    mut warnings: Warnings,
) -> i32 {
    for text in warnings.take() {
        // With the shim gone there is nobody to tell; that it is gone shows below.
        let _ = channel.warning(&text);
    }
    let error = match prepared {
        Ok(mut settled) => {
            let master = settled.master.take();
            let sent = channel.ready(master.as_ref().map(AsFd::as_fd));
            drop(master);
            if sent.and_then(|()| channel.wait_for_go()).is_err() {
                return NOT_STARTED;
            }
            settled.execute()
        }
        Err(error) => error,
    };
    // With the shim gone there is nobody to tell.
    let _ = channel.failed(&error.to_string());
    NOT_STARTED
}

impl Settled<'_> {
    /// Comes back only to say why not. The filters are the last thing before the program where they can be, so that
    /// they need to allow nothing of ours but `execve`.
    fn execute(&self) -> InitError {
        if let Some((hooks, state)) = &self.start_hooks
            && let Err(error) = hooks::run(hooks, state)
        {
            return InitError::Refused(error.to_string());
        }
        match identity::install_late_filters(&self.plan.identity) {
            Ok(()) => self.program.execute(),
            Err(error) => error,
        }
    }
}

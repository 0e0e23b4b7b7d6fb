//! The way into a container: what a forked child of the shim does until it executes the container's program.
//!
//! Runs in a process of its own (forked from the single-threaded shim, so ordinary code is allowed) and talks to the
//! shim through [`channel`]. Owns the order of the steps; refuses to know the Task API and the state of containers.

pub mod channel;
pub mod devices;
mod error;
pub mod identity;
mod mounts;
mod program;
mod root;
mod warn;

pub use error::InitError;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use amphipod_shim_api::cgroup::Cgroup;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, setsid};

use crate::mount_plan::MountPlan;
use crate::rootfs_plan::RootfsMount;
use crate::sys::process::{close_all_but, close_on_exec_from, reset_signals, set_controlling_terminal};
use channel::ChildEnd;
use devices::{Device, Terminal};
use error::During;
use identity::Identity;
use program::Program;
use root::Root;
use warn::Warnings;

/// A process to run in a container, first or exec'd.
#[derive(Debug, Clone)]
pub struct ProcessPlan {
    pub args: Vec<String>,
    pub env: Vec<String>,
    pub cwd: PathBuf,
    pub identity: Identity,
    /// Width and height when a terminal is wanted.
    pub terminal: Option<(u16, u16)>,
}

/// A container to make.
#[derive(Debug, Clone)]
pub struct ContainerPlan {
    pub cgroup: Cgroup,
    /// Namespaces to make, for `clone3`.
    pub new_namespaces: CloneFlags,
    /// Namespaces to join, by path. PID is not among them.
    pub join: Vec<(CloneFlags, PathBuf)>,
    /// A PID namespace to join.
    pub join_pid: Option<PathBuf>,
    pub new_cgroup_namespace: bool,
    pub rootfs: PathBuf,
    pub rootfs_mounts: Vec<RootfsMount>,
    pub rootfs_read_only: bool,
    pub rootfs_propagation: Option<u64>,
    pub mounts: Vec<MountPlan>,
    pub devices: Vec<Device>,
    pub masked: Vec<String>,
    pub read_only: Vec<String>,
    pub sysctls: Vec<(String, String)>,
    pub hostname: Option<String>,
    pub domainname: Option<String>,
    pub process: ProcessPlan,
}

/// The child's ends of its standard streams; nothing where a terminal takes their place.
#[derive(Debug, Default)]
pub struct ChildStreams {
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
}

impl ChildStreams {
    fn borrowed(&self) -> Vec<BorrowedFd<'_>> {
        [&self.stdin, &self.stdout, &self.stderr]
            .into_iter()
            .flatten()
            .map(AsFd::as_fd)
            .collect()
    }
}

/// Exit code of a child that never ran its program; what happened was reported.
const NOT_STARTED: i32 = 127;

/// Body of a new container's first process.
pub fn run_container(plan: &ContainerPlan, streams: &ChildStreams, channel: &ChildEnd) -> i32 {
    let mut warnings = Warnings::default();
    let prepared = begin(streams, channel, None).and_then(|()| build(plan, &mut warnings));
    finish(
        prepared.and_then(|terminal| settle(&plan.process, streams, terminal, &mut warnings)),
        channel,
        warnings,
    )
}

/// Body of a process in a running container, all of whose namespaces it is in.
pub fn run_exec(plan: &ProcessPlan, streams: &ChildStreams, channel: &ChildEnd) -> i32 {
    let mut warnings = Warnings::default();
    let terminal = begin(streams, channel, None).and_then(|()| exec_terminal(plan));
    finish(
        terminal.and_then(|terminal| settle(plan, streams, terminal, &mut warnings)),
        channel,
        warnings,
    )
}

/// Joins a running container: its cgroup while the host's files are there to see, then all its namespaces.
pub fn join_container(
    container: BorrowedFd<'_>,
    cgroup: &Cgroup,
    oom_score: Option<i32>,
) -> Result<(), InitError> {
    let mut warnings = Warnings::default();
    identity::set_oom_score(oom_score, &mut warnings)?;
    cgroup.join(0).map_err(|e| InitError::Refused(e.to_string()))?;
    let all = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWCGROUP;
    setns(container, all).during(|| "join the container's namespaces".into())
}

/// Joins a PID namespace for the children to come.
pub fn join_pid_namespace(path: &Path) -> Result<(), InitError> {
    join(CloneFlags::CLONE_NEWPID, path)
}

fn join(kind: CloneFlags, path: &Path) -> Result<(), InitError> {
    let step = || format!("join namespace {path:?}");
    let namespace = std::fs::File::open(path).during(step)?;
    setns(namespace, kind).during(step)
}

/// Nothing of the shim's goes on: no descriptor (but for those named), no signal disposition, no session. Not dumpable,
/// so that nobody in a namespace about to be joined can look into this process, or a child of it, before it has become
/// the container's. To be called first in every forked process.
pub fn begin(
    streams: &ChildStreams,
    channel: &ChildEnd,
    also: Option<BorrowedFd<'_>>,
) -> Result<(), InitError> {
    nix::sys::prctl::set_dumpable(false).during(|| "hide from the container".into())?;
    let mut keep = streams.borrowed();
    keep.push(channel.fd());
    keep.extend(also);
    close_all_but(&keep).during(|| "close the shim's descriptors".into())?;
    reset_signals().during(|| "reset signals".into())?;
    setsid().map(drop).during(|| "begin a session".into())
}

fn build(plan: &ContainerPlan, warnings: &mut Warnings) -> Result<Option<Terminal>, InitError> {
    umask(Mode::empty());
    identity::set_oom_score(plan.process.identity.oom_score_adj, warnings)?;
    plan.cgroup
        .join_v1(0)
        .map_err(|e| InitError::Refused(e.to_string()))?;
    plan.join.iter().try_for_each(|(kind, path)| join(*kind, path))?;
    if plan.new_cgroup_namespace {
        unshare(CloneFlags::CLONE_NEWCGROUP).during(|| "make a cgroup namespace".into())?;
    }
    let sources = mounts::open_sources(&plan.mounts)?;
    mounts::detach_from_host()?;
    let root = mounts::mount_rootfs(&plan.rootfs, &plan.rootfs_mounts)?;
    for (mount, source) in plan.mounts.iter().zip(&sources) {
        mounts::make(&root, mount, source.as_ref(), &plan.cgroup)?;
    }
    drop(sources);
    devices::make_all(&root, &plan.devices)?;
    let terminal = terminal(&root, plan)?;
    mounts::write_sysctls(&plan.sysctls)?;
    make_cwd(&root, &plan.process.cwd)?;
    protect(&root, plan)?;
    mounts::enter(&root)?;
    drop(root);
    mounts::finish_root(plan.rootfs_read_only, plan.rootfs_propagation)?;
    name_host(plan)?;
    Ok(terminal)
}

fn terminal(root: &Root, plan: &ContainerPlan) -> Result<Option<Terminal>, InitError> {
    let Some((width, height)) = plan.process.terminal else {
        return Ok(None);
    };
    let terminal = devices::open_terminal(root, width, height)?;
    devices::mount_console(root, &terminal)?;
    Ok(Some(terminal))
}

fn exec_terminal(plan: &ProcessPlan) -> Result<Option<Terminal>, InitError> {
    let Some((width, height)) = plan.terminal else {
        return Ok(None);
    };
    let root = Root::open(Path::new("/")).during(|| "open the container's root".into())?;
    devices::open_terminal(&root, width, height).map(Some)
}

/// The working directory is made when the image lacks it, as Docker's `WORKDIR` expects; a read-only root that lacks
/// it fails later, at `chdir`.
fn make_cwd(root: &Root, cwd: &Path) -> Result<(), InitError> {
    match root.make_dir(cwd) {
        Err(e) if e.raw_os_error() == Some(libc::EROFS) => Ok(()),
        other => other
            .map(drop)
            .during(|| format!("make the working directory {cwd:?}")),
    }
}

fn protect(root: &Root, plan: &ContainerPlan) -> Result<(), InitError> {
    plan.read_only
        .iter()
        .try_for_each(|path| mounts::make_read_only(root, path))?;
    let mut cover = mounts::Cover::open()?;
    plan.masked
        .iter()
        .try_for_each(|path| mounts::mask(root, path, &mut cover))
}

fn name_host(plan: &ContainerPlan) -> Result<(), InitError> {
    if let Some(name) = &plan.hostname {
        nix::unistd::sethostname(name).during(|| format!("set the host name {name:?}"))?;
    }
    if let Some(name) = &plan.domainname {
        crate::sys::process::set_domain_name(name).during(|| format!("set the domain name {name:?}"))?;
    }
    Ok(())
}

/// Inside the container: streams, limits, working directory, user, program.
fn settle(
    plan: &ProcessPlan,
    streams: &ChildStreams,
    terminal: Option<Terminal>,
    warnings: &mut Warnings,
) -> Result<(Program, Option<OwnedFd>), InitError> {
    umask(Mode::from_bits_truncate(plan.identity.umask & 0o777));
    let master = connect(plan, streams, terminal)?;
    let mut env = plan.env.clone();
    if !env.iter().any(|e| e.starts_with("HOME=")) {
        env.push(format!("HOME={}", identity::home_of(plan.identity.uid)));
    }
    identity::set_rlimits(&plan.identity, warnings)?;
    let early = std::env::set_current_dir(&plan.cwd);
    identity::become_user(&plan.identity, warnings)?;
    enter_cwd(&plan.cwd, early)?;
    close_on_exec_from(3).during(|| "close descriptors".into())?;
    Ok((Program::find(&plan.args, &env)?, master))
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
fn finish(
    prepared: Result<(Program, Option<OwnedFd>), InitError>,
    channel: &ChildEnd,
    mut warnings: Warnings,
) -> i32 {
    for text in warnings.take() {
        let _ = channel.warning(&text);
    }
    let error = match prepared {
        Ok((program, master)) => {
            let sent = channel.ready(master.as_ref().map(AsFd::as_fd));
            drop(master);
            if sent.and_then(|()| channel.wait_for_go()).is_err() {
                return NOT_STARTED;
            }
            program.execute()
        }
        Err(error) => error,
    };
    // With the shim gone there is nobody to tell.
    let _ = channel.failed(&error.to_string());
    NOT_STARTED
}

//! The way into a container: what a forked child of the shim does until it executes the container's program.
//!
//! Runs in a process of its own (forked from the single-threaded shim, so ordinary code is allowed) and talks to the
//! shim through [`channel`]. Owns the order of the steps; refuses to know the Task API and the state of containers.

pub mod channel;
mod copy;
pub mod devices;
pub mod entrance;
mod error;
mod id_mapped;
pub mod identity;
pub mod keeper;
pub mod keyring;
pub mod labels;
pub mod memory;
mod mounts;
mod namespaces;
mod plan;
mod program;
mod protect;
#[cfg(test)]
mod races;
mod root;
pub mod scheduling;
mod settle;
mod warn;

pub use error::InitError;
pub use plan::{CLONE_NEWTIME, ContainerPlan, ProcessPlan, Propagation};

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use amphipod_shim_api::cgroup::{Cgroup, CgroupError, CgroupHost};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, umask};
use nix::unistd::setsid;

use crate::hooks::{self, Hook};
use crate::launch::Running;
use crate::mount_plan::{MountPlan, Source};
use crate::sys::process::{close_all_but, reset_signals};
use channel::ChildEnd;
use devices::Terminal;
use entrance::Entrance;
use error::During;
use id_mapped::ContainerIds;
use mounts::BindSource;
use root::Root;
use settle::{finish, settle};
use warn::Warnings;

/// What an intermediate process has done already for the container's first.
#[derive(Debug, Default)]
pub struct Stage {
    /// `None` where there was no intermediate process.
    done: Option<Staged>,
}

#[derive(Debug)]
struct Staged {
    sources: Vec<Option<BindSource>>,
    warnings: Warnings,
    rootfs_is_mounted: bool,
    /// It is in the container's user namespace, whose ids are mapped.
    in_user_namespace: bool,
}

impl Stage {
    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let sources = self.done.iter().flat_map(|d| &d.sources);
        sources.flatten().map(BindSource::fd).collect()
    }
}

/// The child's ends of its standard streams; nothing where a terminal takes their place.
#[derive(Debug, Default)]
pub struct ChildStreams {
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
    /// How many descriptors after the standard ones the program gets as they are.
    pub preserved: u32,
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

/// What the intermediate process does: all that must be done from outside of a user namespace, and joining. For an
/// ordinary user (not `privileged`) it is in the new user namespace already, or joins that first: nowhere else he may.
pub fn stage(
    plan: &ContainerPlan,
    streams: &ChildStreams,
    end: &ChildEnd,
    privileged: bool,
) -> Result<Stage, InitError> {
    let mut warnings = Warnings::default();
    begin(streams, end, &[])?;
    umask(Mode::empty());
    leave_host(plan, &mut warnings)?;
    if let Some(maps) = &plan.ids {
        identity::give_streams(&plan.process.identity, maps, &streams.borrowed());
    }
    if !privileged {
        enter_user_namespace(plan, end)?;
    }
    let ids = ContainerIds::of(plan);
    let sources = mounts::open_sources(&plan.mounts, &ids, true)?;
    let rootfs_is_mounted = plan.in_user_namespace();
    if rootfs_is_mounted {
        if privileged {
            unshare(CloneFlags::CLONE_NEWNS).during(|| "make a mount namespace".into())?;
        }
        mounts::detach_from_host()?;
        mounts::mount_layers(&plan.rootfs, &plan.rootfs_mounts, &ids)?;
        // From here the way to it leads through directories that users of the namespace may not pass.
        std::env::set_current_dir(&plan.rootfs)
            .during(|| format!("enter the root file system {:?}", plan.rootfs))?;
    }
    if let Some(offsets) = &plan.new_time_namespace {
        namespaces::make_time(offsets)?;
    }
    if privileged {
        namespaces::join_all(&plan.join)?;
    }
    let done = Some(Staged {
        sources,
        warnings,
        rootfs_is_mounted,
        in_user_namespace: !privileged,
    });
    Ok(Stage { done })
}

/// Becomes root of the container's user namespace, with a mount namespace that is that root's. Whoever maps the ids
/// must find this process to be the user's.
fn enter_user_namespace(plan: &ContainerPlan, end: &ChildEnd) -> Result<(), InitError> {
    let step = || "have user ids mapped".to_owned();
    namespaces::join_all(&plan.join)?;
    if plan.new_namespaces.contains(CloneFlags::CLONE_NEWUSER) {
        nix::sys::prctl::set_dumpable(true).during(step)?;
        end.map_ids().during(step)?;
        nix::sys::prctl::set_dumpable(false).during(step)?;
    }
    namespaces::become_root(plan.process.identity.keeps_groups)?;
    unshare(CloneFlags::CLONE_NEWNS).during(|| "make a mount namespace".into())
}

/// Body of a new container's first process.
pub fn run_container(
    plan: &ContainerPlan,
    streams: &ChildStreams,
    channel: &mut ChildEnd,
    stage: Stage,
) -> i32 {
    let begun = begin(streams, channel, &stage.fds());
    let mut warnings = Warnings::default();
    let built = begun.and_then(|()| build(plan, channel, stage, &mut warnings));
    let prepared = built.and_then(|built| settle(&plan.process, streams, built, channel, &mut warnings));
    finish(prepared, channel, warnings)
}

/// Body of a process in a running container, all of whose namespaces it is in.
pub fn run_exec(plan: &ProcessPlan, streams: &ChildStreams, channel: &mut ChildEnd) -> i32 {
    let mut warnings = Warnings::default();
    let begun = begin(streams, channel, &[]).and_then(|()| exec_terminal(plan));
    let built = begun.map(|terminal| Built {
        terminal,
        start_hooks: None,
    });
    let prepared = built.and_then(|built| settle(plan, streams, built, channel, &mut warnings));
    finish(prepared, channel, warnings)
}

/// Joins a running container: its cgroup while the host's files are there to see, then all its namespaces.
pub fn join_container(
    process: BorrowedFd<'_>,
    container: Running<'_>,
    plan: &ProcessPlan,
    streams: &ChildStreams,
) -> Result<(), InitError> {
    let mut warnings = Warnings::default();
    identity::set_oom_score(plan.identity.oom_score_adj, &mut warnings)?;
    let root = container
        .shares_mounts
        .then(|| Root::open(&PathBuf::from(format!("/proc/{}/root", container.pid))))
        .transpose()
        .during(|| "open the container's root".into())?;
    let entered = match &plan.scheduling.initial_processors {
        Some(processors) => {
            scheduling::set_processors(processors)?;
            container
                .cgroup
                .enter_beside(container.pid.as_raw().cast_unsigned())
        }
        // It was made there.
        None => container.cgroup.enter_v1(),
    };
    entered.map_err(|e| InitError::Refused(e.to_string()))?;
    if let Some(maps) = container.ids {
        identity::give_streams(&plan.identity, maps, &streams.borrowed());
    }
    namespaces::join_running(process, container.pid, container.more, plan.identity.keeps_groups)?;
    root.as_ref().map_or(Ok(()), |root| Entrance::Chroot.enter(root))
}

/// Nothing of the shim's goes on: no descriptor (but for those named), no signal disposition, no session. Not dumpable,
/// so that nobody in a namespace about to be joined can look into this process, or a child of it, before it has become
/// the container's. To be called first in every forked process.
pub fn begin(streams: &ChildStreams, channel: &ChildEnd, also: &[BorrowedFd<'_>]) -> Result<(), InitError> {
    nix::sys::prctl::set_dumpable(false).during(|| "hide from the container".into())?;
    let keep = [&streams.borrowed(), &channel.fds(), also].concat();
    close_all_but(&keep, streams.preserved).during(|| "close the shim's descriptors".into())?;
    reset_signals().during(|| "reset signals".into())?;
    setsid().map(drop).during(|| "begin a session".into())
}

/// Done while the host's files are in sight: score, cgroup.
fn leave_host(plan: &ContainerPlan, warnings: &mut Warnings) -> Result<(), InitError> {
    identity::set_oom_score(plan.process.identity.oom_score_adj, warnings)?;
    plan.cgroup
        .enter_v1()
        .map_err(|e| InitError::Refused(e.to_string()))
}

/// A container ready for its program.
struct Built<'a> {
    terminal: Option<Terminal>,
    /// Hooks to run right before the program, with the state they are told.
    start_hooks: Option<(&'a [Hook], String)>,
}

fn build<'a>(
    plan: &'a ContainerPlan,
    channel: &ChildEnd,
    stage: Stage,
    warnings: &mut Warnings,
) -> Result<Built<'a>, InitError> {
    umask(Mode::empty());
    let ids = ContainerIds::of(plan);
    let cgroup = seen_cgroup(plan)?;
    let mut rootfs = plan.rootfs.as_path();
    let mapped = stage.done.as_ref().is_some_and(|done| done.in_user_namespace);
    let (sources, layers) = match stage.done {
        Some(mut done) => {
            done.warnings.take().into_iter().for_each(|w| warnings.add(w));
            let layers = if done.rootfs_is_mounted {
                rootfs = Path::new(".");
                &[][..]
            } else {
                &plan.rootfs_mounts
            };
            (done.sources, layers)
        }
        None => {
            leave_host(plan, warnings)?;
            namespaces::join_all(&plan.join)?;
            (
                mounts::open_sources(&plan.mounts, &ids, false)?,
                &plan.rootfs_mounts[..],
            )
        }
    };
    if plan.in_user_namespace() {
        if plan.new_namespaces.contains(CloneFlags::CLONE_NEWUSER) && !mapped {
            channel.map_ids().during(|| "have user ids mapped".into())?;
        }
        namespaces::become_root(plan.process.identity.keeps_groups)?;
    }
    if plan.new_cgroup_namespace {
        unshare(CloneFlags::CLONE_NEWCGROUP).during(|| "make a cgroup namespace".into())?;
    }
    if !plan.shares_mounts() {
        mounts::detach_from_host()?;
    }
    let stays = plan
        .rootfs_propagation
        .is_some_and(|p| p.kind & (libc::MS_SHARED | libc::MS_SLAVE) != 0);
    let root = mounts::mount_rootfs(rootfs, layers, &ids, stays)?;
    for (mount, source) in plan.mounts.iter().zip(&sources) {
        mounts::make(&root, mount, source.as_ref(), &cgroup)?;
    }
    drop(sources);
    devices::make_all(&root, &plan.devices)?;
    let terminal = terminal(&root, plan)?;
    mounts::write_sysctls(&plan.sysctls)?;
    make_cwd(&root, &plan.process.cwd)?;
    protect::protect(&root, plan)?;
    let start_hooks = run_hooks(plan, channel)?;
    plan.entrance.enter(&root)?;
    drop(root);
    mounts::finish_root(plan.rootfs_read_only, plan.rootfs_propagation)?;
    name_host(plan)?;
    Ok(Built {
        terminal,
        start_hooks,
    })
}

/// What a container is shown of cgroups: its own; where it has none, that in which it is with its maker. To be called
/// before it has a namespace of them.
fn seen_cgroup(plan: &ContainerPlan) -> Result<Cgroup, InitError> {
    let is_cgroup = |mount: &MountPlan| matches!(mount.source, Source::Cgroup { .. });
    if !plan.cgroup.is_none() || !plan.mounts.iter().any(is_cgroup) {
        return Ok(plan.cgroup.clone());
    }
    match CgroupHost::known() {
        Err(CgroupError::NoHierarchy) => Ok(Cgroup::none()),
        host => host
            .and_then(CgroupHost::own)
            .map_err(|e| InitError::Refused(e.to_string())),
    }
}

/// Has the hooks before `pivot_root` run, or runs them; answers what those of the start are to be told.
fn run_hooks<'a>(
    plan: &'a ContainerPlan,
    channel: &ChildEnd,
) -> Result<Option<(&'a [Hook], String)>, InitError> {
    if !plan.hooks.before_start() && plan.net_devices.is_empty() {
        return Ok(None);
    }
    let pid = channel.hooks().during(|| "have the runtime's hooks run".into())?;
    let state = plan.subject.state("creating", pid);
    hooks::run(&plan.hooks.create_container, &state).map_err(|e| InitError::Refused(e.to_string()))?;
    let at_start = &plan.hooks.start_container[..];
    Ok((!at_start.is_empty()).then(|| (at_start, plan.subject.state("created", pid))))
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

fn name_host(plan: &ContainerPlan) -> Result<(), InitError> {
    if let Some(name) = &plan.hostname {
        nix::unistd::sethostname(name).during(|| format!("set the host name {name:?}"))?;
    }
    if let Some(name) = &plan.domainname {
        crate::sys::process::set_domain_name(name).during(|| format!("set the domain name {name:?}"))?;
    }
    Ok(())
}

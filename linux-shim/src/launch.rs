//! Making a container's processes: which are forked, in which order, into what.
//!
//! A first process is usually forked straight into its namespaces and cgroup. Some namespaces can be entered only by
//! the children of whoever asks for them, or take away what preparing a container needs: then an intermediate child
//! does that first, makes the real one as its sibling, tells its pid, and ends.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use amphipod_shim_api::cgroup::Cgroup;
use nix::fcntl::OFlag;
use nix::sched::CloneFlags;
use nix::unistd::{Pid, geteuid};

use crate::id_map::IdMaps;
use crate::init::channel::ChildEnd;
use crate::init::{self, ChildStreams, ContainerPlan, InitError, ProcessPlan, Stage, keeper};
use crate::sys::clone::{CloneError, SingleThread, spawn};
use crate::sys::socket::pidfd;

/// Why no process was made.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    #[error("cannot make a process: {0}")]
    Clone(#[from] CloneError),
    #[error("cannot open the container's cgroup: {0}")]
    Cgroup(io::Error),
    #[error("cannot find the container's first process: {0}")]
    Container(io::Error),
}

/// A container that runs, as a process to be added to it needs to know it.
#[derive(Debug, Clone, Copy)]
pub struct Running<'a> {
    pub pid: Pid,
    pub cgroup: &'a Cgroup,
    /// Namespaces to join beside those every container has.
    pub more: CloneFlags,
    /// Maps of its user namespace.
    pub ids: Option<&'a IdMaps>,
    /// Its root is not that of its mount namespace.
    pub shares_mounts: bool,
}

/// Makes the first process of a container. With a [`ContainerPlan::is_staged`] plan its pid is reported.
pub fn first(plan: &ContainerPlan, streams: &ChildStreams, end: &mut ChildEnd) -> Result<Pid, LaunchError> {
    let cgroup = open_cgroup(&plan.cgroup)?;
    let cgroup = cgroup.as_ref().map(AsFd::as_fd);
    let single = SingleThread::check()?;
    let flags = plan.new_namespaces.bits();
    if !plan.is_staged() {
        return Ok(spawn(&single, flags, cgroup, |_| {
            init::run_container(plan, streams, end, Stage::default())
        })?);
    }
    // An ordinary user may do nothing of all this but in a user namespace: the intermediate child enters it.
    let privileged = geteuid().is_root();
    let user = CloneFlags::CLONE_NEWUSER.bits();
    let (now, then) = match privileged {
        true => (0, flags),
        false => (flags & user, flags & !user),
    };
    Ok(spawn(&single, now, cgroup, |single| {
        let staged = init::stage(plan, streams, end, privileged);
        hand_over(single, end, staged, then, |end, stage| {
            init::run_container(plan, streams, end, stage)
        })
    })?)
}

/// Makes another process in a container; its pid is reported.
pub fn another(
    container: Running<'_>,
    plan: &ProcessPlan,
    streams: &ChildStreams,
    end: &mut ChildEnd,
) -> Result<Pid, LaunchError> {
    let process = pidfd(container.pid).map_err(LaunchError::Container)?;
    // On the processors it is to have had before it is in its cgroup it must be outside of that.
    let cgroup = match &plan.scheduling.initial_processors {
        Some(_) => None,
        None => open_cgroup(container.cgroup)?,
    };
    let single = SingleThread::check()?;
    let mut body = |single: &SingleThread| {
        let target = process.as_fd();
        let joined = init::begin(streams, end, &[target])
            .and_then(|()| init::join_container(target, container, plan, streams));
        hand_over(single, end, joined, 0, |end, ()| {
            init::run_exec(plan, streams, end)
        })
    };
    match spawn(&single, 0, cgroup.as_ref().map(AsFd::as_fd), &mut body) {
        // The container has a systemd, say, that keeps everybody below the container's own cgroup.
        Err(CloneError::Clone(error)) if error.kind() == io::ErrorKind::ResourceBusy => {
            let below = container
                .cgroup
                .unified_dir_of(container.pid.as_raw().cast_unsigned());
            let cgroup = open(&below.ok_or(LaunchError::Cgroup(error))?)?;
            Ok(spawn(&single, 0, Some(cgroup.as_fd()), body)?)
        }
        made => Ok(made?),
    }
}

/// Makes the init of a PID namespace to be shared, in these namespaces; its pid is reported.
pub fn keeper(
    join: &[(CloneFlags, PathBuf)],
    streams: &ChildStreams,
    end: &mut ChildEnd,
) -> Result<Pid, LaunchError> {
    let single = SingleThread::check()?;
    Ok(spawn(&single, 0, None, |single| {
        let staged = keeper::stage(join, streams, end);
        hand_over(single, end, staged, keeper::NEW.bits(), |end, ()| {
            keeper::run(join, end)
        })
    })?)
}

/// In the intermediate child: makes the real one as its sibling, tells its pid, and ends. The real one begins only then:
/// what it has to say would be taken for the intermediate's own if it came before the pid.
fn hand_over<T>(
    single: &SingleThread,
    end: &mut ChildEnd,
    prepared: Result<T, InitError>,
    flags: libc::c_int,
    body: impl FnOnce(&mut ChildEnd, T) -> i32,
) -> i32 {
    let made = prepared.map_err(|e| e.to_string()).and_then(|prepared| {
        let (told, tell) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|e| format!("make a pipe: {e}"))?;
        let telling = tell.as_raw_fd();
        let sibling = spawn(single, flags | CloneFlags::CLONE_PARENT.bits(), None, |_| {
            // Ends when the intermediate's own end does.
            let waited = nix::unistd::close(telling).and_then(|()| nix::unistd::read(&told, &mut [0]));
            match waited {
                Ok(_) => body(end, prepared),
                Err(_) => 1,
            }
        });
        sibling.map(|pid| (pid, tell)).map_err(|e| e.to_string())
    });
    let told = match made {
        Ok((pid, _tell)) => end.pid(pid.as_raw()),
        Err(text) => end.failed(&text),
    };
    i32::from(told.is_err())
}

fn open_cgroup(cgroup: &Cgroup) -> Result<Option<OwnedFd>, LaunchError> {
    cgroup.unified_dir().map(open).transpose()
}

fn open(cgroup: &Path) -> Result<OwnedFd, LaunchError> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let opened = nix::fcntl::open(cgroup, flags, nix::sys::stat::Mode::empty());
    opened.map_err(|e| LaunchError::Cgroup(e.into()))
}

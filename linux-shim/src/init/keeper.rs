//! The init of a PID namespace that containers share: it keeps the namespace, and takes in whose parents have ended.
//!
//! Containers see it as process 1, and one that may trace everybody can look through it: so it is nobody, in the Pod's
//! namespaces, with an empty read-only root, without descriptors and capabilities.

use std::ffi::CStr;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::{set_dumpable, set_name, set_pdeathsig};
use nix::sys::signal::Signal;

use super::channel::ChildEnd;
use super::entrance::Entrance;
use super::error::{During, InitError};
use super::identity::{Identity, become_user};
use super::protect::empty_directory;
use super::root::Root;
use super::warn::Warnings;
use super::{ChildStreams, begin, mounts, namespaces};
use crate::sys::clone::SingleThread;
use crate::sys::mount::attach;
use crate::sys::process::{close_all_but, ignore_children, set_command_line};

/// Namespaces it has to itself, beside those it joins.
pub const NEW: CloneFlags = CloneFlags::CLONE_NEWPID.union(CloneFlags::CLONE_NEWNS);
/// Who it is; the pause container's user elsewhere.
const NOBODY: u32 = 65_535;
/// What it is called in lists of processes, as elsewhere.
const NAME: &CStr = c"pause";
const COMMAND_LINE: &CStr = c"/pause";

/// What the intermediate process does.
pub fn stage(
    join: &[(CloneFlags, PathBuf)],
    streams: &ChildStreams,
    end: &ChildEnd,
) -> Result<(), InitError> {
    begin(streams, end, &[])?;
    namespaces::join_all(join)
}

/// Body of the process; comes back only with an error to report.
pub fn run(join: &[(CloneFlags, PathBuf)], end: &ChildEnd) -> i32 {
    let settled = begin(&ChildStreams::default(), end, &[]).and_then(|()| settle(join));
    let told = match settled {
        Ok(()) => end.ready(None),
        Err(error) => end.failed(&error.to_string()),
    };
    // Where the shim is gone already, nobody would end this process.
    if told.is_err() || close_everything().is_err() {
        return super::settle::NOT_STARTED;
    }
    loop {
        nix::unistd::pause();
    }
}

fn settle(join: &[(CloneFlags, PathBuf)]) -> Result<(), InitError> {
    if join.iter().any(|(kind, _)| *kind == CloneFlags::CLONE_NEWUSER) {
        namespaces::become_root(false)?;
    }
    // While there is a /proc. It may be a fork of a shim whose line tells the cluster's paths.
    let single = SingleThread::check().map_err(io::Error::other);
    single
        .and_then(|single| set_command_line(&single, COMMAND_LINE))
        .during(|| "change the command line".into())?;
    unshare(CloneFlags::CLONE_NEWCGROUP).during(|| "make a cgroup namespace".into())?;
    enter_nowhere()?;
    let identity = Identity {
        uid: NOBODY,
        gid: NOBODY,
        groups: Vec::new(),
        keeps_groups: false,
        umask: 0,
        capabilities: Default::default(),
        no_new_privileges: true,
        rlimits: Vec::new(),
        oom_score_adj: None,
        seccomp: Vec::new(),
    };
    become_user(&identity, &mut Warnings::default())?;
    let step = || "keep the shared processes".to_owned();
    set_dumpable(false).during(step)?;
    set_name(NAME).during(step)?;
    ignore_children().during(step)?;
    // Not before the change of user, which takes it back.
    set_pdeathsig(Signal::SIGKILL).during(step)
}

/// An empty root, and nothing else in the mount namespace.
fn enter_nowhere() -> Result<(), InitError> {
    mounts::detach_from_host()?;
    let step = || "make an empty root".to_owned();
    let empty = empty_directory().during(step)?;
    let below = Root::open(Path::new("/")).during(step)?;
    attach(empty.as_fd(), below.fd()).during(step)?;
    Entrance::Pivot.enter(&Root::of(empty))
}

/// Also the end of the channel, which whoever holds it in this process never drops: it does not come back.
fn close_everything() -> std::io::Result<()> {
    close_all_but(&[], 0)?;
    for stream in 0..3 {
        // One that is closed already is what we want.
        let _ = nix::unistd::close(stream);
    }
    Ok(())
}

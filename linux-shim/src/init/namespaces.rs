//! Entering namespaces: by path, by a running process, and the two kinds that are more than a flag (user and time).

use std::fs::{self, File};
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{Gid, Pid, Uid, setgroups, setresgid, setresuid};

use super::CLONE_NEWTIME;
use super::error::{During, InitError};
use super::identity::in_sight;

/// Joins namespaces by path. Which of them a user namespace among them owns is not known: what cannot be joined from
/// outside is joined from inside it.
pub fn join_all(namespaces: &[(CloneFlags, PathBuf)]) -> Result<(), InitError> {
    let mut opened = Vec::new();
    for (kind, path) in namespaces {
        let file = File::open(path).during(|| step(path))?;
        opened.push((*kind, path, file));
    }
    let user = opened
        .iter()
        .position(|(kind, ..)| *kind == CloneFlags::CLONE_NEWUSER);
    let user = user.map(|at| opened.remove(at));
    let mut later = Vec::new();
    for (kind, path, file) in opened {
        match setns(&file, kind) {
            Err(Errno::EPERM) if user.is_some() => later.push((kind, path, file)),
            done => done.during(|| step(path))?,
        }
    }
    for (kind, path, file) in user.into_iter().chain(later) {
        setns(&file, kind).during(|| step(path))?;
    }
    Ok(())
}

fn step(path: &Path) -> String {
    format!("join namespace {path:?}")
}

/// Namespaces every container has, and where `/proc` shows them.
const USUAL: [(CloneFlags, &str); 6] = [
    (CloneFlags::CLONE_NEWNS, "mnt"),
    (CloneFlags::CLONE_NEWPID, "pid"),
    (CloneFlags::CLONE_NEWNET, "net"),
    (CloneFlags::CLONE_NEWIPC, "ipc"),
    (CloneFlags::CLONE_NEWUTS, "uts"),
    (CloneFlags::CLONE_NEWCGROUP, "cgroup"),
];

/// Joins every namespace of a container by its first process. Root of a user namespace may not join those of the
/// host, not even those he is in: then only those are joined that the container does not share with us.
pub fn join_running(
    process: BorrowedFd<'_>,
    pid: Pid,
    more: CloneFlags,
    keeps_groups: bool,
) -> Result<(), InitError> {
    let usual = USUAL.iter().map(|(kind, _)| *kind).collect::<CloneFlags>();
    let joined = match setns(process, usual | more) {
        Err(Errno::EPERM) => setns(process, others(pid) | more),
        done => done,
    };
    joined.during(|| "join the container's namespaces".into())?;
    if more.contains(CloneFlags::CLONE_NEWUSER) {
        become_root(keeps_groups)?;
    }
    Ok(())
}

/// Which of a process's namespaces are not ours.
fn others(pid: Pid) -> CloneFlags {
    let at = |process: &str, name: &str| fs::read_link(format!("/proc/{process}/ns/{name}")).ok();
    let differs = |name: &str| at("self", name) != at(&pid.to_string(), name);
    let others = USUAL.iter().filter(|(_, name)| differs(name));
    others.map(|(kind, _)| *kind).collect()
}

/// Becomes the root of the user namespace this process is in, which may have none.
pub fn become_root(keeps_groups: bool) -> Result<(), InitError> {
    let absent = |done: nix::Result<()>| match done {
        // EINVAL: id 0 is not mapped. EPERM: setgroups is denied in this namespace.
        Err(Errno::EINVAL | Errno::EPERM) => Ok(()),
        other => other,
    };
    let (user, group) = (Uid::from_raw(0), Gid::from_raw(0));
    let step = || "become root of the user namespace".to_owned();
    if !keeps_groups {
        absent(setgroups(&[])).during(step)?;
    }
    absent(setresgid(group, group, group)).during(step)?;
    absent(setresuid(user, user, user)).during(step)
}

/// Makes a time namespace for the children to come, whose clocks are set while nobody is in it.
pub fn make_time(offsets: &str) -> Result<(), InitError> {
    unshare(CLONE_NEWTIME).during(|| "make a time namespace".into())?;
    if offsets.is_empty() {
        return Ok(());
    }
    in_sight(|| fs::write("/proc/self/timens_offsets", offsets))
        .map_err(|e| io::Error::new(e.kind(), format!("{e} (offsets {offsets:?})")))
        .during(|| "set the clocks of the time namespace".into())
}

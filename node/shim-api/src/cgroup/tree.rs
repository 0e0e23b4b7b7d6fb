//! The directories themselves: making, listing, killing, removing.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill as send};
use nix::unistd::Pid;

use super::{Cgroup, CgroupError, Leg, freezer, read, write};

/// v2 controllers handed down to containers where the host has them.
const HANDED_DOWN: [&str; 7] = ["cpu", "cpuset", "memory", "pids", "io", "hugetlb", "rdma"];

/// Mostly only the last directory is missing; on v2 the way down is walked for the controllers. Notes what it has `made`.
pub(super) fn create(leg: &Leg, made: &mut Vec<PathBuf>) -> Result<(), CgroupError> {
    let cpuset = leg.controllers.iter().any(|c| c == "cpuset");
    if !leg.is_unified() && !cpuset && fs::create_dir(&leg.dir).is_ok() {
        made.push(leg.dir.clone());
        return Ok(());
    }
    let mut at = leg.mount.clone();
    let below = leg.dir.strip_prefix(&leg.mount).unwrap_or(Path::new(""));
    for part in below {
        if leg.is_unified() {
            hand_down(&at);
        }
        let parent = at.clone();
        at.push(part);
        if make(&at)? {
            made.push(at.clone());
        }
        if cpuset {
            inherit_cpuset(&parent, &at)?;
        }
    }
    Ok(())
}

/// `false` for one that is there.
fn make(dir: &Path) -> Result<bool, CgroupError> {
    match fs::create_dir(dir) {
        Ok(()) => Ok(true),
        Err(source) if source.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(source) => Err(CgroupError::Create {
            path: dir.into(),
            source,
        }),
    }
}

/// Enables each controller for the children, one by one: one that cannot be (EBUSY where processes are, in a
/// container's own root) is only missed when a limit of it is asked for, and is named then.
fn hand_down(dir: &Path) {
    let have = fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
    let enabled = fs::read_to_string(dir.join("cgroup.subtree_control")).unwrap_or_default();
    let has = |list: &str, c: &str| list.split_whitespace().any(|w| w == c);
    for controller in HANDED_DOWN.iter().filter(|c| has(&have, c) && !has(&enabled, c)) {
        if let Err(error) = write(&dir.join("cgroup.subtree_control"), &format!("+{controller}")) {
            tracing::debug!(%error, "a cgroup controller is not handed down");
        }
    }
}

/// A new v1 cpuset is empty, and nothing can join an empty one.
fn inherit_cpuset(parent: &Path, dir: &Path) -> Result<(), CgroupError> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if read(&dir.join(file))?.trim().is_empty() {
            write(&dir.join(file), read(&parent.join(file))?.trim())?;
        }
    }
    Ok(())
}

/// Every process of the directory and those below; a directory that is gone has none.
pub(super) fn pids(dir: &Path) -> Result<Vec<u32>, CgroupError> {
    let text = match read(&dir.join("cgroup.procs")) {
        Err(CgroupError::Read { source, .. }) if gone(&source) => return Ok(Vec::new()),
        other => other?,
    };
    let mut all: Vec<u32> = text.lines().filter_map(|l| l.parse().ok()).collect();
    for child in children(dir)? {
        all.extend(pids(&child)?);
    }
    Ok(all)
}

fn gone(error: &std::io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

pub(super) fn children(dir: &Path) -> Result<Vec<PathBuf>, CgroupError> {
    let fail = |source| CgroupError::Read {
        path: dir.into(),
        source,
    };
    let entries = match fs::read_dir(dir) {
        Err(source) if gone(&source) => return Ok(Vec::new()),
        other => other.map_err(fail)?,
    };
    let mut out = Vec::new();
    for entry in entries {
        let entry = entry.map_err(fail)?;
        if entry.file_type().map_err(fail)?.is_dir() {
            out.push(entry.path());
        }
    }
    Ok(out)
}

/// Removes a tree of cgroups bottom up; `false` when one is still in use.
pub(super) fn remove(dir: &Path) -> Result<bool, CgroupError> {
    // Mostly there is nothing below.
    if fs::remove_dir(dir).is_ok() {
        return Ok(true);
    }
    for child in children(dir)? {
        if !remove(&child)? {
            return Ok(false);
        }
    }
    match fs::remove_dir(dir) {
        Ok(()) => Ok(true),
        Err(source) if gone(&source) => Ok(true),
        Err(source) if source.kind() == ErrorKind::ResourceBusy => Ok(false),
        Err(source) => Err(CgroupError::Remove {
            path: dir.into(),
            source,
        }),
    }
}

/// `cgroup.kill` where the kernel has it (5.14); else everything is frozen, signalled and thawed, until none is left.
pub(super) fn kill(cgroup: &Cgroup, turns: usize) -> Result<(), CgroupError> {
    if let Some(file) = cgroup
        .unified_dir()
        .map(|d| d.join("cgroup.kill"))
        .filter(|f| f.exists())
    {
        return match write(&file, "1") {
            // Who makes it removed it meanwhile: nobody is in it.
            Err(CgroupError::Write { source, .. }) if gone(&source) => Ok(()),
            other => other,
        };
    }
    for _ in 0..turns {
        let found = cgroup.pids()?;
        if found.is_empty() {
            return Ok(());
        }
        let frozen = freezer::stop_soon(cgroup);
        for pid in cgroup.pids()? {
            // A process that is gone meanwhile (ESRCH) is what we want.
            let _ = send(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        }
        if frozen.is_ok() {
            freezer::thaw(cgroup)?;
        }
    }
    Ok(())
}

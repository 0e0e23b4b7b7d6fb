//! Writing the maps of a user namespace without the right to map any id: one's own by oneself, subordinate ones by the
//! helpers of the `uidmap` package (user_namespaces(7), newuidmap(1)).

use std::fs;
use std::io;
use std::process::Command;

use nix::unistd::{Gid, Pid, Uid};

use super::subordinate::find;
use crate::id_map::{IdMaps, Range};

/// Why ids were not mapped.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("{0} is not installed; Debian has it in the package uidmap")]
    NoHelper(&'static str),
    #[error("{helper}: {said}")]
    Helper { helper: &'static str, said: String },
}

/// Writes the maps of a process that waits in a namespace it has just made.
pub fn write_maps(maps: &IdMaps, pid: Pid) -> Result<(), MapError> {
    if Uid::effective().is_root() {
        return Ok(maps.write(pid)?);
    }
    if is_only(&maps.users, Uid::effective().as_raw()) && is_only(&maps.groups, Gid::effective().as_raw()) {
        // Without this no group is mapped: a process could leave a group that takes rights away.
        fs::write(format!("/proc/{pid}/setgroups"), "deny")?;
        return Ok(maps.write(pid)?);
    }
    by_helper("newuidmap", &maps.users, pid)?;
    by_helper("newgidmap", &maps.groups, pid)
}

/// One id alone, the user's own, which the kernel lets him map himself.
pub fn is_only(ranges: &[Range], own: u32) -> bool {
    matches!(ranges, [range] if range.size == 1 && range.outside == own)
}

fn by_helper(helper: &'static str, ranges: &[Range], pid: Pid) -> Result<(), MapError> {
    let program = find(helper).ok_or(MapError::NoHelper(helper))?;
    let numbers = ranges.iter().flat_map(|r| [r.inside, r.outside, r.size]);
    let output = Command::new(program)
        .arg(pid.to_string())
        .args(numbers.map(|n| n.to_string()))
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(MapError::Helper { helper, said })
}

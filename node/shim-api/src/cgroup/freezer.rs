//! Stopping processes: v2's `cgroup.freeze`, which hybrid hosts have too, else v1's controller.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Cgroup, CgroupError, read, write};

/// Attempts to see processes stopped that are to be killed; each takes one scheduling round.
const TRIES: usize = 500;

/// How a host stops processes.
enum Freezer {
    /// The cgroup's directory.
    V2(PathBuf),
    /// The file of the state.
    V1(PathBuf),
}

fn of(cgroup: &Cgroup) -> Result<Freezer, CgroupError> {
    let v2 = cgroup
        .unified_dir()
        .filter(|dir| dir.join("cgroup.freeze").exists());
    let v1 = cgroup.v1_dir("freezer").map(|dir| dir.join("freezer.state"));
    match (v2, v1) {
        (Some(dir), _) => Ok(Freezer::V2(dir.into())),
        (None, Some(file)) => Ok(Freezer::V1(file)),
        (None, None) => Err(CgroupError::NoController("freezer")),
    }
}

/// Tells them to, and answers whether all have. v1 is told anew each time: who is forked meanwhile may have been missed.
pub(super) fn stop(cgroup: &Cgroup) -> Result<bool, CgroupError> {
    match of(cgroup)? {
        Freezer::V2(dir) => {
            write(&dir.join("cgroup.freeze"), "1")?;
            Ok(read(&dir.join("cgroup.events"))?
                .lines()
                .any(|line| line == "frozen 1"))
        }
        Freezer::V1(file) => {
            write(&file, "FROZEN")?;
            Ok(read(&file)?.trim() == "FROZEN")
        }
    }
}

/// The same of those who are to be killed: what does not stop is met all the same, as long as it makes no others.
pub(super) fn stop_soon(cgroup: &Cgroup) -> Result<(), CgroupError> {
    for _ in 0..TRIES {
        if stop(cgroup)? {
            break;
        }
        std::thread::yield_now();
    }
    Ok(())
}

pub(super) fn thaw(cgroup: &Cgroup) -> Result<(), CgroupError> {
    match of(cgroup)? {
        Freezer::V2(dir) => write(&dir.join("cgroup.freeze"), "0"),
        Freezer::V1(file) => write(&file, "THAWED"),
    }
}

pub(super) fn is_frozen(cgroup: &Cgroup) -> bool {
    let asked = |dir: Option<&Path>, file: &str| dir.and_then(|d| fs::read_to_string(d.join(file)).ok());
    match asked(cgroup.unified_dir(), "cgroup.freeze") {
        Some(text) => text.trim() == "1",
        None => asked(cgroup.v1_dir("freezer"), "freezer.state").is_some_and(|text| text.trim() != "THAWED"),
    }
}

//! What a shim without root leaves in a bundle, by which what is left of its container is found when the shim has died:
//! there may be no cgroup that holds it, and where it is depends on where the shim was.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use amphipod_shim_api::cgroup::{Cgroup, CgroupError};
use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::confine::recorded;
use crate::processes::{signal, started_at};
use amphipod_shim_api::files::replace;

const FILE: &str = "rootless.json";

/// Where a container is. Its process is 0 while there is only a cgroup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    pid: i32,
    /// In ticks since the host's start (proc_pid_stat(5), field 22).
    started: u64,
    /// Empty for none.
    cgroup: String,
}

/// Why it could not be written, read or followed.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    #[error("the process ended before it could be written down")]
    Vanished,
    #[error("cannot write down where the container is, in {path:?}: {source}")]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot read where the container is, from {path:?}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot end what is left of the container: {0}")]
    Kill(Errno),
}

impl Trace {
    /// Of a container that has no process yet.
    pub fn of_cgroup(cgroup: &str) -> Self {
        Self {
            pid: 0,
            started: 0,
            cgroup: cgroup.to_owned(),
        }
    }

    pub fn of(pid: u32, cgroup: &str) -> Result<Self, TraceError> {
        let pid = pid.cast_signed();
        let started = started_at(pid).ok_or(TraceError::Vanished)?;
        let cgroup = cgroup.to_owned();
        Ok(Self { pid, started, cgroup })
    }

    pub fn save(&self, bundle: &Path) -> Result<(), TraceError> {
        let path = bundle.join(FILE);
        let written = serde_json::to_vec(self)
            .map_err(io::Error::other)
            .and_then(|text| replace(&path, &text));
        written.map_err(|source| TraceError::Write { path, source })
    }

    /// Nothing where none was left.
    pub fn load(bundle: &Path) -> Result<Option<Self>, TraceError> {
        let path = bundle.join(FILE);
        let read = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.and_then(|text| serde_json::from_slice(&text).map_err(io::Error::other)),
        };
        read.map(Some).map_err(|source| TraceError::Read { path, source })
    }

    /// Kills the container's first process if it is still that one, and with it, where it has one, its PID namespace. `false`
    /// where it was gone.
    pub fn kill(&self) -> Result<bool, TraceError> {
        if self.pid == 0 {
            return Ok(false);
        }
        match signal(self.pid, self.started, libc::SIGKILL) {
            Ok(()) => Ok(true),
            Err(Errno::ESRCH) => Ok(false),
            Err(errno) => Err(TraceError::Kill(errno)),
        }
    }

    pub fn cgroup(&self) -> Result<Cgroup, CgroupError> {
        recorded(&self.cgroup)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_of_another_start_is_left_alone() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(Trace::load(home.path()).unwrap(), None);
        let early = Trace::of_cgroup("/a/b");
        early.save(home.path()).unwrap();
        assert_eq!(Trace::load(home.path()).unwrap().as_ref(), Some(&early));
        assert!(!early.kill().unwrap());
        let mut child = std::process::Command::new("/bin/sleep")
            .arg("1000")
            .spawn()
            .unwrap();
        let trace = Trace::of(child.id(), "").unwrap();
        trace.save(home.path()).unwrap();
        let mut other = Trace::load(home.path()).unwrap().unwrap();
        assert_eq!(other, trace);
        other.started += 1;
        assert!(!other.kill().unwrap());
        assert_eq!(child.try_wait().unwrap(), None);
        assert!(trace.kill().unwrap());
        assert!(!child.wait().unwrap().success());
        assert!(trace.cgroup().unwrap().is_none());
    }
}

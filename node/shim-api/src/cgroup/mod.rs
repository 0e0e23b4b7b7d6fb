//! Control groups on v1, hybrid and v2 hosts behind one set of calls: create, limit, join, count, freeze, kill, remove.
//!
//! Owns file names and their formats. Refuses to know what a cgroup is for. Device rules on v2 are programs, not
//! files: the runtime that has them attaches them itself (to [`Cgroup::unified_dir`]).

mod changes;
mod freezer;
mod limits;
mod more_limits;
mod mounts;
mod oom_watch;
mod own;
mod realtime;
mod stats;
mod tree;
mod usage;

pub use limits::Limits;
pub use more_limits::MoreLimits;
pub use mounts::CgroupHost;
pub use oom_watch::OomWatch;
use usage::Files;
pub use usage::{Cpu, Io, Meter, Usage};

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a cgroup may stay busy after its processes were killed; the kernel frees them within milliseconds.
const REMOVE_LIMIT: Duration = Duration::from_secs(10);
/// How often a busy cgroup is tried again: v1 has no event for its end.
const REMOVE_STEP: Duration = Duration::from_millis(2);
/// How long processes may take to stop, as with runc: one in the kernel on behalf of a device may take that.
const FREEZE_LIMIT: Duration = Duration::from_secs(2);
/// How often they are looked at until they have.
const FREEZE_STEP: Duration = Duration::from_millis(2);
/// How often everything is killed anew while processes are still being forked (each turn freezes them first).
const KILL_TURNS: usize = 16;

/// What processes are moved by.
const PROCESSES: &str = "cgroup.procs";
/// The same for threads, on v1.
const THREADS: &str = "tasks";

/// A cgroup call that failed, with the file.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error("cannot read {path:?}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {value:?} to {path:?}: {source}")]
    Write {
        path: PathBuf,
        value: String,
        source: io::Error,
    },
    #[error("cannot create cgroup {path:?}: {source}")]
    Create { path: PathBuf, source: io::Error },
    #[error("cannot remove cgroup {path:?}: {source}")]
    Remove { path: PathBuf, source: io::Error },
    #[error("cgroup {path:?} was still in use after {limit:?}")]
    Busy { path: PathBuf, limit: Duration },
    #[error("cgroup path {0:?} must not be empty or leave the hierarchy")]
    BadPath(String),
    #[error("no cgroup hierarchy is mounted on this host; mount cgroup2 on /sys/fs/cgroup")]
    NoHierarchy,
    #[error("{0} cannot be limited: its cgroup controller is not available on this host")]
    NoController(&'static str),
    #[error("memory and swap together cannot be limited without a limit of memory")]
    SwapAlone,
    #[error("memory and swap together cannot be limited to {sum} bytes: memory alone may be {memory}")]
    LessThanMemory { sum: i64, memory: i64 },
    #[error("{what} cannot be limited to {limit} bytes: {used} are used")]
    InUse {
        what: &'static str,
        limit: u64,
        used: u64,
    },
    #[error("not all processes in the cgroup {path:?} stopped within {limit:?}")]
    NotStopped { path: PathBuf, limit: Duration },
}

/// One hierarchy a cgroup has a directory in.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Leg {
    /// The v1 controllers of the hierarchy; empty for v2.
    controllers: Vec<String>,
    mount: PathBuf,
    dir: PathBuf,
}

impl Leg {
    fn is_unified(&self) -> bool {
        self.controllers.is_empty()
    }
}

/// A cgroup of one path in every hierarchy; it need not exist.
#[derive(Debug, Clone)]
pub struct Cgroup {
    legs: Vec<Leg>,
    /// Controllers live in the v2 hierarchy (else that leg is only for killing and freezing).
    v2_controllers: bool,
}

impl Cgroup {
    /// No cgroup at all: what can be done without one does nothing, limits are refused.
    pub fn none() -> Self {
        Self {
            legs: Vec::new(),
            v2_controllers: false,
        }
    }

    pub fn is_none(&self) -> bool {
        self.legs.is_empty()
    }

    /// The directory in the v2 hierarchy, if one is mounted (on hybrid hosts too).
    pub fn unified_dir(&self) -> Option<&Path> {
        self.legs.iter().find(|l| l.is_unified()).map(|l| l.dir.as_path())
    }

    /// The directory in the hierarchy of a v1 controller, if mounted.
    pub fn v1_dir(&self, controller: &str) -> Option<&Path> {
        self.legs
            .iter()
            .find(|l| l.controllers.iter().any(|c| c == controller))
            .map(|l| l.dir.as_path())
    }

    /// Each hierarchy's directory, with the name it is usually mounted under (`cpu,cpuacct`, `systemd`, `unified`).
    pub fn directories(&self) -> impl Iterator<Item = (String, &Path)> {
        self.legs.iter().map(|leg| {
            let joined = leg.controllers.join(",");
            let name = match joined.strip_prefix("name=") {
                _ if leg.is_unified() => "unified".to_owned(),
                Some(name) => name.to_owned(),
                None => joined,
            };
            (name, leg.dir.as_path())
        })
    }

    /// True when limits are set by v2 files.
    pub fn is_v2(&self) -> bool {
        self.v2_controllers
    }

    /// Makes the directories, with controllers enabled on the way down. An existing cgroup is no error; after one, what was
    /// made is gone.
    pub fn create(&self) -> Result<(), CgroupError> {
        let mut made = Vec::new();
        let created = self.legs.iter().try_for_each(|leg| tree::create(leg, &mut made));
        if created.is_err() {
            for dir in made.iter().rev() {
                // EBUSY: somebody else is in it by now.
                let _ = fs::remove_dir(dir);
            }
        }
        created
    }

    /// Sets every limit that is given; others stay.
    pub fn apply(&self, limits: &Limits) -> Result<(), CgroupError> {
        limits::apply(self, limits)
    }

    /// What [`Cgroup::apply`] is to set where an update asks for this: v2 cannot leave half of a file as it is. Refuses what
    /// says nothing on v2, and takes no memory that is used where that is asked for.
    pub fn changes(&self, asked: &Limits) -> Result<Limits, CgroupError> {
        changes::changes(self, asked)
    }

    /// As [`Cgroup::apply`] of what [`Cgroup::changes`] answers; where one of the limits is refused, the others are as they
    /// were.
    pub fn change(&self, limits: &Limits) -> Result<(), CgroupError> {
        changes::change(self, limits)
    }

    /// Makes the cgroup where real time of processors is asked for, and gives the one above it, which must be ours, room for
    /// that.
    pub fn make_realtime_room(&self, limits: &Limits) -> Result<(), CgroupError> {
        realtime::make_room(self, limits)
    }

    /// Moves a process into the cgroup.
    pub fn join(&self, pid: u32) -> Result<(), CgroupError> {
        self.legs
            .iter()
            .try_for_each(|leg| write(&leg.dir.join(PROCESSES), &pid.to_string()))
    }

    /// Moves the calling process, which must be a single thread.
    pub fn enter(&self) -> Result<(), CgroupError> {
        if let Some(dir) = self.unified_dir() {
            write(&dir.join(PROCESSES), "0")?;
        }
        self.enter_v1()
    }

    /// As [`Cgroup::enter`] for a process made by `CLONE_INTO_CGROUP` in [`Cgroup::unified_dir`] already. On v1 it moves as a
    /// thread: then the kernel need not wait until nobody on the host is being forked or is ending, which takes some
    /// milliseconds (`cgroup_threadgroup_rwsem`).
    pub fn enter_v1(&self) -> Result<(), CgroupError> {
        let mut v1 = self.legs.iter().filter(|l| !l.is_unified());
        v1.try_for_each(|leg| write(&leg.dir.join(THREADS), "0"))
    }

    /// The processes in the cgroup and below it.
    pub fn pids(&self) -> Result<Vec<u32>, CgroupError> {
        match self.legs.iter().find(|l| l.is_unified()).or(self.legs.first()) {
            Some(leg) => tree::pids(&leg.dir),
            None => Err(CgroupError::NoHierarchy),
        }
    }

    /// What the cgroup uses now.
    pub fn stats(&self) -> Result<crate::TaskStats, CgroupError> {
        stats::read_stats(self)
    }

    /// The same in full.
    pub fn usage(&self) -> Result<Usage, CgroupError> {
        usage::read(self)
    }

    /// How many processes of the cgroup the kernel killed for memory; none of one that is gone.
    pub fn oom_kills(&self) -> Result<u64, CgroupError> {
        Ok(self.known_oom_kills()?.unwrap_or(0))
    }

    /// The same, where the cgroup is there to tell it.
    pub fn known_oom_kills(&self) -> Result<Option<u64>, CgroupError> {
        stats::oom_kills(self)
    }

    /// Stops every process, and waits until they all have, as long as they are `still` to; else they go on.
    pub async fn freeze(&self, still: impl Fn() -> bool) -> Result<(), CgroupError> {
        let deadline = tokio::time::Instant::now() + FREEZE_LIMIT;
        while !self.try_freeze()? {
            tokio::time::sleep(FREEZE_STEP).await;
            if !still() || tokio::time::Instant::now() > deadline {
                return Err(self.not_stopped());
            }
        }
        Ok(())
    }

    /// As [`Cgroup::freeze`] for a program without an event loop.
    pub fn freeze_waiting(&self) -> Result<(), CgroupError> {
        let deadline = std::time::Instant::now() + FREEZE_LIMIT;
        while !self.try_freeze()? {
            if std::time::Instant::now() > deadline {
                return Err(self.not_stopped());
            }
            std::thread::park_timeout(FREEZE_STEP);
        }
        Ok(())
    }

    /// Tells the processes to stop; `false` when some have not yet. Where even that cannot be told they go on.
    fn try_freeze(&self) -> Result<bool, CgroupError> {
        freezer::stop(self).inspect_err(|_| drop(self.thaw()))
    }

    /// Lets every process go on.
    pub fn thaw(&self) -> Result<(), CgroupError> {
        freezer::thaw(self)
    }

    fn not_stopped(&self) -> CgroupError {
        self.thaw().err().unwrap_or_else(|| CgroupError::NotStopped {
            path: self.legs.first().map(|l| l.dir.clone()).unwrap_or_default(),
            limit: FREEZE_LIMIT,
        })
    }

    /// Whether it was told to stop its processes; one that is not there was not.
    pub fn is_frozen(&self) -> bool {
        freezer::is_frozen(self)
    }

    /// Kills every process in the cgroup and below it. They may still be dying when this returns.
    pub fn kill(&self) -> Result<(), CgroupError> {
        tree::kill(self, KILL_TURNS)
    }

    /// Removes the cgroup and what is below it; `false` when processes are still in it.
    pub fn try_remove(&self) -> Result<bool, CgroupError> {
        for leg in &self.legs {
            if !tree::remove(&leg.dir)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Removes the cgroup, waiting for killed processes to be gone.
    pub async fn remove(&self) -> Result<(), CgroupError> {
        let attempt = async {
            while !self.try_remove()? {
                tokio::time::sleep(REMOVE_STEP).await;
            }
            Ok(())
        };
        match tokio::time::timeout(REMOVE_LIMIT, attempt).await {
            Ok(done) => done,
            Err(_) => Err(self.busy()),
        }
    }

    /// As [`Cgroup::remove`] for a program without an event loop.
    pub fn remove_waiting(&self) -> Result<(), CgroupError> {
        let deadline = std::time::Instant::now() + REMOVE_LIMIT;
        while !self.try_remove()? {
            if std::time::Instant::now() > deadline {
                return Err(self.busy());
            }
            std::thread::park_timeout(REMOVE_STEP);
        }
        Ok(())
    }

    fn busy(&self) -> CgroupError {
        CgroupError::Busy {
            path: self.legs.first().map(|l| l.dir.clone()).unwrap_or_default(),
            limit: REMOVE_LIMIT,
        }
    }

    /// Removes the cgroup above this one (a Pod's, say) when nothing is left in it. One in use stays, silently.
    pub fn remove_parent(&self) {
        for parent in self
            .legs
            .iter()
            .filter(|l| l.dir != l.mount)
            .filter_map(|l| l.dir.parent())
        {
            // EBUSY: another container is there. ENOENT: it was never made.
            let _ = fs::remove_dir(parent);
        }
    }

    /// True when the cgroup has a directory in any hierarchy.
    pub fn exists(&self) -> bool {
        self.legs.iter().any(|leg| leg.dir.is_dir())
    }
}

fn read(path: &Path) -> Result<String, CgroupError> {
    fs::read_to_string(path).map_err(|source| CgroupError::Read {
        path: path.into(),
        source,
    })
}

/// One write call: cgroup files take a value whole or not at all.
fn write(path: &Path, value: &str) -> Result<(), CgroupError> {
    let fail = |source| CgroupError::Write {
        path: path.into(),
        value: value.into(),
        source,
    };
    let mut file = fs::OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(path)
        .map_err(fail)?;
    io::Write::write_all(&mut file, value.as_bytes()).map_err(fail)
}

#[cfg(test)]
mod tests;

//! When a container's process gets the processor and the disk: scheduler, I/O priority, processors.

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::error::{During, InitError};
use crate::sys::scheduling::{set_io_priority, set_scheduler};

/// `struct sched_attr` of sched_setattr(2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scheduler {
    pub policy: u32,
    pub flags: u64,
    pub nice: i32,
    pub priority: u32,
    /// Nanoseconds, for `SCHED_DEADLINE`.
    pub runtime: u64,
    pub deadline: u64,
    pub period: u64,
}

/// What is asked for; nothing leaves what the runtime itself has.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Scheduling {
    pub scheduler: Option<Scheduler>,
    /// Class and level as ioprio_set(2) has them in one number.
    pub io_priority: Option<u16>,
    pub processors: Option<CpuSet>,
    /// Those of a process added to a container until it is in the container's cgroup.
    pub initial_processors: Option<CpuSet>,
}

/// Where this process may run.
pub fn set_processors(processors: &CpuSet) -> Result<(), InitError> {
    sched_setaffinity(Pid::from_raw(0), processors).during(|| "set execCPUAffinity".into())
}

/// Sets everything asked for on this process.
pub fn apply(asked: &Scheduling) -> Result<(), InitError> {
    if let Some(processors) = &asked.processors {
        set_processors(processors)?;
    }
    if let Some(scheduler) = asked.scheduler {
        set_scheduler(scheduler).during(|| format!("set the scheduler {scheduler:?}"))?;
    }
    if let Some(priority) = asked.io_priority {
        set_io_priority(priority).during(|| "set the I/O priority".into())?;
    }
    Ok(())
}

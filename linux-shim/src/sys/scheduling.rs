//! Calls about scheduling that no kept crate wraps.

use std::io;

use super::check;
use crate::init::memory::MemoryPolicy;
use crate::init::scheduling::Scheduler;

/// `IOPRIO_WHO_PROCESS` (linux/ioprio.h).
const WHO_PROCESS: libc::c_int = 1;

/// Sets the scheduler of the calling thread.
pub fn set_scheduler(scheduler: Scheduler) -> io::Result<()> {
    let attributes = libc::sched_attr {
        size: u32::try_from(size_of::<libc::sched_attr>()).map_err(io::Error::other)?,
        sched_policy: scheduler.policy,
        sched_flags: scheduler.flags,
        sched_nice: scheduler.nice,
        sched_priority: scheduler.priority,
        sched_runtime: scheduler.runtime,
        sched_deadline: scheduler.deadline,
        sched_period: scheduler.period,
    };
    // SAFETY: the structure lives through the call and tells its own size.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) }).map(drop)
}

/// Sets the I/O priority of the calling thread.
pub fn set_io_priority(priority: u16) -> io::Result<()> {
    // SAFETY: the call takes numbers only.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, libc::c_int::from(priority)) })
        .map(drop)
}

/// Sets the memory policy of the calling thread; without nodes, none are named.
pub fn set_memory_policy(policy: &MemoryPolicy) -> io::Result<()> {
    let none = policy.nodes.iter().all(|word| *word == 0);
    let (mask, bits) = if none {
        (std::ptr::null(), 0)
    } else {
        // The kernel takes one bit less than it is told.
        (policy.nodes.as_ptr(), policy.nodes.len() * 64 + 1)
    };
    // SAFETY: the mask lives through the call and has as many bits as are named.
    check(unsafe { libc::syscall(libc::SYS_set_mempolicy, policy.mode, mask, bits) }).map(drop)
}

//! Calls about scheduling that no kept crate wraps.

use std::io;

use super::check;
use crate::init::memory::MemoryPolicy;
use crate::init::scheduling::Scheduler;

/// `IOPRIO_WHO_PROCESS` (linux/ioprio.h).
const WHO_PROCESS: libc::c_int = 1;

/// `struct sched_attr` up to its first version (48 bytes), sched_setattr(2).
#[repr(C)]
struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Sets the scheduler of the calling thread.
pub fn set_scheduler(scheduler: Scheduler) -> io::Result<()> {
    let attributes = Attributes {
        size: u32::try_from(size_of::<Attributes>()).map_err(io::Error::other)?,
        policy: scheduler.policy,
        flags: scheduler.flags,
        nice: scheduler.nice,
        priority: scheduler.priority,
        runtime: scheduler.runtime,
        deadline: scheduler.deadline,
        period: scheduler.period,
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

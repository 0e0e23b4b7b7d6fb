//! Making a process in new namespaces and straight in its cgroup (`clone3`, Linux 5.7).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::unistd::Pid;

use super::check;

/// `CLONE_INTO_CGROUP` (linux/sched.h); wider than the C int libc has for it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
/// Exit code of a child that panicked; no caller reads it, the report socket says what happened.
const PANICKED: i32 = 255;

/// Why no process was made.
#[derive(Debug, thiserror::Error)]
pub enum CloneError {
    #[error(
        "this process has {0} threads; a child may run ordinary code only when forked from a single thread"
    )]
    Threads(usize),
    #[error("cannot count this process's threads: {0}")]
    Count(io::Error),
    #[error("clone3: {0}")]
    Clone(io::Error),
}

/// Proof that the calling process is a single thread. A forked child is one too, and gets its own.
#[derive(Debug)]
pub struct SingleThread(());

impl SingleThread {
    /// Counts the threads.
    pub fn check() -> Result<Self, CloneError> {
        match std::fs::read_dir("/proc/self/task")
            .map_err(CloneError::Count)?
            .count()
        {
            1 => Ok(Self(())),
            threads => Err(CloneError::Threads(threads)),
        }
    }
}

/// Runs `child` in a new process and answers its pid; the child exits with the answer of `child`.
///
/// `flags` are `CLONE_NEW*` and `CLONE_PARENT`. Because the caller is a single thread, the copy has a whole heap and
/// no lock held by a thread that does not exist there: the child may run any code.
pub fn spawn(
    _single: &SingleThread,
    flags: libc::c_int,
    cgroup: Option<BorrowedFd<'_>>,
    child: impl FnOnce(&SingleThread) -> i32,
) -> Result<Pid, CloneError> {
    // SAFETY: clone_args is plain integers; zero is its documented default for every field.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = u64::from(flags.cast_unsigned());
    if flags & libc::CLONE_PARENT == 0 {
        args.exit_signal = libc::SIGCHLD as u64;
    }
    if let Some(fd) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::from(fd.as_raw_fd().cast_unsigned());
    }
    // SAFETY: without CLONE_VM and without a stack this is fork(2): the child goes on with a copy of this stack.
    // The only thread makes the call, so no lock is held by another. The structure outlives the call.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of_val(&args)) };
    if pid == 0 {
        let code = catch_unwind(AssertUnwindSafe(|| child(&SingleThread(())))).unwrap_or(PANICKED);
        // SAFETY: _exit has no preconditions; unlike exit it runs nothing of the parent's in the copy.
        unsafe { libc::_exit(code) }
    }
    let pid = check(pid).map_err(CloneError::Clone)?;
    Ok(Pid::from_raw(
        i32::try_from(pid).map_err(|e| CloneError::Clone(io::Error::other(e)))?,
    ))
}

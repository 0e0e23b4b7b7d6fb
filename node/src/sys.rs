//! The node's only unsafe code. Owns system interfaces no crate offers safely; knows nothing of their use.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use nix::sched::CloneFlags;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Lets a task wait until a descriptor can be read. Must be called within a tokio runtime.
pub fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is open, is closed only when it is dropped, which the AsyncFd that owns it does
    // last, and always names the same descriptor.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(io::Error::from)
}

/// `CLONE_CLEAR_SIGHAND` (linux/sched.h, 5.5); wider than the C int libc has for it.
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;

/// A process that does nothing but to be in new namespaces, so that they are there until something else holds them. It
/// is killed when this is dropped, or when the thread that made it ends.
#[derive(Debug)]
pub struct Holder(Pid);

impl Holder {
    /// Makes the process in new namespaces of these kinds; those made together with a user namespace belong to it.
    pub fn new(namespaces: CloneFlags) -> io::Result<Self> {
        // SAFETY: clone_args is plain integers; zero is its documented default for every field.
        let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
        args.flags = u64::from(namespaces.bits().cast_unsigned()) | CLONE_CLEAR_SIGHAND;
        let parent = nix::unistd::getpid().as_raw();
        // SAFETY: without CLONE_VM and without a stack this is fork(2): the child goes on with a copy of this stack. Other
        // threads of this process are not in the child, whose memory may be in the middle of what they did; it
        // touches none of it: until its end it makes system calls only. The structure outlives the call.
        let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of_val(&args)) };
        if pid == 0 {
            // SAFETY: these are bare system calls, allowed in a child of a process with threads
            // (signal-safety(7)), and take no pointers.
            unsafe {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
                if libc::getppid() != parent {
                    libc::_exit(0);
                }
                loop {
                    libc::pause();
                }
            }
        }
        match libc::pid_t::try_from(pid) {
            Ok(pid) if pid > 0 => Ok(Self(Pid::from_raw(pid))),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// A file of the process in `/proc`.
    pub fn file(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.0))
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // It cannot have ended by itself, and nobody else waits for it.
        let _ = kill(self.0, Signal::SIGKILL);
        let _ = waitpid(self.0, Some(WaitPidFlag::__WALL));
    }
}

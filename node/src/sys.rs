//! The node's only unsafe code. Owns system interfaces no crate offers safely; knows nothing of their use.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

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

/// A detached copy of what is at `path`, without what is mounted below it.
///
/// # Errors
/// As `open_tree(2)` (Linux 5.2).
pub fn copy_mount(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let flags = libc::OPEN_TREE_CLONE | libc::O_CLOEXEC.cast_unsigned();
    // SAFETY: the path ends with NUL and lives through the call.
    let made = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
    match i32::try_from(made) {
        // SAFETY: the answer is a descriptor just made for us, nobody else owns it.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Attaches a detached copy on what `place` refers to.
///
/// # Errors
/// As `move_mount(2)` (Linux 5.2).
pub fn attach(copy: &OwnedFd, place: &OwnedFd) -> io::Result<()> {
    let empty = c"".as_ptr();
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
    let (from, to) = (copy.as_raw_fd(), place.as_raw_fd());
    // SAFETY: both paths are a static empty string.
    done(unsafe { libc::syscall(libc::SYS_move_mount, from, empty, to, empty, flags) })
}

/// Lets a detached copy show its owners by the maps of a user namespace.
///
/// # Errors
/// As `mount_setattr(2)` (Linux 5.12); `EINVAL` is for file systems that cannot do it.
pub fn map_owners(copy: &OwnedFd, users: &File) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::from(users.as_raw_fd().cast_unsigned()),
    };
    // SAFETY: the path is static, and the kernel reads one structure of the size it is told, which lives through the call.
    done(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            copy.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of_val(&attributes),
        )
    })
}

fn done(answer: libc::c_long) -> io::Result<()> {
    match answer {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
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

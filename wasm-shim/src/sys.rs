//! The only unsafe code of this crate: mapping compiled code, watching a listener, a thread's place among others, its
//! groups and its waking, and system calls for which libc has numbers but no functions: Landlock's (landlock(7)), and those
//! that copy and attach mounts.
#![allow(unsafe_code)]

use crate::program::cache::TrustedArtifact;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use wasmtime::component::Component;
use wasmtime::{Engine, Module, Precompiled};

/// Compiled code mapped into this process.
pub enum Mapped {
    Module(Module),
    Component(Component),
}

/// Maps compiled code. wasmtime refuses code of another version, target or configuration.
///
/// # Errors
/// When the file is no compiled artifact of this engine, or the engine's instance allocator cannot hold it.
pub fn map(engine: &Engine, artifact: &TrustedArtifact) -> wasmtime::Result<Mapped> {
    let path = artifact.path();
    match Engine::detect_precompiled_file(&path)? {
        // SAFETY: deserializing runs whatever machine code the file holds, so the file must have been written by
        // wasmtime and by nobody else. `TrustedArtifact` exists only for a regular file which this user owns and
        // nobody else may write, in a directory of the same kind; it is pinned by an open descriptor, and artifacts
        // are replaced by rename, never written in place, so the mapping cannot change under us.
        Some(Precompiled::Module) => Ok(Mapped::Module(unsafe { Module::deserialize_file(engine, path) }?)),
        // SAFETY: as above.
        Some(Precompiled::Component) => Ok(Mapped::Component(unsafe {
            Component::deserialize_file(engine, path)
        }?)),
        None => Err(wasmtime::format_err!("not a compiled artifact")),
    }
}

/// Has this runtime watch for clients of a listener, which are not accepted by that.
///
/// # Errors
/// When the kernel does not watch it.
pub fn watch(listener: TcpListener) -> io::Result<AsyncFd<TcpListener>> {
    // SAFETY: the descriptor must stay the same and open while it is watched: a listener owns its descriptor, and never
    // gives it away while it is borrowed, which is all that `AsyncFd` does until it is taken apart.
    Ok(unsafe { AsyncFd::register_with_interest(listener, Interest::READABLE) }?)
}

/// Sets the nice value of one thread: Linux schedules threads, and `PRIO_PROCESS` takes a thread id.
///
/// # Errors
/// `EPERM` or `EACCES` without the right to raise a priority; `ESRCH` when the thread is gone.
pub fn set_thread_nice(thread: nix::unistd::Pid, nice: i32) -> nix::Result<()> {
    // SAFETY: setpriority takes three integers and touches no memory of ours.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, thread.as_raw() as libc::id_t, nice) };
    nix::errno::Errno::result(result).map(drop)
}

/// What wakes a thread of this process from a call in which it waits. By default it does nothing, wherever it comes from.
const WAKING: libc::c_int = libc::SIGURG;

/// From now on [`wake`] ends calls. Without a word such a signal is ignored, and calls go on.
///
/// # Errors
/// As `sigaction(2)`.
pub fn let_wake() -> nix::Result<()> {
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
    extern "C" fn nothing(_: libc::c_int) {}
    // Calls are not begun again: that is what the signal is for.
    let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
    let signal = Signal::try_from(WAKING)?;
    // SAFETY: the handler does nothing, which may be done at any time; nobody else in this process handles the signal.
    unsafe { sigaction(signal, &action) }.map(drop)
}

/// Has a call in which a thread of this process waits end with `EINTR`. One that waits in none goes on.
///
/// # Errors
/// `ESRCH` when the thread is gone.
pub fn wake(thread: nix::unistd::Pid) -> io::Result<()> {
    let process = nix::unistd::getpid();
    // SAFETY: the call takes numbers only; the signal's handler does nothing.
    checked(unsafe { libc::syscall(libc::SYS_tgkill, process.as_raw(), thread.as_raw(), WAKING) }).map(drop)
}

/// Asks for slices of this length for the calling thread: it gets as much of the processor, in pieces of another size.
/// Who wakes with shorter ones takes over from who has longer ones (`sched_setattr(2)`; Linux 6.12 and later).
///
/// # Errors
/// `EINVAL` or `ENOSYS` where the kernel has no such thing.
pub fn set_slice(slice: std::time::Duration) -> io::Result<()> {
    let size = size_of::<libc::sched_attr>() as u32;
    let mut attributes = libc::sched_attr {
        size,
        sched_policy: 0,
        sched_flags: 0,
        sched_nice: 0,
        sched_priority: 0,
        sched_runtime: 0,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the kernel writes at most `size` bytes of a structure that lives through the call.
    checked(unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) })?;
    attributes.size = size;
    attributes.sched_runtime = u64::try_from(slice.as_nanos()).map_err(io::Error::other)?;
    // SAFETY: the kernel reads `size` bytes of a structure that lives through the call.
    checked(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) }).map(drop)
}

/// Gives the calling thread a group, and no other thread: the C library's functions would ask it of all (nptl(7)).
///
/// # Errors
/// As `setresgid(2)`: `EPERM` without the capability.
pub fn set_thread_group(gid: u32) -> io::Result<()> {
    // SAFETY: the call takes numbers only.
    checked(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) }).map(drop)
}

/// The same for the groups beside that.
///
/// # Errors
/// As `setgroups(2)`: `EPERM` without the capability, and where a user namespace forbids it.
pub fn set_thread_groups(groups: &[u32]) -> io::Result<()> {
    // SAFETY: the kernel reads as many numbers as it is told there are, from a slice that lives through the call.
    checked(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) }).map(drop)
}

/// Which mount a directory is seen through; `None` where the kernel does not say (before Linux 5.8).
///
/// # Errors
/// As `statx(2)`.
pub fn mount_of(directory: BorrowedFd<'_>) -> io::Result<Option<u64>> {
    let mut seen = std::mem::MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the kernel reads a static text, and writes to a structure that lives through the call.
    let result = unsafe {
        libc::statx(
            directory.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_MNT_ID,
            seen.as_mut_ptr(),
        )
    };
    checked(result.into())?;
    // SAFETY: all its fields are numbers, for which zero is a value.
    let seen = unsafe { seen.assume_init() };
    Ok((seen.stx_mask & libc::STATX_MNT_ID != 0).then_some(seen.stx_mnt_id))
}

/// The version of Landlock that this kernel has.
///
/// # Errors
/// `ENOSYS` or `EOPNOTSUPP` where there is none.
pub fn landlock_version() -> io::Result<u32> {
    const VERSION: libc::c_uint = 1;
    let nothing: *const libc::c_void = std::ptr::null();
    // SAFETY: with this flag the kernel reads nothing.
    let version = checked(unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, nothing, 0, VERSION) })?;
    u32::try_from(version).map_err(io::Error::other)
}

/// `struct landlock_ruleset_attr`; older kernels take it when what they do not know is zero.
#[derive(Default)]
#[repr(C)]
pub struct RulesetAttributes {
    pub files: u64,
    pub network: u64,
    pub scope: u64,
}

/// Makes a set of rules which forbids what it names.
///
/// # Errors
/// As `landlock_create_ruleset(2)`.
pub fn landlock_ruleset(attributes: &RulesetAttributes) -> io::Result<OwnedFd> {
    let size = size_of::<RulesetAttributes>();
    // SAFETY: the kernel reads `size` bytes of a structure that lives through the call.
    let made = checked(unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::from_ref(attributes),
            size,
            0,
        )
    })?;
    let fd = i32::try_from(made).map_err(io::Error::other)?;
    // SAFETY: the answer is a descriptor just made for us, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A detached copy of what is at `path` below `dir`, `dir` itself if it is empty, with what is mounted below it if `whole`.
///
/// # Errors
/// As `open_tree(2)` (Linux 5.2).
pub fn clone_mounts(dir: Option<BorrowedFd<'_>>, path: &Path, whole: bool) -> io::Result<OwnedFd> {
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    let dir = dir.map_or(libc::AT_FDCWD, |dir| dir.as_raw_fd());
    let mut flags =
        libc::OPEN_TREE_CLONE | libc::O_CLOEXEC.cast_unsigned() | libc::AT_EMPTY_PATH.cast_unsigned();
    if whole {
        flags |= libc::AT_RECURSIVE.cast_unsigned();
    }
    // SAFETY: the path ends with NUL and lives through the call.
    let made = checked(unsafe { libc::syscall(libc::SYS_open_tree, dir, path.as_ptr(), flags) })?;
    let fd = i32::try_from(made).map_err(io::Error::other)?;
    // SAFETY: the answer is a descriptor just made for us, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
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
    checked(unsafe { libc::syscall(libc::SYS_move_mount, from, empty, to, empty, flags) }).map(drop)
}

/// What can become of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MountChange {
    ReadOnly,
    /// What is mounted elsewhere does not appear below it.
    Private,
}

/// Changes a mount, and those below it if `whole`.
///
/// # Errors
/// As `mount_setattr(2)` (Linux 5.12).
pub fn change_mount(mount: &OwnedFd, change: MountChange, whole: bool) -> io::Result<()> {
    let (attributes, propagation) = match change {
        MountChange::ReadOnly => (libc::MOUNT_ATTR_RDONLY, 0),
        MountChange::Private => (0, libc::MS_PRIVATE),
    };
    let attributes = libc::mount_attr {
        attr_set: attributes,
        attr_clr: 0,
        propagation,
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH | if whole { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is static, and the kernel reads one structure of the size it is told, which lives through the call.
    checked(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of_val(&attributes),
        )
    })
    .map(drop)
}

/// Allows `rights` for everything beneath a directory.
///
/// # Errors
/// As `landlock_add_rule(2)`.
pub fn landlock_allow(ruleset: &OwnedFd, beneath: BorrowedFd<'_>, rights: u64) -> io::Result<()> {
    #[repr(C, packed)]
    struct PathBeneath {
        rights: u64,
        parent: i32,
    }
    const PATH_BENEATH: libc::c_uint = 1;
    let rule = PathBeneath {
        rights,
        parent: beneath.as_raw_fd(),
    };
    let ruleset = ruleset.as_raw_fd();
    // SAFETY: the kernel reads one structure, which lives through the call.
    checked(unsafe {
        libc::syscall(
            libc::SYS_landlock_add_rule,
            ruleset,
            PATH_BENEATH,
            &raw const rule,
            0,
        )
    })
    .map(drop)
}

/// Holds the calling thread, and those it will start, to a set of rules.
///
/// # Errors
/// As `landlock_restrict_self(2)`: without `no_new_privs`, say.
pub fn landlock_restrict(ruleset: &OwnedFd) -> io::Result<()> {
    // SAFETY: the call takes numbers only.
    checked(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) }).map(drop)
}

fn checked(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Maps a page that could be run, and lets go of it.
#[cfg(test)]
pub fn map_executable() -> nix::Result<()> {
    use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};
    let length = std::num::NonZeroUsize::MIN.saturating_add(4095);
    let code = ProtFlags::PROT_READ | ProtFlags::PROT_EXEC;
    // SAFETY: without an address the mapping takes nothing's place.
    let mapped = unsafe { mmap_anonymous(None, length, code, MapFlags::MAP_PRIVATE) }?;
    // SAFETY: it is the mapping just made, which nothing refers to.
    unsafe { munmap(mapped, length.get()) }
}

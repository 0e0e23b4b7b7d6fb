//! Small calls on the process itself.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use seccompiler::BpfProgramRef;

use super::check;
use super::clone::SingleThread;

/// Puts every signal back to its default action and unblocks all: Rust ignores SIGPIPE, and what is ignored stays
/// ignored across `execve`.
pub fn reset_signals() -> io::Result<()> {
    for signal in 1..=libc::SIGRTMAX() {
        if signal == libc::SIGKILL || signal == libc::SIGSTOP {
            continue;
        }
        // SAFETY: SIG_DFL installs no handler of ours. The two real-time signals glibc keeps answer EINVAL.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: an all-zero set is filled by sigemptyset before it is used.
    let done = unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut())
    };
    check(done.into()).map(drop)
}

/// Lets ended children vanish without being waited for (sigaction(2), "SIGCHLD").
pub fn ignore_children() -> io::Result<()> {
    // SAFETY: SIG_IGN installs no handler of ours.
    let before = unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    if before == libc::SIG_ERR {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Has `/proc/PID/cmdline` say only this of the calling process, where its arguments are long enough for it.
///
/// Meant for a forked child that reads its arguments no more: they are overwritten. A last byte that is not NUL tells the kernel so
/// (fs/proc/base.c, `get_mm_cmdline`), without any right.
pub fn set_command_line(_: &SingleThread, line: &CStr) -> io::Result<()> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (start, end) = arguments(&stat).ok_or_else(|| io::Error::other("/proc/self/stat cannot be read"))?;
    let line = line.to_bytes_with_nul();
    if end.saturating_sub(start) <= line.len() {
        return Ok(());
    }
    // SAFETY: the kernel says that the arguments of this process lie there, in its own writable stack. Nobody else writes or reads
    // them: there is one thread, and it does not look at its arguments again.
    let area = unsafe {
        std::slice::from_raw_parts_mut(std::ptr::with_exposed_provenance_mut::<u8>(start), end - start)
    };
    area.fill(0);
    area[..line.len()].copy_from_slice(line);
    area[end - start - 1] = 1;
    Ok(())
}

/// Where the arguments begin and end: fields 48 and 49 (proc_pid_stat(5)). The name, in brackets, may hold anything.
fn arguments(stat: &str) -> Option<(usize, usize)> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(48 - 3);
    let mut next = || fields.next()?.parse().ok();
    Some((next()?, next()?))
}

/// Marks every descriptor from `first` on to be closed by `execve`.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    close_range(first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC)
}

/// Closes every descriptor of this process from 3 on, but for those in `keep` and the first `preserved`.
///
/// Meant for a forked child that uses nothing it does not name: the owners of the closed descriptors live on
/// in memory and must not be dropped before the child exits or executes.
pub fn close_all_but(keep: &[BorrowedFd<'_>], preserved: u32) -> io::Result<()> {
    let mut first = 3 + preserved;
    let mut kept: Vec<u32> = keep
        .iter()
        .map(|fd| fd.as_raw_fd().cast_unsigned())
        .filter(|fd| *fd >= first)
        .collect();
    kept.sort_unstable();
    for fd in kept {
        if fd > first {
            close_range(first, fd - 1, 0)?;
        }
        first = fd + 1;
    }
    close_range(first, u32::MAX, 0)
}

fn close_range(first: u32, last: u32, flags: u32) -> io::Result<()> {
    // SAFETY: the call takes numbers only. Closing is argued at the callers; close-on-exec changes nothing here.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) }).map(drop)
}

/// Installs a seccomp filter on the calling thread, and answers the descriptor of its notifications if `flags` ask
/// for one (`SECCOMP_FILTER_FLAG_NEW_LISTENER`). Needs `no_new_privs` or CAP_SYS_ADMIN; unlike
/// `seccompiler::apply_filter` this does not set `no_new_privs` by itself.
pub fn install_filter(program: BpfProgramRef<'_>, flags: libc::c_ulong) -> io::Result<Option<OwnedFd>> {
    let length = u16::try_from(program.len()).map_err(io::Error::other)?;
    let filter = libc::sock_fprog {
        len: length,
        filter: program.as_ptr().cast_mut().cast(),
    };
    let mode = libc::SECCOMP_SET_MODE_FILTER;
    // SAFETY: seccompiler's sock_filter has the layout of the kernel's (repr(C): u16, u8, u8, u32); the kernel
    // copies the program during the call and does not write to it.
    let done = check(unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, &raw const filter) })?;
    if flags & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER == 0 {
        return Ok(None);
    }
    let fd = i32::try_from(done).map_err(io::Error::other)?;
    // SAFETY: with that flag the answer is a descriptor just made for us, nobody else owns it.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Makes a terminal the controlling one of the calling session leader.
pub fn set_controlling_terminal(terminal: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: TIOCSCTTY takes an integer.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) }.into()).map(drop)
}

/// Sets the NIS domain name of the UTS namespace.
pub fn set_domain_name(name: &str) -> io::Result<()> {
    // SAFETY: the kernel reads `len` bytes of the string, which lives through the call.
    check(unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) }.into()).map(drop)
}

/// Joins the session keyring of this name, made if there is none, and says who may do what with it.
pub fn join_session_keyring(name: &str, permissions: u32) -> io::Result<()> {
    let name = CString::new(name)?;
    let (join, permit) = (libc::KEYCTL_JOIN_SESSION_KEYRING, libc::KEYCTL_SETPERM);
    // SAFETY: the name is NUL-terminated and lives through the call.
    let ring = check(unsafe { libc::syscall(libc::SYS_keyctl, join, name.as_ptr()) })?;
    // SAFETY: the call takes numbers only.
    check(unsafe { libc::syscall(libc::SYS_keyctl, permit, ring, permissions) }).map(drop)
}

/// Sends a signal by number; real-time signals have no name in nix.
pub fn kill(pid: libc::pid_t, signal: libc::c_int) -> nix::Result<()> {
    // SAFETY: the call takes numbers only.
    nix::errno::Errno::result(unsafe { libc::kill(pid, signal) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_arguments_are_is_found_behind_any_name() {
        let fields = |from: usize| (from..60).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
        for name in ["sleep", "a) R 1 (b"] {
            let stat = format!("12 ({name}) S {}\n", fields(4));
            assert_eq!(arguments(&stat), Some((48, 49)), "{name}");
        }
        assert_eq!(arguments("12 (short) S 1 2 3"), None);
    }
}

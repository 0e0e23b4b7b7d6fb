//! Allowlists of system calls (seccomp(2)).
//!
//! Owns the lists. What is not on one is answered with EPERM, as where a capability is missing: programs can cope with
//! that, and a call nobody thought of costs an error and not a Pod. A new thread by `clone3` is ENOSYS, because its
//! flags cannot be looked at; the C library then uses `clone`.

use super::Who;
use seccompiler::{
    BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};
use std::collections::BTreeMap;
use std::sync::OnceLock;

/// Memory, time, threads, and files that are open: what any thread of a Rust program needs.
const COMMON: &[libc::c_long] = &[
    libc::SYS_brk,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_clone3,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fcntl,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fstat,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_futex,
    libc::SYS_getdents64,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_getuid,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_memfd_create,
    libc::SYS_mkdirat,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_ppoll,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_statx,
    libc::SYS_sysinfo,
    libc::SYS_tgkill,
    libc::SYS_uname,
    libc::SYS_unlinkat,
    libc::SYS_write,
    libc::SYS_writev,
];

/// Calls that newer architectures do without.
#[cfg(target_arch = "x86_64")]
const OLD: &[libc::c_long] = &[
    libc::SYS_access,
    libc::SYS_epoll_wait,
    libc::SYS_mkdir,
    libc::SYS_open,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_rmdir,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_unlink,
];
#[cfg(not(target_arch = "x86_64"))]
const OLD: &[libc::c_long] = &[];

/// What WASI's files, sockets and polls become.
const OF_GUESTS: &[libc::c_long] = &[
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_capget,
    libc::SYS_connect,
    libc::SYS_copy_file_range,
    libc::SYS_dup,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_fadvise64,
    libc::SYS_fallocate,
    libc::SYS_fchmod,
    libc::SYS_fstatfs,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_linkat,
    libc::SYS_listen,
    libc::SYS_openat2,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_recvfrom,
    libc::SYS_recvmmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendmmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_symlinkat,
    libc::SYS_sync_file_range,
    libc::SYS_utimensat,
];

/// What the service does beside: it mounts images, starts the compiler, and gives threads their place. What its threads and
/// its child put up for themselves is in here, too.
const OF_SERVICE: &[libc::c_long] = &[
    libc::SYS_capset,
    libc::SYS_chdir,
    libc::SYS_close_range,
    libc::SYS_dup3,
    libc::SYS_execve,
    libc::SYS_fchdir,
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_getcpu,
    libc::SYS_getcwd,
    libc::SYS_getgroups,
    libc::SYS_getpgid,
    libc::SYS_getppid,
    libc::SYS_getresgid,
    libc::SYS_getresuid,
    libc::SYS_getsid,
    libc::SYS_ioctl,
    libc::SYS_kill,
    libc::SYS_landlock_add_rule,
    libc::SYS_landlock_create_ruleset,
    libc::SYS_landlock_restrict_self,
    libc::SYS_mmap,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_mprotect,
    libc::SYS_open_tree,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_send_signal,
    libc::SYS_pipe2,
    libc::SYS_prctl,
    libc::SYS_sched_getattr,
    libc::SYS_sched_setattr,
    libc::SYS_seccomp,
    libc::SYS_sendfile,
    libc::SYS_set_tid_address,
    libc::SYS_setfsuid,
    libc::SYS_setgroups,
    libc::SYS_setpgid,
    libc::SYS_setpriority,
    libc::SYS_setresgid,
    libc::SYS_setsid,
    libc::SYS_socketpair,
    libc::SYS_splice,
    libc::SYS_statfs,
    libc::SYS_truncate,
    libc::SYS_umask,
    libc::SYS_umount2,
    libc::SYS_wait4,
    libc::SYS_waitid,
];

/// The same for calls that newer architectures do without.
#[cfg(target_arch = "x86_64")]
const OLD_OF_SERVICE: &[libc::c_long] = &[
    libc::SYS_arch_prctl,
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_dup2,
    libc::SYS_getpgrp,
    libc::SYS_link,
    libc::SYS_pipe,
    libc::SYS_symlink,
    libc::SYS_vfork,
];
#[cfg(not(target_arch = "x86_64"))]
const OLD_OF_SERVICE: &[libc::c_long] = &[];

/// Namespaces that a new process or thread could have.
const NAMESPACES: libc::c_int = libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWUTS;

/// The filters of one kind of thread, compiled once.
#[derive(Debug)]
pub struct Filters(Vec<BpfProgram>);

impl Filters {
    /// Those of `who`.
    ///
    /// # Errors
    /// When they cannot be compiled for this architecture.
    pub fn of(who: Who) -> Result<&'static Self, Error> {
        static GUESTS: OnceLock<Filters> = OnceLock::new();
        static COMPILER: OnceLock<Filters> = OnceLock::new();
        static SERVICE: OnceLock<Filters> = OnceLock::new();
        let made = match who {
            Who::Guests => &GUESTS,
            Who::Compiler => &COMPILER,
            Who::Service => &SERVICE,
        };
        if let Some(filters) = made.get() {
            return Ok(filters);
        }
        let filters = Self(vec![without_clone3()?, allowlist(who)?]);
        Ok(made.get_or_init(|| filters))
    }

    /// Holds the calling thread to them.
    ///
    /// # Errors
    /// When the kernel refuses, having no seccomp, say.
    pub fn enter(&self) -> Result<(), Error> {
        self.0.iter().try_for_each(|filter| apply_filter(filter))
    }
}

/// Rules by system call; an empty list matches every call of it.
type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn without_clone3() -> Result<BpfProgram, Error> {
    let unknown = SeccompAction::Errno(libc::ENOSYS as u32);
    let rules = Rules::from([(libc::SYS_clone3, Vec::new())]);
    compiled(rules, SeccompAction::Allow, unknown)
}

fn allowlist(who: Who) -> Result<BpfProgram, Error> {
    let rules = match who {
        Who::Service => service()?,
        Who::Guests | Who::Compiler => confined(who)?,
    };
    let refused = SeccompAction::Errno(libc::EPERM as u32);
    compiled(rules, refused, SeccompAction::Allow)
}

fn service() -> Result<Rules, Error> {
    let lists = [COMMON, OLD, OF_GUESTS, OF_SERVICE, OLD_OF_SERVICE];
    let calls = lists.into_iter().flatten();
    let mut rules: Rules = calls.map(|call| (*call, Vec::new())).collect();
    rules.insert(libc::SYS_clone, vec![lacks(0, NAMESPACES as u64)?]);
    rules.insert(libc::SYS_prlimit64, vec![is(0, 0)?]);
    rules.insert(libc::SYS_setns, vec![is(1, libc::CLONE_NEWNET as u64)?]);
    // For mounts of its own (`tree`).
    let own_mounts = libc::CLONE_FS | libc::CLONE_NEWNS;
    rules.insert(libc::SYS_unshare, vec![is(0, own_mounts as u64)?]);
    let families = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6];
    let families = families.iter().map(|family| is(0, *family as u64));
    rules.insert(libc::SYS_socket, families.collect::<Result<_, _>>()?);
    Ok(rules)
}

fn confined(who: Who) -> Result<Rules, Error> {
    let calls = COMMON.iter().chain(OLD).chain(match who {
        Who::Guests => OF_GUESTS,
        Who::Compiler | Who::Service => &[],
    });
    let mut rules: Rules = calls.map(|call| (*call, Vec::new())).collect();
    rules.insert(libc::SYS_clone, vec![has(0, libc::CLONE_THREAD as u64)?]);
    let own = [libc::PR_SET_NAME, libc::PR_SET_NO_NEW_PRIVS];
    let own = own.iter().map(|option| is(0, *option as u64));
    let own = own.chain([is(0, PR_SET_VMA)]).collect::<Result<_, _>>()?;
    rules.insert(libc::SYS_prctl, own);
    // Limits of its own only: the C library asks for the stack's.
    rules.insert(libc::SYS_prlimit64, vec![is(0, 0)?]);
    rules.insert(
        libc::SYS_ioctl,
        vec![is(1, libc::FIONBIO)?, is(1, libc::FIONREAD)?],
    );
    match who {
        Who::Guests => {
            rules.extend(settling()?);
            let internet = [libc::AF_INET, libc::AF_INET6];
            let internet = internet.iter().map(|family| is(0, *family as u64));
            rules.insert(libc::SYS_socket, internet.collect::<Result<_, _>>()?);
            // Code is mapped by the threads that load it: what a guest's thread writes is never run.
            for call in [libc::SYS_mmap, libc::SYS_mprotect] {
                rules.insert(call, vec![lacks(2, libc::PROT_EXEC as u64)?]);
            }
        }
        Who::Compiler | Who::Service => {
            for call in [libc::SYS_mmap, libc::SYS_mprotect] {
                rules.insert(call, Vec::new());
            }
        }
    }
    Ok(rules)
}

/// How a new thread of a container gets to where it belongs, becomes its user, and loses the capabilities that took.
fn settling() -> Result<Rules, Error> {
    let calls = [
        libc::SYS_capset,
        libc::SYS_landlock_restrict_self,
        libc::SYS_sched_getattr,
        libc::SYS_sched_setattr,
        libc::SYS_setgroups,
        libc::SYS_setresgid,
        libc::SYS_socketpair,
    ];
    let mut rules: Rules = calls.into_iter().map(|call| (call, Vec::new())).collect();
    rules.insert(libc::SYS_setns, vec![is(1, libc::CLONE_NEWNET as u64)?]);
    // Nobody becomes root: who is it stays that.
    rules.insert(libc::SYS_setfsuid, vec![condition(0, SeccompCmpOp::Ne, 0)?]);
    Ok(rules)
}

/// Names memory, for people who look at it (`linux/prctl.h`).
const PR_SET_VMA: u64 = 0x5356_4d41;

fn condition(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompRule, Error> {
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)?;
    Ok(SeccompRule::new(vec![condition])?)
}

fn is(argument: u8, value: u64) -> Result<SeccompRule, Error> {
    condition(argument, SeccompCmpOp::Eq, value)
}

fn has(argument: u8, bits: u64) -> Result<SeccompRule, Error> {
    condition(argument, SeccompCmpOp::MaskedEq(bits), bits)
}

fn lacks(argument: u8, bits: u64) -> Result<SeccompRule, Error> {
    condition(argument, SeccompCmpOp::MaskedEq(bits), 0)
}

fn compiled(rules: Rules, otherwise: SeccompAction, matched: SeccompAction) -> Result<BpfProgram, Error> {
    let here = TargetArch::try_from(std::env::consts::ARCH)?;
    Ok(SeccompFilter::new(rules, otherwise, matched, here)?.try_into()?)
}

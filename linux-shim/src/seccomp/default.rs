//! The `RuntimeDefault` profile: every system call this runtime knows, but for those that reach beyond a container.
//!
//! What is kept out, and which capability lets it in, follows the default profiles of Docker and containerd; a call
//! newer than the table in `syscalls` is kept out too, with EPERM. Programs of 32 bits may run; `socketcall`, which the
//! older of them reach the network by, hides what kind of socket is asked for. Pure.

use caps::{Capability as Cap, CapsHashSet};
use seccompiler::{SeccompAction, SeccompCmpArgLen, SeccompCmpOp};

use super::arch::Arch;
use super::{Filter, Rule, Rules, SeccompError, Test, stack};

/// Calls kept out unless the container's bounding set has one of the capabilities.
struct Kept {
    calls: &'static [&'static str],
    unless: &'static [Cap],
}

const fn kept(calls: &'static [&'static str], unless: &'static [Cap]) -> Kept {
    Kept { calls, unless }
}

const KEPT_OUT: &[Kept] = &[
    // Keys are not namespaced.
    kept(&["add_key", "keyctl", "request_key"], &[]),
    // A large surface that other filters cannot see into.
    kept(&["io_uring_enter", "io_uring_register", "io_uring_setup"], &[]),
    // Holding the kernel inside a fault is how races in it are won.
    kept(&["userfaultfd"], &[]),
    kept(
        &["kexec_file_load", "kexec_load", "pivot_root", "swapoff", "swapon"],
        &[],
    ),
    // Long obsolete.
    kept(
        &[
            "_sysctl",
            "afs_syscall",
            "create_module",
            "get_kernel_syms",
            "getpmsg",
            "nfsservctl",
            "pciconfig_iobase",
            "pciconfig_read",
            "pciconfig_write",
            "putpmsg",
            "query_module",
            "security",
            "sysfs",
            "tuxcall",
            "uselib",
            "ustat",
            "vm86",
            "vm86old",
            "vserver",
        ],
        &[],
    ),
    kept(&["acct"], &[Cap::CAP_SYS_PACCT]),
    kept(&["bpf"], &[Cap::CAP_SYS_ADMIN, Cap::CAP_BPF]),
    kept(&["chroot"], &[Cap::CAP_SYS_CHROOT]),
    kept(
        &["clock_settime", "clock_settime64", "settimeofday", "stime"],
        &[Cap::CAP_SYS_TIME],
    ),
    kept(
        &["delete_module", "finit_module", "init_module"],
        &[Cap::CAP_SYS_MODULE],
    ),
    kept(
        &[
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "setns",
            "umount",
            "umount2",
            "unshare",
        ],
        &[Cap::CAP_SYS_ADMIN],
    ),
    kept(
        &[
            "fanotify_init",
            "lookup_dcookie",
            "name_to_handle_at",
            "quotactl",
            "quotactl_fd",
            "setdomainname",
            "sethostname",
        ],
        &[Cap::CAP_SYS_ADMIN],
    ),
    kept(&["perf_event_open"], &[Cap::CAP_SYS_ADMIN, Cap::CAP_PERFMON]),
    kept(&["syslog"], &[Cap::CAP_SYS_ADMIN, Cap::CAP_SYSLOG]),
    kept(
        &[
            "get_mempolicy",
            "mbind",
            "migrate_pages",
            "move_pages",
            "set_mempolicy",
            "set_mempolicy_home_node",
        ],
        &[Cap::CAP_SYS_NICE],
    ),
    kept(&["ioperm", "iopl"], &[Cap::CAP_SYS_RAWIO]),
    kept(
        &[
            "kcmp",
            "pidfd_getfd",
            "process_madvise",
            "process_vm_readv",
            "process_vm_writev",
        ],
        &[Cap::CAP_SYS_PTRACE],
    ),
    kept(&["open_by_handle_at"], &[Cap::CAP_DAC_READ_SEARCH]),
    kept(&["reboot"], &[Cap::CAP_SYS_BOOT]),
    kept(&["vhangup"], &[Cap::CAP_SYS_TTY_CONFIG]),
];

/// The personalities that change nothing about safety: Linux, Linux32, with UNAME26, and the question itself.
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];
/// `CLONE_NEW*` that `clone` must not have without CAP_SYS_ADMIN.
const NEW_NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWCGROUP) as u64;

/// The filters for a container with this bounding set.
pub fn filters(bounding: &CapsHashSet) -> Result<Vec<Filter>, SeccompError> {
    let archs = Arch::all();
    let names = archs.iter().flat_map(|arch| arch.names());
    let mut allowed: Rules<'_> = names.map(|name| (name, Vec::new())).collect();
    let kept = KEPT_OUT.iter();
    for row in kept.filter(|row| !row.unless.iter().any(|c| bounding.contains(c))) {
        row.calls.iter().for_each(|name| drop(allowed.remove(name)));
    }
    let personalities = PERSONALITIES.map(|p| first_argument(SeccompCmpOp::Eq, p));
    allowed.insert("personality", personalities.into());
    // A container has no business with the hypervisor.
    let not_vsock = first_argument(SeccompCmpOp::Ne, libc::AF_VSOCK as u64);
    allowed.insert("socket", vec![not_vsock]);
    let mut others = Vec::new();
    if !bounding.contains(&Cap::CAP_SYS_ADMIN) {
        let old_namespaces = first_argument(SeccompCmpOp::MaskedEq(NEW_NAMESPACES), 0);
        allowed.insert("clone", vec![old_namespaces]);
        // Its flags are behind a pointer; C libraries fall back to clone on ENOSYS only.
        let answer = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
        others.push((answer, Rules::from([("clone3", Vec::new())])));
    }
    let default = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    stack(default, &allowed, &others, &archs)
}

fn first_argument(op: SeccompCmpOp, value: u64) -> Rule {
    // Both are C ints or unsigned ints: the upper half of the register says nothing.
    vec![Test::new(0, SeccompCmpArgLen::Dword, op, value)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_known() {
        // aarch64 lacks the oldest of them.
        if cfg!(target_arch = "x86_64") {
            for name in KEPT_OUT.iter().flat_map(|row| row.calls) {
                let mut archs = [Arch::Native, Arch::I386, Arch::Arm].into_iter();
                assert!(archs.any(|arch| arch.number(name).is_some()), "{name}");
            }
        }
    }

    #[test]
    fn clone3_answers_by_a_filter_of_its_own() {
        assert_eq!(filters(&CapsHashSet::new()).unwrap().len(), 2);
        assert_eq!(
            filters(&CapsHashSet::from([Cap::CAP_SYS_ADMIN])).unwrap().len(),
            1
        );
    }
}

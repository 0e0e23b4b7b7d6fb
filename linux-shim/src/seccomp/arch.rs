//! Architectures: which a profile means besides this kernel's own, and how the calls of each are numbered. Pure.

use oci_spec::runtime::{Arch as Named, LinuxSeccomp};

use super::{foreign, syscalls};

/// Whose programs this kernel may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    /// The kernel's own.
    Native,
    /// 32 bits on x86-64.
    I386,
    /// x86-64 with short pointers: the same architecture to the kernel, its calls have a bit more.
    X32,
    /// 32 bits on aarch64.
    Arm,
}

/// `__X32_SYSCALL_BIT` (asm/unistd.h).
pub const X32_BIT: u32 = 0x4000_0000;
/// The first call that all architectures number alike.
const ALIKE: i64 = 424;

impl Arch {
    /// Those of the profile that this kernel can have, its own first, which needs no name.
    pub fn of(profile: &LinuxSeccomp) -> Vec<Self> {
        let named = profile.architectures().iter().flatten();
        let mut all = vec![Self::Native];
        for arch in named.filter_map(|named| Self::foreign(*named)) {
            if !all.contains(&arch) {
                all.push(arch);
            }
        }
        all
    }

    /// All that this kernel can have.
    pub fn all() -> Vec<Self> {
        let foreign = [Named::ScmpArchX86, Named::ScmpArchX32, Named::ScmpArchArm];
        let foreign = foreign.into_iter().filter_map(Self::foreign);
        std::iter::once(Self::Native).chain(foreign).collect()
    }

    fn foreign(named: Named) -> Option<Self> {
        let x86 = cfg!(target_arch = "x86_64");
        match named {
            Named::ScmpArchX86 if x86 => Some(Self::I386),
            Named::ScmpArchX32 if x86 => Some(Self::X32),
            Named::ScmpArchArm if cfg!(target_arch = "aarch64") => Some(Self::Arm),
            _ => None,
        }
    }

    /// What the kernel calls it (`AUDIT_ARCH_*`, linux/audit.h).
    pub fn word(self) -> u32 {
        const LITTLE: u32 = 0x4000_0000;
        const WIDE: u32 = 0x8000_0000;
        match self {
            Self::I386 => 3 | LITTLE,
            Self::Arm => 40 | LITTLE,
            Self::Native | Self::X32 if cfg!(target_arch = "x86_64") => 62 | LITTLE | WIDE,
            Self::Native | Self::X32 if cfg!(target_arch = "aarch64") => 183 | LITTLE | WIDE,
            // riscv64: the compiler of conditions knows no others.
            Self::Native | Self::X32 => 243 | LITTLE | WIDE,
        }
    }

    /// Whether arguments are 32 bits.
    pub fn is_narrow(self) -> bool {
        matches!(self, Self::I386 | Self::Arm)
    }

    /// The number of a call; `None` when the architecture has none of that name.
    pub fn number(self, name: &str) -> Option<i64> {
        let alike = || syscalls::number(name).filter(|number| *number >= ALIKE);
        match self {
            Self::Native => syscalls::number(name),
            Self::I386 => syscalls::find(foreign::I386, name).or_else(alike),
            Self::Arm => syscalls::find(foreign::ARM, name).or_else(alike),
            Self::X32 => syscalls::find(foreign::X32, name)
                .or_else(|| syscalls::number(name))
                .map(|number| number | i64::from(X32_BIT)),
        }
    }

    /// Every call of it that this runtime knows.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let own = match self {
            Self::I386 => foreign::I386,
            Self::Arm => foreign::ARM,
            Self::Native | Self::X32 => &[],
        };
        syscalls::all().chain(own.iter().copied()).map(|(name, _)| name)
    }

    /// A call of old that does what this one does, told by its first argument: `socketcall` and `ipc` of i386.
    pub fn multiplexed(self, name: &str) -> Option<(&'static str, u64)> {
        let find = |calls: &[(&str, u64)]| calls.iter().find(|(n, _)| *n == name).map(|(_, number)| *number);
        match self {
            Self::I386 => find(SOCKETCALL)
                .map(|number| ("socketcall", number))
                .or_else(|| find(IPC).map(|number| ("ipc", number))),
            _ => None,
        }
    }
}

/// `SYS_*` of linux/net.h.
const SOCKETCALL: &[(&str, u64)] = &[
    ("socket", 1),
    ("bind", 2),
    ("connect", 3),
    ("listen", 4),
    ("accept", 5),
    ("getsockname", 6),
    ("getpeername", 7),
    ("socketpair", 8),
    ("send", 9),
    ("recv", 10),
    ("sendto", 11),
    ("recvfrom", 12),
    ("shutdown", 13),
    ("setsockopt", 14),
    ("getsockopt", 15),
    ("sendmsg", 16),
    ("recvmsg", 17),
    ("accept4", 18),
    ("recvmmsg", 19),
    ("sendmmsg", 20),
];

/// linux/ipc.h.
const IPC: &[(&str, u64)] = &[
    ("semop", 1),
    ("semget", 2),
    ("semctl", 3),
    ("semtimedop", 4),
    ("msgsnd", 11),
    ("msgrcv", 12),
    ("msgget", 13),
    ("msgctl", 14),
    ("shmat", 21),
    ("shmdt", 22),
    ("shmget", 23),
    ("shmctl", 24),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_each_architectures_own() {
        assert_eq!(Arch::I386.number("exit"), Some(1));
        assert_eq!(Arch::I386.number("arch_prctl"), Some(384));
        assert_eq!(Arch::Arm.number("set_tls"), Some(0xf_0005));
        assert_eq!(Arch::Arm.number("clock_gettime64"), Some(403));
        for arch in [Arch::Native, Arch::I386, Arch::Arm] {
            assert_eq!(arch.number("clone3"), Some(435));
            assert_eq!(arch.number("no_such_call"), None);
        }
        if cfg!(target_arch = "x86_64") {
            assert_eq!(Arch::X32.number("write"), Some(0x4000_0001));
            assert_eq!(Arch::X32.number("execve"), Some(0x4000_0208));
        }
    }
}

//! What is to be made: a container, or a process in one. Decided before anything is forked; refuses to know how.

use std::path::PathBuf;

use amphipod_shim_api::cgroup::Cgroup;
use nix::sched::CloneFlags;
use nix::sys::personality::Persona;

use super::devices::Device;
use super::entrance::Entrance;
use super::identity::Identity;
use super::labels::Labels;
use super::memory::MemoryPolicy;
use super::scheduling::Scheduling;
use crate::hooks::{Hooks, Subject};
use crate::id_map::IdMaps;
use crate::mount_plan::MountPlan;
use crate::net_devices::NetDevice;
use crate::overseer::Listener;
use crate::rootfs_plan::RootfsMount;

/// A process to run in a container, first or exec'd.
#[derive(Debug, Clone)]
pub struct ProcessPlan {
    pub args: Vec<String>,
    pub env: Vec<String>,
    pub cwd: PathBuf,
    pub identity: Identity,
    /// Who answers for the system calls a seccomp filter asks about.
    pub listener: Option<Listener>,
    pub personality: Option<Persona>,
    pub memory: Option<MemoryPolicy>,
    pub scheduling: Scheduling,
    pub labels: Labels,
    /// The session keyring to join, made if it is not there; without one the caller's stays.
    pub keyring: Option<String>,
    /// Width and height when a terminal is wanted.
    pub terminal: Option<(u16, u16)>,
}

/// A container to make.
#[derive(Debug, Clone)]
pub struct ContainerPlan {
    pub cgroup: Cgroup,
    /// Namespaces to make, for `clone3`.
    pub new_namespaces: CloneFlags,
    /// Namespaces to join, by path.
    pub join: Vec<(CloneFlags, PathBuf)>,
    pub new_cgroup_namespace: bool,
    /// Clocks of a new time namespace with their offsets, as `/proc/PID/timens_offsets` has them.
    pub new_time_namespace: Option<String>,
    /// How its root is entered: by `chroot` where the mount namespace is the runtime's own, or one that was there before.
    pub entrance: Entrance,
    /// Maps of the container's user namespace, if it has one.
    pub ids: Option<IdMaps>,
    pub rootfs: PathBuf,
    pub rootfs_mounts: Vec<RootfsMount>,
    pub rootfs_read_only: bool,
    pub rootfs_propagation: Option<Propagation>,
    pub mounts: Vec<MountPlan>,
    pub devices: Vec<Device>,
    pub masked: Vec<String>,
    pub read_only: Vec<String>,
    pub sysctls: Vec<(String, String)>,
    pub hostname: Option<String>,
    pub domainname: Option<String>,
    /// Devices of the host to be moved into the container's network namespace.
    pub net_devices: Vec<NetDevice>,
    pub hooks: Hooks,
    /// What hooks are told.
    pub subject: Subject,
    pub process: ProcessPlan,
}

impl ContainerPlan {
    /// Whether an intermediate process has to go before the container's first.
    pub fn is_staged(&self) -> bool {
        let by_children = CLONE_NEWTIME | CloneFlags::CLONE_NEWPID;
        self.new_time_namespace.is_some()
            || self.in_user_namespace()
            || self.join.iter().any(|(kind, _)| by_children.intersects(*kind))
    }

    pub fn in_user_namespace(&self) -> bool {
        let user = CloneFlags::CLONE_NEWUSER;
        self.new_namespaces.contains(user) || self.join.iter().any(|(kind, _)| *kind == user)
    }

    pub fn shares_mounts(&self) -> bool {
        self.entrance == Entrance::Chroot
    }

    /// For a host whose own root is the kernel's first, where `pivot_root` cannot be done (pivot_root(2), NOTES).
    pub fn avoid_pivot(&mut self) {
        if self.entrance == Entrance::Pivot {
            self.entrance = Entrance::Move;
        }
    }

    /// Namespaces an exec has to join beside those every container has.
    pub fn more_namespaces(&self) -> CloneFlags {
        let mut more = CloneFlags::empty();
        if self.in_user_namespace() {
            more |= CloneFlags::CLONE_NEWUSER;
        }
        if self.new_time_namespace.is_some() || self.join.iter().any(|(kind, _)| *kind == CLONE_NEWTIME) {
            more |= CLONE_NEWTIME;
        }
        more
    }
}

/// `CLONE_NEWTIME` (linux/sched.h, 5.6), which nix does not name.
pub const CLONE_NEWTIME: CloneFlags = CloneFlags::from_bits_retain(0x80);

/// How mounts of the root's namespace reach its peers, and whether those below it are meant too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Propagation {
    pub kind: u64,
    pub recursive: bool,
}

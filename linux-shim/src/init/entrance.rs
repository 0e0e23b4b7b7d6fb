//! Making the container's root file system the root of its process, and letting go of the host's. Knows nothing of what is mounted in it.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use amphipod_shim_api::mountinfo::unescape;
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::{chroot, fchdir, pivot_root};

use super::error::{During, InitError};
use super::mounts::PRIVATE;
use super::protect::empty_directory;
use super::root::Root;
use crate::sys::mount::{attach, place, set_attributes};

/// The ways in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entrance {
    /// `pivot_root(2)`: the host's tree is gone from the namespace afterwards.
    Pivot,
    /// The root is moved over the host's, which is all that can be done where that is the kernel's first (an initial RAM file
    /// system): `runc create --no-pivot`.
    Move,
    /// `chroot(2)`: the mount namespace is others' too, and its root stays what it is for them.
    Chroot,
}

impl Entrance {
    /// Makes the container's root the process's, and goes there.
    pub fn enter(self, root: &Root) -> Result<(), InitError> {
        let old = Root::open(Path::new("/")).during(|| "open the host's root".into())?;
        fchdir(root.fd()).during(|| "enter the root file system".into())?;
        match self {
            Self::Pivot => pivot(&old)?,
            Self::Move => move_over(root, &old)?,
            Self::Chroot => chroot(".").during(|| "chroot".into())?,
        }
        std::env::set_current_dir("/").during(|| "enter the new root".into())
    }
}

fn pivot(old: &Root) -> Result<(), InitError> {
    pivot_root(".", ".").during(|| "pivot_root".into())?;
    fchdir(old.fd()).during(|| "return to the host's root".into())?;
    umount2(".", MntFlags::MNT_DETACH).during(|| "unmount the host's root".into())
}

/// The host's root stays in the namespace, below the container's; what is mounted on it goes, and what the host mounts there
/// later does not come.
fn move_over(root: &Root, old: &Root) -> Result<(), InitError> {
    set_attributes(old.fd(), PRIVATE, false).during(|| "cut the host's root off".into())?;
    let mounts = mounts_of_host(root, old).during(|| "find what the host has mounted".into())?;
    attach(root.fd(), old.fd()).during(|| "move the root file system over the host's root".into())?;
    chroot(".").during(|| "chroot".into())?;
    fchdir(old.fd()).during(|| "return to the host's root".into())?;
    mounts
        .iter()
        .try_for_each(|mount| take_away(mount).during(|| format!("hide the host's {:?}", mount.path)))
}

/// A mount, as the kernel lists it.
struct Mount {
    id: u64,
    parent: u64,
    /// Relative to the host's root.
    path: PathBuf,
    /// procfs or sysfs: with one of them in a mount namespace, whoever has a user namespace may mount another, with nothing of it
    /// masked (`mount_too_revealing` of the kernel).
    reveals: bool,
}

impl Mount {
    /// Of a line of mountinfo (proc_pid_mountinfo(5)).
    fn of(line: &str) -> Option<Self> {
        let (mount, what) = line.split_once(" - ")?;
        let mut fields = mount.split(' ');
        Some(Self {
            id: fields.next()?.parse().ok()?,
            parent: fields.next()?.parse().ok()?,
            path: unescape(fields.nth(2)?).strip_prefix("/").ok()?.to_owned(),
            reveals: matches!(what.split(' ').next(), Some("proc" | "sysfs")),
        })
    }
}

/// What the host has mounted on its root itself, and what reveals wherever it is, innermost first.
fn mounts_of_host(root: &Root, old: &Root) -> io::Result<Vec<Mount>> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(hosts(&table, place(root.fd())?.mount(), place(old.fd())?.mount()))
}

fn hosts(table: &str, new: u64, old: u64) -> Vec<Mount> {
    let mut outside: Vec<Mount> = Vec::new();
    let mut inside = HashSet::from([new]);
    // A mount is listed after that on which it stands.
    for mount in table.lines().filter_map(Mount::of) {
        match inside.contains(&mount.id) || inside.contains(&mount.parent) {
            true => drop(inside.insert(mount.id)),
            false => outside.push(mount),
        }
    }
    outside.retain(|m| (m.parent == old || m.reveals) && !m.path.as_os_str().is_empty());
    outside.reverse();
    outside
}

/// Takes off all that is mounted there. A user namespace may not do that to mounts of the host's: they are covered, so that
/// nobody without rights to this mount namespace finds them. Single files are left, and what lies behind directories that are
/// closed to it. To be called in the host's root.
fn take_away(mount: &Mount) -> io::Result<()> {
    while umount2(&mount.path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW).is_ok() {}
    let left = match there(&mount.path) {
        // The host has unmounted it meanwhile, and removed the directory.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && !mount.reveals => return Ok(()),
        left => left?,
    };
    let kind = SFlag::from_bits_truncate(fstat(&left)?.st_mode) & SFlag::S_IFMT;
    match place(left.as_fd())?.is_mounted() && kind == SFlag::S_IFDIR {
        true => attach(empty_directory()?.as_fd(), left.as_fd()),
        false => Ok(()),
    }
}

fn there(point: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(nix::fcntl::open(point, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_host_has_mounted_is_found() {
        let table = "\
22 1 8:1 / / rw - ext4 /dev/sda1 rw
23 22 0:5 / /proc rw shared:3 - proc proc rw
24 23 0:6 / /proc/sys/fs/binfmt_misc rw - binfmt_misc b rw
25 22 0:7 / /srv/a\\040b rw - tmpfs tmpfs rw
26 22 0:8 / /run/c/rootfs rw - overlay overlay rw
27 22 0:9 / / rw - tmpfs tmpfs rw
28 26 0:10 / /run/c/rootfs/proc rw - proc proc rw
29 25 0:11 / /srv/a\\040b/sys rw - sysfs sysfs rw
30 28 0:12 / /run/c/rootfs/proc/acpi rw - tmpfs tmpfs rw
";
        let found = hosts(table, 26, 22);
        let found: Vec<_> = found
            .iter()
            .map(|m| (m.path.to_str().unwrap(), m.reveals))
            .collect();
        assert_eq!(found, [("srv/a b/sys", true), ("srv/a b", false), ("proc", true)]);
    }
}

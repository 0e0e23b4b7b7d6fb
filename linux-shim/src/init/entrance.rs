//! Making the container's root file system the root of its process, and letting go of the host's. Knows nothing of what is mounted in it.

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
use super::protect::empty_directory;
use super::root::Root;
use crate::sys::mount::{attach, place};

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

/// The host's root stays in the namespace, below the container's; what is mounted on it goes.
fn move_over(root: &Root, old: &Root) -> Result<(), InitError> {
    let points = points_on(root, old).during(|| "find what the host has mounted".into())?;
    attach(root.fd(), old.fd()).during(|| "move the root file system over the host's root".into())?;
    chroot(".").during(|| "chroot".into())?;
    fchdir(old.fd()).during(|| "return to the host's root".into())?;
    points
        .iter()
        .try_for_each(|point| take_away(old, point).during(|| format!("hide the host's {point:?}")))
}

/// Where mounts but the container's root stand on the host's root itself, relative to that (proc_pid_mountinfo(5)).
fn points_on(root: &Root, old: &Root) -> io::Result<Vec<PathBuf>> {
    let (new, old) = (place(root.fd())?.mount(), place(old.fd())?.mount());
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(table
        .lines()
        .filter_map(|line| point_on(line, new, old))
        .collect())
}

fn point_on(line: &str, new: u64, old: u64) -> Option<PathBuf> {
    let mut fields = line.split(' ');
    let (id, parent) = (
        fields.next()?.parse::<u64>().ok()?,
        fields.next()?.parse::<u64>().ok()?,
    );
    let point = unescape(fields.nth(2)?);
    let relative = point.strip_prefix("/").ok()?;
    (parent == old && id != new && !relative.as_os_str().is_empty()).then(|| relative.to_owned())
}

/// Takes off all that is mounted there. A user namespace may not do that to mounts of the host's: they are covered, so that
/// nobody without rights to this mount namespace finds them (a host's procfs in sight lets anybody mount another one, with
/// nothing of it masked); single files are left. To be called in the host's root.
fn take_away(old: &Root, point: &Path) -> io::Result<()> {
    while umount2(point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW).is_ok() {}
    let left = there(point)?;
    if place(left.as_fd())?.mount() == place(old.fd())?.mount() {
        return Ok(());
    }
    match SFlag::from_bits_truncate(fstat(&left)?.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFDIR => attach(empty_directory()?.as_fd(), left.as_fd()),
        _ => Ok(()),
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
    fn what_stands_on_the_old_root_is_found() {
        let table = [
            ("22 1 8:1 / / rw - ext4 /dev/sda1 rw", None),
            ("23 22 0:5 / /proc rw shared:3 - proc proc rw", Some("proc")),
            ("24 23 0:6 / /proc/sys/fs/binfmt_misc rw - binfmt_misc b rw", None),
            ("25 22 0:7 / /srv/a\\040b rw - tmpfs tmpfs rw", Some("srv/a b")),
            ("26 22 0:8 / /run/c/rootfs rw - overlay overlay rw", None),
            ("27 22 0:9 / / rw - tmpfs tmpfs rw", None),
            ("", None),
        ];
        for (line, expected) in table {
            assert_eq!(
                point_on(line, 26, 22).as_deref(),
                expected.map(Path::new),
                "{line}"
            );
        }
    }
}

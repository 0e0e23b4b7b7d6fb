//! What is mounted on this host at and below paths, and unmounting it.
//!
//! Owns how the kernel is asked: about a path itself where that can be, since its table of mounts has a few lines for each Pod. Refuses
//! to know what mounts are for.

use std::ffi::{CStr, OsStr};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use amphipod_shim_api::mountinfo::unescape;
use nix::mount::{MntFlags, umount2};
use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
use rustix::io::Errno;

/// proc_pid_mountinfo(5).
const TABLE: &str = "/proc/self/mountinfo";

/// Whether something is mounted at `path`; what is not there is no mount point. A file system's server, which may never answer, is not
/// asked.
///
/// # Errors
/// The kernel cannot say it of a path (before 5.8), and its table cannot be read.
pub fn is_point(path: &Path) -> io::Result<bool> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    match statx(CWD, path, flags, StatxFlags::empty()) {
        Ok(found) if found.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT) => {
            Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
        }
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
        // Kernels before 5.8; and a mount whose server is away.
        _ => Ok(kinds_under(path)?.iter().any(|(point, _)| point == path)),
    }
}

/// What is mounted at and below `dir`, innermost last: mount points, and kinds of file systems.
///
/// # Errors
/// The table cannot be read.
pub fn kinds_under(dir: &Path) -> io::Result<Vec<(PathBuf, String)>> {
    let text = fs::read_to_string(TABLE)?;
    Ok(listed(&text)
        .filter(|(point, _)| point.starts_with(dir))
        .collect())
}

fn listed(table: &str) -> impl Iterator<Item = (PathBuf, String)> {
    table.lines().filter_map(|line| {
        let (mount, what) = line.split_once(" - ")?;
        let point = unescape(mount.split(' ').nth(4)?);
        Some((point, what.split(' ').next()?.to_owned()))
    })
}

/// A mount and what it is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfDevice {
    pub point: PathBuf,
    /// The file system, as `major:minor`: the same for all its mounts.
    pub device: String,
    /// What was mounted: the device's path, where there is one.
    pub source: String,
}

/// Every mount with its file system.
///
/// # Errors
/// The table cannot be read.
pub fn of_devices() -> io::Result<Vec<OfDevice>> {
    let text = fs::read_to_string(TABLE)?;
    Ok(text.lines().filter_map(of_device).collect())
}

fn of_device(line: &str) -> Option<OfDevice> {
    let (mount, what) = line.split_once(" - ")?;
    let mut fields = mount.split(' ').skip(2);
    let device = fields.next()?.to_owned();
    let point = unescape(fields.nth(1)?);
    let source = unescape(what.split(' ').nth(1)?);
    Some(OfDevice {
        point,
        device,
        source: source.to_string_lossy().into_owned(),
    })
}

/// To whom a mount passes mounts on, and from whom it gets them (mount_namespaces(7), "Shared subtrees").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peers {
    pub shared: bool,
    pub slave: bool,
}

/// The mount that a path without symbolic links lies on: its point, and its peers.
///
/// # Errors
/// The table cannot be read, or has nothing above the path.
pub fn peers_of(path: &Path) -> io::Result<(PathBuf, Peers)> {
    let text = fs::read_to_string(TABLE)?;
    nearest(&text, path).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
}

/// The innermost mount above `path`, of several at one point the last.
fn nearest(table: &str, path: &Path) -> Option<(PathBuf, Peers)> {
    let mut found: Option<(PathBuf, Peers)> = None;
    for line in table.lines() {
        let (mount, _) = line.split_once(" - ")?;
        let mut fields = mount.split(' ');
        let point = unescape(fields.nth(4)?);
        let nearer = |(known, _): &(PathBuf, Peers)| point.starts_with(known);
        if path.starts_with(&point) && found.as_ref().is_none_or(nearer) {
            let (mut peers, optional) = (Peers::default(), fields.skip(1));
            for field in optional {
                peers.shared |= field.starts_with("shared:");
                peers.slave |= field.starts_with("master:");
            }
            found = Some((point, peers));
        }
    }
    found
}

/// Unmounts everything at and below `dir`.
///
/// # Errors
/// The table cannot be read, or the kernel does not unmount something.
pub fn release_under(dir: &Path) -> io::Result<()> {
    kinds_under(dir)?
        .iter()
        .rev()
        .try_for_each(|(point, _)| release(point))
}

/// Unmounts everything that is mounted at `path`; nothing is fine.
///
/// # Errors
/// The kernel does not.
pub fn release(path: &Path) -> io::Result<()> {
    loop {
        match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(nix::Error::EINVAL | nix::Error::ENOENT) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Unmounts what is mounted last at `path`, if nobody is at work in it.
///
/// # Errors
/// Somebody is, or the kernel does not.
pub fn unmount(path: &Path) -> io::Result<()> {
    Ok(umount2(path, MntFlags::UMOUNT_NOFOLLOW)?)
}

/// Unmounts what is mounted last at a name in a directory.
///
/// # Errors
/// The kernel does not.
pub fn detach(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    let parent = PathBuf::from(format!("/proc/self/fd/{}", parent.as_raw_fd()));
    let point = parent.join(OsStr::from_bytes(name.to_bytes()));
    Ok(umount2(&point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_with_their_escapes() {
        let table = "36 35 98:0 /mnt1 /mnt2\\040x rw,noatime master:1 - ext3 /dev/root rw\n22 1 0:5 / /proc rw - proc proc rw\n";
        let expected = [("/mnt2 x", "ext3"), ("/proc", "proc")];
        let expected = expected.map(|(point, kind)| (PathBuf::from(point), kind.to_owned()));
        assert_eq!(listed(table).collect::<Vec<_>>(), expected);
        let first = table.lines().next().and_then(of_device).unwrap();
        assert_eq!(
            (first.device.as_str(), first.source.as_str()),
            ("98:0", "/dev/root")
        );
        assert_eq!(first.point, Path::new("/mnt2 x"));
    }

    #[test]
    fn the_nearest_mount_says_who_its_peers_are() {
        let table = "22 1 0:5 / / rw shared:1 - ext4 a rw\n23 22 0:6 / /a rw - ext4 a rw\n24 23 0:7 / /a/b rw shared:2 master:1 - ext4 a rw\n\
                     25 23 0:8 / /a rw master:7 - ext4 b rw\n";
        let peers = |shared, slave| Peers { shared, slave };
        for (path, point, expected) in [
            ("/x", "/", peers(true, false)),
            ("/ab", "/", peers(true, false)),
            ("/a/x", "/a", peers(false, true)),
            ("/a/b/c", "/a/b", peers(true, true)),
        ] {
            let found = nearest(table, Path::new(path)).unwrap();
            assert_eq!(found, (PathBuf::from(point), expected), "{path}");
        }
        assert!(peers_of(Path::new("/proc")).is_ok());
    }

    #[test]
    fn mount_points_are_told_from_others() {
        assert!(is_point(Path::new("/proc")).unwrap());
        for path in ["/proc/self", "/nonexistent", "/dev/null/x"] {
            assert!(!is_point(Path::new(path)).unwrap(), "{path}");
        }
    }
}

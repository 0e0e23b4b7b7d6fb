//! `fsGroup` of volumes that keep what was in them: every file goes to the group, which may read and write it
//! (KEP-695 for when that is left out).

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags};
use rustix::io::Errno;

use super::host::{HostError, at};
use crate::walk::{self, Found, Then, What};

/// What the group may: files, and directories, whose new files follow it.
const OF_FILES: u32 = 0o660;
const OF_DIRECTORIES: u32 = 0o2770;
/// How what is to change is opened: not for what is in it, and no link is followed.
const ITSELF: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// `fsGroup` with `fsGroupChangePolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    pub id: u32,
    /// Not only when the root of the volume is another group's.
    pub always: bool,
}

/// Gives a tree to a group.
pub fn give(root: &Path, group: Group) -> Result<(), HostError> {
    let meta = fs::symlink_metadata(root).map_err(at("inspect", root))?;
    let fits = meta.gid() == group.id && meta.mode() & OF_DIRECTORIES == OF_DIRECTORIES;
    if fits && !group.always {
        return Ok(());
    }
    let failed = || at("change the group of what is in", root);
    if meta.is_dir() {
        walk::open(root)
            .and_then(|opened| walk::walk(opened, &mut |found| give_found(found, group.id)))
            .map_err(failed())?;
    }
    // Last: that it fits says that all in it does.
    let itself = rustix::fs::openat(CWD, root, ITSELF, Mode::empty());
    itself
        .map_err(io::Error::from)
        .and_then(|itself| give_one(&itself, group.id))
        .map_err(failed())
}

/// By a descriptor of the thing itself: who shares the volume may put another in its place meanwhile.
fn give_found(found: &Found<'_>, gid: u32) -> io::Result<Then> {
    if found.what != What::Mount {
        match rustix::fs::openat(found.parent, found.name, ITSELF, Mode::empty()) {
            Ok(itself) => give_one(&itself, gid)?,
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(Then::Next)
}

fn give_one(itself: &OwnedFd, gid: u32) -> io::Result<()> {
    let mode = rustix::fs::fstat(itself)?.st_mode;
    rustix::fs::chownat(itself, c"", None, Some(Gid::from_raw(gid)), AtFlags::EMPTY_PATH)?;
    let more = match FileType::from_raw_mode(mode) {
        FileType::Symlink => return Ok(()),
        FileType::Directory => OF_DIRECTORIES,
        _ => OF_FILES,
    };
    // What was only named cannot be changed but by this path.
    let path = format!("/proc/self/fd/{}", itself.as_raw_fd());
    fs::set_permissions(path, fs::Permissions::from_mode((mode & 0o7777) | more))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::lchown;

    #[test]
    fn a_tree_goes_to_the_group_unless_its_root_fits() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: changing owners needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("d/f"), dir.path().join("l"));
        fs::create_dir(dir.path().join("d")).unwrap();
        fs::write(&file, "").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
        let group = |always| Group { id: 4321, always };
        give(dir.path(), group(false)).unwrap();
        let meta = fs::metadata(&file).unwrap();
        assert_eq!((meta.gid(), meta.mode() & 0o7777), (4321, 0o660));
        assert_eq!(
            fs::metadata(dir.path().join("d")).unwrap().mode() & 0o7777,
            0o2775
        );
        assert_eq!(fs::symlink_metadata(&link).unwrap().gid(), 4321);
        assert_ne!(fs::metadata("/etc/passwd").unwrap().gid(), 4321);
        fs::write(dir.path().join("new"), "").unwrap();
        lchown(dir.path().join("new"), None, Some(1)).unwrap();
        give(dir.path(), group(false)).unwrap();
        assert_eq!(fs::metadata(dir.path().join("new")).unwrap().gid(), 1);
        give(dir.path(), group(true)).unwrap();
        assert_eq!(fs::metadata(dir.path().join("new")).unwrap().gid(), 4321);
    }
}

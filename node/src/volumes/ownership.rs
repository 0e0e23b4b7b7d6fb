//! `fsGroup` of volumes that keep what was in them: every file goes to the group, which may read and write it
//! (KEP-695 for when that is left out).

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::Path;

use super::host::{HostError, at};

/// What the group may: files, and directories, whose new files follow it.
const OF_FILES: u32 = 0o660;
const OF_DIRECTORIES: u32 = 0o2770;
/// Deeper trees are left as they are below this.
const DEPTH: usize = 128;

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
    walk(root, group.id, DEPTH)
}

/// The directory itself last: that it fits says that all in it does.
fn walk(path: &Path, gid: u32, depth: usize) -> Result<(), HostError> {
    let meta = fs::symlink_metadata(path).map_err(at("inspect", path))?;
    if meta.is_dir() && depth > 0 {
        for entry in fs::read_dir(path).map_err(at("list", path))? {
            let entry = entry.map_err(at("list", path))?;
            walk(&entry.path(), gid, depth - 1)?;
        }
    }
    lchown(path, None, Some(gid)).map_err(at("change the group of", path))?;
    if meta.is_symlink() {
        return Ok(());
    }
    let more = if meta.is_dir() { OF_DIRECTORIES } else { OF_FILES };
    let mode = (meta.mode() & 0o7777) | more;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(at("change the mode of", path))
}

#[cfg(test)]
mod tests {
    use super::*;

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

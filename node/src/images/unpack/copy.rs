//! A directory of an image once more, with everything in it as the layers brought it: owners, modes, times, attributes, links.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use tar::EntryType;

use super::UnpackError;
use super::stream::Entry;
use super::tree::{Inside, Tree, kept_attributes, open_dir};

/// Directories within each other: each holds a descriptor while what is in it is copied.
const MAX_DEPTH: usize = 256;

/// Copies what is in `from`, and what `from` itself is, to the empty directory `to`. Nobody else may change either meanwhile.
///
/// # Errors
/// It is nested too deep, or the disk fails.
pub fn copy_directory(from: &OwnedFd, to: &Path) -> Result<(), UnpackError> {
    let mut copy = Copy {
        tree: Tree::open(to)?,
        linked: HashMap::new(),
    };
    copy.directory(from, &Inside::default(), MAX_DEPTH)?;
    copy.tree.set_times()
}

struct Copy {
    tree: Tree,
    /// The first name of each file that has several.
    linked: HashMap<(u64, u64), Inside>,
}

impl Copy {
    fn directory(&mut self, from: &OwnedFd, at: &Inside, depth: usize) -> Result<(), UnpackError> {
        let depth = depth.checked_sub(1).ok_or(UnpackError::TooDeep(MAX_DEPTH))?;
        let entry = entry(&rustix::fs::fstat(from)?, kept_attributes(from)?);
        self.tree.directory(at, &entry)?;
        for name in names(from)? {
            self.one(from, &name, &at.child(name.as_bytes()), depth)?;
        }
        Ok(())
    }

    fn one(&mut self, from: &OwnedFd, name: &OsStr, at: &Inside, depth: usize) -> Result<(), UnpackError> {
        let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::Directory && stat.st_nlink > 1 {
            let first = self.linked.entry((stat.st_dev, stat.st_ino));
            let first = first.or_insert_with(|| at.clone());
            if first != at {
                return self.tree.hard_link(at, first);
            }
        }
        match kind {
            FileType::Directory => self.directory(&open_dir(from, name)?, at, depth),
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let mut file = File::from(rustix::fs::openat(from, name, flags, Mode::empty())?);
                let entry = entry(&stat, kept_attributes(&file)?);
                self.tree.file(at, &entry, &mut file)
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(from, name, Vec::new())?;
                self.tree
                    .symlink(at, &entry(&stat, Vec::new()), target.as_bytes())
            }
            FileType::Fifo | FileType::CharacterDevice | FileType::BlockDevice => {
                self.tree.node(at, &entry(&stat, Vec::new()), kind)
            }
            FileType::Socket | FileType::Unknown => Ok(()),
        }
    }
}

fn names(dir: impl AsFd) -> Result<Vec<OsString>, UnpackError> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name));
        }
    }
    Ok(names)
}

/// What an archive would say of it; a tree is told the kind and the path apart from that.
fn entry(stat: &Stat, xattrs: Vec<(Vec<u8>, Vec<u8>)>) -> Entry {
    Entry {
        kind: EntryType::Regular,
        path: Vec::new(),
        link: None,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: (stat.st_mtime, i64::try_from(stat.st_mtime_nsec).unwrap_or(0)),
        device: (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)),
        xattrs,
    }
}

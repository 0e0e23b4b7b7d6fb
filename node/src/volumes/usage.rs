//! How much of the disk a directory takes, which containers change while it is read. Refuses to know whose it is.

use std::collections::HashSet;
use std::io;
use std::iter::Sum;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Stat};
use rustix::io::Errno;

use crate::walk::{self, Then, What};

/// Unit of `st_blocks` (stat(3type)).
const BLOCK_BYTES: u64 = 512;

/// What lies below a directory, itself counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskUse {
    pub bytes: u64,
    pub inodes: u64,
}

impl<'a> Sum<&'a DiskUse> for DiskUse {
    fn sum<I: Iterator<Item = &'a DiskUse>>(all: I) -> Self {
        all.fold(DiskUse::default(), |sum, one| DiskUse {
            bytes: sum.bytes + one.bytes,
            inodes: sum.inodes + one.inodes,
        })
    }
}

/// Bytes allocated, as [`disk_use`] counts them.
///
/// # Errors
/// The kernel refuses to read a directory.
pub fn disk_usage(path: &Path) -> io::Result<u64> {
    disk_use(path).map(|found| found.bytes)
}

/// What is allocated below `path` and for itself, a file with several names counted once, as du(1) counts. Nothing there
/// is nothing.
///
/// # Errors
/// The kernel refuses to read a directory.
pub fn disk_use(path: &Path) -> io::Result<DiskUse> {
    let root = match walk::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(DiskUse::default()),
        opened => opened?,
    };
    let mut count = Count::default();
    count.add(&rustix::fs::fstat(&root)?);
    walk::walk(root, &mut |found| {
        match rustix::fs::statat(found.parent, found.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if found.what != What::Mount => count.add(&stat),
            // Removed meanwhile; or not of this disk.
            Ok(_) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
        Ok(Then::Next)
    })?;
    Ok(count.found)
}

#[derive(Default)]
struct Count {
    found: DiskUse,
    /// Files with several names.
    linked: HashSet<(u64, u64)>,
}

impl Count {
    fn add(&mut self, stat: &Stat) {
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let again = !is_directory && stat.st_nlink > 1 && !self.linked.insert((stat.st_dev, stat.st_ino));
        if !again {
            self.found.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * BLOCK_BYTES;
            self.found.inodes += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    const KIB: u64 = 1024;

    fn growth(dir: &Path, change: impl FnOnce()) -> u64 {
        let before = disk_usage(dir).unwrap();
        change();
        disk_usage(dir).unwrap() - before
    }

    #[test]
    fn files_count_once_links_and_what_they_point_to_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("large"), vec![1; 1 << 20]).unwrap();
        let deep = dir.path().join("a/b/c");
        fs::create_dir_all(&deep).unwrap();
        let file = growth(dir.path(), || {
            fs::write(deep.join("f"), vec![1; 100 * 1024]).unwrap()
        });
        assert!((100 * KIB..120 * KIB).contains(&file), "{file}");
        let more = growth(dir.path(), || {
            fs::hard_link(deep.join("f"), dir.path().join("g")).unwrap();
            symlink(outside.path(), dir.path().join("out")).unwrap();
        });
        assert!(more < 16 * KIB, "{more}");
    }

    #[test]
    fn nothing_is_nothing_and_depth_hides_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(disk_usage(&dir.path().join("none")).unwrap(), 0);
        walk::tests::make_deep(dir.path(), 1000);
        assert_eq!(disk_use(dir.path()).unwrap().inodes, 1 + 2 * 1000 + 1);
        crate::removal::remove(dir.path()).unwrap();
    }
}

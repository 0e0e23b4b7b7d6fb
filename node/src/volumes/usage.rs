//! How much of the disk a directory takes. Containers change such directories while they are read, so that every step
//! is by descriptor and no symbolic link is followed. Refuses to know whose it is.

use std::collections::HashSet;
use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

/// Directories inside one another that are looked into; what lies deeper is not counted. Each takes a descriptor.
const MAX_DEPTH: usize = 256;
/// Unit of `st_blocks` (stat(3type)).
const BLOCK_BYTES: u64 = 512;

/// What lies below a directory, itself counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskUse {
    pub bytes: u64,
    pub inodes: u64,
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
    let root = match open(CWD, path) {
        Err(Errno::NOENT) => return Ok(DiskUse::default()),
        opened => opened?,
    };
    let mut count = Count::default();
    count.add(&rustix::fs::fstat(&root)?);
    let mut open_dirs = vec![Level::of(root)?];
    while let Some(level) = open_dirs.last_mut() {
        let Some(name) = level.subdirectories.pop() else {
            match level.read(&mut count)? {
                true => {}
                false => drop(open_dirs.pop()),
            }
            continue;
        };
        let opened = open(&level.fd, &name);
        match opened {
            Ok(fd) if open_dirs.len() < MAX_DEPTH => open_dirs.push(Level::of(fd)?),
            // Removed or replaced meanwhile, or too deep.
            Ok(_) | Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(count.found)
}

fn open(at: impl std::os::fd::AsFd, path: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, path, flags, Mode::empty())
}

/// A directory being read.
struct Level {
    fd: OwnedFd,
    /// Not read yet.
    entries: Option<Dir>,
    subdirectories: Vec<CString>,
}

impl Level {
    fn of(fd: OwnedFd) -> io::Result<Self> {
        let entries = Some(Dir::read_from(&fd)?);
        Ok(Self {
            fd,
            entries,
            subdirectories: Vec::new(),
        })
    }

    /// Counts the entries, once; false when that was done before.
    fn read(&mut self, count: &mut Count) -> io::Result<bool> {
        let Some(entries) = self.entries.take() else {
            return Ok(false);
        };
        for entry in entries {
            let name = entry?.file_name().to_owned();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let stat = match rustix::fs::statat(&self.fd, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                found => found?,
            };
            count.add(&stat);
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                self.subdirectories.push(name);
            }
        }
        Ok(true)
    }
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
    fn nothing_is_nothing_and_depth_is_no_danger() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(disk_usage(&dir.path().join("none")).unwrap(), 0);
        let mut path = dir.path().to_owned();
        for _ in 0..MAX_DEPTH + 10 {
            path.push("d");
        }
        fs::create_dir_all(&path).unwrap();
        disk_usage(dir.path()).unwrap();
    }
}

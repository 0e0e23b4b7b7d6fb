//! Walks through directories whose content others make, and may go on making meanwhile: by descriptor, so that no symbolic link is
//! followed; as deep as it goes, with few descriptors and without recursion; and not into what is mounted there.
//!
//! Owns the way. Refuses to know what is done on it.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Directories inside one another that are open at once. The way back up to others is by `..`, looked at before it is believed.
const OPEN_AT_ONCE: usize = 64;
/// Names of an error's path.
const NAMES_TOLD: usize = 16;

/// Something on the way.
#[derive(Debug)]
pub struct Found<'a> {
    pub parent: BorrowedFd<'a>,
    pub name: &'a CStr,
    pub what: What,
}

/// What kind of thing it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// No directory.
    File(FileType),
    /// All in it was visited before.
    Directory,
    /// A directory at which another file system, or another part of this one, is mounted.
    Mount,
}

/// How a visitor has the walk go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    Next,
    /// What was mounted there is not any more: the walk goes in.
    Again,
}

/// Who is shown everything on the way.
pub type Visitor<'v> = dyn FnMut(&Found<'_>) -> io::Result<Then> + 'v;

/// A directory to begin with: no link to one.
///
/// # Errors
/// It is not there, or is none.
pub fn open(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, path, flags, Mode::empty())?)
}

/// Shows `visit` all that is below a directory, which is not shown itself; each directory after what is in it.
///
/// # Errors
/// Those of the visitor, those of reading a directory (but for one that was removed or replaced meanwhile), and a deep directory
/// that was moved elsewhere meanwhile; with the path below `root`.
pub fn walk(root: OwnedFd, visit: &mut Visitor<'_>) -> io::Result<()> {
    let mut levels = Vec::new();
    let walked = Level::read(CString::default(), root, visit).and_then(|first| {
        levels.push(first);
        go_on(&mut levels, visit)
    });
    walked.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", place(&levels).display())))
}

fn go_on(levels: &mut Vec<Level>, visit: &mut Visitor<'_>) -> io::Result<()> {
    while let Some(level) = levels.last_mut() {
        let Some(name) = level.directories.pop() else {
            leave(levels, visit)?;
            continue;
        };
        if let Some(inside) = enter(level.fd()?, &name, visit)? {
            levels.push(Level::read(name, inside, visit)?);
            if let Some(far) = levels.len().checked_sub(OPEN_AT_ONCE + 1) {
                levels[far].rest()?;
            }
        }
    }
    Ok(())
}

/// None where there is no way in: it is mounted, and stays so, or went meanwhile.
///
/// # Errors
/// The visitor's, or the kernel's.
pub fn enter(parent: BorrowedFd<'_>, name: &CStr, visit: &mut Visitor<'_>) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    loop {
        match rustix::fs::openat2(parent, name, flags, Mode::empty(), ResolveFlags::NO_XDEV) {
            Ok(inside) => return Ok(Some(inside)),
            Err(Errno::XDEV) => {
                let what = What::Mount;
                if visit(&Found { parent, name, what })? == Then::Next {
                    return Ok(None);
                }
            }
            Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn leave(levels: &mut Vec<Level>, visit: &mut Visitor<'_>) -> io::Result<()> {
    let Some(left) = levels.pop() else { return Ok(()) };
    let Some(above) = levels.last_mut() else {
        return Ok(());
    };
    above.wake(left.fd()?)?;
    visit(&Found {
        parent: above.fd()?,
        name: &left.name,
        what: What::Directory,
    })
    .map(drop)
}

fn place(levels: &[Level]) -> PathBuf {
    let names = levels.iter().skip(1).take(NAMES_TOLD);
    let mut path = PathBuf::from(".");
    path.extend(names.map(|level| OsStr::from_bytes(level.name.to_bytes())));
    path
}

/// A directory on the way down.
struct Level {
    name: CString,
    place: Place,
    /// Those in it that were not gone into yet.
    directories: Vec<CString>,
}

enum Place {
    Open(OwnedFd),
    /// Device and number.
    Closed(u64, u64),
}

impl Level {
    /// Visits the files in it.
    fn read(name: CString, fd: OwnedFd, visit: &mut Visitor<'_>) -> io::Result<Self> {
        let mut directories = Vec::new();
        for entry in Dir::read_from(&fd)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let parent = fd.as_fd();
            match kind(parent, name, entry.file_type())? {
                None => {}
                Some(FileType::Directory) => directories.push(name.to_owned()),
                Some(other) => {
                    let what = What::File(other);
                    visit(&Found { parent, name, what })?;
                }
            }
        }
        let place = Place::Open(fd);
        Ok(Self {
            name,
            place,
            directories,
        })
    }

    fn fd(&self) -> io::Result<BorrowedFd<'_>> {
        match &self.place {
            Place::Open(fd) => Ok(fd.as_fd()),
            Place::Closed(..) => Err(io::Error::other("the directory was left")),
        }
    }

    fn rest(&mut self) -> io::Result<()> {
        if let Place::Open(fd) = &self.place {
            let seen = rustix::fs::fstat(fd)?;
            self.place = Place::Closed(seen.st_dev, seen.st_ino);
        }
        Ok(())
    }

    /// Opens it again from one that was in it.
    fn wake(&mut self, below: BorrowedFd<'_>) -> io::Result<()> {
        let Place::Closed(device, number) = self.place else {
            return Ok(());
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let above = rustix::fs::openat(below, c"..", flags, Mode::empty())?;
        let seen = rustix::fs::fstat(&above)?;
        if (seen.st_dev, seen.st_ino) != (device, number) {
            return Err(io::Error::other(
                "a directory was moved while it was walked through",
            ));
        }
        self.place = Place::Open(above);
        Ok(())
    }
}

/// Not all file systems say it in their lists. None is gone.
fn kind(parent: BorrowedFd<'_>, name: &CStr, listed: FileType) -> io::Result<Option<FileType>> {
    if listed != FileType::Unknown {
        return Ok(Some(listed));
    }
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(seen) => Ok(Some(FileType::from_raw_mode(seen.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use std::fs;

    /// Makes directories inside one another, deeper than a path can say; with a file in the last. Each has one beside it.
    pub fn make_deep(root: &Path, depth: usize) {
        let mut at = open(root).unwrap();
        for _ in 0..depth {
            rustix::fs::mkdirat(&at, c"beside", Mode::RWXU).unwrap();
            rustix::fs::mkdirat(&at, c"d", Mode::RWXU).unwrap();
            at = rustix::fs::openat(&at, c"d", OFlags::RDONLY, Mode::empty()).unwrap();
        }
        let flags = OFlags::CREATE | OFlags::WRONLY;
        rustix::fs::openat(&at, c"file", flags, Mode::RUSR).unwrap();
    }

    fn visited(root: &Path) -> io::Result<Vec<(String, What)>> {
        let mut seen = Vec::new();
        walk(open(root)?, &mut |found| {
            seen.push((found.name.to_str().unwrap().to_owned(), found.what));
            Ok(Then::Next)
        })?;
        Ok(seen)
    }

    #[test]
    fn what_is_in_a_directory_comes_before_it_and_links_are_files() {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir_all(home.path().join("a/b")).unwrap();
        fs::write(home.path().join("a/b/f"), "").unwrap();
        std::os::unix::fs::symlink("/", home.path().join("a/b/l")).unwrap();
        let mut seen = visited(home.path()).unwrap();
        seen[..2].sort_by(|one, other| one.0.cmp(&other.0));
        let expected = [
            ("f", What::File(FileType::RegularFile)),
            ("l", What::File(FileType::Symlink)),
            ("b", What::Directory),
            ("a", What::Directory),
        ];
        assert_eq!(seen, expected.map(|(name, what)| (name.to_owned(), what)));
    }

    #[test]
    fn depth_is_no_danger() {
        let home = tempfile::tempdir().unwrap();
        make_deep(home.path(), 3000);
        assert_eq!(visited(home.path()).unwrap().len(), 2 * 3000 + 1);
        crate::removal::remove(home.path()).unwrap();
    }

    #[test]
    fn a_way_that_was_moved_is_not_gone_back() {
        let (home, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        make_deep(home.path(), OPEN_AT_ONCE + 3);
        let moved = other.path().join("moved");
        let error = walk(open(home.path()).unwrap(), &mut |found| {
            if found.what == What::File(FileType::RegularFile) {
                fs::rename(home.path().join("d/d"), &moved)?;
            }
            Ok(Then::Next)
        });
        assert!(error.unwrap_err().to_string().contains("was moved"));
    }
}

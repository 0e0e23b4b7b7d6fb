//! A container's root as a descriptor: every path in it is resolved with the root as `/`, so that neither a symbolic
//! link nor `..` in an image or a volume leads to the host (`openat2`, Linux 5.6).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, SFlag, mkdirat, mknodat};

/// How often a path is looked up again when the kernel saw a rename beside it (EAGAIN of openat2(2)).
const TRIES: usize = 32;

/// The root directory of a container, mounted or not.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
}

impl Root {
    /// Opens a host directory as a root.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let fd = nix::fcntl::open(path, flags, Mode::empty())?;
        Ok(Self { fd })
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Opens a path of the container; links are followed inside the root only, magic links never.
    pub fn find(&self, path: &Path, flags: OFlag) -> io::Result<OwnedFd> {
        let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        open_at(self.fd(), path, flags, resolve)
    }

    /// Opens a path of the container that must have no symbolic link in it.
    pub fn find_plain(&self, path: &Path, flags: OFlag) -> io::Result<OwnedFd> {
        let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_SYMLINKS;
        open_at(self.fd(), path, flags, resolve)
    }

    /// Opens a directory, making it and its parents when they are not there.
    pub fn make_dir(&self, path: &Path) -> io::Result<OwnedFd> {
        let directory = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let (parent, name) = match self.find(path, directory) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => self.parent_of(path)?,
            other => return other,
        };
        match mkdirat(&parent, &name, Mode::from_bits_truncate(0o755)) {
            Ok(()) | Err(Errno::EEXIST) => self.find(path, directory),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Opens a file to mount on, making an empty one when there is none.
    pub fn make_file(&self, path: &Path) -> io::Result<OwnedFd> {
        let (parent, name) = match self.find(path, OFlag::O_PATH) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => self.parent_of(path)?,
            other => return other,
        };
        match mknodat(&parent, &name, SFlag::S_IFREG, Mode::from_bits_truncate(0o644), 0) {
            Ok(()) | Err(Errno::EEXIST) => self.find(path, OFlag::O_PATH),
            Err(errno) => Err(errno.into()),
        }
    }

    fn parent_of(&self, path: &Path) -> io::Result<(OwnedFd, PathBuf)> {
        let path = clean(path);
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let parent = self.make_dir(path.parent().unwrap_or(Path::new("/")))?;
        Ok((parent, name.into()))
    }
}

fn open_at(dir: BorrowedFd<'_>, path: &Path, flags: OFlag, resolve: ResolveFlag) -> io::Result<OwnedFd> {
    let path = clean(path);
    let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve);
    for _ in 0..TRIES {
        match openat2(dir, &path, how) {
            Err(Errno::EAGAIN) => {}
            other => return Ok(other?),
        }
    }
    Err(Errno::EAGAIN.into())
}

/// An absolute path without `.` and `..`, which are taken lexically as the OCI runtimes do.
pub fn clean(path: &Path) -> PathBuf {
    let mut out = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => {
                out.pop();
            }
            _ => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_stay_inside() {
        let host = tempfile::tempdir().unwrap();
        let inside = host.path().join("root");
        fs::create_dir_all(inside.join("real")).unwrap();
        fs::create_dir(host.path().join("canary")).unwrap();
        symlink("../canary", inside.join("up")).unwrap();
        symlink(host.path().join("canary"), inside.join("absolute")).unwrap();
        symlink("/real", inside.join("fine")).unwrap();
        let root = Root::open(&inside).unwrap();
        assert!(root.find(Path::new("/up"), OFlag::O_PATH).is_err());
        assert!(root.find(Path::new("/absolute"), OFlag::O_PATH).is_err());
        root.make_dir(Path::new("/fine/new/deep")).unwrap();
        assert!(inside.join("real/new/deep").is_dir());
        root.make_file(Path::new("/../../fine/file")).unwrap();
        assert!(inside.join("real/file").is_file());
        assert!(root.make_dir(Path::new("/up/x")).is_err());
        assert_eq!(fs::read_dir(host.path().join("canary")).unwrap().count(), 0);
        assert!(root.find_plain(Path::new("/fine"), OFlag::O_PATH).is_err());
    }

    #[test]
    fn paths_are_cleaned() {
        for (from, to) in [("/a/../b", "/b"), ("a/./b", "/a/b"), ("/../..", "/"), ("", "/")] {
            assert_eq!(clean(Path::new(from)), Path::new(to));
        }
    }
}

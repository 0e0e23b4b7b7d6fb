//! A container's root as a descriptor: every path in it is resolved with the root as `/`, so that neither a symbolic
//! link nor `..` in an image or a volume leads to the host (`openat2`, Linux 5.6).

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2, readlinkat};
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat, mknodat};

use crate::sys::mount::place;

/// How often a path is looked up again when the kernel saw a rename beside it (EAGAIN of openat2(2)).
const TRIES: usize = 32;
/// As many links as the kernel follows in one path (`MAXSYMLINKS`).
const LINKS: usize = 40;

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

    /// A directory that is open already, the root of a mount for instance.
    pub fn of(fd: OwnedFd) -> Self {
        Self { fd }
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
        match self.find(path, directory) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        let made = Walk::of(self, path)?.make(SFlag::S_IFDIR)?;
        let how = OpenHow::new().flags(directory | OFlag::O_CLOEXEC);
        Ok(openat2(&made, ".", how)?)
    }

    /// Looks again, after `mount` was attached to what a path led to: that mount must be seen there now. It is not when
    /// somebody has exchanged a name of the path meanwhile.
    pub fn verify(&self, path: &Path, mount: &OwnedFd) -> io::Result<()> {
        let seen = self.find(path, OFlag::O_PATH)?;
        if place(seen.as_fd())? == place(mount.as_fd())? {
            return Ok(());
        }
        Err(io::Error::other("something else is there after mounting"))
    }

    /// Opens a file to mount on, making an empty one when there is none.
    pub fn make_file(&self, path: &Path) -> io::Result<OwnedFd> {
        match self.find(path, OFlag::O_PATH) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Walk::of(self, path)?.make(SFlag::S_IFREG),
            other => other,
        }
    }
}

/// A path walked name by name, because the kernel does not make what is missing behind a symbolic link. Every step
/// goes from a directory reached before to a plain name in it, and `..` goes back to where the walk came from: a link
/// put in the way meanwhile is one more link to follow inside the root.
struct Walk {
    /// From the root to where the walk is.
    dirs: Vec<OwnedFd>,
    /// What is left, the next name last.
    left: Vec<OsString>,
    links: usize,
}

impl Walk {
    fn of(root: &Root, path: &Path) -> io::Result<Self> {
        let mut walk = Self {
            dirs: vec![root.fd.try_clone()?],
            left: Vec::new(),
            links: 0,
        };
        walk.push(&clean(path));
        Ok(walk)
    }

    fn push(&mut self, path: &Path) {
        let names = path.components().rev().filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        });
        self.left.extend(names);
    }

    /// Goes to the end; what is missing is made: directories on the way, a `last` at the end.
    fn make(mut self, last: SFlag) -> io::Result<OwnedFd> {
        while let Some(name) = self.left.pop() {
            if name == ".." {
                self.dirs.truncate(self.dirs.len().saturating_sub(1).max(1));
                continue;
            }
            let kind = if self.left.is_empty() {
                last
            } else {
                SFlag::S_IFDIR
            };
            let found = self.step(&name, kind)?;
            if SFlag::from_bits_truncate(fstat(&found)?.st_mode) & SFlag::S_IFMT == SFlag::S_IFLNK {
                self.follow(&found)?;
            } else {
                self.dirs.push(found);
            }
        }
        self.dirs.pop().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Opens a name where the walk is, a link as itself, and makes it when it is not there.
    fn step(&self, name: &OsStr, kind: SFlag) -> io::Result<OwnedFd> {
        let here = self.dirs.last().ok_or(io::ErrorKind::NotFound)?;
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH);
        for _ in 0..TRIES {
            match openat2(here, name, how) {
                Err(Errno::ENOENT) => {}
                Err(Errno::EAGAIN) => continue,
                other => return Ok(other?),
            }
            let made = if kind == SFlag::S_IFDIR {
                mkdirat(here, name, Mode::from_bits_truncate(0o755))
            } else {
                mknodat(here, name, kind, Mode::from_bits_truncate(0o644), 0)
            };
            match made {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Err(Errno::EAGAIN.into())
    }

    fn follow(&mut self, link: &OwnedFd) -> io::Result<()> {
        self.links += 1;
        if self.links > LINKS {
            return Err(Errno::ELOOP.into());
        }
        let target = PathBuf::from(readlinkat(link, "")?);
        if target.is_absolute() {
            self.dirs.truncate(1);
        }
        self.push(&target);
        Ok(())
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
        root.make_dir(Path::new("/up/x")).unwrap();
        assert!(inside.join("canary/x").is_dir(), "`..` of the root is the root");
        assert_eq!(fs::read_dir(host.path().join("canary")).unwrap().count(), 0);
        assert!(root.find_plain(Path::new("/fine"), OFlag::O_PATH).is_err());
    }

    #[test]
    fn what_a_dangling_link_names_is_made_inside() {
        let host = tempfile::tempdir().unwrap();
        let inside = host.path().join("root");
        fs::create_dir_all(inside.join("a/b")).unwrap();
        let outside = host.path().join("outside");
        symlink(&outside, inside.join("absolute")).unwrap();
        symlink("../c/./d", inside.join("a/b/relative")).unwrap();
        symlink("../../../..", inside.join("a/top")).unwrap();
        symlink("again", inside.join("again")).unwrap();
        let root = Root::open(&inside).unwrap();
        root.make_dir(Path::new("/absolute/y")).unwrap();
        let mapped = inside.join(outside.strip_prefix("/").unwrap());
        assert!(mapped.join("y").is_dir() && !outside.exists());
        root.make_file(Path::new("/a/b/relative/file")).unwrap();
        assert!(inside.join("a/c/d/file").is_file());
        root.make_file(Path::new("/a/top/file")).unwrap();
        assert!(inside.join("file").is_file());
        assert!(root.make_dir(Path::new("/again/x")).is_err());
        assert!(
            root.make_dir(Path::new("/file/x")).is_err(),
            "a file is in the way"
        );
    }

    #[test]
    fn paths_are_cleaned() {
        for (from, to) in [("/a/../b", "/b"), ("a/./b", "/a/b"), ("/../..", "/"), ("", "/")] {
            assert_eq!(clean(Path::new(from)), Path::new(to));
        }
    }
}

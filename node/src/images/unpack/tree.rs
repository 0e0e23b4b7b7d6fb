//! The tree a layer is unpacked into. Every path is resolved by the kernel beneath the tree's root
//! (openat2 RESOLVE_BENEATH), whatever symlinks the archive has made meanwhile; leaves are never followed.

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::UnpackError;
use super::stream::Entry;
use crate::removal;

/// Longest path an entry may have; the kernel's own PATH_MAX.
const MAX_PATH_BYTES: usize = 4096;
/// Longest list of names of attributes, and longest attribute, that the kernel gives (xattr(7)).
const MAX_XATTR_BYTES: usize = 1 << 16;
/// overlayfs's mark for "hides everything below" (kernel, filesystems/overlayfs.rst).
pub const OPAQUE: &str = "trusted.overlay.opaque";

/// A path inside the tree: plain components only. Empty means the root itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inside {
    components: Vec<OsString>,
}

impl Inside {
    /// Takes apart a path from an archive.
    ///
    /// # Errors
    /// It is absolute, climbs, or is no path.
    pub fn parse(bytes: &[u8]) -> Result<Self, UnpackError> {
        let refuse = || UnpackError::Path(String::from_utf8_lossy(bytes).into_owned());
        if bytes.is_empty() || bytes.len() > MAX_PATH_BYTES || bytes[0] == b'/' || bytes.contains(&0) {
            return Err(refuse());
        }
        let mut components = Vec::new();
        for part in bytes.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => {}
                b".." => return Err(refuse()),
                part => components.push(OsString::from_vec(part.to_vec())),
            }
        }
        Ok(Self { components })
    }

    /// Directory and leaf; none for the root itself.
    pub fn split(&self) -> Option<(Self, &OsStr)> {
        let (leaf, parent) = self.components.split_last()?;
        Some((
            Self {
                components: parent.to_vec(),
            },
            leaf,
        ))
    }

    /// `name` directly inside; `name` must be a plain component.
    pub fn child(&self, name: &[u8]) -> Self {
        let mut components = self.components.clone();
        components.push(OsString::from_vec(name.to_vec()));
        Self { components }
    }

    fn path(&self) -> PathBuf {
        if self.components.is_empty() {
            PathBuf::from(".")
        } else {
            self.components.iter().collect()
        }
    }
}

/// A directory being filled.
pub struct Tree {
    root: OwnedFd,
    /// Times of directories, set at the end because filling a directory changes them.
    times: Vec<(Inside, Timestamps)>,
    /// Directories made for what is in them.
    implied: BTreeSet<PathBuf>,
}

impl Tree {
    /// # Errors
    /// `root` is not a directory that can be opened.
    pub fn open(root: &Path) -> Result<Self, UnpackError> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let root = rustix::fs::openat(CWD, root, flags, Mode::empty())?;
        Ok(Self {
            root,
            times: Vec::new(),
            implied: BTreeSet::new(),
        })
    }

    /// Sets the directories' times and makes everything durable. The directories that no entry named.
    ///
    /// # Errors
    /// The disk fails.
    pub fn finish(self) -> Result<BTreeSet<PathBuf>, UnpackError> {
        self.set_times()?;
        rustix::fs::syncfs(&self.root)?;
        Ok(self.implied)
    }

    /// Gives directories the times that filling them took away.
    ///
    /// # Errors
    /// The disk fails.
    pub fn set_times(&self) -> Result<(), UnpackError> {
        for (dir, times) in self.times.iter().rev() {
            if let Ok(fd) = self.resolve(dir) {
                rustix::fs::futimens(&fd, times)?;
            }
        }
        Ok(())
    }

    /// A directory (or for `Tree::locate` its leaf's parent) beneath the root.
    fn resolve(&self, path: &Inside) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(&self.root, path.path(), flags, Mode::empty(), resolve)
    }

    /// The directory `path`, with missing ancestors made as `mkdir -p` would.
    fn ensure(&mut self, path: &Inside) -> Result<OwnedFd, UnpackError> {
        match self.resolve(path) {
            Ok(fd) => Ok(fd),
            Err(Errno::NOENT) => {
                let Some((parent, leaf)) = path.split() else {
                    return Err(Errno::NOENT.into());
                };
                let parent = self.ensure(&parent)?;
                let was_whiteout = self.clear_whiteout(&parent, leaf)?;
                rustix::fs::mkdirat(&parent, leaf, Mode::from_raw_mode(0o755))?;
                let dir = open_dir(&parent, leaf)?;
                match was_whiteout {
                    true => make_opaque(&dir)?,
                    false => drop(self.implied.insert(path.path())),
                }
                Ok(dir)
            }
            Err(errno) => Err(escape_or(errno, path)),
        }
    }

    /// The parent and leaf of an entry that is not the root.
    fn locate<'p>(&mut self, path: &'p Inside) -> Result<(OwnedFd, &'p OsStr), UnpackError> {
        let (parent, leaf) = path.split().ok_or_else(|| UnpackError::Path("/".to_owned()))?;
        Ok((self.ensure(&parent)?, leaf))
    }

    /// Makes a directory, or adopts the one that is there.
    pub fn directory(&mut self, path: &Inside, entry: &Entry) -> Result<(), UnpackError> {
        let fd = match path.split() {
            None => self.resolve(path)?,
            Some(_) => {
                let (parent, leaf) = self.locate(path)?;
                let kind = kind_of(&parent, leaf)?;
                let was_whiteout = kind == Some(FileType::CharacterDevice);
                if kind != Some(FileType::Directory) {
                    self.replace(&parent, leaf)?;
                    rustix::fs::mkdirat(&parent, leaf, Mode::from_raw_mode(0o700))?;
                }
                let fd = open_dir(&parent, leaf)?;
                if was_whiteout {
                    make_opaque(&fd)?;
                }
                fd
            }
        };
        own(&fd, entry)?;
        self.implied.remove(&path.path());
        self.times.push((path.clone(), timestamps(entry)));
        Ok(())
    }

    /// Writes a regular file of exactly `entry.size` bytes from `content`.
    pub fn file(&mut self, path: &Inside, entry: &Entry, content: &mut impl Read) -> Result<(), UnpackError> {
        let (parent, leaf) = self.locate(path)?;
        self.replace(&parent, leaf)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::openat(
            &parent,
            leaf,
            flags,
            Mode::from_raw_mode(0o600),
        )?);
        let copied = io::copy(&mut content.take(entry.size), &mut file)?;
        if copied != entry.size {
            return Err(UnpackError::Truncated);
        }
        own(&file, entry)?;
        rustix::fs::futimens(&file, &timestamps(entry))?;
        Ok(())
    }

    /// Makes a symlink; its target is only text here, and is resolved by whoever runs in the root.
    pub fn symlink(&mut self, path: &Inside, entry: &Entry, target: &[u8]) -> Result<(), UnpackError> {
        let (parent, leaf) = self.locate(path)?;
        self.replace(&parent, leaf)?;
        rustix::fs::symlinkat(OsStr::from_bytes(target), &parent, leaf)?;
        let (uid, gid) = owner(entry);
        rustix::fs::chownat(&parent, leaf, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        rustix::fs::utimensat(&parent, leaf, &timestamps(entry), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(())
    }

    /// Makes `path` another name of `target`, which must be in this tree already. A link has no attributes of its
    /// own, so nothing else is set.
    pub fn hard_link(&mut self, path: &Inside, target: &Inside) -> Result<(), UnpackError> {
        let (target_dir, target_leaf) = target.split().ok_or_else(|| UnpackError::Path("/".to_owned()))?;
        let from = self
            .resolve(&target_dir)
            .map_err(|errno| escape_or(errno, target))?;
        let kind = kind_of(&from, target_leaf)?;
        if kind.is_none() {
            return Err(UnpackError::LinkTarget(target.path()));
        }
        let (parent, leaf) = self.locate(path)?;
        if path == target {
            return Ok(());
        }
        self.replace(&parent, leaf)?;
        rustix::fs::linkat(&from, target_leaf, &parent, leaf, AtFlags::empty())
            .map_err(|_| UnpackError::LinkTarget(target.path()))
    }

    /// Makes a FIFO or device node.
    pub fn node(&mut self, path: &Inside, entry: &Entry, kind: FileType) -> Result<(), UnpackError> {
        let (parent, leaf) = self.locate(path)?;
        self.replace(&parent, leaf)?;
        let device = rustix::fs::makedev(entry.device.0, entry.device.1);
        rustix::fs::mknodat(&parent, leaf, kind, Mode::from_raw_mode(0o600), device)?;
        let (uid, gid) = owner(entry);
        rustix::fs::chownat(&parent, leaf, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        // The leaf was made just above in a directory nobody else uses: it is no symlink.
        rustix::fs::chmodat(&parent, leaf, Mode::from_raw_mode(entry.mode), AtFlags::empty())?;
        rustix::fs::utimensat(&parent, leaf, &timestamps(entry), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(())
    }

    /// Marks `dir` as hiding everything lower layers have in it.
    pub fn opaque(&mut self, dir: &Inside) -> Result<(), UnpackError> {
        make_opaque(&self.ensure(dir)?)
    }

    /// Hides `path` of the lower layers: a character device 0:0, or the opaque mark where this layer has a
    /// directory there. A file of this layer hides it already (image-spec, layer.md, "Whiteouts").
    pub fn whiteout(&mut self, path: &Inside) -> Result<(), UnpackError> {
        let (parent, leaf) = self.locate(path)?;
        match kind_of(&parent, leaf)? {
            Some(FileType::Directory) => make_opaque(&open_dir(&parent, leaf)?),
            Some(_) => Ok(()),
            None => {
                rustix::fs::mknodat(&parent, leaf, FileType::CharacterDevice, Mode::empty(), 0)?;
                Ok(())
            }
        }
    }

    /// Removes what is at `leaf`, so that an entry replaces it.
    fn replace(&self, parent: &OwnedFd, leaf: &OsStr) -> Result<(), UnpackError> {
        match kind_of(parent, leaf)? {
            None => Ok(()),
            Some(FileType::Directory) => {
                let name = CString::new(leaf.as_bytes()).map_err(io::Error::from)?;
                Ok(removal::remove_in(parent.as_fd(), &name, &removal::refuse)?)
            }
            Some(_) => Ok(rustix::fs::unlinkat(parent, leaf, AtFlags::empty())?),
        }
    }

    /// An implied directory where this layer whited something out starts empty.
    fn clear_whiteout(&self, parent: &OwnedFd, leaf: &OsStr) -> Result<bool, UnpackError> {
        let was_whiteout = kind_of(parent, leaf)? == Some(FileType::CharacterDevice);
        if was_whiteout {
            self.replace(parent, leaf)?;
        }
        Ok(was_whiteout)
    }
}

fn escape_or(errno: Errno, path: &Inside) -> UnpackError {
    match errno {
        Errno::XDEV | Errno::LOOP => UnpackError::Escape(path.path()),
        Errno::NOTDIR => UnpackError::NotADirectory(path.path()),
        other => other.into(),
    }
}

fn kind_of(parent: impl AsFd, leaf: &OsStr) -> Result<Option<FileType>, Errno> {
    match rustix::fs::statat(parent, leaf, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// A directory in `parent`, and no link to one.
pub fn open_dir(parent: impl AsFd, leaf: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, leaf, flags, Mode::empty())
}

fn make_opaque(dir: impl AsFd) -> Result<(), UnpackError> {
    rustix::fs::fsetxattr(dir, OPAQUE, b"y", XattrFlags::empty()).map_err(UnpackError::Opaque)
}

fn owner(entry: &Entry) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))
}

fn timestamps(entry: &Entry) -> Timestamps {
    let time = Timespec {
        tv_sec: entry.mtime.0,
        tv_nsec: entry.mtime.1,
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

/// Owner before mode before xattrs: chown clears set-id bits and file capabilities.
fn own(fd: impl AsFd, entry: &Entry) -> Result<(), UnpackError> {
    let (uid, gid) = owner(entry);
    rustix::fs::fchown(&fd, uid, gid)?;
    rustix::fs::fchmod(&fd, Mode::from_raw_mode(entry.mode))?;
    for (name, value) in entry.xattrs.iter().filter(|(name, _)| is_kept(name)) {
        match rustix::fs::fsetxattr(&fd, OsStr::from_bytes(name), value, XattrFlags::empty()) {
            Err(Errno::NOTSUP | Errno::PERM) => {
                tracing::debug!(xattr = %String::from_utf8_lossy(name), "xattr not supported here");
            }
            result => result?,
        }
    }
    Ok(())
}

/// Attributes a layer may bring: file capabilities, ACLs and the user's own. overlayfs's own marks could point a
/// directory at another layer's, and security labels are the host's business.
pub fn is_kept(name: &[u8]) -> bool {
    let plain_user = name.starts_with(b"user.") && !name.starts_with(b"user.overlay.");
    plain_user || name == b"security.capability" || name.starts_with(b"system.posix_acl_")
}

/// The attributes of a file that a layer may bring, with their values.
pub fn kept_attributes(file: impl AsFd) -> Result<Vec<(Vec<u8>, Vec<u8>)>, Errno> {
    let length = match rustix::fs::flistxattr(&file, &mut [0_u8; 0]) {
        Ok(0) | Err(Errno::NOTSUP) => return Ok(Vec::new()),
        found => found?,
    };
    let mut names = vec![0; length.min(MAX_XATTR_BYTES)];
    let length = rustix::fs::flistxattr(&file, &mut names)?;
    let kept = names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| is_kept(name));
    let value_of = |name: &[u8]| {
        let mut value = vec![0; MAX_XATTR_BYTES];
        let length = rustix::fs::fgetxattr(&file, OsStr::from_bytes(name), &mut value)?;
        value.truncate(length);
        Ok((name.to_vec(), value))
    };
    kept.map(value_of).collect()
}

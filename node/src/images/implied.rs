//! Directories that a layer has only because of what is in them: its archive does not name them, so what the layers below
//! say of them holds. overlayfs shows the topmost, with an owner and a mode that nobody asked for; so where a layer below
//! names one, a container's own layer gets it as it is there. Paths come from archives: no symlink of one is followed.

use std::collections::{BTreeSet, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, XattrFlags};
use rustix::io::Errno;

use super::content::{Layout, write_atomically};
use super::digest::Digest;
use super::error::StoreError;
use super::unpack::{OPAQUE, kept_attributes};
use crate::users::IDS_PER_POD;

/// Notes which directories of a layer are implied.
pub fn record(layout: &Layout, diff_id: &Digest, paths: &BTreeSet<PathBuf>) -> Result<(), StoreError> {
    if paths.is_empty() {
        return Ok(());
    }
    let list: Vec<&[u8]> = paths.iter().map(|path| path.as_os_str().as_bytes()).collect();
    let path = layout.implied().join(diff_id.hex());
    write_atomically(&path, &list.join(&0)).map_err(StoreError::io("write", &path))
}

/// What is implied in a layer.
fn list(layout: &Layout, diff_id: &Digest) -> Result<HashSet<PathBuf>, StoreError> {
    let path = layout.implied().join(diff_id.hex());
    match fs::read(&path) {
        Ok(bytes) => Ok(bytes
            .split(|byte| *byte == 0)
            .map(|name| PathBuf::from(OsStr::from_bytes(name)))
            .collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(HashSet::new()),
        Err(error) => Err(StoreError::io("read", &path)(error)),
    }
}

struct Lower {
    root: OwnedFd,
    implied: HashSet<PathBuf>,
}

/// What one layer has at a path.
enum Found {
    Nothing,
    Directory(OwnedFd),
    /// Something else, or something else on the way: nothing of the layers below is seen.
    Other,
}

/// Makes in `upper` what the layers imply and a layer below names. Where root is not the host's, it is `owner`.
pub fn settle(
    layout: &Layout,
    layers: &[Digest],
    upper: &Path,
    owner: Option<u32>,
) -> Result<(), StoreError> {
    let mut lowers = Vec::new();
    for diff_id in layers.iter().rev() {
        let path = layout.layer(diff_id);
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let root = rustix::fs::openat(CWD, &path, flags, Mode::empty());
        lowers.push(Lower {
            root: root.map_err(|errno| StoreError::io("open", &path)(errno.into()))?,
            implied: list(layout, diff_id)?,
        });
    }
    let implied: BTreeSet<&PathBuf> = lowers.iter().flat_map(|lower| &lower.implied).collect();
    for path in implied {
        let made = make(&lowers, path, upper, owner);
        made.map_err(|errno| StoreError::io("settle", &upper.join(path))(errno.into()))?;
    }
    Ok(())
}

fn make(lowers: &[Lower], path: &Path, upper: &Path, owner: Option<u32>) -> Result<(), Errno> {
    if !is_changed(lowers, path)? {
        return Ok(());
    }
    let mut ancestors: Vec<&Path> = path.ancestors().filter(|p| !p.as_os_str().is_empty()).collect();
    ancestors.reverse();
    for path in ancestors {
        let target = upper.join(path);
        let Some(shown) = named(lowers, path)?.or(first(lowers, path)?) else {
            return Ok(());
        };
        if fs::symlink_metadata(&target).is_err() {
            copy(&shown, &target, owner)?;
        }
    }
    Ok(())
}

/// Whether overlayfs would show a directory as a layer implies it, though one below names it.
fn is_changed(lowers: &[Lower], path: &Path) -> Result<bool, Errno> {
    for lower in lowers {
        match look(&lower.root, path)? {
            Found::Directory(_) => {
                return Ok(lower.implied.contains(path) && named(lowers, path)?.is_some());
            }
            Found::Nothing => {}
            Found::Other => return Ok(false),
        }
    }
    Ok(false)
}

/// The topmost directory at `path` that its layer names, if nothing above hides it.
fn named(lowers: &[Lower], path: &Path) -> Result<Option<OwnedFd>, Errno> {
    for lower in lowers {
        match look(&lower.root, path)? {
            Found::Directory(dir) if !lower.implied.contains(path) => return Ok(Some(dir)),
            Found::Directory(_) | Found::Nothing => {}
            Found::Other => return Ok(None),
        }
        for ancestor in path.ancestors().skip(1).filter(|p| !p.as_os_str().is_empty()) {
            if let Found::Directory(dir) = look(&lower.root, ancestor)?
                && is_opaque(&dir)?
            {
                return Ok(None);
            }
        }
    }
    Ok(None)
}

/// The topmost directory at `path`.
fn first(lowers: &[Lower], path: &Path) -> Result<Option<OwnedFd>, Errno> {
    for lower in lowers {
        if let Found::Directory(dir) = look(&lower.root, path)? {
            return Ok(Some(dir));
        }
    }
    Ok(None)
}

fn look(root: &OwnedFd, path: &Path) -> Result<Found, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
        Ok(dir) => Ok(Found::Directory(dir)),
        Err(Errno::NOENT) => Ok(Found::Nothing),
        Err(Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => Ok(Found::Other),
        Err(errno) => Err(errno),
    }
}

fn is_opaque(dir: &OwnedFd) -> Result<bool, Errno> {
    let mut value = [0; 1];
    match rustix::fs::fgetxattr(dir, OPAQUE, &mut value) {
        Ok(_) => Ok(value == *b"y"),
        Err(Errno::NODATA | Errno::NOTSUP) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Makes `target` with the owner, mode and attributes of a layer's directory.
fn copy(dir: &OwnedFd, target: &Path, owner: Option<u32>) -> Result<(), Errno> {
    let failed = |error: io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let stat = rustix::fs::fstat(dir)?;
    fs::create_dir(target).map_err(failed)?;
    // Layers are shown to a container whose root is not the host's with their owners moved; its own layer is not.
    let moved = |id: u32| owner.map_or(id, |first| first + id.min(IDS_PER_POD - 1));
    chown(target, Some(moved(stat.st_uid)), Some(moved(stat.st_gid))).map_err(failed)?;
    rustix::fs::chmodat(
        CWD,
        target,
        Mode::from_raw_mode(stat.st_mode),
        rustix::fs::AtFlags::empty(),
    )?;
    for (name, value) in kept_attributes(dir)? {
        rustix::fs::setxattr(target, OsStr::from_bytes(&name), &value, XattrFlags::empty())?;
    }
    Ok(())
}

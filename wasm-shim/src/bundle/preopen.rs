//! The directories a guest gets: the image's root filesystem with the bind mounts in it or, where there is none, the bind
//! mounts of directories side by side, with those of files in them.
//!
//! Owns opening them, once, and files beneath them without being led out. Refuses to know what a guest does there.

use super::BundleError;
use super::binds::{Bind, binds};
use crate::sys::{self, MountChange};
use crate::tree::{Tree, assemble};
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{Mode, SFlag, fstat};
use oci_spec::runtime::Mount;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

/// Most preopened directories: each costs a descriptor per container and one per instance.
pub const MAX_PREOPENS: usize = 128;

/// A directory the guest gets, pinned by a descriptor: what is at the path later does not matter.
#[derive(Debug)]
pub struct Preopen {
    pub directory: OwnedFd,
    pub guest_path: String,
    pub read_only: bool,
    /// The guest comes to it by its root: it is given no directory of its own for it.
    pub is_in_root: bool,
}

/// Opens the first of these that is a file of the image; the error is the last one's.
pub fn open_first(root: &OwnedFd, places: &[PathBuf]) -> nix::Result<OwnedFd> {
    let mut tried = Err(nix::Error::ENOENT);
    for place in places {
        tried = open_in(root, place);
        if tried.is_ok() {
            break;
        }
    }
    tried
}

/// Opens a file of the image; links are followed inside the image only.
fn open_in(root: &OwnedFd, path: &Path) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let file = openat2(root, path, how)?;
    if is(&file, SFlag::S_IFREG)? {
        Ok(file)
    } else {
        Err(nix::Error::EACCES)
    }
}

fn is(fd: &impl AsFd, kind: SFlag) -> nix::Result<bool> {
    Ok(SFlag::from_bits_truncate(fstat(fd)?.st_mode) & SFlag::S_IFMT == kind)
}

/// Opens a directory of the host without reading from it.
fn open_path(path: &Path) -> nix::Result<OwnedFd> {
    open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
}

/// A directory as a mount of a native container would show it: nothing is moved or linked from one to another (`EXDEV`), though
/// both may lie in one file system, and later mounts of the host do not come into it. Where none can be made, and where the
/// mount is to follow the host's, the directory itself.
fn apart(directory: OwnedFd, bind: &Bind) -> OwnedFd {
    if bind.follows {
        return directory;
    }
    let copy = sys::clone_mounts(Some(directory.as_fd()), Path::new(""), bind.whole);
    let private = |mount| sys::change_mount(&mount, MountChange::Private, bind.whole).map(|()| mount);
    match copy.and_then(private) {
        Ok(mount) => mount,
        Err(error) => {
            tracing::debug!(%error, "a directory is given without a mount of its own");
            directory
        }
    }
}

/// What a guest is given: its root, in which all bind mounts are, if the image has one, and each directory among them. WASI
/// preopens are directories: without a root a file that is mounted in none of them has no place and is left out.
pub fn preopens(
    mounts: &[Mount],
    rootfs: Option<OwnedFd>,
    read_only_root: bool,
) -> Result<Vec<Preopen>, BundleError> {
    if mounts.len() > MAX_PREOPENS {
        return Err(BundleError::TooManyMounts(mounts.len()));
    }
    let binds = binds(mounts);
    let (directories, files) = by_kind(&binds)?;
    let is_in_root = rootfs.is_some();
    let mut all = Vec::new();
    if let Some(directory) = rootfs {
        all.push(Preopen {
            directory,
            guest_path: "/".to_owned(),
            read_only: read_only_root && binds.iter().all(|bind| bind.read_only),
            is_in_root: false,
        });
    }
    let inside: Vec<Vec<Bind>> = directories
        .iter()
        .map(|(bind, _)| files_in(bind, &directories, &files))
        .collect();
    for ((bind, directory), inside) in directories.into_iter().zip(inside) {
        let is_plain = is_in_root || inside.is_empty();
        all.push(Preopen {
            guest_path: bind.destination.to_string_lossy().into_owned(),
            read_only: bind.read_only && inside.iter().all(|file| file.read_only),
            directory: if is_plain {
                apart(directory, bind)
            } else {
                assemble(Tree::of_bind(bind, inside))?
            },
            is_in_root,
        });
    }
    Ok(all)
}

type ByKind<'a> = (Vec<(&'a Bind, OwnedFd)>, Vec<&'a Bind>);

/// The directories among the sources, opened, and the files. Anything else is left out.
fn by_kind(binds: &[Bind]) -> Result<ByKind<'_>, BundleError> {
    let (mut directories, mut files) = (Vec::new(), Vec::new());
    for bind in binds {
        let opened = open_path(&bind.source).map_err(failed(bind))?;
        if is(&opened, SFlag::S_IFDIR).map_err(failed(bind))? {
            directories.push((bind, opened));
        } else if is(&opened, SFlag::S_IFREG).map_err(failed(bind))? {
            files.push(bind);
        }
    }
    Ok((directories, files))
}

fn failed(bind: &Bind) -> impl Fn(nix::Error) -> BundleError {
    |error| BundleError::Mount {
        source_path: bind.source.clone(),
        destination: bind.destination.clone(),
        error,
    }
}

/// The files that are mounted in a directory, and in none that is mounted further in.
fn files_in(directory: &Bind, directories: &[(&Bind, OwnedFd)], files: &[&Bind]) -> Vec<Bind> {
    let depth = |bind: &Bind| bind.destination.components().count();
    let innermost = |file: &Bind| {
        let above = directories.iter().filter(|(bind, _)| file.is_inside(bind));
        above.map(|(bind, _)| *bind).max_by_key(|bind| depth(bind))
    };
    let own = files.iter().filter(|file| innermost(file) == Some(directory));
    own.map(|file| (*file).clone()).collect()
}

/// Opens a file by the path a guest knows it under: beneath the preopened directory that is nearest to it.
///
/// # Errors
/// `ENOENT` when no preopened directory is above it, and what opening it answers.
pub fn open_by_guest_path(preopens: &[Preopen], path: &Path) -> nix::Result<OwnedFd> {
    let nearest = preopens
        .iter()
        .filter(|preopen| path.starts_with(&preopen.guest_path))
        .max_by_key(|preopen| preopen.guest_path.len());
    let preopen = nearest.ok_or(nix::Error::ENOENT)?;
    let rest = path
        .strip_prefix(&preopen.guest_path)
        .map_err(|_| nix::Error::ENOENT)?;
    open_in(&preopen.directory, rest)
}

impl Preopen {
    /// A host path to exactly this directory.
    pub fn host_path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.directory.as_raw_fd()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_in_the_image_cannot_lead_out_of_it() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("app.wasm"), "").unwrap();
        std::os::unix::fs::symlink("/app.wasm", root.path().join("link")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", root.path().join("out")).unwrap();
        let fd = open_path(root.path()).unwrap();
        assert!(open_in(&fd, Path::new("/app.wasm")).is_ok());
        assert!(open_in(&fd, Path::new("link")).is_ok());
        assert!(open_in(&fd, Path::new("out")).is_err());
        assert!(open_in(&fd, Path::new("../../../etc/passwd")).is_err());
        assert!(open_in(&fd, Path::new("/")).is_err());
    }

    #[test]
    fn a_guests_path_is_looked_up_in_the_nearest_directory() {
        let (outer, inner) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(outer.path().join("a"), "").unwrap();
        std::fs::write(inner.path().join("b"), "").unwrap();
        let given = |directory: &Path, path: &str| Preopen {
            directory: open_path(directory).unwrap(),
            guest_path: path.to_owned(),
            read_only: true,
            is_in_root: false,
        };
        let preopens = [given(outer.path(), "/data"), given(inner.path(), "/data/sub")];
        for (path, there) in [
            ("/data/a", true),
            ("/data/sub/b", true),
            ("/data/sub/a", false),
            ("/data/sub/../a", false),
            ("/database/a", false),
            ("/a", false),
        ] {
            assert_eq!(
                open_by_guest_path(&preopens, Path::new(path)).is_ok(),
                there,
                "{path}"
            );
        }
    }
}

//! The directories a guest gets: the image's root filesystem and the bind mounts.
//!
//! Owns opening them, once, and files beneath them without being led out. Refuses to know what a guest does there.

use super::BundleError;
use crate::sys;
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
}

/// Opens a file of the image; links are followed inside the image only.
pub fn open_in(root: &OwnedFd, path: &Path) -> nix::Result<OwnedFd> {
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

/// Mounts whose submounts come and go with the host's.
const FOLLOWING: [&str; 4] = ["slave", "rslave", "shared", "rshared"];

/// A directory as a mount of a native container would show it: nothing is moved or linked from one to another (`EXDEV`), though
/// both may lie in one file system, and later mounts of the host do not come into it. Where none can be made, and where the
/// mount is to follow the host's, the directory itself.
fn apart(directory: OwnedFd, options: &[String]) -> OwnedFd {
    let has = |wanted: &str| options.iter().any(|option| option == wanted);
    if FOLLOWING.iter().any(|wanted| has(wanted)) {
        return directory;
    }
    match sys::mount_of_its_own(directory.as_fd(), has("rbind")) {
        Ok(mount) => mount,
        Err(error) => {
            tracing::debug!(%error, "a directory is given without a mount of its own");
            directory
        }
    }
}

/// Opens the image's root filesystem at `path`.
///
/// # Errors
/// When it is not there.
pub fn open_root(path: &Path) -> Result<OwnedFd, BundleError> {
    open_path(path).map_err(|error| BundleError::Root {
        path: path.to_owned(),
        error,
    })
}

/// The bind mounts of directories, and the image's root if it has one. WASI preopens are directories: a mounted file
/// (`/etc/hosts`) has no place in it and is left out.
pub fn preopens(
    mounts: &[Mount],
    rootfs: Option<OwnedFd>,
    read_only_root: bool,
) -> Result<Vec<Preopen>, BundleError> {
    if mounts.len() > MAX_PREOPENS {
        return Err(BundleError::TooManyMounts(mounts.len()));
    }
    let mut all = Vec::new();
    if let Some(directory) = rootfs {
        all.push(Preopen {
            directory: apart(directory, &[]),
            guest_path: "/".to_owned(),
            read_only: read_only_root,
        });
    }
    for mount in mounts {
        all.extend(preopen(mount)?);
    }
    Ok(all)
}

fn preopen(mount: &Mount) -> Result<Option<Preopen>, BundleError> {
    let has = |wanted: &str| mount.options().iter().flatten().any(|option| option == wanted);
    let is_bind = mount.typ().as_deref() == Some("bind") || has("bind") || has("rbind");
    let Some(source) = mount.source().as_ref().filter(|_| is_bind) else {
        return Ok(None);
    };
    let destination = mount.destination();
    let failed = |error| BundleError::Mount {
        source_path: source.clone(),
        destination: destination.clone(),
        error,
    };
    let directory = open_path(source).map_err(failed)?;
    if !is(&directory, SFlag::S_IFDIR).map_err(failed)? {
        tracing::debug!(?destination, "a mounted file is not given to a Wasm guest");
        return Ok(None);
    }
    let guest_path = destination.to_string_lossy().into_owned();
    Ok(Some(Preopen {
        directory: apart(directory, mount.options().as_deref().unwrap_or_default()),
        guest_path,
        read_only: has("ro") || has("rro"),
    }))
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
        let fd = open_root(root.path()).unwrap();
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

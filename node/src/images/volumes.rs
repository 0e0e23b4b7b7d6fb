//! Directories that an image declares as `VOLUME`: each container has its own, which it may write whatever its root is, with
//! what the image has there, as containerd's CRI plugin gives them. They are kept in the container's snapshot and go with it.
//!
//! The image is mounted to be copied from where nobody else sees it, and nothing is left of the mount when the process is killed.

use std::fs::{self, Permissions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::content::Layout;
use super::error::StoreError;
use super::image::{Image, ImageVolume};
use super::snapshot;
use super::unpack::copy_directory;
use crate::unseen;

/// How often a path is looked up while somebody on the host renames or mounts (openat2(2), EAGAIN).
const MAX_LOOKUPS: usize = 16;

/// Makes the volumes of `image` for the container `key`, but for those whose place is `taken`.
pub fn make(
    layout: &Layout,
    image: &Image,
    key: &str,
    taken: &[PathBuf],
) -> Result<Vec<ImageVolume>, StoreError> {
    let wanted = wanted(image, taken);
    if wanted.is_empty() || image.layers.is_empty() {
        return Ok(Vec::new());
    }
    let dir = snapshot::directory(layout, key)?;
    let volumes: Vec<ImageVolume> = wanted
        .into_iter()
        .enumerate()
        .map(|(number, destination)| ImageVolume {
            source: dir.join("volumes").join(number.to_string()),
            destination,
        })
        .collect();
    for volume in &volumes {
        let path = &volume.source;
        fs::create_dir_all(path).map_err(StoreError::io("create", path))?;
        // What the image does not have is a directory of root's, whatever our umask is.
        fs::set_permissions(path, Permissions::from_mode(0o755)).map_err(StoreError::io("chmod", path))?;
    }
    let shown = snapshot::view(layout, image, &dir.join("view"))?;
    let options = format!("lowerdir={}", snapshot::stacked(&shown));
    let root = dir.join("image");
    fs::create_dir_all(&root).map_err(StoreError::io("create", &root))?;
    unseen::run("volumes", || fill_all(&root, &options, image, &volumes))
        .map_err(StoreError::io("make a mount namespace for", &root))??;
    Ok(volumes)
}

/// Paths of the volumes that are not `taken`, each once.
fn wanted(image: &Image, taken: &[PathBuf]) -> Vec<PathBuf> {
    let taken: Vec<PathBuf> = taken.iter().map(|path| clean(path)).collect();
    let mut wanted: Vec<PathBuf> = image
        .config
        .volumes
        .keys()
        .map(|path| clean(Path::new(path)))
        .filter(|path| path.parent().is_some() && !taken.contains(path))
        .collect();
    wanted.sort();
    wanted.dedup();
    wanted
}

/// An absolute path without `.` and `..`, as the CRI plugin takes it.
fn clean(path: &Path) -> PathBuf {
    let mut out = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => drop(out.pop()),
            _ => {}
        }
    }
    out
}

/// Mounts the image on `root`, which is to be seen by nobody else, and fills the volumes from it.
fn fill_all(root: &Path, options: &str, image: &Image, volumes: &[ImageVolume]) -> Result<(), StoreError> {
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("overlay"), root, Some("overlay"), flags, Some(options))
        .map_err(|e| StoreError::io("mount the image at", root)(e.into()))?;
    let filled = volumes.iter().try_for_each(|volume| fill(root, image, volume));
    let unmounted = umount2(root, MntFlags::empty());
    filled.and(unmounted.map_err(|e| StoreError::io("unmount", root)(e.into())))
}

fn fill(root: &Path, image: &Image, volume: &ImageVolume) -> Result<(), StoreError> {
    let path = &volume.destination;
    let shown = root.join(path.strip_prefix("/").unwrap_or(path));
    match open_inside(root, path) {
        Ok(found) => copy_directory(&found, &volume.source).map_err(|source| StoreError::Volume {
            image: image.reference.clone(),
            path: path.clone(),
            source,
        }),
        Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(StoreError::io("open the volume", &shown)(errno.into())),
    }
}

/// A directory of the image, as a process in it would find it.
fn open_inside(root: &Path, path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, root, flags, Mode::empty())?;
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let look = || rustix::fs::openat2(&root, path, flags, Mode::empty(), inside);
    let mut looks = std::iter::repeat_with(look).take(MAX_LOOKUPS);
    let found = looks.find(|found| !matches!(found, Err(Errno::AGAIN)));
    found.unwrap_or(Err(Errno::AGAIN))
}

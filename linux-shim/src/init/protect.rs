//! Masked and read-only paths: what a container sees of the host through procfs and sysfs, and may not. What is mounted
//! over a path is looked at before and after.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sys::stat::{SFlag, fstat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};

use super::ContainerPlan;
use super::error::{During, InitError};
use super::mounts::{INERT, READ_ONLY};
use super::root::{Root, clean};
use crate::null;
use crate::sys::mount::{attach, clone_tree, new_filesystem, set_attributes};

/// What config.json has masked and read-only.
pub fn protect(root: &Root, plan: &ContainerPlan) -> Result<(), InitError> {
    let mut cover = Cover::default();
    for path in &plan.read_only {
        let step = || format!("make {path:?} read-only");
        if let Some(target) = existing(root, path).during(step)? {
            make_read_only(root, path, &target).during(step)?;
        }
    }
    for path in &plan.masked {
        let step = || format!("mask {path:?}");
        if let Some(target) = existing(root, path).during(step)? {
            cover.put(root, path, &target).during(step)?;
        }
    }
    Ok(())
}

/// What is at a path of the container now; one that is not there needs no protection.
pub(super) fn existing(root: &Root, path: &str) -> io::Result<Option<OwnedFd>> {
    match root.find(Path::new(path), OFlag::O_PATH) {
        Ok(fd) if path.starts_with("/proc/") && !is_procfs(&fd)? => through_procfs(root, path).map(Some),
        Ok(fd) => Ok(Some(fd)),
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => Ok(None),
        Err(e) => Err(e),
    }
}

/// What config.json has mounted on a path of procfs, whose own names nobody can change.
fn through_procfs(root: &Root, path: &str) -> io::Result<OwnedFd> {
    let path = clean(Path::new(path));
    let proc = root.find(Path::new("/proc"), OFlag::O_PATH)?;
    match path.strip_prefix("/proc") {
        Ok(inside) if is_procfs(&proc)? => Root::of(proc).find(inside, OFlag::O_PATH),
        _ => Err(io::Error::other("the path does not lead to procfs")),
    }
}

fn is_procfs(fd: &OwnedFd) -> io::Result<bool> {
    Ok(fstatfs(fd)?.filesystem_type() == PROC_SUPER_MAGIC)
}

/// What masked paths are covered with: the null device (see [`null`]), and an empty read-only directory.
#[derive(Debug, Default)]
pub(super) struct Cover {
    /// The first cover of a directory, once attached: later ones are copies of it.
    directory: Option<OwnedFd>,
}

impl Cover {
    /// Makes what a path led to unreadable.
    pub(super) fn put(&mut self, root: &Root, path: &str, target: &OwnedFd) -> io::Result<()> {
        let kind = SFlag::from_bits_truncate(fstat(target)?.st_mode) & SFlag::S_IFMT;
        let is_directory = kind == SFlag::S_IFDIR;
        let tree = match is_directory {
            true => self.directory()?,
            false => null::tree()?,
        };
        attach(tree.as_fd(), target.as_fd())?;
        root.verify(Path::new(path), &tree)?;
        if is_directory {
            self.directory.get_or_insert(tree);
        }
        Ok(())
    }

    fn directory(&self) -> io::Result<OwnedFd> {
        if let Some(first) = &self.directory {
            return clone_tree(Some(first.as_fd()), Path::new(""), false);
        }
        empty_directory()
    }
}

/// A detached file system with nothing in it, for good.
pub(super) fn empty_directory() -> io::Result<OwnedFd> {
    let options = [("nr_blocks", "1"), ("nr_inodes", "1"), ("mode", "555")];
    let options = options.map(|(key, value)| (key.to_owned(), Some(value.to_owned())));
    new_filesystem("tmpfs", Some("tmpfs"), &options, INERT)
}

/// Makes what a path led to, and what is mounted below it, read-only.
pub(super) fn make_read_only(root: &Root, path: &str, target: &OwnedFd) -> io::Result<()> {
    let tree = clone_tree(Some(target.as_fd()), Path::new(""), true)?;
    set_attributes(tree.as_fd(), READ_ONLY, true)?;
    attach(tree.as_fd(), target.as_fd())?;
    root.verify(Path::new(path), &tree)
}

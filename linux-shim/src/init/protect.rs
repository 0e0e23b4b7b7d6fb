//! Masked and read-only paths: what a container sees of the host through procfs and sysfs, and may not. What is mounted
//! over a path is looked at before and after.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};

use super::ContainerPlan;
use super::error::{During, InitError};
use super::mounts::{INERT, PRIVATE, READ_ONLY};
use super::root::Root;
use crate::sys::mount::{attach, clone_tree, new_filesystem, set_attributes};

/// What config.json has masked and read-only.
pub fn protect(root: &Root, plan: &ContainerPlan) -> Result<(), InitError> {
    plan.read_only
        .iter()
        .try_for_each(|path| make_read_only(root, path))?;
    let mut cover = Cover::open()?;
    plan.masked
        .iter()
        .try_for_each(|path| mask(root, path, &mut cover))
}

/// Makes a path of the container unreadable; a path that is not there is none to hide.
fn mask(root: &Root, path: &str, cover: &mut Cover) -> Result<(), InitError> {
    let step = || format!("mask {path:?}");
    let Some(target) = existing(root, path).during(step)? else {
        return Ok(());
    };
    let kind = SFlag::from_bits_truncate(fstat(&target).during(step)?.st_mode) & SFlag::S_IFMT;
    let tree = if kind == SFlag::S_IFDIR {
        cover.directory()
    } else {
        cover.null()
    }
    .during(step)?;
    attach(tree.as_fd(), target.as_fd()).during(step)?;
    verify_mask(root, path, &tree).during(step)?;
    if kind == SFlag::S_IFDIR {
        cover.directory.get_or_insert(tree);
    }
    Ok(())
}

fn existing(root: &Root, path: &str) -> io::Result<Option<OwnedFd>> {
    match root.find(Path::new(path), OFlag::O_PATH) {
        Ok(fd) if path.starts_with("/proc/") && fstatfs(&fd)?.filesystem_type() != PROC_SUPER_MAGIC => {
            Err(io::Error::other("the path does not lead to procfs"))
        }
        Ok(fd) => Ok(Some(fd)),
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Looks again: what is seen at the path must now be the cover.
fn verify_mask(root: &Root, path: &str, cover: &OwnedFd) -> io::Result<()> {
    let seen = fstat(root.find(Path::new(path), OFlag::O_PATH)?)?;
    let want = fstat(cover)?;
    if (seen.st_dev, seen.st_ino) == (want.st_dev, want.st_ino) {
        return Ok(());
    }
    Err(io::Error::other("something else is there after masking"))
}

/// What masked paths are covered with: the host's `/dev/null`, and an empty read-only directory.
#[derive(Debug)]
struct Cover {
    null: OwnedFd,
    /// The first cover of a directory, once attached: later ones are copies of it.
    directory: Option<OwnedFd>,
}

impl Cover {
    /// Opens `/dev/null`; one that is not device 1:3 is refused (CVE-2025-31133).
    fn open() -> Result<Self, InitError> {
        let step = || "open /dev/null".to_owned();
        let null =
            nix::fcntl::open("/dev/null", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).during(step)?;
        let seen = fstat(&null).during(step)?;
        let device = SFlag::from_bits_truncate(seen.st_mode) & SFlag::S_IFMT == SFlag::S_IFCHR;
        if !device || seen.st_rdev != nix::sys::stat::makedev(1, 3) {
            return Err(InitError::Refused(
                "the host's /dev/null is not the null device".into(),
            ));
        }
        Ok(Self {
            null,
            directory: None,
        })
    }

    fn null(&self) -> io::Result<OwnedFd> {
        let tree = clone_tree(Some(self.null.as_fd()), Path::new(""), false)?;
        set_attributes(tree.as_fd(), PRIVATE, false)?;
        Ok(tree)
    }

    fn directory(&self) -> io::Result<OwnedFd> {
        if let Some(first) = &self.directory {
            return clone_tree(Some(first.as_fd()), Path::new(""), false);
        }
        let options = [("nr_blocks", "1"), ("nr_inodes", "1"), ("mode", "555")];
        let options = options.map(|(key, value)| (key.to_owned(), Some(value.to_owned())));
        new_filesystem("tmpfs", Some("tmpfs"), &options, INERT)
    }
}

/// Makes a path of the container, and what is mounted below it, read-only.
fn make_read_only(root: &Root, path: &str) -> Result<(), InitError> {
    let step = || format!("make {path:?} read-only");
    let Some(target) = existing(root, path).during(step)? else {
        return Ok(());
    };
    let tree = clone_tree(Some(target.as_fd()), Path::new(""), true).during(step)?;
    set_attributes(tree.as_fd(), READ_ONLY, true).during(step)?;
    attach(tree.as_fd(), target.as_fd()).during(step)
}

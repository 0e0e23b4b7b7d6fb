//! The null device as a container may have it: the host's, by a mount through which nothing of it can be changed.
//!
//! As far as the owner of a file goes, root in a container is root of the host. With the host's own `/dev/null` as a stream or
//! over a masked path he could take it from everybody (chmod(2)), though he has no capability at all.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::{Mode, SFlag, fstat, makedev};

use crate::sys::mount::{Attributes, clone_tree, set_attributes};

/// A detached mount of it, read-only: that forbids changes of the file, and what is written still goes nowhere.
pub fn tree() -> io::Result<OwnedFd> {
    let null = nix::fcntl::open("/dev/null", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    if !is_null(null.as_fd())? {
        // CVE-2025-31133
        return Err(io::Error::other("the host's /dev/null is not the null device"));
    }
    let tree = clone_tree(Some(null.as_fd()), Path::new(""), false)?;
    let attributes = Attributes {
        set: libc::MOUNT_ATTR_RDONLY,
        clear: 0,
        propagation: libc::MS_PRIVATE,
    };
    set_attributes(tree.as_fd(), attributes, false)?;
    Ok(tree)
}

/// Whether it is this device, by whatever name.
fn is_null(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let seen = fstat(fd)?;
    let device = SFlag::from_bits_truncate(seen.st_mode) & SFlag::S_IFMT == SFlag::S_IFCHR;
    Ok(device && seen.st_rdev == makedev(1, 3))
}

/// Opens it as a stream of a container. Who can make no mounts has it as it is: then it is not his to change either.
pub fn open(access: OFlag) -> io::Result<OwnedFd> {
    static TREE: OnceLock<OwnedFd> = OnceLock::new();
    let made = match TREE.get() {
        Some(tree) => Ok(tree),
        None => tree().map(|tree| TREE.get_or_init(|| tree)),
    };
    let place = match made {
        Ok(tree) => PathBuf::from(format!("/proc/self/fd/{}", tree.as_raw_fd())),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => PathBuf::from("/dev/null"),
        Err(error) => return Err(error),
    };
    Ok(nix::fcntl::open(
        &place,
        access | OFlag::O_CLOEXEC,
        Mode::empty(),
    )?)
}

/// A container's own of a stream given by the caller, whose null device is the host's.
pub fn harmless(stream: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    if !is_null(stream)? {
        return stream.try_clone_to_owned();
    }
    let flags = OFlag::from_bits_truncate(fcntl(stream, FcntlArg::F_GETFL)?);
    open(flags & OFlag::O_ACCMODE)
}

//! Id-mapped mounts: a bind mount whose files show other owners (mount_setattr(2), Linux 5.12).
//!
//! The kernel takes a map as a user namespace. One is made by a child that does nothing else and is gone afterwards.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::sched::CloneFlags;
use nix::sys::wait::waitpid;
use nix::unistd::pipe;

use super::error::{During, InitError};
use crate::id_map::IdMaps;
use crate::sys::clone::{SingleThread, spawn};
use crate::sys::mount::{Attributes, set_attributes_in};

/// A user namespace with these maps.
pub fn id_map_namespace(maps: &IdMaps) -> Result<File, InitError> {
    let step = || "make a user namespace for an idmapped mount".to_owned();
    let single = SingleThread::check().map_err(|e| InitError::Refused(e.to_string()))?;
    let (hold, release) = pipe().during(step)?;
    let flags = CloneFlags::CLONE_NEWUSER.bits();
    let child = spawn(&single, flags, None, |_| {
        // Without the other end in this process, its end in the parent is the end of the read.
        let _ = nix::unistd::close(release.as_raw_fd());
        i32::from(nix::unistd::read(&hold, &mut [0]).is_err())
    });
    let child = child.map_err(|e| InitError::Refused(e.to_string()))?;
    let namespace = maps
        .write(child)
        .and_then(|()| File::open(format!("/proc/{child}/ns/user")))
        .during(step);
    drop(release);
    waitpid(child, None).during(step)?;
    namespace
}

/// Maps the ids of a detached mount, and of those below it if `recursive`.
pub fn map_ids(mount: BorrowedFd<'_>, namespace: BorrowedFd<'_>, recursive: bool) -> io::Result<()> {
    let change = Attributes {
        set: libc::MOUNT_ATTR_IDMAP,
        ..Attributes::default()
    };
    set_attributes_in(mount, change, recursive, Some(namespace))
}

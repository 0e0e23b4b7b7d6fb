//! Id-mapped mounts: a bind mount whose files show other owners (mount_setattr(2), Linux 5.12).
//!
//! The kernel takes a map as a user namespace: the one a container joins, or one made by a child that does nothing
//! else and is gone afterwards.

use std::cell::OnceCell;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::sched::CloneFlags;
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, pipe};

use super::ContainerPlan;
use super::error::{During, InitError};
use crate::id_map::IdMaps;
use crate::sys::clone::{SingleThread, spawn};
use crate::sys::mount::{Attributes, set_attributes_in};

/// The maps of a container for its idmapped mounts; what the kernel takes them as is made once, when first needed.
#[derive(Debug)]
pub struct ContainerIds<'a> {
    joined: Option<&'a Path>,
    maps: Option<&'a IdMaps>,
    namespace: OnceCell<File>,
}

impl<'a> ContainerIds<'a> {
    pub fn of(plan: &'a ContainerPlan) -> Self {
        let mut joins = plan.join.iter();
        let joined = joins.find(|(kind, _)| *kind == CloneFlags::CLONE_NEWUSER);
        Self {
            joined: joined.map(|(_, path)| path.as_path()),
            maps: plan.ids.as_ref(),
            namespace: OnceCell::new(),
        }
    }

    /// Maps the ids of a detached mount by `maps`, or by the container's own; `what` is named in errors.
    pub fn map(
        &self,
        mount: &OwnedFd,
        maps: Option<&IdMaps>,
        recursive: bool,
        what: &Path,
    ) -> Result<(), InitError> {
        match maps.filter(|m| self.maps != Some(m)) {
            Some(other) => map_ids(mount.as_fd(), id_map_namespace(other)?.as_fd(), recursive),
            None => map_ids(mount.as_fd(), self.own(what)?, recursive),
        }
        .map_err(said)
        .during(|| format!("map the ids of {what:?}"))
    }

    fn own(&self, what: &Path) -> Result<BorrowedFd<'_>, InitError> {
        let made = match self.namespace.get() {
            Some(made) => made,
            None => {
                let made = self.make(what)?;
                self.namespace.get_or_init(|| made)
            }
        };
        Ok(made.as_fd())
    }

    fn make(&self, what: &Path) -> Result<File, InitError> {
        match (self.joined, self.maps) {
            (Some(path), _) => File::open(path).during(|| format!("open the user namespace {path:?}")),
            (None, Some(maps)) => id_map_namespace(maps),
            (None, None) => Err(InitError::Refused(format!(
                "{what:?} is to be idmapped, but no map is given"
            ))),
        }
    }
}

/// Which file systems can be idmapped depends on the kernel; what it answers for the others says nothing of that.
fn said(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::EINVAL) => io::Error::new(
            error.kind(),
            "its file system cannot be idmapped by this kernel; a Pod that needs it must do without hostUsers: false",
        ),
        _ => error,
    }
}

/// A user namespace with these maps.
fn id_map_namespace(maps: &IdMaps) -> Result<File, InitError> {
    let step = || "make a user namespace for an idmapped mount".to_owned();
    let single = SingleThread::check().map_err(|e| InitError::Refused(e.to_string()))?;
    let (hold, release) = pipe().during(step)?;
    let (told, tell) = pipe().during(step)?;
    let flags = CloneFlags::CLONE_NEWUSER.bits();
    let child = spawn(&single, flags, None, |_| {
        // Without the other end in this process, its end in the parent is the end of the read.
        let _ = nix::unistd::close(release.as_raw_fd());
        let said = std::fs::read_link("/proc/self")
            .and_then(|number| Ok(nix::unistd::write(&tell, number.as_os_str().as_encoded_bytes())?))
            .and_then(|_| Ok(nix::unistd::read(&hold, &mut [0])?));
        i32::from(said.is_err())
    });
    drop(tell);
    let child = child.map_err(|e| InitError::Refused(e.to_string()))?;
    let namespace = number_in_proc(&told).and_then(|number| {
        maps.write(number)?;
        File::open(format!("/proc/{number}/ns/user"))
    });
    let namespace = namespace.during(step);
    drop(release);
    waitpid(child, None).during(step)?;
    namespace
}

/// What the child is called in `/proc`, as it says itself: the number it was made by is another where `/proc` is the
/// host's and we are in a PID namespace already.
fn number_in_proc(told: &OwnedFd) -> io::Result<Pid> {
    let mut digits = [0; 16];
    let length = nix::unistd::read(told, &mut digits)?;
    let number = std::str::from_utf8(&digits[..length]).ok();
    let number = number.and_then(|number| number.parse().ok());
    number
        .map(Pid::from_raw)
        .ok_or_else(|| io::Error::other("the child has no number in /proc"))
}

/// Maps the ids of a detached mount, and of those below it if `recursive`.
fn map_ids(mount: BorrowedFd<'_>, namespace: BorrowedFd<'_>, recursive: bool) -> io::Result<()> {
    let change = Attributes {
        set: libc::MOUNT_ATTR_IDMAP,
        ..Attributes::default()
    };
    set_attributes_in(mount, change, recursive, Some(namespace))
}

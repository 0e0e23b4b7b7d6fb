//! The root file system of a container that has no mount namespace of its own: what is mounted for it is the host's to
//! see, all of it below one mount, and goes when that goes.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::mount::{MntFlags, umount2};
use serde::{Deserialize, Serialize};

/// The mount made for a container, by the number the kernel gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedRoot(u64);

impl SharedRoot {
    /// What is on top at `path` now.
    pub fn at(path: &Path) -> io::Result<Self> {
        let place = fs::File::options()
            .read(true)
            .custom_flags(libc::O_PATH)
            .open(path)?;
        let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", place.as_raw_fd()))?;
        let line = text.lines().find_map(|l| l.strip_prefix("mnt_id:"));
        let number = line.and_then(|l| l.trim().parse().ok());
        number
            .map(Self)
            .ok_or_else(|| io::Error::other("the kernel tells no mount of a descriptor"))
    }

    /// Unmounts it with everything below, if it is still what is on top at `path`.
    pub fn release(self, path: &Path) -> io::Result<()> {
        match Self::at(path) {
            Ok(seen) if seen == self => Ok(umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

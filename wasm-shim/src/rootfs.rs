//! The root filesystem of an image that has one, mounted where nobody else sees it.
//!
//! Owns the mounts of `CreateTaskRequest.rootfs`. Refuses to know images. The mounts are made by a thread that leaves
//! the mount namespace of the process and ends: what stays is a descriptor, and when that is closed (or this process
//! killed) the kernel unmounts. Nothing is left on the host.

use crate::bundle::{BundleError, open_root};
use amphipod_shim_api::api::Mount;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Why a root filesystem cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum RootfsError {
    #[error("starting the mounting thread: {0}")]
    Thread(std::io::Error),
    #[error("making a private mount namespace: {0}")]
    Namespace(nix::Error),
    #[error("making the mount point {path}: {source}")]
    Directory { path: PathBuf, source: std::io::Error },
    #[error("mounting {kind} on {path}: {error}")]
    Mount {
        kind: String,
        path: PathBuf,
        error: nix::Error,
    },
    #[error(transparent)]
    Open(#[from] BundleError),
    #[error("the mounting thread panicked")]
    Panicked,
}

/// Mounts `mounts` over each other on `target` and answers a descriptor of the result. Blocks.
///
/// # Errors
/// When a mount is refused.
pub fn mount_private(mounts: Vec<Mount>, target: PathBuf) -> Result<OwnedFd, RootfsError> {
    std::thread::Builder::new()
        .name("rootfs".into())
        .spawn(move || mount_here(&mounts, &target))
        .map_err(RootfsError::Thread)?
        .join()
        .unwrap_or(Err(RootfsError::Panicked))
}

fn mount_here(mounts: &[Mount], target: &Path) -> Result<OwnedFd, RootfsError> {
    unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).map_err(RootfsError::Namespace)?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).map_err(RootfsError::Namespace)?;
    std::fs::create_dir_all(target).map_err(|source| RootfsError::Directory {
        path: target.to_owned(),
        source,
    })?;
    mounts.iter().try_for_each(|one| mount_one(one, target))?;
    Ok(open_root(target)?)
}

fn mount_one(one: &Mount, target: &Path) -> Result<(), RootfsError> {
    let (flags, data) = split_options(&one.options);
    let failed = |error| RootfsError::Mount {
        kind: one.type_.clone(),
        path: target.to_owned(),
        error,
    };
    mount(
        Some(one.source.as_str()),
        target,
        Some(one.type_.as_str()),
        flags,
        Some(data.as_str()),
    )
    .map_err(failed)?;
    // A bind takes other flags only when it is mounted again (mount(2)).
    if flags.contains(MsFlags::MS_BIND) && flags.contains(MsFlags::MS_RDONLY) {
        let none: Option<&str> = None;
        mount(none, target, none, flags | MsFlags::MS_REMOUNT, none).map_err(failed)?;
    }
    Ok(())
}

/// fstab-style options into flags and what the filesystem itself reads (mount(8)).
fn split_options(options: &[String]) -> (MsFlags, String) {
    let mut flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
    let mut data = Vec::new();
    for option in options {
        match option.as_str() {
            "ro" => flags |= MsFlags::MS_RDONLY,
            "bind" => flags |= MsFlags::MS_BIND,
            "rbind" => flags |= MsFlags::MS_BIND | MsFlags::MS_REC,
            "noexec" => flags |= MsFlags::MS_NOEXEC,
            "rw" | "nodev" | "nosuid" | "dev" | "suid" | "exec" => {}
            other => data.push(other),
        }
    }
    (flags, data.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options() {
        let words = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<_>>();
        let (flags, data) = split_options(&words("ro,lowerdir=/a:/b,index=off"));
        assert!(flags.contains(MsFlags::MS_RDONLY) && !flags.contains(MsFlags::MS_BIND));
        assert_eq!(data, "lowerdir=/a:/b,index=off");
        assert!(
            split_options(&words("rbind"))
                .0
                .contains(MsFlags::MS_BIND | MsFlags::MS_REC)
        );
    }
}

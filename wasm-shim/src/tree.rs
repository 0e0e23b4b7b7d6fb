//! A directory tree for a guest: the root filesystem of an image that has one, or a directory of the host, with bind mounts
//! in it, put together where nobody else sees it.
//!
//! Owns the mounts of `CreateTaskRequest.rootfs`. Refuses to know images. The mounts are made by a thread that leaves
//! the mount namespace of the process and ends: what stays is a descriptor of a copy of them all, and when that is closed
//! (or this process killed) the kernel unmounts. Nothing is left on the host.

mod place;

use crate::bundle::Bind;
use crate::sys::{self, MountChange};
use amphipod_shim_api::api::Mount;
use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, SFlag, fstat};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

/// Why a tree cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    #[error("starting the mounting thread: {0}")]
    Thread(io::Error),
    #[error("making a private mount namespace: {0}")]
    Namespace(nix::Error),
    #[error("making the mount point {path}: {source}")]
    Directory { path: PathBuf, source: io::Error },
    #[error("mounting {kind} on {path}: {error}")]
    Mount {
        kind: String,
        path: PathBuf,
        error: nix::Error,
    },
    #[error("mounting {source_path} at {destination}: {error}")]
    Bind {
        source_path: PathBuf,
        destination: PathBuf,
        error: io::Error,
    },
    #[error("opening the root {path}: {error}")]
    Root { path: PathBuf, error: io::Error },
    #[error("the mounting thread panicked")]
    Panicked,
}

/// What is to be put together.
#[derive(Debug)]
pub struct Tree {
    /// Its root: a directory, or where `mounts` go.
    pub root: PathBuf,
    /// Mounted there first, over each other.
    pub mounts: Vec<Mount>,
    /// Put into it, by paths of the tree.
    pub binds: Vec<Bind>,
    /// What is not in one of the binds cannot be written.
    pub read_only: bool,
    /// What the host mounts below the root later appears too.
    pub follows: bool,
}

impl Tree {
    /// A mounted directory with what is mounted in it.
    pub fn of_bind(directory: &Bind, inside: Vec<Bind>) -> Self {
        let below = |bind: Bind| Bind {
            destination: bind
                .destination
                .strip_prefix(&directory.destination)
                .map(Path::to_owned)
                .unwrap_or_default(),
            ..bind
        };
        Self {
            root: directory.source.clone(),
            mounts: Vec::new(),
            binds: inside.into_iter().map(below).collect(),
            read_only: directory.read_only,
            follows: directory.follows,
        }
    }

    /// An image may be given what it has no place for. A directory of somebody's is not written to when it may not be.
    fn may_change(&self) -> bool {
        !self.read_only || !self.mounts.is_empty()
    }
}

/// Puts a tree together and answers a descriptor of it. Blocks.
///
/// # Errors
/// When a mount is refused.
pub fn assemble(tree: Tree) -> Result<OwnedFd, TreeError> {
    if tree.mounts.is_empty() && tree.binds.is_empty() {
        return open_root(&tree.root);
    }
    std::thread::Builder::new()
        .name("mounts".into())
        .spawn(move || assemble_here(&tree))
        .map_err(TreeError::Thread)?
        .join()
        .unwrap_or(Err(TreeError::Panicked))
}

fn assemble_here(tree: &Tree) -> Result<OwnedFd, TreeError> {
    unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).map_err(TreeError::Namespace)?;
    // What the host unmounts meanwhile goes here too; nothing of ours goes there.
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none).map_err(TreeError::Namespace)?;
    if !tree.mounts.is_empty() {
        std::fs::create_dir_all(&tree.root).map_err(|source| TreeError::Directory {
            path: tree.root.clone(),
            source,
        })?;
    }
    tree.mounts
        .iter()
        .try_for_each(|one| mount_one(one, &tree.root))?;
    let root = open_root(&tree.root)?;
    for bind in &tree.binds {
        put(bind, &root, tree.may_change()).map_err(|error| TreeError::Bind {
            source_path: bind.source.clone(),
            destination: bind.destination.clone(),
            error,
        })?;
    }
    whole(&root, tree).map_err(|error| TreeError::Root {
        path: tree.root.clone(),
        error,
    })
}

fn open_root(path: &Path) -> Result<OwnedFd, TreeError> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open(path, flags, Mode::empty()).map_err(|error| TreeError::Root {
        path: path.to_owned(),
        error: error.into(),
    })
}

fn whole(root: &OwnedFd, tree: &Tree) -> io::Result<OwnedFd> {
    let copy = sys::clone_mounts(Some(root.as_fd()), Path::new(""), true)?;
    if !tree.follows {
        let nothing_follows = tree.binds.iter().all(|bind| !bind.follows);
        sys::change_mount(&copy, MountChange::Private, nothing_follows)?;
    }
    if tree.read_only {
        sys::change_mount(&copy, MountChange::ReadOnly, false)?;
    }
    Ok(copy)
}

/// Mounts a file or directory in the tree. Anything else is left out, and so is what has no place where none can be made.
fn put(bind: &Bind, root: &OwnedFd, may_change: bool) -> io::Result<()> {
    let copy = sys::clone_mounts(None, &bind.source, bind.whole)?;
    let kind = SFlag::from_bits_truncate(fstat(&copy)?.st_mode) & SFlag::S_IFMT;
    if !matches!(kind, SFlag::S_IFDIR | SFlag::S_IFREG) {
        tracing::debug!(?bind, "neither a file nor a directory is given to a Wasm guest");
        return Ok(());
    }
    if !bind.follows {
        sys::change_mount(&copy, MountChange::Private, true)?;
    }
    if bind.read_only {
        sys::change_mount(&copy, MountChange::ReadOnly, bind.all_read_only)?;
    }
    match place::find(root, &bind.destination) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && !may_change => {
            tracing::warn!(?bind, "there is no place for it in a directory that is read-only");
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            sys::attach(&copy, &place::make(root, &bind.destination, kind)?)
        }
        found => sys::attach(&copy, &found?),
    }
}

fn mount_one(one: &Mount, target: &Path) -> Result<(), TreeError> {
    let (flags, data) = split_options(&one.options);
    let failed = |error| TreeError::Mount {
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

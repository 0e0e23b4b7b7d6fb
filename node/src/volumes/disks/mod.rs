//! Local volumes that are devices: a file system on one is mounted once on this node, where upstream has it, and shown to every Pod
//! that wants it by a bind mount (upstream's pkg/volume/local, `MountDevice`).
//!
//! Who uses one is asked of the kernel: a mount of the same file system below a Pod's directory. Nothing is written down, so a killed
//! agent leaves nothing that is wrong: what is mounted is found again, and unmounted when nobody shows it. Refuses to know Pods.

mod programs;
#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::PersistentVolume;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use rustix::fs::{FlockOperation, flock};
use tokio::sync::OwnedMutexGuard;

use self::programs::{Found, ProgramError, Programs};
use super::host::{self, HostError, at};
use super::mount_options;
use super::ownership::Group;
use super::persistent::{self, PersistentError, Source};
use crate::images::KeyedLocks;
use crate::layout::Layout;
use crate::mounts;

/// What a device becomes whose volume does not say it.
const DEFAULT_TYPE: &str = "ext4";
/// Others lock a device for a moment to look at it (udev), or for long to format it.
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(100);

/// Why a device could not be mounted.
#[derive(Debug, thiserror::Error)]
#[error("local: failed to mount device {} at {} (fstype: {kind}), error {cause}", device.display(), point.display())]
pub struct DiskError {
    device: PathBuf,
    point: PathBuf,
    kind: String,
    cause: Box<Cause>,
}

/// Why a file system did not grow.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct GrowthError(#[from] Cause);

#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error("{0:?} is no type of a file system")]
    Type(String),
    #[error("the device is locked: another program formats or checks it")]
    Locked,
    #[error("{0} is mounted there already")]
    Occupied(String),
    #[error("mount failed: this node's kernel has no such file system")]
    NoFileSystem,
    #[error("mount failed: {error}{}", of_other(on_it))]
    Mount { error: io::Error, on_it: Option<String> },
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error(transparent)]
    Host(#[from] HostError),
    #[error("mounting was given up: {0}")]
    Join(#[from] tokio::task::JoinError),
}

fn of_other(on_it: &Option<String>) -> String {
    let words = on_it
        .as_ref()
        .map(|kind| format!(" (what is on it is of type {kind})"));
    words.unwrap_or_default()
}

/// A device with, or for, a file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// The PersistentVolume's.
    name: String,
    device: PathBuf,
    kind: String,
    options: Vec<String>,
}

impl Disk {
    /// Of a `local` volume whose path is a device.
    pub fn of(volume: &PersistentVolume, read_only: bool) -> Option<Self> {
        let spec = volume.spec.as_ref()?;
        let local = spec.local.as_ref()?;
        let device = PathBuf::from(&local.path);
        let is_device = fs::metadata(&device).is_ok_and(|meta| meta.file_type().is_block_device());
        let kind = local.fs_type.as_deref().filter(|kind| !kind.is_empty());
        let mut options = spec.mount_options.clone().unwrap_or_default();
        options.extend(read_only.then(|| "ro".to_owned()));
        is_device.then(|| Disk {
            name: volume.metadata.name.clone().unwrap_or_default(),
            device,
            kind: kind.unwrap_or(DEFAULT_TYPE).to_owned(),
            options,
        })
    }

    fn failed(&self, point: &Path, cause: impl Into<Cause>) -> DiskError {
        DiskError {
            device: self.device.clone(),
            point: point.to_owned(),
            kind: self.kind.clone(),
            cause: Box::new(cause.into()),
        }
    }

    /// The type is part of a program's name.
    fn check_type(&self) -> Result<(), Cause> {
        let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        match self.kind.chars().all(is_part) {
            true => Ok(()),
            false => Err(Cause::Type(self.kind.clone())),
        }
    }

    /// The device, open and locked for this agent and the programs it has work on it
    /// (<https://systemd.io/BLOCK_DEVICE_LOCKING>).
    async fn lock(&self) -> Result<File, Cause> {
        let device = File::open(&self.device).map_err(at("open", &self.device))?;
        for _ in 0..LOCK_TRIES {
            match flock(&device, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(device),
                Err(rustix::io::Errno::WOULDBLOCK) => tokio::time::sleep(LOCK_PAUSE).await,
                Err(errno) => return Err(at("lock", &self.device)(errno.into()).into()),
            }
        }
        Err(Cause::Locked)
    }
}

/// The devices that are mounted on this node.
#[derive(Clone, Debug)]
pub struct Disks {
    layout: Layout,
    programs: Programs,
    turns: Arc<KeyedLocks>,
}

impl Disks {
    pub fn new(layout: Layout) -> Self {
        Disks {
            layout,
            programs: Programs::of_host(),
            turns: Arc::default(),
        }
    }

    /// Mounts the file system of a device, which is made if the device is empty; one that is mounted already is taken as it is.
    pub async fn mount(&self, disk: Disk) -> Result<Held, DiskError> {
        let turn = self.turns.lock(&disk.name).await;
        let held = self.held(&disk.name, turn);
        let held = held.map_err(|error| disk.failed(&self.layout.devices(), error))?;
        let point = held.point.clone();
        let failed = |cause| disk.failed(&point, cause);
        if held.has(&disk).map_err(failed)? {
            return Ok(held);
        }
        disk.check_type().map_err(failed)?;
        let device = disk.lock().await.map_err(failed)?;
        let (programs, wanted) = (self.programs.clone(), disk.clone());
        let mounted =
            tokio::task::spawn_blocking(move || held.mount(&wanted, &device, &programs).map(|()| held));
        match mounted.await {
            Ok(mounted) => mounted.map_err(failed),
            Err(given_up) => Err(failed(given_up.into())),
        }
    }

    /// Whether a device that is mounted here is what is shown at `target`, in a Pod's directory.
    ///
    /// # Errors
    /// The kernel does not say what is mounted.
    pub fn is_shown(&self, target: &Path) -> io::Result<bool> {
        let Ok(below) = target.strip_prefix(self.layout.root()) else {
            return Ok(false);
        };
        // As the kernel's table has it.
        let root = fs::canonicalize(self.layout.root())?;
        let (target, points) = (root.join(below), Layout::below(root).devices());
        let all = mounts::of_devices()?;
        let Some(shown) = all.iter().find(|mount| mount.point == target) else {
            return Ok(false);
        };
        let is_its =
            |mount: &mounts::OfDevice| mount.device == shown.device && mount.point.starts_with(&points);
        Ok(all.iter().any(is_its))
    }

    /// Grows the file system of a device to the device's size, if it is mounted.
    pub async fn grow(&self, disk: Disk) -> Result<(), GrowthError> {
        let turn = self.turns.lock(&disk.name).await;
        let held = self.held(&disk.name, turn).map_err(Cause::from)?;
        let source = held.source().map_err(Cause::from)?;
        if !source.is_some_and(|source| is_same(Path::new(&source), &disk.device)) {
            return Ok(());
        }
        let device = disk.lock().await?;
        let programs = self.programs.clone();
        let grown = tokio::task::spawn_blocking(move || {
            let source = fs::canonicalize(&disk.device).map_err(at("find", &disk.device))?;
            Ok::<(), Cause>(programs.grow(&source, &device, &held.point)?)
        });
        Ok(grown.await.map_err(Cause::from)??)
    }

    /// Unmounts what no Pod shows any more. What cannot be is tried again the next time.
    pub fn release_unused(&self) -> Result<(), HostError> {
        let points = self.layout.devices();
        let entries = match fs::read_dir(&points) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(at("list", &points))?,
        };
        for entry in entries {
            let entry = entry.map_err(at("list", &points))?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            // Who has it now sees to it.
            if let Some(turn) = self.turns.try_lock(&name) {
                drop(self.held(&name, turn)?);
            }
        }
        Ok(())
    }

    fn held(&self, name: &str, turn: OwnedMutexGuard<()>) -> Result<Held, HostError> {
        // As the kernel's table has it.
        let root = fs::canonicalize(self.layout.root()).map_err(at("find", self.layout.root()))?;
        let layout = Layout::below(root);
        Ok(Held {
            point: layout.devices().join(name),
            pods: layout.pods(),
            _turn: turn,
        })
    }
}

/// A device's turn: nobody else mounts or unmounts it. When it is over and no Pod shows the device, that is unmounted.
#[derive(Debug)]
pub struct Held {
    point: PathBuf,
    pods: PathBuf,
    _turn: OwnedMutexGuard<()>,
}

impl Held {
    /// Shows the device's files at `target`.
    pub fn show(self, target: &Path, group: Option<Group>) -> Result<(), PersistentError> {
        let path = self.point.clone();
        persistent::show(&Source::Local { path }, target, group)
    }

    /// Whether this device is mounted. Another one that was, of a volume that had the name before, is unmounted if it can be.
    fn has(&self, disk: &Disk) -> Result<bool, Cause> {
        let Some(source) = self.source()? else {
            return Ok(false);
        };
        if is_same(Path::new(&source), &disk.device) {
            return Ok(true);
        }
        self.release().map_err(at("unmount", &self.point))?;
        match self.source()? {
            Some(source) => Err(Cause::Occupied(source)),
            None => Ok(false),
        }
    }

    /// What is mounted there.
    fn source(&self) -> Result<Option<String>, HostError> {
        let all = mounts::of_devices().map_err(at("look at", &self.point))?;
        let there = all.into_iter().find(|mount| mount.point == self.point);
        Ok(there.map(|mount| mount.source))
    }

    fn mount(&self, disk: &Disk, device: &File, programs: &Programs) -> Result<(), Cause> {
        // By the kernel's name: a link may lead elsewhere while the device is mounted.
        let source = fs::canonicalize(&disk.device).map_err(at("find", &disk.device))?;
        let (flags, words) = mount_options::split(&disk.options);
        let read_only = flags.contains(MsFlags::MS_RDONLY);
        let found = programs.make_ready(&source, device, &disk.kind, read_only)?;
        host::make_dir(&self.point, 0o750)?;
        let (kind, data) = (disk.kind.as_str(), words.join(","));
        let mounted = mount(Some(&source), &self.point, Some(kind), flags, Some(data.as_str()));
        mounted.map_err(|errno| match errno {
            Errno::ENODEV => Cause::NoFileSystem,
            errno => Cause::Mount {
                error: errno.into(),
                on_it: match found {
                    Found::Type(other) if other != disk.kind => Some(other),
                    _ => None,
                },
            },
        })
    }

    /// Unmounts it unless a Pod shows it.
    fn release(&self) -> io::Result<()> {
        let all = mounts::of_devices()?;
        if let Some(own) = all.iter().find(|mount| mount.point == self.point) {
            let is_shown =
                |mount: &mounts::OfDevice| mount.device == own.device && mount.point.starts_with(&self.pods);
            if all.iter().any(is_shown) {
                return Ok(());
            }
            mounts::unmount(&self.point)?;
        }
        match fs::remove_dir(&self.point) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Err(error) = self.release() {
            tracing::warn!(%error, point = %self.point.display(), "a device stays mounted that no Pod uses; it is tried again when a Pod ends");
        }
    }
}

fn is_same(one: &Path, other: &Path) -> bool {
    let number = |path| fs::metadata(path).map(|meta: fs::Metadata| meta.rdev());
    matches!((number(one), number(other)), (Ok(one), Ok(other)) if one == other)
}

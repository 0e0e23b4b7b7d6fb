//! The volumes of a Pod that others keep: claims, exports, and what drivers publish. What is mounted stays as it is until the Pod
//! ends, so looking again costs nothing.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{CSIPersistentVolumeSource, CSIVolumeSource, Volume};

use super::context::{Context, PodDirs};
use super::drivers::{self, DriverError};
use super::expansion;
use super::uses::Uses;
use super::view::PodView;
use crate::csi::attachment::{self, AttachError};
use crate::csi::{self, CsiError, Wish};
use crate::mounts;
use crate::volumes;
use crate::volumes::claims::{self, ClaimError, Claimed};
use crate::volumes::disks::{Disk, DiskError};
use crate::volumes::host::{self, HostError};
use crate::volumes::ownership::Group;
use crate::volumes::persistent::{self, PersistentError, Source};

/// Why a volume could not be mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountingError {
    #[error(transparent)]
    Claim(#[from] ClaimError),
    #[error(transparent)]
    Driver(#[from] DriverError),
    #[error(transparent)]
    Csi(#[from] CsiError),
    #[error(transparent)]
    Attach(#[from] AttachError),
    #[error("{0}")]
    Device(Box<MountingError>),
    #[error(transparent)]
    Persistent(#[from] PersistentError),
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Host(#[from] HostError),
    #[error("mounting was given up: {0}")]
    Join(#[from] tokio::task::JoinError),
}

impl MountingError {
    /// The volume is not attached to the node yet.
    pub fn is_of_an_attachment(&self) -> bool {
        match self {
            Self::Attach(_) => true,
            Self::Device(error) => error.is_of_an_attachment(),
            _ => false,
        }
    }

    /// The step that failed, and the event for it, in upstream's words.
    pub fn words(&self) -> (&'static str, &'static str) {
        match self {
            Self::Attach(_) => ("MountVolume.WaitForAttach", "FailedMount"),
            Self::Device(error) if error.is_of_an_attachment() => {
                ("MapVolume.WaitForAttach", "FailedMapVolume")
            }
            Self::Device(_) => ("MapVolume.SetUpDevice", "FailedMapVolume"),
            Self::Disk(_) => ("MountVolume.MountDevice", "FailedMount"),
            _ => ("MountVolume.SetUp", "FailedMount"),
        }
    }
}

/// Mounts a volume that is somebody else's to keep; says whether it is of that kind.
pub async fn set_up(ctx: &Context, pod: PodView<'_>, volume: &Volume) -> Result<bool, MountingError> {
    let dirs = ctx.dirs(pod);
    if let Some(nfs) = &volume.nfs {
        let source = Source::Nfs {
            server: nfs.server.clone(),
            path: nfs.path.clone(),
            read_only: nfs.read_only == Some(true),
            options: Vec::new(),
        };
        show(source, &dirs.volumes().join(&volume.name), None).await?;
        return Ok(true);
    }
    if let Some(source) = &volume.csi {
        let target = of_csi(&dirs, volume, &volume.name)?;
        if !is_shown(&target)? {
            let wish = of_pod(ctx, pod, &volume.name, source).await?;
            ctx.csi.mount(&wish, &dirs.root, &volume.name, &target).await?;
        }
        return Ok(true);
    }
    let Some(name) = claims::name_of(pod.name(), volume) else {
        return Ok(false);
    };
    set_up_claimed(ctx, pod, volume, &name).await?;
    Ok(true)
}

/// Shows what the claim of this name has, unless it is shown already.
async fn set_up_claimed(
    ctx: &Context,
    pod: PodView<'_>,
    volume: &Volume,
    name: &str,
) -> Result<(), MountingError> {
    let dirs = ctx.dirs(pod);
    let device = dirs.devices().join(&volume.name);
    let target =
        volumes::place(&dirs.volumes(), volume).map_err(host::at("read the volumes of", &dirs.root))?;
    if device.is_symlink() || csi::is_device(&device) || is_shown(&target)? {
        return Ok(());
    }
    let client = &ctx.options.client;
    let claimed = claims::find(client, pod.pod, volume, name).await?;
    claimed.suits(&volume.name, &Uses::of(pod))?;
    let spec = claimed.volume.spec.as_ref();
    let source = spec.and_then(|spec| spec.csi.as_ref());
    if claimed.is_block() {
        let shown = match source {
            Some(source) => of_driver(ctx, pod, volume, &claimed, source, &device).await,
            None => persistent::show_device(&claimed.volume, name, &device).map_err(Into::into),
        };
        shown.map_err(|error| MountingError::Device(Box::new(error)))?;
    } else if let Some(source) = source {
        let name = claimed.volume.metadata.name.as_deref().unwrap_or(&volume.name);
        let target = of_csi(&dirs, volume, name)?;
        of_driver(ctx, pod, volume, &claimed, source, &target).await?;
    } else {
        files(ctx, pod, volume, &claimed, &target).await?;
    }
    expansion::grow(ctx, pod, volume, &claimed).await;
    Ok(())
}

/// What a driver is asked for a volume in the Pod's own object.
async fn of_pod(
    ctx: &Context,
    pod: PodView<'_>,
    name: &str,
    source: &CSIVolumeSource,
) -> Result<Wish, MountingError> {
    let mut wish = drivers::inline(&ctx.options.client, pod, name, source, group(pod)).await?;
    drivers::add_tokens(ctx, pod, &mut wish).await?;
    Ok(wish)
}

/// What the driver of a volume that is shown is asked once more.
pub async fn asked_again(
    ctx: &Context,
    pod: PodView<'_>,
    volume: &Volume,
) -> Result<Option<Wish>, MountingError> {
    if let Some(source) = &volume.csi {
        return Ok(Some(of_pod(ctx, pod, &volume.name, source).await?));
    }
    let (client, node) = (&ctx.options.client, &ctx.options.node_name);
    let Some(name) = claims::name_of(pod.name(), volume) else {
        return Ok(None);
    };
    let claimed = claims::find(client, pod.pod, volume, &name).await?;
    let spec = claimed.volume.spec.as_ref();
    let Some(source) = spec.and_then(|spec| spec.csi.as_ref()) else {
        return Ok(None);
    };
    let mut wish = drivers::persistent(client, pod, &claimed.volume, source, group(pod)).await?;
    drivers::add_tokens(ctx, pod, &mut wish).await?;
    if wish.attaches {
        wish.publish_context = attachment::wait(client, node, &wish).await?;
    }
    Ok(Some(wish))
}

/// Where a driver is to show the files of a volume that has this name outside of the Pod.
fn of_csi(dirs: &PodDirs, volume: &Volume, name: &str) -> Result<PathBuf, HostError> {
    csi::target::target(&dirs.root, &volume.name, name).map_err(host::at("read the volumes of", &dirs.root))
}

fn is_shown(target: &Path) -> Result<bool, HostError> {
    mounts::is_point(target).map_err(host::at("look at", target))
}

/// Has a driver show a claim's volume at `target`, attached first if the driver wants that.
async fn of_driver(
    ctx: &Context,
    pod: PodView<'_>,
    volume: &Volume,
    claimed: &Claimed,
    source: &CSIPersistentVolumeSource,
    target: &Path,
) -> Result<(), MountingError> {
    let (client, node) = (&ctx.options.client, &ctx.options.node_name);
    let dir = ctx.dirs(pod).root;
    let mut wish = drivers::persistent(client, pod, &claimed.volume, source, group(pod)).await?;
    drivers::add_tokens(ctx, pod, &mut wish).await?;
    if wish.attaches {
        let noted = ctx.csi.reserve(&wish, &dir, &volume.name, target).await;
        noted?;
        wish.publish_context = attachment::wait(client, node, &wish).await?;
    }
    Ok(ctx.csi.mount(&wish, &dir, &volume.name, target).await?)
}

async fn files(
    ctx: &Context,
    pod: PodView<'_>,
    volume: &Volume,
    claimed: &Claimed,
    target: &Path,
) -> Result<(), MountingError> {
    let of_claim = volume.persistent_volume_claim.as_ref();
    let read_only = of_claim.and_then(|claim| claim.read_only) == Some(true);
    let group = group(pod).filter(|_| !read_only);
    if let Some(disk) = Disk::of(&claimed.volume, read_only) {
        let held = ctx.disks.mount(disk).await?;
        let target = target.to_owned();
        return Ok(tokio::task::spawn_blocking(move || held.show(&target, group)).await??);
    }
    let source = Source::of(&claimed.volume);
    let name = claimed.volume.metadata.name.clone().unwrap_or_default();
    let source = source.ok_or(PersistentError::Unsupported(name))?;
    show(source, target, group).await
}

/// Mounting may wait for a server, changing a tree for its size.
async fn show(source: Source, target: &Path, group: Option<Group>) -> Result<(), MountingError> {
    let target = target.to_owned();
    let shown = tokio::task::spawn_blocking(move || persistent::show(&source, &target, group)).await?;
    Ok(shown?)
}

/// `fsGroup` and when it is given (`fsGroupChangePolicy`).
fn group(pod: PodView<'_>) -> Option<Group> {
    let security = pod.spec.security_context.as_ref()?;
    let id = u32::try_from(security.fs_group?).ok()?;
    let always = security.fs_group_change_policy.as_deref() != Some("OnRootMismatch");
    Some(Group { id, always })
}

//! Claims of the Pod that have grown: looked at when a volume is mounted and from then on now and then, as upstream's agent
//! does, which may not watch claims either. What goes wrong is told and tried again; it keeps no Pod from running.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Volume};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::Value;

use super::context::{Context, PodDirs};
use super::drivers::{self, DriverError};
use super::view::PodView;
use crate::csi::expansion::{self, Growth};
use crate::csi::published::Published;
use crate::csi::{CsiError, Obstacle, Wish};
use crate::events::Severity::{Normal, Warning};
use crate::quantity;
use crate::volumes;
use crate::volumes::claims::{self, Claimed};
use crate::volumes::disks::{Disk, GrowthError};

/// How often claims are looked at. Growth is a person's wish: he waits that long at most.
const EVERY: Duration = Duration::from_secs(30);
const SUCCEEDED: &str = "FileSystemResizeSuccessful";
const FAILED: &str = "VolumeResizeFailed";
const READ_ONLY: &str = "FileSystemResizeFailed";

/// Why a volume did not grow.
#[derive(Debug, thiserror::Error)]
enum ExpansionError {
    #[error(transparent)]
    Driver(#[from] DriverError),
    #[error("Expander.NodeExpand failed to expand the volume : {0}")]
    Csi(#[from] CsiError),
    #[error(transparent)]
    Disk(#[from] GrowthError),
    #[error("cannot write the status of claim {name}: {source}")]
    Write { name: String, source: Box<kube::Error> },
}

/// Who makes a volume larger on its node.
enum Expander {
    Driver(Box<Wish>),
    Disk(Disk),
    /// A directory has the room of what it is in, and a device is as large as it is.
    Nobody,
}

impl ExpansionError {
    /// Another Pod's worker, or the resizer, has written the claim since it was read: what is due then is seen at the next look.
    fn is_conflict(&self) -> bool {
        matches!(self, Self::Write { source, .. } if matches!(&**source, kube::Error::Api(status) if status.code == 409))
    }
}

/// Looks at the Pod's claims until it is dropped.
pub async fn follow(ctx: Arc<Context>, pod: Pod) {
    // Nothing here asks what it was told last.
    let pod = Pod { status: None, ..pod };
    let Some(view) = PodView::new(&pod) else { return };
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // The first is at once, when nothing is mounted yet.
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let dirs = ctx.dirs(view);
        for volume in view.spec.volumes.iter().flatten() {
            let Some(name) = claims::name_of(view.name(), volume) else {
                continue;
            };
            if !may_grow(&ctx, &dirs, volume) {
                continue;
            }
            match claims::find(&ctx.options.client, view.pod, volume, &name).await {
                Ok(claimed) => grow(&ctx, view, volume, &claimed).await,
                Err(error) => tracing::debug!(%error, "a claim was not looked at"),
            }
        }
    }
}

/// Whether the Pod is shown something of this volume that may grow meanwhile.
fn may_grow(ctx: &Context, dirs: &PodDirs, volume: &Volume) -> bool {
    if Published::exists(&dirs.root, &volume.name) {
        return true;
    }
    let target = volumes::place(&dirs.volumes(), volume);
    let shown = target.and_then(|target| ctx.disks.is_shown(&target));
    shown.unwrap_or_else(|error| {
        tracing::debug!(%error, volume = volume.name, "a volume was not looked at");
        false
    })
}

/// Lets the volume on this node follow its claim, if that is due. Only drivers' and local ones do, as upstream.
pub async fn grow(ctx: &Context, pod: PodView<'_>, volume: &Volume, claimed: &Claimed) {
    let Some(growth) = expansion::due(&claimed.claim, &claimed.volume) else {
        return;
    };
    let name = claimed.volume.name_any();
    let spec = claimed.volume.spec.as_ref();
    if !spec.is_some_and(|spec| spec.csi.is_some() || spec.local.is_some()) {
        return;
    }
    let of_claim = volume.persistent_volume_claim.as_ref();
    if of_claim.and_then(|claim| claim.read_only) == Some(true) {
        let text = format!(
            "MountVolume.NodeExpandVolume failed for volume {name:?} requested read-only file system"
        );
        ctx.recorder.pod(pod, Warning, READ_ONLY, text);
        return;
    }
    match expand(ctx, pod, volume, claimed, &growth).await {
        Ok(()) => {
            let node = &ctx.options.node_name;
            let text = format!("MountVolume.NodeExpandVolume succeeded for volume {name:?} {node}");
            ctx.recorder.pod(pod, Normal, SUCCEEDED, text.clone());
            let claim = claimed.claim.object_ref(&());
            ctx.recorder.event(claim, Normal, SUCCEEDED, text);
        }
        Err(error) if error.is_conflict() => tracing::debug!(%error, "somebody else was there first"),
        Err(error) => {
            let text = format!("NodeExpandVolume.NodeExpandVolume failed for volume {name:?} : {error}");
            ctx.recorder.pod(pod, Warning, FAILED, text);
        }
    }
}

async fn expand(
    ctx: &Context,
    pod: PodView<'_>,
    volume: &Volume,
    claimed: &Claimed,
    growth: &Growth,
) -> Result<(), ExpansionError> {
    let client = &ctx.options.client;
    let expander = expander(client, pod, claimed).await?;
    let claim = match growth.announce {
        true => write(client, &claimed.claim, expansion::announced(&claimed.claim)).await?,
        false => claimed.claim.clone(),
    };
    match expander {
        Expander::Driver(wish) => {
            let bytes = quantity::value(&growth.to).unwrap_or_default();
            let (csi, dir) = (&ctx.csi, ctx.dirs(pod).root);
            if let Err(error) = csi.expand(&wish, &dir, &volume.name, bytes).await {
                return complain(client, &claim, &wish, error).await;
            }
        }
        Expander::Disk(disk) => ctx.disks.grow(disk).await?,
        Expander::Nobody => {}
    }
    let finished = expansion::finished(&claim, &growth.to);
    write(client, &claim, finished).await.map(drop)
}

async fn expander(client: &Client, pod: PodView<'_>, claimed: &Claimed) -> Result<Expander, ExpansionError> {
    let spec = claimed.volume.spec.as_ref();
    let Some(source) = spec.and_then(|spec| spec.csi.as_ref()) else {
        let disk = Disk::of(&claimed.volume, false).filter(|_| !claimed.is_block());
        return Ok(disk.map_or(Expander::Nobody, Expander::Disk));
    };
    let wish = drivers::persistent(client, pod, &claimed.volume, source, None).await?;
    Ok(Expander::Driver(Box::new(wish)))
}

/// Notes on the claim what the driver said for good.
async fn complain(
    client: &Client,
    claim: &PersistentVolumeClaim,
    wish: &Wish,
    error: CsiError,
) -> Result<(), ExpansionError> {
    let obstacle = error.obstacle();
    tracing::warn!(%error, driver = wish.driver, volume = wish.id, ?obstacle, "a volume did not grow");
    if matches!(obstacle, Obstacle::Infeasible | Obstacle::Refused) {
        let infeasible = obstacle == Obstacle::Infeasible;
        let failed = expansion::failed(claim, &error.to_string(), infeasible, Timestamp::now());
        write(client, claim, failed).await?;
    }
    Err(error.into())
}

async fn write(
    client: &Client,
    claim: &PersistentVolumeClaim,
    change: Value,
) -> Result<PersistentVolumeClaim, ExpansionError> {
    let name = claim.name_any();
    let api: Api<PersistentVolumeClaim> =
        Api::namespaced(client.clone(), &claim.namespace().unwrap_or_default());
    let written = api
        .patch_status(&name, &PatchParams::default(), &Patch::Merge(change))
        .await;
    written.map_err(|source| ExpansionError::Write {
        name,
        source: Box::new(source),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[tokio::test]
    async fn who_comes_second_is_told_apart_from_who_may_not() {
        for (code, expected) in [(409_u16, true), (403, false)] {
            let answer = move |_: http::Request<kube::client::Body>| async move {
                let status = json!({"status": "Failure", "code": code, "message": "no"});
                let body = kube::client::Body::from(status.to_string().into_bytes());
                http::Response::builder().status(code).body(body)
            };
            let client = Client::new(tower::service_fn(answer), "default");
            let claim = serde_json::from_value(json!({"metadata": {"name": "c"}})).unwrap();
            let written = write(&client, &claim, json!({})).await;
            assert_eq!(written.unwrap_err().is_conflict(), expected, "{code}");
        }
    }
}

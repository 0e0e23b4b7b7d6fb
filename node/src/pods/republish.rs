//! Volumes whose drivers want to publish them again and again (`CSIDriver.spec.requiresRepublish`), with tokens that are good: what is
//! in a volume may be made of them. What goes wrong is told and tried again; the Pod keeps what it has.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Volume};

use super::context::Context;
use super::drivers;
use super::mounting::{self, MountingError};
use super::unmounted::{Cause, Missing};
use super::view::PodView;
use crate::csi::published::Published;
use crate::events::Severity::Warning;
use crate::volumes::claims;
use crate::volumes::host;

/// How often drivers are asked: upstream's agent does so whenever it looks at a Pod, which is after a minute at least
/// (`syncFrequency`).
const EVERY: Duration = Duration::from_secs(60);

/// Whether a driver may have published the volume.
pub fn may_concern(pod: PodView<'_>, volume: &Volume) -> bool {
    volume.csi.is_some() || claims::name_of(pod.name(), volume).is_some()
}

/// Asks drivers again until it is dropped.
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
        let volumes = view.spec.volumes.iter().flatten();
        for volume in volumes.filter(|volume| may_concern(view, volume)) {
            let Err(error) = publish(&ctx, view, volume).await else {
                continue;
            };
            let missing = Missing {
                name: volume.name.clone(),
                cause: Cause::Mounting(error),
            };
            let (reason, text) = missing.told();
            ctx.recorder.pod(view, Warning, reason, text);
        }
    }
}

async fn publish(ctx: &Arc<Context>, pod: PodView<'_>, volume: &Volume) -> Result<(), MountingError> {
    let dir = ctx.dirs(pod).root;
    let Some(held) = held(&dir, &volume.name)? else {
        return Ok(());
    };
    if !drivers::republishes(&ctx.options.client, &held.driver).await? {
        return Ok(());
    }
    let Some(wish) = mounting::asked_again(ctx, pod, volume).await? else {
        return Ok(());
    };
    let (csi, name) = (ctx.csi.clone(), volume.name.clone());
    // In a task of its own: a Pod that ends gives the volume back only when the driver has answered.
    Ok(tokio::spawn(async move { csi.republish(&wish, &dir, &name).await }).await??)
}

/// What a driver has published for the Pod under this name.
fn held(dir: &Path, volume: &str) -> Result<Option<Published>, MountingError> {
    let held = Published::load(dir, volume).map_err(host::at("read the volume of", dir))?;
    Ok(held.filter(|held| !held.waiting))
}

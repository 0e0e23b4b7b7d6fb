//! Image garbage collection: when the disk of the images is nearly full, those no container uses are removed until there is
//! room again. Thresholds and ages are the kubelet's defaults. Owns when and how much; `images` owns how.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::events::{Severity, node_reference};
use crate::host::{self, Disk};
use crate::pods::context::Context;
use crate::server::PodTable;

/// Pause between two looks, and before the first: until then it is not known what the Pods of this node use.
const INTERVAL: Duration = Duration::from_secs(300);
/// Share of the disk, in percent, from which images are removed, and to which.
pub const HIGH_PERCENT: u64 = 85;
pub const LOW_PERCENT: u64 = 80;
/// An image wanted this recently stays.
pub const IDLE: Duration = Duration::from_secs(120);

/// Looks now and then until the agent ends.
pub async fn run(ctx: Arc<Context>, node: Node) {
    let mut ticks = interval_at(Instant::now() + INTERVAL, INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let shutdown = ctx.shutdown.clone();
    let mut failed_before = false;
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        let ctx = ctx.clone();
        let collected = tokio::task::spawn_blocking({
            let ctx = ctx.clone();
            move || collect(&ctx)
        });
        match collected.await {
            Ok(None) => failed_before = false,
            Ok(Some(message)) => {
                let tell = |reason| {
                    let object = node_reference(&node);
                    ctx.recorder
                        .event(object, Severity::Warning, reason, message.clone());
                };
                tell("FreeDiskSpaceFailed");
                if failed_before {
                    tell("ImageGCFailed");
                }
                failed_before = true;
            }
            Err(error) => tracing::error!(%error, "collecting images failed"),
        }
    }
}

/// What is to be told of room that should have been made and was not, if any.
fn collect(ctx: &Context) -> Option<String> {
    if let Err(error) = ctx.images.expire() {
        tracing::warn!(%error, "what pulls left behind cannot be removed");
    }
    let dir = ctx.options.layout.data();
    let before = look(dir)?;
    if surplus(&before, HIGH_PERCENT) == 0 {
        return None;
    }
    let is_enough = || look(dir).is_some_and(|disk| surplus(&disk, LOW_PERCENT) == 0);
    match ctx.images.collect(
        &in_use(&ctx.table.pods(), |name| named(ctx, name)),
        IDLE,
        is_enough,
    ) {
        Ok(gone) => gone
            .iter()
            .for_each(|image| tracing::info!(image, "an unused image was removed: the disk is nearly full")),
        Err(error) => tracing::warn!(%error, "unused images cannot be removed"),
    }
    let after = look(dir)?;
    (surplus(&after, LOW_PERCENT) > 0).then(|| insufficient(&before, &after))
}

/// Upstream's words.
fn insufficient(before: &Disk, after: &Disk) -> String {
    let percent = 100 - before.free_bytes * 100 / before.bytes.max(1);
    let freed = after.free_bytes.saturating_sub(before.free_bytes);
    format!(
        "Insufficient free disk space on the node's image filesystem ({percent}% of {} used). Failed to free sufficient space by \
         deleting unused images (freed {freed} bytes). Investigate disk usage, as it could be used by active images, logs, volumes, or \
         other data.",
        size(before.bytes)
    )
}

#[expect(clippy::cast_precision_loss, reason = "one digit after the point is shown")]
fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut amount = bytes as f64 / 1024.0;
    let mut units = UNITS.iter();
    let mut unit = units.next();
    while amount >= 1024.0 {
        let Some(larger) = units.next() else { break };
        amount /= 1024.0;
        unit = Some(larger);
    }
    format!("{amount:.1} {}", unit.unwrap_or(&UNITS[0]))
}

/// Removes every image that no container uses: the disk is short of room.
pub fn collect_all(ctx: &Context) {
    match ctx.images.collect(
        &in_use(&ctx.table.pods(), |name| named(ctx, name)),
        Duration::ZERO,
        || false,
    ) {
        Ok(gone) => gone.iter().for_each(|image| {
            tracing::info!(image, "an unused image was removed: the disk is short of room")
        }),
        Err(error) => tracing::warn!(%error, "unused images cannot be removed"),
    }
}

fn look(dir: &Path) -> Option<Disk> {
    host::disk(dir)
        .inspect_err(|error| tracing::debug!(%error, "how full the disk is cannot be told"))
        .ok()
}

/// Bytes in use above `percent` of the disk.
fn surplus(disk: &Disk, percent: u64) -> u64 {
    let used = disk.bytes.saturating_sub(disk.free_bytes);
    used.saturating_sub(disk.bytes / 100 * percent)
}

/// What an image is recorded under.
fn named(ctx: &Context, name: &str) -> Option<String> {
    Some(ctx.images.reference(name).ok()?.to_string())
}

/// What containers of this node were made of, and what their volumes show.
fn in_use(pods: &[Arc<Pod>], named: impl Fn(&str) -> Option<String> + Copy) -> BTreeSet<String> {
    let statuses = pods.iter().filter_map(|pod| pod.status.as_ref());
    let containers = statuses.flat_map(|status| {
        let main = status.container_statuses.iter().flatten();
        let init = status.init_container_statuses.iter().flatten();
        let ephemeral = status.ephemeral_container_statuses.iter().flatten();
        main.chain(init).chain(ephemeral)
    });
    let ids = containers.map(|container| container.image_id.clone());
    ids.chain(pods.iter().flat_map(|pod| images_of_volumes(pod, named)))
        .collect()
}

/// References of images that are volumes, as the store has them; one that is none was never pulled.
fn images_of_volumes(pod: &Pod, named: impl Fn(&str) -> Option<String>) -> impl Iterator<Item = String> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let references = volumes.filter_map(|volume| volume.image.as_ref()?.reference.as_deref());
    references.filter_map(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_still_full_is_told_in_upstreams_words() {
        let disk = |free_bytes| Disk {
            bytes: 100 << 30,
            free_bytes,
            inodes: 1,
            free_inodes: 1,
        };
        let told = insufficient(&disk(10 << 30), &disk((10 << 30) + 4096));
        let begins = "Insufficient free disk space on the node's image filesystem (90% of 100.0 GiB used). Failed to free sufficient \
                      space by deleting unused images (freed 4096 bytes). ";
        assert!(told.starts_with(begins), "{told}");
        let sizes = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (1 << 20, "1.0 MiB"),
            (5 << 40, "5.0 TiB"),
            (3 << 50, "3072.0 TiB"),
        ];
        for (bytes, text) in sizes {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn room_is_made_from_the_high_mark_to_the_low_one() {
        let disk = |free_bytes| Disk {
            bytes: 1000,
            free_bytes,
            inodes: 1,
            free_inodes: 1,
        };
        for (free, high, low) in [(500, 0, 0), (170, 0, 30), (150, 0, 50), (100, 50, 100)] {
            assert_eq!(
                (
                    surplus(&disk(free), HIGH_PERCENT),
                    surplus(&disk(free), LOW_PERCENT)
                ),
                (high, low),
                "{free}"
            );
        }
    }

    fn normalised(name: &str) -> Option<String> {
        Some(name.parse::<crate::images::ImageReference>().ok()?.to_string())
    }

    #[test]
    fn images_of_all_containers_are_in_use() {
        let pod: Pod = serde_json::from_value(serde_json::json!({"status": {
            "containerStatuses": [{"name": "a", "image": "x", "imageID": "x@1", "ready": true, "restartCount": 0}],
            "initContainerStatuses": [{"name": "b", "image": "y", "imageID": "y@1", "ready": true, "restartCount": 0}],
        }}))
        .unwrap();
        let expected: BTreeSet<String> = ["x@1".to_owned(), "y@1".to_owned()].into();
        assert_eq!(in_use(&[Arc::new(pod)], normalised), expected);
    }

    #[test]
    fn images_of_volumes_are_in_use() {
        let pod: Pod = serde_json::from_value(serde_json::json!({"spec": {"containers": [], "volumes": [
            {"name": "a", "image": {"reference": "busybox"}}, {"name": "b", "image": {"reference": "NO SUCH"}},
            {"name": "c", "emptyDir": {}},
        ]}}))
        .unwrap();
        let expected: BTreeSet<String> = ["docker.io/library/busybox:latest".to_owned()].into();
        assert_eq!(in_use(&[Arc::new(pod)], normalised), expected);
    }
}

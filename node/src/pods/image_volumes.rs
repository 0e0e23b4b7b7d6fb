//! Images as volumes (KEP-4639): the files of an image, read-only, as one mount for the whole Pod. Pulled when the first
//! container that shows one starts, and refused as its own image would be.

use std::path::Path;

use k8s_openapi::api::core::v1::{Container, ImageVolumeSource, Volume};

use super::context::Context;
use super::failure::StartFailure;
use super::pull::{self, Wish};
use super::view::PodView;
use crate::images::{Image, ImageKind, Images, Rootfs, StoreError};
use crate::mounts;
use crate::volumes::host;

/// The images behind the container's mounts.
fn wanted<'a>(
    volumes: &'a [Volume],
    container: &'a Container,
) -> impl Iterator<Item = (&'a str, &'a ImageVolumeSource)> {
    let mounted = |volume: &&Volume| {
        let mut mounts = container.volume_mounts.iter().flatten();
        mounts.any(|mount| mount.name == volume.name)
    };
    let volumes = volumes.iter().filter(mounted);
    volumes.filter_map(|volume| Some((volume.name.as_str(), volume.image.as_ref()?)))
}

/// Mounts the images that the container shows.
pub async fn set_up(ctx: &Context, pod: PodView<'_>, container: &Container) -> Result<(), StartFailure> {
    let all = pod.spec.volumes.as_deref().unwrap_or_default();
    for (name, source) in wanted(all, container) {
        let wish = Wish {
            image: source.reference.as_deref().unwrap_or_default(),
            policy: source.pull_policy.as_deref(),
            kind: ImageKind::Native,
        };
        let image = pull::present(ctx, pod, container, wish).await?;
        mount(ctx, pod, name, &image).await?;
    }
    Ok(())
}

/// Mounts a volume's image once. The work keeps the lock to its end, also when nobody waits for it any more.
async fn mount(ctx: &Context, pod: PodView<'_>, name: &str, image: &Image) -> Result<(), StartFailure> {
    let target = ctx.dirs(pod).volumes().join(name);
    let (images, image, key) = (ctx.images.clone(), image.clone(), key(pod.uid(), name));
    let only_one = ctx.mounting.lock(&key).await;
    let mounting = tokio::task::spawn_blocking(move || {
        let _only_one = only_one;
        mount_once(&images, &image, &key, &target)
    });
    let mounted = mounting.await.map_err(StartFailure::create)?;
    mounted.map_err(|error| StartFailure::create(format!("image volume {name:?}: {error}")))
}

#[derive(Debug, thiserror::Error)]
enum MountError {
    #[error(transparent)]
    Host(#[from] host::HostError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the image is a Wasm module, which has no files to show")]
    NoFiles,
}

fn mount_once(images: &Images, image: &Image, key: &str, target: &Path) -> Result<(), MountError> {
    if mounts::is_point(target).map_err(host::at("look at", target))? {
        return Ok(());
    }
    let mounts = match images.prepare(image, key, None)? {
        Rootfs::Native { mounts } | Rootfs::Wasm { mounts, .. } => mounts,
    };
    if mounts.is_empty() {
        return Err(MountError::NoFiles);
    }
    for mount in mounts {
        let (kind, options) = (mount.fs_type.as_str(), mount.options.join(","));
        host::mount_read_only(&mount.source, kind, &options, target)?;
    }
    Ok(())
}

/// What the image store knows the mount by.
fn key(uid: &str, volume: &str) -> String {
    format!("volume-{uid}-{volume}")
}

/// Whether the image store knows a volume of the Pod by `key`.
pub fn is_of(key: &str, uid: &str) -> bool {
    key.starts_with(&self::key(uid, ""))
}

/// Gives the images back, when nothing is mounted any more.
pub fn release(ctx: &Context, pod: PodView<'_>) {
    let volumes = pod.spec.volumes.iter().flatten();
    for volume in volumes.filter(|volume| volume.image.is_some()) {
        let key = key(pod.uid(), &volume.name);
        if let Err(error) = ctx.images.release(&key) {
            tracing::warn!(%error, key, "cannot give back the image of a volume");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_images_that_are_mounted_are_wanted() {
        let volumes: Vec<Volume> = serde_json::from_value(json!([
            {"name": "a", "image": {"reference": "r.example/a:1"}}, {"name": "b", "image": {"reference": "r.example/b:1"}},
            {"name": "c", "emptyDir": {}}]))
        .unwrap();
        let mounts = json!([{"name": "a", "mountPath": "/a"}, {"name": "c", "mountPath": "/c"}]);
        let container: Container =
            serde_json::from_value(json!({"name": "x", "volumeMounts": mounts})).unwrap();
        let names: Vec<&str> = wanted(&volumes, &container).map(|(name, _)| name).collect();
        assert_eq!(names, ["a"]);
    }
}

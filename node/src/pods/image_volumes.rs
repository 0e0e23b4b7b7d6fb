//! Images as volumes (KEP-4639): the files of an image, read-only, as one mount for the whole Pod; as two, where it has users of
//! its own and guests, which have not. Pulled when the first container that shows one starts, and refused as its own image would be.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, ImageVolumeSource, Volume};

use super::context::Context;
use super::failure::StartFailure;
use super::pull::{self, Wish};
use super::view::PodView;
use crate::images::{Image, ImageKind, Images, StoreError};
use crate::mounts;
use crate::volumes::{Places, host, layers};

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

/// Mounts the images that the container shows, where it finds them.
pub async fn set_up(
    ctx: &Context,
    pod: PodView<'_>,
    container: &Container,
    places: Places<'_>,
) -> Result<(), StartFailure> {
    let all = pod.spec.volumes.as_deref().unwrap_or_default();
    for (name, source) in wanted(all, container) {
        let wish = Wish {
            image: source.reference.as_deref().unwrap_or_default(),
            policy: source.pull_policy.as_deref(),
            kind: ImageKind::Native,
        };
        let image = pull::present(ctx, pod, container, wish).await?;
        let volume = ImageVolume {
            image,
            key: key(pod.uid(), name, places.users.is_some()),
            users: places.users.map(Path::to_owned),
            target: places.image(name),
        };
        let mounted = mount(ctx, volume).await?;
        mounted.map_err(|error| StartFailure::create(format!("image volume {name:?}: {error}")))?;
    }
    Ok(())
}

/// An image that is to be mounted.
struct ImageVolume {
    image: Image,
    /// What the image store knows the mount by.
    key: String,
    /// The user namespace whose root is to have what is root's in the image.
    users: Option<PathBuf>,
    target: PathBuf,
}

/// Mounts a volume's image once. The work keeps the lock to its end, also when nobody waits for it any more.
async fn mount(ctx: &Context, volume: ImageVolume) -> Result<Result<(), MountError>, StartFailure> {
    let images = ctx.images.clone();
    let only_one = ctx.mounting.lock(&volume.key).await;
    let mounting = tokio::task::spawn_blocking(move || {
        let _only_one = only_one;
        mount_once(&images, &volume)
    });
    mounting.await.map_err(StartFailure::create)
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

fn mount_once(images: &Images, volume: &ImageVolume) -> Result<(), MountError> {
    let target = &volume.target;
    if mounts::is_point(target).map_err(host::at("look at", target))? {
        return Ok(());
    }
    let shown = images.show(&volume.image, &volume.key)?;
    if shown.is_empty() {
        return Err(MountError::NoFiles);
    }
    Ok(layers::show(&shown, volume.users.as_deref(), target)?)
}

/// What the image store knows a mount by. The two of one volume may be of different images, if a tag has moved on.
fn key(uid: &str, volume: &str, idmapped: bool) -> String {
    // No volume's name has a dot.
    let kind = if idmapped { ".idmapped" } else { "" };
    format!("volume-{uid}-{volume}{kind}")
}

/// Whether the image store knows a volume of the Pod by `key`.
pub fn is_of(key: &str, uid: &str) -> bool {
    key.starts_with(&self::key(uid, "", false))
}

/// Gives the images back, when nothing is mounted any more.
pub fn release(ctx: &Context, pod: PodView<'_>) {
    let volumes = pod.spec.volumes.iter().flatten();
    let images = volumes.filter(|volume| volume.image.is_some());
    let keys = images.flat_map(|volume| [false, true].map(|idmapped| key(pod.uid(), &volume.name, idmapped)));
    for key in keys {
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

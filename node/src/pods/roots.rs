//! What a container has of its own beside the Pod's volumes: its root, the files that every container gets, and the directories
//! its image declares as volumes.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Container;

use super::context::{Context, PodDirs};
use super::failure::StartFailure;
use crate::bundle::mounts::Bind;
use crate::images::{Image, ImageVolume, Rootfs};

/// Where the termination message is inside a container that names no path.
const TERMINATION_PATH: &str = "/dev/termination-log";

/// Makes the root of the container `id`, which belongs to `owner`, and the volumes of its image whose place is not `taken`.
pub async fn make(
    ctx: &Context,
    image: &Image,
    id: &str,
    owner: Option<u32>,
    taken: Vec<PathBuf>,
) -> Result<(Rootfs, Vec<Bind>), StartFailure> {
    let (images, image, key) = (ctx.images.clone(), image.clone(), id.to_owned());
    let making = tokio::task::spawn_blocking(move || {
        let rootfs = images.prepare(&image, &key, owner)?;
        Ok::<_, crate::images::StoreError>((rootfs, images.volumes(&image, &key, &taken)?))
    });
    let (rootfs, volumes) = making
        .await
        .map_err(StartFailure::create)?
        .map_err(StartFailure::create)?;
    let bind = |volume: ImageVolume| Bind::new(volume.source, volume.destination, false);
    Ok((rootfs, volumes.into_iter().map(bind).collect()))
}

/// Files every native container gets; `message` is the one for its last words.
pub fn files(dirs: &PodDirs, container: &Container, message: &Path) -> Vec<Bind> {
    let security = container.security_context.as_ref();
    let sealed = security.and_then(|s| s.read_only_root_filesystem) == Some(true);
    vec![
        Bind::new(dirs.file("etc-hosts"), "/etc/hosts", sealed),
        Bind::new(dirs.file("hostname"), "/etc/hostname", sealed),
        Bind::new(dirs.file("resolv.conf"), "/etc/resolv.conf", sealed),
        Bind::new(dirs.shm(), "/dev/shm", false),
        last_words(container, message),
    ]
}

/// The file for the container's last words, where it looks for it.
pub fn last_words(container: &Container, file: &Path) -> Bind {
    let path = container.termination_message_path.as_deref();
    let path = path.filter(|path| !path.is_empty());
    Bind::new(file, path.unwrap_or(TERMINATION_PATH), false)
}

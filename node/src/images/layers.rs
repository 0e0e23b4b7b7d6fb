//! Unpacked layers, once per diffID: complete or not there.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::content::Layout;
use super::digest::Digest;
use super::error::{PullFailure, StoreError};
use super::implied;
use super::manifest::Layer;
use super::unpack::{self, UnpackLimits};
use crate::removal;

/// Prefix of a layer being unpacked.
pub const UNFINISHED: &str = ".tmp-";
/// Hex digits of a short name: few enough for a hundred layers in one page, too many to meet by chance.
const SHORT_NAME: usize = 16;

/// A directory that is removed unless it gets its final name.
struct Unfinished {
    path: PathBuf,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Err(error) = removal::remove(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "unfinished layer left behind");
        }
    }
}

/// Unpacks `layer`, whose blob is in the store, unless that was done before. A blob that cannot be unpacked is
/// removed: it may be the disk's fault.
pub fn unpack_once(layout: &Layout, layer: &Layer, limits: &UnpackLimits) -> Result<(), PullFailure> {
    let target = layout.layer(&layer.diff_id);
    if !target.is_dir() {
        let blob = layout.blob(&layer.blob.digest);
        let unfinished = make_unfinished(layout)?;
        let implied = unpack::unpack(&blob, layer.compression, &layer.diff_id, &unfinished.path, limits)
            .map_err(|source| {
                let _ = fs::remove_file(&blob);
                PullFailure::Unpack {
                    layer: layer.blob.digest.clone(),
                    source,
                }
            })?;
        implied::record(layout, &layer.diff_id, &implied)?;
        finish(&unfinished.path, &target)?;
    }
    Ok(link(layout, &layer.diff_id)?)
}

fn make_unfinished(layout: &Layout) -> Result<Unfinished, StoreError> {
    let name = format!("{UNFINISHED}{}", uuid::Uuid::new_v4().simple());
    let path = layout.layers().join(name);
    fs::create_dir(&path).map_err(StoreError::io("create", &path))?;
    let unfinished = Unfinished { path };
    let path = &unfinished.path;
    fs::set_permissions(path, Permissions::from_mode(0o755)).map_err(StoreError::io("chmod", path))?;
    Ok(unfinished)
}

/// Another process may have been first; its layer is as good.
fn finish(unfinished: &Path, target: &Path) -> Result<(), StoreError> {
    match fs::rename(unfinished, target) {
        Err(error)
            if !matches!(
                error.kind(),
                io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists
            ) =>
        {
            Err(StoreError::io("rename", unfinished)(error))
        }
        _ => Ok(()),
    }
}

/// The layer's short name in `l/`.
pub fn short(layout: &Layout, diff_id: &Digest) -> PathBuf {
    layout.links().join(&diff_id.hex()[..SHORT_NAME])
}

/// Makes the short name of a layer.
pub fn link(layout: &Layout, diff_id: &Digest) -> Result<(), StoreError> {
    let short = short(layout, diff_id);
    let target = Path::new("../layers").join(diff_id.hex());
    match symlink(&target, &short) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let found = fs::read_link(&short).map_err(StoreError::io("read", &short))?;
            match found == target {
                true => Ok(()),
                false => Err(StoreError::io("name", &short)(error)),
            }
        }
        result => result.map_err(StoreError::io("link", &short)),
    }
}

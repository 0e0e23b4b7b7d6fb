//! A container's root filesystem: an overlay of the image's layers under a writable layer of its own. Only the
//! directories are made here; whoever runs the container mounts.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use super::content::Layout;
use super::digest::Digest;
use super::error::StoreError;
use super::image::{Image, Mount};
use super::implied;
use super::layers;
use crate::files::write_of_this_boot;
use crate::removal;

/// mount(2) takes one page of options, with its terminating NUL.
const MAX_OPTION_BYTES: usize = 4095;
/// Longest key; leaves room for the path in the options.
const MAX_KEY_BYTES: usize = 200;
/// Which layers a snapshot stands on, so that a sweep keeps them.
const LAYERS_FILE: &str = "layers.json";

/// Makes or finds the snapshot `key` on `image`. Its root belongs to `owner`, user and group, where the container's root
/// is not the host's.
pub fn prepare(layout: &Layout, image: &Image, key: &str, owner: Option<u32>) -> Result<Mount, StoreError> {
    let dir = directory(layout, key)?;
    let lower = lower_dirs(layout, &image.layers)?;
    let (upper, work) = (dir.join("fs"), dir.join("work"));
    let options = vec![
        format!("lowerdir={}", stacked(&lower)),
        format!("upperdir={}", upper.display()),
        format!("workdir={}", work.display()),
    ];
    bounded(image, options.join(",").len())?;
    found(&dir, image)?;
    for path in [&upper, &work] {
        fs::create_dir_all(path).map_err(StoreError::io("create", path))?;
    }
    // The merged root shows the upper directory's mode, whatever our umask is.
    fs::set_permissions(&upper, Permissions::from_mode(0o755)).map_err(StoreError::io("chmod", &upper))?;
    chown(&upper, owner, owner).map_err(StoreError::io("chown", &upper))?;
    implied::settle(layout, &image.layers, &upper, owner)?;
    Ok(Mount {
        fs_type: "overlay".to_owned(),
        source: "overlay".to_owned(),
        options,
    })
}

/// Makes or finds the snapshot `key`, which shows `image` itself: its layers, topmost first.
pub fn show(layout: &Layout, image: &Image, key: &str) -> Result<Vec<PathBuf>, StoreError> {
    let dir = directory(layout, key)?;
    found(&dir, image)?;
    let shown = view(layout, image, &dir.join("view"))?;
    bounded(image, format!("lowerdir={}", stacked(&shown)).len())?;
    Ok(shown)
}

/// Makes the snapshot's directory, which says what it stands on before it does.
fn found(dir: &Path, image: &Image) -> Result<(), StoreError> {
    fs::create_dir_all(dir).map_err(StoreError::io("create", dir))?;
    let layers_file = dir.join(LAYERS_FILE);
    let list = serde_json::json!(image.layers).to_string();
    write_of_this_boot(&layers_file, list.as_bytes()).map_err(StoreError::io("write", &layers_file))
}

fn bounded(image: &Image, bytes: usize) -> Result<(), StoreError> {
    if bytes <= MAX_OPTION_BYTES {
        return Ok(());
    }
    Err(StoreError::TooManyLayers {
        image: image.reference.clone(),
        count: image.layers.len(),
        bytes,
        limit: MAX_OPTION_BYTES,
    })
}

/// Lower layers of an overlay that shows `image` itself, by its own ids, with nothing to write to. `dir` is the topmost: it gets
/// what the others only imply.
pub fn view(layout: &Layout, image: &Image, dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    fs::create_dir_all(dir).map_err(StoreError::io("create", dir))?;
    fs::set_permissions(dir, Permissions::from_mode(0o755)).map_err(StoreError::io("chmod", dir))?;
    implied::settle(layout, &image.layers, dir, None)?;
    let mut shown = vec![dir.to_owned()];
    shown.extend(lower_dirs(layout, &image.layers)?);
    Ok(shown)
}

/// As the option `lowerdir` has them.
pub fn stacked(dirs: &[PathBuf]) -> String {
    let dirs: Vec<String> = dirs.iter().map(|path| path.display().to_string()).collect();
    dirs.join(":")
}

/// Lower directories, topmost first as overlayfs wants them. An image without layers stands on an empty one.
fn lower_dirs(layout: &Layout, diff_ids: &[Digest]) -> Result<Vec<PathBuf>, StoreError> {
    if diff_ids.is_empty() {
        let empty = layout.links().join("empty");
        fs::create_dir_all(&empty).map_err(StoreError::io("create", &empty))?;
        return Ok(vec![empty]);
    }
    let lower = |diff_id: &Digest| {
        if !layout.layer(diff_id).is_dir() {
            return Err(StoreError::MissingLayer(diff_id.clone()));
        }
        layers::link(layout, diff_id)?;
        Ok(layers::short(layout, diff_id))
    };
    diff_ids.iter().rev().map(lower).collect()
}

/// Where the snapshot `key` keeps what its container writes.
pub fn writable(layout: &Layout, key: &str) -> Option<PathBuf> {
    Some(directory(layout, key).ok()?.join("fs"))
}

/// Removes the snapshot `key`.
pub fn release(layout: &Layout, key: &str) -> Result<(), StoreError> {
    let dir = directory(layout, key)?;
    removal::remove(&dir).map_err(StoreError::io("remove", &dir))
}

/// All snapshots.
pub fn keys(layout: &Layout) -> Result<Vec<String>, StoreError> {
    let dir = layout.snapshots();
    let mut keys = Vec::new();
    for entry in fs::read_dir(&dir).map_err(StoreError::io("list", &dir))? {
        let name = entry.map_err(StoreError::io("list", &dir))?.file_name();
        keys.extend(name.into_string().ok());
    }
    Ok(keys)
}

/// The layers the snapshot in `dir` stands on.
pub fn layers_of(dir: &Path) -> Result<Vec<Digest>, StoreError> {
    let path = dir.join(LAYERS_FILE);
    match fs::read(&path) {
        // Empty or torn, if the machine lost power before the list was on the disk: what stood on them has ended with it.
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).unwrap_or_default()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(StoreError::Io {
            step: "read",
            path,
            source,
        }),
    }
}

/// Where the snapshot `key` is.
pub fn directory(layout: &Layout, key: &str) -> Result<PathBuf, StoreError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let usable =
        !key.is_empty() && key.len() <= MAX_KEY_BYTES && !key.starts_with('.') && key.bytes().all(plain);
    usable
        .then(|| layout.snapshots().join(key))
        .ok_or_else(|| StoreError::Key(key.to_owned()))
}

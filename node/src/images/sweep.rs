//! Removing what no image and no container needs. Only while nobody pulls into the store.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use super::content::Layout;
use super::digest::Algorithm;
use super::error::StoreError;
use super::snapshot;
use crate::removal;

/// Removes unfinished layers, and blobs and layers that neither a record nor a snapshot refers to.
pub fn sweep(layout: &Layout) -> Result<(), StoreError> {
    let images = layout.images()?;
    let blobs = images
        .iter()
        .flat_map(|image| image.blobs.iter().map(|digest| digest.hex().to_owned()));
    let mut layers: HashSet<String> = images
        .iter()
        .flat_map(|image| image.layers.iter().map(|digest| digest.hex().to_owned()))
        .collect();
    for key in snapshot::keys(layout)? {
        let needed = snapshot::layers_of(&layout.snapshots().join(key))?;
        layers.extend(needed.iter().map(|digest| digest.hex().to_owned()));
    }
    retain(&layout.records(), |name| name.ends_with(".json"))?;
    let ids: HashSet<String> = images
        .iter()
        .map(|image| format!("{}.json", image.id.hex()))
        .collect();
    retain(&layout.rights(), |name| ids.contains(name))?;
    let blobs: HashSet<String> = blobs.collect();
    for algorithm in Algorithm::ALL {
        retain(&layout.blobs(algorithm), |name| blobs.contains(name))?;
    }
    retain(&layout.layers(), |name| layers.contains(name))?;
    retain(&layout.implied(), |name| layers.contains(name))?;
    retain(&layout.links(), |name| {
        name == "empty" || layers.iter().any(|layer| layer.starts_with(name))
    })
}

fn retain(dir: &Path, keep: impl Fn(&str) -> bool) -> Result<(), StoreError> {
    for entry in fs::read_dir(dir).map_err(StoreError::io("list", dir))? {
        let entry = entry.map_err(StoreError::io("list", dir))?;
        if !entry.file_name().to_str().is_some_and(&keep) {
            let path = entry.path();
            removal::remove(&path).map_err(StoreError::io("remove", &path))?;
        }
    }
    Ok(())
}

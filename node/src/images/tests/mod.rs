//! The store against registries: Debian's `docker-registry`, and small servers that lie.

mod access;
mod algorithms;
mod hostile;
mod mirrors;
mod registry;
mod store;
mod wasm;

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::*;

/// An image made in memory: its blobs by digest, and its manifest.
#[derive(Clone)]
pub struct Sample {
    pub blobs: Vec<Vec<u8>>,
    pub manifest: Vec<u8>,
}

impl Sample {
    /// A native image of plain tar layers.
    pub fn native(layers: &[Vec<u8>], config: Value) -> Self {
        let config = json!({"os": "linux", "architecture": native_arch(), "config": config});
        Self::of_layers(layers, config)
    }

    /// An image for WASI as Docker builds them: the module is one of its files.
    pub fn wasm_of_layers(layers: &[Vec<u8>], entrypoint: &str) -> Self {
        let config = json!({"os": "wasip1", "architecture": "wasm", "config": {"Entrypoint": [entrypoint]}});
        Self::of_layers(layers, config)
    }

    fn of_layers(layers: &[Vec<u8>], mut config: Value) -> Self {
        let diff_ids: Vec<String> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
        config["rootfs"] = json!({"type": "layers", "diff_ids": diff_ids});
        let layers = layers.iter().map(|layer| (media::OCI_LAYER, layer.clone()));
        Self::of(
            media::OCI_CONFIG,
            config.to_string().into_bytes(),
            layers.collect(),
        )
    }

    /// A CNCF Wasm artifact.
    pub fn wasm(module: &[u8]) -> Self {
        let config = json!({"architecture": "wasm", "os": "wasip1"})
            .to_string()
            .into_bytes();
        Self::of(
            media::WASM_CONFIG,
            config,
            vec![(media::WASM_LAYER, module.to_vec())],
        )
    }

    pub fn of(config_type: &str, config: Vec<u8>, layers: Vec<(&str, Vec<u8>)>) -> Self {
        let descriptor = |kind: &str, bytes: &[u8]| json!({"mediaType": kind, "digest": Digest::of(bytes).to_string(), "size": bytes.len()});
        let listed: Vec<Value> = layers
            .iter()
            .map(|(kind, bytes)| descriptor(kind, bytes))
            .collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media::OCI_MANIFEST,
            "config": descriptor(config_type, &config), "layers": listed,
        });
        let blobs = std::iter::once(config)
            .chain(layers.into_iter().map(|(_, bytes)| bytes))
            .collect();
        Self {
            blobs,
            manifest: manifest.to_string().into_bytes(),
        }
    }
}

/// A tar layer of regular files.
pub fn layer(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder
            .append_data(&mut header, path, content.as_bytes())
            .unwrap();
    }
    builder.into_inner().unwrap()
}

pub fn open(dir: &Path, options: ImagesOptions) -> Images {
    Images::open(dir, options).unwrap()
}

/// The names in one of the store's directories.
pub fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Nothing half-done may be left in a store.
pub fn assert_no_leftovers(images: &Images) {
    let layout = &images.inner.layout;
    assert_eq!(names(&layout.ingest()), [""; 0]);
    assert!(names(&layout.layers()).iter().all(|name| !name.starts_with('.')));
    assert!(names(&layout.records()).iter().all(|name| !name.starts_with('.')));
}

pub fn root_or_skip() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: unpacking layers needs root");
    }
    root
}

//! What the rest of the node sees of an image: its identity, kind and configuration, and what a container gets
//! from it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::digest::Digest;

/// Which runtime an image is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ImageKind {
    /// A Linux root filesystem.
    Native,
    /// A WebAssembly module or component.
    Wasm,
}

/// An image that is complete in the node's store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// The normalised reference it was pulled by; `status.containerStatuses[].image`.
    pub reference: String,
    /// Digest of the image's config: the CRI's image id.
    pub id: Digest,
    /// Digest of what the reference resolved to (an index where there is one).
    pub digest: Digest,
    /// `registry/repository@digest`; `status.containerStatuses[].imageID`.
    pub repo_digest: String,
    /// Digest of the platform's own manifest.
    pub manifest: Digest,
    /// Compressed bytes of config and layers.
    pub size: u64,
    pub kind: ImageKind,
    /// What was wanted of an index that has both kinds; none where there was no choice.
    #[serde(default)]
    pub choice: Option<ImageKind>,
    pub config: ImageConfig,
    /// The unpacked layers, lowest first, by diffID (OCI image-spec, config.md). Empty for Wasm artifacts, which have no files.
    pub layers: Vec<Digest>,
    /// The digest of the module, which a Wasm image of layers names as its entrypoint.
    pub module: Option<Digest>,
    /// Every blob the image needs in the content store.
    pub blobs: Vec<Digest>,
}

/// An image that was pulled just now.
#[derive(Debug, Clone)]
pub struct Pulled {
    pub image: Image,
    /// How long of it others' modules were compiled first.
    pub waited: Duration,
}

/// The `config` of an OCI image configuration (image-spec, config.md); all empty for a bare Wasm artifact.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageConfig {
    #[serde(deserialize_with = "null_is_default")]
    pub user: String,
    #[serde(deserialize_with = "null_is_default")]
    pub env: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    pub entrypoint: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    pub cmd: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    pub working_dir: String,
    #[serde(deserialize_with = "null_is_default")]
    pub stop_signal: String,
    #[serde(deserialize_with = "null_is_default")]
    pub labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "null_is_default")]
    pub exposed_ports: BTreeMap<String, serde_json::Value>,
    #[serde(deserialize_with = "null_is_default")]
    pub volumes: BTreeMap<String, serde_json::Value>,
}

/// Docker writes `null` for what is unset.
fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

impl Image {
    /// Whether it is a Wasm module alone, which has no files.
    pub fn is_artifact(&self) -> bool {
        self.module.is_some() && self.layers.is_empty()
    }
}

/// What a container starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rootfs {
    /// Mounts that make the root filesystem, in the terms of the Task API's `CreateTaskRequest.rootfs`.
    Native { mounts: Vec<Mount> },
    /// The artifact's module, if it is one, the directory of compiled code, and what makes the root filesystem of an image
    /// of layers.
    Wasm {
        module: Option<StoredModule>,
        cache: PathBuf,
        mounts: Vec<Mount>,
    },
}

/// A module in the content store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredModule {
    pub file: PathBuf,
    pub digest: Digest,
}

/// One mount, as mount(8) would take it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    pub fs_type: String,
    pub source: String,
    pub options: Vec<String>,
}

/// A directory of a container that its image declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageVolume {
    pub source: PathBuf,
    pub destination: PathBuf,
}

/// Something that happened during a pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullProgress {
    /// The normalised reference being pulled.
    pub reference: String,
    pub step: PullStep,
}

/// The steps of a pull a person wants to watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PullStep {
    /// The manifest is known: these blobs will be fetched.
    Resolved {
        blobs: usize,
        total_bytes: u64,
    },
    /// `done` of `total` bytes of one blob are here.
    Fetching {
        blob: Digest,
        done: u64,
        total: u64,
    },
    Unpacking {
        layer: Digest,
    },
    /// A Wasm module is being compiled ahead of time.
    Compiling {
        module: Digest,
    },
    Done,
    Failed {
        message: String,
    },
}

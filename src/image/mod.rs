//! `amphipod image`: making OCI artifacts from what a developer has (a `.wasm`, a static executable, a directory, an
//! OCI layout, a docker archive), pushing them, pulling into a node's store, listing.
//!
//! Artifacts are reproducible: the same input gives the same digest, so pushing again uploads nothing. It refuses
//! to know clusters: where `amphipod.local` is reached is a parameter.

mod archive;
mod artifact;
pub mod cli;
mod elf;
mod layout;
mod list;
mod native;
mod source;
mod wasm;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use amphipod_node::images::{
    Digest, Distribution, Endpoints, Image, ImageReference, Images, ImagesOptions, PullError, ReferenceError,
    RegistryAuth, RegistryError, StoreError,
};

pub use self::artifact::Artifact;
pub use self::list::ls;
pub use self::native::ConfigOverrides;
pub use self::source::build;

/// What can go wrong with `amphipod image`.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("cannot {step} {}: {source}", path.display())]
    Io {
        step: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("there is no data directory {}; give the cluster's --data-dir", .0.display())]
    NoDataDir(PathBuf),
    #[error("{} is not something an image is made from: {reason}. Give a .wasm file, a static Linux executable, a directory, an OCI layout or a docker archive", path.display())]
    Source { path: PathBuf, reason: String },
    #[error("{} is not a valid Wasm module or component: {message}", path.display())]
    Wasm { path: PathBuf, message: String },
    #[error("{} is damaged: {message}", path.display())]
    Layout { path: PathBuf, message: String },
    #[error("couldn't parse image name {name:?}: {source}")]
    Reference { name: String, source: ReferenceError },
    #[error("cannot push to {name:?}: give it a tag, a digest is what the registry answers")]
    PushByDigest { name: String },
    #[error("cannot make an HTTP client: {0}")]
    Client(String),
    #[error("cannot {step} {reference}: {source}")]
    Registry {
        step: &'static str,
        reference: String,
        source: RegistryError,
    },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Pull(#[from] PullError),
    #[error("background work failed: {0}")]
    Join(#[from] tokio::task::JoinError),
}

impl ImageError {
    /// For `map_err`: names the step and the path.
    fn io<'a>(step: &'static str, path: &'a Path) -> impl FnOnce(std::io::Error) -> Self + 'a {
        move |source| Self::Io {
            step,
            path: path.to_owned(),
            source,
        }
    }
}

/// What a push tells whoever watches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PushEvent {
    /// The artifact is built: this many bytes may have to go over.
    Prepared { digest: Digest, total_bytes: u64 },
    /// The registry had the blob already.
    Skipped { bytes: u64 },
    /// Bytes handed to the connection.
    Sent { bytes: u64 },
}

/// Where push events go.
pub type PushProgress = Arc<dyn Fn(PushEvent) + Send + Sync>;

/// What to push where.
pub struct PushRequest {
    pub path: PathBuf,
    pub reference: String,
    /// How registries are reached; a mirror for `amphipod.local` makes the cluster's own registry reachable.
    pub endpoints: Endpoints,
    pub auth: RegistryAuth,
    pub config: ConfigOverrides,
    pub progress: PushProgress,
}

/// Builds the artifact at `path` and pushes it; answers the normalised reference and the manifest's digest.
///
/// # Errors
/// See [`ImageError`].
pub async fn push(request: PushRequest) -> Result<(ImageReference, Digest), ImageError> {
    let reference = parse(&request.reference)?;
    let tag = match (reference.tag(), reference.digest()) {
        (Some(tag), None) => tag.to_owned(),
        _ => {
            return Err(ImageError::PushByDigest {
                name: request.reference,
            });
        }
    };
    let (path, config) = (request.path.clone(), request.config.clone());
    let artifact = tokio::task::spawn_blocking(move || build(&path, &config)).await??;
    let digest = artifact.digest();
    (request.progress)(PushEvent::Prepared {
        digest: digest.clone(),
        total_bytes: artifact.total_bytes(),
    });
    let client =
        Distribution::new(request.endpoints).map_err(|error| ImageError::Client(error.to_string()))?;
    let upload = Upload {
        client,
        reference: &reference,
        auth: &request.auth,
        progress: &request.progress,
    };
    for blob in artifact.blobs() {
        upload.blob(blob).await?;
    }
    upload.manifests(&artifact, &tag).await?;
    Ok((reference, digest))
}

fn parse(name: &str) -> Result<ImageReference, ImageError> {
    name.parse().map_err(|source| ImageError::Reference {
        name: name.to_owned(),
        source,
    })
}

struct Upload<'a> {
    client: Distribution,
    reference: &'a ImageReference,
    auth: &'a RegistryAuth,
    progress: &'a PushProgress,
}

impl Upload<'_> {
    async fn blob(&self, blob: &artifact::Blob) -> Result<(), ImageError> {
        let present = self
            .client
            .has_blob(self.reference, &blob.digest, self.auth)
            .await;
        if present.map_err(self.failed("ask for a blob of"))? {
            (self.progress)(PushEvent::Skipped { bytes: blob.size });
            return Ok(());
        }
        let progress = self.progress.clone();
        let sent = move |bytes| progress(PushEvent::Sent { bytes });
        let pushed = self
            .client
            .push_blob(self.reference, &blob.digest, &blob.source, self.auth, sent)
            .await;
        pushed.map_err(self.failed("push a blob of"))
    }

    /// Nested manifests by digest, the top one by tag and last.
    async fn manifests(&self, artifact: &Artifact, tag: &str) -> Result<(), ImageError> {
        for (manifest, id) in artifact.manifests(tag) {
            let bytes = manifest.bytes.clone();
            let pushed = self
                .client
                .push_manifest(self.reference, &id, &manifest.media_type, bytes, self.auth)
                .await;
            pushed.map_err(self.failed("push the manifest of"))?;
        }
        Ok(())
    }

    fn failed(&self, step: &'static str) -> impl FnOnce(RegistryError) -> ImageError {
        let reference = self.reference.to_string();
        move |source| ImageError::Registry {
            step,
            reference,
            source,
        }
    }
}

/// Pulls `reference` into the node store of the cluster whose data directory is `data_dir`.
///
/// # Errors
/// See [`ImageError`].
pub async fn pull(
    reference: &str,
    data_dir: &Path,
    options: ImagesOptions,
    auth: &RegistryAuth,
) -> Result<Image, ImageError> {
    let images = Images::open(&node_store(data_dir), options)?;
    Ok(images.pull(reference, auth).await?)
}

/// `DATA/node/images` (ARCHITECTURE.md, "Data directory").
pub fn node_store(data_dir: &Path) -> PathBuf {
    data_dir.join("node/images")
}

#[cfg(test)]
mod tests;

//! What can go wrong with images, in the words a Kubernetes user reads in `waiting.message`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::digest::Digest;
use super::distribution::RegistryError;
use super::manifest::ManifestError;
use super::reference::ReferenceError;
use super::unpack::UnpackError;
use super::wasm::CompileError;

/// A pull that failed. Cheap to clone: everybody who waited for the same pull gets it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PullError {
    #[error("Failed to apply default image tag {name:?}: couldn't parse image name {name:?}: {source}")]
    InvalidName { name: String, source: ReferenceError },
    #[error("failed to pull and unpack image {reference:?}: {cause}")]
    Failed {
        reference: String,
        cause: Arc<PullFailure>,
    },
}

impl PullError {
    /// The `reason` upstream's kubelet puts in `state.waiting` (pkg/kubelet/images/types.go).
    pub fn reason(&self) -> &'static str {
        match self {
            Self::InvalidName { .. } => "InvalidImageName",
            Self::Failed { .. } => "ErrImagePull",
        }
    }

    /// Whether the image does not exist or may not be read, as far as the registry says.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Failed { cause, .. } if matches!(**cause,
            PullFailure::Resolve { source: RegistryError::NotFound { .. }, .. }))
    }
}

/// The step of a pull that failed.
#[derive(Debug, thiserror::Error)]
pub enum PullFailure {
    #[error("failed to resolve reference {reference:?}: {source}")]
    Resolve {
        reference: String,
        source: RegistryError,
    },
    #[error("failed to fetch {digest}: {source}")]
    Fetch { digest: Digest, source: RegistryError },
    #[error("unexpected content of {digest}: {source}")]
    Manifest { digest: Digest, source: ManifestError },
    #[error("failed to extract layer {layer}: {source}")]
    Unpack { layer: Digest, source: UnpackError },
    #[error(transparent)]
    Compile(#[from] CompileError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The image store on disk failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot {step} {}: {source}", path.display())]
    Io {
        step: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("image store {} cannot be used: overlayfs takes no ':' ',' or '\\' in paths; choose another data directory", path.display())]
    Path { path: PathBuf },
    #[error("image record {} is damaged ({source}); remove it and pull the image again", path.display())]
    Record {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error(
        "the {count} layers of {image} need {bytes} bytes of mount options, more than the {limit} a mount takes; use a shorter data directory or an image with fewer layers"
    )]
    TooManyLayers {
        image: String,
        count: usize,
        bytes: usize,
        limit: usize,
    },
    #[error("volume {} of {image} cannot be made: {source}", path.display())]
    Volume {
        image: String,
        path: PathBuf,
        source: UnpackError,
    },
    #[error("snapshot key {0:?} is not a plain name")]
    Key(String),
    #[error("layer {0} is gone from the image store; pull the image again")]
    MissingLayer(Digest),
    #[error("cannot prepare an HTTP client: {0}")]
    Client(String),
}

impl StoreError {
    /// For `map_err`: names the step and the path.
    pub(super) fn io<'a>(step: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self::Io {
            step,
            path: path.to_owned(),
            source,
        }
    }
}

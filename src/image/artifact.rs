//! A finished artifact: manifests, and blobs that are in memory or in files.

use std::path::Path;
use std::sync::Arc;

use amphipod_node::images::{Digest, distribution::BlobSource, media};
use serde_json::{Value, json};

use super::ImageError;

/// A blob and where its bytes are.
#[derive(Debug, Clone)]
pub struct Blob {
    pub digest: Digest,
    pub size: u64,
    pub source: BlobSource,
}

impl Blob {
    pub fn memory(bytes: Vec<u8>) -> Self {
        let bytes = bytes::Bytes::from(bytes);
        Self {
            digest: Digest::of(&bytes),
            size: bytes.len() as u64,
            source: BlobSource::Memory(bytes),
        }
    }

    /// A file whose digest is known (an OCI layout's); the registry verifies it.
    pub fn file(digest: Digest, path: &Path) -> Result<Self, ImageError> {
        let size = std::fs::metadata(path)
            .map_err(ImageError::io("read", path))?
            .len();
        Ok(Self {
            digest,
            size,
            source: BlobSource::File(path.to_owned()),
        })
    }

    pub fn descriptor(&self, media_type: &str) -> Value {
        json!({ "mediaType": media_type, "digest": self.digest.to_string(), "size": self.size })
    }
}

/// A manifest or index, byte for byte as it will be served.
#[derive(Debug, Clone)]
pub struct ManifestBytes {
    pub media_type: String,
    pub bytes: bytes::Bytes,
}

/// Everything one push uploads.
#[derive(Debug)]
pub struct Artifact {
    top: ManifestBytes,
    /// Manifests below an index, in the order they must be pushed.
    nested: Vec<ManifestBytes>,
    blobs: Vec<Blob>,
    /// Keeps unpacked archives alive while their files are pushed.
    _files: Option<Arc<tempfile::TempDir>>,
}

impl Artifact {
    /// An OCI image manifest over a config and layers.
    pub fn image(config: (Blob, &str), layers: Vec<(Blob, &str)>) -> Self {
        let layer_descriptors: Vec<Value> = layers.iter().map(|(blob, kind)| blob.descriptor(kind)).collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media::OCI_MANIFEST,
            "config": config.0.descriptor(config.1),
            "layers": layer_descriptors,
        });
        let bytes = bytes::Bytes::from(manifest.to_string());
        let top = ManifestBytes {
            media_type: media::OCI_MANIFEST.to_owned(),
            bytes,
        };
        let blobs = std::iter::once(config.0)
            .chain(layers.into_iter().map(|(blob, _)| blob))
            .collect();
        Self::new(top, Vec::new(), blobs)
    }

    pub fn new(top: ManifestBytes, nested: Vec<ManifestBytes>, blobs: Vec<Blob>) -> Self {
        Self {
            top,
            nested,
            blobs,
            _files: None,
        }
    }

    /// Ties the life of unpacked files to the artifact.
    pub fn with_files(self, files: tempfile::TempDir) -> Self {
        Self {
            _files: Some(Arc::new(files)),
            ..self
        }
    }

    /// What the registry will know it by.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.top.bytes)
    }

    pub fn blobs(&self) -> &[Blob] {
        &self.blobs
    }

    pub fn total_bytes(&self) -> u64 {
        self.blobs.iter().map(|blob| blob.size).sum()
    }

    /// Manifests with the name each is pushed under.
    pub fn manifests<'a>(&'a self, tag: &'a str) -> impl Iterator<Item = (&'a ManifestBytes, String)> {
        let nested = self
            .nested
            .iter()
            .map(|manifest| (manifest, Digest::of(&manifest.bytes).to_string()));
        nested.chain(std::iter::once((&self.top, tag.to_owned())))
    }
}

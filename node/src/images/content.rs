//! The content store: blobs by digest under `content/blobs/<algorithm>/`. A blob has its final name only when every
//! byte was hashed and is on disk.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::digest::{Algorithm, Digest};
use super::error::StoreError;

/// Paths of the store; see ARCHITECTURE.md, "Data directory".
#[derive(Debug, Clone)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// Creates what is missing below `root`.
    ///
    /// # Errors
    /// The directories cannot be made, or overlayfs could not use their paths.
    pub fn create(root: &Path) -> Result<Self, StoreError> {
        fs::create_dir_all(root).map_err(StoreError::io("create", root))?;
        let root = root.canonicalize().map_err(StoreError::io("resolve", root))?;
        let unusable = |c: char| matches!(c, ':' | ',' | '\\');
        if root.to_str().is_none_or(|text| text.contains(unusable)) {
            return Err(StoreError::Path { path: root });
        }
        let layout = Self { root };
        let blobs = Algorithm::ALL.map(|algorithm| layout.blobs(algorithm));
        let others = [
            layout.ingest(),
            layout.layers(),
            layout.implied(),
            layout.links(),
            layout.snapshots(),
            layout.records(),
            layout.rights(),
            layout.wasm_cache(),
        ];
        for dir in blobs.into_iter().chain(others) {
            fs::create_dir_all(&dir).map_err(StoreError::io("create", &dir))?;
        }
        Ok(layout)
    }

    pub fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    pub fn blobs(&self, algorithm: Algorithm) -> PathBuf {
        self.root.join("content/blobs").join(algorithm.name())
    }

    pub fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs(digest.algorithm()).join(digest.hex())
    }

    /// Content on its way in.
    pub fn ingest(&self) -> PathBuf {
        self.root.join("content/ingest")
    }

    pub fn layers(&self) -> PathBuf {
        self.root.join("layers")
    }

    pub fn layer(&self, diff_id: &Digest) -> PathBuf {
        self.layers().join(diff_id.hex())
    }

    /// One file per layer that implies directories, with their paths.
    pub fn implied(&self) -> PathBuf {
        self.root.join("implied")
    }

    /// Symlinks to layers under short names: overlay's options must fit one page.
    pub fn links(&self) -> PathBuf {
        self.root.join("l")
    }

    pub fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    /// One file per reference.
    pub fn records(&self) -> PathBuf {
        self.root.join("records")
    }

    /// Whose images are: one file per image.
    pub fn rights(&self) -> PathBuf {
        self.root.join("access")
    }

    pub fn access(&self, id: &Digest) -> PathBuf {
        self.rights().join(format!("{}.json", id.hex()))
    }

    /// Compiled Wasm, by digest and engine.
    pub fn wasm_cache(&self) -> PathBuf {
        self.root.join("wasm")
    }
}

/// Replaces `path` by a file with `bytes`, durably or not at all.
///
/// # Errors
/// The directory cannot be written.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let temporary = dir.join(format!(".{}", uuid::Uuid::new_v4().simple()));
    let write = || {
        let mut file = File::create_new(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(dir)?.sync_all()
    };
    write().inspect_err(|_| {
        let _ = fs::remove_file(&temporary);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_overlay_cannot_take_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(
            Layout::create(&dir.path().join("a:b")),
            Err(StoreError::Path { .. })
        ));
    }
}

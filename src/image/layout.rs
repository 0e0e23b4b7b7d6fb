//! OCI image layouts (image-spec, image-layout.md): the one image they name, with all its platforms.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use amphipod_node::images::{Digest, media};
use serde_json::Value;

use super::ImageError;
use super::artifact::{Artifact, Blob, ManifestBytes};

/// An index inside an index inside an index is nobody's intention.
const MAX_DEPTH: usize = 3;
/// Manifests are small; a larger file is something else.
const MAX_MANIFEST_BYTES: u64 = 4 << 20;

/// Files of a layout by their path inside it: a directory's, or an unpacked archive's.
pub trait Files {
    /// Where the file is, if it is there.
    fn find(&self, path: &str) -> Option<PathBuf>;
    /// What to name in errors.
    fn name(&self) -> &Path;
}

struct Directory<'a>(&'a Path);

impl Files for Directory<'_> {
    fn find(&self, path: &str) -> Option<PathBuf> {
        Some(self.0.join(path)).filter(|path| path.is_file())
    }

    fn name(&self) -> &Path {
        self.0
    }
}

/// Files unpacked from an archive, by their names in it.
pub struct Unpacked {
    pub archive: PathBuf,
    pub files: HashMap<String, PathBuf>,
}

impl Files for Unpacked {
    fn find(&self, path: &str) -> Option<PathBuf> {
        self.files.get(path).cloned()
    }

    fn name(&self) -> &Path {
        &self.archive
    }
}

/// Reads the layout in a directory.
pub fn read(dir: &Path) -> Result<Artifact, ImageError> {
    read_files(&Directory(dir))
}

/// Reads a layout from wherever its files are.
pub fn read_files(files: &dyn Files) -> Result<Artifact, ImageError> {
    let damaged = |message: String| ImageError::Layout {
        path: files.name().to_owned(),
        message,
    };
    let index = files
        .find("index.json")
        .ok_or_else(|| damaged("no index.json".to_owned()))?;
    let index: Value = serde_json::from_slice(&fs::read(&index).map_err(ImageError::io("read", &index))?)
        .map_err(|error| damaged(format!("index.json: {error}")))?;
    let entries = index["manifests"].as_array().cloned().unwrap_or_default();
    let [entry] = &entries[..] else {
        return Err(damaged(format!(
            "it holds {} images, push takes one at a time",
            entries.len()
        )));
    };
    let mut reader = Reader {
        files,
        manifests: Vec::new(),
        blobs: Vec::new(),
    };
    reader.manifest(entry, 0)?;
    let top = reader
        .manifests
        .pop()
        .ok_or_else(|| damaged("no manifest".to_owned()))?;
    Ok(Artifact::new(top, reader.manifests, reader.blobs))
}

struct Reader<'a> {
    files: &'a dyn Files,
    /// Children before parents.
    manifests: Vec<ManifestBytes>,
    blobs: Vec<Blob>,
}

impl Reader<'_> {
    fn damaged(&self, message: String) -> ImageError {
        ImageError::Layout {
            path: self.files.name().to_owned(),
            message,
        }
    }

    fn manifest(&mut self, descriptor: &Value, depth: usize) -> Result<(), ImageError> {
        let (digest, path) = self.locate(descriptor)?;
        let size = fs::metadata(&path).map_err(ImageError::io("read", &path))?.len();
        if depth > MAX_DEPTH || size > MAX_MANIFEST_BYTES {
            return Err(self.damaged(format!("manifest {digest} is nested too deeply or too large")));
        }
        let bytes = fs::read(&path).map_err(ImageError::io("read", &path))?;
        if digest.like(&bytes) != digest {
            return Err(self.damaged(format!("the content of {digest} does not match it")));
        }
        let value: Value =
            serde_json::from_slice(&bytes).map_err(|e| self.damaged(format!("{digest}: {e}")))?;
        for child in value["manifests"].as_array().into_iter().flatten() {
            self.manifest(child, depth + 1)?;
        }
        let config = value.get("config").into_iter();
        for part in config.chain(value["layers"].as_array().into_iter().flatten()) {
            let (digest, path) = self.locate(part)?;
            if !self.blobs.iter().any(|blob| blob.digest == digest) {
                self.blobs.push(Blob::file(digest, &path)?);
            }
        }
        let declared = value["mediaType"].as_str().or(descriptor["mediaType"].as_str());
        let media_type = declared.unwrap_or(media::OCI_MANIFEST).to_owned();
        self.manifests.push(ManifestBytes {
            media_type,
            bytes: bytes.into(),
        });
        Ok(())
    }

    fn locate(&self, descriptor: &Value) -> Result<(Digest, PathBuf), ImageError> {
        let text = descriptor["digest"].as_str().unwrap_or_default();
        let digest: Digest = text.parse().map_err(|error| self.damaged(format!("{error}")))?;
        let blob = format!("blobs/{}/{}", digest.algorithm().name(), digest.hex());
        let path = self.files.find(&blob);
        let path = path.ok_or_else(|| self.damaged(format!("blob {digest} is missing")))?;
        Ok((digest, path))
    }
}

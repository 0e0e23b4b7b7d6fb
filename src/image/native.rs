//! Native images from an executable or a directory: one reproducible layer (sorted, owned by root, times at the
//! epoch) and an OCI config.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use amphipod_node::images::{Digest, media};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

use super::artifact::Blob;
use super::{Artifact, ImageError, elf};

/// When reproducible images were made.
pub const EPOCH: &str = "1970-01-01T00:00:00Z";
/// What a container's programs are looked up in when the image says nothing else.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a person can say about a native image's config.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConfigOverrides {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// `NAME=VALUE`.
    pub env: Vec<String>,
    pub working_dir: Option<String>,
    pub user: Option<String>,
    /// `80` or `80/tcp`.
    pub expose: Vec<String>,
    pub labels: BTreeMap<String, String>,
}

/// An image that is one static executable at `/NAME`, run as its entrypoint.
pub fn from_executable(path: &Path, overrides: &ConfigOverrides) -> Result<Artifact, ImageError> {
    let refuse = |reason: String| ImageError::Source {
        path: path.to_owned(),
        reason,
    };
    let bytes = fs::read(path).map_err(ImageError::io("read", path))?;
    let elf = elf::parse(&bytes).map_err(|reason| refuse(reason.to_owned()))?;
    if elf.dynamic {
        let advice = "it is dynamically linked; link it statically (for Rust: -C target-feature=+crt-static), or give \
                      a directory that holds its libraries too";
        return Err(refuse(advice.to_owned()));
    }
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| refuse("its name is not UTF-8".to_owned()))?;
    let mut layer = LayerWriter::create()?;
    let failed = ImageError::io("pack", path);
    layer.file(Path::new(name), &bytes, 0o755).map_err(failed)?;
    let mut config = overrides.clone();
    if config.entrypoint.is_empty() {
        config.entrypoint = vec![format!("/{name}")];
    }
    layer.into_artifact(elf.architecture, &config)
}

/// An image whose root is `dir`. Owners become root and times the epoch; extended attributes are not kept.
pub fn from_directory(dir: &Path, overrides: &ConfigOverrides) -> Result<Artifact, ImageError> {
    let mut layer = LayerWriter::create()?;
    for path in walk(dir)? {
        let meta = fs::symlink_metadata(&path).map_err(ImageError::io("read", &path))?;
        let inside = path.strip_prefix(dir).unwrap_or(&path);
        layer
            .entry(inside, &path, &meta)
            .map_err(ImageError::io("pack", &path))?;
    }
    layer.into_artifact(amphipod_node::images::native_arch(), overrides)
}

/// Everything below `dir`, parents first, in byte order.
fn walk(dir: &Path) -> Result<Vec<PathBuf>, ImageError> {
    let mut found = Vec::new();
    let mut pending = vec![dir.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).map_err(ImageError::io("list", &dir))? {
            let path = entry.map_err(ImageError::io("list", &dir))?.path();
            let meta = fs::symlink_metadata(&path).map_err(ImageError::io("read", &path))?;
            if meta.is_dir() {
                pending.push(path.clone());
            }
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Writes a layer to a temporary file: tar, hashed, gzipped, hashed again.
struct LayerWriter {
    dir: tempfile::TempDir,
    path: PathBuf,
    tar: Builder<Hashing<GzEncoder<Hashing<BufWriter<File>>>>>,
}

impl LayerWriter {
    fn create() -> Result<Self, ImageError> {
        let temp = std::env::temp_dir();
        let dir = tempfile::tempdir().map_err(ImageError::io("create a directory in", &temp))?;
        let path = dir.path().join("layer");
        let file = File::create_new(&path).map_err(ImageError::io("create", &path))?;
        // Fast: the bytes go to a registry nearby, and the node unpacks them once.
        let gzip = GzEncoder::new(Hashing::new(BufWriter::new(file)), Compression::fast());
        Ok(Self {
            dir,
            path,
            tar: Builder::new(Hashing::new(gzip)),
        })
    }

    fn file(&mut self, inside: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
        let mut header = header(EntryType::Regular, mode, bytes.len() as u64);
        self.tar.append_data(&mut header, inside, bytes)
    }

    fn entry(&mut self, inside: &Path, path: &Path, meta: &Metadata) -> io::Result<()> {
        let kind = meta.file_type();
        let mode = meta.permissions().mode() & 0o7777;
        if kind.is_dir() {
            self.tar
                .append_data(&mut header(EntryType::Directory, mode, 0), inside, io::empty())
        } else if kind.is_file() {
            let mut header = header(EntryType::Regular, mode, meta.len());
            self.tar
                .append_data(&mut header, inside, io::Read::take(File::open(path)?, meta.len()))
        } else if kind.is_symlink() {
            let mut header = header(EntryType::Symlink, 0o777, 0);
            self.tar.append_link(&mut header, inside, fs::read_link(path)?)
        } else if kind.is_fifo() {
            self.tar
                .append_data(&mut header(EntryType::Fifo, mode, 0), inside, io::empty())
        } else {
            Err(io::Error::other("sockets and devices cannot be part of an image"))
        }
    }

    fn into_artifact(self, architecture: &str, config: &ConfigOverrides) -> Result<Artifact, ImageError> {
        let finish = || -> io::Result<(Digest, Digest)> {
            let tar = self.tar.into_inner()?;
            let (diff_id, gzip) = tar.finish();
            let (digest, mut file) = gzip.finish()?.finish();
            file.flush()?;
            Ok((diff_id, digest))
        };
        let (diff_id, digest) = finish().map_err(ImageError::io("write", &self.path))?;
        let layer = Blob::file(digest, &self.path)?;
        let config = Blob::memory(config_json(architecture, &diff_id, config));
        let artifact = Artifact::image((config, media::OCI_CONFIG), vec![(layer, media::OCI_LAYER_GZIP)]);
        Ok(artifact.with_files(self.dir))
    }
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// The image configuration (image-spec, config.md).
fn config_json(architecture: &str, diff_id: &Digest, overrides: &ConfigOverrides) -> Vec<u8> {
    let has_path = overrides.env.iter().any(|env| env.starts_with("PATH="));
    let path = (!has_path).then(|| DEFAULT_PATH.to_owned());
    let env: Vec<String> = path.into_iter().chain(overrides.env.iter().cloned()).collect();
    let port = |port: &String| {
        if port.contains('/') {
            port.clone()
        } else {
            format!("{port}/tcp")
        }
    };
    let ports: BTreeMap<String, serde_json::Value> =
        overrides.expose.iter().map(|p| (port(p), json!({}))).collect();
    let mut config = json!({ "Env": env });
    let mut set = |key: &str, value: serde_json::Value| {
        let empty = matches!(&value, serde_json::Value::Null)
            || value.as_array().is_some_and(Vec::is_empty)
            || value.as_object().is_some_and(serde_json::Map::is_empty);
        if !empty {
            config[key] = value;
        }
    };
    set("Entrypoint", json!(overrides.entrypoint));
    set("Cmd", json!(overrides.cmd));
    set("WorkingDir", json!(overrides.working_dir));
    set("User", json!(overrides.user));
    set("ExposedPorts", json!(ports));
    set("Labels", json!(overrides.labels));
    let file = json!({
        "created": EPOCH,
        "architecture": architecture,
        "os": "linux",
        "config": config,
        "rootfs": { "type": "layers", "diff_ids": [diff_id.to_string()] },
        "history": [{ "created": EPOCH, "created_by": "amphipod image push" }],
    });
    file.to_string().into_bytes()
}

/// Hashes what passes through.
struct Hashing<W> {
    inner: W,
    hasher: Sha256,
}

impl<W: Write> Hashing<W> {
    fn new(inner: W) -> Self {
        Self {
            inner,
            hasher: Sha256::new(),
        }
    }

    fn finish(self) -> (Digest, W) {
        (Digest::finish(self.hasher), self.inner)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(buf)?;
        self.hasher.update(&buf[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

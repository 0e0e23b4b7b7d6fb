//! Unpacking one layer into a directory that overlayfs can use as a lower: decompress, hash, parse, apply. The
//! layer's author is the adversary: every size is bounded and every path stays beneath the directory.

mod copy;
mod stream;
mod tree;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use rustix::fs::FileType;
use rustix::io::Errno;
use tar::EntryType;

pub use self::copy::copy_directory;
use self::stream::{Entries, Entry};
use self::tree::{Inside, Tree};
pub use self::tree::{OPAQUE, kept_attributes};
use super::digest::{Digest, Hasher};
use super::media::Compression;

const WHITEOUT: &[u8] = b".wh.";
/// Names starting so are the union filesystem's own (image-spec, layer.md; aufs).
const RESERVED: &[u8] = b".wh..wh.";
const OPAQUE_WHITEOUT: &[u8] = b".wh..wh..opq";
/// A layer under this size is never taken for a bomb.
const RATIO_FLOOR: u64 = 1 << 30;
/// Real layers compress tenfold at most; gzip can do a thousandfold.
const MAX_RATIO: u64 = 100;
/// Largest zstd window (2^27 = 128 MiB), which bounds the decoder's memory; the format's recommended maximum.
const ZSTD_WINDOW_LOG: u32 = 27;

/// How much one layer may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnpackLimits {
    /// Bytes of one layer's decompressed archive.
    pub bytes: u64,
    /// Entries in one layer.
    pub entries: u64,
    /// Whether block and character devices are made; otherwise they are left out.
    pub devices: bool,
}

impl Default for UnpackLimits {
    fn default() -> Self {
        Self {
            bytes: 64 << 30,
            entries: 500_000,
            devices: false,
        }
    }
}

/// Why a layer was refused.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error("entry path {0:?} is absolute or leaves the root")]
    Path(String),
    #[error("directories are nested deeper than {0}")]
    TooDeep(usize),
    #[error("{} leads outside the root through a symlink", .0.display())]
    Escape(PathBuf),
    #[error("a parent of {} is not a directory", .0.display())]
    NotADirectory(PathBuf),
    #[error("hard link to {}, which is not in this layer", .0.display())]
    LinkTarget(PathBuf),
    #[error("whiteout {0:?} names no file of its own directory")]
    Whiteout(String),
    #[error("archive header with a bad {0}")]
    Header(&'static str),
    #[error("pax header says {pax} bytes, tar header {header}")]
    SizeDisagreement { header: u64, pax: u64 },
    #[error("sparse files are not supported in layers")]
    Sparse,
    #[error("archive ends in the middle of an entry")]
    Truncated,
    #[error("unpacked layer is larger than the limit of {0} bytes")]
    TooLarge(u64),
    #[error("layer has more than {0} entries")]
    TooMany(u64),
    #[error("unpacked content is {actual}, the image's config says {expected}")]
    DiffId { expected: Digest, actual: Digest },
    #[error(
        "cannot mark a directory opaque: {0}; the image store needs a file system with trusted xattrs, and root"
    )]
    Opaque(Errno),
    #[error(transparent)]
    Io(io::Error),
}

impl From<io::Error> for UnpackError {
    /// The size limit travels through `io::Read` as an error of its own.
    fn from(error: io::Error) -> Self {
        match error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<OverLimit>())
        {
            Some(OverLimit(limit)) => Self::TooLarge(*limit),
            None => Self::Io(error),
        }
    }
}

impl From<Errno> for UnpackError {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}

/// Unpacks the archive in `blob` into the empty directory `root` and verifies that its content is `diff_id`. The
/// directories that it implies, and names nowhere.
///
/// # Errors
/// Anything hostile or broken; the caller removes `root` then.
pub fn unpack(
    blob: &Path,
    compression: Compression,
    diff_id: &Digest,
    root: &Path,
    limits: &UnpackLimits,
) -> Result<BTreeSet<PathBuf>, UnpackError> {
    let file = File::open(blob)?;
    let compressed = file.metadata()?.len();
    let limit = limits
        .bytes
        .min(RATIO_FLOOR.max(compressed.saturating_mul(MAX_RATIO)));
    let decoder = decoder(BufReader::with_capacity(1 << 16, file), compression)?;
    let hashing = Hashing {
        inner: decoder,
        hasher: Hasher::new(diff_id.algorithm()),
        left: limit,
        limit,
    };
    // Headers are 512 bytes each: without a buffer every one would be a call through the decoder and hasher.
    let mut entries = Entries::new(BufReader::with_capacity(1 << 16, hashing));
    let implied = apply_all(&mut entries, root, limits)?;
    let mut rest = entries.into_inner();
    io::copy(&mut rest, &mut io::sink())?;
    let actual = rest.into_inner().hasher.finish();
    match actual == *diff_id {
        true => Ok(implied),
        false => Err(UnpackError::DiffId {
            expected: diff_id.clone(),
            actual,
        }),
    }
}

fn decoder(file: BufReader<File>, compression: Compression) -> io::Result<Box<dyn Read>> {
    Ok(match compression {
        Compression::None => Box::new(file),
        Compression::Gzip => Box::new(MultiGzDecoder::new(file)),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(file)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            Box::new(decoder)
        }
    })
}

fn apply_all<R: Read>(
    entries: &mut Entries<R>,
    root: &Path,
    limits: &UnpackLimits,
) -> Result<BTreeSet<PathBuf>, UnpackError> {
    let mut tree = Tree::open(root)?;
    let mut count = 0;
    while let Some(entry) = entries.next_entry()? {
        count += 1;
        if count > limits.entries {
            return Err(UnpackError::TooMany(limits.entries));
        }
        apply(&mut tree, &entry, entries, limits)?;
    }
    tree.finish()
}

fn apply<R: Read>(
    tree: &mut Tree,
    entry: &Entry,
    content: &mut Entries<R>,
    limits: &UnpackLimits,
) -> Result<(), UnpackError> {
    let path = Inside::parse(&entry.path)?;
    if let Some((parent, leaf)) = path.split()
        && leaf.as_encoded_bytes().starts_with(WHITEOUT)
    {
        return white_out(tree, &parent, leaf.as_encoded_bytes());
    }
    match entry.kind {
        EntryType::Directory => tree.directory(&path, entry),
        EntryType::Regular | EntryType::Continuous if entry.path.ends_with(b"/") => {
            tree.directory(&path, entry)
        }
        EntryType::Regular | EntryType::Continuous => tree.file(&path, entry, content),
        EntryType::Symlink => tree.symlink(&path, entry, link_of(entry)?),
        EntryType::Link => tree.hard_link(&path, &link_target(link_of(entry)?)?),
        EntryType::Fifo => tree.node(&path, entry, FileType::Fifo),
        EntryType::Char if limits.devices && entry.device != (0, 0) => {
            tree.node(&path, entry, FileType::CharacterDevice)
        }
        EntryType::Block if limits.devices => tree.node(&path, entry, FileType::BlockDevice),
        kind => {
            tracing::debug!(?kind, path = %String::from_utf8_lossy(&entry.path), "entry left out");
            Ok(())
        }
    }
}

fn link_of(entry: &Entry) -> Result<&[u8], UnpackError> {
    let link = entry
        .link
        .as_deref()
        .filter(|link| !link.is_empty() && !link.contains(&0));
    link.ok_or(UnpackError::Header("link target"))
}

/// Hard link targets are relative to the root; some builders write them with a leading slash.
fn link_target(link: &[u8]) -> Result<Inside, UnpackError> {
    Inside::parse(link.strip_prefix(b"/").unwrap_or(link))
}

fn white_out(tree: &mut Tree, parent: &Inside, leaf: &[u8]) -> Result<(), UnpackError> {
    if leaf == OPAQUE_WHITEOUT {
        return tree.opaque(parent);
    }
    let refuse = || UnpackError::Whiteout(String::from_utf8_lossy(leaf).into_owned());
    match leaf.strip_prefix(WHITEOUT) {
        Some(b"" | b"." | b"..") | None => Err(refuse()),
        Some(_) if leaf.starts_with(RESERVED) => Ok(()),
        Some(name) => tree.whiteout(&parent.child(name)),
    }
}

/// Counts and hashes the decompressed stream.
struct Hashing<R> {
    inner: R,
    hasher: Hasher,
    left: u64,
    limit: u64,
}

#[derive(Debug, thiserror::Error)]
#[error("larger than {0} bytes")]
struct OverLimit(u64);

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.left = self
            .left
            .checked_sub(n as u64)
            .ok_or_else(|| io::Error::other(OverLimit(self.limit)))?;
        self.hasher.update(&buf[..n]);
        Ok(n)
    }
}

#[cfg(test)]
mod tests;

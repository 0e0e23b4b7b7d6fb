//! Compiled code on disk: `DIR/<engine>/<digest>.cwasm`.
//!
//! Owns the layout, atomic writing, and who may be trusted to have written. Refuses to know what is compiled.
//! Compiled code is machine code: whoever can write here runs code in this process, so directories are 0700 and files
//! 0600, owned by the user of this process, and anything else is not read.

use super::digest::Digest;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Permission bits of group and others that let them write.
const OTHERS_MAY_WRITE: u32 = 0o022;

/// Why an artifact cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("making the cache directory {path}: {source}")]
    Directory { path: PathBuf, source: io::Error },
    #[error(
        "cache directory {path} is owned or writable by somebody else; remove it or give it back (chown, chmod go-w)"
    )]
    Shared { path: PathBuf },
    #[error("writing {path}: {source}")]
    File { path: PathBuf, source: io::Error },
}

/// Why an artifact is not used. None of these is an error for the container: the code is compiled again.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("not in the cache")]
    Missing,
    #[error("reading {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} is not a regular file that only this user may write")]
    Untrusted { path: PathBuf },
}

/// The part of a cache directory that belongs to one engine.
#[derive(Debug, Clone)]
pub struct Cache {
    directory: PathBuf,
}

/// An artifact which only this user can have written, pinned by an open descriptor.
pub struct TrustedArtifact(File);

impl TrustedArtifact {
    /// A path to exactly the file that was checked.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }
}

impl Cache {
    /// The cache of the engine with this compatibility hash under `root`.
    pub fn new(root: &Path, compatibility: &str) -> Self {
        Self {
            directory: root.join(compatibility),
        }
    }

    /// Where the compiled code of `digest` is or would be.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.directory.join(format!("{}.cwasm", digest.hex()))
    }

    /// Opens the compiled code of `digest`.
    ///
    /// # Errors
    /// When there is none that can be trusted.
    pub fn open(&self, digest: &Digest) -> Result<TrustedArtifact, OpenError> {
        let path = self.path(digest);
        let untrusted = || OpenError::Untrusted { path: path.clone() };
        let io = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => OpenError::Missing,
            _ => OpenError::Io {
                path: path.clone(),
                source,
            },
        };
        if !is_ours(&fs::symlink_metadata(&self.directory).map_err(io)?) {
            return Err(untrusted());
        }
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        if !metadata.is_file() || !is_ours(&metadata) {
            return Err(untrusted());
        }
        // By which the agent knows what is in use; where it cannot be set, code may have to be made again.
        if let Err(error) = file.set_modified(SystemTime::now()) {
            tracing::debug!(%error, "the time of compiled code stays as it is");
        }
        Ok(TrustedArtifact(file))
    }

    /// Writes compiled code so that a reader sees all of it or nothing, also after a power cut.
    ///
    /// # Errors
    /// When the directory is not ours alone, or the disk refuses.
    pub fn write(&self, digest: &Digest, code: &[u8]) -> Result<PathBuf, WriteError> {
        self.make_directory()?;
        let path = self.path(digest);
        let temporary = self
            .directory
            .join(format!(".{}.{}", digest.hex(), std::process::id()));
        let written = write_new(&temporary, code)
            .and_then(|()| fs::rename(&temporary, &path))
            .and_then(|()| File::open(&self.directory)?.sync_all());
        written.map_err(|source| {
            // The error that matters is `source`; a leftover is overwritten by the next process of this id.
            drop(fs::remove_file(&temporary));
            WriteError::File {
                path: path.clone(),
                source,
            }
        })?;
        Ok(path)
    }

    /// Makes the directory, if need be.
    ///
    /// # Errors
    /// When it cannot be made, or others may write there.
    pub fn make_directory(&self) -> Result<(), WriteError> {
        let path = &self.directory;
        let failed = |source| WriteError::Directory {
            path: path.clone(),
            source,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(failed)?;
        let metadata = fs::symlink_metadata(path).map_err(failed)?;
        if metadata.is_dir() && is_ours(&metadata) {
            Ok(())
        } else {
            Err(WriteError::Shared { path: path.clone() })
        }
    }
}

fn is_ours(metadata: &fs::Metadata) -> bool {
    metadata.uid() == nix::unistd::geteuid().as_raw() && metadata.mode() & OTHERS_MAY_WRITE == 0
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn what_is_written_is_read_and_others_are_not() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::new(root.path(), "engine");
        let digest = Digest::of(b"module");
        assert!(matches!(cache.open(&digest), Err(OpenError::Missing)));
        let path = cache.write(&digest, b"code").unwrap();
        assert_eq!(fs::read(cache.open(&digest).unwrap().path()).unwrap(), b"code");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let modified = || fs::metadata(&path).unwrap().modified().unwrap();
        File::open(&path)
            .unwrap()
            .set_modified(SystemTime::UNIX_EPOCH)
            .unwrap();
        drop(cache.open(&digest).unwrap());
        assert!(modified() > SystemTime::UNIX_EPOCH, "it is seen to be in use");

        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(matches!(cache.open(&digest), Err(OpenError::Untrusted { .. })));

        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", &path).unwrap();
        assert!(cache.open(&digest).is_err());
    }

    #[test]
    fn a_shared_directory_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::new(root.path(), "engine");
        let digest = Digest::of(b"module");
        cache.write(&digest, b"code").unwrap();
        fs::set_permissions(root.path().join("engine"), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(cache.open(&digest), Err(OpenError::Untrusted { .. })));
        assert!(matches!(
            cache.write(&digest, b"code"),
            Err(WriteError::Shared { .. })
        ));
    }

    #[test]
    fn nothing_partial_is_left() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::new(root.path(), "engine");
        let digest = Digest::of(b"module");
        cache.write(&digest, b"one").unwrap();
        cache.write(&digest, b"two").unwrap();
        let names: Vec<_> = fs::read_dir(root.path().join("engine")).unwrap().collect();
        assert_eq!(names.len(), 1);
    }
}

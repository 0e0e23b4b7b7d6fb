//! Blobs on their way into the content store. What came of a blob is kept under its digest when a pull breaks off, for the next
//! one to go on from, as containerd keeps it; it is hashed anew then, since nothing says how it got there. After a day without a
//! byte it is removed.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::content::Layout;
use super::digest::{Digest, Hasher};
use super::error::StoreError;

/// How long half a blob waits to be gone on with; what containerd gives it.
pub const KEPT: Duration = Duration::from_secs(24 * 3600);
/// Bytes hashed at a time.
const BLOCK: usize = 1 << 20;

/// A blob being written, by nobody else: its file is locked.
#[derive(Debug)]
pub struct Ingest {
    file: File,
    path: PathBuf,
    target: PathBuf,
    expected: Digest,
    hasher: Hasher,
    written: u64,
    /// Whether anything is from an earlier pull.
    resumed: bool,
    /// Whether the file goes with this value.
    ends: bool,
}

/// What was written is not what was announced.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    #[error("expected {expected}, got {actual}")]
    Digest { expected: Digest, actual: Digest },
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Ingest {
    /// Starts a blob that must turn out to be `expected` and has `size` bytes, or goes on with what is kept of it. Blocks.
    ///
    /// # Errors
    /// The file cannot be made or read.
    pub fn begin(layout: &Layout, expected: &Digest, size: u64) -> io::Result<Self> {
        let path = layout.ingest().join(expected.hex());
        let (file, path, ends) = match lock(&path)? {
            Some(file) => (file, path, false),
            // Another process brings the same blob just now.
            None => {
                let own = layout.ingest().join(uuid::Uuid::new_v4().simple().to_string());
                (File::create_new(&own)?, own, true)
            }
        };
        let mut ingest = Self {
            file,
            path,
            target: layout.blob(expected),
            expected: expected.clone(),
            hasher: Hasher::new(expected.algorithm()),
            written: 0,
            resumed: false,
            ends,
        };
        ingest.take_up(size)?;
        Ok(ingest)
    }

    /// Hashes what is there; more than there should be is nothing.
    fn take_up(&mut self, size: u64) -> io::Result<()> {
        let found = self.file.metadata()?.len();
        if found > size {
            return self.restart();
        }
        let mut block = vec![0; BLOCK.min(usize::try_from(found).unwrap_or(BLOCK))];
        while self.written < found {
            let n = self.file.read(&mut block)?;
            if n == 0 {
                break;
            }
            self.hasher.update(&block[..n]);
            self.written += n as u64;
        }
        self.resumed = self.written > 0;
        Ok(())
    }

    /// Bytes so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Whether an earlier pull brought some of it.
    pub fn is_resumed(&self) -> bool {
        self.resumed
    }

    /// Appends and hashes.
    ///
    /// # Errors
    /// The disk is full or failing; then nothing is kept.
    pub fn write(&mut self, chunk: &[u8]) -> io::Result<()> {
        // What a full disk took of the chunk is not known, and room is wanted.
        self.file.write_all(chunk).inspect_err(|_| self.ends = true)?;
        self.hasher.update(chunk);
        self.written += chunk.len() as u64;
        Ok(())
    }

    /// Forgets what was written.
    ///
    /// # Errors
    /// The disk is failing.
    pub fn restart(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.hasher = Hasher::new(self.expected.algorithm());
        (self.written, self.resumed) = (0, false);
        Ok(())
    }

    /// Keeps nothing: it is not what it should be.
    pub fn discard(mut self) {
        self.ends = true;
    }

    /// Verifies, makes durable and gives the blob its name.
    ///
    /// # Errors
    /// The digest is another, or the disk fails; either way nothing is kept.
    pub fn commit(mut self) -> Result<(), CommitError> {
        self.ends = true;
        let actual = self.hasher.finish();
        if actual != self.expected {
            return Err(CommitError::Digest {
                expected: self.expected.clone(),
                actual,
            });
        }
        self.file.sync_all()?;
        fs::rename(&self.path, &self.target)?;
        self.ends = false;
        Ok(())
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        if (self.ends || self.written == 0)
            && let Err(error) = fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "half a blob is left behind");
        }
    }
}

/// Opens and locks a file, making it; none when somebody else has it.
fn lock(path: &Path) -> io::Result<Option<File>> {
    let open = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path);
    let file = open?;
    match file.try_lock() {
        // Who had it may have given it the blob's name meanwhile, or removed it.
        Ok(()) => Ok(is_at(&file, path)?.then_some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let here = file.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(there) => Ok((here.dev(), here.ino()) == (there.dev(), there.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes what nobody writes and nobody went on with for as long as `kept`.
///
/// # Errors
/// The directory cannot be read.
pub fn expire(layout: &Layout, kept: Duration) -> Result<(), StoreError> {
    let dir = layout.ingest();
    for entry in fs::read_dir(&dir).map_err(StoreError::io("list", &dir))? {
        let path = entry.map_err(StoreError::io("list", &dir))?.path();
        let changed = fs::symlink_metadata(&path).and_then(|found| found.modified());
        // One of tomorrow is of a clock that was wrong; it waits.
        if changed.is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age >= kept)) {
            remove_unused(&path);
        }
    }
    Ok(())
}

fn remove_unused(path: &Path) {
    let removed = match lock(path) {
        Ok(Some(_held)) => fs::remove_file(path),
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    if let Err(error) = removed {
        tracing::warn!(path = %path.display(), %error, "half a blob cannot be removed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Layout) {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::create(dir.path()).unwrap();
        (dir, layout)
    }

    fn left(layout: &Layout) -> usize {
        fs::read_dir(layout.ingest()).unwrap().count()
    }

    #[test]
    fn only_verified_content_gets_its_name() {
        let (_dir, layout) = store();
        let digest = Digest::of(b"hello");
        let mut bad = Ingest::begin(&layout, &digest, 5).unwrap();
        bad.write(b"hellx").unwrap();
        assert!(matches!(bad.commit(), Err(CommitError::Digest { .. })));
        assert!(!layout.blob(&digest).exists());
        assert_eq!(left(&layout), 0, "what is wrong is not gone on with");
        let mut good = Ingest::begin(&layout, &digest, 5).unwrap();
        good.write(b"hello").unwrap();
        good.commit().unwrap();
        assert_eq!(fs::read(layout.blob(&digest)).unwrap(), b"hello");
        assert_eq!(left(&layout), 0);
    }

    #[test]
    fn what_came_of_a_blob_is_gone_on_with() {
        let (_dir, layout) = store();
        let digest = Digest::of(b"hello");
        drop(Ingest::begin(&layout, &digest, 5).unwrap());
        assert_eq!(left(&layout), 0, "nothing is nothing to keep");
        let mut broken = Ingest::begin(&layout, &digest, 5).unwrap();
        broken.write(b"hel").unwrap();
        let mut other = Ingest::begin(&layout, &digest, 5).unwrap();
        assert_eq!(other.written(), 0, "somebody writes it just now");
        other.write(b"he").unwrap();
        drop((other, broken));
        assert_eq!(left(&layout), 1);
        expire(&layout, KEPT).unwrap();
        let mut again = Ingest::begin(&layout, &digest, 5).unwrap();
        assert_eq!((again.written(), again.is_resumed()), (3, true));
        again.write(b"lo").unwrap();
        again.commit().unwrap();
        assert_eq!(fs::read(layout.blob(&digest)).unwrap(), b"hello");
        fs::write(layout.ingest().join(digest.hex()), "hello, world").unwrap();
        let long = Ingest::begin(&layout, &digest, 5).unwrap();
        assert_eq!((long.written(), long.is_resumed()), (0, false));
    }

    #[test]
    fn what_nobody_goes_on_with_is_removed() {
        let (_dir, layout) = store();
        let (old, new) = (Digest::of(b"old"), Digest::of(b"new"));
        for digest in [&old, &new] {
            fs::write(layout.ingest().join(digest.hex()), "x").unwrap();
        }
        let path = layout.ingest().join(old.hex());
        let file = File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - 2 * KEPT).unwrap();
        file.lock().unwrap();
        expire(&layout, KEPT).unwrap();
        assert_eq!(left(&layout), 2, "it is being written");
        drop(file);
        expire(&layout, KEPT).unwrap();
        assert!(layout.ingest().join(new.hex()).exists());
        assert_eq!(left(&layout), 1);
        expire(&layout, Duration::ZERO).unwrap();
        assert_eq!(left(&layout), 0);
    }
}

//! The journal's file: what is committed and may not be in the tables yet.
//!
//! A commit is one write over what the file already has, and one fdatasync: no block is allocated and no metadata
//! written. Frames that are in the tables are overwritten in time; see `ring.rs`.
//!
//! After a crash the frames that follow the tables' revision without a gap count. A frame that was being written is
//! known by its checksum, and ends the row: it was never acknowledged. What an older round of the ring left behind has
//! revisions that the tables have, and is passed by.
use super::frame::{self, ALIGN, Frame};
use super::ring::{self, Place};
use crate::store::{Batch, Revision};
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Zeros written at once when the file grows.
const ZEROS: usize = 64 << 10;

/// Where the frames of some commits lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: u64,
    pub(super) end: u64,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum JournalError {
    #[error("cannot {step} the journal {path}: {source}")]
    File {
        step: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error(
        "the journal {path} is damaged: it has revision {found}, but nothing readable between that and revision {after}; restore it and the store beside it from a copy"
    )]
    Damaged {
        path: PathBuf,
        after: Revision,
        found: Revision,
    },
    #[error(
        "of the journal {path} beside it {found} of {least} bytes are there: unless the store was copied after an orderly stop, what was written last is lost; restore both from one copy, or go on without: truncate -s {least} {path}"
    )]
    Short { path: PathBuf, found: u64, least: u64 },
}

#[derive(Debug, thiserror::Error)]
pub(super) enum AppendError {
    /// There is room again when something has been settled.
    #[error("the journal is full")]
    Full,
    #[error("the changes of one commit do not fit into the journal")]
    TooLarge,
    #[error("the journal cannot grow: {0}")]
    Grow(io::Error),
    /// Whether the frame is on disk is unknown: nothing may be written behind it before [`Journal::mend`].
    #[error("the journal cannot be written: {0}")]
    Write(io::Error),
}

pub(super) struct Journal {
    path: PathBuf,
    file: File,
    identity: u64,
    capacity: u64,
    head: u64,
    buffer: Vec<u8>,
    /// Where a frame begins of which nobody knows whether it is on disk, since its write failed.
    doubt: Option<u64>,
}

impl Journal {
    /// Opens the file of the store with that identity, which had `least` bytes, or makes it if none. Next comes
    /// [`Journal::recover`].
    pub(super) fn open(path: &Path, identity: u64, least: u64) -> Result<Self, JournalError> {
        let failed = |step: &'static str| {
            move |source| JournalError::File {
                step,
                path: path.to_owned(),
                source,
            }
        };
        let found = match std::fs::metadata(path) {
            Ok(file) => file.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(failed("look at")(error)),
        };
        if found < least {
            let path = path.to_owned();
            return Err(JournalError::Short { path, found, least });
        }
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false);
        let file = options.mode(0o600).open(path).map_err(failed("open"))?;
        let mut journal = Journal {
            path: path.to_owned(),
            file,
            identity,
            capacity: found - found % ALIGN as u64,
            head: 0,
            buffer: Vec::new(),
            doubt: None,
        };
        if journal.capacity < ring::SMALLEST {
            journal.grow(ring::SMALLEST).map_err(failed("extend"))?;
            journal.file.sync_all().map_err(failed("sync"))?;
            sync_folder(path).map_err(failed("sync the folder of"))?;
        }
        Ok(journal)
    }

    /// Bytes it has.
    pub(super) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// The frames after `settled`, of which the first may be at `start`; what is appended goes behind them.
    pub(super) fn recover(
        &mut self,
        start: u64,
        settled: Revision,
    ) -> Result<Vec<(Span, Frame)>, JournalError> {
        let bytes = self.read().map_err(|e| self.failed("read", e))?;
        let at = |offset: u64, next: Revision| {
            let frame = frame::decode(self.identity, bytes.get(usize::try_from(offset).ok()?..)?)?;
            (frame.first == next).then(|| {
                let end = offset + frame.size as u64;
                (Span { start: offset, end }, frame)
            })
        };
        let (mut end, mut next) = (start.min(self.capacity), settled + 1);
        let mut found = Vec::new();
        while let Some((span, frame)) = at(end, next).or_else(|| at(0, next)) {
            (end, next) = (span.end, frame.last + 1);
            found.push((span, frame));
        }
        self.head = end;
        self.forget(&bytes, next, &found)?;
        Ok(found)
    }

    /// Wipes what begins like a frame from `next` on: it was being written when the store ended, and a later frame that
    /// is torn in its place must not complete it. A whole one cannot be there, because each is on disk before the next
    /// is written.
    fn forget(&self, bytes: &[u8], next: Revision, found: &[(Span, Frame)]) -> Result<(), JournalError> {
        let known = |at: u64| found.iter().any(|(span, _)| (span.start..span.end).contains(&at));
        let mut torn = Vec::new();
        for at in (0..bytes.len()).step_by(ALIGN) {
            let Some(first) = frame::claimed(self.identity, &bytes[at..]) else {
                continue;
            };
            if first < next || known(at as u64) {
                continue;
            }
            if frame::decode(self.identity, &bytes[at..]).is_some() {
                return Err(JournalError::Damaged {
                    path: self.path.clone(),
                    after: next - 1,
                    found: first,
                });
            }
            torn.push(at as u64);
        }
        if torn.is_empty() {
            return Ok(());
        }
        let wiped = torn
            .iter()
            .try_for_each(|at| self.file.write_all_at(&[0; ALIGN], *at));
        wiped
            .and_then(|()| self.file.sync_data())
            .map_err(|e| self.failed("wipe", e))
    }

    fn failed(&self, step: &'static str, source: io::Error) -> JournalError {
        JournalError::File {
            step,
            path: self.path.clone(),
            source,
        }
    }

    fn read(&self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(usize::try_from(self.capacity).unwrap_or(0));
        (&self.file).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Sees to it that a frame whose write failed is not there. Its first sector is overwritten: a page that could not be
    /// written counts as clean afterwards, so that a second fdatasync alone would say nothing of it.
    pub(super) fn mend(&mut self) -> io::Result<()> {
        if let Some(at) = self.doubt {
            self.file.write_all_at(&[0; ALIGN], at)?;
            self.file.sync_all()?;
            self.doubt = None;
        }
        Ok(())
    }

    /// Another file in the place of the journal's: one that fails as a disk does.
    #[cfg(test)]
    pub(super) fn put_on(&mut self, file: File) -> File {
        std::mem::replace(&mut self.file, file)
    }

    /// Puts the batches on disk. From `kept` on the frames of others are still needed.
    pub(super) fn append(&mut self, batches: &[Batch], kept: Option<u64>) -> Result<Span, AppendError> {
        frame::encode(self.identity, batches, &mut self.buffer).map_err(|_| AppendError::TooLarge)?;
        let size = self.buffer.len() as u64;
        let start = match ring::place(self.capacity, self.head, kept, size) {
            Place::At(at) => at,
            Place::Grown { at, to } => {
                self.grow(to).map_err(AppendError::Grow)?;
                at
            }
            Place::Full => return Err(AppendError::Full),
            Place::TooLarge => return Err(AppendError::TooLarge),
        };
        self.doubt = Some(start);
        self.file
            .write_all_at(&self.buffer, start)
            .and_then(|()| self.file.sync_data())
            .map_err(AppendError::Write)?;
        self.doubt = None;
        let end = start + size;
        self.head = end;
        Ok(Span { start, end })
    }

    /// Writes zeros up to `to`; the next fdatasync makes them last.
    fn grow(&mut self, to: u64) -> io::Result<()> {
        let zeros = [0; ZEROS];
        let mut at = self.capacity;
        while at < to {
            let some = (to - at).min(ZEROS as u64);
            self.file.write_all_at(&zeros[..some as usize], at)?;
            at += some;
        }
        self.capacity = to;
        Ok(())
    }
}

fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

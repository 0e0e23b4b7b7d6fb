//! Reads a log from disk and, asked to follow, goes on as it grows, until its container has ended.
//!
//! Waits for the kernel to tell of changes (inotify(7)). A file replaced under its name, as a rotation
//! does, is read to its end first. No symbolic link is followed below the directory of logs.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};
use tokio::time::{Interval, interval};
use tokio_stream::wrappers::ReceiverStream;

use super::cri::Renderer;
use super::query::LogQuery;
use super::tail;
use crate::server::LogFile;
use crate::sys;

/// Read from a file at once.
const BLOCK: usize = 32 * 1024;

/// Portions a slow client can be behind before reading stops and waits for it.
const PORTIONS: usize = 4;

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot open the log: {0}")]
    Open(#[source] io::Error),
    #[error("cannot read the log: {0}")]
    Read(#[source] io::Error),
    #[error("cannot watch the log for changes: {0}")]
    Watch(#[source] io::Error),
}

/// How often a log is looked at where the kernel cannot tell of changes.
const LOOK: Duration = Duration::from_secs(1);

/// Room for some tens of change notices, read at once.
const EVENTS: usize = 4 * 1024;

impl OpenError {
    /// Whether there is no such file: none at all, or something in its place that is no file of ours.
    pub fn is_absence(&self) -> bool {
        let Self::Open(error) = self else { return false };
        let absent = [libc::ENOENT, libc::ENOTDIR, libc::ELOOP, libc::EXDEV];
        error.kind() == io::ErrorKind::InvalidInput
            || error.raw_os_error().is_some_and(|e| absent.contains(&e))
    }
}

type Portion = io::Result<Bytes>;

/// Opens a log, and gives what the query asks for as a stream that ends with it.
pub async fn open(log: LogFile, query: LogQuery) -> Result<impl Stream<Item = Portion> + Send, OpenError> {
    let place = Place {
        root: log.root,
        path: log.path,
    };
    // Watched before it is read: nothing written in between goes unnoticed.
    let changes = if query.follow {
        Some(Changes::of(&place)?)
    } else {
        None
    };
    let opening = place.clone();
    let tail_lines = query.tail_lines;
    let opened = tokio::task::spawn_blocking(move || {
        let file = opening.open().map_err(OpenError::Open)?;
        let length = file.metadata().map_err(OpenError::Read)?.len();
        let offset = match tail_lines {
            Some(lines) => tail::offset(&file, length, lines).map_err(OpenError::Read)?,
            None => 0,
        };
        Ok(Position {
            file: Arc::new(file),
            offset,
        })
    });
    let position = opened.await.map_err(|e| OpenError::Open(io::Error::other(e)))??;
    let (portions, receiver) = mpsc::channel(PORTIONS);
    let reader = Reader {
        place,
        position,
        renderer: Renderer::new(query),
        running: log.running,
        changes,
    };
    tokio::spawn(async move {
        tokio::select! {
            result = reader.run(&portions) => if let Err(error) = result {
                // The client may be gone, which is the same to it.
                let _ = portions.send(Err(error)).await;
            },
            () = portions.closed() => {}
        }
    });
    Ok(ReceiverStream::new(receiver))
}

/// A file by where it is, not by what it is now.
#[derive(Clone, Debug)]
struct Place {
    root: PathBuf,
    path: PathBuf,
}

impl Place {
    fn open(&self) -> io::Result<File> {
        let file = File::from(self.beneath(&self.path, OFlag::O_NONBLOCK)?);
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok(file)
    }

    /// Opens something under the root, with no way out of it.
    fn beneath(&self, path: &Path, flags: OFlag) -> io::Result<OwnedFd> {
        let root = File::open(&self.root)?;
        let how = OpenHow::new()
            .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | flags)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
        Ok(openat2(root.as_fd(), path, how)?)
    }
}

#[derive(Clone, Debug)]
struct Position {
    file: Arc<File>,
    offset: u64,
}

struct Reader {
    place: Place,
    position: Position,
    renderer: Renderer,
    running: watch::Receiver<bool>,
    changes: Option<Changes>,
}

impl Reader {
    async fn run(mut self, portions: &mpsc::Sender<Portion>) -> io::Result<()> {
        loop {
            // Asked before reading: what an ended container wrote is all there.
            let ended = !*self.running.borrow_and_update() || self.running.has_changed().is_err();
            if self.read_to_end(portions).await? {
                return Ok(());
            }
            if self.changes.is_some() && self.take_replacement().await? {
                continue;
            }
            if ended || self.changes.is_none() {
                return self.finish(portions).await;
            }
            self.wait().await?;
        }
    }

    /// Sends all there is now; true when nothing more is wanted.
    async fn read_to_end(&mut self, portions: &mpsc::Sender<Portion>) -> io::Result<bool> {
        loop {
            let Position { file, offset } = self.position.clone();
            let reading = tokio::task::spawn_blocking(move || read_block(&file, offset));
            let block = reading.await.map_err(io::Error::other)??;
            if block.is_empty() {
                return Ok(false);
            }
            self.position.offset += block.len() as u64;
            let mut out = Vec::new();
            self.renderer.feed(&block, &mut out);
            if (!out.is_empty() && portions.send(Ok(out.into())).await.is_err()) || self.renderer.is_done() {
                return Ok(true);
            }
        }
    }

    /// Turns to a new file under the same name, or to the beginning of one cut short; true if there is one.
    async fn take_replacement(&mut self) -> io::Result<bool> {
        let (place, position) = (self.place.clone(), self.position.clone());
        let looking = tokio::task::spawn_blocking(move || replacement(&place, &position));
        match looking.await.map_err(io::Error::other)?? {
            Some(next) => {
                self.position = next;
                Ok(true)
            }
            None => Ok(false),
        }
    }

    async fn finish(mut self, portions: &mpsc::Sender<Portion>) -> io::Result<()> {
        let mut out = Vec::new();
        self.renderer.finish(&mut out);
        if !out.is_empty() {
            // A client that is gone needs no last line.
            let _ = portions.send(Ok(out.into())).await;
        }
        Ok(())
    }

    /// Until the directory of the log changes, or the container's state does.
    async fn wait(&mut self) -> io::Result<()> {
        let Some(changes) = &mut self.changes else {
            return Ok(());
        };
        tokio::select! {
            changed = changes.next() => changed,
            // A closed channel ends the log; it is looked at next.
            _ = self.running.changed() => Ok(()),
        }
    }
}

fn read_block(file: &File, offset: u64) -> io::Result<Vec<u8>> {
    let mut block = vec![0; BLOCK];
    let length = file.read_at(&mut block, offset)?;
    block.truncate(length);
    Ok(block)
}

fn replacement(place: &Place, position: &Position) -> io::Result<Option<Position>> {
    let known = position.file.metadata()?;
    if known.len() < position.offset {
        return Ok(Some(Position {
            file: position.file.clone(),
            offset: 0,
        }));
    }
    match place.open() {
        Ok(file) if file.metadata()?.ino() == known.ino() => Ok(None),
        Ok(file) => Ok(Some(Position {
            file: Arc::new(file),
            offset: 0,
        })),
        // Between the two names of a rotation, or removed for good.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Tells of changes in a log's directory.
enum Changes {
    Told(AsyncFd<OwnedFd>),
    /// The kernel has no more watches to give (fs.inotify.max_user_instances): looked for now and then.
    Looked(Interval),
}

impl Changes {
    fn of(place: &Place) -> Result<Self, OpenError> {
        let parent = place
            .path
            .parent()
            .filter(|p| !p.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        let directory = place
            .beneath(parent, OFlag::O_DIRECTORY)
            .map_err(OpenError::Open)?;
        match watch(&directory) {
            Ok(inotify) => Ok(Self::Told(
                sys::readable(inotify.into()).map_err(OpenError::Watch)?,
            )),
            Err(error @ (Errno::EMFILE | Errno::ENFILE | Errno::ENOSPC)) => {
                tracing::debug!(%error, "following a log without being told of changes");
                Ok(Self::Looked(interval(LOOK)))
            }
            Err(error) => Err(OpenError::Watch(error.into())),
        }
    }

    /// Until something may have changed; takes all that did as one.
    async fn next(&mut self) -> io::Result<()> {
        let inotify = match self {
            Self::Told(inotify) => inotify,
            Self::Looked(interval) => {
                interval.tick().await;
                return Ok(());
            }
        };
        loop {
            let mut ready = inotify.readable().await?;
            // Which change it was does not matter: what it changed is looked at.
            let mut events = [0; EVENTS];
            if let Ok(read) = ready.try_io(|inotify| Ok(nix::unistd::read(inotify, &mut events)?)) {
                return read.map(drop);
            }
        }
    }
}

fn watch(directory: &OwnedFd) -> nix::Result<Inotify> {
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
    // By descriptor: the name could have become something else since.
    let path = format!("/proc/self/fd/{}", directory.as_raw_fd());
    let of_interest = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
    inotify.add_watch(path.as_str(), of_interest | AddWatchFlags::IN_DELETE_SELF)?;
    Ok(inotify)
}

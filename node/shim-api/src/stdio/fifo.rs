//! Named pipes as containerd makes them. Opened for reading and writing at once, so that neither side's absence
//! ends the stream (containerd's shim does the same by keeping both ends).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use tokio::net::unix::pipe;

use super::StdioError;

/// How long a client that has not opened its end yet is waited for; containerd's shims wait for ever.
const READER_LIMIT: Duration = Duration::from_secs(2);

fn options() -> pipe::OpenOptions {
    let mut options = pipe::OpenOptions::new();
    options.read_write(true);
    options
}

pub(super) fn reader(path: &Path) -> Result<pipe::Receiver, StdioError> {
    options().open_receiver(path).map_err(|source| StdioError::Open {
        path: path.into(),
        source,
    })
}

pub(super) fn writer(path: &Path) -> Result<pipe::Sender, StdioError> {
    options().open_sender(path).map_err(|source| StdioError::Open {
        path: path.into(),
        source,
    })
}

/// Waits until somebody reads: what a short program writes is gone if it ends before. The answer keeps the stream from
/// ending until it is opened for good; nothing where nobody came.
pub(super) async fn read_by_somebody(path: &Path) -> Result<Option<File>, StdioError> {
    let failed = |source| StdioError::Open {
        path: path.into(),
        source,
    };
    match OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
    {
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => {}
        other => return other.map(Some).map_err(failed),
    }
    let place = path.to_owned();
    let opening = tokio::task::spawn_blocking(move || OpenOptions::new().write(true).open(place));
    match tokio::time::timeout(READER_LIMIT, opening).await {
        Ok(opened) => opened
            .map_err(io::Error::other)
            .flatten()
            .map(Some)
            .map_err(failed),
        Err(_) => {
            // Its thread waits no longer when there is a reader: this one.
            reader(path)?;
            Ok(None)
        }
    }
}

//! Named pipes as containerd makes them. Opened for reading and writing at once, so that neither side's absence
//! ends the stream (containerd's shim does the same by keeping both ends).

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use tokio::net::unix::pipe;
use tokio::time::Instant;

use super::StdioError;

/// How long a client that has not opened its end yet is waited for; containerd's shims wait for ever.
const READER_LIMIT: Duration = Duration::from_secs(2);
/// How often it is looked for meanwhile: with this, a burst of clients costs next to nothing.
const READER_ROUND: Duration = Duration::from_millis(5);

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
/// ending until it is opened for good; nothing where nobody came. Asked again and again, since to be told of a reader one
/// has to block in a thread, and a shim of native containers must stay one.
pub(super) async fn read_by_somebody(path: &Path) -> Result<Option<File>, StdioError> {
    let last = Instant::now() + READER_LIMIT;
    loop {
        let open = OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path);
        match open {
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => {}
            Err(source) => {
                return Err(StdioError::Open {
                    path: path.into(),
                    source,
                });
            }
            Ok(held) => return Ok(Some(held)),
        }
        if Instant::now() >= last {
            return Ok(None);
        }
        tokio::time::sleep(READER_ROUND).await;
    }
}

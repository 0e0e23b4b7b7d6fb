//! Named pipes as containerd makes them. Opened for reading and writing at once, so that neither side's absence
//! ends the stream (containerd's shim does the same by keeping both ends).

use std::path::Path;

use tokio::net::unix::pipe;

use super::StdioError;

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

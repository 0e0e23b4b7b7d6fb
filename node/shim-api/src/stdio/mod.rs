//! Where a container's standard streams go: the addresses in a CreateTaskRequest, opened.
//!
//! Owns containerd's FIFO and `file://` forms and our `cri://`. Refuses to know who writes into a [`Sink`]:
//! it is both [`std::io::Write`] and [`tokio::io::AsyncWrite`], for pipes and for Wasm guests alike.

mod cri;
mod fifo;
mod rotating;
mod sink;
mod turner;

pub use cri::{CriLog, CriWriter, LogStream};
pub use rotating::{MAX_BYTES as LOG_BYTES, MAX_FILES as LOG_FILES, remove_log};
pub use sink::{Sink, Sinks};
pub use turner::Turner;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Log files are read by root and by nobody else, as the kubelet's are.
const FILE_MODE: u32 = 0o640;

/// One parsed stdio address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StdioUri {
    /// Empty: nothing is connected.
    Null,
    /// A bare path or `fifo://`: a named pipe the caller made.
    Fifo(PathBuf),
    /// `file://`: raw bytes appended.
    File(PathBuf),
    /// `cri://`: lines appended in CRI log format.
    Cri(PathBuf),
}

/// An address that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StdioError {
    #[error(
        "stdio address {0:?} is neither a FIFO path nor fifo://, file:// or cri:// with an absolute path"
    )]
    BadAddress(String),
    #[error("cannot open {path:?} for a standard stream: {source}")]
    Open { path: PathBuf, source: io::Error },
}

/// Waits until clients have opened their ends of the FIFOs among these addresses, or do not come. To be kept until the
/// streams are open.
pub async fn readers(addresses: [&str; 2]) -> Result<Vec<File>, StdioError> {
    let mut held = Vec::new();
    for address in addresses {
        if let StdioUri::Fifo(path) = StdioUri::parse(address)? {
            held.extend(fifo::read_by_somebody(&path).await?);
        }
    }
    Ok(held)
}

impl StdioUri {
    /// Parses an address; every path must be absolute.
    pub fn parse(address: &str) -> Result<Self, StdioError> {
        if address.is_empty() {
            return Ok(Self::Null);
        }
        let (make, path): (fn(PathBuf) -> Self, &str) = match address.split_once("://") {
            None => (Self::Fifo, address),
            Some(("fifo", path)) => (Self::Fifo, path),
            Some(("file", path)) => (Self::File, path),
            Some(("cri", path)) => (Self::Cri, path),
            Some(_) => return Err(StdioError::BadAddress(address.into())),
        };
        if !path.starts_with('/') {
            return Err(StdioError::BadAddress(address.into()));
        }
        Ok(make(path.into()))
    }

    /// The address of a CRI log file.
    pub fn cri(path: &Path) -> String {
        format!("cri://{}", path.display())
    }
}

/// Opens a file to append to; a symbolic link in its place is refused, so that no other file is written.
fn append(path: &Path) -> Result<File, StdioError> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(FILE_MODE)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
        .map_err(|source| StdioError::Open {
            path: path.into(),
            source,
        })
}

/// Opens a container's standard input, or `None` when nothing is connected. Ends only when dropped (CloseIO).
pub fn open_input(address: &str) -> Result<Option<tokio::net::unix::pipe::Receiver>, StdioError> {
    match StdioUri::parse(address)? {
        StdioUri::Null => Ok(None),
        StdioUri::Fifo(path) => fifo::reader(&path).map(Some),
        StdioUri::File(_) | StdioUri::Cri(_) => Err(StdioError::BadAddress(address.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let ok = |a: &str| StdioUri::parse(a).unwrap();
        assert_eq!(ok(""), StdioUri::Null);
        assert_eq!(ok("/run/f"), StdioUri::Fifo("/run/f".into()));
        assert_eq!(ok("fifo:///run/f"), StdioUri::Fifo("/run/f".into()));
        assert_eq!(ok("file:///a b"), StdioUri::File("/a b".into()));
        assert_eq!(
            ok(&StdioUri::cri(Path::new("/l/0.log"))),
            StdioUri::Cri("/l/0.log".into())
        );
        for bad in ["relative", "cri://relative", "binary:///bin/x", "file://"] {
            assert!(StdioUri::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_symlinked_log_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let canary = home.path().join("canary");
        std::fs::write(&canary, "host").unwrap();
        let link = home.path().join("0.log");
        std::os::unix::fs::symlink(&canary, &link).unwrap();
        assert!(append(&link).is_err());
        assert_eq!(std::fs::read_to_string(&canary).unwrap(), "host");
    }
}

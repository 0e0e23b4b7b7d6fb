//! The ways to a running container's own streams: the socket its shim tells its output at, and the pipe it reads from.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

/// Digits of a container's id in names here: enough to tell containers apart, few enough for a socket's path.
const DIGITS: usize = 32;

/// Paths below the run directory, for one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doors {
    pub socket: PathBuf,
    /// There only for a container with `stdin`.
    pub stdin: PathBuf,
}

impl Doors {
    pub fn of(run_dir: &Path, id: &str) -> Self {
        let id = id.get(..DIGITS).unwrap_or(id);
        let path = |end| run_dir.join("a").join(format!("{id}.{end}"));
        Doors {
            socket: path("sock"),
            stdin: path("in"),
        }
    }

    /// Makes what must be there before the container is.
    pub fn prepare(&self, stdin: bool) -> io::Result<()> {
        if let Some(directory) = self.socket.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        }
        if stdin {
            mkfifo(&self.stdin, Mode::S_IRUSR | Mode::S_IWUSR)?;
        }
        Ok(())
    }

    /// Removes what may be left of a container that is no more.
    pub fn remove(&self) {
        for path in [&self.socket, &self.stdin] {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(%error, path = %path.display(), "a way to a container's streams stays");
                }
                _ => {}
            }
        }
    }
}

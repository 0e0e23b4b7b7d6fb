//! What is remembered of a container between two invocations: a directory `ROOT/ID` with a record, a copy of its
//! config.json, and, until it is started, the socket its process waits at.
//!
//! Owns that format and the container's status. A process is known by its pid and the time it was started at, so that a
//! number given to another process is not taken for it.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use amphipod_shim_api::cgroup::{Cgroup, CgroupError};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket};
use nix::unistd::Pid;
use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};

use super::shared_root::SharedRoot;
use crate::confine::recorded;
use crate::processes::started_at;
use amphipod_shim_api::files::replace;

const RECORD: &str = "state.json";
const GATE: &str = "start.sock";
const PLACE: &str = "place.json";
const LOCK: &str = "lock";
/// As long an id as runc takes.
const ID_LIMIT: usize = 1024;

/// Why nothing is known, or nothing could be remembered, of a container.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("container {0:?} does not exist")]
    NotFound(String),
    #[error("container {0:?} exists already")]
    Exists(String),
    #[error("{0:?} is no container id: letters, digits, '_', '+', '-' and '.' make one")]
    BadId(String),
    #[error("cannot {action} {path:?}: {source}")]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{path:?} is no record of a container: {source}")]
    Record {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error("{path:?} is no OCI runtime configuration: {source}")]
    Config {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
}

/// What is written down.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    pub version: String,
    pub id: String,
    pub pid: i32,
    /// In ticks since the host's start (proc_pid_stat(5), field 22).
    pub started: u64,
    pub bundle: PathBuf,
    pub rootfs: PathBuf,
    /// Empty for none.
    pub cgroup: String,
    /// Others were in that cgroup before it.
    #[serde(default)]
    pub shares_cgroup: bool,
    /// What systemd calls it, if it is its manager.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// When, in RFC 3339.
    pub created: String,
    /// `CLONE_NEW*` an exec has to join beside the usual.
    pub more_namespaces: i32,
    /// It has its caller's session keyring.
    #[serde(default)]
    pub keeps_keyring: bool,
    /// It is in a `chroot` of a mount namespace that is not its own.
    #[serde(default)]
    pub shares_mounts: bool,
    /// Its root where that namespace is ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared_root: Option<SharedRoot>,
}

/// Where a container that is being made will be: all that is known of it when its maker is killed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Empty for none.
    pub cgroup: String,
    /// What systemd calls it, if it is its manager.
    pub unit: Option<String>,
}

/// As the runtime specification has them, and `paused`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    pub fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// A container's directory.
#[derive(Debug)]
pub struct Entry {
    dir: PathBuf,
    id: String,
}

fn fail<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> StoreError + 'a {
    move |source| StoreError::Io {
        action,
        path: path.into(),
        source,
    }
}

impl Entry {
    /// Names one; it need not exist.
    pub fn of(root: &Path, id: &str) -> Result<Self, StoreError> {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '+' | '-' | '.');
        if id.is_empty() || id.len() > ID_LIMIT || id == "." || id == ".." || !id.chars().all(legal) {
            return Err(StoreError::BadId(id.into()));
        }
        Ok(Self {
            dir: root.join(id),
            id: id.into(),
        })
    }

    /// Where its program tells that it is ready.
    pub fn notify_dir(&self) -> PathBuf {
        self.dir.join("notify")
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    /// Every container below a root.
    pub fn all(root: &Path) -> Result<Vec<Self>, StoreError> {
        let entries = match fs::read_dir(root) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(fail("list", root))?,
        };
        let names = entries.filter_map(|e| e.ok()?.file_name().into_string().ok());
        // What is no id is somebody else's.
        Ok(names.filter_map(|id| Self::of(root, &id).ok()).collect())
    }

    /// Takes the id. Nobody but the owner may look into the directory.
    pub fn make(&self) -> Result<(), StoreError> {
        let parent = self.dir.parent().unwrap_or(Path::new("/"));
        let mut builder = DirBuilder::new();
        builder.mode(0o700);
        builder
            .recursive(true)
            .create(parent)
            .map_err(fail("create", parent))?;
        match builder.recursive(false).create(&self.dir) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(StoreError::Exists(self.id.clone())),
            other => other.map_err(fail("create", &self.dir)),
        }
    }

    pub fn remove(&self) -> Result<(), StoreError> {
        match fs::remove_dir_all(&self.dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(fail("remove", &self.dir)),
        }
    }

    /// Keeps others from changing the container until the answer is dropped.
    pub fn lock(&self) -> Result<Flock<File>, StoreError> {
        let path = self.dir.join(LOCK);
        let opened = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path);
        let file = match opened {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::NotFound(self.id.clone()));
            }
            other => other.map_err(fail("open", &path))?,
        };
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| fail("lock", &path)(errno.into()))
    }

    /// To be called before anything is made there.
    pub fn note(&self, place: &Place) -> Result<(), StoreError> {
        let path = self.dir.join(PLACE);
        let noted = serde_json::to_vec(place).map_err(io::Error::other);
        noted
            .and_then(|text| replace(&path, &text))
            .map_err(fail("write", &path))
    }

    /// Nothing where nothing had been made.
    pub fn place(&self) -> Result<Option<Place>, StoreError> {
        let path = self.dir.join(PLACE);
        let read = match fs::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.and_then(|text| serde_json::from_slice(&text).map_err(io::Error::other)),
        };
        read.map(Some).map_err(fail("read", &path))
    }

    /// Written whole or not at all.
    pub fn save(&self, record: &Record, config: &[u8]) -> Result<(), StoreError> {
        let at = self.dir.join("config.json");
        fs::write(&at, config).map_err(fail("write", &at))?;
        let path = self.dir.join(RECORD);
        let text = serde_json::to_vec(record).map_err(|source| StoreError::Record {
            path: path.clone(),
            source,
        })?;
        replace(&path, &text).map_err(fail("write", &path))
    }

    pub fn load(&self) -> Result<Record, StoreError> {
        let path = self.dir.join(RECORD);
        let bytes = match fs::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::NotFound(self.id.clone()));
            }
            other => other.map_err(fail("read", &path))?,
        };
        serde_json::from_slice(&bytes).map_err(|source| StoreError::Record { path, source })
    }

    /// The configuration the container was made from, whatever has become of its bundle.
    pub fn config(&self) -> Result<Spec, StoreError> {
        let path = self.dir.join("config.json");
        let bytes = fs::read(&path).map_err(fail("read", &path))?;
        serde_json::from_slice(&bytes).map_err(|source| StoreError::Config { path, source })
    }

    /// Listens where a container's process waits to be started.
    pub fn make_gate(&self) -> Result<OwnedFd, StoreError> {
        let path = self.dir.join(GATE);
        let made = self.gate_address().and_then(|(_dir, address)| {
            let socket = gate_socket()?;
            bind(socket.as_raw_fd(), &address)?;
            listen(&socket, Backlog::new(1)?)?;
            Ok(socket)
        });
        made.map_err(fail("listen on", &path))
    }

    /// Goes to the gate. Nobody is there any more when the process has ended.
    pub fn visit_gate(&self) -> Result<OwnedFd, StoreError> {
        let path = self.dir.join(GATE);
        let visited = self.gate_address().and_then(|(_dir, address)| {
            let socket = gate_socket()?;
            connect(socket.as_raw_fd(), &address)?;
            Ok(socket)
        });
        visited.map_err(fail("connect to", &path))
    }

    /// A started container has no gate.
    pub fn close_gate(&self) -> Result<(), StoreError> {
        let path = self.dir.join(GATE);
        fs::remove_file(&path).map_err(fail("remove", &path))
    }

    /// A path short enough for a socket, whatever the root is; good while the directory is held.
    fn gate_address(&self) -> io::Result<(File, UnixAddr)> {
        let dir = File::open(&self.dir)?;
        let path = format!("/proc/self/fd/{}/{GATE}", dir.as_fd().as_raw_fd());
        let address = UnixAddr::new(path.as_str())?;
        Ok((dir, address))
    }

    /// Whether the container's process waits to be started.
    pub fn has_gate(&self) -> bool {
        self.dir.join(GATE).exists()
    }

    /// Looks at the process and its cgroup.
    pub fn status(&self, record: &Record) -> Result<Status, StoreError> {
        if !record.is_alive() {
            return Ok(Status::Stopped);
        }
        // Whether it was started or not: a frozen process does not take the word either.
        Ok(match (record.cgroup()?.is_frozen(), self.has_gate()) {
            (true, _) => Status::Paused,
            (false, true) => Status::Created,
            (false, false) => Status::Running,
        })
    }
}

fn gate_socket() -> io::Result<OwnedFd> {
    let kind = SockType::SeqPacket;
    Ok(socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None)?)
}

impl Record {
    pub fn process(&self) -> Pid {
        Pid::from_raw(self.pid)
    }

    pub fn is_alive(&self) -> bool {
        started_at(self.pid) == Some(self.started)
    }

    pub fn cgroup(&self) -> Result<Cgroup, CgroupError> {
        recorded(&self.cgroup)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_names_of_directories() {
        for bad in ["", ".", "..", "a/b", "a b", "ä"] {
            assert!(Entry::of(Path::new("/r"), bad).is_err(), "{bad}");
        }
        assert!(Entry::of(Path::new("/r"), "a_b+c-d.e").is_ok());
    }

    #[test]
    fn an_id_is_taken_once() {
        let home = tempfile::tempdir().unwrap();
        let entry = Entry::of(&home.path().join("deep/root"), "c").unwrap();
        entry.make().unwrap();
        assert!(matches!(entry.make(), Err(StoreError::Exists(_))));
        assert!(matches!(entry.load(), Err(StoreError::NotFound(_))));
        entry.remove().unwrap();
        assert!(matches!(entry.lock(), Err(StoreError::NotFound(_))));
    }
}

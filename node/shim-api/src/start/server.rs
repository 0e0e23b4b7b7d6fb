//! The shim's side of starting: find the server of a group, or become the parent of a new one.
//!
//! Race-free by a lock per namespace held from the look to the bind. The new server inherits the listening
//! socket as standard input, so clients may connect before it has begun to run. Refuses to know what it serves.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sha2::{Digest, Sha256};

use super::Invocation;
use crate::Standing;
use crate::cgroup::{CgroupError, CgroupHost};
use crate::systemd::{self, Manager, SystemdError, names};

/// `sun_path` with its ending NUL (unix(7)).
const SUN_PATH: usize = 108;
/// Hex digits of the group's hash in a socket's name: 128 bits, so that no group can be made to meet another.
const HASH_DIGITS: usize = 32;
/// The cgroup of a cluster's shims, below the cluster's own: a leaf, since v2 lets processes be in leaves only.
pub const SHIMS: &str = "shims";
/// What a server keeps of the environment of whoever started it.
const KEPT_ENV: [&str; 4] = ["PATH", "RUST_LOG", "RUST_BACKTRACE", "XDG_RUNTIME_DIR"];

/// Why a group's server could be neither found nor made.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("where would the shim's socket be? Set XDG_RUNTIME_DIR")]
    NoDirectory,
    #[error("the socket path {0:?} is too long for a Unix socket: use a shorter namespace")]
    PathTooLong(PathBuf),
    #[error("cannot create the socket directory {path:?}: {source}")]
    Directory { path: PathBuf, source: io::Error },
    #[error("cannot lock {path:?}: {source}")]
    Lock { path: PathBuf, source: io::Error },
    #[error("cannot listen on {path:?}: {source}")]
    Bind { path: PathBuf, source: io::Error },
    #[error("cannot start the server process {program:?}: {source}")]
    Spawn { program: PathBuf, source: io::Error },
    #[error("cannot take over the listening socket: {0}")]
    Socket(io::Error),
    #[error("cannot leave the starter's session: {0}")]
    Session(nix::Error),
    #[error("cannot move the server process out of its starter's cgroup: {0}")]
    Cgroup(#[from] CgroupError),
    #[error("cannot move the server process out of its starter's cgroup: {0}")]
    Systemd(#[from] SystemdError),
}

/// The program to run as the server: it is called as `program words… -namespace N -id GROUP -address SOCKET serve`.
#[derive(Debug, Clone)]
pub struct Served {
    pub program: PathBuf,
    /// Words before the shim's flags (`linux-shim`), if any.
    pub words: Vec<OsString>,
}

impl Served {
    /// This very program, as it was called: the words before `shim_args` words from the end.
    pub fn this_program(shim_args: usize) -> Self {
        let all: Vec<OsString> = std::env::args_os().collect();
        let end = all.len().saturating_sub(shim_args).max(1);
        Self {
            program: "/proc/self/exe".into(),
            words: all[1..end].to_vec(),
        }
    }
}

/// Finds the server of `group`, or starts it, and answers its address (`unix://…`).
pub fn ensure_server(call: &Invocation, group: &str, served: &Served) -> Result<String, ServeError> {
    let standing = Standing::of_this_process();
    let run = standing.run_dir().ok_or(ServeError::NoDirectory)?;
    let directory = run.join(&call.namespace).join("s");
    let found = ensure_in(&directory, call, group, served)?;
    // containerd, which gives its address, has an option of its own for this.
    if let Some(server) = found.started.filter(|_| call.address.is_empty()) {
        let left = leave_starter(standing, call, &socket_name(&call.namespace, group), server);
        or_end(left, server)?;
    }
    Ok(found.address)
}

/// A server that nobody is told of does not stay.
fn or_end(left: Result<(), ServeError>, server: u32) -> Result<(), ServeError> {
    if left.is_err() {
        // A child of this process that nobody has waited for: the number is its own, even if it has ended.
        let _ = kill(Pid::from_raw(server.cast_signed()), Signal::SIGKILL);
    }
    left
}

/// Puts a new server where neither its starter's memory limit nor the end of its starter's service reaches it. That of
/// somebody without root stays where it is unless he has a systemd of his own.
fn leave_starter(standing: Standing, call: &Invocation, name: &str, server: u32) -> Result<(), ServeError> {
    let cluster = &call.namespace;
    if systemd::is_running() && systemd::waiting(own_scope(standing, cluster, name, server))? {
        return Ok(());
    }
    if standing.makes_do() {
        return Ok(());
    }
    let host = match CgroupHost::discover() {
        Err(CgroupError::NoHierarchy) => return Ok(()),
        other => other?,
    };
    let cgroup = host.cgroup_everywhere(&format!("{cluster}/{SHIMS}"))?;
    cgroup.create()?;
    Ok(cgroup.join(server)?)
}

/// A scope of the server's own, whose end is its end. `false` where there is no manager to make one.
async fn own_scope(standing: Standing, cluster: &str, name: &str, server: u32) -> Result<bool, SystemdError> {
    let mut manager = match Manager::of(standing).await {
        Err(error) if error.is_absence() => return Ok(false),
        other => other?,
    };
    let unit = names::cluster_scope(cluster, &format!("shim-{name}"));
    match manager.start_scope(&unit, &[server], Vec::new()).await {
        // That of a server of this group which died a moment ago, and of which systemd has not heard yet.
        Err(SystemdError::Taken(_)) => {
            manager.stop(&unit.name).await?;
            manager.start_scope(&unit, &[server], Vec::new()).await?;
        }
        other => other?,
    }
    Ok(true)
}

/// A group's server, and its pid if it was started just now.
struct Found {
    address: String,
    started: Option<u32>,
}

fn ensure_in(directory: &Path, call: &Invocation, group: &str, served: &Served) -> Result<Found, ServeError> {
    let name = socket_name(&call.namespace, group);
    let socket = directory.join(format!("{name}.sock"));
    if socket.as_os_str().len() >= SUN_PATH {
        return Err(ServeError::PathTooLong(socket));
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|source| ServeError::Directory {
            path: directory.into(),
            source,
        })?;
    let _lock = lock(&directory.join("lock"))?;
    let started = match UnixStream::connect(&socket) {
        Ok(_) => None,
        Err(_) => Some(spawn(call, &name, &socket, bind(&socket)?, served)?),
    };
    Ok(Found {
        address: format!("unix://{}", socket.display()),
        started,
    })
}

fn socket_name(namespace: &str, group: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(namespace);
    hash.update([0]);
    hash.update(group);
    let mut name = hex::encode(hash.finalize());
    name.truncate(HASH_DIGITS);
    name
}

fn lock(path: &Path) -> Result<Flock<File>, ServeError> {
    let fail = |source| ServeError::Lock {
        path: path.into(),
        source,
    };
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
        .map_err(fail)?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| fail(errno.into()))
}

/// Nobody answers on the path (checked under the lock), so what is there is left from a server that died.
fn bind(socket: &Path) -> Result<UnixListener, ServeError> {
    let fail = |source| ServeError::Bind {
        path: socket.into(),
        source,
    };
    match fs::remove_file(socket) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(fail(e)),
        _ => {}
    }
    UnixListener::bind(socket).map_err(fail)
}

fn spawn(
    call: &Invocation,
    name: &str,
    socket: &Path,
    listener: UnixListener,
    served: &Served,
) -> Result<u32, ServeError> {
    let fail = |source| ServeError::Spawn {
        program: served.program.clone(),
        source,
    };
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(socket.with_extension("log"))
        .map_err(fail)?;
    let kept = KEPT_ENV
        .iter()
        .filter_map(|k| std::env::var_os(k).map(|v| (OsStr::new(k), v)));
    Command::new(&served.program)
        .args(&served.words)
        .args(["-namespace", &call.namespace, "-id", name, "-address"])
        .arg(socket)
        .args(call.debug.then_some("-debug"))
        .arg("serve")
        .env_clear()
        .envs(kept)
        .current_dir("/")
        .stdin(OwnedFd::from(listener))
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .map(|child| child.id())
        .map_err(fail)
}

/// Called first thing in `serve`: leaves the starter's session and takes the listening socket from standard input.
pub fn take_listener() -> Result<UnixListener, ServeError> {
    nix::unistd::setsid().map_err(ServeError::Session)?;
    let socket = io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .map_err(ServeError::Socket)?;
    let null = File::open("/dev/null").map_err(ServeError::Socket)?;
    nix::unistd::dup2_stdin(&null).map_err(|e| ServeError::Socket(e.into()))?;
    Ok(UnixListener::from(socket))
}

/// Called when a server has stopped listening: removes its socket and, if no more bytes were said than are `expected` of it,
/// its log. Under the lock, and not when somebody else listens there already.
pub fn forget_server(call: &Invocation, expected: impl FnOnce(&Path) -> u64) {
    let socket = Path::new(&call.address);
    let Some(directory) = socket.parent() else { return };
    let _lock = match lock(&directory.join("lock")) {
        Ok(lock) => lock,
        Err(error) => return tracing::warn!(%error, "the socket stays"),
    };
    if UnixStream::connect(socket).is_ok() {
        return;
    }
    let log = socket.with_extension("log");
    let said = fs::metadata(&log).is_ok_and(|m| m.len() > expected(&log));
    for path in [Some(socket.to_owned()), (!said).then_some(log)]
        .into_iter()
        .flatten()
    {
        if let Err(error) = fs::remove_file(&path) {
            tracing::warn!(?path, %error, "could not remove");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::start::Action;

    fn call() -> Invocation {
        let line = "-namespace n -id c start";
        let call = Invocation::parse(line.split(' ').map(OsString::from)).unwrap();
        assert_eq!(call.action, Action::Start);
        call
    }

    /// A server that holds its standard input (the socket) open, notes each of its starts, and ends with the directory.
    fn holder(directory: &Path) -> Served {
        let starts = directory.join("starts").display().to_string();
        let script = format!("echo started >> {starts}; while [ -e {starts} ]; do sleep 0.1; done");
        Served {
            program: "/bin/sh".into(),
            words: vec!["-c".into(), script.into()],
        }
    }

    fn wait_for(path: &Path) -> String {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        loop {
            match fs::read_to_string(path) {
                Ok(text) if !text.is_empty() => return text,
                _ if std::time::Instant::now() > deadline => panic!("{path:?} never came"),
                _ => std::thread::yield_now(),
            }
        }
    }

    #[test]
    fn many_starters_get_one_server() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("s");
        let addresses: Vec<String> = std::thread::scope(|scope| {
            let start = || {
                ensure_in(&directory, &call(), "pod", &holder(home.path()))
                    .unwrap()
                    .address
            };
            let all: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
            all.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert!(addresses.iter().all(|a| a == &addresses[0]), "{addresses:?}");
        assert_eq!(wait_for(&home.path().join("starts")), "started\n");
    }

    #[test]
    fn a_dead_socket_is_replaced() {
        let home = tempfile::tempdir().unwrap();
        let socket = home.path().join(format!("{}.sock", socket_name("n", "pod")));
        drop(UnixListener::bind(&socket).unwrap());
        ensure_in(home.path(), &call(), "pod", &holder(home.path())).unwrap();
        UnixStream::connect(&socket).unwrap();
    }

    #[test]
    fn a_server_that_ends_leaves_its_successor_alone() {
        let home = tempfile::tempdir().unwrap();
        let socket = home.path().join("x.sock");
        let call = Invocation {
            address: socket.display().to_string(),
            ..call()
        };
        let successor = UnixListener::bind(&socket).unwrap();
        forget_server(&call, |_| 0);
        assert!(socket.exists());
        drop(successor);
        forget_server(&call, |_| 0);
        assert!(!socket.exists());
    }

    #[test]
    fn a_log_of_what_was_expected_goes() {
        let home = tempfile::tempdir().unwrap();
        let (socket, log) = (home.path().join("x.sock"), home.path().join("x.log"));
        let call = Invocation {
            address: socket.display().to_string(),
            ..call()
        };
        for (expected, stays) in [(3, true), (4, false)] {
            fs::write(&socket, "").unwrap();
            fs::write(&log, "said").unwrap();
            forget_server(&call, |_| expected);
            assert_eq!(log.exists(), stays);
        }
    }

    #[test]
    fn a_server_that_cannot_be_moved_is_ended() {
        let mut server = Command::new("/bin/sleep").arg("1000").spawn().unwrap();
        assert!(or_end(Ok(()), server.id()).is_ok());
        assert_eq!(server.try_wait().unwrap(), None);
        let error = or_end(Err(SystemdError::Slow.into()), server.id());
        assert!(matches!(error, Err(ServeError::Systemd(SystemdError::Slow))));
        assert!(!server.wait().unwrap().success());
    }

    #[test]
    fn who_does_not_answer_is_not_absent() {
        let connect = |kind: io::ErrorKind| SystemdError::Connect {
            path: "/run/user/7/systemd/private".into(),
            source: kind.into(),
        };
        for absent in [
            SystemdError::Absent,
            SystemdError::NoUserManager,
            connect(io::ErrorKind::NotFound),
            connect(io::ErrorKind::ConnectionRefused),
        ] {
            assert!(absent.is_absence(), "{absent}");
        }
        for there in [SystemdError::Slow, connect(io::ErrorKind::PermissionDenied)] {
            assert!(!there.is_absence(), "{there}");
        }
    }

    #[test]
    fn names_do_not_run_together() {
        assert_ne!(socket_name("a", "bc"), socket_name("ab", "c"));
    }
}

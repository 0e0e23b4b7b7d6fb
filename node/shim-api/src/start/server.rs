//! The shim's side of starting: find the server of a group, or become the parent of a new one.
//!
//! Race-free by a lock per namespace held from the look until a new server is where it stays. It inherits the listening
//! socket as standard input, so clients may connect before it has begun to run. Refuses to know what it serves.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::Invocation;
use super::lock::{self, lock};
use super::presence::is_served;
use super::starter::{join_asked, leave_starter};
use crate::Standing;
use crate::cgroup::CgroupError;
use crate::events::TTRPC_ADDRESS;
use crate::files::replace;
use crate::systemd::SystemdError;

/// `sun_path` with its ending NUL (unix(7)).
const SUN_PATH: usize = 108;
/// Hex digits of the group's hash in a socket's name: 128 bits, so that no group can be made to meet another.
const HASH_DIGITS: usize = 32;
/// Logs of servers that have ended and had something to say.
const LOGS_KEPT: usize = 64;
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
    #[error(
        "another has kept the lock {path:?} for {patience:?}: a shim's starter is stopped or stuck; lslocks(8) tells which"
    )]
    Locked { path: PathBuf, patience: Duration },
    #[error("cannot listen on {path:?}: {source}")]
    Bind { path: PathBuf, source: io::Error },
    #[error("cannot leave the shim's address in {path:?}: {source}")]
    Address { path: PathBuf, source: io::Error },
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

impl ServeError {
    /// Whether another has the lock now, who may let go of it at any time, or have been stopped.
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Lock { source, .. } if source.kind() == io::ErrorKind::WouldBlock)
    }
}

/// The program to run as the server: it is called as `program words… -namespace N -id GROUP -address SOCKET serve`.
#[derive(Debug, Clone)]
pub struct Served {
    pub program: PathBuf,
    /// Words before the shim's flags (`linux-shim`), if any.
    pub words: Vec<OsString>,
    /// Where containerd wants it (its option `ShimCgroup`).
    pub cgroup: Option<String>,
}

impl Served {
    /// This very program, as it was called: the words before `shim_args` words from the end.
    pub fn this_program(shim_args: usize) -> Self {
        let all: Vec<OsString> = std::env::args_os().collect();
        let end = all.len().saturating_sub(shim_args).max(1);
        Self {
            program: "/proc/self/exe".into(),
            words: all[1..end].to_vec(),
            cgroup: None,
        }
    }
}

/// Finds the server of `group`, or starts it, and answers its address (`unix://…`).
pub fn ensure_server(call: &Invocation, group: &str, served: &Served) -> Result<String, ServeError> {
    let standing = Standing::of_this_process();
    let run = standing.run_dir().ok_or(ServeError::NoDirectory)?;
    let directory = run.join(&call.namespace).join("s");
    ensure_in(&directory, call, group, served, |name, server| {
        match call.address.is_empty() {
            true => leave_starter(standing, &call.namespace, name, server),
            // containerd, which gives its address, says where by an option.
            false => join_asked(served.cgroup.as_deref(), server),
        }
    })
}

/// By this file in the bundle a later containerd 1.x finds the shim again, and takes it for dead without, as containerd's own
/// shim has it; 2.x keeps what it was answered. The bundle is the working directory unless it is given.
fn note_address(call: &Invocation, address: &str) -> Result<(), ServeError> {
    if call.address.is_empty() {
        return Ok(());
    }
    let path = call.bundle.join("address");
    replace(&path, address.as_bytes()).map_err(|source| ServeError::Address { path, source })
}

/// A server that nobody is told of does not stay, nor does its socket, which somebody of its own may hold.
fn or_end(settled: Result<(), ServeError>, server: &mut Child, socket: &Path) -> Result<(), ServeError> {
    if settled.is_err() {
        // Neither fails for a child that nobody has waited for.
        let _ = server.kill().and_then(|()| server.wait());
        // What stays is the next server's to replace.
        let _ = fs::remove_file(socket);
    }
    settled
}

/// Answers the address of a group's server. A new one is `settle`d, by its name and pid, before anybody else can find it.
fn ensure_in(
    directory: &Path,
    call: &Invocation,
    group: &str,
    served: &Served,
    settle: impl FnOnce(&str, u32) -> Result<(), ServeError>,
) -> Result<String, ServeError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|source| ServeError::Directory {
            path: directory.into(),
            source,
        })?;
    let _lock = lock(&directory.join("lock"), lock::PATIENCE)?;
    let Place {
        name,
        socket,
        is_served,
    } = place(directory, &call.namespace, group)?;
    let address = format!("unix://{}", socket.display());
    if is_served {
        note_address(call, &address)?;
        return Ok(address);
    }
    let mut server = spawn(call, &name, &socket, bind(&socket)?, served)?;
    let settled = settle(&name, server.id()).and_then(|()| note_address(call, &address));
    or_end(settled, &mut server, &socket)?;
    Ok(address)
}

/// Where a server of a group is, or is to be.
struct Place {
    name: String,
    socket: PathBuf,
    is_served: bool,
}

/// The first of a group's servers that has room; one more where all are full.
fn place(directory: &Path, namespace: &str, group: &str) -> Result<Place, ServeError> {
    let mut further = 0;
    loop {
        let name = match further {
            0 => socket_name(namespace, group),
            _ => socket_name(namespace, &format!("{group}, further {further}")),
        };
        let socket = directory.join(format!("{name}.sock"));
        if socket.as_os_str().len() >= SUN_PATH {
            return Err(ServeError::PathTooLong(socket));
        }
        let is_served = is_served(&socket);
        if !is_served || !full_mark(&socket).exists() {
            return Ok(Place {
                name,
                socket,
                is_served,
            });
        }
        further += 1;
    }
}

/// What a server that takes in no more leaves beside its socket: who asks for one of its group gets another.
pub fn full_mark(socket: &Path) -> PathBuf {
    socket.with_extension("full")
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

/// Nobody answers on the path (checked under the lock), so what is there is left from a server that died.
fn bind(socket: &Path) -> Result<UnixListener, ServeError> {
    let fail = |source| ServeError::Bind {
        path: socket.into(),
        source,
    };
    for left in [socket, &full_mark(socket)] {
        match fs::remove_file(left) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(fail(e)),
            _ => {}
        }
    }
    UnixListener::bind(socket).map_err(fail)
}

fn spawn(
    call: &Invocation,
    name: &str,
    socket: &Path,
    listener: UnixListener,
    served: &Served,
) -> Result<Child, ServeError> {
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
    let kept = kept_env(call).filter_map(|k| std::env::var_os(k).map(|v| (OsStr::new(k), v)));
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
        .map_err(fail)
}

/// Who is told of events is containerd's to say: what the agent happens to have in its environment is not meant for a shim.
fn kept_env(call: &Invocation) -> impl Iterator<Item = &'static str> {
    let of_containerd = (!call.address.is_empty()).then_some(TTRPC_ADDRESS);
    KEPT_ENV.into_iter().chain(of_containerd)
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
    let _lock = match lock(&directory.join("lock"), lock::PATIENCE) {
        Ok(lock) => lock,
        Err(error) => return tracing::warn!(%error, "the socket stays"),
    };
    if is_served(socket) {
        return;
    }
    let log = socket.with_extension("log");
    let said = fs::metadata(&log).is_ok_and(|m| m.len() > expected(&log));
    let full = Some(full_mark(socket)).filter(|mark| mark.exists());
    let all = [Some(socket.to_owned()), (!said).then_some(log), full];
    all.into_iter().flatten().for_each(remove);
    if said {
        old_logs(directory).into_iter().for_each(remove);
    }
}

/// Who is dead may have been found out by another meanwhile.
pub(super) fn remove(path: PathBuf) {
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(?path, %error, "could not remove");
        }
        _ => {}
    }
}

/// All but the newest logs of servers that have ended: what each of many had to say is not kept in memory for ever.
pub(super) fn old_logs(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let logs = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == "log"))
        .filter(|path| !path.with_extension("sock").exists());
    let dated = logs.filter_map(|path| Some((fs::metadata(&path).ok()?.modified().ok()?, path)));
    let mut dated: Vec<_> = dated.collect();
    dated.sort();
    dated.truncate(dated.len().saturating_sub(LOGS_KEPT));
    dated.into_iter().map(|(_, path)| path).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use nix::fcntl::{Flock, FlockArg};

    use super::*;
    use crate::start::Action;

    fn call() -> Invocation {
        let line = "-namespace n -id c start";
        let call = Invocation::parse(line.split(' ').map(OsString::from)).unwrap();
        assert_eq!(call.action, Action::Start);
        call
    }

    /// A server that holds its standard input (the socket) open, notes each of its starts, and ends with the directory, or
    /// after a minute.
    fn holder(directory: &Path) -> Served {
        let starts = directory.join("starts").display().to_string();
        let script = format!(
            "echo started >> {starts}; n=0; while [ -e {starts} ] && [ $n -lt 600 ]; do n=$((n + 1)); sleep 0.1; done"
        );
        Served {
            program: "/bin/sh".into(),
            words: vec!["-c".into(), script.into()],
            cgroup: None,
        }
    }

    /// Waits for so many starts.
    fn wait_for(home: &Path, starts: usize) {
        let path = home.join("starts");
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        loop {
            match fs::read_to_string(&path) {
                Ok(text) if text == "started\n".repeat(starts) => return,
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
            let start =
                || ensure_in(&directory, &call(), "pod", &holder(home.path()), |_, _| Ok(())).unwrap();
            let all: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
            all.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert!(addresses.iter().all(|a| a == &addresses[0]), "{addresses:?}");
        wait_for(home.path(), 1);
    }

    #[test]
    fn a_dead_socket_is_replaced() {
        let home = tempfile::tempdir().unwrap();
        let socket = home.path().join(format!("{}.sock", socket_name("n", "pod")));
        drop(UnixListener::bind(&socket).unwrap());
        ensure_in(home.path(), &call(), "pod", &holder(home.path()), |_, _| Ok(())).unwrap();
        UnixStream::connect(&socket).unwrap();
        wait_for(home.path(), 1);
    }

    #[test]
    fn who_asks_while_a_server_is_full_gets_another() {
        let home = tempfile::tempdir().unwrap();
        let ensure = || {
            let address =
                ensure_in(home.path(), &call(), "pod", &holder(home.path()), |_, _| Ok(())).unwrap();
            PathBuf::from(address.strip_prefix("unix://").unwrap())
        };
        let first = ensure();
        fs::write(full_mark(&first), "").unwrap();
        let second = ensure();
        assert_ne!(second, first);
        assert_eq!(ensure(), second);
        fs::remove_file(full_mark(&first)).unwrap();
        assert_eq!(ensure(), first);
        wait_for(home.path(), 2);
    }

    #[test]
    fn a_server_begins_with_room() {
        let home = tempfile::tempdir().unwrap();
        let socket = home.path().join(format!("{}.sock", socket_name("n", "pod")));
        fs::write(full_mark(&socket), "").unwrap();
        ensure_in(home.path(), &call(), "pod", &holder(home.path()), |_, _| Ok(())).unwrap();
        assert!(socket.exists() && !full_mark(&socket).exists());
        wait_for(home.path(), 1);
    }

    #[test]
    fn of_what_ended_servers_said_the_newest_is_kept() {
        let home = tempfile::tempdir().unwrap();
        let (path, said) = (|n: usize| home.path().join(format!("{n:03}.log")), LOGS_KEPT + 5);
        for n in 0..said {
            let log = File::create(path(n)).unwrap();
            log.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(n as u64))
                .unwrap();
        }
        fs::write(path(1).with_extension("sock"), "").unwrap();
        assert_eq!(old_logs(home.path()), [0, 2, 3, 4].map(path));
    }

    #[test]
    fn nobody_finds_a_server_that_may_yet_be_ended() {
        let home = tempfile::tempdir().unwrap();
        let ensure = |settle: &dyn Fn() -> Result<(), ServeError>| {
            ensure_in(home.path(), &call(), "pod", &holder(home.path()), |_, _| settle())
        };
        let ended = ensure(&|| {
            wait_for(home.path(), 1);
            let lock = File::open(home.path().join("lock")).unwrap();
            let others = Flock::lock(lock, FlockArg::LockExclusiveNonblock);
            assert!(others.is_err(), "others may look for it");
            Err(SystemdError::Slow.into())
        });
        assert!(ended.is_err());
        ensure(&|| Ok(())).unwrap();
        wait_for(home.path(), 2);
    }

    /// containerd would not know of it.
    #[test]
    fn a_server_whose_address_cannot_be_left_is_ended() {
        let home = tempfile::tempdir().unwrap();
        let of_containerd = |bundle: &Path| Invocation {
            address: "/run/containerd/containerd.sock".into(),
            bundle: bundle.into(),
            ..call()
        };
        let ensure = |bundle: &Path| {
            ensure_in(
                home.path(),
                &of_containerd(bundle),
                "pod",
                &holder(home.path()),
                |_, _| {
                    wait_for(home.path(), 1);
                    Ok(())
                },
            )
        };
        let socket = home.path().join(format!("{}.sock", socket_name("n", "pod")));
        let refused = ensure(&home.path().join("none"));
        assert!(matches!(refused, Err(ServeError::Address { .. })), "{refused:?}");
        assert!(UnixStream::connect(&socket).is_err(), "it is still there");
        fs::remove_file(home.path().join("starts")).unwrap();
        for _ in 0..2 {
            let address = ensure(home.path()).unwrap();
            assert_eq!(fs::read_to_string(home.path().join("address")).unwrap(), address);
        }
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
            fs::write(full_mark(&socket), "").unwrap();
            forget_server(&call, |_| expected);
            assert!(!full_mark(&socket).exists());
            assert_eq!(log.exists(), stays);
        }
    }

    #[test]
    fn a_server_that_cannot_be_moved_is_ended() {
        let socket = tempfile::NamedTempFile::new().unwrap();
        let socket = socket.path();
        let mut server = Command::new("/bin/sleep").arg("1000").spawn().unwrap();
        assert!(or_end(Ok(()), &mut server, socket).is_ok());
        assert!(socket.exists());
        assert_eq!(server.try_wait().unwrap(), None);
        let error = or_end(Err(SystemdError::Slow.into()), &mut server, socket);
        assert!(!socket.exists());
        assert!(matches!(error, Err(ServeError::Systemd(SystemdError::Slow))));
        assert!(server.try_wait().unwrap().is_some_and(|status| !status.success()));
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
    fn only_containerd_names_who_is_told_of_events() {
        let keeps = |call: &Invocation| kept_env(call).any(|name| name == "TTRPC_ADDRESS");
        assert!(!keeps(&call()));
        let address = "/run/containerd/containerd.sock".to_owned();
        assert!(keeps(&Invocation { address, ..call() }));
    }

    #[test]
    fn names_do_not_run_together() {
        assert_ne!(socket_name("a", "bc"), socket_name("ab", "c"));
    }
}

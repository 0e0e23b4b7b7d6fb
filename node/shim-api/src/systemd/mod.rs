//! systemd as the manager of cgroups: slices and scopes are made, limited and ended by it (systemd.slice(5),
//! systemd.scope(5), "Control Group APIs and Delegation").
//!
//! Speaks to the manager itself, by the socket that systemctl uses: no bus is needed. Owns calls and their order; what
//! the units are for is for callers to know.

mod annotations;
mod limits;
pub mod names;
mod wire;

pub use annotations::asked as asked_by_annotations;
pub use limits::properties;
pub use names::Unit;
pub use wire::{Property, Value};

use std::fs;
use std::future::Future;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::Uid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::Standing;
use crate::standing::own_runtime_dir;
use wire::{ANSWER, ERROR, Message, Method, SIGNAL, START, Writer};

/// There while systemd is the first process of the host (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";
/// The host's manager, for root.
const HOST: &str = "/run/systemd/private";
/// A user's manager, below his `XDG_RUNTIME_DIR`.
const USER: &str = "systemd/private";
/// Where the manager's answer, and the end of the job it has begun, are waited for this long: D-Bus' own limit.
const LIMIT: Duration = Duration::from_secs(25);
/// systemd's messages are far shorter.
const MESSAGE_LIMIT: usize = 1 << 20;
/// An answer to AUTH is no longer than this.
const AUTH_LIMIT: usize = 512;

/// Why systemd did not do its part.
#[derive(Debug, thiserror::Error)]
pub enum SystemdError {
    #[error("systemd is to manage cgroups, but it does not run this host")]
    Absent,
    #[error("cgroupsPath {0:?} is not of the form slice:prefix:name, as systemd's cgroups need it")]
    Path(String),
    #[error("annotation org.systemd.property.{0}: {1:?} is no value that is understood")]
    Property(String, String),
    #[error("cannot reach systemd at {path:?}: {source}")]
    Connect { path: PathBuf, source: io::Error },
    #[error("you have no systemd of your own (XDG_RUNTIME_DIR is not set)")]
    NoUserManager,
    #[error("cannot speak with systemd: {0}")]
    Talk(#[from] io::Error),
    #[error("systemd refuses {what}: {said}")]
    Refused {
        what: String,
        name: String,
        said: String,
    },
    #[error("systemd's job for {unit} ended with {result:?}")]
    Job { unit: String, result: String },
    #[error("systemd did not answer within {LIMIT:?}")]
    Slow,
    #[error("systemd has a unit {0:?} already")]
    Taken(String),
    #[error("systemd told of a scope whose cgroup is not to be found")]
    ScopeWithoutCgroup,
}

impl SystemdError {
    fn is(&self, error: &str) -> bool {
        matches!(self, Self::Refused { name, .. } if name == error)
    }

    /// Whether there is no manager: not one that is slow, or that says no.
    pub fn is_absence(&self) -> bool {
        let nobody = [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused];
        match self {
            Self::Absent | Self::NoUserManager => true,
            Self::Connect { source, .. } => nobody.contains(&source.kind()),
            _ => false,
        }
    }
}

/// True where systemd can be the manager.
pub fn is_running() -> bool {
    Path::new(BOOTED).is_dir()
}

/// Runs something to its end for a program, or a thread, that has no event loop.
pub fn waiting<T>(work: impl Future<Output = Result<T, SystemdError>>) -> Result<T, SystemdError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(work)
}

const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";
const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";

const fn manager(member: &'static str, signature: &'static str) -> Method {
    Method {
        destination: "org.freedesktop.systemd1",
        path: "/org/freedesktop/systemd1",
        interface: "org.freedesktop.systemd1.Manager",
        member,
        signature,
    }
}

/// A connection to a manager.
#[derive(Debug)]
pub struct Manager {
    stream: UnixStream,
    serial: u32,
    /// Jobs that ended before it was known that they are ours, with their results.
    ended: Vec<(String, String)>,
}

impl Manager {
    /// Root's is the host's; everybody else has one of his own.
    pub async fn of(standing: Standing) -> Result<Self, SystemdError> {
        if !is_running() {
            return Err(SystemdError::Absent);
        }
        Self::connect(&socket_for(standing, Path::new(HOST), own_runtime_dir())?).await
    }

    /// The host's; for root.
    pub async fn of_host() -> Result<Self, SystemdError> {
        Self::of(Standing::Root).await
    }

    /// The one of whoever runs this.
    pub async fn of_user() -> Result<Self, SystemdError> {
        Self::of(Standing::User).await
    }

    async fn connect(path: &Path) -> Result<Self, SystemdError> {
        let reached = async {
            let mut stream = UnixStream::connect(path).await?;
            authenticate(&mut stream).await?;
            Ok(stream)
        };
        let stream = tokio::time::timeout(LIMIT, reached)
            .await
            .map_err(|_| SystemdError::Slow)?;
        Ok(Self {
            stream: stream.map_err(|source| SystemdError::Connect {
                path: path.into(),
                source,
            })?,
            serial: 0,
            ended: Vec::new(),
        })
    }

    /// Makes a scope with these processes in it, whose cgroup is ours from then on; it is there when this returns. One of
    /// that name must not be there.
    pub async fn start_scope(
        &mut self,
        unit: &Unit,
        processes: &[u32],
        properties: Vec<Property>,
    ) -> Result<(), SystemdError> {
        // systemd would make its own `init.scope` anew.
        if self.has(&unit.name).await? {
            return Err(SystemdError::Taken(unit.name.clone()));
        }
        let mut all = vec![
            (
                "Description".to_owned(),
                Value::Text("containers of amphipod".into()),
            ),
            ("PIDs".to_owned(), Value::Numbers(processes.to_vec())),
            ("Delegate".to_owned(), Value::Bool(true)),
            ("DefaultDependencies".to_owned(), Value::Bool(false)),
            ("CollectMode".to_owned(), Value::Text("inactive-or-failed".into())),
        ];
        all.extend(
            unit.slice
                .clone()
                .map(|slice| ("Slice".to_owned(), Value::Text(slice))),
        );
        all.retain(|(name, _)| properties.iter().all(|(other, _)| other != name));
        all.extend(properties);
        match self.start(&unit.name, &all).await {
            Err(error) if error.is(UNIT_EXISTS) => Err(SystemdError::Taken(unit.name.clone())),
            other => other,
        }
    }

    /// Makes a slice with these limits, or gives them to the one that is there.
    pub async fn limit_slice(&mut self, name: &str, properties: Vec<Property>) -> Result<(), SystemdError> {
        if self.has(name).await? {
            return self.set(name, &properties).await;
        }
        let mut all = vec![("DefaultDependencies".to_owned(), Value::Bool(false))];
        all.extend(properties);
        self.start(name, &all).await
    }

    /// Changes properties of a unit until the host's next start.
    pub async fn set(&mut self, unit: &str, properties: &[Property]) -> Result<(), SystemdError> {
        let mut body = Writer::default();
        body.text(unit);
        body.bool(true);
        body.properties(properties);
        self.call(unit, manager("SetUnitProperties", "sba(sv)"), body)
            .await
            .map(drop)
    }

    /// Ends a unit and what is in it. One that is not there has ended. To be called while its cgroup is there: systemd
    /// does not learn of the end of one that others remove.
    pub async fn stop(&mut self, unit: &str) -> Result<(), SystemdError> {
        let mut body = Writer::default();
        body.text(unit);
        body.text("replace");
        match self.call(unit, manager("StopUnit", "ss"), body).await {
            Err(error) if error.is(NO_SUCH_UNIT) => Ok(()),
            job => self.done(unit, &job?).await,
        }
    }

    async fn has(&mut self, unit: &str) -> Result<bool, SystemdError> {
        let mut body = Writer::default();
        body.text(unit);
        match self.call(unit, manager("GetUnit", "s"), body).await {
            Err(error) if error.is(NO_SUCH_UNIT) => Ok(false),
            other => other.map(|_| true),
        }
    }

    async fn start(&mut self, unit: &str, properties: &[Property]) -> Result<(), SystemdError> {
        let mut body = Writer::default();
        body.text(unit);
        body.text("fail");
        body.properties(properties);
        body.no_units();
        let method = manager("StartTransientUnit", "ssa(sv)a(sa(sv))");
        let job = self.call(unit, method, body).await?;
        self.done(unit, &job).await
    }

    /// Waits for the end of a job.
    async fn done(&mut self, unit: &str, job: &Message) -> Result<(), SystemdError> {
        let job = job.texts.first().cloned().unwrap_or_default();
        let result = loop {
            if let Some(at) = self.ended.iter().position(|(path, _)| *path == job) {
                break self.ended.swap_remove(at).1;
            }
            self.next().await?;
        };
        match result.as_str() {
            // What is to be stopped may have ended by itself meanwhile.
            "done" | "skipped" => Ok(()),
            _ => Err(SystemdError::Job {
                unit: unit.into(),
                result,
            }),
        }
    }

    async fn call(&mut self, what: &str, method: Method, body: Writer) -> Result<Message, SystemdError> {
        self.serial += 1;
        let serial = self.serial;
        self.stream.write_all(&wire::call(serial, method, body)).await?;
        loop {
            let message = self.next().await?;
            match message.kind {
                ANSWER if message.answers == serial => return Ok(message),
                ERROR if message.answers == serial => {
                    return Err(SystemdError::Refused {
                        what: format!("{} of {what}", method.member),
                        name: message.error,
                        said: message.texts.into_iter().next().unwrap_or_default(),
                    });
                }
                _ => {}
            }
        }
    }

    /// The next message; ends of jobs are remembered.
    async fn next(&mut self) -> Result<Message, SystemdError> {
        let received = tokio::time::timeout(LIMIT, receive(&mut self.stream)).await;
        let message = received.map_err(|_| SystemdError::Slow)??;
        if let (SIGNAL, "JobRemoved", [job, _, result]) =
            (message.kind, message.member.as_str(), &message.texts[..])
        {
            self.ended.push((job.clone(), result.clone()));
        }
        Ok(message)
    }
}

/// Whom to ask. Root of a user namespace may be root of a whole system, as in a container that has a systemd: then its
/// socket is root's as seen from there, and so is that systemd, whoever has logged in. Elsewhere it is nobody's.
fn socket_for(standing: Standing, host: &Path, own: Option<PathBuf>) -> Result<PathBuf, SystemdError> {
    let is_own = || fs::metadata(host).is_ok_and(|seen| seen.uid() == Uid::effective().as_raw());
    match standing {
        Standing::Root => Ok(host.into()),
        Standing::NamespaceRoot if is_own() => Ok(host.into()),
        Standing::NamespaceRoot | Standing::User => {
            own.map(|home| home.join(USER)).ok_or(SystemdError::NoUserManager)
        }
    }
}

/// Has the kernel say who we are (D-Bus specification, "Authentication Protocol": EXTERNAL). No id is named: ours, as
/// root of a user namespace, would not be the one that the other side sees.
async fn authenticate(stream: &mut UnixStream) -> io::Result<()> {
    // All of it at once: systemd would leave a message that comes with BEGIN alone until there is another.
    stream.write_all(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n").await?;
    let asked = line(stream).await?;
    let answer = match asked.as_str() {
        "DATA" => line(stream).await?,
        _ => asked,
    };
    match answer.starts_with("OK ") {
        true => Ok(()),
        false => Err(io::Error::new(io::ErrorKind::PermissionDenied, answer)),
    }
}

/// One line of those before the messages.
async fn line(stream: &mut UnixStream) -> io::Result<String> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") && line.len() < AUTH_LIMIT {
        line.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&line).trim().to_owned())
}

async fn receive(stream: &mut UnixStream) -> io::Result<Message> {
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let mut start = [0; START];
    stream.read_exact(&mut start).await?;
    let rest = wire::rest(&start).filter(|rest| *rest <= MESSAGE_LIMIT);
    let rest = rest.ok_or_else(|| invalid("a message of another order of bytes, or too long"))?;
    let mut bytes = start.to_vec();
    bytes.resize(START + rest, 0);
    stream.read_exact(&mut bytes[START..]).await?;
    wire::read(&bytes).ok_or_else(|| invalid("a message that is none"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_of_a_namespace_asks_the_systemd_that_is_its_own() {
        let host = tempfile::NamedTempFile::new().unwrap();
        let (host, nobodys) = (host.path(), Path::new("/nonexistent/private"));
        let login = || Some(PathBuf::from("/run/user/0"));
        let asked = |standing, host, own| socket_for(standing, host, own).ok();
        let user = Some(PathBuf::from("/run/user/0/systemd/private"));
        assert_eq!(asked(Standing::NamespaceRoot, host, None), Some(host.into()));
        assert_eq!(asked(Standing::NamespaceRoot, host, login()), Some(host.into()));
        assert_eq!(asked(Standing::NamespaceRoot, nobodys, login()), user);
        assert_eq!(asked(Standing::NamespaceRoot, nobodys, None), None);
        assert_eq!(asked(Standing::User, host, login()), user);
        assert_eq!(asked(Standing::Root, nobodys, login()), Some(nobodys.into()));
    }
}

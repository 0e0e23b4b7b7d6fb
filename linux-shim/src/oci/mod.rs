//! The OCI runtime command line: the containers of the shim without a shim, one invocation per step. Flags and output
//! are runc's, which podman, containerd and the suites of the Open Container Initiative drive.
//!
//! What an invocation leaves behind is in [`store`]. A container's process waits there, at a socket, to be started.

mod args;
mod birth;
mod change;
mod confine;
mod create;
mod events;
mod exec;
mod features;
mod foreground;
mod log;
mod members;
mod notify;
mod report;
mod shared_root;
mod store;
mod systemd;

use std::cell::RefCell;
use std::ffi::{CString, OsString};
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;

use amphipod_shim_api::Standing;
use amphipod_shim_api::cgroup::CgroupError;
use amphipod_shim_api::systemd::SystemdError;

use crate::device_filter::LimitError;
use crate::guard::GuardedProgram;
use crate::hooks::HookError;
use crate::launch::LaunchError;
use crate::overseer::OverseerError;
use crate::rootless::{ConfigurationError, ConfineError, RootlessError};
use crate::spec::SpecError;
use args::{ArgsError, Flag, Parsed, Until, short_switch, short_value, switch, value};
use log::Log;
use store::{Status, StoreError};

/// The oldest and the newest version of the runtime specification that is understood.
const VERSIONS: (&str, &str) = ("1.0.0", "1.2.1");
/// Where records of containers are, below the directory for such things.
const RECORDS: &str = "oci";
/// What `exec` ends with when there was no process to have an exit code of its own.
const NO_PROCESS: u8 = 255;
const USAGE: &str = "\
usage: oci [--root DIR] [--log FILE] [--log-format text|json] [--systemd-cgroup] COMMAND

  create  [-b DIR] [--pid-file FILE] [--console-socket SOCKET] [--preserve-fds N] ID
  start   ID
  run     as create, [-d] [--keep] ID
  exec    [-d] [-t] [-u UID[:GID]] [-e NAME=VALUE] [--cwd DIR] [--process FILE] [--pid-file FILE] ID COMMAND…
  kill    [--all] ID [SIGNAL]
  delete  [--force] ID
  pause   ID
  resume  ID
  update  [--resources FILE] [--memory SIZE] [--cpu-quota N] … ID
  state   ID
  list    [-q] [--format json]
  ps      [--format json] ID
  events  [--stats] [--interval DURATION] ID
  features";

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OciError {
    #[error(transparent)]
    Args(#[from] ArgsError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error(transparent)]
    Rootless(#[from] RootlessError),
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
    #[error(transparent)]
    Confine(#[from] ConfineError),
    #[error(transparent)]
    Systemd(#[from] SystemdError),
    #[error("your systemd may not begin processes in the cgroup it has made (is it delegated to you?)")]
    OutsideScope,
    #[error(transparent)]
    Limit(#[from] LimitError),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Launch(#[from] LaunchError),
    #[error(transparent)]
    Overseer(#[from] OverseerError),
    #[error("cannot find the bundle {path:?}: {source}")]
    Bundle { path: PathBuf, source: io::Error },
    #[error("the root file system {0:?} is no directory")]
    NoRootfs(PathBuf),
    #[error("cannot tell $NOTIFY_SOCKET of the container: {0}")]
    Notify(io::Error),
    #[error("cannot talk to the container's process: {0}")]
    Channel(io::Error),
    #[error("unable to start container process: {0}")]
    Init(String),
    #[error("the process ended before it could run its program")]
    Vanished,
    #[error("a detached process with a terminal needs --console-socket")]
    NoConsole,
    #[error("cannot send the terminal to {path:?}: {source}")]
    ConsoleSocket { path: PathBuf, source: io::Error },
    #[error("cannot send the process's descriptor to {path:?}: {source}")]
    PidfdSocket { path: PathBuf, source: io::Error },
    #[error(
        "without a cgroup (--cgroup-manager=disabled) a container cannot be limited as config.json asks for"
    )]
    NothingLimits,
    #[error("cannot write the pid file {path:?}: {source}")]
    PidFile { path: PathBuf, source: io::Error },
    #[error("cannot {1} container {0:?}: it is {word}", word = .2.word())]
    Status(String, &'static str, Status),
    #[error("the container was ended, because after its start {0}")]
    Poststart(HookError),
    #[error("cannot take the container's root file system off the host's mounts: {0}")]
    SharedRoot(io::Error),
    #[error("cannot send signal {0}: {1}")]
    Signal(i32, nix::errno::Errno),
    #[error("container {0:?} was killed but does not end")]
    StillThere(String),
    #[error("cannot stay with the process: {0}")]
    Foreground(io::Error),
    #[error("cannot read resources from {path:?}: {source}")]
    ReadResources { path: PathBuf, source: io::Error },
    #[error("these are no resources: {0}")]
    Resources(serde_json::Error),
    #[error("cannot read the process from {path:?}: {source}")]
    ReadProcess { path: PathBuf, source: io::Error },
    #[error("this is no process: {0}")]
    Process(serde_json::Error),
    #[error(
        "the container has no cgroup {0:?}; one of all hierarchies is meant, without the name of a controller"
    )]
    NoCgroup(String),
    #[error("container {0:?} has no cgroup of its own, which this needs")]
    Uncontrolled(String),
    #[error("cannot watch the container: {0}")]
    Watch(io::Error),
    #[error("cannot run ps: {0}")]
    Ps(io::Error),
    #[error("ps shows no PID column with these options")]
    NoPidColumn,
    #[error("cannot write to standard output: {0}")]
    Say(io::Error),
}

/// What every command is given.
#[derive(Debug)]
struct Call {
    root: PathBuf,
    log: Log,
    standing: Standing,
    manager: Manager,
}

/// Who makes cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manager {
    /// We do, by files.
    Ourselves,
    Systemd,
    /// Containers have none (crun's `disabled`).
    Nobody,
}

impl Manager {
    fn of(global: &Parsed) -> Result<Self, ArgsError> {
        match global.value("cgroup-manager") {
            _ if global.is_set("systemd-cgroup") => Ok(Self::Systemd),
            None | Some("cgroupfs") => Ok(Self::Ourselves),
            Some("systemd") => Ok(Self::Systemd),
            Some("disabled") => Ok(Self::Nobody),
            Some(other) => Err(ArgsError::Manager(other.into())),
        }
    }
}

const GLOBAL: &[Flag] = &[
    value("root"),
    value("log"),
    value("log-format"),
    value("log-level"),
    value("criu"),
    value("rootless"),
    value("cgroup-manager"),
    switch("systemd-cgroup"),
    switch("debug"),
    short_switch("version", Some('v')),
    short_switch("help", Some('h')),
];
const CREATE: &[Flag] = &[
    short_value("bundle", Some('b')),
    value("pid-file"),
    value("console-socket"),
    value("pidfd-socket"),
    value("preserve-fds"),
    short_switch("detach", Some('d')),
    switch("keep"),
    switch("no-pivot"),
    switch("no-new-keyring"),
    switch("no-subreaper"),
];
const EXEC: &[Flag] = &[
    short_value("process", Some('p')),
    short_value("env", Some('e')),
    short_value("user", Some('u')),
    short_value("additional-gids", Some('g')),
    short_value("cap", Some('c')),
    value("cwd"),
    value("pid-file"),
    value("console-socket"),
    value("pidfd-socket"),
    value("preserve-fds"),
    value("process-label"),
    value("apparmor"),
    value("cgroup"),
    short_switch("detach", Some('d')),
    short_switch("tty", Some('t')),
    switch("no-new-privs"),
    switch("ignore-paused"),
    switch("no-subreaper"),
];
const DELETE: &[Flag] = &[short_switch("force", Some('f'))];
const KILL: &[Flag] = &[short_switch("all", Some('a'))];
const LIST: &[Flag] = &[short_value("format", Some('f')), short_switch("quiet", Some('q'))];
const EVENTS: &[Flag] = &[switch("stats"), value("interval")];
const UPDATE: &[Flag] = &[
    short_value("resources", Some('r')),
    value("blkio-weight"),
    value("cpu-burst"),
    value("cpu-idle"),
    value("cpu-period"),
    value("cpu-quota"),
    value("cpu-rt-period"),
    value("cpu-rt-runtime"),
    value("cpu-share"),
    value("cpuset-cpus"),
    value("cpuset-mems"),
    value("kernel-memory"),
    value("kernel-memory-tcp"),
    value("memory"),
    value("memory-reservation"),
    value("memory-swap"),
    value("pids-limit"),
];

/// Does what the words after the program's name say.
pub fn main(words: impl Iterator<Item = OsString>) -> ExitCode {
    let words: Result<Vec<String>, _> = words.map(OsString::into_string).collect();
    let words = match words {
        Ok(words) => words,
        Err(word) => return failed(&Log::default(), &ArgsError::NotUtf8(word).into(), false),
    };
    let global = match args::parse(GLOBAL, &words, Until::FirstWord) {
        Ok(global) => global,
        Err(error) => return failed(&Log::default(), &error.into(), false),
    };
    let manager = match Manager::of(&global) {
        Ok(manager) => manager,
        Err(error) => return failed(&Log::default(), &error.into(), is_exec(&global)),
    };
    let standing = Standing::of_this_process();
    let root = global.value("root").map(PathBuf::from);
    let call = Call {
        root: root
            .or_else(|| standing.run_dir().map(|dir| dir.join(RECORDS)))
            .unwrap_or_default(),
        standing,
        manager,
        log: Log {
            outspoken: standing.makes_do() || has_own_stderr(&global),
            file: global.value("log").map(PathBuf::from),
            json: global.value("log-format") == Some("json"),
            debug: global.is_set("debug"),
            held: RefCell::default(),
        },
    };
    match run(&call, &global) {
        Ok(code) => ExitCode::from(code),
        Err(error) => failed(&call.log, &error, is_exec(&global)),
    }
}

fn is_exec(global: &Parsed) -> bool {
    global.words.first().is_some_and(|word| word == "exec")
}

/// Whether what is put on standard error is read by who gave the command. Of `create` it is the container's, and conmon keeps it
/// as what the container said, unless somebody sits there; what a process more is not given has been said before.
fn has_own_stderr(global: &Parsed) -> bool {
    match global.words.first().map(String::as_str) {
        Some("exec") => false,
        Some("create") => std::io::stderr().is_terminal(),
        _ => true,
    }
}

fn failed(log: &Log, error: &OciError, exec: bool) -> ExitCode {
    log.error(&error.to_string());
    if exec {
        ExitCode::from(NO_PROCESS)
    } else {
        ExitCode::FAILURE
    }
}

/// What makes a process in a container runs from a read-only mount of its program: a container with the right to trace
/// could reach the file through `/proc/PID/exe` and change it for the host (CVE-2019-5736). Where that cannot be had
/// it is said. An ordinary user's container has no right over a process that hides (`init::begin`) and was executed
/// outside of its user namespace: it cannot look at its `/proc/PID/exe`.
fn guard(call: &Call) {
    if call.standing == Standing::User || GuardedProgram::runs_already().unwrap_or(true) {
        return;
    }
    let args = std::env::args_os().map(|a| CString::new(a.into_encoded_bytes()));
    let args: Vec<CString> = args.filter_map(Result::ok).collect();
    let guarded = GuardedProgram::this().map(|program| program.execute(&args));
    let error = match guarded {
        Ok(error) | Err(error) => error,
    };
    call.log
        .warn(&format!("the runtime's program is not guarded: {error}"));
}

fn run(call: &Call, global: &Parsed) -> Result<u8, OciError> {
    if global.is_set("version") {
        let (version, newest) = (env!("CARGO_PKG_VERSION"), VERSIONS.1);
        return report::say(&format!("amphipod-oci version {version}\nspec: {newest}")).map(|()| 0);
    }
    let (command, rest) = match global.words.split_first() {
        Some(split) if !global.is_set("help") => split,
        _ => return report::say(USAGE).map(|()| 0),
    };
    if call.root.as_os_str().is_empty() && !["features", "help"].contains(&command.as_str()) {
        return Err(RootlessError::NoRoot.into());
    }
    if ["create", "run", "exec"].contains(&command.as_str()) {
        guard(call);
    }
    let take = |flags| args::parse(flags, rest, Until::End);
    match command.as_str() {
        "run" => return create::run(call, &take(CREATE)?),
        "exec" => return exec::exec(call, &args::parse(EXEC, rest, Until::FirstWord)?),
        "create" => create::create(call, &take(CREATE)?),
        "start" => create::start(call, &take(&[])?),
        "kill" => change::kill(call, &take(KILL)?),
        "delete" => change::delete(call, &take(DELETE)?),
        "pause" => change::freeze(call, &take(&[])?, true),
        "resume" => change::freeze(call, &take(&[])?, false),
        "update" => change::update(call, &take(UPDATE)?),
        "state" => report::state(call, &take(&[])?),
        "list" => report::list(call, &take(LIST)?),
        "ps" => report::ps(call, &args::parse(LIST, rest, Until::FirstWord)?),
        "events" => events::events(call, &take(EVENTS)?),
        "features" => features::features(),
        "help" => report::say(USAGE),
        other => Err(ArgsError::UnknownCommand(other.into()).into()),
    }
    .map(|()| 0)
}

//! `create`, `start` and `run`: from a bundle to a running program.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use super::args::Parsed;
use super::birth::{Birth, Born, let_go, own_streams};
use super::confine::{self, Confined};
use super::notify::{self, Notify};
use super::shared_root::SharedRoot;
use super::store::{Entry, Record, Status};
use super::{Call, OciError, foreground};
use crate::confine::is_used;
use crate::hooks;
use crate::init::ContainerPlan;
use crate::init::keyring::keyring_of;
use crate::overseer::Overseer;
use crate::processes::started_at;
use crate::rootless::{self, Configuration};
use crate::sys::socket::pidfd;
use crate::{launch, process_spec, spec};
use amphipod_shim_api::cgroup::Cgroup;
use amphipod_shim_api::files::replace;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::unistd::Pid;

/// `create ID`.
pub fn create(call: &Call, args: &Parsed) -> Result<(), OciError> {
    let made = make(call, args)?;
    match made.born.master {
        // Nobody would ever read it.
        Some(_) if args.value("console-socket").is_none() => {
            super::change::remove(call, &made.entry, true)?;
            Err(OciError::NoConsole)
        }
        _ => Ok(()),
    }
}

struct Made {
    entry: Entry,
    born: Born,
}

fn make(call: &Call, args: &Parsed) -> Result<Made, OciError> {
    let entry = Entry::of(&call.root, args.word(0, "the container's id")?)?;
    entry.make()?;
    let made = build(call, args, &entry);
    match made {
        Ok(born) => Ok(Made { entry, born }),
        Err(error) => {
            entry.remove()?;
            Err(error)
        }
    }
}

fn bundle(args: &Parsed) -> Result<PathBuf, OciError> {
    let given = Path::new(args.value("bundle").unwrap_or("."));
    fs::canonicalize(given).map_err(|source| OciError::Bundle {
        path: given.into(),
        source,
    })
}

fn build(call: &Call, args: &Parsed, entry: &Entry) -> Result<Born, OciError> {
    let bundle = bundle(args)?;
    let Configuration {
        bytes: config,
        mut spec,
        said,
    } = rootless::configuration(&bundle, call.standing)?;
    said.iter().for_each(|text| call.log.warn(text));
    let id = args.word(0, "the container's id")?;
    let cgroup_path = confine::path(call, &spec, id);
    let notify = notify::offer(&entry.notify_dir(), &mut spec).map_err(OciError::Notify)?;
    let (mut plan, limits) = spec::plan(&spec, &bundle, &cgroup_path, Vec::new())?;
    plan.subject = spec::subject(&spec, id, &bundle);
    if args.is_set("no-pivot") {
        plan.avoid_pivot();
    }
    plan.process.keyring = (!args.is_set("no-new-keyring")).then(|| keyring_of(id));
    plan.process.env.extend(notify);
    let listening = hand_on_sockets(&mut plan.process.env);
    if !plan.rootfs.is_dir() {
        return Err(OciError::NoRootfs(plan.rootfs));
    }
    let root = plan.shares_mounts().then(|| SharedRoot::at(&plan.rootfs));
    let root = root.transpose().map_err(OciError::SharedRoot)?;
    let gate = entry.make_gate()?;
    let shares_cgroup = is_used(&plan.cgroup)?;
    if !shares_cgroup {
        entry.note(&confine::place(call, &spec, &cgroup_path, id)?)?;
    }
    let confined = confine::confine(call, &spec, cgroup_path, &mut plan, limits);
    let mut is_begun = false;
    let born = confined.and_then(|confined| {
        let preserved = args
            .number::<u32>("preserve-fds")?
            .unwrap_or(0)
            .saturating_add(listening);
        let birth = Birth {
            overseer: Overseer::of(&plan),
            handed_over: plan.is_staged(),
            gate: Some(gate),
            streams: own_streams(plan.process.terminal.is_some(), preserved).map_err(OciError::Channel)?,
            log: &call.log,
        };
        is_begun = true;
        match birth.give(|streams, end| launch::first(&plan, streams, end)) {
            Ok(born) => Ok((born, confined)),
            Err(error) => {
                confined.discard(call);
                Err(error)
            }
        }
    });
    let written = born.and_then(|(born, confined)| {
        let recorded = record(&plan, root, &confined, shares_cgroup, &born)
            .and_then(|record| write_down(args, entry, &record, &config, &born));
        match recorded {
            Ok(()) => Ok(born),
            Err(error) => {
                super::birth::end(born.pid);
                confined.discard(call);
                Err(error)
            }
        }
    });
    if written.is_err() {
        if !shares_cgroup {
            discard(call, &plan.cgroup);
        }
        let made = made_root(&plan, root).ok().flatten();
        if let Some(Err(error)) = made.map(|root| root.release(&plan.rootfs)) {
            call.log.warn(&error.to_string());
        }
        if is_begun {
            super::change::run_poststop(call, &plan.hooks, &plan.subject);
        }
    }
    written
}

/// The mount made for a container that shares its mount namespace with us; `before` is what was there.
fn made_root(plan: &ContainerPlan, before: Option<SharedRoot>) -> Result<Option<SharedRoot>, OciError> {
    let now = before.map(|_| SharedRoot::at(&plan.rootfs));
    let now = now.transpose().map_err(OciError::SharedRoot)?;
    Ok(now.filter(|now| Some(*now) != before))
}

fn record(
    plan: &ContainerPlan,
    root_before: Option<SharedRoot>,
    confined: &Confined,
    shares_cgroup: bool,
    born: &Born,
) -> Result<Record, OciError> {
    Ok(Record {
        version: plan.subject.version.clone(),
        id: plan.subject.id.clone(),
        pid: born.pid.as_raw(),
        started: started_at(born.pid.as_raw()).ok_or(OciError::Vanished)?,
        bundle: plan.subject.bundle.clone(),
        rootfs: plan.rootfs.clone(),
        cgroup: confined.path.clone(),
        shares_cgroup,
        unit: confined.unit.clone(),
        created: jiff::Timestamp::now().to_string(),
        more_namespaces: plan.more_namespaces().bits(),
        keeps_keyring: plan.process.keyring.is_none(),
        shares_mounts: plan.shares_mounts(),
        shared_root: made_root(plan, root_before)?,
    })
}

/// What the container leaves for those who come next: its record, its pid, its terminal.
fn write_down(
    args: &Parsed,
    entry: &Entry,
    record: &Record,
    config: &[u8],
    born: &Born,
) -> Result<(), OciError> {
    entry.save(record, config)?;
    if let (Some(path), Some(_)) = (args.value("console-socket"), &born.master) {
        send_terminal(Path::new(path), born)?;
    }
    send_pidfd(args, born)?;
    write_pid_file(args, born)
}

/// The caller's `--pid-file`: whole or not there.
pub fn write_pid_file(args: &Parsed, born: &Born) -> Result<(), OciError> {
    let Some(path) = args.value("pid-file").map(Path::new) else {
        return Ok(());
    };
    replace(path, born.pid.to_string().as_bytes()).map_err(|source| OciError::PidFile {
        path: path.into(),
        source,
    })
}

/// Gives the terminal's master to whoever listens (runc's `--console-socket`).
pub fn send_terminal(path: &Path, born: &Born) -> Result<(), OciError> {
    let Some(master) = &born.master else { return Ok(()) };
    send(path, master.as_fd(), b"/dev/ptmx").map_err(|source| OciError::ConsoleSocket {
        path: path.into(),
        source,
    })
}

/// Gives a descriptor of the process to whoever listens (`--pidfd-socket`).
pub fn send_pidfd(args: &Parsed, born: &Born) -> Result<(), OciError> {
    let Some(path) = args.value("pidfd-socket").map(Path::new) else {
        return Ok(());
    };
    let sent = pidfd(born.pid).and_then(|process| send(path, process.as_fd(), b"pidfd"));
    sent.map_err(|source| OciError::PidfdSocket {
        path: path.into(),
        source,
    })
}

/// Sends a descriptor under a name.
fn send(path: &Path, fd: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    let socket = UnixStream::connect(path)?;
    let fds = [fd.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&fds)];
    let parts = [io::IoSlice::new(name)];
    sendmsg::<()>(socket.as_raw_fd(), &parts, &rights, MsgFlags::empty(), None)?;
    Ok(())
}

/// Sockets that were handed to us (`sd_listen_fds(3)`) are the program's, as with runc; answers how many.
fn hand_on_sockets(env: &mut Vec<String>) -> u32 {
    let number = |name| std::env::var(name).ok()?.parse::<u32>().ok();
    let are_ours = number("LISTEN_PID") == Some(std::process::id());
    let count = number("LISTEN_FDS").filter(|_| are_ours).unwrap_or_default();
    if count > 0 {
        // The first of its PID namespace.
        env.extend([format!("LISTEN_FDS={count}"), "LISTEN_PID=1".to_owned()]);
    }
    count
}

fn discard(call: &Call, cgroup: &Cgroup) {
    if cgroup.is_none() {
        return;
    }
    let gone = cgroup.kill().and_then(|()| cgroup.remove_waiting());
    if let Err(error) = gone {
        call.log.warn(&error.to_string());
    }
}

/// `start ID`. With a manager of services it waits until the program is ready.
pub fn start(call: &Call, args: &Parsed) -> Result<(), OciError> {
    let (pid, notify) = begin(call, args)?;
    match notify {
        Some(notify) => notify.wait(pid).map_err(OciError::Notify),
        None => Ok(()),
    }
}

fn begin(call: &Call, args: &Parsed) -> Result<(Pid, Option<Notify>), OciError> {
    let entry = Entry::of(&call.root, args.word(0, "the container's id")?)?;
    let _lock = entry.lock()?;
    let record = entry.load()?;
    match entry.status(&record)? {
        Status::Created => {}
        Status::Stopped => return Err(OciError::Status(record.id, "start", Status::Stopped)),
        other => return Err(OciError::Status(record.id, "start", other)),
    }
    let notify = Notify::listen(&entry.notify_dir()).map_err(OciError::Notify)?;
    let end = crate::init::channel::WaitingEnd::at_gate(entry.visit_gate()?);
    entry.close_gate()?;
    let_go(&end)?;
    let spec = entry.config()?;
    let subject = spec::subject(&spec, &record.id, &record.bundle);
    let hooks = process_spec::hooks(&spec, &record.bundle)?;
    hooks::run(&hooks.poststart, &subject.state("running", record.pid)).map_err(|error| {
        match super::change::end(&record) {
            Err(other) => other,
            Ok(()) => OciError::Poststart(error),
        }
    })?;
    Ok((record.process(), notify))
}

/// `run ID`: create, start and, unless detached, wait and delete. Answers the exit code.
pub fn run(call: &Call, args: &Parsed) -> Result<u8, OciError> {
    let detached = args.is_set("detach");
    let given = args.value("console-socket").is_some();
    let watch = (!detached)
        .then(foreground::Watch::begin)
        .transpose()
        .map_err(OciError::Foreground)?;
    let made = make(call, args)?;
    if made.born.master.is_some() && detached && !given {
        super::change::remove(call, &made.entry, true)?;
        return Err(OciError::NoConsole);
    }
    let begun = match &watch {
        Some(_) => begin(call, args).map(|(_, notify)| notify),
        None => start(call, args).map(|()| None),
    };
    let notify = match begun {
        Ok(notify) => notify,
        Err(error) => {
            super::change::remove(call, &made.entry, true)?;
            return Err(error);
        }
    };
    let Some(watch) = watch else { return Ok(0) };
    let master = made.born.master.filter(|_| !given);
    let code = watch
        .until_end(made.born.pid, master, notify)
        .map_err(OciError::Foreground)?;
    if !args.is_set("keep") {
        super::change::remove(call, &made.entry, true)?;
    }
    Ok(code)
}

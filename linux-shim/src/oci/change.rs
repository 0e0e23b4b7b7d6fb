//! What happens to a container once it is there: `kill`, `delete`, `pause`, `resume`, `update`.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

use amphipod_shim_api::cgroup::Cgroup;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use oci_spec::runtime::LinuxResources;
use serde_json::{Map, Value, json};

use super::args::{Parsed, signal};
use super::confine;
use super::members::{has_cgroup_alone, is_alone, members};
use super::store::{Entry, Place, Record, Status, StoreError};
use super::{Call, OciError};
use crate::confine::recorded;
use crate::hooks::{self, Hooks, Subject};
use crate::sys::socket::pidfd;
use crate::{process_spec, processes, spec};

/// A killed process that is still there after this is stuck in the kernel.
const KILL_LIMIT_MS: u16 = 10_000;
/// A process that was killed, or has done its work, ends within this, however busy the host is.
const ENDING_MS: u16 = 200;
/// Resources as a file are no larger than this.
const RESOURCES_LIMIT: u64 = 1 << 20;

/// `kill [--all] ID [SIGNAL]`.
pub fn kill(call: &Call, args: &Parsed) -> Result<(), OciError> {
    let number = match args.words.get(1) {
        Some(text) => signal(text)?,
        None => libc::SIGTERM,
    };
    let record = Entry::of(&call.root, args.word(0, "the container's id")?)?.load()?;
    if args.is_set("all") {
        return kill_all(call, &record, number);
    }
    signal_process(&record, number)
}

/// A process that v1 has frozen ends only when it is thawed; v2's dies frozen, and what it leaves goes on, as with runc.
fn thaw(record: &Record) -> Result<(), OciError> {
    let cgroup = record.cgroup().map_err(StoreError::from)?;
    match cgroup.is_frozen().then(|| cgroup.thaw()) {
        // Who was in it may have been all that it was kept for.
        Some(Err(error)) if cgroup.exists() => Err(error.into()),
        _ => Ok(()),
    }
}

fn signal_process(record: &Record, number: i32) -> Result<(), OciError> {
    match processes::signal(record.pid, record.started, number) {
        Err(Errno::ESRCH) => Err(OciError::Status(record.id.clone(), "signal", Status::Stopped)),
        Err(errno) => Err(OciError::Signal(number, errno)),
        Ok(()) if number == libc::SIGKILL => thaw(record),
        Ok(()) => Ok(()),
    }
}

fn kill_all(call: &Call, record: &Record, number: i32) -> Result<(), OciError> {
    if number == libc::SIGKILL {
        return match has_cgroup_alone(call, record)? {
            true => Ok(record.cgroup().map_err(StoreError::from)?.kill()?),
            // The first of a PID namespace takes the others with it; of another nobody else is known.
            false => signal_process(record, number).or_else(ignore_stopped),
        };
    }
    for pid in members(call, record)? {
        // One that is gone meanwhile needs no signal.
        let _ = crate::sys::process::kill(pid.cast_signed(), number);
    }
    Ok(())
}

fn ignore_stopped(error: OciError) -> Result<(), OciError> {
    match error {
        OciError::Status(..) => Ok(()),
        other => Err(other),
    }
}

/// `delete [--force] ID`.
pub fn delete(call: &Call, args: &Parsed) -> Result<(), OciError> {
    let entry = Entry::of(&call.root, args.word(0, "the container's id")?)?;
    let force = args.is_set("force");
    match remove(call, &entry, force) {
        Err(OciError::Store(StoreError::NotFound(_))) if force => Ok(()),
        other => other,
    }
}

/// Ends what is left of a container and forgets it.
pub fn remove(call: &Call, entry: &Entry, force: bool) -> Result<(), OciError> {
    let _lock = entry.lock()?;
    let record = match entry.load() {
        Err(StoreError::NotFound(_)) if force => return remove_unmade(call, entry),
        other => other?,
    };
    let mut status = entry.status(&record)?;
    if status == Status::Running && !force {
        await_end(&record);
        status = entry.status(&record)?;
    }
    if status != Status::Stopped && !(force || status == Status::Created) {
        return Err(OciError::Status(record.id, "delete", status));
    }
    let cgroup = record.cgroup().map_err(StoreError::from)?;
    if status == Status::Paused {
        cgroup.thaw()?;
    }
    if status != Status::Stopped {
        end(&record)?;
    }
    leave_cgroup(call, &record, &cgroup)?;
    if let Some(root) = record.shared_root {
        root.release(&record.rootfs).map_err(OciError::SharedRoot)?;
    }
    let spec = entry.config();
    entry.remove()?;
    let spec = spec?;
    let hooks = process_spec::hooks(&spec, &record.bundle)?;
    run_poststop(call, &hooks, &spec::subject(&spec, &record.id, &record.bundle));
    Ok(())
}

/// The hooks of a container's end, which one that was begun has whether or not it came to be (runtime-spec, runtime.md,
/// "Lifecycle").
pub fn run_poststop(call: &Call, hooks: &Hooks, subject: &Subject) {
    for error in hooks::run_all(&hooks.poststop, &subject.state("stopped", 0)) {
        call.log.warn(&error.to_string());
    }
}

/// The same of a directory without a record, which is of a `create` that was killed.
fn remove_unmade(call: &Call, entry: &Entry) -> Result<(), OciError> {
    let place = entry.place()?;
    if let Some(Place { cgroup: path, unit }) = place
        && is_alone(call, entry.id(), &path)?
    {
        end_cgroup(call, &recorded(&path)?, unit.as_deref())?;
    }
    Ok(entry.remove()?)
}

/// Ends whoever of an ended container is in its cgroup, and removes it. Others who are there stay, and it for them.
fn leave_cgroup(call: &Call, record: &Record, cgroup: &Cgroup) -> Result<(), OciError> {
    let is_used = cgroup.exists() && !cgroup.pids()?.is_empty();
    if is_used && !has_cgroup_alone(call, record)? {
        return Ok(());
    }
    end_cgroup(call, cgroup, record.unit.as_deref())
}

/// Kills everybody in a cgroup, and removes it.
fn end_cgroup(call: &Call, cgroup: &Cgroup, unit: Option<&str>) -> Result<(), OciError> {
    if cgroup.exists() {
        cgroup.kill()?;
    }
    if let Some(unit) = unit {
        super::systemd::stop(call, unit)?;
    }
    if cgroup.exists() {
        cgroup.remove_waiting()?;
    }
    Ok(())
}

/// Kills a container's process and waits for its end.
pub fn end(record: &Record) -> Result<(), OciError> {
    let Ok(process) = pidfd(record.process()) else {
        return Ok(());
    };
    signal_process(record, libc::SIGKILL).or_else(ignore_stopped)?;
    match has_ended(&process, KILL_LIMIT_MS) {
        false => Err(OciError::StillThere(record.id.clone())),
        true => Ok(()),
    }
}

/// Gives a process that is about to end the time for it: who has killed it, or seen the last of what it does, may want the container
/// deleted at once.
fn await_end(record: &Record) {
    if let Ok(process) = pidfd(record.process()) {
        has_ended(&process, ENDING_MS);
    }
}

fn has_ended(process: &OwnedFd, limit_ms: u16) -> bool {
    let mut watched = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    poll(&mut watched, PollTimeout::from(limit_ms)) != Ok(0)
}

/// `pause ID` and `resume ID`.
pub fn freeze(call: &Call, args: &Parsed, frozen: bool) -> Result<(), OciError> {
    let entry = Entry::of(&call.root, args.word(0, "the container's id")?)?;
    let _lock = entry.lock()?;
    let record = entry.load()?;
    let status = entry.status(&record)?;
    match (frozen, status) {
        (true, Status::Running | Status::Created) => Ok(controlled(&record)?.freeze_waiting()?),
        (false, Status::Paused) => Ok(controlled(&record)?.thaw()?),
        (true, _) => Err(OciError::Status(record.id, "pause", status)),
        (false, _) => Err(OciError::Status(record.id, "resume", status)),
    }
}

/// The container's cgroup, for what cannot be done without one.
pub fn controlled(record: &Record) -> Result<Cgroup, OciError> {
    let cgroup = record.cgroup().map_err(StoreError::from)?;
    match cgroup.is_none() {
        true => Err(OciError::Uncontrolled(record.id.clone())),
        false => Ok(cgroup),
    }
}

/// `update ID`: limits from a file, or by flags.
pub fn update(call: &Call, args: &Parsed) -> Result<(), OciError> {
    let entry = Entry::of(&call.root, args.word(0, "the container's id")?)?;
    let _lock = entry.lock()?;
    let record = entry.load()?;
    let status = entry.status(&record)?;
    if status == Status::Stopped {
        return Err(OciError::Status(record.id, "update", status));
    }
    let resources: LinuxResources = serde_json::from_value(match args.value("resources") {
        Some(path) => read_resources(path)?,
        None => by_flags(call, args)?,
    })
    .map_err(OciError::Resources)?;
    let cgroup = controlled(&record)?;
    let limits = cgroup.changes(&spec::changes(&resources))?;
    if let Some(unit) = &record.unit {
        super::systemd::update(call, unit, &limits)?;
    }
    confine::make_room(&cgroup, &record.cgroup, &limits)?;
    Ok(cgroup.change(&limits)?)
}

/// A file, or standard input for `-`.
fn read_resources(path: &str) -> Result<Value, OciError> {
    let fail = |source| OciError::ReadResources {
        path: path.into(),
        source,
    };
    let mut text = String::new();
    let input: Box<dyn Read> = match path {
        "-" => Box::new(std::io::stdin()),
        _ => Box::new(std::fs::File::open(path).map_err(fail)?),
    };
    input
        .take(RESOURCES_LIMIT)
        .read_to_string(&mut text)
        .map_err(fail)?;
    serde_json::from_str(&text).map_err(OciError::Resources)
}

/// Flag, and the section and field of `linux.resources` it is for.
const NUMBERS: [(&str, &str, &str); 9] = [
    ("blkio-weight", "blockIO", "weight"),
    ("cpu-burst", "cpu", "burst"),
    ("cpu-idle", "cpu", "idle"),
    ("cpu-period", "cpu", "period"),
    ("cpu-quota", "cpu", "quota"),
    ("cpu-rt-period", "cpu", "realtimePeriod"),
    ("cpu-rt-runtime", "cpu", "realtimeRuntime"),
    ("cpu-share", "cpu", "shares"),
    ("pids-limit", "pids", "limit"),
];
/// The same of sizes.
const SIZES: [(&str, &str, &str); 5] = [
    ("kernel-memory", "memory", "kernel"),
    ("kernel-memory-tcp", "memory", "kernelTCP"),
    ("memory", "memory", "limit"),
    ("memory-reservation", "memory", "reservation"),
    ("memory-swap", "memory", "swap"),
];
const LISTS: [(&str, &str); 2] = [("cpuset-cpus", "cpus"), ("cpuset-mems", "mems")];

fn by_flags(call: &Call, args: &Parsed) -> Result<Value, OciError> {
    if args.value("kernel-memory").is_some() {
        call.log
            .warn("--kernel-memory changes nothing: kernels limit that with all other memory");
    }
    let mut out = Map::new();
    let mut put = |section: &str, field: &str, value: Value| {
        let section = out.entry(section).or_insert_with(|| json!({}));
        section[field] = value;
    };
    for (flag, section, field) in NUMBERS {
        if let Some(number) = args.number::<i64>(flag)? {
            put(section, field, number.into());
        }
    }
    for (flag, section, field) in SIZES {
        if let Some(size) = args.size(flag)? {
            put(section, field, size.into());
        }
    }
    for (flag, field) in LISTS {
        if let Some(list) = args.value(flag) {
            put("cpu", field, list.into());
        }
    }
    Ok(Value::Object(out))
}

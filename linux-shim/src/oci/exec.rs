//! `exec`: another process in a running container.

use std::fs;

use amphipod_shim_api::Standing;
use amphipod_shim_api::cgroup::{Cgroup, CgroupHost};
use nix::sched::{CloneFlags, CpuSet};
use oci_spec::runtime::{Process, Spec};
use serde_json::{Value, json};

use super::args::{ArgsError, Parsed};
use super::birth::{Birth, end, let_go, own_streams};
use super::change::controlled;
use super::confine::go_near;
use super::create::{send_pidfd, send_terminal, write_pid_file};
use super::store::{Entry, Record, Status};
use super::{Call, OciError, foreground};
use crate::init::keyring::keyring_of;
use crate::launch::{self, Running};
use crate::overseer::Overseer;
use crate::spec;

/// Answers the exit code, 0 for a detached process.
pub fn exec(call: &Call, args: &Parsed) -> Result<u8, OciError> {
    let entry = Entry::of(&call.root, args.word(0, "the container's id")?)?;
    let record = entry.load()?;
    let status = entry.status(&record)?;
    let may = match status {
        Status::Running => true,
        // One that waits for its start is whole but for its program. It hides from an ordinary user till then.
        Status::Created => call.standing != Standing::User,
        Status::Paused => args.is_set("ignore-paused") && !entry.has_gate(),
        Status::Stopped => false,
    };
    if !may {
        return Err(OciError::Status(record.id, "exec in", status));
    }
    let spec = entry.config()?;
    let mut plan = spec::process_plan(&process(call, args, &spec)?, &spec)?;
    plan.keyring = (!record.keeps_keyring).then(|| keyring_of(&record.id));
    let subject = spec::subject(&spec, &record.id, &record.bundle);
    let socket = args.value("console-socket");
    let detached = args.is_set("detach");
    if plan.terminal.is_some() && detached && socket.is_none() {
        return Err(OciError::NoConsole);
    }
    let watch = (!detached)
        .then(foreground::Watch::begin)
        .transpose()
        .map_err(OciError::Foreground)?;
    let preserved = args.number("preserve-fds")?.unwrap_or(0);
    let cgroup = cgroup(args, &record)?;
    if record.unit.is_some() {
        go_near(call, &cgroup)?;
    }
    let ids = spec::id_maps(&spec)?;
    let container = Running {
        pid: record.process(),
        cgroup: &cgroup,
        more: CloneFlags::from_bits_retain(record.more_namespaces),
        ids: ids.as_ref(),
        shares_mounts: record.shares_mounts,
    };
    if let Some(processors) = &plan.scheduling.initial_processors {
        call.log
            .debug(&format!("initial CPU affinity: {}", hexadecimal(processors)));
    }
    let birth = Birth {
        overseer: Overseer::of_exec(&plan, &subject),
        handed_over: true,
        gate: None,
        streams: own_streams(plan.terminal.is_some(), preserved).map_err(OciError::Channel)?,
        log: &call.log,
    };
    let mut born = birth.give(|streams, end| launch::another(container, &plan, streams, end))?;
    let begun = write_pid_file(args, &born)
        .and_then(|()| send_pidfd(args, &born))
        .and_then(|()| socket.map_or(Ok(()), |path| send_terminal(path.as_ref(), &born)))
        .and_then(|()| let_go(&born.end));
    if let Err(error) = begun {
        end(born.pid);
        return Err(error);
    }
    let Some(watch) = watch else { return Ok(0) };
    let master = born.master.take().filter(|_| socket.is_none());
    watch
        .until_end(born.pid, master, None)
        .map_err(OciError::Foreground)
}

/// A set of processors as the kernel prints masks.
fn hexadecimal(processors: &CpuSet) -> String {
    let mask = (0..64).filter(|n| processors.is_set(*n) == Ok(true));
    format!("{:#x}", mask.fold(0_u64, |all, n| all | 1 << n))
}

/// The container's cgroup, or one below it that is there already (`--cgroup`).
fn cgroup(args: &Parsed, record: &Record) -> Result<Cgroup, OciError> {
    let below = args.value("cgroup").unwrap_or_default().trim_matches('/');
    if below.is_empty() {
        return Ok(record.cgroup()?);
    }
    controlled(record)?;
    let cgroup = CgroupHost::known()?.cgroup_everywhere(&format!("{}/{below}", record.cgroup))?;
    if below.contains(':') || !cgroup.exists() {
        return Err(OciError::NoCgroup(below.into()));
    }
    Ok(cgroup)
}

/// The process as a file (`--process`), or the container's own with another command and what flags change.
fn process(call: &Call, args: &Parsed, spec: &Spec) -> Result<Process, OciError> {
    let mut process = asked(args, spec)?;
    spec::mend_process(&mut process)
        .iter()
        .for_each(|text| call.log.warn_of_words(text));
    serde_json::from_value(process).map_err(OciError::Process)
}

fn asked(args: &Parsed, spec: &Spec) -> Result<Value, OciError> {
    if let Some(path) = args.value("process") {
        let text = fs::read(path).map_err(|source| OciError::ReadProcess {
            path: path.into(),
            source,
        })?;
        return serde_json::from_slice(&text).map_err(OciError::Process);
    }
    let own = spec
        .process()
        .as_ref()
        .ok_or(OciError::Spec(spec::SpecError::Missing("process")))?;
    let mut process = serde_json::to_value(own).map_err(OciError::Process)?;
    let command = args.words.get(1..).unwrap_or_default();
    if command.is_empty() {
        return Err(ArgsError::Missing("the command to run").into());
    }
    process["args"] = json!(command);
    process["terminal"] = args.is_set("tty").into();
    change(&mut process, args)?;
    Ok(process)
}

fn change(process: &mut Value, args: &Parsed) -> Result<(), OciError> {
    if let Some(cwd) = args.value("cwd") {
        process["cwd"] = cwd.into();
    }
    for pair in args.values("env") {
        let name = format!("{}=", pair.split('=').next().unwrap_or_default());
        if let Some(env) = process["env"].as_array_mut() {
            env.retain(|e| !e.as_str().is_some_and(|e| e.starts_with(&name)));
        }
        push(&mut process["env"], pair.into());
    }
    if let Some(user) = args.value("user") {
        let (uid, gid) = match user.split_once(':') {
            Some((uid, gid)) => (uid, Some(gid)),
            None => (user, None),
        };
        process["user"]["uid"] = id("user", uid)?;
        // Without one the container's own stays.
        if let Some(gid) = gid {
            process["user"]["gid"] = id("user", gid)?;
        }
    }
    for group in args.values("additional-gids") {
        push(
            &mut process["user"]["additionalGids"],
            id("additional-gids", group)?,
        );
    }
    for capability in args.values("cap") {
        for set in ["bounding", "effective", "permitted"] {
            push(&mut process["capabilities"][set], capability.into());
        }
    }
    if let Some(label) = args.value("process-label") {
        process["selinuxLabel"] = label.into();
    }
    if let Some(profile) = args.value("apparmor") {
        process["apparmorProfile"] = profile.into();
    }
    if args.is_set("no-new-privs") {
        process["noNewPrivileges"] = true.into();
    }
    Ok(())
}

fn push(list: &mut Value, item: Value) {
    match list.as_array_mut() {
        Some(list) => list.push(item),
        None => *list = json!([item]),
    }
}

fn id(flag: &'static str, text: &str) -> Result<Value, OciError> {
    let number = text.parse::<u32>().map_err(|_| ArgsError::NotNumber {
        flag,
        value: text.into(),
    })?;
    Ok(number.into())
}

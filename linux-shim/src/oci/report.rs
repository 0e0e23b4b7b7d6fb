//! What is told about containers and about this runtime: `state`, `list`, `ps`, `events`, `features`.

use std::io::Write;
use std::process::Command;
use std::time::Duration;

use amphipod_shim_api::cgroup::CgroupHost;
use amphipod_shim_api::systemd;
use serde_json::{Value, json};

use super::args::Parsed;
use super::change::controlled;
use super::members::members;
use super::store::{Entry, Record, Status};
use super::{Call, OciError, VERSIONS};
use crate::init::labels::{has_apparmor, has_selinux};
use crate::mount_plan::KNOWN_OPTIONS;

/// How often `events` tells, in seconds, unless asked otherwise.
const INTERVAL: u64 = 5;

pub fn say(text: &str) -> Result<(), OciError> {
    let mut out = std::io::stdout();
    writeln!(out, "{text}")
        .and_then(|()| out.flush())
        .map_err(OciError::Say)
}

fn pretty(value: &Value) -> Result<(), OciError> {
    say(&format!("{value:#}"))
}

/// The state as the runtime specification has it, and what runc adds.
fn describe(entry: &Entry, record: &Record) -> Result<Value, OciError> {
    let status = entry.status(record)?;
    let annotations = entry.config()?.annotations().clone().unwrap_or_default();
    let pid = if status == Status::Stopped { 0 } else { record.pid };
    Ok(json!({
        "ociVersion": record.version,
        "id": record.id,
        "pid": pid,
        "status": status.word(),
        "bundle": record.bundle,
        "rootfs": record.rootfs,
        "created": record.created,
        "owner": "",
        "annotations": annotations,
    }))
}

/// `state ID`.
pub fn state(call: &Call, args: &Parsed) -> Result<(), OciError> {
    let entry = Entry::of(&call.root, args.word(0, "the container's id")?)?;
    let record = entry.load()?;
    pretty(&describe(&entry, &record)?)
}

/// `list`.
pub fn list(call: &Call, args: &Parsed) -> Result<(), OciError> {
    let mut all = Vec::new();
    for entry in Entry::all(&call.root)? {
        match entry
            .load()
            .map_err(OciError::from)
            .and_then(|record| describe(&entry, &record))
        {
            Ok(state) => all.push(state),
            // One that is being made or removed meanwhile.
            Err(error) => call.log.warn(&error.to_string()),
        }
    }
    let field = |state: &Value, name: &str| state[name].as_str().unwrap_or_default().to_owned();
    if args.is_set("quiet") {
        return all.iter().try_for_each(|state| say(&field(state, "id")));
    }
    if args.value("format") == Some("json") {
        return say(&Value::Array(all).to_string());
    }
    say("ID\tPID\tSTATUS\tBUNDLE\tCREATED")?;
    all.iter().try_for_each(|state| {
        let (id, status) = (field(state, "id"), field(state, "status"));
        let (bundle, created) = (field(state, "bundle"), field(state, "created"));
        say(&format!("{id}\t{}\t{status}\t{bundle}\t{created}", state["pid"]))
    })
}

/// `ps ID [OPTION OF PS…]`.
pub fn ps(call: &Call, args: &Parsed) -> Result<(), OciError> {
    let record = Entry::of(&call.root, args.word(0, "the container's id")?)?.load()?;
    let pids = members(call, &record)?;
    if args.value("format") == Some("json") {
        return say(&json!(pids).to_string());
    }
    let options = match args.words.get(1..) {
        Some(given) if !given.is_empty() => given.to_vec(),
        _ => vec!["-ef".to_owned()],
    };
    let output = Command::new("ps").args(options).output().map_err(OciError::Ps)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines();
    let title = lines.next().unwrap_or_default();
    let column = title
        .split_whitespace()
        .position(|word| word == "PID")
        .ok_or(OciError::NoPidColumn)?;
    say(title)?;
    let ours = |line: &&str| {
        let pid = line
            .split_whitespace()
            .nth(column)
            .and_then(|word| word.parse().ok());
        pid.is_some_and(|pid| pids.contains(&pid))
    };
    lines.filter(ours).try_for_each(say)
}

/// `events [--stats] [--interval SECONDS] ID`: what the container uses, once or until it ends.
pub fn events(call: &Call, args: &Parsed) -> Result<(), OciError> {
    let entry = Entry::of(&call.root, args.word(0, "the container's id")?)?;
    let record = entry.load()?;
    if entry.status(&record)? == Status::Stopped {
        return Err(OciError::Status(record.id, "watch", Status::Stopped));
    }
    let text = args.value("interval").unwrap_or_default().trim_end_matches('s');
    let interval = Duration::from_secs(text.parse().unwrap_or(INTERVAL).max(1));
    loop {
        say(&use_of(&record)?.to_string())?;
        if args.is_set("stats") {
            return Ok(());
        }
        std::thread::park_timeout(interval);
        if !record.is_alive() {
            return Ok(());
        }
    }
}

/// In runc's words.
fn use_of(record: &Record) -> Result<Value, OciError> {
    let stats = controlled(record)?.stats()?;
    Ok(json!({
        "type": "stats",
        "id": record.id,
        "data": {
            "cpu": {"usage": {"total": stats.cpu_usage_nanos}},
            "memory": {
                "usage": {"usage": stats.memory_usage, "limit": stats.memory_limit},
                "raw": {"anon": stats.memory_anon, "inactive_file": stats.memory_inactive_file,
                    "pgfault": stats.page_faults, "pgmajfault": stats.major_page_faults},
            },
            "pids": {"current": stats.pids},
        },
    }))
}

/// Whether whoever runs this has a systemd of his own that can be asked for scopes.
fn has_user_manager() -> bool {
    systemd::waiting(systemd::Manager::of_user()).is_ok()
}

/// `features` (OCI runtime-spec, "Features Structure").
pub fn features() -> Result<(), OciError> {
    let host = CgroupHost::discover().ok();
    let capabilities: Vec<String> = caps::all().iter().map(ToString::to_string).collect();
    pretty(&json!({
        "ociVersionMin": VERSIONS.0,
        "ociVersionMax": VERSIONS.1,
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": KNOWN_OPTIONS,
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            "capabilities": capabilities,
            "cgroup": {
                "v1": true, "v2": true, "systemd": systemd::is_running(), "systemdUser": has_user_manager(),
                "rdma": host.is_some_and(|h| h.has_controller("rdma")),
            },
            "seccomp": {
                "enabled": true,
                "actions": ["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS",
                    "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG", "SCMP_ACT_NOTIFY", "SCMP_ACT_TRACE", "SCMP_ACT_TRAP"],
                "operators": ["SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT",
                    "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE"],
                "knownFlags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
                    "SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
            },
            "apparmor": {"enabled": has_apparmor()},
            "selinux": {"enabled": has_selinux()},
            "intelRdt": {"enabled": false},
            "mountExtensions": {"idmap": {"enabled": true}},
        },
    }))
}

//! What is told about containers: `state`, `list`, `ps`.

use std::io::Write;
use std::process::Command;

use serde_json::{Value, json};

use super::args::Parsed;
use super::members::members;
use super::store::{Entry, Record, Status};
use super::{Call, OciError};

pub fn say(text: &str) -> Result<(), OciError> {
    let mut out = std::io::stdout();
    writeln!(out, "{text}")
        .and_then(|()| out.flush())
        .map_err(OciError::Say)
}

pub fn pretty(value: &Value) -> Result<(), OciError> {
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

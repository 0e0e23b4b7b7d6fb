//! What a container left behind when it ended: exit code, reason, last words. Owns the reading of the
//! termination message (core/v1 Container.terminationMessagePolicy).

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use amphipod_shim_api::{Exit as TaskExit, last_words as shim_words, oom};
use k8s_openapi::api::core::v1::Container;

use super::record::{Exit, Record};
use super::start::TERMINATION_FILE;

/// Bytes of a termination message that are kept; upstream's limit for one container.
const MESSAGE_BYTES: u64 = 4096;
/// Bytes and lines of a log that stand in for it; upstream's limits.
const LOG_BYTES: usize = 2048;
const LOG_LINES: usize = 80;
/// Bytes of the log file that are read to find them: stream and time stamp precede each line.
const LOG_READ: u64 = 64 * 1024;

/// The exit of an attempt whose task ended.
pub fn exit(record: &Record, dir: &Path, container: Option<&Container>, task: TaskExit) -> Exit {
    let exit_code = i32::try_from(task.status).unwrap_or(255);
    let reason = match exit_code {
        _ if oom::happened(&dir.join("bundle")) => "OOMKilled",
        0 => "Completed",
        _ => "Error",
    };
    Exit {
        started_at: record.started_at(),
        finished_at: Some(task.at),
        exit_code,
        reason: reason.to_owned(),
        message: message(record, dir, container, exit_code),
    }
}

/// The container's own words, after those of its runtime if there are any, as upstream has them. The log, which a
/// runtime that explains itself has written to, stands in for nothing.
fn message(record: &Record, dir: &Path, container: Option<&Container>, exit_code: i32) -> Option<String> {
    let written = read_head(&dir.join(TERMINATION_FILE)).unwrap_or_default();
    match shim_words::of(&dir.join("bundle")) {
        Some(words) if written.is_empty() => return Some(words),
        Some(words) => return Some(format!("{words}: {written}")),
        None if !written.is_empty() => return Some(written),
        None => {}
    }
    let policy = container.and_then(|c| c.termination_message_policy.as_deref());
    if policy != Some("FallbackToLogsOnError") || exit_code == 0 {
        return None;
    }
    read_tail(&record.log_path)
        .ok()
        .map(|log| last_words(&log))
        .filter(|m| !m.is_empty())
}

/// A container may have put anything in place of its file: symlinks are not followed.
fn open(path: &Path) -> io::Result<File> {
    File::options()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
}

fn read_head(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    open(path)?.take(MESSAGE_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn read_tail(path: &Path) -> io::Result<String> {
    let mut file = open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_READ)))?;
    let mut bytes = Vec::new();
    file.take(LOG_READ).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The last lines of a CRI log, without their prefixes.
fn last_words(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    let recent = &lines[lines.len().saturating_sub(LOG_LINES)..];
    let mut text = String::new();
    for line in recent {
        let mut parts = line.splitn(4, ' ');
        let (Some(_), Some(_), Some(tag)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        text.push_str(parts.next().unwrap_or_default());
        if tag == "F" {
            text.push('\n');
        }
    }
    let mut start = text.len().saturating_sub(LOG_BYTES);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    text[start..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::record::State;
    use crate::pods::record::tests::record;
    use jiff::Timestamp;
    use serde_json::json;

    fn end(dir: &Path, code: u32, policy: &str) -> Exit {
        let mut record = record(
            "c",
            0,
            State::Running {
                started_at: Timestamp::UNIX_EPOCH,
            },
        );
        record.log_path = dir.join("0.log");
        let container =
            serde_json::from_value(json!({"name": "c", "terminationMessagePolicy": policy})).unwrap();
        let task = TaskExit {
            status: code,
            at: Timestamp::UNIX_EPOCH,
        };
        exit(&record, dir, Some(&container), task)
    }

    #[test]
    fn last_words_come_from_the_file_or_the_log() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("bundle")).unwrap();
        let log = "2026-01-01T00:00:00Z stdout F one\n2026-01-01T00:00:00Z stderr P tw\n2026-01-01T00:00:00Z stderr F o\n";
        std::fs::write(dir.path().join("0.log"), log).unwrap();
        let of = |code, policy| {
            let exit = end(dir.path(), code, policy);
            (exit.reason, exit.message)
        };
        assert_eq!(of(0, "FallbackToLogsOnError"), ("Completed".into(), None));
        assert_eq!(of(1, "File"), ("Error".into(), None));
        assert_eq!(
            of(1, "FallbackToLogsOnError"),
            ("Error".into(), Some("one\ntwo\n".into()))
        );
        std::fs::write(dir.path().join(TERMINATION_FILE), "x".repeat(5000)).unwrap();
        assert_eq!(of(1, "File").1.unwrap().len(), 4096);
        oom::mark(&dir.path().join("bundle")).unwrap();
        assert_eq!(of(137, "File").0, "OOMKilled");
        std::fs::write(dir.path().join(TERMINATION_FILE), "mine").unwrap();
        shim_words::leave(&dir.path().join("bundle"), "a trap").unwrap();
        assert_eq!(of(134, "File").1.unwrap(), "a trap: mine");
        std::fs::write(dir.path().join(TERMINATION_FILE), "").unwrap();
        assert_eq!(of(134, "FallbackToLogsOnError").1.unwrap(), "a trap");
    }

    #[test]
    fn a_symlink_in_place_of_the_file_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join(TERMINATION_FILE)).unwrap();
        assert_eq!(end(dir.path(), 1, "File").message, None);
    }
}

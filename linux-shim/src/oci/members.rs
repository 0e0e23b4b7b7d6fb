//! The processes of a container: those of its cgroup; where it has none, those of its PID namespace.

use std::fs;
use std::path::PathBuf;

use super::OciError;
use super::store::{Record, StoreError};

/// All of them, as this process numbers them.
pub fn members(record: &Record) -> Result<Vec<u32>, OciError> {
    let cgroup = record.cgroup().map_err(StoreError::from)?;
    match cgroup.is_none() {
        false => Ok(cgroup.pids()?),
        true => Ok(of_namespace(record.pid.cast_unsigned())),
    }
}

/// Of a namespace shared with us only the process itself is known to be the container's.
fn of_namespace(first: u32) -> Vec<u32> {
    let theirs = namespace(&first.to_string());
    if theirs.is_none() || theirs == namespace("self") {
        return vec![first];
    }
    let entries = fs::read_dir("/proc").into_iter().flatten();
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| namespace(&pid.to_string()) == theirs).collect()
}

fn namespace(process: &str) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{process}/ns/pid")).ok()
}

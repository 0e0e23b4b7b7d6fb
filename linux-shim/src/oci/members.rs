//! The processes of a container: those of its cgroup; where it has none of its own, those of its PID namespace.

use super::store::{Entry, Record, StoreError};
use super::{Call, OciError};
use crate::processes::of_namespace;

/// All of them, as this process numbers them.
pub fn members(call: &Call, record: &Record) -> Result<Vec<u32>, OciError> {
    if has_cgroup_alone(call, record)? {
        return Ok(record.cgroup().map_err(StoreError::from)?.pids()?);
    }
    // Its number may be somebody else's by now.
    Ok(match record.is_alive() {
        true => of_namespace(record.pid.cast_unsigned()),
        false => Vec::new(),
    })
}

/// Whether whoever is in its cgroup is the container's: nobody was there before it, and no other container is there now.
pub fn has_cgroup_alone(call: &Call, record: &Record) -> Result<bool, OciError> {
    Ok(!record.shares_cgroup && is_alone(call, &record.id, &record.cgroup)?)
}

/// Whether no other container than this is in a cgroup.
pub fn is_alone(call: &Call, id: &str, cgroup: &str) -> Result<bool, OciError> {
    if cgroup.is_empty() {
        return Ok(false);
    }
    let others = Entry::all(&call.root)?.into_iter();
    // One without a record is not there yet, or gone already.
    let mut others = others.filter_map(|entry| entry.load().ok());
    Ok(!others.any(|other| other.id != id && is_within(&other.cgroup, cgroup) && other.is_alive()))
}

fn is_within(path: &str, above: &str) -> bool {
    let [path, above] = [path, above].map(|path| path.trim_matches('/'));
    let below = path.strip_prefix(above);
    below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

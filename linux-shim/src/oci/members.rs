//! The processes of a container: those of its cgroup; where it has none, those of its PID namespace.

use super::OciError;
use super::store::{Record, StoreError};
use crate::processes::of_namespace;

/// All of them, as this process numbers them.
pub fn members(record: &Record) -> Result<Vec<u32>, OciError> {
    let cgroup = record.cgroup().map_err(StoreError::from)?;
    match cgroup.is_none() {
        false => Ok(cgroup.pids()?),
        // Its number may be somebody else's by now.
        true if !record.is_alive() => Ok(Vec::new()),
        true => Ok(of_namespace(record.pid.cast_unsigned())),
    }
}

//! Reading what a cgroup uses.

use std::io;
use std::path::Path;

use super::usage::{self, Io};
use super::{Cgroup, CgroupError, read};
use crate::TaskStats;
use crate::stats::DeviceIo;

fn read_value(path: &Path) -> Result<u64, CgroupError> {
    Ok(number(&read(path)?))
}

/// `max` and v1's page-aligned huge numbers mean no limit.
pub(super) fn number(text: &str) -> u64 {
    text.trim()
        .parse()
        .map_or(u64::MAX, |n: u64| if n >= (1 << 62) { u64::MAX } else { n })
}

/// A value from a file of `key value` lines; 0 when the kernel does not have the key.
fn keyed(text: &str, key: &str) -> u64 {
    let lines = text.lines().filter_map(|l| l.split_once(' '));
    lines
        .into_iter()
        .find(|(k, _)| *k == key)
        .map_or(0, |(_, v)| number(v))
}

/// A missing controller counts as nothing used.
fn optional(result: Result<u64, CgroupError>) -> Result<u64, CgroupError> {
    match result {
        Err(CgroupError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(0),
        other => other,
    }
}

fn read_v2(dir: &Path) -> Result<TaskStats, CgroupError> {
    let memory = read(&dir.join("memory.stat")).unwrap_or_default();
    let cpu = read(&dir.join("cpu.stat"))?;
    let nanos = |key: &str| keyed(&cpu, key).saturating_mul(1000);
    let events = read(&dir.join("memory.events")).unwrap_or_default();
    Ok(TaskStats {
        cpu_usage_nanos: nanos("usage_usec"),
        cpu_user_nanos: nanos("user_usec"),
        cpu_system_nanos: nanos("system_usec"),
        cpu_periods: keyed(&cpu, "nr_periods"),
        cpu_throttled_periods: keyed(&cpu, "nr_throttled"),
        cpu_throttled_nanos: nanos("throttled_usec"),
        memory_usage: optional(read_value(&dir.join("memory.current")))?,
        memory_cache: keyed(&memory, "file"),
        memory_mapped: keyed(&memory, "file_mapped"),
        memory_swap: optional(read_value(&dir.join("memory.swap.current")))?,
        memory_max: optional(read_value(&dir.join("memory.peak")))?,
        memory_failures: keyed(&events, "max"),
        memory_inactive_file: keyed(&memory, "inactive_file"),
        memory_anon: keyed(&memory, "anon"),
        memory_limit: optional(read_value(&dir.join("memory.max")))?,
        page_faults: keyed(&memory, "pgfault"),
        major_page_faults: keyed(&memory, "pgmajfault"),
        pids: optional(read_value(&dir.join("pids.current")))?,
        oom_kills: keyed(&events, "oom_kill"),
        io: Vec::new(),
    })
}

fn read_v1(cgroup: &Cgroup) -> Result<TaskStats, CgroupError> {
    let value = |controller: &str, file: &str| match cgroup.v1_dir(controller) {
        Some(dir) => optional(read_value(&dir.join(file))),
        None => Ok(0),
    };
    let memory = match cgroup.v1_dir("memory") {
        Some(dir) => read(&dir.join("memory.stat"))?,
        None => String::new(),
    };
    let cpu = match cgroup.v1_dir("cpu") {
        Some(dir) => read(&dir.join("cpu.stat")).unwrap_or_default(),
        None => String::new(),
    };
    Ok(TaskStats {
        cpu_usage_nanos: value("cpuacct", "cpuacct.usage")?,
        cpu_user_nanos: value("cpuacct", "cpuacct.usage_user")?,
        cpu_system_nanos: value("cpuacct", "cpuacct.usage_sys")?,
        cpu_periods: keyed(&cpu, "nr_periods"),
        cpu_throttled_periods: keyed(&cpu, "nr_throttled"),
        cpu_throttled_nanos: keyed(&cpu, "throttled_time"),
        memory_usage: value("memory", "memory.usage_in_bytes")?,
        memory_cache: keyed(&memory, "total_cache"),
        memory_mapped: keyed(&memory, "total_mapped_file"),
        memory_swap: keyed(&memory, "total_swap"),
        memory_max: value("memory", "memory.max_usage_in_bytes")?,
        memory_failures: value("memory", "memory.failcnt")?,
        memory_inactive_file: keyed(&memory, "total_inactive_file"),
        memory_anon: keyed(&memory, "total_rss"),
        memory_limit: value("memory", "memory.limit_in_bytes")?,
        page_faults: keyed(&memory, "total_pgfault"),
        major_page_faults: keyed(&memory, "total_pgmajfault"),
        pids: value("pids", "pids.current")?,
        oom_kills: oom_kills(cgroup)?.unwrap_or(0),
        io: Vec::new(),
    })
}

pub(super) fn read_stats(cgroup: &Cgroup) -> Result<TaskStats, CgroupError> {
    let read = match cgroup.unified_dir() {
        Some(dir) if cgroup.is_v2() => read_v2(dir),
        _ => read_v1(cgroup),
    };
    let [bytes, operations] = usage::io(cgroup);
    Ok(TaskStats {
        io: DeviceIo::gathered(bytes.iter().map(Io::counted), operations.iter().map(Io::counted)),
        ..read?
    })
}

/// None where the cgroup is gone, of which nothing can be said any more.
pub(super) fn oom_kills(cgroup: &Cgroup) -> Result<Option<u64>, CgroupError> {
    let file = match cgroup.unified_dir() {
        Some(dir) if cgroup.is_v2() => dir.join("memory.events"),
        _ => match cgroup.v1_dir("memory") {
            Some(dir) => dir.join("memory.oom_control"),
            None => return Ok(Some(0)),
        },
    };
    match read(&file) {
        Ok(text) => Ok(Some(keyed(&text, "oom_kill"))),
        // Without its controller it has no such file. Whether it is there is asked last: it may go at any time, and what was
        // opened before cannot be read then.
        Err(CgroupError::Read { source, .. }) if is_missing(&source) => Ok(cgroup.exists().then_some(0)),
        Err(error) => Err(error),
    }
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_keys() {
        let text = "low 0\noom 3\noom_kill 2\n";
        assert_eq!(
            (keyed(text, "oom_kill"), keyed(text, "oom"), keyed(text, "none")),
            (2, 3, 0)
        );
    }

    #[test]
    fn no_limit_is_one_number() {
        assert_eq!(number("max\n"), u64::MAX);
        assert_eq!(number("9223372036854771712\n"), u64::MAX);
        assert_eq!(number("4096\n"), 4096);
    }
}

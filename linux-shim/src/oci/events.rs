//! `events`: what a container uses, once or until it ends, and that its memory has run out. In runc's words, which its
//! callers read.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use amphipod_shim_api::cgroup::{Io, Meter, OomWatch, Usage};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Map, Value, json};

use super::args::Parsed;
use super::change::controlled;
use super::report::say;
use super::store::{Entry, Record, Status};
use super::{Call, OciError};
use crate::sys::socket::pidfd;

/// How often it is told, unless asked otherwise.
const INTERVAL: Duration = Duration::from_secs(5);

/// `events [--stats] [--interval DURATION] ID`.
pub fn events(call: &Call, args: &Parsed) -> Result<(), OciError> {
    let entry = Entry::of(&call.root, args.word(0, "the container's id")?)?;
    let record = entry.load()?;
    if entry.status(&record)? == Status::Stopped {
        return Err(OciError::Status(record.id, "watch", Status::Stopped));
    }
    let interval = args.duration("interval")?.unwrap_or(INTERVAL);
    let cgroup = controlled(&record)?;
    let tell = || say(&json!({"type": "stats", "id": record.id, "data": data(&cgroup.usage()?)}).to_string());
    tell()?;
    if args.is_set("stats") {
        return Ok(());
    }
    let mut memory = OomWatch::of(&cgroup)?;
    let mut next = Instant::now() + interval;
    loop {
        match wait(&record, memory.as_mut(), next)? {
            Event::End => return Ok(()),
            Event::OutOfMemory => say(&json!({"type": "oom", "id": record.id}).to_string())?,
            Event::Other => {}
            Event::Time => {
                tell()?;
                next = Instant::now() + interval;
            }
        }
    }
}

enum Event {
    Time,
    OutOfMemory,
    End,
    Other,
}

/// Waits for the first of them. What has run out of memory may have ended of it: that comes first.
fn wait(record: &Record, memory: Option<&mut OomWatch>, until: Instant) -> Result<Event, OciError> {
    let Ok(process) = pidfd(record.process()) else {
        return Ok(Event::End);
    };
    let left = until.saturating_duration_since(Instant::now());
    // Rounded up, not to be too early by less than a millisecond again and again.
    let left = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
    let mut watched = vec![PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    watched.extend(
        memory
            .as_deref()
            .map(OomWatch::descriptor)
            .map(|(fd, flags)| PollFd::new(fd, flags)),
    );
    if poll(&mut watched, left).map_err(|errno| OciError::Watch(errno.into()))? == 0 {
        return Ok(Event::Time);
    }
    let ready = |at: usize| watched.get(at).is_some_and(|watched| watched.any() == Some(true));
    let (ended, changed) = (ready(0) || !record.is_alive(), ready(1));
    drop(watched);
    let run_out = memory
        .filter(|_| changed)
        .map(OomWatch::has_run_out)
        .transpose()?;
    Ok(match (run_out, ended) {
        (Some(true), _) => Event::OutOfMemory,
        (_, true) => Event::End,
        _ => Event::Other,
    })
}

fn data(usage: &Usage) -> Value {
    let cpu = &usage.cpu;
    let (user, kernel) = &cpu.per_processor_by;
    json!({
        "cpu": {
            "usage": {"total": cpu.total, "user": cpu.user, "kernel": cpu.kernel, "percpu": cpu.per_processor,
                "percpu_user": user, "percpu_kernel": kernel},
            "throttling": {"periods": cpu.periods, "throttledPeriods": cpu.throttled_periods,
                "throttledTime": cpu.throttled},
        },
        "cpuset": sets(usage),
        "memory": {
            "cache": usage.cache,
            "usage": meter(&usage.memory),
            "swap": meter(&usage.swap),
            "kernel": meter(&usage.kernel),
            "kernelTCP": meter(&usage.kernel_tcp),
            "raw": usage.memory_stat,
        },
        "pids": pids(&usage.pids),
        "blkio": {"ioServiceBytesRecursive": list(&usage.io_bytes), "ioServicedRecursive": list(&usage.io_operations)},
        "hugetlb": usage.huge_pages.iter().map(|(size, pages)| (size.clone(), meter(pages))).collect::<Map<_, _>>(),
        "intel_rdt": {},
        "network_interfaces": null,
    })
}

fn sets(usage: &Usage) -> Value {
    let mut out = json!({"cpus": numbers(&usage.processors), "mems": numbers(&usage.nodes)});
    for (name, value) in usage.sets {
        out[name] = value.into();
    }
    out
}

fn meter(meter: &Meter) -> Value {
    json!({"limit": meter.limit, "usage": meter.usage, "max": meter.max, "failcnt": meter.failures})
}

/// No limit is none here.
fn pids(pids: &Meter) -> Value {
    match pids.limit {
        u64::MAX => json!({"current": pids.usage}),
        limit => json!({"current": pids.usage, "limit": limit}),
    }
}

fn list(all: &[Io]) -> Vec<Value> {
    let entry =
        |io: &Io| json!({"major": io.device.0, "minor": io.device.1, "op": io.operation, "value": io.value});
    all.iter().map(entry).collect()
}

/// `0-3,7` one by one.
fn numbers(list: &str) -> Vec<u16> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse::<u16>().ok()?..=last.parse().ok()?)
    };
    list.split(',').filter_map(range).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_numbers() {
        assert_eq!(numbers("0-2,5"), [0, 1, 2, 5]);
        assert_eq!(numbers(""), [0; 0]);
    }

    #[test]
    fn pids_without_a_limit_have_none() {
        let without = Meter {
            usage: 2,
            limit: u64::MAX,
            ..Meter::default()
        };
        assert_eq!(pids(&without), json!({"current": 2}));
    }
}

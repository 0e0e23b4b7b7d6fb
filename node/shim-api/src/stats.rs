//! What a task uses, as containerd's cgroup metrics on the wire.
//!
//! Our shims always answer with the v2 message, whatever the host's cgroups are; v1 metrics of foreign shims
//! are read too. Refuses to know where the numbers come from.

use std::collections::BTreeMap;

use containerd_shim_protos::cgroups::metrics::BlkIOEntry;
use containerd_shim_protos::cgroups::metrics::Metrics as V1;
use containerd_shim_protos::cgroups_v2::metrics::{
    CPUStat, IOEntry, IOStat, MemoryEvents, MemoryStat, Metrics as V2, PidsStat,
};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{Message, MessageField};

use crate::error::TaskError;

const V1_TYPE: &str = "io.containerd.cgroups.v1.Metrics";
const V2_TYPE: &str = "io.containerd.cgroups.v2.Metrics";

/// A reading of a task's resources. Times are totals since its start, memory is bytes now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskStats {
    /// CPU time used, in nanoseconds.
    pub cpu_usage_nanos: u64,
    /// Of it, what its own code and what the kernel took for it.
    pub cpu_user_nanos: u64,
    pub cpu_system_nanos: u64,
    /// Periods of a CPU limit, those in which it was reached, and the time that was then waited.
    pub cpu_periods: u64,
    pub cpu_throttled_periods: u64,
    pub cpu_throttled_nanos: u64,
    /// Memory charged to the task.
    pub memory_usage: u64,
    /// Page cache that could be dropped at once; usage minus this is the working set.
    pub memory_inactive_file: u64,
    /// Anonymous memory.
    pub memory_anon: u64,
    /// Page cache.
    pub memory_cache: u64,
    /// Of it, what programs have mapped.
    pub memory_mapped: u64,
    /// What of it is in swap.
    pub memory_swap: u64,
    /// The most it ever was.
    pub memory_max: u64,
    /// How often the limit was reached.
    pub memory_failures: u64,
    /// The limit; `u64::MAX` when there is none.
    pub memory_limit: u64,
    /// Page faults, minor and major together.
    pub page_faults: u64,
    /// Major page faults.
    pub major_page_faults: u64,
    /// Processes and threads (0 where the runtime has none to count).
    pub pids: u64,
    /// How many times the kernel, or the runtime, killed for memory.
    pub oom_kills: u64,
    /// By device, in the order of their numbers.
    pub io: Vec<DeviceIo>,
}

/// What was read from and written to one device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceIo {
    /// Major and minor number.
    pub device: (u64, u64),
    pub read_bytes: u64,
    pub written_bytes: u64,
    /// In how many operations.
    pub reads: u64,
    pub writes: u64,
}

impl DeviceIo {
    /// Puts together what cgroups tell one by one: device, operation and value, of bytes and of operations. What is neither read
    /// nor written is left out.
    pub(crate) fn gathered<'a>(
        bytes: impl Iterator<Item = ((u64, u64), &'a str, u64)>,
        operations: impl Iterator<Item = ((u64, u64), &'a str, u64)>,
    ) -> Vec<Self> {
        let mut devices: BTreeMap<(u64, u64), Self> = BTreeMap::new();
        let tagged = bytes
            .map(|one| (one, true))
            .chain(operations.map(|one| (one, false)));
        for ((device, operation, value), is_bytes) in tagged {
            let entry = devices.entry(device).or_default();
            entry.device = device;
            match (operation, is_bytes) {
                ("Read", true) => entry.read_bytes = value,
                ("Write", true) => entry.written_bytes = value,
                ("Read", false) => entry.reads = value,
                ("Write", false) => entry.writes = value,
                _ => {}
            }
        }
        devices.into_values().collect()
    }

    fn to_entry(&self) -> IOEntry {
        IOEntry {
            major: self.device.0,
            minor: self.device.1,
            rbytes: self.read_bytes,
            wbytes: self.written_bytes,
            rios: self.reads,
            wios: self.writes,
            ..Default::default()
        }
    }

    fn from_entry(entry: &IOEntry) -> Self {
        Self {
            device: (entry.major, entry.minor),
            read_bytes: entry.rbytes,
            written_bytes: entry.wbytes,
            reads: entry.rios,
            writes: entry.wios,
        }
    }
}

fn counted(entries: &[BlkIOEntry]) -> impl Iterator<Item = ((u64, u64), &str, u64)> {
    entries
        .iter()
        .map(|entry| ((entry.major, entry.minor), entry.op.as_str(), entry.value))
}

impl TaskStats {
    /// Memory that cannot be reclaimed easily: what the kubelet evicts by (KEP-2371).
    pub fn working_set(&self) -> u64 {
        self.memory_usage.saturating_sub(self.memory_inactive_file)
    }

    /// The reading as a `StatsResponse.stats`.
    pub fn to_any(&self) -> Result<Any, TaskError> {
        let message = V2 {
            pids: MessageField::some(PidsStat {
                current: self.pids,
                ..Default::default()
            }),
            cpu: MessageField::some(CPUStat {
                usage_usec: self.cpu_usage_nanos / 1000,
                user_usec: self.cpu_user_nanos / 1000,
                system_usec: self.cpu_system_nanos / 1000,
                nr_periods: self.cpu_periods,
                nr_throttled: self.cpu_throttled_periods,
                throttled_usec: self.cpu_throttled_nanos / 1000,
                ..Default::default()
            }),
            memory: MessageField::some(MemoryStat {
                anon: self.memory_anon,
                file: self.memory_cache,
                file_mapped: self.memory_mapped,
                swap_usage: self.memory_swap,
                max_usage: self.memory_max,
                inactive_file: self.memory_inactive_file,
                usage: self.memory_usage,
                usage_limit: self.memory_limit,
                pgfault: self.page_faults,
                pgmajfault: self.major_page_faults,
                ..Default::default()
            }),
            io: MessageField::some(IOStat {
                usage: self.io.iter().map(DeviceIo::to_entry).collect(),
                ..Default::default()
            }),
            memory_events: MessageField::some(MemoryEvents {
                max: self.memory_failures,
                oom_kill: self.oom_kills,
                ..Default::default()
            }),
            ..Default::default()
        };
        let value = message
            .write_to_bytes()
            .map_err(|e| TaskError::internal("encode metrics", e))?;
        Ok(Any {
            type_url: V2_TYPE.into(),
            value,
            ..Default::default()
        })
    }

    /// Reads a `StatsResponse.stats` of any shim that answers with containerd's cgroup metrics.
    pub fn from_any(any: &Any) -> Result<Self, TaskError> {
        let bad = |e| TaskError::internal("decode metrics", e);
        match any.type_url.rsplit('/').next().unwrap_or_default() {
            V2_TYPE => Ok(Self::from_v2(&V2::parse_from_bytes(&any.value).map_err(bad)?)),
            V1_TYPE => Ok(Self::from_v1(&V1::parse_from_bytes(&any.value).map_err(bad)?)),
            other => Err(TaskError::Internal(format!(
                "decode metrics: unknown type {other:?}"
            ))),
        }
    }

    fn from_v2(m: &V2) -> Self {
        Self {
            cpu_usage_nanos: m.cpu.usage_usec.saturating_mul(1000),
            cpu_user_nanos: m.cpu.user_usec.saturating_mul(1000),
            cpu_system_nanos: m.cpu.system_usec.saturating_mul(1000),
            cpu_periods: m.cpu.nr_periods,
            cpu_throttled_periods: m.cpu.nr_throttled,
            cpu_throttled_nanos: m.cpu.throttled_usec.saturating_mul(1000),
            memory_usage: m.memory.usage,
            memory_cache: m.memory.file,
            memory_mapped: m.memory.file_mapped,
            memory_swap: m.memory.swap_usage,
            memory_max: m.memory.max_usage,
            memory_failures: m.memory_events.max,
            memory_inactive_file: m.memory.inactive_file,
            memory_anon: m.memory.anon,
            memory_limit: m.memory.usage_limit,
            page_faults: m.memory.pgfault,
            major_page_faults: m.memory.pgmajfault,
            pids: m.pids.current,
            oom_kills: m.memory_events.oom_kill,
            io: m.io.usage.iter().map(DeviceIo::from_entry).collect(),
        }
    }

    fn from_v1(m: &V1) -> Self {
        Self {
            cpu_usage_nanos: m.cpu.usage.total,
            cpu_user_nanos: m.cpu.usage.user,
            cpu_system_nanos: m.cpu.usage.kernel,
            cpu_periods: m.cpu.throttling.periods,
            cpu_throttled_periods: m.cpu.throttling.throttled_periods,
            cpu_throttled_nanos: m.cpu.throttling.throttled_time,
            memory_usage: m.memory.usage.usage,
            memory_cache: m.memory.total_cache,
            memory_mapped: m.memory.total_mapped_file,
            memory_swap: m.memory.swap.usage.saturating_sub(m.memory.usage.usage),
            memory_max: m.memory.usage.max,
            memory_failures: m.memory.usage.failcnt,
            memory_inactive_file: m.memory.total_inactive_file,
            memory_anon: m.memory.total_rss,
            memory_limit: m.memory.usage.limit,
            page_faults: m.memory.total_pg_fault,
            major_page_faults: m.memory.total_pg_maj_fault,
            pids: m.pids.current,
            oom_kills: m.memory_oom_control.oom_kill,
            io: DeviceIo::gathered(
                counted(&m.blkio.io_service_bytes_recursive),
                counted(&m.blkio.io_serviced_recursive),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_survives_the_wire() {
        let stats = TaskStats {
            cpu_usage_nanos: 5_000,
            cpu_user_nanos: 3_000,
            cpu_system_nanos: 2_000,
            cpu_periods: 9,
            cpu_throttled_periods: 8,
            cpu_throttled_nanos: 4_000,
            memory_cache: 40,
            memory_mapped: 20,
            memory_swap: 10,
            memory_max: 110,
            memory_failures: 5,
            memory_usage: 100,
            memory_inactive_file: 30,
            memory_anon: 60,
            memory_limit: u64::MAX,
            page_faults: 7,
            major_page_faults: 1,
            pids: 3,
            oom_kills: 2,
            io: vec![DeviceIo {
                device: (8, 1),
                read_bytes: 1,
                written_bytes: 2,
                reads: 3,
                writes: 4,
            }],
        };
        assert_eq!(TaskStats::from_any(&stats.to_any().unwrap()).unwrap(), stats);
        assert_eq!(stats.working_set(), 70);
    }

    #[test]
    fn unknown_metrics_are_refused() {
        let any = Any {
            type_url: "nonsense".into(),
            ..Default::default()
        };
        assert!(TaskStats::from_any(&any).is_err());
    }
}

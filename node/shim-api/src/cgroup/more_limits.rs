//! The rarer limits: disks, huge pages, and what the processor and memory controllers have beyond the usual. Pure.

use std::fmt::Write;

use oci_spec::runtime::{LinuxBlockIo, LinuxRdma, LinuxResources, LinuxThrottleDevice};

use super::limits::{Setting, setting};
use super::realtime::Share;

/// What a cgroup may use of them; nothing given leaves a limit alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MoreLimits {
    io: Io,
    /// Page size as the kernel writes it (`2MB`), and bytes.
    hugepages: Vec<(String, i64)>,
    cpu_idle: Option<i64>,
    /// Microseconds saved up beyond the quota.
    cpu_burst: Option<u64>,
    realtime: (Option<u64>, Option<i64>),
    /// Bytes of the buffers of TCP sockets, which v1 counts apart.
    tcp_buffers: Option<i64>,
    swappiness: Option<u64>,
    no_oom_killer: bool,
    /// Cgroups below it share its limit of memory, as on newer kernels they always do.
    hierarchy: bool,
    /// The class all packets are of, which v1 alone has.
    network_class: Option<u32>,
    /// Interface and priority of what goes out there, likewise.
    network_priorities: Vec<(String, u32)>,
    /// Device and its limits as the kernel writes them (`hca_handle=2 hca_object=max`).
    rdma: Vec<(String, String)>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Io {
    /// 10 to 1000.
    weight: Option<u16>,
    /// `major:minor` and weight.
    weights: Vec<(String, u16)>,
    /// The same against cgroups below, of a scheduler that newer kernels have not: asked for to be refused there.
    leaf_weight: Option<u16>,
    leaf_weights: Vec<(String, u16)>,
    /// `major:minor`, which of [`THROTTLES`], and the rate.
    throttles: Vec<(String, usize, u64)>,
}

/// v1's files, and v2's words in `io.max`, in one order.
const THROTTLES: [(&str, &str); 4] = [
    ("blkio.throttle.read_bps_device", "rbps"),
    ("blkio.throttle.write_bps_device", "wbps"),
    ("blkio.throttle.read_iops_device", "riops"),
    ("blkio.throttle.write_iops_device", "wiops"),
];

impl From<&LinuxResources> for MoreLimits {
    fn from(resources: &LinuxResources) -> Self {
        let cpu = resources.cpu().as_ref();
        let memory = resources.memory().as_ref();
        let pages = resources.hugepage_limits().iter().flatten();
        let network = resources.network().as_ref();
        let priorities = network
            .and_then(|n| n.priorities().as_ref())
            .into_iter()
            .flatten();
        Self {
            io: resources.block_io().as_ref().map(Io::from).unwrap_or_default(),
            hugepages: pages.map(|p| (p.page_size().clone(), p.limit())).collect(),
            cpu_idle: cpu.and_then(|c| c.idle()),
            cpu_burst: cpu.and_then(|c| c.burst()),
            realtime: (
                cpu.and_then(|c| c.realtime_period()),
                cpu.and_then(|c| c.realtime_runtime()),
            ),
            tcp_buffers: memory.and_then(|m| m.kernel_tcp()).filter(|bytes| *bytes != 0),
            swappiness: memory.and_then(|m| m.swappiness()),
            no_oom_killer: memory.and_then(|m| m.disable_oom_killer()).unwrap_or_default(),
            hierarchy: memory.and_then(|m| m.use_hierarchy()).unwrap_or_default(),
            network_class: network.and_then(|n| n.class_id()).filter(|class| *class != 0),
            network_priorities: priorities.map(|p| (p.name().clone(), p.priority())).collect(),
            rdma: rdma(resources),
        }
    }
}

/// In the order of the devices' names; what is not given of one is left alone.
fn rdma(resources: &LinuxResources) -> Vec<(String, String)> {
    let line = |limit: &LinuxRdma| {
        let words = [
            ("hca_handle", limit.hca_handles()),
            ("hca_object", limit.hca_objects()),
        ];
        let given = words
            .iter()
            .filter_map(|(key, n)| Some(format!("{key}={}", (*n)?)));
        given.collect::<Vec<_>>().join(" ")
    };
    let all = resources.rdma().iter().flatten();
    let mut lines: Vec<_> = all
        .map(|(device, limit)| (device.clone(), line(limit)))
        .filter(|(_, line)| !line.is_empty())
        .collect();
    lines.sort();
    lines
}

impl From<&LinuxBlockIo> for Io {
    fn from(io: &LinuxBlockIo) -> Self {
        let device = |major: i64, minor: i64| format!("{major}:{minor}");
        let weights = || io.weight_device().iter().flatten();
        let lists = [
            io.throttle_read_bps_device(),
            io.throttle_write_bps_device(),
            io.throttle_read_iops_device(),
            io.throttle_write_iops_device(),
        ];
        let throttle = |kind: usize, d: &LinuxThrottleDevice| (device(d.major(), d.minor()), kind, d.rate());
        let throttles = lists.into_iter().enumerate();
        Self {
            weight: io.weight().filter(|w| *w > 0),
            weights: weights()
                .filter_map(|d| Some((device(d.major(), d.minor()), d.weight()?)))
                .collect(),
            leaf_weight: io.leaf_weight().filter(|w| *w > 0),
            leaf_weights: weights()
                .filter_map(|d| Some((device(d.major(), d.minor()), d.leaf_weight()?)))
                .collect(),
            throttles: throttles
                .flat_map(|(kind, list)| list.iter().flatten().map(move |d| throttle(kind, d)))
                .collect(),
        }
    }
}

impl MoreLimits {
    /// What is asked for of processors' real time.
    pub(super) fn realtime(&self) -> Option<Share> {
        let runtime = self.realtime.1.and_then(|runtime| u64::try_from(runtime).ok());
        runtime.filter(|runtime| *runtime > 0).map(|runtime| Share {
            period: self.realtime.0.filter(|period| *period > 0),
            runtime,
        })
    }

    pub(super) fn v1(&self) -> Vec<Setting> {
        let mut out = Vec::new();
        let mut add = |controller, file: &str, value: Option<String>| {
            out.extend(value.map(|value| setting(controller, file, value)));
        };
        add("blkio", "blkio.weight", self.io.weight.map(|w| w.to_string()));
        for (device, weight) in &self.io.weights {
            add("blkio", "blkio.weight_device", Some(format!("{device} {weight}")));
        }
        for (device, kind, rate) in &self.io.throttles {
            add("blkio", THROTTLES[*kind].0, Some(format!("{device} {rate}")));
        }
        for (size, limit) in &self.hugepages {
            for file in ["limit_in_bytes", "rsvd.limit_in_bytes"] {
                let file = format!("hugetlb.{size}.{file}");
                add("hugetlb", &file, Some(limit.to_string()));
            }
        }
        add("cpu", "cpu.idle", self.cpu_idle.map(|v| v.to_string()));
        add("cpu", "cpu.cfs_burst_us", self.cpu_burst.map(|v| v.to_string()));
        let given = self.realtime.0.filter(|p| *p > 0);
        add("cpu", "cpu.rt_period_us", given.map(|v| v.to_string()));
        let given = self.realtime.1.filter(|r| *r != 0);
        add("cpu", "cpu.rt_runtime_us", given.map(|v| v.to_string()));
        add(
            "memory",
            "memory.kmem.tcp.limit_in_bytes",
            self.tcp_buffers.map(|v| v.to_string()),
        );
        add(
            "memory",
            "memory.swappiness",
            self.swappiness.map(|v| v.to_string()),
        );
        let disabled = self.no_oom_killer.then(|| "1".to_owned());
        add("memory", "memory.oom_control", disabled);
        let hierarchy = self.hierarchy.then(|| "1".to_owned());
        add("memory", "memory.use_hierarchy", hierarchy);
        out.extend(self.leaf_weights());
        out.extend(self.network());
        out.extend(self.rdma_lines());
        out
    }

    /// v1 only, and there of some kernels; on v2 they are asked for to be refused.
    fn leaf_weights(&self) -> Vec<Setting> {
        let own = self.io.leaf_weight.map(|weight| weight.to_string());
        let own = own.map(|weight| setting("blkio", "blkio.leaf_weight", weight));
        let devices = self.io.leaf_weights.iter().map(|(device, weight)| {
            let value = format!("{device} {weight}");
            setting("blkio", "blkio.leaf_weight_device", value)
        });
        own.into_iter().chain(devices).collect()
    }

    /// v1 only: on v2, where no hierarchy has these controllers, they are asked for to be refused.
    fn network(&self) -> Vec<Setting> {
        let class = self
            .network_class
            .map(|class| setting("net_cls", "net_cls.classid", class));
        let priorities = self.network_priorities.iter();
        let priorities = priorities.map(|(interface, priority)| {
            setting(
                "net_prio",
                "net_prio.ifpriomap",
                format!("{interface} {priority}"),
            )
        });
        class.into_iter().chain(priorities).collect()
    }

    fn rdma_lines(&self) -> impl Iterator<Item = Setting> {
        let lines = self.rdma.iter();
        lines.map(|(device, line)| setting("rdma", "rdma.max", format!("{device} {line}")))
    }

    /// v2 has no real-time limits, limit of TCP's buffers, swappiness or switch for the OOM killer; as runc has it, what a v1
    /// bundle asks of them is left out. Its memory is shared with what is below always.
    pub(super) fn v2(&self) -> Vec<Setting> {
        let mut out = Vec::new();
        let mut add = |controller, file: &str, value: Option<String>| {
            out.extend(value.map(|value| setting(controller, file, value)));
        };
        add(
            "io",
            "io.weight",
            self.io.weight.map(|w| v2_weight(w).to_string()),
        );
        for (device, weight) in &self.io.weights {
            add(
                "io",
                "io.weight",
                Some(format!("{device} {}", v2_weight(*weight))),
            );
        }
        for (device, kind, rate) in &self.io.throttles {
            let mut line = device.clone();
            // Writing to a string cannot fail. 0 takes a limit away.
            let _ = match rate {
                0 => write!(line, " {}=max", THROTTLES[*kind].1),
                rate => write!(line, " {}={rate}", THROTTLES[*kind].1),
            };
            add("io", "io.max", Some(line));
        }
        for (size, limit) in &self.hugepages {
            for file in ["max", "rsvd.max"] {
                let file = format!("hugetlb.{size}.{file}");
                add("hugetlb", &file, Some(super::limits::max(*limit)));
            }
        }
        add("cpu", "cpu.idle", self.cpu_idle.map(|v| v.to_string()));
        add("cpu", "cpu.max.burst", self.cpu_burst.map(|v| v.to_string()));
        out.extend(self.leaf_weights());
        out.extend(self.network());
        out.extend(self.rdma_lines());
        out
    }
}

/// [10, 1000] onto [1, 10000], as the OCI runtimes do.
fn v2_weight(weight: u16) -> u32 {
    1 + (u32::from(weight.clamp(10, 1000)) - 10) * 9999 / 990
}

/// Huge pages that were promised and not yet used, which kernels count since 5.7 (runtime-spec: where they do, the limit is of
/// those too).
pub(super) fn is_reservation(file: &str) -> bool {
    file.starts_with("hugetlb.") && file.contains(".rsvd.")
}

/// Where a kernel has BFQ for its only scheduler with weights, the file is called after it.
pub(super) fn other_name(file: &str) -> Option<&'static str> {
    match file {
        "blkio.weight" => Some("blkio.bfq.weight"),
        "blkio.weight_device" => Some("blkio.bfq.weight_device"),
        "io.weight" => Some("io.bfq.weight"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_has_its_file() {
        let json = r#"{"blockIO":{"weight":500,"weightDevice":[{"major":8,"minor":0,"weight":10,"leafWeight":20}],"leafWeight":30,
            "throttleReadBpsDevice":[{"major":8,"minor":0,"rate":1000}],
            "throttleWriteIOPSDevice":[{"major":8,"minor":16,"rate":0}]},
            "hugepageLimits":[{"pageSize":"2MB","limit":4194304}],
            "cpu":{"idle":1,"burst":2000,"realtimePeriod":1000000,"realtimeRuntime":950000},
            "memory":{"kernelTCP":8388608,"swappiness":10,"disableOOMKiller":true,"useHierarchy":true},
            "network":{"classID":1048577,"priorities":[{"name":"eth0","priority":5}]},
            "rdma":{"mlx5_1":{"hcaHandles":3},"mlx4_0":{"hcaHandles":2,"hcaObjects":7},"none":{}}}"#;
        let limits = MoreLimits::from(&serde_json::from_str::<LinuxResources>(json).unwrap());
        let lines = |settings: Vec<Setting>| {
            let line = |s: Setting| format!("{}={}", s.file, s.value);
            settings.into_iter().map(line).collect::<Vec<_>>()
        };
        assert_eq!(
            lines(limits.v1()),
            [
                "blkio.weight=500",
                "blkio.weight_device=8:0 10",
                "blkio.throttle.read_bps_device=8:0 1000",
                "blkio.throttle.write_iops_device=8:16 0",
                "hugetlb.2MB.limit_in_bytes=4194304",
                "hugetlb.2MB.rsvd.limit_in_bytes=4194304",
                "cpu.idle=1",
                "cpu.cfs_burst_us=2000",
                "cpu.rt_period_us=1000000",
                "cpu.rt_runtime_us=950000",
                "memory.kmem.tcp.limit_in_bytes=8388608",
                "memory.swappiness=10",
                "memory.oom_control=1",
                "memory.use_hierarchy=1",
                "blkio.leaf_weight=30",
                "blkio.leaf_weight_device=8:0 20",
                "net_cls.classid=1048577",
                "net_prio.ifpriomap=eth0 5",
                "rdma.max=mlx4_0 hca_handle=2 hca_object=7",
                "rdma.max=mlx5_1 hca_handle=3",
            ]
        );
        assert_eq!(
            lines(limits.v2()),
            [
                "io.weight=4950",
                "io.weight=8:0 1",
                "io.max=8:0 rbps=1000",
                "io.max=8:16 wiops=max",
                "hugetlb.2MB.max=4194304",
                "hugetlb.2MB.rsvd.max=4194304",
                "cpu.idle=1",
                "cpu.max.burst=2000",
                "blkio.leaf_weight=30",
                "blkio.leaf_weight_device=8:0 20",
                "net_cls.classid=1048577",
                "net_prio.ifpriomap=eth0 5",
                "rdma.max=mlx4_0 hca_handle=2 hca_object=7",
                "rdma.max=mlx5_1 hca_handle=3",
            ]
        );
        for nothing in ["{}", r#"{"memory":{"useHierarchy":false}}"#] {
            let limits = MoreLimits::from(&serde_json::from_str::<LinuxResources>(nothing).unwrap());
            assert!(limits.v1().is_empty() && limits.v2().is_empty(), "{nothing}");
        }
    }
}

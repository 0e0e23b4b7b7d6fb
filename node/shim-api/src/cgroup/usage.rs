//! All that the files of a cgroup tell of what it uses, for whoever wants more than [`crate::TaskStats`].
//!
//! What the host does not count is 0: its controller is not there, or its kernel is older than the file.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::stats::number;
use super::{Cgroup, CgroupError};

/// Something counted against a limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Meter {
    pub usage: u64,
    /// `u64::MAX` for none.
    pub limit: u64,
    /// The most it ever was.
    pub max: u64,
    /// How often the limit was hit.
    pub failures: u64,
}

/// Processor time in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cpu {
    pub total: u64,
    pub user: u64,
    pub kernel: u64,
    pub per_processor: Vec<u64>,
    /// The same by who used it, user and kernel.
    pub per_processor_by: (Vec<u64>, Vec<u64>),
    pub periods: u64,
    pub throttled_periods: u64,
    pub throttled: u64,
}

/// What was read from, written to, … a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Io {
    pub device: (u64, u64),
    /// `Read`, `Write`, …, as v1 calls it.
    pub operation: String,
    pub value: u64,
}

impl Io {
    pub(super) fn counted(&self) -> ((u64, u64), &str, u64) {
        (self.device, &self.operation, self.value)
    }
}

/// What a cpuset of v1 has beside its lists (cpuset(7)).
const SETS: [&str; 9] = [
    "cpu_exclusive",
    "mem_exclusive",
    "mem_hardwall",
    "memory_migrate",
    "memory_pressure",
    "memory_spread_page",
    "memory_spread_slab",
    "sched_load_balance",
    "sched_relax_domain_level",
];

/// A reading.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    pub cpu: Cpu,
    /// Those it may run on (`0-3,7`), and the memory nodes.
    pub processors: String,
    pub nodes: String,
    /// What else is said of them, [`SETS`], each by its name; all 0 on v2, which has none of it.
    pub sets: [(&'static str, i64); 9],
    pub memory: Meter,
    /// Memory and swap together.
    pub swap: Meter,
    pub kernel: Meter,
    pub kernel_tcp: Meter,
    /// Page cache.
    pub cache: u64,
    /// `memory.stat` as it is.
    pub memory_stat: BTreeMap<String, u64>,
    pub pids: Meter,
    pub io_bytes: Vec<Io>,
    pub io_operations: Vec<Io>,
    /// By the size of the page.
    pub huge_pages: BTreeMap<String, Meter>,
}

/// The files of one controller; without the controller there are none.
#[derive(Clone, Copy)]
pub(super) struct Files<'a>(pub(super) Option<&'a Path>);

impl Files<'_> {
    fn text(self, file: &str) -> String {
        let read = self.0.map(|dir| fs::read_to_string(dir.join(file)));
        read.and_then(Result::ok).unwrap_or_default()
    }

    pub(super) fn number(self, file: &str) -> u64 {
        match self.text(file) {
            none if none.is_empty() => 0,
            text => number(&text),
        }
    }

    fn keyed(self, file: &str) -> BTreeMap<String, u64> {
        let text = self.text(file);
        let pairs = text.lines().filter_map(|line| line.split_once(' '));
        pairs
            .map(|(key, value)| (key.to_owned(), number(value)))
            .collect()
    }

    pub(super) fn list(self, file: &str) -> String {
        self.text(file).trim().to_owned()
    }

    /// What is between the two in the names of files.
    fn names(self, before: &str, after: &str) -> Vec<String> {
        let entries = self
            .0
            .and_then(|dir| fs::read_dir(dir).ok())
            .into_iter()
            .flatten();
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let between = |name: String| Some(name.strip_prefix(before)?.strip_suffix(after)?.to_owned());
        names
            .filter_map(between)
            .filter(|name| !name.contains('.'))
            .collect()
    }
}

pub(super) fn read(cgroup: &Cgroup) -> Result<Usage, CgroupError> {
    if cgroup.is_none() {
        return Err(CgroupError::NoHierarchy);
    }
    let [io_bytes, io_operations] = io(cgroup);
    let read = match cgroup.unified_dir() {
        Some(dir) if cgroup.is_v2() => v2(Files(Some(dir))),
        _ => v1(cgroup),
    };
    Ok(Usage {
        io_bytes,
        io_operations,
        ..read
    })
}

/// What was read and written, and in how many operations.
pub(super) fn io(cgroup: &Cgroup) -> [Vec<Io>; 2] {
    match cgroup.unified_dir() {
        Some(dir) if cgroup.is_v2() => {
            let bytes = [("rbytes", "Read"), ("wbytes", "Write"), ("dbytes", "Discard")];
            let operations = [("rios", "Read"), ("wios", "Write"), ("dios", "Discard")];
            [bytes, operations].map(|words| v2_io(Files(Some(dir)), words))
        }
        _ => ["io_service_bytes", "io_serviced"].map(|name| v1_io(Files(cgroup.v1_dir("blkio")), name)),
    }
}

fn at(map: &BTreeMap<String, u64>, key: &str) -> u64 {
    map.get(key).copied().unwrap_or_default()
}

fn v2(files: Files<'_>) -> Usage {
    const MICRO: u64 = 1000;
    let cpu = files.keyed("cpu.stat");
    let memory_stat = files.keyed("memory.stat");
    let memory = v2_meter(files, "memory");
    Usage {
        cpu: Cpu {
            total: at(&cpu, "usage_usec").saturating_mul(MICRO),
            user: at(&cpu, "user_usec").saturating_mul(MICRO),
            kernel: at(&cpu, "system_usec").saturating_mul(MICRO),
            per_processor: Vec::new(),
            per_processor_by: (Vec::new(), Vec::new()),
            periods: at(&cpu, "nr_periods"),
            throttled_periods: at(&cpu, "nr_throttled"),
            throttled: at(&cpu, "throttled_usec").saturating_mul(MICRO),
        },
        processors: files.list("cpuset.cpus.effective"),
        nodes: files.list("cpuset.mems.effective"),
        sets: SETS.map(|name| (name, 0)),
        memory,
        swap: together(memory, v2_meter(files, "memory.swap")),
        kernel: Meter::default(),
        kernel_tcp: Meter::default(),
        cache: at(&memory_stat, "file"),
        memory_stat,
        pids: v2_meter(files, "pids"),
        huge_pages: huge_pages(files, ".current", |name| v2_meter(files, name)),
        ..Usage::default()
    }
}

fn v2_meter(files: Files<'_>, name: &str) -> Meter {
    Meter {
        usage: files.number(&format!("{name}.current")),
        limit: files.number(&format!("{name}.max")),
        max: files.number(&format!("{name}.peak")),
        failures: at(&files.keyed(&format!("{name}.events")), "max"),
    }
}

/// v2 counts swap alone; how much both ever were together nobody knows.
fn together(memory: Meter, swap: Meter) -> Meter {
    Meter {
        usage: memory.usage.saturating_add(swap.usage),
        limit: memory.limit.saturating_add(swap.limit),
        max: 0,
        failures: swap.failures,
    }
}

fn huge_pages(files: Files<'_>, mark: &str, meter: impl Fn(&str) -> Meter) -> BTreeMap<String, Meter> {
    let sizes = files.names("hugetlb.", mark).into_iter();
    sizes
        .map(|size| {
            let meter = meter(&format!("hugetlb.{size}"));
            (size, meter)
        })
        .collect()
}

fn device(text: &str) -> Option<(u64, u64)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Lines such as `8:0 rbytes=1 wbytes=2 rios=3 wios=4`.
fn v2_io(files: Files<'_>, words: [(&str, &str); 3]) -> Vec<Io> {
    let text = files.text("io.stat");
    let mut out = Vec::new();
    for line in text.lines() {
        let mut parts = line.split_whitespace();
        let Some(device) = parts.next().and_then(device) else {
            continue;
        };
        for (key, value) in parts.filter_map(|part| part.split_once('=')) {
            let word = words.iter().find(|(word, _)| *word == key);
            out.extend(word.map(|(_, operation)| Io {
                device,
                operation: (*operation).to_owned(),
                value: number(value),
            }));
        }
    }
    out
}

fn v1(cgroup: &Cgroup) -> Usage {
    let of = |controller| Files(cgroup.v1_dir(controller));
    let (cpu, time, memory, sets) = (of("cpu"), of("cpuacct"), of("memory"), of("cpuset"));
    let throttling = cpu.keyed("cpu.stat");
    let memory_stat = memory.keyed("memory.stat");
    let per_processor = time.text("cpuacct.usage_percpu");
    Usage {
        cpu: Cpu {
            total: time.number("cpuacct.usage"),
            user: time.number("cpuacct.usage_user"),
            kernel: time.number("cpuacct.usage_sys"),
            per_processor: per_processor.split_whitespace().map(number).collect(),
            per_processor_by: by_user_and_kernel(&time.text("cpuacct.usage_all")),
            periods: at(&throttling, "nr_periods"),
            throttled_periods: at(&throttling, "nr_throttled"),
            throttled: at(&throttling, "throttled_time"),
        },
        processors: sets.list("cpuset.cpus"),
        nodes: sets.list("cpuset.mems"),
        sets: SETS.map(|name| {
            let said = sets.list(&format!("cpuset.{name}"));
            (name, said.parse().unwrap_or_default())
        }),
        memory: v1_meter(memory, "memory"),
        swap: v1_meter(memory, "memory.memsw"),
        kernel: v1_meter(memory, "memory.kmem"),
        kernel_tcp: v1_meter(memory, "memory.kmem.tcp"),
        cache: at(&memory_stat, "cache"),
        memory_stat,
        pids: v2_meter(of("pids"), "pids"),
        huge_pages: huge_pages(of("hugetlb"), ".limit_in_bytes", |name| {
            v1_meter(of("hugetlb"), name)
        }),
        ..Usage::default()
    }
}

/// A title, and lines of processor, user and kernel.
fn by_user_and_kernel(text: &str) -> (Vec<u64>, Vec<u64>) {
    let lines = text.lines().skip(1).filter_map(|line| {
        let mut parts = line.split_whitespace().skip(1).map(number);
        Some((parts.next()?, parts.next()?))
    });
    lines.unzip()
}

fn v1_meter(files: Files<'_>, name: &str) -> Meter {
    Meter {
        usage: files.number(&format!("{name}.usage_in_bytes")),
        limit: files.number(&format!("{name}.limit_in_bytes")),
        max: files.number(&format!("{name}.max_usage_in_bytes")),
        failures: files.number(&format!("{name}.failcnt")),
    }
}

/// Lines such as `8:0 Read 4096`, of the scheduler that counts.
fn v1_io(files: Files<'_>, name: &str) -> Vec<Io> {
    let counted = ["bfq", "throttle"].map(|who| files.text(&format!("blkio.{who}.{name}_recursive")));
    let lines = |text: &String| {
        let read = |line: &str| {
            let mut parts = line.split_whitespace();
            Some(Io {
                device: device(parts.next()?)?,
                operation: parts.next()?.to_owned(),
                value: number(parts.next()?),
            })
        };
        text.lines().filter_map(read).collect::<Vec<_>>()
    };
    let mut all = counted.iter().map(lines);
    all.find(|found| !found.is_empty()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::CgroupHost;
    use super::*;
    use crate::stats::DeviceIo;

    fn cgroup_with(home: &Path, kind: &str, files: &[(&str, &str)]) -> Cgroup {
        let dir = home.join("a");
        fs::create_dir(&dir).unwrap();
        for (file, text) in files {
            fs::write(dir.join(file), text).unwrap();
        }
        let line = format!("30 23 0:26 / {} rw - {kind}\n", home.display());
        CgroupHost::from_mountinfo(&line).cgroup("/a").unwrap()
    }

    #[test]
    fn what_goes_to_devices_is_told_of_each() {
        let of = |kind: &str, files: &[(&str, &str)]| {
            let home = tempfile::tempdir().unwrap();
            cgroup_with(home.path(), kind, files).stats().unwrap().io
        };
        let expected =
            [(1, 2, 3, 4), (5, 0, 0, 0)].map(|(read_bytes, written_bytes, reads, writes)| DeviceIo {
                device: (8, if read_bytes == 1 { 0 } else { 16 }),
                read_bytes,
                written_bytes,
                reads,
                writes,
            });
        let v2 = "8:16 rbytes=5\n8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=9 dios=9\n";
        assert_eq!(
            of("cgroup2 cgroup2 rw", &[("cpu.stat", ""), ("io.stat", v2)]),
            expected
        );
        let v1 = [
            (
                "blkio.throttle.io_service_bytes_recursive",
                "8:0 Read 1\n8:0 Write 2\n8:0 Total 3\n8:16 Read 5\nTotal 8\n",
            ),
            (
                "blkio.throttle.io_serviced_recursive",
                "8:0 Read 3\n8:0 Write 4\nTotal 7\n",
            ),
        ];
        assert_eq!(of("cgroup cgroup rw,blkio", &v1), expected);
    }

    fn reading(kind: &str, files: &[(&str, &str)]) -> Usage {
        let home = tempfile::tempdir().unwrap();
        let cgroup = cgroup_with(home.path(), kind, files);
        cgroup.usage().unwrap()
    }

    #[test]
    fn v2_is_read() {
        let got = reading(
            "cgroup2 cgroup2 rw",
            &[
                (
                    "cpu.stat",
                    "usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_throttled 1\n",
                ),
                ("memory.current", "100\n"),
                ("memory.max", "1000\n"),
                ("memory.swap.current", "10\n"),
                ("memory.swap.max", "max\n"),
                ("memory.stat", "anon 7\nfile 8\n"),
                ("pids.current", "2\n"),
                ("pids.max", "max\n"),
                ("io.stat", "8:0 rbytes=1 wbytes=2 rios=3 wios=4\n253:1 \n"),
                ("hugetlb.2MB.current", "4096\n"),
                ("hugetlb.2MB.rsvd.current", "1\n"),
                ("cpuset.cpus.effective", "0-1\n"),
            ],
        );
        assert_eq!(
            (got.cpu.total, got.cpu.kernel, got.cpu.throttled_periods),
            (5000, 2000, 1)
        );
        assert_eq!(
            (got.memory.limit, got.swap.usage, got.swap.limit),
            (1000, 110, u64::MAX)
        );
        assert_eq!((got.cache, got.memory_stat["anon"]), (8, 7));
        assert_eq!((got.pids.usage, got.pids.limit), (2, u64::MAX));
        let io = |operation: &str, value| Io {
            device: (8, 0),
            operation: operation.into(),
            value,
        };
        assert_eq!(got.io_bytes, [io("Read", 1), io("Write", 2)]);
        assert_eq!(got.io_operations, [io("Read", 3), io("Write", 4)]);
        assert_eq!(got.huge_pages.keys().collect::<Vec<_>>(), ["2MB"]);
        assert_eq!(got.processors, "0-1");
    }

    #[test]
    fn v1_is_read() {
        let got = reading(
            "cgroup cgroup rw,cpuacct,memory,blkio",
            &[
                ("cpuacct.usage_percpu", "4 5 \n"),
                ("cpuacct.usage_all", "cpu user system\n0 1 3\n1 5 0\n"),
                ("memory.usage_in_bytes", "100\n"),
                ("memory.limit_in_bytes", "9223372036854771712\n"),
                ("memory.memsw.failcnt", "3\n"),
                (
                    "blkio.throttle.io_service_bytes_recursive",
                    "8:0 Read 9\nTotal 9\n",
                ),
            ],
        );
        assert_eq!(got.cpu.per_processor, [4, 5]);
        assert_eq!(got.cpu.per_processor_by, (vec![1, 5], vec![3, 0]));
        assert_eq!(
            (got.memory.usage, got.memory.limit, got.swap.failures),
            (100, u64::MAX, 3)
        );
        assert_eq!(got.io_bytes.len(), 1);
        assert_eq!(got.pids, Meter::default());
    }
}

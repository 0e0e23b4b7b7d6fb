//! Paths of /proc and /sys that a container does not see or may not write: upstream's lists, which runtimes take from
//! the kubelet.

use std::fs;
use std::sync::LazyLock;

const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Counters of when a processor ran hot, one directory each: they tell of neighbours.
const PROCESSORS: &str = "/sys/devices/system/cpu";

/// What is hidden, on this host.
pub fn masked() -> Vec<String> {
    static THROTTLES: LazyLock<Vec<String>> = LazyLock::new(throttles);
    MASKED
        .iter()
        .map(|path| (*path).to_owned())
        .chain(THROTTLES.iter().cloned())
        .collect()
}

pub fn read_only() -> Vec<String> {
    READ_ONLY.iter().map(|path| (*path).to_owned()).collect()
}

fn throttles() -> Vec<String> {
    let entries = fs::read_dir(PROCESSORS).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path().join("thermal_throttle"));
    paths
        .filter(|path| path.exists())
        .map(|path| path.display().to_string())
        .collect()
}

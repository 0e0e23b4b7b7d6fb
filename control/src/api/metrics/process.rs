//! The process itself, under the names that Prometheus' client libraries use. From `proc(5)`; what cannot be read is
//! left out.
use crate::measures::Exposition;

/// `USER_HZ` as proc(5) counts in, on every architecture that Linux still has.
const TICKS_PER_SECOND: f64 = 100.0;
/// Fields of `/proc/self/stat` after the command, whose end is `)`.
const UTIME: usize = 11;
const STIME: usize = 12;
const START: usize = 19;

/// When the process began, in seconds since 1970.
pub fn started() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    started_at(&fields(&stat))
}

fn started_at(fields: &[&str]) -> Option<f64> {
    let ticks: f64 = fields.get(START)?.parse().ok()?;
    Some(boot_time()? + ticks / TICKS_PER_SECOND)
}

fn fields(stat: &str) -> Vec<&str> {
    stat.rsplit(") ").next().unwrap_or_default().split(' ').collect()
}

/// When the process began.
pub(super) fn write_start(out: &mut Exposition) {
    if let Some(seconds) = started() {
        out.single(
            "process_start_time_seconds",
            "gauge",
            "When the process began.",
            seconds,
        );
    }
}

pub(super) fn write(out: &mut Exposition) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = fields(&stat);
    let ticks = |field: usize| fields.get(field).and_then(|t| t.parse::<f64>().ok());
    if let (Some(user), Some(system)) = (ticks(UTIME), ticks(STIME)) {
        let seconds = (user + system) / TICKS_PER_SECOND;
        out.single(
            "process_cpu_seconds_total",
            "counter",
            "CPU time of the process.",
            seconds,
        );
    }
    write_start(out);
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    for (name, field, help) in [
        (
            "process_resident_memory_bytes",
            "VmRSS:",
            "Memory of the process in RAM.",
        ),
        (
            "process_virtual_memory_bytes",
            "VmSize:",
            "Address space of the process.",
        ),
    ] {
        if let Some(kib) = number_after(&status, field) {
            out.single(name, "gauge", help, kib * 1024);
        }
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        out.single(
            "process_open_fds",
            "gauge",
            "Open file descriptors.",
            open.count(),
        );
    }
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    if let Some(most) = number_after(&limits, "Max open files") {
        out.single(
            "process_max_fds",
            "gauge",
            "How many file descriptors may be open.",
            most,
        );
    }
}

/// When the machine booted, in seconds since 1970.
fn boot_time() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    stat.lines()
        .find_map(|line| line.strip_prefix("btime "))?
        .parse()
        .ok()
}

fn number_after(text: &str, label: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(label))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_is_described() {
        let mut out = Exposition::default();
        write(&mut out);
        let text = out.finish();
        for name in [
            "process_cpu_seconds_total",
            "process_resident_memory_bytes",
            "process_max_fds",
        ] {
            assert!(text.contains(&format!("\n{name} ")), "{text}");
        }
    }
}

//! What this machine is: kernel, memory, processors, identities, the address others reach it by. Reads /proc
//! and /sys; refuses to know what the answers are for.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use nix::sys::statvfs::statvfs;
use nix::sys::utsname::uname;

use crate::hugepages::{self, Pool};

/// Any address beyond the default route: connecting a UDP socket to it sends nothing and names the source
/// address the kernel would use (RFC 5737, TEST-NET-1).
const BEYOND: (Ipv4Addr, u16) = (Ipv4Addr::new(192, 0, 2, 1), 9);

/// Unit of /proc/stat: the same on every architecture that programs in Rust run on (time(7)).
const USER_HZ: u64 = 100;

/// Facts that do not change while the machine is up.
#[derive(Clone, Debug, PartialEq)]
pub struct Host {
    pub processors: usize,
    pub memory_bytes: u64,
    /// Set aside when the agent began, as upstream has it.
    pub huge_pages: Vec<Pool>,
    pub kernel: String,
    pub architecture: &'static str,
    pub os_image: String,
    pub machine_id: String,
    pub system_uuid: String,
    pub boot_id: String,
}

/// A fact without which no node can be reported.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}: {source}", path.display())]
pub struct HostError {
    path: PathBuf,
    source: io::Error,
}

fn read(path: &str) -> Result<String, HostError> {
    let text = fs::read_to_string(path);
    text.map(|t| t.trim().to_owned()).map_err(|source| HostError {
        path: path.into(),
        source,
    })
}

impl Host {
    pub fn read() -> Result<Host, HostError> {
        let memory = read("/proc/meminfo")?;
        let boot_id = read("/proc/sys/kernel/random/boot_id")?;
        let machine_id = read("/etc/machine-id").unwrap_or_default();
        let system_uuid = read("/sys/class/dmi/id/product_uuid").unwrap_or_else(|_| machine_id.clone());
        let kernel = uname()
            .map(|u| u.release().to_string_lossy().into_owned())
            .unwrap_or_default();
        Ok(Host {
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: total_memory(&memory),
            huge_pages: hugepages::pools(),
            kernel,
            architecture: go_architecture(std::env::consts::ARCH),
            os_image: os_image(&read("/etc/os-release").unwrap_or_default()),
            machine_id,
            system_uuid,
            boot_id,
        })
    }
}

fn total_memory(meminfo: &str) -> u64 {
    field_kib(meminfo, "MemTotal:").unwrap_or(0)
}

/// The memory of this machine, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    pub total: u64,
    pub free: u64,
    pub anonymous: u64,
    /// Of files, and of these what programs have mapped.
    pub cached: u64,
    pub mapped: u64,
    pub swap_total: u64,
    pub swap_free: u64,
}

/// As /proc/meminfo has it; what is not there is 0.
pub fn memory() -> Memory {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let field = |name| field_kib(&text, name).unwrap_or(0);
    Memory {
        total: field("MemTotal:"),
        free: field("MemFree:"),
        anonymous: field("AnonPages:"),
        cached: field("Cached:"),
        mapped: field("Mapped:"),
        swap_total: field("SwapTotal:"),
        swap_free: field("SwapFree:"),
    }
}

/// Page faults since boot, all and major ones (/proc/vmstat).
pub fn page_faults() -> (u64, u64) {
    let text = fs::read_to_string("/proc/vmstat").unwrap_or_default();
    let field = |name: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once(' '));
        let found = lines.find(|(key, _)| *key == name)?.1;
        found.trim().parse().ok()
    };
    (field("pgfault").unwrap_or(0), field("pgmajfault").unwrap_or(0))
}

/// When the machine was started (proc_stat(5), btime).
pub fn boot_time() -> Option<Timestamp> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("btime "))?;
    Timestamp::from_second(line.trim().parse().ok()?).ok()
}

/// What all programs of this machine use together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Time of processors since boot that was not idle.
    pub cpu: Duration,
    /// Of it, what programs had for their own code.
    pub cpu_of_programs: Duration,
    /// Bytes of memory that could not be had back easily: all but what is free and what is cached of files not used lately.
    pub working_set: u64,
}

/// # Errors
/// /proc is not readable.
pub fn usage() -> Result<Usage, HostError> {
    let stat = read("/proc/stat")?;
    Ok(Usage {
        cpu: busy_time(&stat),
        cpu_of_programs: time_of(&stat, |i| i < 2),
        working_set: working_set(&read("/proc/meminfo")?),
    })
}

/// Of the line `cpu` (proc_stat(5)): user, nice, system, idle, iowait, irq, softirq, steal; guests' time is in user's already.
fn busy_time(stat: &str) -> Duration {
    time_of(stat, |i| !matches!(i, 3 | 4))
}

/// The same of those of the eight that are wanted.
fn time_of(stat: &str, is_wanted: impl Fn(usize) -> bool) -> Duration {
    let all = stat.lines().find_map(|line| line.strip_prefix("cpu "));
    let times = all.unwrap_or_default().split_whitespace().take(8).enumerate();
    let wanted = times.filter(|(i, _)| is_wanted(*i));
    let ticks: u64 = wanted.filter_map(|(_, ticks)| ticks.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks.saturating_mul(1000 / USER_HZ))
}

fn working_set(meminfo: &str) -> u64 {
    let field = |name| field_kib(meminfo, name).unwrap_or(0);
    let used = field("MemTotal:").saturating_sub(field("MemFree:"));
    used.saturating_sub(field("Inactive(file):"))
}

fn field_kib(meminfo: &str, name: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim()
        .trim_end_matches("kB")
        .trim()
        .parse::<u64>()
        .ok()
        .map(|kib| kib * 1024)
}

fn os_image(os_release: &str) -> String {
    let line = os_release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="));
    line.map_or_else(|| "Linux".to_owned(), |name| name.trim_matches('"').to_owned())
}

/// The name Kubernetes uses for an architecture.
fn go_architecture(rust: &'static str) -> &'static str {
    match rust {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// Size and free bytes, total and free inodes of the file system `path` is on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Disk {
    pub bytes: u64,
    pub free_bytes: u64,
    pub inodes: u64,
    pub free_inodes: u64,
}

/// The file system below `path`.
pub fn disk(path: &Path) -> io::Result<Disk> {
    let found = statvfs(path)?;
    let unit = found.fragment_size() as u64;
    Ok(Disk {
        bytes: found.blocks() as u64 * unit,
        free_bytes: found.blocks_available() as u64 * unit,
        inodes: found.files() as u64,
        free_inodes: found.files_available() as u64,
    })
}

/// Process ids in use and their greatest number.
pub fn processes() -> Option<(u64, u64)> {
    let load = fs::read_to_string("/proc/loadavg").ok()?;
    let used = load.split(' ').nth(3)?.split('/').nth(1)?.parse().ok()?;
    let most = fs::read_to_string("/proc/sys/kernel/pid_max")
        .ok()?
        .trim()
        .parse()
        .ok()?;
    Some((used, most))
}

/// The source address of the default route, if there is one.
pub fn default_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect(SocketAddr::from(BEYOND)).ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_unspecified() && !ip.is_loopback()).then_some(ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_facts() {
        let host = Host::read().unwrap();
        assert!(
            host.processors > 0 && host.memory_bytes > 1 << 20 && host.boot_id.len() == 36,
            "{host:?}"
        );
        assert!(disk(Path::new("/")).unwrap().bytes > 0);
        assert!(processes().is_some_and(|(used, most)| used > 0 && used < most));
    }

    #[test]
    fn files_are_read() {
        assert_eq!(
            field_kib("MemTotal:       2048 kB\nMemFree: 1 kB\n", "MemTotal:"),
            Some(2 << 20)
        );
        assert_eq!(os_image("NAME=x\nPRETTY_NAME=\"Debian 13\"\n"), "Debian 13");
        assert_eq!(os_image(""), "Linux");
    }

    #[test]
    fn what_all_use_is_read() {
        let stat = "cpu  100 20 3 5000 60 4 5 6 7 8\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        assert_eq!(busy_time(stat), Duration::from_millis(1380));
        assert_eq!(time_of(stat, |i| i < 2), Duration::from_millis(1200));
        let meminfo = "MemTotal: 100 kB\nMemFree: 10 kB\nInactive: 50 kB\nInactive(file): 30 kB\n";
        assert_eq!(working_set(meminfo), 60 << 10);
        let now = usage().unwrap();
        assert!(now.cpu > Duration::ZERO && now.working_set > 0, "{now:?}");
    }
}

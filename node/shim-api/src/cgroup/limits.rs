//! Limits as OCI words them, and the files they become on v1 and v2.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxResources};

use super::changes::check_swap;
use super::more_limits::{MoreLimits, is_reservation, other_name};
use super::{Cgroup, CgroupError, write};

/// What a cgroup may use; `None` leaves a limit alone. −1 means unlimited where OCI says so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// Relative weight, 2 to 262144 (v1's scale; 1024 is one CPU's worth in Kubernetes).
    pub cpu_shares: Option<u64>,
    /// Microseconds per period.
    pub cpu_quota: Option<i64>,
    /// Microseconds.
    pub cpu_period: Option<u64>,
    pub cpuset_cpus: Option<String>,
    pub cpuset_mems: Option<String>,
    /// Bytes.
    pub memory: Option<i64>,
    /// Bytes of memory and swap together.
    pub memory_swap: Option<i64>,
    /// Bytes the kernel tries to leave.
    pub memory_reservation: Option<i64>,
    pub pids: Option<i64>,
    /// v1 device rules in order: whether to allow, and the rule (`c 1:3 rwm`).
    pub devices: Vec<(bool, String)>,
    /// Disks, huge pages and other rarely given limits.
    pub more: MoreLimits,
    /// v2 files set as they are.
    pub unified: Vec<(String, String)>,
    /// A limit of memory that is not above what is used is refused; without this the kernel makes room by killing (v1
    /// refuses it by itself).
    pub checks_use: bool,
}

impl Limits {
    /// Unlimited memory is unlimited with swap, as with the other runtimes.
    fn memory_and_swap(&self) -> Option<i64> {
        let given = self.memory_swap.filter(|sum| *sum != 0);
        given.or(self.memory.filter(|memory| *memory == -1))
    }

    /// The files of v2 these are, with their values.
    pub(crate) fn v2_files(&self) -> Vec<(String, String)> {
        v2(self).into_iter().map(|s| (s.file, s.value)).collect()
    }
}

impl From<&LinuxResources> for Limits {
    fn from(resources: &LinuxResources) -> Self {
        let cpu = resources.cpu().as_ref();
        let memory = resources.memory().as_ref();
        let unified = resources.unified().iter().flatten();
        Self {
            cpu_shares: cpu.and_then(|c| c.shares()),
            cpu_quota: cpu.and_then(|c| c.quota()),
            cpu_period: cpu.and_then(|c| c.period()),
            cpuset_cpus: cpu.and_then(|c| c.cpus().clone()),
            cpuset_mems: cpu.and_then(|c| c.mems().clone()),
            memory: memory.and_then(|m| m.limit()),
            memory_swap: memory.and_then(|m| m.swap()),
            memory_reservation: memory.and_then(|m| m.reservation()),
            // None at all, as 0 is understood by the other runtimes.
            pids: resources.pids().as_ref().map(|p| p.limit()).filter(|p| *p != 0),
            devices: resources.devices().iter().flatten().map(device).collect(),
            more: MoreLimits::from(resources),
            checks_use: memory.is_some_and(|m| m.limit().is_some() && m.check_before_update() == Some(true)),
            unified: unified.map(|(k, v)| (k.clone(), v.clone())).collect(),
        }
    }
}

fn device(rule: &LinuxDeviceCgroup) -> (bool, String) {
    let number = |n: Option<i64>| n.filter(|n| *n >= 0).map_or("*".to_owned(), |n| n.to_string());
    let kind = rule.typ().unwrap_or_default();
    let kind = kind.as_str();
    if kind == "a" {
        return (rule.allow(), "a".into());
    }
    let access = rule.access().as_deref().unwrap_or("rwm");
    (
        rule.allow(),
        format!(
            "{kind} {}:{} {access}",
            number(rule.major()),
            number(rule.minor())
        ),
    )
}

/// One value for one file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Setting {
    /// The v1 controller; on v2, where the file's prefix names it, for messages only.
    controller: &'static str,
    pub(super) file: String,
    pub(super) value: String,
}

pub(super) fn setting(controller: &'static str, file: &str, value: impl ToString) -> Setting {
    Setting {
        controller,
        file: file.into(),
        value: value.to_string(),
    }
}

/// Below this the kernel refuses a quota (1 ms, `min_cfs_quota_period`).
const MIN_QUOTA: i64 = 1000;
/// The kernel's default period, 100 ms.
const DEFAULT_PERIOD: u64 = 100_000;

fn v1(limits: &Limits) -> Vec<Setting> {
    let mut out = Vec::new();
    let mut add = |controller, file, value: Option<String>| {
        out.extend(value.map(|value| setting(controller, file, value)));
    };
    add(
        "cpu",
        "cpu.shares",
        limits.cpu_shares.filter(|s| *s > 0).map(|s| s.to_string()),
    );
    add(
        "cpu",
        "cpu.cfs_period_us",
        limits.cpu_period.filter(|p| *p > 0).map(|p| p.to_string()),
    );
    add(
        "cpu",
        "cpu.cfs_quota_us",
        quota(limits.cpu_quota).map(|q| q.to_string()),
    );
    add("cpuset", "cpuset.cpus", given(&limits.cpuset_cpus));
    add("cpuset", "cpuset.mems", given(&limits.cpuset_mems));
    add(
        "memory",
        "memory.limit_in_bytes",
        limits.memory.filter(|m| *m != 0).map(|m| m.to_string()),
    );
    add(
        "memory",
        "memory.memsw.limit_in_bytes",
        limits.memory_and_swap().map(|m| m.to_string()),
    );
    let reservation = limits.memory_reservation.filter(|m| *m != 0);
    add(
        "memory",
        "memory.soft_limit_in_bytes",
        reservation.map(|m| m.to_string()),
    );
    add("pids", "pids.max", limits.pids.map(max));
    out.extend(limits.more.v1());
    let mut add = |controller, file, value: Option<String>| {
        out.extend(value.map(|value| setting(controller, file, value)));
    };
    for (allow, rule) in &limits.devices {
        add(
            "devices",
            if *allow { "devices.allow" } else { "devices.deny" },
            Some(rule.clone()),
        );
    }
    out
}

pub(super) fn v2(limits: &Limits) -> Vec<Setting> {
    let mut out = Vec::new();
    let mut add = |controller, file: &str, value: Option<String>| {
        out.extend(value.map(|value| setting(controller, file, value)));
    };
    add(
        "cpu",
        "cpu.weight",
        limits
            .cpu_shares
            .filter(|s| *s > 0)
            .map(|s| weight(s).to_string()),
    );
    if limits.cpu_quota.is_some() || limits.cpu_period.is_some() {
        let quota = quota(limits.cpu_quota)
            .filter(|q| *q > 0)
            .map_or("max".into(), |q| q.to_string());
        let period = limits.cpu_period.filter(|p| *p > 0).unwrap_or(DEFAULT_PERIOD);
        add("cpu", "cpu.max", Some(format!("{quota} {period}")));
    }
    add("cpuset", "cpuset.cpus", given(&limits.cpuset_cpus));
    add("cpuset", "cpuset.mems", given(&limits.cpuset_mems));
    add("memory", "memory.max", limits.memory.filter(|m| *m != 0).map(max));
    add(
        "memory",
        "memory.swap.max",
        swap(limits.memory_and_swap(), limits.memory),
    );
    add(
        "memory",
        "memory.low",
        limits.memory_reservation.filter(|m| *m != 0).map(max),
    );
    add("pids", "pids.max", limits.pids.map(max));
    out.extend(limits.more.v2());
    for (file, value) in &limits.unified {
        out.push(setting("unified", file, value));
    }
    out
}

fn given(set: &Option<String>) -> Option<String> {
    set.clone().filter(|s| !s.is_empty())
}

pub(super) fn max(limit: i64) -> String {
    if limit < 0 {
        "max".into()
    } else {
        limit.to_string()
    }
}

fn quota(quota: Option<i64>) -> Option<i64> {
    quota
        .filter(|q| *q != 0)
        .map(|q| if q < 0 { -1 } else { q.max(MIN_QUOTA) })
}

/// v2 limits swap alone, OCI memory and swap together.
fn swap(both: Option<i64>, memory: Option<i64>) -> Option<String> {
    match (both?, memory) {
        (b, _) if b < 0 => Some("max".into()),
        (b, Some(m)) if m > 0 => Some((b - m).max(0).to_string()),
        _ => None,
    }
}

/// [2, 262144] onto [1, 10000] so that 1024, what v1 gives without being asked, becomes 100, what v2 gives: the curve
/// the OCI runtimes took in the place of KEP-2254's line (opencontainers/cgroups, `ConvertCPUSharesToCgroupV2Value`).
fn weight(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        shares => {
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            // Exact results must not be rounded up for their last digit.
            (10_f64.powf(exponent) - 1e-6).ceil() as u64
        }
    }
}

/// Where these are set.
pub(super) fn files(cgroup: &Cgroup, limits: &Limits) -> Vec<PathBuf> {
    let path = |s: &Setting, dir: Option<&Path>| Some(dir?.join(&s.file));
    if cgroup.is_v2() {
        let all = v2(limits);
        return all.iter().filter_map(|s| path(s, cgroup.unified_dir())).collect();
    }
    let all = v1(limits);
    all.iter()
        .filter_map(|s| path(s, cgroup.v1_dir(s.controller)))
        .collect()
}

pub(super) fn apply(cgroup: &Cgroup, limits: &Limits) -> Result<(), CgroupError> {
    if cgroup.is_v2() {
        let dir = cgroup.unified_dir().ok_or(CgroupError::NoHierarchy)?;
        check_swap(limits)?;
        return v2(limits).iter().try_for_each(|s| set(dir, s));
    }
    if !limits.unified.is_empty() {
        return Err(CgroupError::NoController("what \"unified\" names"));
    }
    for s in v1(limits) {
        match cgroup.v1_dir(s.controller) {
            Some(dir) => set_v1(dir, &s, limits)?,
            None if s.controller == "devices" => {
                tracing::warn!("no devices controller: device rules are not enforced")
            }
            None => return Err(CgroupError::NoController(s.controller)),
        }
    }
    Ok(())
}

fn set(dir: &std::path::Path, s: &Setting) -> Result<(), CgroupError> {
    let path = dir.join(&s.file);
    match write(&path, &s.value) {
        Err(CgroupError::Write { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            let swap = s.file == "memory.swap.max" || s.file == "memory.memsw.limit_in_bytes";
            // A kernel without swap accounting has nothing to limit, one without that of reservations limits use alone.
            if swap || is_reservation(&s.file) {
                Ok(())
            } else if let Some(other) = other_name(&s.file).filter(|o| dir.join(o).exists()) {
                write(&dir.join(other), &s.value)
            } else {
                Err(CgroupError::NoController(s.controller))
            }
        }
        done => done,
    }
}

/// v1 keeps memory ≤ memory+swap at every moment, so a raise beyond the old sum must set the sum first. Where no other is
/// asked for, the old one stays and the raise is refused, as by the other runtimes: swap is not given by the way.
fn set_v1(dir: &std::path::Path, s: &Setting, limits: &Limits) -> Result<(), CgroupError> {
    match (set(dir, s), limits.memory_and_swap()) {
        (Err(_), Some(sum)) if s.file == "memory.limit_in_bytes" => {
            set(dir, &setting("memory", "memory.memsw.limit_in_bytes", sum))?;
            set(dir, s)
        }
        (done, _) => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(settings: Vec<Setting>) -> Vec<(String, String)> {
        settings.into_iter().map(|s| (s.file, s.value)).collect()
    }

    fn pair(file: &str, value: &str) -> (String, String) {
        (file.into(), value.into())
    }

    #[test]
    fn kubernetes_limits_on_both() {
        let limits = Limits {
            cpu_shares: Some(512),
            cpu_quota: Some(50_000),
            cpu_period: Some(100_000),
            memory: Some(1 << 20),
            memory_swap: Some(1 << 20),
            pids: Some(100),
            ..Default::default()
        };
        assert_eq!(
            files(v1(&limits)),
            [
                pair("cpu.shares", "512"),
                pair("cpu.cfs_period_us", "100000"),
                pair("cpu.cfs_quota_us", "50000"),
                pair("memory.limit_in_bytes", "1048576"),
                pair("memory.memsw.limit_in_bytes", "1048576"),
                pair("pids.max", "100"),
            ]
        );
        assert_eq!(
            files(v2(&limits)),
            [
                pair("cpu.weight", "59"),
                pair("cpu.max", "50000 100000"),
                pair("memory.max", "1048576"),
                pair("memory.swap.max", "0"),
                pair("pids.max", "100"),
            ]
        );
    }

    #[test]
    fn unlimited_and_nothing() {
        let limits = Limits {
            cpu_quota: Some(-1),
            memory: Some(-1),
            pids: Some(-1),
            ..Default::default()
        };
        assert_eq!(
            files(v2(&limits)),
            [
                pair("cpu.max", "max 100000"),
                pair("memory.max", "max"),
                pair("memory.swap.max", "max"),
                pair("pids.max", "max")
            ]
        );
        assert!(v1(&Limits::default()).is_empty() && v2(&Limits::default()).is_empty());
    }

    #[test]
    fn weights_reach_from_1_to_10000() {
        assert_eq!(
            [0, 2, 3, 1024, 22_000, 262_143, 262_144].map(weight),
            [1, 1, 2, 100, 1204, 10_000, 10_000]
        );
    }

    /// Alone it asks for nothing.
    #[test]
    fn a_check_is_of_a_limit() {
        let checks = |memory: &str| {
            let json = format!(r#"{{"memory":{memory}}}"#);
            Limits::from(&serde_json::from_str::<LinuxResources>(&json).unwrap()).checks_use
        };
        assert!(checks(r#"{"limit":5,"checkBeforeUpdate":true}"#));
        assert!(!checks(r#"{"checkBeforeUpdate":true}"#) && !checks(r#"{"limit":5}"#));
    }

    #[test]
    fn oci_device_rules() {
        let json = r#"{"devices":[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","major":1,"minor":3,"access":"rwm"},
            {"allow":true,"type":"c","major":136,"access":"rw"}],"pids":{"limit":7}}"#;
        let limits = Limits::from(&serde_json::from_str::<LinuxResources>(json).unwrap());
        assert_eq!(limits.pids, Some(7));
        let rules = [
            (false, "a".into()),
            (true, "c 1:3 rwm".into()),
            (true, "c 136:* rw".into()),
        ];
        assert_eq!(limits.devices, rules);
    }
}

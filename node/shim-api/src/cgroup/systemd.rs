//! Limits as systemd words them (systemd.resource-control(5)), for cgroups it is the manager of: it writes them anew when
//! it reloads. Pure. What it has no word for is set by files alone.

use super::limits::{Limits, v2};

/// Properties of a unit, `NAME=VALUE`.
pub fn properties(limits: &Limits) -> Vec<String> {
    v2(limits)
        .iter()
        .flat_map(|s| property(&s.file, &s.value))
        .collect()
}

fn property(file: &str, value: &str) -> Vec<String> {
    let infinite = if value == "max" { "infinity" } else { value };
    let one = |name: &str| vec![format!("{name}={infinite}")];
    match file {
        "cpu.weight" => one("CPUWeight"),
        "cpu.max" => quota(value).unwrap_or_default(),
        "cpuset.cpus" => one("AllowedCPUs"),
        "cpuset.mems" => one("AllowedMemoryNodes"),
        "memory.max" => one("MemoryMax"),
        "memory.low" => one("MemoryLow"),
        "memory.swap.max" => one("MemorySwapMax"),
        "pids.max" => one("TasksMax"),
        _ => Vec::new(),
    }
}

/// `QUOTA PERIOD` in microseconds, as a share of one processor; systemd takes two decimals and no less than 0.01 %.
fn quota(value: &str) -> Option<Vec<String>> {
    let (quota, period) = value.split_once(' ')?;
    if quota == "max" {
        return Some(vec!["CPUQuota=".into()]);
    }
    let (quota, period) = (quota.parse::<u64>().ok()?, period.parse::<u64>().ok()?);
    let share = (quota.saturating_mul(10_000) / period.max(1)).max(1);
    Some(vec![
        format!("CPUQuota={}.{:02}%", share / 100, share % 100),
        format!("CPUQuotaPeriodSec={period}us"),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_have_their_words() {
        let limits = Limits {
            cpu_shares: Some(1024),
            cpu_quota: Some(12_345),
            cpu_period: Some(50_000),
            cpuset_cpus: Some("0-1,3".into()),
            memory: Some(1 << 20),
            memory_swap: Some(-1),
            pids: Some(-1),
            unified: vec![("hugetlb.2MB.max".into(), "0".into())],
            ..Default::default()
        };
        assert_eq!(
            properties(&limits),
            [
                "CPUWeight=100",
                "CPUQuota=24.69%",
                "CPUQuotaPeriodSec=50000us",
                "AllowedCPUs=0-1,3",
                "MemoryMax=1048576",
                "MemorySwapMax=infinity",
                "TasksMax=infinity",
            ]
        );
        let unlimited = Limits {
            cpu_quota: Some(-1),
            ..Default::default()
        };
        assert_eq!(properties(&unlimited), ["CPUQuota="]);
        assert!(properties(&Limits::default()).is_empty());
    }
}

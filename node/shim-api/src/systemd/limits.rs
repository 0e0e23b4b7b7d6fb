//! Limits as systemd words them (systemd.resource-control(5)), for cgroups it is the manager of: it writes them anew when
//! it reloads. Pure. What it has no word for is set by files alone.

use super::wire::{Property, Value};
use crate::cgroup::Limits;

/// What systemd calls no limit.
const INFINITE: u64 = u64::MAX;
const MICROS: u64 = 1_000_000;

/// Properties of a unit.
pub fn properties(limits: &Limits) -> Vec<Property> {
    limits
        .v2_files()
        .iter()
        .flat_map(|(file, value)| property(file, value))
        .collect()
}

fn property(file: &str, value: &str) -> Vec<Property> {
    let number = || match value {
        "max" => Some(INFINITE),
        // `io.weight` may have this word before it, or one device's number, of which systemd knows by its path alone.
        _ => value.strip_prefix("default ").unwrap_or(value).parse().ok(),
    };
    let one =
        |name: &str, value: Option<Value>| value.map(|value| (name.to_owned(), value)).into_iter().collect();
    let limit = |name: &str| one(name, number().map(Value::Ulong));
    match file {
        "cpu.weight" => limit("CPUWeight"),
        "cpu.max" => quota(value).unwrap_or_default(),
        "cpuset.cpus" => one("AllowedCPUs", set(value).map(Value::Bytes)),
        "cpuset.mems" => one("AllowedMemoryNodes", set(value).map(Value::Bytes)),
        // Without it systemd writes that of everybody whenever it writes any property.
        "io.weight" => limit("IOWeight"),
        "memory.max" => limit("MemoryMax"),
        "memory.high" => limit("MemoryHigh"),
        "memory.low" => limit("MemoryLow"),
        "memory.min" => limit("MemoryMin"),
        "memory.swap.max" => limit("MemorySwapMax"),
        "pids.max" => limit("TasksMax"),
        _ => Vec::new(),
    }
}

/// `QUOTA PERIOD` in microseconds, as time per second.
fn quota(value: &str) -> Option<Vec<Property>> {
    let (quota, period) = value.split_once(' ')?;
    let period = period.parse::<u64>().ok()?;
    let share = match quota {
        "max" => INFINITE,
        _ => (quota.parse::<u64>().ok()?.saturating_mul(MICROS) / period.max(1)).max(1),
    };
    Some(vec![
        ("CPUQuotaPerSecUSec".into(), Value::Ulong(share)),
        ("CPUQuotaPeriodUSec".into(), Value::Ulong(period)),
    ])
}

/// `0-1,3` as bits, the first of them the lowest of the first byte.
fn set(list: &str) -> Option<Vec<u8>> {
    let mut bits = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (
            first.trim().parse::<u16>().ok()?,
            last.trim().parse::<u16>().ok()?,
        );
        for number in first..=last {
            let (byte, bit) = (usize::from(number / 8), number % 8);
            bits.resize(bits.len().max(byte + 1), 0);
            bits[byte] |= 1 << bit;
        }
    }
    Some(bits)
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
            unified: [
                ("hugetlb.2MB.max", "0"),
                ("memory.high", "max"),
                ("memory.min", "7"),
                ("io.weight", "2930"),
                ("io.weight", "default 300"),
                ("io.weight", "8:0 20"),
            ]
            .map(|(file, value)| (file.into(), value.into()))
            .to_vec(),
            ..Default::default()
        };
        let expected = [
            ("CPUWeight", Value::Ulong(100)),
            ("CPUQuotaPerSecUSec", Value::Ulong(246_900)),
            ("CPUQuotaPeriodUSec", Value::Ulong(50_000)),
            ("AllowedCPUs", Value::Bytes(vec![0b1011])),
            ("MemoryMax", Value::Ulong(1 << 20)),
            ("MemorySwapMax", Value::Ulong(u64::MAX)),
            ("TasksMax", Value::Ulong(u64::MAX)),
            ("MemoryHigh", Value::Ulong(u64::MAX)),
            ("MemoryMin", Value::Ulong(7)),
            ("IOWeight", Value::Ulong(2930)),
            ("IOWeight", Value::Ulong(300)),
        ];
        assert_eq!(
            properties(&limits),
            expected.map(|(name, value)| (name.to_owned(), value))
        );
        let unlimited = Limits {
            cpu_quota: Some(-1),
            ..Default::default()
        };
        assert_eq!(properties(&unlimited)[0].1, Value::Ulong(u64::MAX));
        assert!(properties(&Limits::default()).is_empty());
    }

    #[test]
    fn sets_are_bits() {
        assert_eq!(set("0-1,3,8"), Some(vec![0b1011, 1]));
        assert_eq!(set("x"), None);
        assert_eq!(set("70000"), None);
    }
}

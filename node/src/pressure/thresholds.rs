//! When a node is short of something: signals, amounts and the syntax of upstream's `--eviction-hard`
//! (`memory.available<100Mi,nodefs.available<10%`). Pure.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::quantity;

/// A share of a disk that nobody asked for by flag never means more than this: a laptop with a large disk nine tenths full
/// can still run Pods. Upstream has no such limit.
const DISK_ENOUGH: u64 = 1 << 30;

/// What is observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Signal {
    MemoryAvailable,
    NodeFsAvailable,
    NodeFsInodesFree,
    ImageFsAvailable,
    ImageFsInodesFree,
    PidAvailable,
}

impl Signal {
    const ALL: [(&'static str, Signal); 6] = [
        ("memory.available", Signal::MemoryAvailable),
        ("nodefs.available", Signal::NodeFsAvailable),
        ("nodefs.inodesFree", Signal::NodeFsInodesFree),
        ("imagefs.available", Signal::ImageFsAvailable),
        ("imagefs.inodesFree", Signal::ImageFsInodesFree),
        ("pid.available", Signal::PidAvailable),
    ];

    pub fn name(self) -> &'static str {
        let found = Signal::ALL.iter().find(|(_, signal)| *signal == self);
        found.map_or("", |(name, _)| name)
    }

    /// The resource to reclaim, as messages name it.
    pub fn resource(self) -> &'static str {
        match self {
            Signal::MemoryAvailable => "memory",
            Signal::NodeFsAvailable | Signal::ImageFsAvailable => "ephemeral-storage",
            Signal::NodeFsInodesFree | Signal::ImageFsInodesFree => "inodes",
            Signal::PidAvailable => "pids",
        }
    }
}

impl FromStr for Signal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Signal::ALL.iter().find(|(name, _)| *name == text);
        let names: Vec<&str> = Signal::ALL.iter().map(|(name, _)| *name).collect();
        found
            .map(|(_, signal)| *signal)
            .ok_or_else(|| format!("{text:?} is no eviction signal: there are {}", names.join(", ")))
    }
}

/// So much, or a share of all there is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Amount {
    Bytes(u64),
    /// Between 0 and 1.
    Share(f64),
    /// A share, but never more than so much.
    ShareUpTo(f64, u64),
}

impl Amount {
    /// In units of what is observed.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of something is rounded anyway, and is neither negative nor more than the whole"
    )]
    pub fn of(self, capacity: u64) -> u64 {
        match self {
            Amount::Bytes(bytes) => bytes,
            Amount::Share(share) => (capacity as f64 * share) as u64,
            Amount::ShareUpTo(share, most) => Amount::Share(share).of(capacity).min(most),
        }
    }
}

impl FromStr for Amount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(percent) = text.strip_suffix('%') {
            let percent: f64 = percent
                .parse()
                .map_err(|_| format!("{text:?} is no percentage"))?;
            return match (0.0..=100.0).contains(&percent) {
                true => Ok(Amount::Share(percent / 100.0)),
                false => Err(format!("{text:?} is not between 0% and 100%")),
            };
        }
        let amount = quantity::value(&Quantity(text.to_owned()));
        let amount = amount.and_then(|amount| u64::try_from(amount).ok());
        amount
            .map(Amount::Bytes)
            .ok_or_else(|| format!("{text:?} is no quantity"))
    }
}

/// Less than this is pressure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Threshold {
    pub signal: Signal,
    pub least: Amount,
    /// How long it has to last; `None` of a hard threshold, which acts at once and gives Pods no time.
    pub grace: Option<Duration>,
}

/// All that is set about pressure.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    pub hard: Vec<Threshold>,
    pub soft: Vec<Threshold>,
    /// Seconds that Pods evicted by a soft threshold have at most.
    pub most_grace: u32,
    /// How much more than its threshold a signal must show before it counts as met no longer.
    pub reclaim: BTreeMap<Signal, Amount>,
    /// How long a condition stays after it was last observed.
    pub transition: Duration,
}

impl Default for Limits {
    /// Upstream's, but see [`DISK_ENOUGH`].
    fn default() -> Self {
        let least = |signal, least| Threshold {
            signal,
            least,
            grace: None,
        };
        Limits {
            hard: vec![
                least(Signal::MemoryAvailable, Amount::Bytes(100 << 20)),
                least(Signal::NodeFsAvailable, Amount::ShareUpTo(0.1, DISK_ENOUGH)),
                least(Signal::NodeFsInodesFree, Amount::Share(0.05)),
                least(Signal::ImageFsAvailable, Amount::ShareUpTo(0.15, DISK_ENOUGH)),
                least(Signal::ImageFsInodesFree, Amount::Share(0.05)),
            ],
            soft: Vec::new(),
            most_grace: 0,
            reclaim: BTreeMap::new(),
            transition: Duration::from_secs(300),
        }
    }
}

/// Reads `SIGNAL<AMOUNT,…`; as upstream, 0% and 100% take a threshold away.
///
/// # Errors
/// What is wrong, for whoever wrote it.
pub fn parse_hard(text: &str) -> Result<Vec<Threshold>, String> {
    let mut thresholds: Vec<Threshold> = Vec::new();
    for statement in text.split(',').filter(|statement| !statement.is_empty()) {
        let (signal, least) = statement.split_once('<').ok_or_else(|| {
            format!("{statement:?} is no threshold: SIGNAL<AMOUNT, as memory.available<100Mi")
        })?;
        let threshold = Threshold {
            signal: signal.trim().parse()?,
            least: least.trim().parse()?,
            grace: None,
        };
        if thresholds.iter().any(|other| other.signal == threshold.signal) {
            return Err(format!("{signal:?} has two thresholds"));
        }
        if !matches!(threshold.least, Amount::Share(share) if share <= 0.0 || share >= 1.0) {
            thresholds.push(threshold);
        }
    }
    Ok(thresholds)
}

/// Reads `SIGNAL=DURATION,…`, durations as `1m30s`.
///
/// # Errors
/// What is wrong, for whoever wrote it.
pub fn parse_grace(text: &str) -> Result<BTreeMap<Signal, Duration>, String> {
    let statements = text.split(',').filter(|statement| !statement.is_empty());
    statements
        .map(|statement| {
            let parts = statement.split_once('=').and_then(|(signal, duration)| {
                Some((signal.trim(), duration.trim().parse::<SignedDuration>().ok()?))
            });
            let wrong = || format!("{statement:?} is not SIGNAL=DURATION, as memory.available=1m30s");
            let (signal, duration) = parts.ok_or_else(wrong)?;
            Ok((
                signal.parse()?,
                Duration::try_from(duration).map_err(|_| wrong())?,
            ))
        })
        .collect()
}

/// Soft thresholds with the time each has to last.
///
/// # Errors
/// One without a time, as upstream.
pub fn soft(
    thresholds: Vec<Threshold>,
    grace: &BTreeMap<Signal, Duration>,
) -> Result<Vec<Threshold>, String> {
    let lasting = thresholds.into_iter().map(|threshold| {
        let signal = threshold.signal;
        match grace.get(&signal) {
            Some(grace) => Ok(Threshold {
                grace: Some(*grace),
                ..threshold
            }),
            None => Err(format!(
                "grace period must be specified for the soft eviction threshold {}: --eviction-soft-grace-period",
                signal.name()
            )),
        }
    });
    lasting.collect()
}

/// Reads `SIGNAL=AMOUNT,…`.
///
/// # Errors
/// What is wrong, for whoever wrote it.
pub fn parse_reclaim(text: &str) -> Result<BTreeMap<Signal, Amount>, String> {
    let statements = text.split(',').filter(|statement| !statement.is_empty());
    statements
        .map(|statement| {
            let (signal, amount) = statement
                .split_once('=')
                .ok_or_else(|| format!("{statement:?} is not SIGNAL=AMOUNT, as nodefs.available=500Mi"))?;
            Ok((signal.trim().parse()?, amount.trim().parse()?))
        })
        .collect()
}

/// What is there of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    pub available: u64,
    pub capacity: u64,
}

pub type Observations = BTreeMap<Signal, Observation>;

impl Limits {
    /// What is kept free of something.
    pub fn least(&self, signal: Signal, capacity: u64) -> u64 {
        let threshold = self.hard.iter().find(|threshold| threshold.signal == signal);
        threshold.map_or(0, |threshold| threshold.least.of(capacity))
    }

    /// The thresholds that are met; with `enough`, also those that are left but not yet by what shall be reclaimed.
    pub fn met(&self, seen: &Observations, enough: bool) -> Vec<Threshold> {
        let is_met = |threshold: &&Threshold| {
            let Some(seen) = seen.get(&threshold.signal) else {
                return false;
            };
            let more = self.reclaim.get(&threshold.signal).filter(|_| enough);
            let least = threshold.least.of(seen.capacity) + more.map_or(0, |more| more.of(seen.capacity));
            seen.available < least
        };
        self.hard
            .iter()
            .chain(&self.soft)
            .filter(is_met)
            .copied()
            .collect()
    }
}

/// An amount as upstream writes it: with the largest binary suffix that leaves a whole number.
pub fn binary(amount: u64) -> String {
    let mut amount = amount;
    let mut suffixes = ["", "Ki", "Mi", "Gi", "Ti", "Pi"].into_iter();
    let mut suffix = suffixes.next().unwrap_or_default();
    while amount != 0 && amount.is_multiple_of(1024) {
        let Some(larger) = suffixes.next() else { break };
        (amount, suffix) = (amount / 1024, larger);
    }
    format!("{amount}{suffix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_upstreams() {
        let parsed = parse_hard("memory.available<100Mi,nodefs.available<10%,imagefs.available<0%").unwrap();
        let expected = [
            (Signal::MemoryAvailable, Amount::Bytes(100 << 20)),
            (Signal::NodeFsAvailable, Amount::Share(0.1)),
        ];
        assert_eq!(
            parsed,
            expected.map(|(signal, least)| Threshold {
                signal,
                least,
                grace: None
            })
        );
        for wrong in [
            "memory.available",
            "memory<1Gi",
            "memory.available<x",
            "nodefs.available<101%",
            "pid.available<1,pid.available<2",
        ] {
            assert!(parse_hard(wrong).is_err(), "{wrong}");
        }
        let reclaim = parse_reclaim("nodefs.available=500Mi").unwrap();
        assert_eq!(reclaim[&Signal::NodeFsAvailable], Amount::Bytes(500 << 20));
    }

    #[test]
    fn soft_thresholds_last() {
        let grace = parse_grace("memory.available=1m30s,nodefs.available=2h").unwrap();
        assert_eq!(grace[&Signal::MemoryAvailable], Duration::from_secs(90));
        for wrong in [
            "memory.available",
            "memory.available=x",
            "memory.available=-1s",
            "x=1s",
        ] {
            assert!(parse_grace(wrong).is_err(), "{wrong}");
        }
        let lasting = soft(parse_hard("memory.available<1Gi").unwrap(), &grace).unwrap();
        assert_eq!(lasting[0].grace, Some(Duration::from_secs(90)));
        let wrong = soft(parse_hard("pid.available<10%").unwrap(), &grace).unwrap_err();
        assert!(
            wrong.starts_with("grace period must be specified for the soft eviction threshold pid.available"),
            "{wrong}"
        );
    }

    #[test]
    fn a_threshold_is_met_below_it_and_left_with_something_to_spare() {
        let limits = Limits {
            hard: parse_hard("memory.available<10%").unwrap(),
            reclaim: parse_reclaim("memory.available=50").unwrap(),
            ..Limits::default()
        };
        for (available, met, met_still) in [
            (99, true, true),
            (100, false, true),
            (149, false, true),
            (150, false, false),
        ] {
            let seen = Observations::from([(
                Signal::MemoryAvailable,
                Observation {
                    available,
                    capacity: 1000,
                },
            )]);
            assert_eq!(!limits.met(&seen, false).is_empty(), met, "{available}");
            assert_eq!(!limits.met(&seen, true).is_empty(), met_still, "{available}");
        }
    }

    #[test]
    fn a_large_disk_is_short_only_below_a_gib_a_small_one_below_a_tenth() {
        let limits = Limits::default();
        for (gib, free, short) in [
            (250, 20 << 30, false),
            (250, 1 << 29, true),
            (4, 1 << 29, false),
            (4, 1 << 28, true),
        ] {
            let seen = Observation {
                available: free,
                capacity: gib << 30,
            };
            let seen = Observations::from([(Signal::NodeFsAvailable, seen)]);
            assert_eq!(!limits.met(&seen, false).is_empty(), short, "{free} of {gib} GiB");
        }
    }

    #[test]
    fn amounts_are_written_as_upstream_does() {
        for (amount, text) in [
            (0, "0"),
            (1000, "1000"),
            (1024, "1Ki"),
            (100 << 20, "100Mi"),
            ((1 << 20) + 1024, "1025Ki"),
        ] {
            assert_eq!(binary(amount), text);
        }
    }
}

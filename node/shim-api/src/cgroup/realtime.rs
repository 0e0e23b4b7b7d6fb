//! Real time of processors on v1: a cgroup has no more of it than the one above, which has none until it is given some.

use std::io::ErrorKind;
use std::path::Path;

use super::{Cgroup, CgroupError, Files, Limits, tree, write};

const RUNTIME: &str = "cpu.rt_runtime_us";
const PERIOD_FILE: &str = "cpu.rt_period_us";
/// The kernel's period where no other is set, one second.
const PERIOD: u64 = 1_000_000;

/// Microseconds of a period.
#[derive(Debug, Clone, Copy)]
pub(super) struct Share {
    pub period: Option<u64>,
    pub runtime: u64,
}

/// Makes the cgroup and gives it what is asked for, and the one above it what those below it have with that. For a moment
/// the kernel counts those that were removed too: then the one above keeps what it has, and gets this beside it.
pub(super) fn make_room(cgroup: &Cgroup, limits: &Limits) -> Result<(), CgroupError> {
    let (Some(asked), Some(dir)) = (limits.more.realtime(), cgroup.v1_dir("cpu")) else {
        return Ok(());
    };
    cgroup.create()?;
    let asked = Share {
        period: asked.period.or(share(dir).period),
        ..asked
    };
    let Some(above) = dir.parent().filter(|above| above.join(RUNTIME).exists()) else {
        return Ok(());
    };
    let beside = tree::children(above)?.into_iter().filter(|other| other != dir);
    let has = share(above);
    let needed = sum(has.period, beside.map(|other| share(&other)).chain([asked]));
    match give(above, needed, dir, asked) {
        Err(CgroupError::Write { source, .. }) if source.kind() == ErrorKind::InvalidInput => {
            give(above, sum(has.period, [has, asked].into_iter()), dir, asked)
        }
        done => done,
    }
}

fn give(above: &Path, needed: u64, dir: &Path, asked: Share) -> Result<(), CgroupError> {
    write(&above.join(RUNTIME), &needed.to_string())?;
    if let Some(period) = asked.period.filter(|p| *p > 0) {
        write(&dir.join(PERIOD_FILE), &period.to_string())?;
    }
    write(&dir.join(RUNTIME), &asked.runtime.to_string())
}

fn share(dir: &Path) -> Share {
    let files = Files(Some(dir));
    Share {
        period: Some(files.number(PERIOD_FILE)),
        runtime: files.number(RUNTIME),
    }
}

/// Of a period, as much as all these are of theirs.
fn sum(period: Option<u64>, shares: impl Iterator<Item = Share>) -> u64 {
    let micros = |period: Option<u64>| u128::from(period.filter(|p| *p > 0).unwrap_or(PERIOD));
    let part = |share: Share| (u128::from(share.runtime) * micros(period)).div_ceil(micros(share.period));
    u64::try_from(shares.map(part).sum::<u128>()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_any_periods_are_added() {
        for (period, shares, expected) in [
            (1_000_000, &[(Some(1_000_000), 1000)][..], 1000),
            (1_000_000, &[(None, 1000), (Some(500_000), 2500)], 6000),
            (100_000, &[(Some(1_000_000), 1), (Some(0), 0)], 1),
            (0, &[(Some(250_000), 10)], 40),
        ] {
            let given = shares.iter().map(|(period, runtime)| Share {
                period: *period,
                runtime: *runtime,
            });
            assert_eq!(sum(Some(period), given), expected, "{shares:?} of {period}");
        }
    }
}

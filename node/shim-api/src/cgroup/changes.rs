//! Limits of a cgroup that is in use: what an update asks for beside what is set, and what of it is refused. v2 has no words
//! for some of what OCI may leave out: half a file cannot be left alone.

use std::path::PathBuf;

use super::{Cgroup, CgroupError, Files, Limits, limits, read, write};

/// What of a processor is set, as [`Limits`] have it.
type Share = (Option<i64>, Option<u64>);

/// What is to be set for this update, or why it is refused; nothing is changed.
pub(super) fn changes(cgroup: &Cgroup, asked: &Limits) -> Result<Limits, CgroupError> {
    if cgroup.is_v2() {
        check_swap(asked)?;
        check_use(asked, memory_in_use(cgroup))?;
    }
    let (cpu_quota, cpu_period) = match is_half(asked) {
        true => whole(asked, share(cgroup)),
        false => (asked.cpu_quota, asked.cpu_period),
    };
    Ok(Limits {
        cpu_quota,
        cpu_period,
        ..asked.clone()
    })
}

/// Sets limits; after an error those that were set are as before, as with runc. What is kept in lists (of devices, of
/// interfaces) is not taken back.
pub(super) fn change(cgroup: &Cgroup, asked: &Limits) -> Result<(), CgroupError> {
    let before: Vec<(PathBuf, String)> = limits::files(cgroup, asked)
        .into_iter()
        .filter_map(|path| Some((path.clone(), read(&path).ok()?.trim_end().to_owned())))
        .filter(|(_, value)| !value.is_empty() && !value.contains('\n'))
        .collect();
    limits::apply(cgroup, asked).inspect_err(|_| take_back(&before))
}

/// In both orders: memory is at no moment more than memory and swap together.
fn take_back(before: &[(PathBuf, String)]) {
    for (path, value) in before.iter().rev().chain(before) {
        let is_changed = read(path).is_ok_and(|now| now.trim_end() != value);
        if is_changed && let Err(error) = write(path, value) {
            tracing::debug!(%error, "a limit is not taken back");
        }
    }
}

fn is_half(asked: &Limits) -> bool {
    asked.cpu_quota.is_some_and(|q| q != 0) != asked.cpu_period.is_some_and(|p| p != 0)
}

/// Quota and period are one file of v2, and one property of systemd: who asks for one leaves the other as it is.
fn whole(asked: &Limits, (quota, period): Share) -> Share {
    (
        asked.cpu_quota.filter(|q| *q != 0).or(quota),
        asked.cpu_period.filter(|p| *p != 0).or(period),
    )
}

/// Nothing of a cgroup without the controller: that is refused where the limit is set.
fn share(cgroup: &Cgroup) -> Share {
    match cgroup.unified_dir() {
        Some(dir) if cgroup.is_v2() => parse(&Files(Some(dir)).list("cpu.max")),
        _ => {
            let files = Files(cgroup.v1_dir("cpu"));
            let number = |file| files.list(file).parse().ok();
            (
                number("cpu.cfs_quota_us"),
                number("cpu.cfs_period_us").map(i64::unsigned_abs),
            )
        }
    }
}

/// `cpu.max`: quota, or `max`, and period.
fn parse(text: &str) -> Share {
    let mut words = text.split_whitespace();
    let quota = words.next().and_then(|word| match word {
        "max" => Some(-1),
        number => number.parse().ok(),
    });
    (quota, words.next().and_then(|word| word.parse().ok()))
}

/// v2 limits swap alone, OCI memory and swap together: without a limit of memory that says nothing (as runc has it).
pub(super) fn check_swap(asked: &Limits) -> Result<(), CgroupError> {
    let memory = asked.memory.filter(|memory| *memory > 0);
    match (asked.memory_swap.filter(|sum| *sum > 0), memory) {
        (Some(_), None) => Err(CgroupError::SwapAlone),
        (Some(sum), Some(memory)) if sum < memory => Err(CgroupError::LessThanMemory { sum, memory }),
        _ => Ok(()),
    }
}

fn memory_in_use(cgroup: &Cgroup) -> u64 {
    Files(cgroup.unified_dir()).number("memory.current")
}

/// Where the caller asks for it: the kernel would kill until the limit is kept.
fn check_use(asked: &Limits, used: u64) -> Result<(), CgroupError> {
    let limits = [("memory", asked.memory), ("memory and swap", asked.memory_swap)];
    let given = limits
        .into_iter()
        .filter_map(|(what, limit)| Some((what, u64::try_from(limit?).ok().filter(|limit| *limit > 0)?)));
    match given
        .filter(|_| asked.checks_use)
        .find(|(_, limit)| *limit <= used)
    {
        Some((what, limit)) => Err(CgroupError::InUse { what, limit, used }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_asked_for_stays() {
        let cpu = |quota, period| Limits {
            cpu_quota: quota,
            cpu_period: period,
            ..Limits::default()
        };
        for (quota, period, now, then) in [
            (None, Some(200_000), "50000 100000", (Some(50_000), Some(200_000))),
            (Some(20_000), None, "50000 250000", (Some(20_000), Some(250_000))),
            (Some(-1), None, "50000 250000", (Some(-1), Some(250_000))),
            (Some(0), Some(200_000), "max 100000", (Some(-1), Some(200_000))),
            (None, Some(200_000), "", (None, Some(200_000))),
        ] {
            let asked = cpu(quota, period);
            assert!(is_half(&asked));
            assert_eq!(whole(&asked, parse(now)), then, "{quota:?} {period:?} {now:?}");
        }
        for (quota, period) in [(None, None), (Some(0), None), (Some(1), Some(2))] {
            assert!(!is_half(&cpu(quota, period)));
        }
    }

    #[test]
    fn swap_is_limited_with_memory() {
        let check = |memory, memory_swap| {
            check_swap(&Limits {
                memory,
                memory_swap,
                ..Limits::default()
            })
        };
        for (memory, sum) in [
            (None, None),
            (None, Some(-1)),
            (None, Some(0)),
            (Some(5), Some(5)),
            (Some(5), Some(-1)),
            (Some(-1), None),
            (Some(5), None),
        ] {
            assert!(check(memory, sum).is_ok(), "{memory:?} {sum:?}");
        }
        for memory in [None, Some(0), Some(-1)] {
            assert!(matches!(check(memory, Some(5)), Err(CgroupError::SwapAlone)));
        }
        assert!(matches!(
            check(Some(5), Some(4)),
            Err(CgroupError::LessThanMemory { sum: 4, memory: 5 })
        ));
    }

    #[test]
    fn what_is_used_is_not_taken_away_where_that_is_asked() {
        let check = |memory, memory_swap, checks_use| {
            let asked = Limits {
                memory,
                memory_swap,
                checks_use,
                ..Limits::default()
            };
            check_use(&asked, 100).is_ok()
        };
        for (memory, sum, may) in [
            (Some(101), Some(101), true),
            (Some(100), None, false),
            (Some(101), Some(100), false),
            (Some(-1), Some(-1), true),
            (Some(0), None, true),
            (None, None, true),
        ] {
            assert_eq!(check(memory, sum, true), may, "{memory:?} {sum:?}");
            assert!(check(memory, sum, false));
        }
    }
}

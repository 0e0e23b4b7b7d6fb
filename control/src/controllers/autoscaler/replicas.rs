//! From what Pods use to how many there should be. Pure; the rules are those of upstream's replica calculator.
//!
//! The number is the present one times the ratio of what is used and what is aimed at, unless the ratio is within the tolerance. Pods nobody
//! measured count against the change: as idle when it would be more Pods, as busy when it would be fewer.
use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;

use super::pods::{self, Groups, Sample, Samples};

/// How far from what is aimed at nothing is done, as shares of one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerances {
    pub down: f64,
    pub up: f64,
}

impl Tolerances {
    pub fn cover(&self, ratio: f64) -> bool {
        1.0 - self.down <= ratio && ratio <= 1.0 + self.up
    }
}

/// What is aimed at for each Pod.
#[derive(Debug)]
pub enum Goal {
    /// A share of what Pods ask for, in percent; and what each asks for, in thousandths.
    Utilization {
        percent: i32,
        requests: BTreeMap<String, i64>,
    },
    /// An amount, in thousandths.
    Average(i64),
}

/// What measured Pods use on average.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Usage {
    /// In thousandths.
    pub average: i64,
    /// Of what they ask for, where that is aimed at.
    pub percent: Option<i32>,
}

/// The workload a number is sought for.
#[derive(Debug)]
pub struct Workload<'a> {
    pub pods: &'a [Value],
    /// As many as are wanted at present, and as many as there are.
    pub wanted: i32,
    pub present: i32,
    pub tolerances: Tolerances,
    pub now: Timestamp,
}

impl Goal {
    /// What is used over what is aimed at.
    fn ratio(&self, samples: &Samples) -> Result<(f64, Usage), String> {
        match self {
            Goal::Utilization { percent, requests } => {
                let known = samples
                    .iter()
                    .filter_map(|(name, sample)| Some((sample.value, requests.get(name)?)));
                let (mut used, mut asked, mut count) = (0_i128, 0_i128, 0_i128);
                for (value, request) in known {
                    used += i128::from(value);
                    asked += i128::from(*request);
                    count += 1;
                }
                if asked == 0 {
                    return Err("no metrics returned matched known pods".into());
                }
                let share = narrow(used * 100 / asked);
                let usage = Usage {
                    average: long(used / count),
                    percent: Some(share),
                };
                Ok((f64::from(share) / f64::from(*percent), usage))
            }
            Goal::Average(amount) => {
                let used: i128 = samples.values().map(|sample| i128::from(sample.value)).sum();
                let average = long(used / samples.len().max(1) as i128);
                let usage = Usage {
                    average,
                    percent: None,
                };
                Ok((average as f64 / *amount as f64, usage))
            }
        }
    }

    /// What a Pod nobody measured is taken to use when there would be fewer Pods.
    fn busy(&self, pod: &str) -> i64 {
        match self {
            Goal::Utilization { percent, requests } => {
                let asked = requests.get(pod).copied().unwrap_or(0);
                long(i128::from(asked) * i128::from(100.max(*percent)) / 100)
            }
            Goal::Average(amount) => *amount,
        }
    }
}

/// How many Pods there should be for what each of them uses. `cpu` says that it is processor time.
pub fn for_samples(
    workload: &Workload<'_>,
    mut samples: Samples,
    cpu: bool,
    goal: impl FnOnce() -> Result<Goal, String>,
) -> Result<(i32, Usage), String> {
    if workload.pods.is_empty() {
        return Err(NO_PODS.into());
    }
    let groups = pods::group(workload.pods, &samples, cpu, workload.now);
    samples.retain(|name, _| !groups.ignored.contains(name) && !groups.unready.contains(name));
    if samples.is_empty() {
        return Err("did not receive metrics for targeted pods (pods might be unready)".into());
    }
    let goal = goal()?;
    let (ratio, usage) = goal.ratio(&samples)?;
    let starting = !groups.unready.is_empty() && ratio > 1.0;
    let replicas = if starting || !groups.missing.is_empty() {
        cautiously(workload, &groups, samples, &goal, ratio)?
    } else if workload.tolerances.cover(ratio) {
        workload.wanted
    } else {
        ceil(ratio * groups.ready as f64)
    };
    Ok((replicas, usage))
}

/// With what is assumed of those that were not measured, which never turns the change round.
fn cautiously(
    workload: &Workload<'_>,
    groups: &Groups,
    mut samples: Samples,
    goal: &Goal,
    ratio: f64,
) -> Result<i32, String> {
    let (missing, wanted) = (groups.missing.iter(), workload.wanted);
    if ratio < 1.0 {
        samples.extend(missing.map(|pod| (pod.clone(), assumed(goal.busy(pod)))));
    } else if ratio > 1.0 {
        let idle = missing.chain(&groups.unready);
        samples.extend(idle.map(|pod| (pod.clone(), assumed(0))));
    }
    let (cautious, _) = goal.ratio(&samples)?;
    let turns = (ratio < 1.0 && cautious > 1.0) || (ratio > 1.0 && cautious < 1.0);
    let replicas = ceil(cautious * samples.len() as f64);
    let backwards = (cautious < 1.0 && replicas > wanted) || (cautious > 1.0 && replicas < wanted);
    let stays = workload.tolerances.cover(cautious) || turns || backwards;
    Ok(if stays { wanted } else { replicas })
}

/// How many Pods there should be for a value that belongs to all of them.
pub fn for_value(workload: &Workload<'_>, value: i64, goal: i64) -> Result<i32, String> {
    let ratio = value as f64 / goal as f64;
    if workload.tolerances.cover(ratio) {
        return Ok(workload.wanted);
    }
    if workload.pods.is_empty() {
        return Err(format!("unable to calculate ready pods: {NO_PODS}"));
    }
    Ok(ceil(ratio * pods::count_ready(workload.pods) as f64))
}

/// How many Pods there should be to share a value, and what is each one's share now.
pub fn for_share(workload: &Workload<'_>, value: i64, goal: i64) -> (i32, i64) {
    let present = f64::from(workload.present);
    let ratio = value as f64 / (goal as f64 * present);
    let replicas = match workload.tolerances.cover(ratio) {
        true => workload.present,
        false => ceil(value as f64 / goal as f64),
    };
    let share = match value {
        i64::MAX => i64::MAX,
        _ => (value as f64 / present).ceil() as i64,
    };
    (replicas, share)
}

const NO_PODS: &str = "no pods returned by selector while calculating replica count";

fn assumed(value: i64) -> Sample {
    Sample {
        value,
        at: None,
        window: jiff::SignedDuration::ZERO,
    }
}

/// Saturates.
fn ceil(replicas: f64) -> i32 {
    replicas.ceil() as i32
}

fn narrow(value: i128) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

fn long(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const TEN: Tolerances = Tolerances { down: 0.1, up: 0.1 };

    fn workload<'a>(pods: &'a [Value], tolerances: Tolerances) -> Workload<'a> {
        let present = i32::try_from(pods.len()).expect("few");
        Workload {
            pods,
            wanted: present,
            present,
            tolerances,
            now: Timestamp::UNIX_EPOCH,
        }
    }

    /// One Pod for each letter: `r`uns, is `p`ending, has `f`ailed.
    fn pods(letters: &str) -> Vec<Value> {
        let one = |(i, letter): (usize, char)| {
            let (phase, ready) = match letter {
                'r' => ("Running", "True"),
                'p' => ("Pending", "False"),
                _ => ("Failed", "False"),
            };
            json!({"metadata": {"name": format!("p{i}")},
                "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]}})
        };
        letters.chars().enumerate().map(one).collect()
    }

    fn measured(values: &[i64]) -> Samples {
        let named = values.iter().enumerate();
        named
            .map(|(i, value)| (format!("p{i}"), assumed(*value)))
            .collect()
    }

    /// Each Pod asks for 1000.
    fn share(percent: i32) -> Goal {
        let requests = (0..9).map(|i| (format!("p{i}"), 1000)).collect();
        Goal::Utilization { percent, requests }
    }

    #[test]
    fn shares_of_what_is_asked_for() {
        for (what, letters, values, percent, replicas, used) in [
            ("three are too few", "rrr", vec![300, 500, 700], 30, 5, 50),
            ("as aimed at", "rrr", vec![500, 500, 500], 50, 3, 50),
            ("within the tolerance", "rrr", vec![540, 540, 540], 50, 3, 54),
            (
                "five are too many",
                "rrrrr",
                vec![100, 300, 500, 250, 250],
                50,
                3,
                28,
            ),
            ("who failed is nobody", "rrf", vec![1000, 1000, 9000], 50, 4, 100),
            ("who begins is idle", "rrp", vec![1000, 1000], 50, 4, 100),
            (
                "who begins counts nothing when fewer will do",
                "rrrp",
                vec![100, 100, 100],
                50,
                1,
                10,
            ),
            ("nobody measured: idle for more", "rrr", vec![900, 900], 50, 4, 90),
            (
                "nobody measured: all its request for fewer",
                "rrrr",
                vec![100, 100, 100],
                50,
                3,
                10,
            ),
            (
                "nobody measured: it never turns",
                "rrr",
                vec![400, 490],
                50,
                3,
                44,
            ),
            ("more than is asked for", "rr", vec![400, 400], 150, 1, 40),
            (
                "nobody measured: the goal where it is more",
                "rrr",
                vec![900, 900],
                150,
                3,
                90,
            ),
        ] {
            let pods = pods(letters);
            let found = for_samples(&workload(&pods, TEN), measured(&values), false, || {
                Ok(share(percent))
            });
            let (found, usage) = found.expect(what);
            assert_eq!((found, usage.percent), (replicas, Some(used)), "{what}");
        }
    }

    #[test]
    fn amounts_and_tolerances() {
        let none = Tolerances { down: 0.0, up: 0.0 };
        let only_up = Tolerances { down: 0.5, up: 0.0 };
        for (letters, values, goal, tolerances, replicas) in [
            ("rrr", vec![10_000, 20_000, 10_000], 12_000, TEN, 4),
            ("rrr", vec![12_500, 12_500, 12_500], 12_000, TEN, 3),
            ("rrr", vec![12_500, 12_500, 12_500], 12_000, none, 4),
            ("rrr", vec![7_000, 7_000, 7_000], 12_000, only_up, 3),
            ("rrr", vec![7_000, 7_000, 7_000], 12_000, TEN, 2),
            ("rrr", vec![9_000, 9_000], 12_000, TEN, 3),
        ] {
            let pods = pods(letters);
            let found = for_samples(&workload(&pods, tolerances), measured(&values), false, || {
                Ok(Goal::Average(goal))
            });
            assert_eq!(
                found.expect("a number").0,
                replicas,
                "{letters} {values:?} {tolerances:?}"
            );
        }
    }

    #[test]
    fn what_cannot_be_told() {
        let told = |letters: &str, values: &[i64]| {
            let pods = pods(letters);
            for_samples(&workload(&pods, TEN), measured(values), false, || Ok(share(50)))
                .expect_err("nothing")
        };
        assert_eq!(told("", &[1]), NO_PODS);
        let unready = "did not receive metrics for targeted pods (pods might be unready)";
        assert_eq!(told("pf", &[1, 1]), unready);
        assert_eq!(told("r", &[]), unready);
    }

    #[test]
    fn values_of_all_and_shares() {
        let pods = pods("rrp");
        let workload = workload(&pods, TEN);
        let all = |value| for_value(&workload, value, 10_000);
        assert_eq!([all(20_000), all(10_500), all(5_000)], [Ok(4), Ok(3), Ok(1)]);
        assert_eq!(for_share(&workload, 80_000, 10_000), (8, 26_667));
        assert_eq!(for_share(&workload, 30_000, 10_000), (3, 10_000));
        assert_eq!(for_share(&workload, i64::MAX, 1), (i32::MAX, i64::MAX));
    }
}

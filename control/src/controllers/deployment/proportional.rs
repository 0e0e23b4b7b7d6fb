//! Scaling a Deployment: the size of each ReplicaSet when the number of replicas changes, also in mid-rollout.
use std::cmp::Reverse;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};

use super::revision::MAX_REPLICAS;
use super::rolling::Resize;
use super::spec::{self, Strategy};

/// The sizes that carry a new `spec.replicas` out without moving the rollout itself.
pub fn plan(deployment: &Deployment, new: Option<&ReplicaSet>, old: &[&ReplicaSet]) -> Vec<Resize> {
    let desired = spec::replicas(deployment);
    if let Some(only) = active_or_latest(new, old) {
        return resize(only, desired).into_iter().collect();
    }
    if new.is_some_and(|new| is_saturated(deployment, new)) {
        return old.iter().filter_map(|set| resize(set, 0)).collect();
    }
    match spec::strategy(deployment) {
        Strategy::Recreate => Vec::new(),
        Strategy::RollingUpdate => share_out(deployment, new, old),
    }
}

fn resize(set: &ReplicaSet, size: i32) -> Option<Resize> {
    (spec::size(set) != size).then(|| (set.metadata.name.clone().unwrap_or_default(), size))
}

/// The one ReplicaSet that has Pods, or when none has, the newest; `None` when several have.
fn active_or_latest<'a>(new: Option<&'a ReplicaSet>, old: &[&'a ReplicaSet]) -> Option<&'a ReplicaSet> {
    let active: Vec<&ReplicaSet> = active(new, old);
    match active.as_slice() {
        [] => new.or_else(|| {
            old.iter()
                .copied()
                .max_by_key(|set| set.metadata.creation_timestamp.clone())
        }),
        [only] => Some(only),
        _ => None,
    }
}

fn active<'a>(new: Option<&'a ReplicaSet>, old: &[&'a ReplicaSet]) -> Vec<&'a ReplicaSet> {
    old.iter()
        .copied()
        .chain(new)
        .filter(|set| spec::size(set) > 0)
        .collect()
}

fn is_saturated(deployment: &Deployment, new: &ReplicaSet) -> bool {
    let desired = spec::replicas(deployment);
    annotated(new, super::revision::DESIRED_REPLICAS) == Some(desired)
        && spec::size(new) == desired
        && spec::available(new) == desired
}

pub fn annotated(set: &ReplicaSet, annotation: &str) -> Option<i32> {
    set.metadata.annotations.as_ref()?.get(annotation)?.parse().ok()
}

/// Gives each its share of what is to be added or removed; what rounding leaves goes to the largest.
fn share_out(deployment: &Deployment, new: Option<&ReplicaSet>, old: &[&ReplicaSet]) -> Vec<Resize> {
    let desired = spec::replicas(deployment);
    let allowed = if desired > 0 {
        desired.saturating_add(spec::max_surge(deployment))
    } else {
        0
    };
    let mut sets = active(new, old);
    let to_add = allowed - spec::total_size(sets.iter().copied());
    sets.sort_by_key(|set| (Reverse(spec::size(set)), set.metadata.creation_timestamp.clone()));
    if to_add > 0 {
        // Among equals growth favours the newer, shrinking takes from the older.
        sets.sort_by_key(|set| {
            (
                Reverse(spec::size(set)),
                Reverse(set.metadata.creation_timestamp.clone()),
            )
        });
    }
    let mut added = 0;
    let mut sizes = Vec::new();
    for set in &sets {
        let share = share(deployment, set, to_add, added);
        added += share;
        sizes.push(spec::size(set) + share);
    }
    if let Some(largest) = sizes.first_mut() {
        *largest = (*largest + to_add - added).max(0);
    }
    sets.iter()
        .zip(sizes)
        .filter_map(|(set, size)| resize(set, size))
        .collect()
}

fn share(deployment: &Deployment, set: &ReplicaSet, to_add: i32, added: i32) -> i32 {
    let rest = to_add - added;
    if to_add == 0 || rest == 0 {
        return 0;
    }
    let fraction = fraction(deployment, set);
    if to_add > 0 {
        fraction.min(rest)
    } else {
        fraction.max(rest)
    }
}

/// By how much the set would change if it kept its part of the whole, which was `max-replicas` before.
fn fraction(deployment: &Deployment, set: &ReplicaSet) -> i32 {
    let desired = spec::replicas(deployment);
    let size = spec::size(set);
    if desired == 0 {
        return -size;
    }
    let status_replicas = deployment.status.as_ref().and_then(|status| status.replicas);
    let before = annotated(set, MAX_REPLICAS)
        .or(status_replicas)
        .filter(|before| *before > 0)
        .unwrap_or(desired);
    let after = desired.saturating_add(spec::max_surge(deployment));
    let scaled = (f64::from(size) * f64::from(after) / f64::from(before)).round();
    // Both are i32, so their rounded ratio times an i32 fits after saturation.
    (scaled as i32) - size
}

#[cfg(test)]
mod tests {
    use super::super::spec::fixtures::{rolling, set};
    use super::*;
    use serde_json::json;

    fn annotate(mut set: ReplicaSet, desired: i32, max: i32) -> ReplicaSet {
        let annotations = set.metadata.annotations.get_or_insert_default();
        annotations.insert(
            super::super::revision::DESIRED_REPLICAS.into(),
            desired.to_string(),
        );
        annotations.insert(MAX_REPLICAS.into(), max.to_string());
        set
    }

    #[test]
    fn a_new_size_is_shared_in_proportion() {
        // desired, surge, size before (desired and with surge), new size, old sizes newest first, expected new and old
        let cases = [
            ("alone, it takes all", 20, 0, (10, 10), 10, vec![], vec![20]),
            ("up, evenly", 20, 0, (10, 10), 5, vec![5], vec![10, 10]),
            ("down, evenly", 4, 0, (10, 10), 5, vec![5], vec![2, 2]),
            ("up with surge", 12, 2, (10, 12), 4, vec![8], vec![5, 9]),
            ("to nothing", 0, 0, (10, 10), 5, vec![5], vec![0, 0]),
            (
                "the remainder goes to the largest",
                11,
                0,
                (10, 10),
                3,
                vec![3, 4],
                vec![3, 3, 5],
            ),
            ("unchanged", 10, 0, (10, 10), 5, vec![5], vec![5, 5]),
        ];
        for (name, desired, surge, (before, max), size, old, expected) in cases {
            let deployment = rolling(desired, json!(surge), json!(0));
            let new = annotate(set("new", size, 0, 0), before, max);
            let olds: Vec<ReplicaSet> = (0..)
                .zip(&old)
                .map(|(index, size)| {
                    annotate(set(&format!("old{index}"), *size, *size, index + 1), before, max)
                })
                .collect();
            let plan = plan(&deployment, Some(&new), &olds.iter().collect::<Vec<_>>());
            let size_of = |set: &ReplicaSet| {
                let planned = plan
                    .iter()
                    .find(|(name, _)| Some(name) == set.metadata.name.as_ref());
                planned.map_or(spec::size(set), |(_, size)| *size)
            };
            let got: Vec<i32> = std::iter::once(&new).chain(&olds).map(size_of).collect();
            assert_eq!(got, expected, "{name}");
        }
    }

    #[test]
    fn once_the_new_set_is_saturated_the_old_ones_go() {
        let deployment = rolling(10, json!(0), json!(0));
        let new = annotate(set("new", 10, 10, 0), 10, 10);
        let old = set("old", 3, 3, 1);
        assert_eq!(plan(&deployment, Some(&new), &[&old]), [("old".to_owned(), 0)]);
    }

    #[test]
    fn with_nothing_running_the_latest_is_scaled() {
        let deployment = rolling(3, json!(1), json!(0));
        let (older, newer) = (set("older", 0, 0, 2), set("newer", 0, 0, 1));
        assert_eq!(
            plan(&deployment, None, &[&older, &newer]),
            [("newer".to_owned(), 3)]
        );
    }
}

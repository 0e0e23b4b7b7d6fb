//! The next step of a rolling update: how far the new ReplicaSet may grow and the old ones must shrink.
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};

use super::spec::{self, Strategy};

/// A ReplicaSet and the size it shall have.
pub type Resize = (String, i32);

/// The size of the new ReplicaSet, given all of them (itself included if it exists).
pub fn new_size(deployment: &Deployment, all: &[&ReplicaSet], current: i32) -> i32 {
    let desired = spec::replicas(deployment);
    match spec::strategy(deployment) {
        Strategy::Recreate => desired,
        Strategy::RollingUpdate if current > desired => desired,
        Strategy::RollingUpdate => {
            let most = desired.saturating_add(spec::max_surge(deployment));
            let room = most.saturating_sub(spec::total_size(all.iter().copied()));
            current + room.clamp(0, (desired - current).max(0))
        }
    }
}

/// Which old ReplicaSets shrink now: first by Pods that do not work anyway, then by what the available ones allow.
pub fn shrink_old(deployment: &Deployment, new: &ReplicaSet, old: &[&ReplicaSet]) -> Vec<Resize> {
    let mut sets: Vec<&ReplicaSet> = old.iter().copied().filter(|set| spec::size(set) > 0).collect();
    sets.sort_by_key(|set| (set.metadata.creation_timestamp.clone(), set.metadata.name.clone()));
    let mut sizes: Vec<i32> = sets.iter().map(|set| spec::size(set)).collect();

    let least = spec::replicas(deployment) - spec::max_unavailable(deployment);
    let new_unavailable = spec::size(new) - spec::available(new);
    let spare = sizes.iter().sum::<i32>() + spec::size(new) - least - new_unavailable;
    if spare <= 0 {
        return Vec::new();
    }
    drop_unhealthy(&sets, &mut sizes, spare);
    let available: i32 = sets.iter().map(|set| spec::available(set)).sum::<i32>() + spec::available(new);
    take(&mut sizes, available - least);
    changed(&sets, &sizes)
}

fn drop_unhealthy(sets: &[&ReplicaSet], sizes: &mut [i32], mut budget: i32) {
    for (set, size) in sets.iter().zip(sizes) {
        let broken = (*size - spec::available(set)).clamp(0, budget.max(0));
        *size -= broken;
        budget -= broken;
    }
}

fn take(sizes: &mut [i32], mut budget: i32) {
    for size in sizes {
        let taken = (*size).min(budget.max(0));
        *size -= taken;
        budget -= taken;
    }
}

fn changed(sets: &[&ReplicaSet], sizes: &[i32]) -> Vec<Resize> {
    sets.iter()
        .zip(sizes)
        .filter(|(set, size)| spec::size(set) != **size)
        .map(|(set, size)| (set.metadata.name.clone().unwrap_or_default(), *size))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::spec::fixtures::{deployment, rolling, set};
    use super::*;
    use serde_json::json;

    #[test]
    fn the_new_set_grows_within_the_surge() {
        // desired, surge, sizes of old sets, size of the new one, expected
        let cases = [
            (10, 0, vec![10], 0, 0),
            (10, 2, vec![10], 0, 2),
            (10, 2, vec![5], 0, 7),
            (10, 5, vec![], 0, 10),
            (10, 2, vec![10], 2, 2),
            (10, 0, vec![], 12, 10),
            (0, 1, vec![3], 0, 0),
        ];
        for (desired, surge, old, size, expected) in cases {
            let deployment = rolling(desired, json!(surge), json!(0));
            let mut sets: Vec<ReplicaSet> = old.iter().map(|size| set("old", *size, *size, 1)).collect();
            sets.push(set("new", size, size, 0));
            let all: Vec<&ReplicaSet> = sets.iter().collect();
            assert_eq!(
                new_size(&deployment, &all, size),
                expected,
                "{desired} +{surge}, old {old:?}, new {size}"
            );
        }
    }

    #[test]
    fn recreate_jumps_to_the_desired_size() {
        let deployment =
            deployment(json!({"spec": {"strategy": {"type": "Recreate", "rollingUpdate": null}}}));
        assert_eq!(new_size(&deployment, &[], 0), 10);
    }

    #[test]
    fn old_sets_shrink_as_far_as_availability_allows() {
        // unavailable, (size, available) of old sets oldest first, (size, available) of the new one, expected sizes
        let cases = [
            ("nothing to spare", 0, vec![(10, 10)], (0, 0), vec![]),
            ("the allowance", 2, vec![(10, 10)], (0, 0), vec![("old0", 8)]),
            (
                "what the new one replaces",
                0,
                vec![(10, 10)],
                (5, 5),
                vec![("old0", 5)],
            ),
            (
                "not what the new one has not replaced yet",
                0,
                vec![(10, 10)],
                (5, 0),
                vec![],
            ),
            ("broken Pods first", 2, vec![(10, 8)], (0, 0), vec![("old0", 8)]),
            (
                "broken Pods of every set",
                4,
                vec![(8, 8), (2, 0)],
                (0, 0),
                vec![("old0", 6), ("old1", 0)],
            ),
            (
                "the oldest first",
                3,
                vec![(2, 2), (8, 8)],
                (0, 0),
                vec![("old0", 0), ("old1", 7)],
            ),
            (
                "all when all is replaced",
                0,
                vec![(3, 3)],
                (10, 10),
                vec![("old0", 0)],
            ),
        ];
        for (name, unavailable, old, (size, available), expected) in cases {
            let deployment = rolling(10, json!(5), json!(unavailable));
            let sets: Vec<ReplicaSet> = (0..)
                .zip(&old)
                .map(|(index, (size, available))| set(&format!("old{index}"), *size, *available, 10 - index))
                .collect();
            let old: Vec<&ReplicaSet> = sets.iter().collect();
            let got = shrink_old(&deployment, &set("new", size, available, 0), &old);
            let expected: Vec<Resize> = expected
                .into_iter()
                .map(|(name, size)| (name.to_owned(), size))
                .collect();
            assert_eq!(got, expected, "{name}");
        }
    }
}

//! Within which limits a workload is changed: its least and greatest number, how fast it may grow and shrink, and for how long a
//! number must have been recommended. Pure.
use std::time::Duration;

use k8s_openapi::api::autoscaling::v2::{HPAScalingRules, HorizontalPodAutoscalerBehavior};
use tokio::time::Instant;

use super::history::History;

/// For how long a greater number that was recommended keeps Pods, unless the autoscaler says otherwise (upstream's
/// `--horizontal-pod-autoscaler-downscale-stabilization`).
const DOWN_WINDOW: Duration = Duration::from_mins(5);
/// Without rules a workload at most doubles at a time, or grows to this many.
const GROWTH: i32 = 4;

/// A reason and a message of a condition.
pub type Words = (&'static str, &'static str);

const READY: Words = ("ReadyForNewScale", "recommended size matches current size");
const UP_STABILIZED: Words = (
    "ScaleUpStabilized",
    "recent recommendations were lower than current one, applying the lowest recent recommendation",
);
const DOWN_STABILIZED: Words = (
    "ScaleDownStabilized",
    "recent recommendations were higher than current one, applying the highest recent recommendation",
);
const WITHIN: Words = (
    "DesiredWithinRange",
    "the desired count is within the acceptable range",
);
const TOO_FEW: Words = (
    "TooFewReplicas",
    "the desired replica count is less than the minimum replica count",
);
const TOO_MANY: Words = (
    "TooManyReplicas",
    "the desired replica count is more than the maximum replica count",
);
const UP_LIMIT: Words = (
    "ScaleUpLimit",
    "the desired replica count is increasing faster than the maximum scale rate",
);
const DOWN_LIMIT: Words = (
    "ScaleDownLimit",
    "the desired replica count is decreasing faster than the maximum scale rate",
);

/// What is asked: from so many to so many, and never less or more than so many.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    pub current: i32,
    pub desired: i32,
    pub min: i32,
    pub max: i32,
}

/// What is granted, and what the conditions say of it.
#[derive(Debug, PartialEq)]
pub struct Grant {
    pub replicas: i32,
    /// Of `AbleToScale`.
    pub able: Words,
    /// Of `ScalingLimited`, and whether it is so.
    pub limited: (bool, Words),
}

/// Notes the wish in the history, and grants what of it may be had now.
pub fn grant(
    wish: Wish,
    behavior: Option<&HorizontalPodAutoscalerBehavior>,
    history: &mut History,
    now: Instant,
) -> Grant {
    let rules = behavior.and_then(|b| Some((b.scale_up.as_ref()?, b.scale_down.as_ref()?)));
    let (up, down) = match rules {
        Some((up, down)) => (window(up, Duration::ZERO), window(down, DOWN_WINDOW)),
        None => (Duration::ZERO, DOWN_WINDOW),
    };
    let stable = match rules {
        Some(_) => stabilize(wish, history, up, down, now),
        None => history.within(down, now).fold(wish.desired, i32::max),
    };
    history.recommend(wish.desired, up.max(down), now);
    let able = match stable == wish.desired {
        true => READY,
        false if rules.is_some() && wish.desired >= wish.current => UP_STABILIZED,
        false => DOWN_STABILIZED,
    };
    let wish = Wish {
        desired: stable,
        ..wish
    };
    let (replicas, words) = match rules {
        Some((up, down)) => by_rules(wish, up, down, history, now),
        None => by_default(wish),
    };
    Grant {
        replicas,
        able,
        limited: (replicas != stable, words),
    }
}

/// For how long what was done must be remembered.
pub fn longest_period(behavior: &HorizontalPodAutoscalerBehavior) -> Duration {
    let rules = [&behavior.scale_up, &behavior.scale_down];
    let policies = rules
        .into_iter()
        .flatten()
        .flat_map(|r| r.policies.iter().flatten());
    let longest = policies.map(|policy| policy.period_seconds).max();
    seconds(longest.unwrap_or(0))
}

fn window(rules: &HPAScalingRules, otherwise: Duration) -> Duration {
    rules.stabilization_window_seconds.map_or(otherwise, seconds)
}

fn seconds(count: i32) -> Duration {
    Duration::from_secs(u64::from(count.max(0).unsigned_abs()))
}

/// As near to the present number as recent recommendations allow.
fn stabilize(wish: Wish, history: &History, up: Duration, down: Duration, now: Instant) -> i32 {
    let least = history.within(up, now).fold(wish.desired, i32::min);
    let most = history.within(down, now).fold(wish.desired, i32::max);
    wish.current.max(least).min(most)
}

fn by_default(wish: Wish) -> (i32, Words) {
    let fastest = wish.current.saturating_mul(2).max(GROWTH);
    let (most, why) = match wish.max > fastest {
        true => (fastest, UP_LIMIT),
        false => (wish.max, TOO_MANY),
    };
    match wish.desired {
        desired if desired < wish.min => (wish.min, TOO_FEW),
        desired if desired > most => (most, why),
        desired => (desired, WITHIN),
    }
}

fn by_rules(
    wish: Wish,
    up: &HPAScalingRules,
    down: &HPAScalingRules,
    history: &History,
    now: Instant,
) -> (i32, Words) {
    if wish.desired > wish.current {
        let fastest = reach(wish.current, up, history, now, Direction::Up).max(wish.current);
        let (most, why) = match wish.max > fastest {
            true => (fastest, UP_LIMIT),
            false => (wish.max, TOO_MANY),
        };
        if wish.desired > most {
            return (most, why);
        }
    } else if wish.desired < wish.current {
        let fastest = reach(wish.current, down, history, now, Direction::Down).min(wish.current);
        let (least, why) = match wish.min < fastest {
            true => (fastest, DOWN_LIMIT),
            false => (wish.min, TOO_FEW),
        };
        if wish.desired < least {
            return (least, why);
        }
    }
    (wish.desired, WITHIN)
}

#[derive(Clone, Copy)]
enum Direction {
    Up,
    Down,
}

/// How far the policies let the number go in one direction now.
fn reach(current: i32, rules: &HPAScalingRules, history: &History, now: Instant, way: Direction) -> i32 {
    let policies = rules.policies.iter().flatten().map(|policy| {
        let began = i64::from(current) - history.change(seconds(policy.period_seconds), now);
        let share = f64::from(policy.value) / 100.0;
        match (policy.type_.as_str(), way) {
            ("Pods", Direction::Up) => began + i64::from(policy.value),
            ("Pods", Direction::Down) => began - i64::from(policy.value),
            // Rounded up, or a small workload would never grow.
            (_, Direction::Up) => (began as f64 * (1.0 + share)).ceil() as i64,
            (_, Direction::Down) => (began as f64 * (1.0 - share)) as i64,
        }
    });
    let reached = match (rules.select_policy.as_deref(), way) {
        (Some("Disabled"), _) => None,
        (Some("Min"), Direction::Up) | (Some("Max") | None, Direction::Down) => policies.min(),
        _ => policies.max(),
    };
    let reached = reached.unwrap_or_else(|| current.into());
    reached.clamp(0, i64::from(i32::MAX)) as i32
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// The rules as defaults complete them.
    fn behavior(rules: Value) -> HorizontalPodAutoscalerBehavior {
        let mut whole = json!({
            "scaleUp": {"stabilizationWindowSeconds": 0, "selectPolicy": "Max", "policies": [
                {"type": "Pods", "value": 4, "periodSeconds": 15}, {"type": "Percent", "value": 100, "periodSeconds": 15}]},
            "scaleDown": {"selectPolicy": "Max", "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}]}});
        json_patch::merge(&mut whole, &rules);
        serde_json::from_value(whole).expect("rules")
    }

    fn wish(current: i32, desired: i32) -> Wish {
        Wish {
            current,
            desired,
            min: 2,
            max: 20,
        }
    }

    /// A history of recommendations, each so many seconds ago, and of changes.
    fn history(now: Instant, recommended: &[(u64, i32)], changes: &[(u64, i32)]) -> (History, Instant) {
        let end = now + Duration::from_hours(1);
        let ago = |seconds| end - Duration::from_secs(seconds);
        let mut history = History::new(0, now);
        for (seconds, replicas) in recommended {
            history.recommend(*replicas, Duration::from_mins(59), ago(*seconds));
        }
        for (seconds, change) in changes {
            history.changed(100, 100 + change, Duration::from_hours(1), ago(*seconds));
        }
        (history, end)
    }

    #[tokio::test]
    async fn without_rules() {
        for (recommended, current, desired, granted, able, limited) in [
            (vec![], 3, 3, 3, READY, (false, WITHIN)),
            (vec![], 3, 5, 5, READY, (false, WITHIN)),
            (vec![], 3, 9, 6, READY, (true, UP_LIMIT)),
            (vec![], 1, 9, 4, READY, (true, UP_LIMIT)),
            (vec![], 15, 30, 20, READY, (true, TOO_MANY)),
            (vec![], 5, 1, 2, READY, (true, TOO_FEW)),
            (vec![(299, 4)], 5, 3, 4, DOWN_STABILIZED, (false, WITHIN)),
            (vec![(301, 4)], 5, 3, 3, READY, (false, WITHIN)),
            (vec![(10, 1)], 3, 5, 5, READY, (false, WITHIN)),
        ] {
            let (mut history, now) = history(Instant::now(), &recommended, &[]);
            let found = grant(wish(current, desired), None, &mut history, now);
            let expected = Grant {
                replicas: granted,
                able,
                limited,
            };
            assert_eq!(found, expected, "{current} to {desired} after {recommended:?}");
        }
    }

    #[tokio::test]
    async fn by_policies() {
        let up = |rules: Value| json!({"scaleUp": rules});
        let down = |rules: Value| json!({"scaleDown": rules});
        let pods = |value: i32| json!([{"type": "Pods", "value": value, "periodSeconds": 60}]);
        let percent = |value: i32| json!([{"type": "Percent", "value": value, "periodSeconds": 60}]);
        let both = json!([{"type": "Pods", "value": 1, "periodSeconds": 60}, {"type": "Percent", "value": 50, "periodSeconds": 60}]);
        for (rules, changes, current, desired, granted, why) in [
            (json!({}), vec![], 3, 9, 7, UP_LIMIT),
            (json!({}), vec![], 5, 9, 9, WITHIN),
            (json!({}), vec![], 9, 1, 2, TOO_FEW),
            (up(json!({"policies": pods(1)})), vec![], 3, 9, 4, UP_LIMIT),
            (up(json!({"policies": pods(3)})), vec![(59, 2)], 3, 9, 4, UP_LIMIT),
            (up(json!({"policies": pods(3)})), vec![(61, 2)], 3, 9, 6, UP_LIMIT),
            (up(json!({"policies": pods(1)})), vec![(10, 4)], 5, 9, 5, UP_LIMIT),
            (up(json!({"policies": percent(10)})), vec![], 3, 9, 4, UP_LIMIT),
            (
                up(json!({"policies": both, "selectPolicy": "Min"})),
                vec![],
                4,
                9,
                5,
                UP_LIMIT,
            ),
            (up(json!({"policies": both})), vec![], 4, 9, 6, UP_LIMIT),
            (up(json!({"selectPolicy": "Disabled"})), vec![], 4, 9, 4, UP_LIMIT),
            (up(json!({"policies": pods(9)})), vec![], 15, 30, 20, TOO_MANY),
            (down(json!({"policies": pods(1)})), vec![], 9, 3, 8, DOWN_LIMIT),
            (
                down(json!({"policies": pods(3)})),
                vec![(59, -2)],
                9,
                3,
                8,
                DOWN_LIMIT,
            ),
            (
                down(json!({"policies": percent(50)})),
                vec![],
                9,
                3,
                4,
                DOWN_LIMIT,
            ),
            (
                down(json!({"policies": both, "selectPolicy": "Min"})),
                vec![],
                9,
                3,
                8,
                DOWN_LIMIT,
            ),
            (down(json!({"policies": both})), vec![], 9, 3, 4, DOWN_LIMIT),
            (
                down(json!({"selectPolicy": "Disabled"})),
                vec![],
                9,
                3,
                9,
                DOWN_LIMIT,
            ),
        ] {
            let (mut history, now) = history(Instant::now(), &[], &changes);
            let found = grant(
                wish(current, desired),
                Some(&behavior(rules.clone())),
                &mut history,
                now,
            );
            assert_eq!(
                (found.replicas, found.limited.1),
                (granted, why),
                "{current} to {desired}: {rules} {changes:?}"
            );
        }
    }

    #[tokio::test]
    async fn by_windows() {
        let windows = |up: i32, down: i32| json!({"scaleUp": {"stabilizationWindowSeconds": up}, "scaleDown": {"stabilizationWindowSeconds": down}});
        for (rules, recommended, current, desired, granted, able) in [
            (json!({}), vec![(299, 8)], 9, 3, 8, DOWN_STABILIZED),
            (json!({}), vec![(301, 8)], 9, 3, 3, READY),
            (windows(0, 60), vec![(61, 8)], 9, 3, 3, READY),
            (windows(0, 0), vec![(1, 8)], 9, 3, 3, READY),
            (windows(60, 0), vec![(59, 4)], 3, 6, 4, UP_STABILIZED),
            (windows(60, 0), vec![(59, 1)], 3, 6, 3, UP_STABILIZED),
            (windows(60, 60), vec![(30, 9), (40, 2)], 5, 6, 5, UP_STABILIZED),
        ] {
            let (mut history, now) = history(Instant::now(), &recommended, &[]);
            let found = grant(
                wish(current, desired),
                Some(&behavior(rules.clone())),
                &mut history,
                now,
            );
            assert_eq!(
                (found.replicas, found.able),
                (granted, able),
                "{current} to {desired}: {rules} {recommended:?}"
            );
        }
    }
}

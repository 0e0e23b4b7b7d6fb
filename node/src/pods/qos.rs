//! Quality-of-service class of a Pod and what follows from it for the kernel's OOM killer, as upstream
//! computes them. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::quantity;

pub const GUARANTEED: &str = "Guaranteed";
pub const BURSTABLE: &str = "Burstable";
pub const BEST_EFFORT: &str = "BestEffort";
const RESOURCES: [&str; 2] = ["cpu", "memory"];

/// `status.qosClass`: by the Pod's own resources where it has any, else by its containers'.
pub fn class(spec: &PodSpec) -> &'static str {
    let is_set = |given: &&ResourceRequirements| RESOURCES.iter().any(|r| amount(given, r).is_some());
    if let Some(own) = spec.resources.as_ref().filter(is_set) {
        return if is_guaranteed(own) { GUARANTEED } else { BURSTABLE };
    }
    let all = || spec.init_containers.iter().flatten().chain(&spec.containers);
    let given = || all().filter_map(|c| c.resources.as_ref());
    if !given().any(|r| is_set(&r)) {
        return BEST_EFFORT;
    }
    if all().all(|c| c.resources.as_ref().is_some_and(is_guaranteed)) {
        GUARANTEED
    } else {
        BURSTABLE
    }
}

fn positive(list: Option<&BTreeMap<String, Quantity>>, resource: &str) -> Option<i64> {
    quantity::milli(list?.get(resource)?).filter(|v| *v > 0)
}

fn request(given: &ResourceRequirements, resource: &str) -> Option<i64> {
    positive(given.requests.as_ref(), resource)
}

/// A limit that is one, in thousandths.
pub fn limit(given: &ResourceRequirements, resource: &str) -> Option<i64> {
    positive(given.limits.as_ref(), resource)
}

fn amount(given: &ResourceRequirements, resource: &str) -> Option<i64> {
    request(given, resource).or(limit(given, resource))
}

fn is_guaranteed(given: &ResourceRequirements) -> bool {
    RESOURCES.iter().all(|resource| {
        let limit = limit(given, resource);
        limit.is_some() && request(given, resource).is_none_or(|r| Some(r) == limit)
    })
}

/// `oom_score_adj` of a container: -997 guaranteed, 1000 best effort, between them by its share of memory.
pub fn oom_score_adj(spec: &PodSpec, container: &Container, memory_capacity: u64) -> i32 {
    match class(spec) {
        GUARANTEED => -997,
        BEST_EFFORT => 1000,
        _ => {
            let requested = container.resources.as_ref().and_then(|r| request(r, "memory"));
            let requested = requested.unwrap_or(0) / 1000;
            let capacity = i64::try_from(memory_capacity).unwrap_or(i64::MAX).max(1);
            let share = (i128::from(requested) * 1000 / i128::from(capacity)).clamp(0, 1000) as i32;
            (1000 - share).clamp(3, 999)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec(resources: &[serde_json::Value]) -> PodSpec {
        let containers: Vec<_> = resources
            .iter()
            .enumerate()
            .map(|(i, r)| json!({"name": format!("c{i}"), "resources": r}))
            .collect();
        serde_json::from_value(json!({ "containers": containers })).unwrap()
    }

    #[test]
    fn classes() {
        let both = |cpu: &str, memory: &str| json!({"cpu": cpu, "memory": memory});
        for (resources, expected) in [
            (vec![json!({})], "BestEffort"),
            (vec![json!({"limits": both("1", "1Gi")})], "Guaranteed"),
            (
                vec![json!({"limits": both("1", "1Gi"), "requests": both("1000m", "1024Mi")})],
                "Guaranteed",
            ),
            (vec![json!({"limits": both("1", "1Gi")}), json!({})], "Burstable"),
            (vec![json!({"requests": {"cpu": "10m"}})], "Burstable"),
            (vec![json!({"limits": {"memory": "1Gi"}})], "Burstable"),
        ] {
            assert_eq!(class(&spec(&resources)), expected, "{resources:?}");
        }
    }

    #[test]
    fn what_the_pod_itself_says_comes_first() {
        let mut s = spec(&[json!({"limits": {"cpu": "1", "memory": "1Gi"}})]);
        for (own, expected) in [
            (json!({}), "Guaranteed"),
            (json!({"requests": {"cpu": "1"}}), "Burstable"),
            (json!({"limits": {"cpu": "2", "memory": "1Gi"}}), "Guaranteed"),
            (json!({"limits": {"memory": "1Gi"}}), "Burstable"),
        ] {
            s.resources = serde_json::from_value(own.clone()).unwrap();
            assert_eq!(class(&s), expected, "{own}");
        }
    }

    #[test]
    fn burstable_scores_by_share() {
        let s = spec(&[json!({"requests": {"memory": "1Gi"}})]);
        assert_eq!(oom_score_adj(&s, &s.containers[0], 4 << 30), 750);
        let s = spec(&[json!({"requests": {"cpu": "1"}})]);
        assert_eq!(oom_score_adj(&s, &s.containers[0], 4 << 30), 999);
    }
}

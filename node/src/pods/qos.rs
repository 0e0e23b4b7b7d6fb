//! Quality-of-service class of a Pod and what follows from it for the kernel's OOM killer, as upstream
//! computes them. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::quantity;

const GUARANTEED: &str = "Guaranteed";
const BURSTABLE: &str = "Burstable";
const BEST_EFFORT: &str = "BestEffort";

/// `status.qosClass`.
pub fn class(spec: &PodSpec) -> &'static str {
    let all = || spec.init_containers.iter().flatten().chain(&spec.containers);
    let any_set = all().any(|c| ["cpu", "memory"].iter().any(|r| amount(c, r).is_some()));
    if !any_set {
        return BEST_EFFORT;
    }
    let guaranteed = |c: &Container| ["cpu", "memory"].iter().all(|r| is_guaranteed(c, r));
    if all().all(guaranteed) {
        GUARANTEED
    } else {
        BURSTABLE
    }
}

fn positive(list: Option<&BTreeMap<String, Quantity>>, resource: &str) -> Option<i64> {
    quantity::milli(list?.get(resource)?).filter(|v| *v > 0)
}

fn request(c: &Container, resource: &str) -> Option<i64> {
    positive(c.resources.as_ref()?.requests.as_ref(), resource)
}

fn limit(c: &Container, resource: &str) -> Option<i64> {
    positive(c.resources.as_ref()?.limits.as_ref(), resource)
}

fn amount(c: &Container, resource: &str) -> Option<i64> {
    request(c, resource).or(limit(c, resource))
}

fn is_guaranteed(c: &Container, resource: &str) -> bool {
    let limit = limit(c, resource);
    limit.is_some() && request(c, resource).is_none_or(|r| Some(r) == limit)
}

/// `oom_score_adj` of a container: -997 guaranteed, 1000 best effort, between them by its share of memory.
pub fn oom_score_adj(spec: &PodSpec, container: &Container, memory_capacity: u64) -> i32 {
    match class(spec) {
        GUARANTEED => -997,
        BEST_EFFORT => 1000,
        _ => {
            let requested = request(container, "memory").unwrap_or(0) / 1000;
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
    fn burstable_scores_by_share() {
        let s = spec(&[json!({"requests": {"memory": "1Gi"}})]);
        assert_eq!(oom_score_adj(&s, &s.containers[0], 4 << 30), 750);
        let s = spec(&[json!({"requests": {"cpu": "1"}})]);
        assert_eq!(oom_score_adj(&s, &s.containers[0], 4 << 30), 999);
    }
}

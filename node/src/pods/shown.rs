//! What the API shows of a Pod's status, as far as a node writes it. Compared with what was there after the node's last write, it
//! tells that somebody else wrote since, or that a write of before came late. Pure. Owns which part of a status is the node's;
//! refuses to know who writes, and when.

use std::hash::{DefaultHasher, Hash, Hasher};

use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};
use serde_json::json;

use super::conditions;

/// Fields of a status that schedulers and controllers write.
const OF_OTHERS: [&str; 4] = [
    "extendedResourceClaimStatus",
    "nodeAllocatableResourceClaimStatuses",
    "nominatedNodeName",
    "resourceClaimStatuses",
];

/// The API object that holds a status: the Pod's own, or its mirror.
#[derive(Clone, Debug, PartialEq)]
pub struct Shown {
    pub uid: String,
    /// Versions of one server are numbers that grow (KEP-5504); 0 where they are not.
    version: u64,
    /// The node's part of its status. All that is asked of it is whether it is another, so it is kept as a number.
    told: u64,
}

impl Shown {
    pub fn of(object: &Pod) -> Option<Self> {
        Some(Shown {
            uid: object.metadata.uid.clone()?,
            version: object.metadata.resource_version.as_deref().map_or(0, version),
            told: object.status.as_ref().map_or(0, told),
        })
    }

    /// Whether the node's part is another than in `written`.
    pub fn differs(&self, written: &Shown) -> bool {
        self.told != written.told
    }

    /// Whether it is of before: the watch has not told of the write yet.
    pub fn is_before(&self, written: &Shown) -> bool {
        self.version < written.version
    }
}

fn version(text: &str) -> u64 {
    text.parse().unwrap_or_default()
}

/// Both that are compared come from one server: what it adds or leaves out is in both. Times of conditions do not count, as
/// upstream's node does not count them.
fn told(status: &PodStatus) -> u64 {
    let mut own = json!(status);
    if let Some(fields) = own.as_object_mut() {
        OF_OTHERS.iter().for_each(|name| drop(fields.remove(*name)));
    }
    let all = status.conditions.iter().flatten();
    let mut conditions: Vec<[&str; 4]> = all
        .filter(|c| conditions::is_told_by_nodes(&c.type_))
        .map(words)
        .collect();
    conditions.sort_unstable();
    own["conditions"] = json!(conditions);
    let mut hasher = DefaultHasher::new();
    own.to_string().hash(&mut hasher);
    hasher.finish()
}

fn words(condition: &PodCondition) -> [&str; 4] {
    [
        &condition.type_,
        &condition.status,
        condition.reason.as_deref().unwrap_or_default(),
        condition.message.as_deref().unwrap_or_default(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn at(version: &str, status: &Value) -> Shown {
        let pod = json!({"metadata": {"uid": "u", "resourceVersion": version}, "status": status});
        Shown::of(&serde_json::from_value(pod).unwrap()).unwrap()
    }

    fn shown(status: Value) -> Shown {
        at("7", &status)
    }

    #[test]
    fn versions_are_compared_where_they_are_numbers() {
        let is_before = |one, other| at(one, &json!({})).is_before(&at(other, &json!({})));
        assert!(is_before("9", "10"));
        assert!(!is_before("10", "10") && !is_before("11", "10") && !is_before("b", "a"));
    }

    #[test]
    fn only_what_nodes_tell_counts() {
        let status = |phase: &str, conditions: Value| json!({"phase": phase, "conditions": conditions});
        let ready = json!({"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let before = shown(status("Running", json!([ready])));
        let gate = json!({"type": "example.com/gate", "status": "True"});
        let later = json!({"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-02T00:00:00Z"});
        let mut nominated = status("Running", json!([gate, later]));
        nominated["nominatedNodeName"] = json!("n");
        assert_eq!(shown(nominated), before);
        let unready = json!({"type": "Ready", "status": "False"});
        let disrupted = json!({"type": "DisruptionTarget", "status": "True"});
        for other in [
            status("Pending", json!([ready])),
            status("Running", json!([unready])),
            status("Running", json!([ready, disrupted])),
            status("Running", json!([])),
        ] {
            assert_ne!(shown(other.clone()), before, "{other}");
        }
    }

    #[test]
    fn the_order_of_conditions_does_not_count() {
        let condition = |kind: &str| json!({"type": kind, "status": "True"});
        let (one, other) = (condition("Ready"), condition("Initialized"));
        assert_eq!(
            shown(json!({"conditions": [one, other]})),
            shown(json!({"conditions": [other, one]}))
        );
    }
}

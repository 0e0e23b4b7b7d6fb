//! The node's part of a volume's growth (upstream's `NodeExpander`): when it is due, the call, and what the claim says of it.

use std::collections::BTreeMap;
use std::path::Path;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimCondition, PersistentVolumeClaimStatus,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::published::Published;
use super::volumes::calling;
use super::{Csi, CsiError, Wish, messages};
use crate::quantity;
use crate::volumes::host::at;

const STORAGE: &str = "storage";
const PENDING: &str = "NodeResizePending";
const IN_PROGRESS: &str = "NodeResizeInProgress";
const INFEASIBLE: &str = "NodeResizeInfeasible";
const FAILED: &str = "NodeResizeError";
/// Conditions that speak of growth.
const CONDITIONS: [&str; 4] = [
    "Resizing",
    "FileSystemResizePending",
    "ControllerResizeError",
    FAILED,
];

/// What is to be done on the node.
#[derive(Clone, Debug, PartialEq)]
pub struct Growth {
    pub to: Quantity,
    /// The claim has to say first that it is being done.
    pub announce: bool,
}

fn storage(amounts: Option<&BTreeMap<String, Quantity>>) -> Option<&Quantity> {
    amounts?.get(STORAGE)
}

/// Whether a volume has grown and its node has not followed. A claim without `allocatedResources` comes from a resizer that does
/// not know them: it waits for nothing but the size.
pub fn due(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Option<Growth> {
    let status = claim.status.as_ref()?;
    let spec = volume.spec.as_ref()?;
    let grown = storage(spec.capacity.as_ref())?;
    let has = storage(status.capacity.as_ref())?;
    if quantity::value(has)? >= quantity::value(grown)? {
        return None;
    }
    let allocated = storage(status.allocated_resources.as_ref());
    let stage = status.allocated_resource_statuses.as_ref();
    let stage = stage.and_then(|stages| stages.get(STORAGE)).map(String::as_str);
    match (stage, allocated) {
        (None, None) => Some(Growth {
            to: grown.clone(),
            announce: false,
        }),
        (Some(PENDING | IN_PROGRESS), to) => Some(Growth {
            to: to.unwrap_or(grown).clone(),
            announce: stage == Some(PENDING),
        }),
        _ => None,
    }
}

/// A merge patch of the claim as it was seen.
fn patch(claim: &PersistentVolumeClaim, status: Value) -> Value {
    let version = &claim.metadata.resource_version;
    json!({"metadata": {"resourceVersion": version}, "status": status})
}

/// Says that the node is at it.
pub fn announced(claim: &PersistentVolumeClaim) -> Value {
    patch(
        claim,
        json!({"allocatedResourceStatuses": {STORAGE: IN_PROGRESS}}),
    )
}

/// Says that the volume has its size, and no more of how it got it.
pub fn finished(claim: &PersistentVolumeClaim, to: &Quantity) -> Value {
    let status = claim.status.clone().unwrap_or_default();
    let mut stages = status.allocated_resource_statuses.clone().unwrap_or_default();
    stages.remove(STORAGE);
    let left = match stages.is_empty() {
        true => Value::Null,
        false => json!({STORAGE: null}),
    };
    let conditions = conditions(&status, |of| !CONDITIONS.contains(&of), None);
    patch(
        claim,
        json!({"capacity": {STORAGE: to}, "allocatedResourceStatuses": left, "conditions": conditions}),
    )
}

/// Says why it did not work; what is `infeasible` is not tried again.
pub fn failed(claim: &PersistentVolumeClaim, why: &str, infeasible: bool, now: Timestamp) -> Value {
    let status = claim.status.clone().unwrap_or_default();
    let condition = PersistentVolumeClaimCondition {
        type_: FAILED.to_owned(),
        status: "True".to_owned(),
        last_transition_time: Some(Time(now)),
        message: Some(format!("failed to expand pvc with {why}")),
        ..PersistentVolumeClaimCondition::default()
    };
    let conditions = conditions(&status, |of| of != FAILED, Some(condition));
    let mut change = json!({"conditions": conditions});
    if infeasible {
        change["allocatedResourceStatuses"] = json!({STORAGE: INFEASIBLE});
    }
    patch(claim, change)
}

fn conditions(
    status: &PersistentVolumeClaimStatus,
    stays: impl Fn(&str) -> bool,
    more: Option<PersistentVolumeClaimCondition>,
) -> Option<Vec<PersistentVolumeClaimCondition>> {
    let old = status.conditions.iter().flatten();
    let kept = old.filter(|condition| stays(&condition.type_)).cloned();
    Some(kept.chain(more).collect()).filter(|left: &Vec<_>| !left.is_empty())
}

impl Csi {
    /// Has the driver grow what it published for the Pod to `bytes`. Nothing where it published nothing.
    pub async fn expand(&self, wish: &Wish, pod: &Path, volume: &str, bytes: i64) -> Result<(), CsiError> {
        let Some(record) = Published::load(pod, volume).map_err(at("read the volume of", pod))? else {
            return Ok(());
        };
        let name = &wish.driver;
        let driver = self
            .driver(name)
            .ok_or_else(|| CsiError::NoDriver(name.clone()))?;
        if !driver.expands {
            return Err(CsiError::CannotGrow(name.clone()));
        }
        let turn = self.turn(name, &wish.id);
        let _turn = turn.lock().await;
        let capability = wish.capability(&driver);
        let asked = messages::Expansion {
            id: &wish.id,
            at: &record.target,
            staged: record.staged.as_deref(),
            capability: &capability,
            bytes: u64::try_from(bytes).unwrap_or_default(),
        };
        let done = messages::expand(&driver.endpoint, &asked, &wish.expand_secrets).await;
        done.map_err(calling("NodeExpandVolume"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(status: Value) -> PersistentVolumeClaim {
        let object = json!({"metadata": {"name": "c", "resourceVersion": "7"}, "status": status});
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn growth_is_due_when_it_is_the_nodes_turn() {
        let volume = json!({"metadata": {"name": "v"}, "spec": {"capacity": {"storage": "3Gi"}}});
        let volume = serde_json::from_value(volume).unwrap();
        let to = |size: &str, announce| {
            let to = Quantity(size.to_owned());
            Some(Growth { to, announce })
        };
        let at = |stage: &str| {
            json!({"capacity": {"storage": "1Gi"}, "allocatedResources": {"storage": "2Gi"},
                "allocatedResourceStatuses": {"storage": stage}})
        };
        for (status, expected) in [
            (json!({}), None),
            (json!({"capacity": {"storage": "3Gi"}}), None),
            (json!({"capacity": {"storage": "4Gi"}}), None),
            (json!({"capacity": {"storage": "1Gi"}}), to("3Gi", false)),
            (at("ControllerResizeInProgress"), None),
            (at("NodeResizeInfeasible"), None),
            (at("NodeResizePending"), to("2Gi", true)),
            (at("NodeResizeInProgress"), to("2Gi", false)),
            (
                json!({"capacity": {"storage": "1Gi"}, "allocatedResources": {"storage": "2Gi"}}),
                None,
            ),
        ] {
            assert_eq!(due(&claim(status.clone()), &volume), expected, "{status}");
        }
    }

    #[test]
    fn what_the_claim_says_of_it() {
        let claim = claim(json!({"capacity": {"storage": "1Gi"},
            "allocatedResourceStatuses": {"storage": "NodeResizePending"},
            "conditions": [{"type": "FileSystemResizePending", "status": "True"}, {"type": "Other", "status": "True"}]}));
        let said = announced(&claim);
        assert_eq!(said["metadata"]["resourceVersion"], "7");
        assert_eq!(
            said["status"]["allocatedResourceStatuses"]["storage"],
            "NodeResizeInProgress"
        );
        let said = finished(&claim, &Quantity("2Gi".into()));
        assert_eq!(said["status"]["capacity"]["storage"], "2Gi");
        assert_eq!(said["status"]["allocatedResourceStatuses"], Value::Null);
        assert_eq!(
            said["status"]["conditions"],
            json!([{"type": "Other", "status": "True"}])
        );
        for (infeasible, stage) in [
            (true, json!({"storage": "NodeResizeInfeasible"})),
            (false, Value::Null),
        ] {
            let said = failed(&claim, "no", infeasible, Timestamp::UNIX_EPOCH);
            assert_eq!(said["status"]["allocatedResourceStatuses"], stage);
            let last = &said["status"]["conditions"][2];
            assert_eq!(
                (&last["type"], &last["message"]),
                (&json!(FAILED), &json!("failed to expand pvc with no"))
            );
        }
    }
}

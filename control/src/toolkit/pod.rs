//! A Pod as the control plane keeps it: what scheduler and controllers read of it, and nothing of how its containers run.
//!
//! There are many Pods, every one of them changes often, and all are in memory: this takes a third of what the whole
//! type takes. What is not named here is passed over while a Pod is read.
use std::borrow::Cow;
use std::collections::BTreeMap;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{
    Affinity, ContainerPort, PersistentVolumeClaimVolumeSource, PodCondition, PodIP, PodSchedulingGate,
    Toleration,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::Resource;
use kube::core::ObjectMeta;
use serde::{Deserialize, Deserializer, Serialize};

use super::meta;

/// The one annotation of Pods that a controller reads: lower is deleted earlier (KEP-2255).
pub const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

type Amounts = BTreeMap<String, Quantity>;

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Pod {
    #[serde(deserialize_with = "metadata")]
    pub metadata: ObjectMeta,
    pub spec: Option<PodSpec>,
    pub status: Option<PodStatus>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PodSpec {
    pub containers: Box<[Container]>,
    pub init_containers: Option<Box<[Container]>>,
    pub affinity: Option<Box<Affinity>>,
    pub hostname: Option<String>,
    pub node_name: Option<String>,
    pub node_selector: Option<BTreeMap<String, String>>,
    pub overhead: Option<Amounts>,
    pub priority: Option<i32>,
    pub resources: Option<Requests>,
    pub scheduler_name: Option<String>,
    pub scheduling_gates: Option<Vec<PodSchedulingGate>>,
    pub subdomain: Option<String>,
    pub tolerations: Option<Box<[Toleration]>>,
    #[serde(deserialize_with = "claims")]
    pub volumes: Option<Box<[Volume]>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Container {
    pub ports: Option<Box<[ContainerPort]>>,
    pub resources: Option<Requests>,
    pub restart_policy: Option<String>,
    pub restart_policy_rules: Option<Box<[RestartRule]>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct RestartRule {
    pub action: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct Requests {
    pub requests: Option<Amounts>,
}

/// A volume that is a claim.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Volume {
    pub name: String,
    pub persistent_volume_claim: Option<PersistentVolumeClaimVolumeSource>,
    pub ephemeral: Option<Ephemeral>,
}

/// That the claim is made for the Pod; how is another's concern.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct Ephemeral {}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PodStatus {
    pub conditions: Option<Box<[PodCondition]>>,
    pub container_statuses: Option<Box<[ContainerStatus]>>,
    pub phase: Option<String>,
    #[serde(rename = "podIP")]
    pub pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pub pod_ips: Option<Box<[PodIP]>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ContainerStatus {
    pub restart_count: i32,
}

fn metadata<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    let mut kept = meta::light(deserializer)?;
    if let Some(annotations) = &mut kept.annotations {
        annotations.retain(|key, _| key == DELETION_COST);
    }
    kept.annotations = kept.annotations.filter(|left| !left.is_empty());
    Ok(kept)
}

/// Only claims matter to whom a Pod is given and what is protected.
fn claims<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<[Volume]>>, D::Error> {
    let mut volumes = Option::<Vec<Volume>>::deserialize(deserializer)?.unwrap_or_default();
    volumes.retain(|volume| volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some());
    Ok((!volumes.is_empty()).then(|| volumes.into()))
}

type Whole = k8s_openapi::api::core::v1::Pod;

impl Resource for Pod {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind(_: &()) -> Cow<'_, str> {
        Whole::kind(&())
    }

    fn group(_: &()) -> Cow<'_, str> {
        Whole::group(&())
    }

    fn version(_: &()) -> Cow<'_, str> {
        Whole::version(&())
    }

    fn plural(_: &()) -> Cow<'_, str> {
        Whole::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_light_pod_still_says_what_it_asks_for() {
        let annotations = json!({DELETION_COST: "3", "other": "x"});
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "annotations": annotations, "managedFields": [{"manager": "m"}]},
            "spec": {
                "containers": [{"name": "c", "image": "i", "env": [{"name": "A"}], "livenessProbe": {},
                    "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "2"}},
                    "ports": [{"containerPort": 80, "name": "http"}]}],
                "initContainers": [{"name": "i", "restartPolicy": "Always", "command": ["x"]}],
                "volumes": [{"name": "a", "emptyDir": {}}, {"name": "b", "persistentVolumeClaim": {"claimName": "c"}},
                    {"name": "e", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}}],
            },
            "status": {"phase": "Running", "podIP": "10.0.0.1", "containerStatuses": [{"restartCount": 2, "name": "c"}]},
        }))
        .expect("a Pod");
        let spec = pod.spec.expect("a spec");
        let cost = pod.metadata.annotations.expect("annotations");
        assert_eq!(cost, BTreeMap::from([(DELETION_COST.to_owned(), "3".to_owned())]));
        assert!(pod.metadata.managed_fields.is_none());
        let requests = spec.containers[0]
            .resources
            .as_ref()
            .and_then(|r| r.requests.as_ref());
        assert_eq!(requests.map(|r| r["cpu"].0.as_str()), Some("1"));
        assert_eq!(
            spec.containers[0].ports.as_ref().map(|ports| ports.len()),
            Some(1)
        );
        let volumes = spec.volumes.expect("volumes");
        assert_eq!(
            volumes.iter().map(|v| v.name.as_str()).collect::<Vec<_>>(),
            ["b", "e"]
        );
        let status = pod.status.expect("a status");
        assert_eq!(status.pod_ip.as_deref(), Some("10.0.0.1"));
        assert_eq!(status.container_statuses.map(|all| all[0].restart_count), Some(2));
    }
}

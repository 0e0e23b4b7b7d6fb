//! The provisioner of the class `local-path`, as k3s and the local-path-provisioner have it: a volume is a directory on the
//! node where its first Pod runs. The node makes and removes the directory when it is asked, through its proxy.
use http::Method;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;
use kube::api::{DeleteParams, Preconditions};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Binder, bind};
use crate::toolkit::{ObjectKey, Objects, Outcome, StepError, Steps, claims, nodes};

pub const PROVISIONER: &str = "rancher.io/local-path";
pub const CLASS: &str = "local-path";
const HOSTNAME: &str = "kubernetes.io/hostname";
/// On a volume: the name of its directory on its node.
const DIRECTORY: &str = "local-path.amphipod.dev/directory";
const STORAGE_PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
const OLD_STORAGE_PROVISIONER: &str = "volume.beta.kubernetes.io/storage-provisioner";

/// What a node answers when it made a directory.
#[derive(Deserialize)]
struct Made {
    path: String,
}

/// Whether the volume was made here.
pub fn made(volume: &PersistentVolume) -> bool {
    volume
        .annotations()
        .get(claims::PROVISIONED_BY)
        .is_some_and(|by| by == PROVISIONER)
}

/// Why a claim cannot be had as a directory.
fn refusal(claim: &PersistentVolumeClaim) -> Option<&'static str> {
    let spec = claim.spec.as_ref()?;
    let one_node = |mode: &String| mode == "ReadWriteOnce" || mode == claims::ONE_POD;
    if spec.selector.is_some() {
        return Some("claim.Spec.Selector is not supported");
    }
    if spec.volume_mode.as_deref() == Some("Block") {
        return Some("only Filesystem volumes are provided");
    }
    if spec.data_source_ref.is_some() || spec.data_source.is_some() {
        return Some("volumes are made empty, not from a data source");
    }
    (!claims::modes(claim).iter().all(one_node))
        .then_some("NodePath only supports ReadWriteOnce and ReadWriteOncePod (1.22+) access modes")
}

impl Binder {
    pub(super) async fn provision(
        &self,
        claim: &PersistentVolumeClaim,
        class: &StorageClass,
    ) -> Result<Outcome, StepError> {
        let failed = |why: &str| {
            let class = class.name_any();
            let text = format!("failed to provision volume with StorageClass {class:?}: {why}");
            self.events.warning(claim, "ProvisioningFailed", text);
        };
        if let Some(why) = refusal(claim) {
            failed(why);
            return Ok(Outcome::Done);
        }
        let Some(node) = self.node_for(claim) else {
            failed("configuration error, no node was specified");
            return Ok(Outcome::Poll);
        };
        if self
            .context
            .watches
            .nodes
            .get(&ObjectKey::cluster(&node))
            .is_none()
        {
            failed(&format!("node {node:?} not found"));
            // The scheduler is to choose again.
            let again = json!({"metadata": {"annotations": {claims::SELECTED_NODE: null}}});
            self.change_claim(claim, again).await?;
            return Ok(Outcome::Done);
        }
        let directory = format!(
            "pvc-{}_{}_{}",
            claim.uid().unwrap_or_default(),
            claim.namespace().unwrap_or_default(),
            claim.name_any()
        );
        let path = match self.ask::<Made>(&node, &directory, Method::POST).await {
            Ok(made) => made.path,
            Err(error) => {
                failed(&error.message());
                return Err(error);
            }
        };
        let volume = volume(claim, class, &node, &directory, &path);
        let name = volume["metadata"]["name"].as_str().unwrap_or_default();
        let api: Objects<PersistentVolume> = Objects::all(&self.context.client);
        match api.create(&volume).await.step(|| format!("create volume {name}")) {
            Err(error) if error.is_already_exists() => {}
            Err(error) => return Err(error),
            Ok(_) => {
                let text = format!("Successfully provisioned volume {name}");
                self.events.normal(claim, "ProvisioningSucceeded", text);
            }
        }
        Ok(Outcome::Done)
    }

    /// The node that was chosen for the claim; of a class that waits for nobody the first that is ready.
    fn node_for(&self, claim: &PersistentVolumeClaim) -> Option<String> {
        if let Some(node) = claim.annotations().get(claims::SELECTED_NODE) {
            return Some(node.clone());
        }
        let nodes = self.context.watches.nodes.list();
        nodes
            .iter()
            .filter(|node| nodes::is_ready(node))
            .map(|node| node.name_any())
            .min()
    }

    /// Tells whose work the claim waits for.
    pub(super) async fn leave_to(
        &self,
        claim: &PersistentVolumeClaim,
        provisioner: &str,
    ) -> Result<(), StepError> {
        self.status(claim, "Pending", None).await?;
        let text = format!(
            "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the system \
             administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered."
        );
        self.events.normal(claim, "ExternalProvisioning", text);
        if claim
            .annotations()
            .get(STORAGE_PROVISIONER)
            .is_some_and(|by| by == provisioner)
        {
            return Ok(());
        }
        let marks = json!({STORAGE_PROVISIONER: provisioner, OLD_STORAGE_PROVISIONER: provisioner});
        let change = json!({"metadata": {"annotations": marks}});
        self.change_claim(claim, change).await.map(drop)
    }

    /// Removes the directory, then the volume. With its node the directory is gone too.
    pub(super) async fn remove(&self, volume: &PersistentVolume) -> Result<Outcome, StepError> {
        let node = node_of(volume).filter(|name| {
            let nodes = &self.context.watches.nodes;
            nodes.get(&ObjectKey::cluster(name.as_str())).is_some()
        });
        if let (Some(node), Some(directory)) = (node, volume.annotations().get(DIRECTORY)) {
            let removed = self.ask::<Value>(&node, directory, Method::DELETE).await;
            if let Err(error) = removed {
                self.fail(volume, "VolumeFailedDelete", &error.message()).await?;
                return Err(error);
            }
        }
        let name = volume.name_any();
        let same = Preconditions {
            uid: volume.uid(),
            resource_version: None,
        };
        let params = DeleteParams::default().preconditions(same);
        let api: Objects<PersistentVolume> = Objects::all(&self.context.client);
        let deleted = api.delete(&name, &params).await;
        deleted.step_opt(|| format!("delete volume {name}"))?;
        Ok(Outcome::Done)
    }

    async fn ask<T: serde::de::DeserializeOwned>(
        &self,
        node: &str,
        directory: &str,
        method: Method,
    ) -> Result<T, StepError> {
        let step = || format!("ask node {node} about the directory {directory}");
        let path = format!("/api/v1/nodes/{node}/proxy/localVolumes/{directory}");
        let request = http::Request::builder().method(method).uri(path).body(Vec::new());
        let request = request.map_err(kube::Error::HttpError).step(step)?;
        self.context.client.request(request).await.step(step)
    }
}

/// The node that the volume is bound to.
fn node_of(volume: &PersistentVolume) -> Option<String> {
    let required = volume.spec.as_ref()?.node_affinity.as_ref()?.required.as_ref()?;
    let terms = required.node_selector_terms.iter();
    let mut wanted = terms.flat_map(|term| term.match_expressions.iter().flatten());
    wanted
        .find(|e| e.key == HOSTNAME)?
        .values
        .as_ref()?
        .first()
        .cloned()
}

fn volume(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    node: &str,
    directory: &str,
    path: &str,
) -> Value {
    let spec = claim.spec.as_ref();
    let requests = spec.and_then(|spec| spec.resources.as_ref()?.requests.as_ref());
    json!({
        "apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {
            "name": format!("pvc-{}", claim.uid().unwrap_or_default()),
            "annotations": {claims::PROVISIONED_BY: PROVISIONER, DIRECTORY: directory},
        },
        "spec": {
            "capacity": {"storage": requests.and_then(|requests| requests.get("storage"))},
            "accessModes": claims::modes(claim),
            "volumeMode": "Filesystem",
            "storageClassName": class.name_any(),
            "persistentVolumeReclaimPolicy": class.reclaim_policy.as_deref().unwrap_or("Delete"),
            "claimRef": bind::reference(claim),
            "local": {"path": path},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": HOSTNAME, "operator": "In", "values": [node]}]}]}},
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(spec: Value) -> PersistentVolumeClaim {
        let mut claim = json!({"metadata": {"name": "c", "namespace": "n", "uid": "u"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
        json_patch::merge(&mut claim["spec"], &spec);
        serde_json::from_value(claim).expect("a claim")
    }

    #[test]
    fn what_a_directory_cannot_be_is_refused() {
        assert_eq!(refusal(&claim(json!({}))), None);
        for spec in [
            json!({"accessModes": ["ReadWriteMany"]}),
            json!({"volumeMode": "Block"}),
            json!({"selector": {}}),
            json!({"dataSource": {"kind": "PersistentVolumeClaim", "name": "other"}}),
        ] {
            assert!(refusal(&claim(spec.clone())).is_some(), "{spec}");
        }
    }

    #[test]
    fn a_volume_is_its_claims_on_its_node() {
        let class =
            json!({"metadata": {"name": CLASS}, "provisioner": PROVISIONER, "reclaimPolicy": "Retain"});
        let class: StorageClass = serde_json::from_value(class).expect("a class");
        let made_of = volume(&claim(json!({})), &class, "n1", "pvc-u_n_c", "/data/pvc-u_n_c");
        let volume: PersistentVolume = serde_json::from_value(made_of).expect("a volume");
        assert!(made(&volume));
        assert_eq!(node_of(&volume).as_deref(), Some("n1"));
        assert!(claims::is_for(&volume, &claim(json!({}))));
        let spec = volume.spec.expect("a spec");
        assert_eq!(spec.persistent_volume_reclaim_policy.as_deref(), Some("Retain"));
    }
}

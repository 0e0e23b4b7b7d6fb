//! Which objects the Pods of a node refer to.
//!
//! Looked up when asked: a node has few Pods, and asks when it starts one.
use crate::auth::reader::Reader;
use serde_json::Value;

/// What an object would have to be to a Pod of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    Pod,
    Secret,
    ConfigMap,
    Claim,
    /// A PersistentVolume, through the claim that it is bound to.
    Volume,
    ResourceClaim,
    ServiceAccount,
    /// A VolumeAttachment to the node.
    Attachment,
}

/// Marks a Pod that a node itself made from a file: it grants its node nothing.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Whether a Pod on the node refers to this object (or is it).
pub fn exists(reader: &dyn Reader, node: &str, relation: Relation, namespace: &str, name: &str) -> bool {
    match relation {
        Relation::Volume => return volume(reader, node, name),
        Relation::Attachment => {
            let found = reader.get(("storage.k8s.io", "volumeattachments"), None, name);
            return found.is_some_and(|attachment| attachment["spec"]["nodeName"] == node);
        }
        _ => {}
    }
    reader
        .pods_on(node, namespace)
        .iter()
        .filter(|pod| relation == Relation::Pod || pod["metadata"]["annotations"].get(MIRROR).is_none())
        .any(|pod| refers(pod, relation, name))
}

fn volume(reader: &dyn Reader, node: &str, name: &str) -> bool {
    let Some(volume) = reader.get(("", "persistentvolumes"), None, name) else {
        return false;
    };
    let claim = &volume["spec"]["claimRef"];
    match (claim["namespace"].as_str(), claim["name"].as_str()) {
        (Some(namespace), Some(claim)) => exists(reader, node, Relation::Claim, namespace, claim),
        _ => false,
    }
}

fn refers(pod: &Value, relation: Relation, name: &str) -> bool {
    let spec = &pod["spec"];
    match relation {
        Relation::Pod => pod["metadata"]["name"] == name,
        Relation::ServiceAccount => spec["serviceAccountName"] == name,
        Relation::Secret => {
            named(&spec["imagePullSecrets"], &["name"], name)
                || volumes(spec, |volume| volume_secret(volume, name))
                || environment(spec, "secretRef", "secretKeyRef", name)
        }
        Relation::ConfigMap => {
            volumes(spec, |volume| {
                volume["configMap"]["name"] == name
                    || named(&volume["projected"]["sources"], &["configMap", "name"], name)
            }) || environment(spec, "configMapRef", "configMapKeyRef", name)
        }
        Relation::Claim => volumes(spec, |volume| {
            volume["persistentVolumeClaim"]["claimName"] == name || is_ephemeral_claim(pod, volume, name)
        }),
        Relation::ResourceClaim => {
            named(&spec["resourceClaims"], &["resourceClaimName"], name)
                || named(
                    &pod["status"]["resourceClaimStatuses"],
                    &["resourceClaimName"],
                    name,
                )
        }
        Relation::Volume | Relation::Attachment => false,
    }
}

fn volume_secret(volume: &Value, name: &str) -> bool {
    let by_reference = [
        "azureFile",
        "cephfs",
        "cinder",
        "flexVolume",
        "iscsi",
        "rbd",
        "scaleIO",
        "storageos",
    ];
    volume["secret"]["secretName"] == name
        || volume["azureFile"]["secretName"] == name
        || volume["csi"]["nodePublishSecretRef"]["name"] == name
        || named(&volume["projected"]["sources"], &["secret", "name"], name)
        || by_reference
            .iter()
            .any(|kind| volume[*kind]["secretRef"]["name"] == name)
}

/// The claim that an ephemeral volume has of its own: `POD-VOLUME`.
fn is_ephemeral_claim(pod: &Value, volume: &Value, name: &str) -> bool {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    volume["ephemeral"]["volumeClaimTemplate"].is_object()
        && format!("{}-{}", text(&pod["metadata"]["name"]), text(&volume["name"])) == name
}

fn volumes(spec: &Value, holds: impl Fn(&Value) -> bool) -> bool {
    spec["volumes"].as_array().into_iter().flatten().any(holds)
}

/// Whether an element of the list has the name at this path.
fn named(list: &Value, path: &[&str], name: &str) -> bool {
    let at = |element: &Value| {
        path.iter()
            .fold(element.clone(), |value, key| value[*key].clone())
            == name
    };
    list.as_array().into_iter().flatten().any(at)
}

/// Whether the environment of a container comes from the object.
fn environment(spec: &Value, whole: &str, key: &str, name: &str) -> bool {
    let lists = ["containers", "initContainers", "ephemeralContainers"];
    lists
        .iter()
        .flat_map(|list| spec[*list].as_array().into_iter().flatten())
        .any(|container| {
            named(&container["envFrom"], &[whole, "name"], name)
                || named(&container["env"], &["valueFrom", key, "name"], name)
        })
}

//! Volumes that must be attached to this node before its driver can have them (`CSIDriver.spec.attachRequired`).
//!
//! Flow, as upstream's (`VerifyControllerAttachedVolume`, `WaitForAttach`): the node says in `status.volumesInUse` that it uses
//! the volume → only then it believes `status.volumesAttached` and the VolumeAttachment. The control plane says first that a
//! volume is not attached any more and looks then who uses it: one of the two always sees the other. Refuses to know who
//! attaches.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, NodeStatus};
use k8s_openapi::api::storage::v1::VolumeAttachment;
use kube::{Api, Client};
use tokio::time::Instant;

use super::Wish;
use super::published::unique_name;
use crate::images::Digest;

/// How long a try waits; what is not attached by then is told as an event, and tried again.
const LIMIT: Duration = Duration::from_secs(10);
/// Pauses between two looks: a node may not watch attachments.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Why a volume is not there yet.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error("cannot read node {node}: {source}")]
    Node { node: String, source: Box<kube::Error> },
    #[error("Volume has not been added to the list of VolumesInUse in the node's volume status")]
    NotReported,
    #[error("volume {id} has GET error for volume attachment {attachment}: {source}")]
    Get {
        id: String,
        attachment: String,
        source: Box<kube::Error>,
    },
    #[error("volume attachment is being deleted")]
    Leaving,
    #[error("{0}")]
    Refused(String),
    #[error(
        "volume {id} is not attached for volume attachment {attachment}: waiting for the external-attacher of driver {driver}"
    )]
    NotAttached {
        id: String,
        attachment: String,
        driver: String,
    },
    #[error("Volume not attached according to node status")]
    NotInStatus,
}

impl AttachError {
    /// Somebody said no; waiting does not help until he tries again.
    fn is_refusal(&self) -> bool {
        matches!(self, AttachError::Refused(_))
    }
}

/// The name of the VolumeAttachment of a volume and a node (upstream's `getAttachmentName`).
fn name(id: &str, driver: &str, node: &str) -> String {
    format!(
        "csi-{}",
        Digest::of(format!("{id}{driver}{node}").as_bytes()).hex()
    )
}

/// Waits until the volume is attached; says what its driver's controller left for its node (`publish_context`).
pub async fn wait(client: &Client, node: &str, wish: &Wish) -> Result<BTreeMap<String, String>, AttachError> {
    let deadline = Instant::now() + LIMIT;
    let mut pause = FIRST_PAUSE;
    loop {
        match look(client, node, wish).await {
            Err(error) if error.is_refusal() || Instant::now() + pause > deadline => return Err(error),
            Err(_) => tokio::time::sleep(pause).await,
            found => return found,
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn look(client: &Client, node: &str, wish: &Wish) -> Result<BTreeMap<String, String>, AttachError> {
    let nodes: Api<Node> = Api::all(client.clone());
    let found = nodes.get(node).await.map_err(|source| AttachError::Node {
        node: node.to_owned(),
        source: Box::new(source),
    })?;
    let status = found.status.unwrap_or_default();
    let volume = unique_name(&wish.driver, &wish.id);
    if !status.volumes_in_use.iter().flatten().any(|used| *used == volume) {
        return Err(AttachError::NotReported);
    }
    let attachments: Api<VolumeAttachment> = Api::all(client.clone());
    let name = name(&wish.id, &wish.driver, node);
    let found = attachments.get(&name).await.map_err(|source| AttachError::Get {
        id: wish.id.clone(),
        attachment: name.clone(),
        source: Box::new(source),
    })?;
    judge(&found, &status, wish)
}

/// What the two objects say, in the order of upstream's `verifyAttachmentStatus`.
fn judge(
    attachment: &VolumeAttachment,
    node: &NodeStatus,
    wish: &Wish,
) -> Result<BTreeMap<String, String>, AttachError> {
    if attachment.metadata.deletion_timestamp.is_some() {
        return Err(AttachError::Leaving);
    }
    let status = attachment.status.clone().unwrap_or_default();
    if !status.attached {
        return Err(match status.attach_error.and_then(|error| error.message) {
            Some(message) => AttachError::Refused(message),
            None => AttachError::NotAttached {
                id: wish.id.clone(),
                attachment: attachment.metadata.name.clone().unwrap_or_default(),
                driver: wish.driver.clone(),
            },
        });
    }
    let volume = unique_name(&wish.driver, &wish.id);
    match node.volumes_attached.iter().flatten().any(|a| a.name == volume) {
        true => Ok(status.attachment_metadata.unwrap_or_default()),
        false => Err(AttachError::NotInStatus),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn names_are_upstreams() {
        // From its `csi_attacher_test.go`: the SHA-256 of the three, without anything between them.
        let expected = Digest::of(b"vol-1driver-1node-1").hex().to_owned();
        assert_eq!(name("vol-1", "driver-1", "node-1"), format!("csi-{expected}"));
        assert_eq!(unique_name("d", "h"), "kubernetes.io/csi/d^h");
    }

    #[test]
    fn only_what_both_objects_call_attached_is() {
        let wish = Wish {
            driver: "d".into(),
            id: "h".into(),
            ..Wish::default()
        };
        let judged = |attachment: Value, attached: &[&str]| {
            let mut object = json!({"metadata": {"name": "csi-1"}, "spec": {"attacher": "d", "nodeName": "n", "source": {}}});
            object["status"] = attachment["status"].clone();
            object["metadata"]["deletionTimestamp"] = attachment["deleted"].clone();
            let attached: Vec<Value> = attached
                .iter()
                .map(|name| json!({"name": name, "devicePath": ""}))
                .collect();
            let node = serde_json::from_value(json!({"volumesAttached": attached})).unwrap();
            let found = judge(&serde_json::from_value(object).unwrap(), &node, &wish);
            found.map_err(|error| error.to_string())
        };
        let there = json!({"status": {"attached": true, "attachmentMetadata": {"lun": "3"}}});
        let ours = ["kubernetes.io/csi/d^h"];
        assert_eq!(
            judged(there.clone(), &ours),
            Ok([("lun".to_owned(), "3".to_owned())].into())
        );
        assert_eq!(
            judged(there.clone(), &["kubernetes.io/csi/d^other"]),
            Err("Volume not attached according to node status".into())
        );
        let mut leaving = there;
        leaving["deleted"] = json!("2026-01-01T00:00:00Z");
        assert_eq!(
            judged(leaving, &ours),
            Err("volume attachment is being deleted".into())
        );
        let refused = json!({"status": {"attached": false, "attachError": {"message": "no slot is free"}}});
        assert_eq!(judged(refused, &ours), Err("no slot is free".into()));
        let waiting = judged(json!({"status": {"attached": false}}), &ours).unwrap_err();
        assert_eq!(
            waiting,
            "volume h is not attached for volume attachment csi-1: waiting for the external-attacher of driver d"
        );
    }
}

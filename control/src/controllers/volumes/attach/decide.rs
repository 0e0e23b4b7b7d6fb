//! What is due for the attachments of one node: pure.
use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Node, PersistentVolume};
use k8s_openapi::api::storage::v1::VolumeAttachment;
use kube::ResourceExt;
use sha2::{Digest, Sha256};

use crate::toolkit::{nodes, taints};

/// Names of attachments that a controller makes.
const PREFIX: &str = "csi-";

/// A volume of a CSI driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// The PersistentVolume.
    pub name: String,
    pub driver: String,
    pub handle: String,
    /// Only one node may have it at a time (upstream's `IsMultiAttachAllowed`).
    pub exclusive: bool,
}

impl Volume {
    pub fn of(volume: &PersistentVolume) -> Option<Volume> {
        let spec = volume.spec.as_ref()?;
        let source = spec.csi.as_ref()?;
        let modes = spec.access_modes.as_deref().unwrap_or_default();
        let shared = |mode: &String| matches!(mode.as_str(), "ReadWriteMany" | "ReadOnlyMany");
        Some(Volume {
            name: volume.name_any(),
            driver: source.driver.clone(),
            handle: source.volume_handle.clone(),
            exclusive: !modes.is_empty() && !modes.iter().any(shared),
        })
    }

    /// What the lists in a node's status call it (upstream's `UniqueVolumeName`).
    pub fn unique(&self) -> String {
        format!("{}{}", of_driver(&self.driver), self.handle)
    }

    /// The name of its attachment to a node (upstream's `getAttachmentName`).
    pub fn attachment(&self, node: &str) -> String {
        let digest = Sha256::digest(format!("{}{}{node}", self.handle, self.driver));
        format!("{PREFIX}{}", hex::encode(digest))
    }
}

fn of_driver(driver: &str) -> String {
    format!("kubernetes.io/csi/{driver}^")
}

/// A VolumeAttachment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attachment {
    pub name: String,
    pub node: String,
    pub driver: String,
    /// Its volume, while there is one.
    pub unique: Option<String>,
    pub attached: bool,
    pub leaving: bool,
}

impl Attachment {
    /// None for one that somebody else made for himself, under a name of his own; `volume` is the one it is of.
    pub fn of(attachment: &VolumeAttachment, volume: Option<&Volume>) -> Option<Attachment> {
        let (name, spec) = (attachment.name_any(), &attachment.spec);
        let ours = match volume {
            Some(volume) => name == volume.attachment(&spec.node_name),
            None => name
                .strip_prefix(PREFIX)
                .is_some_and(|rest| hex::decode(rest).is_ok_and(|digest| digest.len() == 32)),
        };
        ours.then(|| Attachment {
            name,
            node: spec.node_name.clone(),
            driver: spec.attacher.clone(),
            unique: volume.map(Volume::unique),
            attached: attachment.status.as_ref().is_some_and(|status| status.attached),
            leaving: attachment.metadata.deletion_timestamp.is_some(),
        })
    }
}

/// A node, as far as volumes hang on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    pub ready: bool,
    pub out_of_service: bool,
    pub in_use: BTreeSet<String>,
    pub attached: BTreeSet<String>,
}

impl Host {
    pub fn of(node: &Node) -> Host {
        let status = node.status.clone().unwrap_or_default();
        let attached = status.volumes_attached.into_iter().flatten();
        Host {
            ready: nodes::is_ready(node),
            out_of_service: taints::is_out_of_service(node),
            in_use: status.volumes_in_use.into_iter().flatten().collect(),
            attached: attached.map(|attached| attached.name).collect(),
        }
    }

    /// Whether the node says that it uses what is attached; of a volume that is gone only its driver is known.
    pub fn uses(&self, attachment: &Attachment) -> bool {
        match &attachment.unique {
            Some(unique) => self.in_use.contains(unique),
            None => {
                let driver = of_driver(&attachment.driver);
                self.in_use.iter().any(|used| used.starts_with(&driver))
            }
        }
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub attach: Vec<Volume>,
    /// Volumes that other nodes have.
    pub blocked: Vec<(Volume, Vec<String>)>,
    pub detach: Vec<Attachment>,
    /// Nobody wants them here, but the node does not say that it has let go.
    pub held: Vec<String>,
    /// What the node may believe to be attached.
    pub attached: BTreeSet<String>,
}

/// Upstream's `reconcile`, for one node: `wanted` by its Pods, by unique name; `all` the attachments there are, to the node and
/// of what is wanted at least. `overdue` says of an attachment that it has been held long enough.
pub fn plan(
    node: &str,
    host: Option<&Host>,
    wanted: &BTreeMap<String, Volume>,
    all: &[Attachment],
    overdue: impl Fn(&str) -> bool,
) -> Plan {
    let mut plan = Plan::default();
    let (here, elsewhere): (Vec<_>, Vec<_>) = all.iter().partition(|attachment| attachment.node == node);
    for attachment in here.iter().filter(|attachment| !attachment.leaving) {
        let unique = attachment.unique.clone();
        let is_wanted = unique.as_ref().is_some_and(|unique| wanted.contains_key(unique));
        if !is_wanted && may_go(host, attachment, &overdue) {
            plan.detach.push((*attachment).clone());
            continue;
        }
        if !is_wanted {
            plan.held.push(attachment.name.clone());
        }
        plan.attached.extend(unique.filter(|_| attachment.attached));
    }
    for (unique, volume) in wanted.iter().filter(|_| host.is_some()) {
        let same = |attachment: &&&Attachment| attachment.unique.as_ref() == Some(unique);
        if here.iter().any(|attachment| same(&attachment)) {
            continue;
        }
        let others = elsewhere.iter().filter(same).map(|other| other.node.clone());
        let others: Vec<String> = others.filter(|_| volume.exclusive).collect();
        match others.is_empty() {
            true => plan.attach.push(volume.clone()),
            false => plan.blocked.push((volume.clone(), others)),
        }
    }
    plan
}

/// Of a node that is gone or silent it is not known what it uses, until it has been so for long.
fn may_go(host: Option<&Host>, attachment: &Attachment, overdue: impl Fn(&str) -> bool) -> bool {
    match host {
        None => overdue(&attachment.name),
        Some(host) if host.out_of_service || !host.uses(attachment) => true,
        Some(host) => !host.ready && overdue(&attachment.name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn volume(handle: &str, exclusive: bool) -> Volume {
        Volume {
            name: format!("pv-{handle}"),
            driver: "d".into(),
            handle: handle.into(),
            exclusive,
        }
    }

    fn attachment(handle: &str, node: &str) -> Attachment {
        Attachment {
            name: volume(handle, true).attachment(node),
            node: node.into(),
            driver: "d".into(),
            unique: Some(volume(handle, true).unique()),
            attached: true,
            leaving: false,
        }
    }

    fn wanted(volumes: &[Volume]) -> BTreeMap<String, Volume> {
        volumes.iter().map(|v| (v.unique(), v.clone())).collect()
    }

    fn host(in_use: &[&str]) -> Host {
        Host {
            ready: true,
            in_use: in_use
                .iter()
                .map(|handle| volume(handle, true).unique())
                .collect(),
            ..Host::default()
        }
    }

    #[test]
    fn what_pods_want_is_attached_once_and_to_one_node_at_a_time() {
        let (one, many) = (volume("one", true), volume("many", false));
        let elsewhere = [attachment("one", "b"), attachment("many", "b")];
        let both = wanted(&[one.clone(), many.clone()]);
        let made = plan("a", Some(&host(&[])), &both, &elsewhere, |_| false);
        assert_eq!(made.attach, std::slice::from_ref(&many));
        assert_eq!(made.blocked, [(one.clone(), vec!["b".to_owned()])]);
        let here = [attachment("one", "a"), attachment("many", "a")];
        let made = plan("a", Some(&host(&[])), &both, &here, |_| false);
        assert_eq!((made.attach, made.blocked, made.detach), (vec![], vec![], vec![]));
        assert_eq!(made.attached, [many.unique(), one.unique()].into());
        let mut leaving = attachment("one", "a");
        leaving.leaving = true;
        let made = plan("a", Some(&host(&[])), &wanted(&[one]), &[leaving], |_| false);
        assert_eq!(made, Plan::default(), "it is attached anew when it is gone");
        let gone = plan("a", None, &both, &[], |_| false);
        assert_eq!(gone, Plan::default(), "there is no such node");
    }

    #[test]
    fn what_nobody_wants_goes_when_the_node_has_let_go_of_it() {
        let all = [attachment("one", "a")];
        let detached = |host: Option<Host>, overdue: bool| {
            let made = plan("a", host.as_ref(), &BTreeMap::new(), &all, |_| overdue);
            assert_eq!(made.held.is_empty(), !made.detach.is_empty());
            assert_eq!(made.attached.is_empty(), !made.detach.is_empty());
            !made.detach.is_empty()
        };
        let silent = Host {
            ready: false,
            ..host(&["one"])
        };
        let off = Host {
            out_of_service: true,
            ..silent.clone()
        };
        for (host, overdue, expected) in [
            (Some(host(&[])), false, true),
            (Some(host(&["one"])), false, false),
            (Some(host(&["one"])), true, false),
            (Some(silent.clone()), false, false),
            (Some(silent), true, true),
            (Some(off), false, true),
            (None, false, false),
            (None, true, true),
        ] {
            assert_eq!(detached(host.clone(), overdue), expected, "{host:?} {overdue}");
        }
    }

    #[test]
    fn attachments_of_others_are_left_alone() {
        let volume = volume("h", true);
        let of = |name: &str, volume: Option<&Volume>| {
            let object = json!({"metadata": {"name": name}, "spec": {"attacher": "d", "nodeName": "a",
                "source": {"persistentVolumeName": "pv-h"}}, "status": {"attached": true}});
            Attachment::of(&serde_json::from_value(object).expect("an attachment"), volume)
        };
        let ours = volume.attachment("a");
        assert_eq!(ours.len(), "csi-".len() + 64);
        assert_eq!(of(&ours, Some(&volume)), Some(attachment("h", "a")));
        assert_eq!(of("mine", Some(&volume)), None);
        assert_eq!(of("mine", None), None);
        let orphan = of(&ours, None).expect("made by a controller");
        assert!(host(&["x"]).uses(&orphan), "it may be any volume of its driver");
        assert!(!host(&[]).uses(&orphan));
    }
}

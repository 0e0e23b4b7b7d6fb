//! The Node object: labels, capacity, conditions with upstream's reasons and messages. Pure but for reading
//! how full disk, memory and process table are.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeFeatures,
    NodeRuntimeHandler, NodeRuntimeHandlerFeatures, NodeSpec, NodeStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::Value;

use crate::csi::Csi;
use crate::host::{self, Host};
use crate::hugepages;
use crate::images::{Image, Images};
use crate::pods::handler;
use crate::pressure::NodeState;
use crate::pressure::thresholds::{Limits, Signal};
use crate::quantity;
use crate::users;

/// The Kubernetes version this agent speaks, with whose it is.
pub const KUBELET_VERSION: &str = "v1.36.2+amphipod";
/// Images a status shows; upstream's nodeStatusMaxImages.
const MAX_IMAGES: usize = 50;

/// What a Node object is made from.
pub struct Facts {
    pub name: String,
    pub host: Host,
    pub images: Images,
    pub ip: Option<IpAddr>,
    pub kubelet_port: u16,
    pub labels: BTreeMap<String, String>,
    pub max_pods: u32,
    /// On the file system that volumes and logs share.
    pub root_dir: PathBuf,
    /// Short of something, or ending.
    pub state: NodeState,
    /// What is kept free for the host: Pods do not get it.
    pub limits: Limits,
    /// Whose volumes are in use.
    pub csi: Csi,
    /// Of whose addresses its Pods have some, once that is settled.
    pub pod_cidr: Option<IpNet>,
}

/// The object to create. One that somebody deleted under a running agent comes back with the range of addresses that its Pods
/// have: another would be given to the next node as well.
pub fn object(facts: &Facts) -> Node {
    let range = facts.pod_cidr.as_ref().map(ToString::to_string);
    let spec = range.map(|range| NodeSpec {
        pod_cidrs: Some(vec![range.clone()]),
        pod_cidr: Some(range),
        ..NodeSpec::default()
    });
    Node {
        spec,
        metadata: ObjectMeta {
            name: Some(facts.name.clone()),
            labels: Some(labels(facts)),
            ..ObjectMeta::default()
        },
        ..Node::default()
    }
}

fn labels(facts: &Facts) -> BTreeMap<String, String> {
    let arch = facts.host.architecture;
    let known = [
        ("beta.kubernetes.io/arch", arch),
        ("beta.kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", arch),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/hostname", facts.name.as_str()),
    ];
    let known = known.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned()));
    facts.labels.clone().into_iter().chain(known).collect()
}

/// All there is.
pub fn capacity(facts: &Facts) -> BTreeMap<String, Quantity> {
    let disk = host::disk(&facts.root_dir).map_or(0, |d| d.bytes);
    let huge = facts.host.huge_pages.iter();
    let huge = huge.map(|pool| (hugepages::resource(pool.page), quantity::of_bytes(pool.bytes)));
    [
        ("cpu", facts.host.processors.to_string()),
        ("memory", format!("{}Ki", facts.host.memory_bytes / 1024)),
        ("pods", facts.max_pods.to_string()),
        ("ephemeral-storage", format!("{}Ki", disk / 1024)),
    ]
    .into_iter()
    .map(|(name, amount)| (name.to_owned(), Quantity(amount)))
    .chain(huge)
    .collect()
}

/// What Pods may ask for: all but what is kept free for the host, as upstream reckons it.
pub fn allocatable(facts: &Facts) -> BTreeMap<String, Quantity> {
    let mut left = capacity(facts);
    let memory = facts.host.memory_bytes;
    let huge: u64 = facts.host.huge_pages.iter().map(|pool| pool.bytes).sum();
    let memory = memory.saturating_sub(facts.limits.least(Signal::MemoryAvailable, memory));
    let memory = memory.saturating_sub(huge);
    left.insert("memory".to_owned(), Quantity(format!("{}Ki", memory / 1024)));
    let disk = host::disk(&facts.root_dir).map_or(0, |disk| disk.bytes);
    let disk = disk.saturating_sub(facts.limits.least(Signal::NodeFsAvailable, disk));
    left.insert("ephemeral-storage".to_owned(), Quantity(disk.to_string()));
    left
}

/// What this node can do that one of an older version could not (KEP-5328), in order: schedulers ask, and admission of resizes.
const DECLARED_FEATURES: [&str; 3] = [
    "InPlacePodLevelResourcesVerticalScaling",
    "InPlacePodVerticalScalingInitContainers",
    "RestartAllContainersOnContainerExits",
];

/// The whole status; `old` conditions keep their transition times.
pub fn status(facts: &Facts, old: &[NodeCondition], now: Timestamp) -> NodeStatus {
    let address = |kind: &str, address: String| NodeAddress {
        type_: kind.to_owned(),
        address,
    };
    NodeStatus {
        addresses: Some(
            facts
                .ip
                .map(|ip| address("InternalIP", ip.to_string()))
                .into_iter()
                .chain([address("Hostname", facts.name.clone())])
                .collect(),
        ),
        capacity: Some(capacity(facts)),
        allocatable: Some(allocatable(facts)),
        conditions: Some(conditions(&facts.state, old, now)),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint {
                port: i32::from(facts.kubelet_port),
            }),
        }),
        images: Some(images(facts)),
        features: Some(NodeFeatures {
            supplemental_groups_policy: Some(true),
        }),
        declared_features: Some(DECLARED_FEATURES.map(str::to_owned).to_vec()),
        runtime_handlers: Some(handlers()),
        volumes_in_use: volumes_in_use(facts),
        node_info: Some(NodeSystemInfo {
            architecture: facts.host.architecture.to_owned(),
            boot_id: facts.host.boot_id.clone(),
            container_runtime_version: format!("amphipod://{}", env!("CARGO_PKG_VERSION")),
            kernel_version: facts.host.kernel.clone(),
            kube_proxy_version: String::new(),
            kubelet_version: KUBELET_VERSION.to_owned(),
            machine_id: facts.host.machine_id.clone(),
            operating_system: "linux".to_owned(),
            os_image: facts.host.os_image.clone(),
            swap: None,
            system_uuid: facts.host.system_uuid.clone(),
        }),
        ..NodeStatus::default()
    }
}

/// The attached volumes that Pods here use. A list that was there and is empty now is said to be empty.
fn volumes_in_use(facts: &Facts) -> Option<Vec<String>> {
    let used = facts.csi.in_use();
    let seen = facts.state.node();
    let seen = seen.as_ref().and_then(|node| node.status.as_ref());
    let was = seen.and_then(|status| status.volumes_in_use.as_ref());
    (!used.is_empty() || was.is_some_and(|was| !was.is_empty())).then_some(used)
}

/// What each runtime handler offers; that without a name is for Pods that name no RuntimeClass.
fn handlers() -> Vec<NodeRuntimeHandler> {
    let user_namespaces = users::obstacle().is_none();
    let handler = |name: &str| NodeRuntimeHandler {
        name: Some(name.to_owned()),
        features: Some(NodeRuntimeHandlerFeatures {
            recursive_read_only_mounts: Some(true),
            user_namespaces: Some(user_namespaces),
        }),
    };
    handler::names().map(handler).collect()
}

/// The largest images of the node's store, each with its digest and its names.
fn images(facts: &Facts) -> Vec<ContainerImage> {
    let all = facts.images.list().unwrap_or_else(|error| {
        tracing::warn!(%error, "the node's images are not reported");
        Vec::new()
    });
    shown_images(&all)
}

fn shown_images(all: &[Image]) -> Vec<ContainerImage> {
    let mut by_digest: BTreeMap<&str, ContainerImage> = BTreeMap::new();
    for image in all {
        let shown = by_digest
            .entry(&image.repo_digest)
            .or_insert_with(|| ContainerImage {
                names: Some(vec![image.repo_digest.clone()]),
                size_bytes: i64::try_from(image.size).ok(),
            });
        let names = shown.names.get_or_insert_default();
        if !names.contains(&image.reference) {
            names.push(image.reference.clone());
        }
    }
    let mut shown: Vec<ContainerImage> = by_digest.into_values().collect();
    shown.sort_by_key(|image| std::cmp::Reverse(image.size_bytes));
    shown.truncate(MAX_IMAGES);
    shown
}

/// A condition's type, status, reason and message.
type Said = (&'static str, bool, &'static str, &'static str);

fn conditions(state: &NodeState, old: &[NodeCondition], now: Timestamp) -> Vec<NodeCondition> {
    let pressure = state.pressure();
    let said: [Said; 4] = [
        match pressure.memory {
            false => (
                "MemoryPressure",
                false,
                "KubeletHasSufficientMemory",
                "kubelet has sufficient memory available",
            ),
            true => (
                "MemoryPressure",
                true,
                "KubeletHasInsufficientMemory",
                "kubelet has insufficient memory available",
            ),
        },
        match pressure.disk {
            false => (
                "DiskPressure",
                false,
                "KubeletHasNoDiskPressure",
                "kubelet has no disk pressure",
            ),
            true => (
                "DiskPressure",
                true,
                "KubeletHasDiskPressure",
                "kubelet has disk pressure",
            ),
        },
        match pressure.pids {
            false => (
                "PIDPressure",
                false,
                "KubeletHasSufficientPID",
                "kubelet has sufficient PID available",
            ),
            true => (
                "PIDPressure",
                true,
                "KubeletHasInsufficientPID",
                "kubelet has insufficient PID available",
            ),
        },
        match state.is_shutting_down() {
            false => ("Ready", true, "KubeletReady", "kubelet is posting ready status"),
            true => ("Ready", false, "KubeletNotReady", "node is shutting down"),
        },
    ];
    said.into_iter().map(|said| dated(said, old, now)).collect()
}

fn dated((kind, holds, reason, message): Said, old: &[NodeCondition], now: Timestamp) -> NodeCondition {
    let status = if holds { "True" } else { "False" };
    let before = old.iter().find(|c| c.type_ == kind && c.status == status);
    NodeCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_heartbeat_time: Some(Time(now)),
        last_transition_time: Some(
            before
                .and_then(|c| c.last_transition_time.clone())
                .unwrap_or(Time(now)),
        ),
    }
}

/// A status as JSON without what changes at every look.
pub fn without_heartbeats(mut status: Value) -> Value {
    for condition in status["conditions"].as_array_mut().into_iter().flatten() {
        condition["lastHeartbeatTime"] = Value::Null;
        condition["lastTransitionTime"] = Value::Null;
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_shown_once_with_its_names_the_largest_first() {
        let image = |reference: &str, repo_digest: &str, size| {
            let digest = format!("sha256:{}", "0".repeat(64));
            let image = serde_json::json!({"reference": reference, "id": digest, "digest": digest, "manifest": digest,
                "repo_digest": repo_digest, "size": size, "kind": "Native", "config": {}, "layers": [], "blobs": []});
            serde_json::from_value::<Image>(image).unwrap()
        };
        let shown = shown_images(&[
            image("r/a:1", "r/a@d1", 5),
            image("r/a:2", "r/a@d1", 5),
            image("r/b@d2", "r/b@d2", 9),
        ]);
        let seen: Vec<_> = shown
            .iter()
            .map(|image| (image.names.clone().unwrap().join(" "), image.size_bytes))
            .collect();
        assert_eq!(
            seen,
            [
                ("r/b@d2".to_owned(), Some(9)),
                ("r/a@d1 r/a:1 r/a:2".to_owned(), Some(5))
            ]
        );
    }

    #[test]
    fn a_transition_is_dated_and_kept() {
        let at = |s| Timestamp::from_second(s).unwrap();
        let calm = NodeState::default();
        let first = conditions(&calm, &[], at(1));
        let second = conditions(&calm, &first, at(2));
        let time = |list: &[NodeCondition], kind: &str| {
            let found = list.iter().find(|c| c.type_ == kind).unwrap();
            (
                found.status.clone(),
                found.last_transition_time.clone().unwrap().0,
            )
        };
        assert_eq!(time(&second, "Ready"), ("True".into(), at(1)));
        let ending = NodeState::default();
        ending.shut_down();
        let ending = conditions(&ending, &second, at(3));
        assert_eq!(time(&ending, "Ready"), ("False".into(), at(3)));
        assert_eq!(time(&ending, "DiskPressure"), ("False".into(), at(1)));
    }
}

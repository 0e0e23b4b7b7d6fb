//! Whether this node takes a Pod that was given to it: upstream's kubelet asks some of the scheduler's questions once more,
//! since a Pod may come with a node of its own choice (`spec.nodeName`). Owns the ports of the host that Pods ask for;
//! reasons and messages are the kubelet's (pkg/kubelet/lifecycle). Refuses to know how ports are opened.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use k8s_openapi::api::core::v1::{ContainerPort, Pod};

use super::context::Context;
use super::qos;
use super::record::subdirectories;
use super::sandbox::{POD_FILE, VOLUMES};
use super::view::{PodView, Role};
use crate::network::services::Protocol;
use crate::network::{HostPort, Network, NftError};
use crate::pressure;

/// Why a Pod is not taken: the reason of its status, and what its event says.
#[derive(Debug, PartialEq, Eq)]
pub struct Rejection {
    pub reason: &'static str,
    pub message: String,
}

/// The taint whose toleration lets a Pod that asks for nothing come while memory is short.
const MEMORY_TAINT: &str = "node.kubernetes.io/memory-pressure";

/// Takes the Pod, and claims what it needs of the host. One that has its place already (after a restart of the agent) keeps it.
pub fn admit(ctx: &Context, pod: PodView<'_>) -> Result<(), Rejection> {
    if !ctx.dirs(pod).root.exists() {
        state(ctx, pod)?;
    }
    ports(&ctx.network, pod)
}

/// A node that ends, or is short of something, takes no more.
fn state(ctx: &Context, pod: PodView<'_>) -> Result<(), Rejection> {
    if ctx.state.is_shutting_down() {
        return Err(Rejection {
            reason: "NodeShutdown",
            message: "Pod was rejected as the node is shutting down.".into(),
        });
    }
    if pressure::rank::is_critical(pod.pod) {
        return Ok(());
    }
    let best_effort = qos::class(pod.spec) == qos::BEST_EFFORT;
    let refusal = pressure::refusal(ctx.state.pressure(), best_effort, tolerates_memory_pressure(pod));
    refusal.map_or(Ok(()), |message| {
        Err(Rejection {
            reason: "Evicted",
            message,
        })
    })
}

fn tolerates_memory_pressure(pod: PodView<'_>) -> bool {
    pod.spec.tolerations.iter().flatten().any(|toleration| {
        let key = toleration.key.as_deref().unwrap_or_default();
        let exists = toleration.operator.as_deref() == Some("Exists");
        let effect = toleration.effect.as_deref().unwrap_or_default();
        let named = key == MEMORY_TAINT || (key.is_empty() && exists);
        let valued = exists || toleration.value.as_deref().unwrap_or_default().is_empty();
        named && valued && (effect.is_empty() || effect == "NoSchedule")
    })
}

fn ports(network: &Network, pod: PodView<'_>) -> Result<(), Rejection> {
    let claimed = network.claim_ports(pod.uid(), host_ports(pod));
    claimed.map_err(|taken| {
        tracing::debug!(%taken, pod = %pod.full_name(), "the Pod is not admitted");
        Rejection {
            reason: "NodePorts",
            message: "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"
                .into(),
        }
    })
}

/// The host's ports that containers which stay ask for. In the host's network all that they listen on is the host's.
fn host_ports(pod: PodView<'_>) -> Vec<HostPort> {
    let staying = pod.containers().filter(|(_, role)| *role != Role::Init);
    staying
        .flat_map(|(container, _)| container.ports.iter().flatten())
        .filter_map(host_port)
        .collect()
}

fn host_port(port: &ContainerPort) -> Option<HostPort> {
    let number = |n: i32| u16::try_from(n).ok().filter(|n| *n != 0);
    let address = port.host_ip.as_deref().filter(|ip| !ip.is_empty());
    Some(HostPort {
        address: address
            .map_or(Ok(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), str::parse)
            .ok()?,
        protocol: Protocol::parse(port.protocol.as_deref())?,
        port: number(port.host_port?)?,
        target: number(port.container_port)?,
    })
}

/// Before any Pod is taken: those that an earlier agent took and did not end have their ports.
pub fn recall(network: &Network, pods_dir: &Path) -> Result<(), NftError> {
    let dirs = subdirectories(pods_dir).unwrap_or_else(|error| {
        tracing::error!(%error, "the Pods on disk cannot be listed");
        Vec::new()
    });
    let alive = dirs.into_iter().filter(|dir| dir.join(VOLUMES).is_dir());
    let read = |dir: &Path| serde_json::from_slice::<Pod>(&fs::read(dir.join(POD_FILE)).ok()?).ok();
    let claims = alive.filter_map(|dir| {
        let pod = read(&dir)?;
        let view = PodView::new(&pod)?;
        let ports = host_ports(view);
        (!ports.is_empty()).then(|| (view.uid().to_owned(), ports))
    });
    network.recall_ports(claims)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ports_are_those_of_containers_that_stay() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"uid": "u"}, "spec": {
            "initContainers": [
                {"name": "i", "ports": [{"containerPort": 1, "hostPort": 1}]},
                {"name": "s", "restartPolicy": "Always", "ports": [{"containerPort": 2, "hostPort": 2}]},
            ],
            "containers": [{"name": "c", "ports": [
                {"containerPort": 80, "hostPort": 8080, "hostIP": "127.0.0.1", "protocol": "UDP"},
                {"containerPort": 81},
            ]}],
        }}))
        .unwrap();
        let port = |address: &str, protocol, port, target| HostPort {
            address: address.parse().unwrap(),
            protocol,
            port,
            target,
        };
        assert_eq!(
            host_ports(PodView::new(&pod).unwrap()),
            [
                port("0.0.0.0", Protocol::Tcp, 2, 2),
                port("127.0.0.1", Protocol::Udp, 8080, 80)
            ]
        );
    }
}

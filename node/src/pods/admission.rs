//! Whether this node takes a Pod that was given to it: upstream's kubelet asks some of the scheduler's questions once more,
//! since a Pod may come with a node of its own choice (`spec.nodeName`). Owns the ports of the host that Pods ask for;
//! reasons and messages are the kubelet's (pkg/kubelet/lifecycle). Refuses to know how ports are opened.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerPort, Node, Pod, Taint};
use kube::Api;

use super::allocations::{Allocations, Amounts, Insufficient};
use super::apparmor;
use super::context::Context;
use super::preemption;
use super::qos;
use super::record::subdirectories;
use super::sandbox::{POD_FILE, VOLUMES};
use super::suiting;
use super::view::{PodView, Role};
use crate::network::services::Protocol;
use crate::network::sysctl;
use crate::network::{HostPort, Network, NftError};
use crate::pressure;
use crate::pressure::rank::is_critical;
use crate::static_pods::manifest::is_static;

/// Why a Pod is not taken: the reason of its status, and what its event says.
#[derive(Debug, PartialEq, Eq)]
pub struct Rejection {
    pub reason: &'static str,
    pub message: String,
}

/// Why a Pod has no place here now.
#[derive(Debug)]
pub enum Refusal {
    /// For good.
    Rejected(Rejection),
    /// Whether it suits this node cannot be said before the API server answers.
    Unknown(kube::Error),
}

impl From<Rejection> for Refusal {
    fn from(rejection: Rejection) -> Self {
        Refusal::Rejected(rejection)
    }
}

/// The system of this node, and the label by which a Pod names one.
const OS: &str = "linux";
const OS_LABEL: &str = "kubernetes.io/os";
/// How long a new Pod waits to learn which Pods of an agent before this one still count: a look at their containers.
const REMEMBERED: Duration = Duration::from_secs(30);
/// The taint whose toleration lets a Pod that asks for nothing come while memory is short.
const MEMORY_TAINT: &str = "node.kubernetes.io/memory-pressure";

/// Whether the Pod has its place here already: a restart of the agent changes nothing about it.
pub fn is_admitted(ctx: &Context, pod: PodView<'_>) -> bool {
    ctx.dirs(pod).root.exists()
}

/// Takes the Pod, and claims what it needs of the host. One that has its place already keeps it.
pub async fn admit(ctx: &Context, pod: PodView<'_>) -> Result<(), Refusal> {
    if is_admitted(ctx, pod) {
        return Ok(ports(&ctx.network, pod)?);
    }
    state(ctx, pod)?;
    system(pod)?;
    confinement(pod, apparmor::is_enabled())?;
    sysctls(pod, &ctx.options.allowed_unsafe_sysctls)?;
    // One that has room waits for nobody; what it takes here is taken once more below.
    let has_room = || ctx.allocations.take(pod.uid(), Amounts::of_pod(pod.spec)).is_ok();
    if !is_static(pod.pod) && (!has_room() || !host_ports(pod).is_empty()) {
        // Of those of before many may be gone from the API, which has answered: it was what told of this Pod. A static one may be
        // what answers, and waits for nobody.
        let known = tokio::time::timeout(REMEMBERED, ctx.allocations.known());
        if let Some(Err(_)) = ctx.shutdown.run_until_cancelled(known).await {
            tracing::warn!(pod = %pod.full_name(), "what Pods of before still need is not known; it counts");
        }
        state(ctx, pod).inspect_err(|_| ctx.allocations.release(pod.uid()))?;
    }
    let _turn = match is_critical(pod.pod) && !has_room() {
        true => Some(ctx.allocations.turn().await),
        false => None,
    };
    let short = room(ctx, pod)?;
    let suits = async {
        labels(ctx, pod).await?;
        ports(&ctx.network, pod)?;
        taints(ctx, pod).await?;
        match short.is_empty() {
            true => Ok(()),
            false => Ok(preemption::make_room(ctx, pod, &short)
                .await
                .map_err(unexpected)?),
        }
    };
    suits.await.inspect_err(|_| ctx.allocations.release(pod.uid()))
}

/// What is made for another system does not run here.
fn system(pod: PodView<'_>) -> Result<(), Rejection> {
    let label = pod.pod.metadata.labels.as_ref().and_then(|l| l.get(OS_LABEL));
    if label.is_some_and(|system| system != OS) {
        return Err(Rejection {
            reason: "PodOSSelectorNodeLabelDoesNotMatch",
            message: "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label".into(),
        });
    }
    if pod.spec.os.as_ref().is_some_and(|os| os.name != OS) {
        return Err(Rejection {
            reason: "PodOSNotSupported",
            message: "Failed to admit pod as the OS field doesn't match node OS".into(),
        });
    }
    Ok(())
}

/// A Pod that is to be confined does not run where nothing does it.
fn confinement(pod: PodView<'_>, has_apparmor: bool) -> Result<(), Rejection> {
    match apparmor::is_required(pod) && !has_apparmor {
        false => Ok(()),
        true => Err(Rejection {
            reason: "AppArmor",
            message: "Cannot enforce AppArmor: AppArmor is not enabled on the host".into(),
        }),
    }
}

/// A Pod that wants kernel settings changed which it may not change stays away.
fn sysctls(pod: PodView<'_>, allowed: &[String]) -> Result<(), Rejection> {
    let of_host = |shared: Option<bool>| shared == Some(true);
    let (network, ipc) = (of_host(pod.spec.host_network), of_host(pod.spec.host_ipc));
    let security = pod.spec.security_context.as_ref();
    let mut asked = security.into_iter().flat_map(|s| s.sysctls.iter().flatten());
    let checked = asked.try_for_each(|s| sysctl::check(&s.name, allowed, network, ipc));
    checked.map_err(|error| Rejection {
        reason: "SysctlForbidden",
        message: error.to_string(),
    })
}

/// Promises the Pod what it asks for. A critical one is promised it in any case; what of it others have yet to give up is said.
fn room(ctx: &Context, pod: PodView<'_>) -> Result<Vec<Insufficient>, Rejection> {
    let amounts = Amounts::of_pod(pod.spec);
    if is_critical(pod.pod) {
        return Ok(ctx.allocations.take_anyway(pod.uid(), amounts));
    }
    let taken = ctx.allocations.take(pod.uid(), amounts);
    taken.map(|()| Vec::new()).map_err(|short| Rejection {
        reason: match short.resource {
            "cpu" => "OutOfcpu",
            "memory" => "OutOfmemory",
            "ephemeral-storage" => "OutOfephemeral-storage",
            _ => "OutOfpods",
        },
        message: short.to_string(),
    })
}

fn unexpected(why: String) -> Rejection {
    Rejection {
        reason: "UnexpectedAdmissionError",
        message: format!("Unexpected error while attempting to recover from admission failure: {why}"),
    }
}

/// Whether the Node suits: as it was seen last or, where that would refuse the Pod for good, as it is now.
async fn is_suitable(ctx: &Context, suits: impl Fn(&Node) -> bool) -> Result<bool, Refusal> {
    if ctx.state.node().is_none_or(|known| suits(&known)) {
        return Ok(true);
    }
    let nodes: Api<Node> = Api::all(ctx.options.client.clone());
    let now = nodes.get(&ctx.options.node_name).await;
    let now = now.map_err(Refusal::Unknown)?;
    let answer = suits(&now);
    ctx.state.saw(now);
    Ok(answer)
}

async fn labels(ctx: &Context, pod: PodView<'_>) -> Result<(), Refusal> {
    match is_suitable(ctx, |node| suiting::has_labels(pod.spec, node)).await? {
        true => Ok(()),
        false => Err(Refusal::Rejected(Rejection {
            reason: "NodeAffinity",
            message: "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"
                .into(),
        })),
    }
}

async fn taints(ctx: &Context, pod: PodView<'_>) -> Result<(), Refusal> {
    match is_static(pod.pod) || is_suitable(ctx, |node| suiting::bears_taints(pod.spec, node)).await? {
        true => Ok(()),
        false => Err(Refusal::Rejected(Rejection {
            reason: "TaintToleration",
            message: "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate"
                .into(),
        })),
    }
}

/// A node that ends, or is short of something, takes no more.
fn state(ctx: &Context, pod: PodView<'_>) -> Result<(), Rejection> {
    if ctx.state.is_shutting_down() {
        return Err(Rejection {
            reason: "NodeShutdown",
            message: "Pod was rejected as the node is shutting down.".into(),
        });
    }
    if is_critical(pod.pod) {
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
    let taint = Taint {
        key: MEMORY_TAINT.to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    suiting::tolerates(pod.spec, &taint)
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

/// Before any Pod is taken: those that an earlier agent took and did not end have their ports and their room.
pub fn recall(network: &Network, allocations: &Allocations, pods_dir: &Path) -> Result<(), NftError> {
    let dirs = subdirectories(pods_dir).unwrap_or_else(|error| {
        tracing::error!(%error, "the Pods on disk cannot be listed");
        Vec::new()
    });
    let alive = dirs.into_iter().filter(|dir| dir.join(VOLUMES).is_dir());
    let read = |dir: &Path| serde_json::from_slice::<Pod>(&fs::read(dir.join(POD_FILE)).ok()?).ok();
    let claims = alive.filter_map(|dir| {
        let pod = read(&dir)?;
        let view = PodView::new(&pod)?;
        allocations.remember(view.uid(), Amounts::of_pod(view.spec));
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
    fn who_asks_for_apparmor_is_not_taken_without_it() {
        let pod: Pod = serde_json::from_value(json!({"spec": {"containers": [],
            "securityContext": {"appArmorProfile": {"type": "RuntimeDefault"}}}}))
        .unwrap();
        let view = PodView::new(&pod).unwrap();
        assert_eq!(confinement(view, true), Ok(()));
        let refused = confinement(view, false).unwrap_err();
        assert_eq!(
            (refused.reason, refused.message.as_str()),
            (
                "AppArmor",
                "Cannot enforce AppArmor: AppArmor is not enabled on the host"
            )
        );
    }

    #[test]
    fn who_asks_for_an_unsafe_sysctl_is_not_taken() {
        let asking = |name: &str| -> Pod {
            let context = json!({"sysctls": [{"name": name, "value": "1"}]});
            serde_json::from_value(json!({"spec": {"containers": [], "securityContext": context}})).unwrap()
        };
        let checked = |pod: &Pod| sysctls(PodView::new(pod).unwrap(), &[]);
        assert_eq!(checked(&asking("kernel.shm_rmid_forced")), Ok(()));
        let refused = checked(&asking("kernel.msgmax")).unwrap_err();
        assert_eq!(refused.reason, "SysctlForbidden");
        assert_eq!(
            refused.message,
            "forbidden sysctl: \"kernel.msgmax\" not allowlisted"
        );
    }

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

//! What an agent is told at start. Owns no decision: whoever starts a node has read and checked the
//! command line, the data directory's lock and the certificates before.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;

use crate::layout::Layout;
use crate::pressure::thresholds::Limits;

/// Pods a node accepts unless told otherwise; upstream's default.
pub const DEFAULT_MAX_PODS: u32 = 110;

/// Processes and threads a container may have unless told otherwise: more than programs want, fewer than would use up
/// a host's process numbers (the kernel's least `pid_max` is 32768).
const DEFAULT_PIDS_LIMIT: i64 = 4096;

/// How many processes and threads there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PidsLimit {
    EachContainer(i64),
    /// All containers of a Pod together.
    Pod(i64),
    None,
}

impl PidsLimit {
    /// By upstream's `--pod-max-pids`, which limits nothing if it is not above 0.
    pub fn of(pod_max_pids: Option<i64>) -> Self {
        match pod_max_pids {
            None => Self::EachContainer(DEFAULT_PIDS_LIMIT),
            Some(limit) if limit > 0 => Self::Pod(limit),
            Some(_) => Self::None,
        }
    }

    pub fn of_container(self) -> Option<i64> {
        match self {
            Self::EachContainer(limit) => Some(limit),
            Self::Pod(_) | Self::None => None,
        }
    }

    pub fn of_pod(self) -> Option<i64> {
        match self {
            Self::Pod(limit) => Some(limit),
            Self::EachContainer(_) | Self::None => None,
        }
    }
}

/// Everything a [`crate::Node`] needs to start.
#[derive(Clone)]
pub struct NodeOptions {
    /// Name of the cluster on this host, `amphipod-<id>`; also the containerd namespace of its shims.
    pub cluster: String,
    /// The cluster's 8 hex digits.
    pub id: String,
    /// Name of the Node object.
    pub node_name: String,
    /// Where things are kept.
    pub layout: Layout,
    /// `/run/amphipod/<cluster>`, on a tmpfs.
    pub run_dir: PathBuf,
    /// A client speaking as `system:node:<node_name>`.
    pub client: kube::Client,
    pub tls: NodeTls,
    /// Address to report as InternalIP; found from the default route when absent.
    pub node_ip: Option<IpAddr>,
    /// Range of Pod addresses; taken from `Node.spec.podCIDR` when absent.
    pub pod_cidr: Option<IpNet>,
    /// Range of Service addresses.
    pub service_cidr: IpNet,
    /// Where the kubelet API listens; port 0 lets the kernel choose.
    pub kubelet_listen: SocketAddr,
    /// Registry host → URL that serves it instead.
    pub registry_mirrors: BTreeMap<String, String>,
    /// Registry host → URLs that pulls ask before it.
    pub pull_mirrors: BTreeMap<String, Vec<String>>,
    /// The registry of image names that give none; `docker.io` when not set.
    pub default_registry: Option<String>,
    /// Registries that may be spoken to over plain HTTP.
    pub insecure_registries: Vec<String>,
    /// Command words that start the shim of native containers.
    pub linux_shim: Vec<OsString>,
    /// Command words that start the shim of Wasm containers.
    pub wasm_shim: Vec<OsString>,
    /// Capacity reported as `pods`.
    pub max_pods: u32,
    pub pids_limit: PidsLimit,
    /// Kernel settings beyond the safe ones that Pods may choose: names, and beginnings that end with `*`.
    pub allowed_unsafe_sysctls: Vec<String>,
    /// Manifests of static Pods: a directory, or one file.
    pub static_pod_path: PathBuf,
    /// When the node is short of something, and what follows.
    pub pressure: Limits,
    /// Labels to put on the Node besides the well-known ones.
    pub labels: BTreeMap<String, String>,
}

/// How the kubelet API and its callers know one another.
#[derive(Clone)]
pub struct NodeTls {
    /// What it serves with from the start. Without it handshakes fail until [`crate::Serving::set`] gives it one.
    pub pair: Option<TlsPair>,
    /// Whether that is asked of the control plane, and renewed.
    pub is_asked_for: bool,
    /// The cluster's authority, PEM.
    pub ca_pem: String,
}

/// A certificate and its private key, PEM.
#[derive(Clone)]
pub struct TlsPair {
    pub cert_pem: String,
    pub key_pem: String,
}

impl NodeOptions {
    /// The default command words of a shim: this executable's `subcommand`.
    pub fn own_shim(subcommand: &str) -> std::io::Result<Vec<OsString>> {
        Ok(vec![std::env::current_exe()?.into_os_string(), subcommand.into()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_limited_by_container_or_by_pod() {
        for (given, container, pod) in [
            (None, Some(4096), None),
            (Some(-1), None, None),
            (Some(0), None, None),
            (Some(100), None, Some(100)),
        ] {
            let limit = PidsLimit::of(given);
            assert_eq!(
                (limit.of_container(), limit.of_pod()),
                (container, pod),
                "{given:?}"
            );
        }
    }
}

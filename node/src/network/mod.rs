//! The network of one node: a bridge, an address and pinned namespaces per Pod, Services by nftables.
//!
//! Pods hang on the bridge `ap<id>` with /32 addresses: what they send goes to the host, also what is for a
//! neighbour, so Service addresses are translated in both directions with and without br_netfilter.
//! Knows Pods by uid and host name only, and nothing of images or shims.

mod down;
mod firewall;
mod host_ports;
mod ipam;
mod links;
mod names;
pub mod nft;
mod sandbox;
pub mod services;
pub mod sysctl;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;

pub use down::{DownError, down};
use host_ports::HostPorts;
pub use host_ports::{HostPort, PortTaken};
use ipam::Ipam;
pub use ipam::IpamError;
pub use links::LinkError;
use links::Links;
pub use names::{BadClusterId, BadUid, Names};
pub use nft::NftError;
use sandbox::Blueprint;
pub use sandbox::SandboxError;
pub use sysctl::SysctlError;

use crate::users::IdRange;

/// What the network of a node is made from.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// Eight hex digits, from `DATA/cluster.json`.
    pub cluster_id: String,
    /// The addresses of this node's Pods.
    pub pod_cidr: Ipv4Net,
    /// The addresses of the cluster's Services.
    pub service_cidr: Ipv4Net,
    /// The cluster's run directory, `/run/amphipod/amphipod-<id>`.
    pub run_dir: PathBuf,
    /// The node's data directory, `DATA/node`.
    pub data_dir: PathBuf,
}

/// Where a Pod's namespaces are, and its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodSandbox {
    pub ip: Ipv4Addr,
    pub net_path: PathBuf,
    pub ipc_path: PathBuf,
    pub uts_path: PathBuf,
    /// The user namespace that owns the others, if the Pod has one.
    pub user_path: Option<PathBuf>,
    pub origin: Origin,
}

/// How a sandbox came to be what it is. Containers of a Pod live on only in an adopted one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The Pod had none.
    Created,
    /// The Pod's namespaces were found alive and are used on.
    Adopted,
    /// The Pod had one that is no longer whole (a reboot, a crash while it was made): this is another.
    Rebuilt,
}

/// Why the network could not be brought up.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Id(#[from] BadClusterId),
    #[error(transparent)]
    Ipam(#[from] IpamError),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    #[error(transparent)]
    Nft(#[from] NftError),
    #[error("{0} is used by link {1}: choose another --pod-cidr")]
    PodOverlap(Ipv4Net, String),
    #[error("{0} is used by link {1}: choose another --service-cidr")]
    ServiceOverlap(Ipv4Net, String),
}

/// Why a Pod got no network.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error(transparent)]
    Uid(#[from] BadUid),
    #[error(transparent)]
    Ipam(#[from] IpamError),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    #[error(transparent)]
    Nft(#[from] NftError),
}

/// Why a Pod's network could not be removed, or listed.
#[derive(Debug, thiserror::Error)]
pub enum TeardownError {
    #[error(transparent)]
    Uid(#[from] BadUid),
    #[error(transparent)]
    Ipam(#[from] IpamError),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    #[error(transparent)]
    Nft(#[from] NftError),
    #[error("cannot list {}", path.display())]
    List { path: PathBuf, source: io::Error },
}

/// The network of one node. Share it in an `Arc`; calls for different Pods run side by side, calls for
/// one Pod must not (each Pod has one worker).
pub struct Network {
    config: NetworkConfig,
    names: Names,
    ipam: Ipam,
    links: Links,
    mtu: Option<u32>,
    limits: Vec<String>,
    host_ports: HostPorts,
}

impl Network {
    /// Brings up, or takes back, the bridge, the kernel settings and the cluster's nftables table. What is
    /// there already is left as it is, so running Pods notice nothing.
    pub async fn open(config: NetworkConfig) -> Result<Self, OpenError> {
        let names = Names::new(&config.cluster_id)?;
        let ipam = Ipam::open(&config.data_dir.join("network/ips"), config.pod_cidr)?;
        sandbox::prepare_root(&config.run_dir.join("ns"))?;
        let links = Links::open()?;
        let mtu = links.uplink_mtu().await?;
        ensure_bridge(&links, &names, &config, mtu).await?;
        let mut limits = apply_host_settings(&names.bridge());
        for obstacle in firewall::obstacles(&names.bridge()) {
            tracing::warn!("{obstacle}");
            limits.push(obstacle);
        }
        services::install_base(&names.table(), &names.bridge(), config.pod_cidr)?;
        Ok(Self {
            config,
            names,
            ipam,
            links,
            mtu,
            limits,
            host_ports: HostPorts::default(),
        })
    }

    /// What does not work on this host and why, one sentence each; empty where everything does.
    pub fn limits(&self) -> &[String] {
        &self.limits
    }

    /// The address Pods know this host by.
    pub fn gateway(&self) -> Ipv4Addr {
        self.ipam.gateway()
    }

    /// Gives a Pod its namespaces and address, or the ones it has. `sysctls` are those of the Pod's
    /// security context; one of the host's is [`SysctlError::Forbidden`]. With `users` the namespaces belong
    /// to a user namespace of these ids; what [`sysctl::is_owners`] is left to its containers then.
    pub async fn setup_pod(
        &self,
        uid: &str,
        hostname: &str,
        sysctls: &BTreeMap<String, String>,
        users: Option<IdRange>,
    ) -> Result<PodSandbox, SetupError> {
        names::check_uid(uid)?;
        let mut sysctls = sysctl::pod_settings(sysctls)?;
        if users.is_some() {
            sysctls.retain(|name, _| !sysctl::is_owners(name));
        }
        let known = self.ipam.of(uid).is_some();
        let ip = self.ipam.acquire(uid)?;
        let dir = self.pod_dir(uid);
        let veth = self.names.veth(ip);
        let bridge = self.links.get(&self.names.bridge()).await?;
        let found = self.links.find(&veth).await?;
        let origin = match found {
            Some(link) if sandbox::is_alive(&dir, ip, users) => {
                if link.controller != Some(bridge.index) || !link.up {
                    self.links.attach(&link, &bridge).await?;
                }
                return Ok(pod_sandbox(&dir, ip, users, Origin::Adopted));
            }
            Some(link) => {
                self.links.remove(&link).await?;
                Origin::Rebuilt
            }
            None if known => Origin::Rebuilt,
            None => Origin::Created,
        };
        sandbox::unpin(&dir)?;
        let gateway = self.ipam.gateway();
        let hostname = hostname.to_owned();
        let blueprint = Blueprint {
            dir: dir.clone(),
            hostname,
            ip,
            gateway,
            veth: veth.clone(),
            mtu: self.mtu,
            sysctls,
            users,
        };
        sandbox::create(blueprint).await?;
        self.links.attach(&self.links.get(&veth).await?, &bridge).await?;
        Ok(pod_sandbox(&dir, ip, users, origin))
    }

    /// Takes a Pod's network away; one that has none is no error. Removing a link waits for readers in
    /// the kernel (about 16 ms): call it off the way of Pods that start.
    pub async fn teardown_pod(&self, uid: &str) -> Result<(), TeardownError> {
        names::check_uid(uid)?;
        self.release_ports(uid)?;
        sandbox::unpin(&self.pod_dir(uid))?;
        if let Some(ip) = self.ipam.of(uid)
            && let Some(link) = self.links.find(&self.names.veth(ip)).await?
        {
            self.links.remove(&link).await?;
        }
        // Last: whoever gets the address next must be the only one who has it.
        Ok(self.ipam.release(uid)?)
    }

    /// The uids of all Pods that have anything here, for finding those nobody knows any more.
    pub fn list(&self) -> Result<BTreeSet<String>, TeardownError> {
        let root = self.config.run_dir.join("ns");
        let failed = |source| TeardownError::List {
            path: root.clone(),
            source,
        };
        let mut uids: BTreeSet<String> = self.ipam.owners().into_iter().collect();
        for entry in std::fs::read_dir(&root).map_err(failed)? {
            uids.extend(entry.map_err(failed)?.file_name().into_string());
        }
        Ok(uids)
    }

    fn pod_dir(&self, uid: &str) -> PathBuf {
        self.config.run_dir.join("ns").join(uid)
    }
}

fn pod_sandbox(dir: &Path, ip: Ipv4Addr, users: Option<IdRange>, origin: Origin) -> PodSandbox {
    let [net_path, ipc_path, uts_path] = ["net", "ipc", "uts"].map(|kind| dir.join(kind));
    PodSandbox {
        ip,
        net_path,
        ipc_path,
        uts_path,
        user_path: sandbox::user_path(dir, users),
        origin,
    }
}

/// The bridge with the gateway's address, and the route that lets this host reach Services: without one, a
/// host that knows no default route would not even try.
async fn ensure_bridge(
    links: &Links,
    names: &Names,
    config: &NetworkConfig,
    mtu: Option<u32>,
) -> Result<(), OpenError> {
    let (name, range) = (names.bridge(), config.pod_cidr);
    if links.find(&name).await?.is_none() {
        links.add_bridge(&name, names.bridge_address(), mtu).await?;
    }
    let bridge = links.get(&name).await?;
    if let Some(other) = links.overlapping(range, bridge.index).await? {
        return Err(OpenError::PodOverlap(range, other));
    }
    links
        .add_address(&bridge, ipam::gateway(range), range.prefix_len())
        .await?;
    links.up(&bridge).await?;
    match links.route_network(&bridge, config.service_cidr).await? {
        None => Ok(()),
        Some(index) => {
            let other = links.all().await?.into_iter().find(|link| link.index == index);
            Err(OpenError::ServiceOverlap(
                config.service_cidr,
                other.map(|link| link.name).unwrap_or_default(),
            ))
        }
    }
}

/// Sets what can be set, and says what does not work where it cannot.
fn apply_host_settings(bridge: &str) -> Vec<String> {
    let mut limits = Vec::new();
    for setting in sysctl::host_settings(bridge) {
        if let Err(error) = sysctl::write(&setting.name, setting.value) {
            tracing::warn!(%error, setting.name, "kernel setting refused: {}", setting.without);
            limits.push(format!("{}: {error}", setting.without));
        }
    }
    limits
}

#[cfg(test)]
mod tests;

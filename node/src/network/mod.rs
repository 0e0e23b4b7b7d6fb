//! The network of one node: an address, a link and pinned namespaces per Pod, Services by nftables.
//!
//! Each Pod has a link of its own to the host, and the host a route to it: nothing is shared that Pods could speak on past
//! the host, or that holds so many links and no more. The host's own address towards Pods is on the link `ap<id>`.
//! Knows Pods by uid and host name only, and nothing of images or shims.

mod down;
mod firewall;
mod host_ports;
mod ipam;
mod links;
mod names;
pub mod nft;
mod routes;
mod sandbox;
pub mod services;
pub mod sysctl;
mod vacancy;

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
use links::{Link, Links};
use names::pod_address;
pub use names::{BadClusterId, BadUid, Names};
pub use nft::NftError;
use sandbox::Blueprint;
pub use sandbox::SandboxError;
use sysctl::HostSetting;
pub use sysctl::SysctlError;
pub use vacancy::check as check_ranges;

use crate::users::IdRange;

/// What the network of a node is made from.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// Eight hex digits, from `DATA/cluster.json`.
    pub cluster_id: String,
    /// The addresses of this node's Pods.
    pub pod_cidr: Ipv4Net,
    /// The addresses of the cluster's Services; further ones are what ServiceCIDRs say.
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
    /// Brings up, or takes back, the gateway's link, the kernel settings and the cluster's nftables table. What is
    /// there already is left as it is, so running Pods notice nothing.
    pub async fn open(config: NetworkConfig) -> Result<Self, OpenError> {
        let names = Names::new(&config.cluster_id)?;
        let links = Links::open()?;
        vacancy::are_free(&links, &names, Some(config.pod_cidr), config.service_cidr).await?;
        let ipam = Ipam::open(&config.data_dir.join("network/ips"), config.pod_cidr)?;
        sandbox::prepare_root(&config.run_dir.join("ns"))?;
        let mtu = links.uplink_mtu().await?;
        ensure_gateway(&links, &names, &config, mtu).await?;
        let mut limits: Vec<String> = set_on_host(&sysctl::FORWARDING).into_iter().collect();
        for obstacle in firewall::obstacles(&names.pods_links()) {
            tracing::warn!("{obstacle}");
            limits.push(obstacle);
        }
        services::install_base(&names, config.pod_cidr)?;
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

    /// The address that a Pod has.
    pub fn address_of(&self, uid: &str) -> Option<Ipv4Addr> {
        self.ipam.of(uid)
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
        // Mostly there is none, which takes no question that somebody else is to answer.
        let found = match links::is_there(&veth) {
            true => self.links.find(&veth).await?,
            false => None,
        };
        let origin = match found {
            Some(link) if sandbox::is_alive(&dir, ip, users) => {
                self.connect(&link, ip).await?;
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
            host_address: self.names.host_address(),
            veth: veth.clone(),
            mtu: self.mtu,
            sysctls,
            users,
        };
        sandbox::create(blueprint).await?;
        self.connect(&self.links.get(&veth).await?, ip).await?;
        Ok(pod_sandbox(&dir, ip, users, origin))
    }

    /// Lets packets pass between this host and a Pod's link. Route and neighbour go with the link.
    async fn connect(&self, link: &Link, ip: Ipv4Addr) -> Result<(), SetupError> {
        let address = self.names.host_address();
        if !link.up || link.address != address {
            sysctl::without_ipv6(&link.name)?;
            self.links.forward(link, address).await?;
        }
        self.links.introduce(link, ip, pod_address(ip)).await?;
        Ok(self.links.route_to(link, ip, self.gateway()).await?)
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

/// The link with the gateway's address, and the route to the cluster's own Services (others' come with their ServiceCIDRs). What no
/// Pod's own route leads to ends there, too.
async fn ensure_gateway(
    links: &Links,
    names: &Names,
    config: &NetworkConfig,
    mtu: Option<u32>,
) -> Result<(), OpenError> {
    let (range, services) = (config.pod_cidr, config.service_cidr.trunc());
    let link = gateway_link(links, names, mtu).await?;
    links
        .add_address(&link, ipam::gateway(range), range.prefix_len())
        .await?;
    links.up(&links.get(&names.blind_end()).await?).await?;
    links.up(&link).await?;
    let plan = routes::plan(&links.networks().await?, link.index, &[services].into());
    Ok(plan.add(links, &link).await?)
}

async fn gateway_link(links: &Links, names: &Names, mtu: Option<u32>) -> Result<Link, LinkError> {
    let name = names.gateway_link();
    match links.find(&name).await? {
        Some(link) if !link.is_bridge => return Ok(link),
        // An older version's: its Pods' links hung on it, and get routes when their Pods are taken back.
        Some(bridge) => links.remove(&bridge).await?,
        None => {}
    }
    links.add_pair(&name, &names.blind_end(), mtu).await?;
    links.get(&name).await
}

/// Sets what can be set, and says what does not work where it cannot.
fn set_on_host(setting: &HostSetting) -> Option<String> {
    let error = sysctl::write(setting.name, setting.value).err()?;
    tracing::warn!(%error, setting.name, "kernel setting refused: {}", setting.without);
    Some(format!("{}: {error}", setting.without))
}

#[cfg(test)]
mod tests;

//! What every worker shares: the node's subsystems and facts. Owns no Pod.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use amphipod_shim_api::{ShimCommand, TaskClients};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::runtime::reflector::{ObjectRef, Store};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::allocations::Allocations;
use super::eviction::Eviction;
use super::followed::Follower;
use super::record::{Record, RuntimeKind};
use super::sandbox::VOLUMES;
use super::shims::Shims;
use super::table::Table;
use super::view::PodView;
use crate::bundle::resources::CgroupFacts;
use crate::csi::Csi;
use crate::env::PodFacts;
use crate::events::Recorder;
use crate::exec::{Doors, Execs, Target};
use crate::images::{Images, KeyedLocks};
use crate::metrics::{ProbeCounts, Station};
use crate::narrowing::Narrower;
use crate::network::Network;
use crate::options::NodeOptions;
use crate::pressure::NodeState;
use crate::users::Users;
use crate::volumes::SUB_PATHS;
use crate::volumes::disks::Disks;
use crate::volumes::persistent::DEVICES;
use crate::volumes::tokens::Tokens;

/// The node as workers see it.
pub struct Context {
    pub options: NodeOptions,
    pub images: Images,
    /// One mounting of each of a Pod's volumes at a time: containers start side by side.
    pub mounting: KeyedLocks,
    pub network: Arc<Network>,
    pub recorder: Recorder,
    pub services: Store<Service>,
    pub table: Table,
    /// Commands in running containers.
    pub execs: Execs,
    pub host_ips: Vec<IpAddr>,
    pub allocatable: BTreeMap<String, Quantity>,
    pub allocations: Allocations,
    pub shims: Shims,
    /// Where they are asked.
    pub tasks: TaskClients,
    /// Whom Wasm Pods may meet.
    pub narrower: Arc<Narrower>,
    /// Watches of what volumes show.
    pub follower: Follower,
    pub memory_capacity: u64,
    pub cgroups: CgroupFacts,
    pub tokens: Tokens,
    pub probe_counts: ProbeCounts,
    /// Short of something, or ending.
    pub state: NodeState,
    /// Where Pods that the node itself ends are told of.
    pub evictions: mpsc::Sender<Eviction>,
    /// Where what Pods use is read.
    pub station: Arc<Station>,
    /// Drivers of volumes.
    pub csi: Csi,
    /// Devices that are mounted for Pods.
    pub disks: Disks,
    /// Ids of Pods with a user namespace.
    pub users: Users,
    pub boot_id: String,
    /// Ends the agent; Pods run on.
    pub shutdown: CancellationToken,
}

impl Context {
    pub fn pods_dir(&self) -> PathBuf {
        self.options.layout.pods()
    }

    pub fn dirs(&self, pod: PodView<'_>) -> PodDirs {
        PodDirs {
            root: self.pods_dir().join(pod.uid()),
            logs: self
                .options
                .layout
                .logs_of(pod.namespace(), pod.name(), pod.uid()),
        }
    }

    pub fn shim(&self, runtime: RuntimeKind) -> ShimCommand {
        let words = match runtime {
            RuntimeKind::Native => &self.options.linux_shim,
            RuntimeKind::Wasm => &self.options.wasm_shim,
        };
        ShimCommand {
            words: words.clone(),
            namespace: self.options.cluster.clone(),
        }
    }

    /// A running attempt, as commands in it need it.
    pub fn target(&self, pod: PodView<'_>, record: &Record) -> Option<Target> {
        Some(Target {
            id: record.id.clone(),
            address: record.address.clone()?,
            bundle: self.dirs(pod).bundle(&record.container, record.attempt),
            is_guest: record.is_wasm(),
        })
    }

    /// The ways to an attempt's own streams.
    pub fn doors(&self, id: &str) -> Doors {
        Doors::of(&self.options.run_dir, id)
    }

    pub fn facts<'a>(&'a self, pod: PodView<'a>, pod_ips: &'a [IpAddr]) -> PodFacts<'a> {
        PodFacts {
            pod,
            pod_ips,
            host_ips: &self.host_ips,
            node_name: &self.options.node_name,
            allocatable: &self.allocatable,
        }
    }

    /// Others may have what the Pod has of the node.
    pub fn give_room_back(&self, pod: PodView<'_>) {
        self.allocations.release(pod.uid());
        if let Err(error) = self.network.release_ports(pod.uid()) {
            tracing::warn!(%error, pod = %pod.full_name(), "the host ports of a Pod stay until it is taken apart");
        }
    }

    /// The address of the Service `kube-dns`; none where somebody took it away.
    pub fn cluster_dns(&self) -> Option<String> {
        let service = self
            .services
            .get(&ObjectRef::new("kube-dns").within("kube-system"))?;
        let address = service.spec.as_ref()?.cluster_ip.clone()?;
        Some(address).filter(|address| address.parse::<IpAddr>().is_ok())
    }

    pub fn all_services(&self) -> Vec<Arc<Service>> {
        self.services.state()
    }
}

/// Where one Pod's things are on disk.
#[derive(Clone, Debug)]
pub struct PodDirs {
    /// `DATA/node/pods/<uid>`
    pub root: PathBuf,
    /// `DATA/node/logs/<ns>_<pod>_<uid>`
    pub logs: PathBuf,
}

impl PodDirs {
    pub fn volumes(&self) -> PathBuf {
        self.root.join(VOLUMES)
    }

    /// Folders for single files of a Wasm container; a name that no volume has.
    pub fn folders(&self, container: &str) -> PathBuf {
        self.sub_paths().join(".folders").join(container)
    }

    pub fn sub_paths(&self) -> PathBuf {
        self.root.join(SUB_PATHS)
    }

    /// Links to the devices of its claims.
    pub fn devices(&self) -> PathBuf {
        self.root.join(DEVICES)
    }

    pub fn shm(&self) -> PathBuf {
        self.root.join("shm")
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub fn containers(&self) -> PathBuf {
        self.root.join("containers")
    }

    pub fn attempt(&self, container: &str, attempt: u32) -> PathBuf {
        self.containers().join(container).join(attempt.to_string())
    }

    pub fn bundle(&self, container: &str, attempt: u32) -> PathBuf {
        self.attempt(container, attempt).join("bundle")
    }

    pub fn log(&self, container: &str, attempt: u32) -> PathBuf {
        self.logs.join(container).join(format!("{attempt}.log"))
    }
}

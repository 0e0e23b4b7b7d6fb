//! The agent as a whole: join, open the subsystems, run, stop. Owns the order of these; each subsystem owns
//! itself.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use amphipod_shim_api::TaskClients;
use ipnet::{IpNet, Ipv4Net};
use k8s_openapi::api::core::v1::Service;
use kube::runtime::reflector;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::bundle::resources::CgroupFacts;
use crate::csi::{self, Csi};
use crate::dns;
use crate::events::Recorder;
use crate::exec::Execs;
use crate::host::{self, Host, HostError, default_address};
use crate::images::{Images, ImagesOptions, KeyedLocks, StoreError};
use crate::layout::{Claim, LayoutError};
use crate::metrics::disks::Disks;
use crate::metrics::{ProbeCounts, Station};
use crate::narrowing;
use crate::network::{self, Network, NetworkConfig};
use crate::options::NodeOptions;
use crate::pods::admission;
use crate::pods::allocations::Allocations;
use crate::pods::context::Context;
use crate::pods::eviction::Eviction;
use crate::pods::followed::Follower;
use crate::pods::shims::{self, Shims};
use crate::pods::table::Table;
use crate::pods::{leftovers, log_links, manager};
use crate::pressure::NodeState;
use crate::reflect::reflect;
use crate::registration::{RegisterError, Registration, Told, join};
use crate::server::configz::configuration;
use crate::server::{KubeletServer, ServeError, ServerOptions, Serving};
use crate::shutdown::{self, Grace};
use crate::users::{Users, UsersError};
use crate::volumes;
use crate::volumes::tokens::Tokens;

/// Why an agent could not start; each says what to do where something can be done.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error("cannot prepare {}: {source}", path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Server(#[from] ServeError),
    #[error(transparent)]
    Register(#[from] RegisterError),
    #[error("the image store cannot be opened: {0}")]
    Images(#[from] StoreError),
    #[error("the Pod network cannot be brought up: {0}")]
    Network(#[from] network::OpenError),
    #[error("the ids of Pods with user namespaces are not known: {0}")]
    Users(#[from] UsersError),
    #[error("Pod and Service addresses of this node are IPv4; {0} is not")]
    NotIpv4(IpNet),
}

/// Verdicts waiting for the sync loop; whoever finds more waits.
const EVICTIONS: usize = 16;

/// A running node agent.
pub struct Node {
    ctx: Arc<Context>,
    tasks: JoinSet<()>,
    is_member: bool,
    serving: Serving,
    _claim: Claim,
}

impl Node {
    /// Joins the cluster and takes up its Pods, also those an earlier agent left running.
    pub async fn start(options: NodeOptions) -> Result<Node, StartError> {
        let host = Host::read()?;
        let claim = options.layout.claim(&options.cluster).await?;
        make_directories(&options)?;
        let pods = options.layout.pods();
        leftovers::forget_unwritten(&pods).map_err(|source| StartError::Directory { path: pods, source })?;
        let shutdown = CancellationToken::new();
        let table = Table::new(
            options.layout.logs(),
            options.layout.pods(),
            options.run_dir.join("ns"),
        );
        let images = open_images(&options)?;
        let probe_counts = ProbeCounts::default();
        let station = Arc::new(station(&options, &table, &images, &probe_counts)?);
        let serving = Serving::default();
        let served = server_options(&options, serving.clone())?;
        let server = KubeletServer::start(served, station.clone(), shutdown.clone()).await?;
        let port = server.local_addr.port();
        let known_ip = options.node_ip.or_else(default_address);
        let memory_capacity = host.memory_bytes;
        let boot_id = host.boot_id.clone();
        let state = NodeState::default();
        let csi = Csi::new(options.layout.clone());
        let recorder = Recorder::start(options.client.clone(), &options.node_name, shutdown.clone());
        let told = Told {
            images: images.clone(),
            state: state.clone(),
            csi: csi.clone(),
        };
        let mut registration = Registration::new(&options, host, port, told, recorder.clone());
        if let Some(ip) = known_ip {
            registration.set_ip(ip);
        }
        let (cidr, is_member) = join::join(&options, &registration).await?;
        registration.set_pod_cidr(cidr);
        let network = Arc::new(open_network(&options, cidr).await?);
        let allocations = Allocations::new(&registration.allocatable());
        let recalled = admission::recall(&network, &allocations, &options.layout.pods());
        recalled.map_err(network::OpenError::from)?;
        let ip = known_ip.unwrap_or(IpAddr::V4(network.gateway()));
        registration.set_ip(ip);
        let member = match is_member {
            true => Some(registration.report().await?),
            false => None,
        };
        let users = Users::open(&options.layout.pods(), &options.id)?;
        let mut tasks = JoinSet::new();
        let services = follow_services(&options, &mut tasks, &shutdown);
        let (evictions, evicted) = mpsc::channel(EVICTIONS);
        let ctx = Arc::new(Context {
            images,
            mounting: KeyedLocks::default(),
            network,
            recorder,
            services,
            table,
            execs: Execs::new(&options.run_dir, station.tasks.clone()),
            host_ips: vec![ip],
            shims: Shims::default(),
            tasks: station.tasks.clone(),
            narrower: Arc::default(),
            follower: Follower::default(),
            allocations,
            allocatable: registration.allocatable(),
            memory_capacity,
            tokens: Tokens::default(),
            probe_counts,
            station,
            state,
            evictions,
            csi,
            disks: volumes::disks::Disks::new(options.layout.clone()),
            users,
            cgroups: CgroupFacts::of_host(options.pids_limit),
            boot_id,
            shutdown,
            options,
        });
        tasks.spawn(server.stopped());
        if let Err(error) = leftovers::sweep(&ctx) {
            tracing::warn!(%error, "what an earlier agent has left stays");
        }
        log_links::sweep(&ctx.options.layout);
        if let Err(error) = ctx.disks.release_unused() {
            tracing::warn!(%error, "devices that an earlier agent has mounted stay so");
        }
        tasks.spawn(tidy_shims(ctx.clone()));
        spawn_all(&ctx, member, registration, evicted, &mut tasks);
        Ok(Node {
            ctx,
            tasks,
            is_member,
            serving,
            _claim: claim,
        })
    }

    /// The image store, whose pulls can be watched.
    pub fn images(&self) -> &Images {
        &self.ctx.images
    }

    /// Whether the API server had taken the node in when it started; else that is being tried, and its static Pods run.
    pub fn is_member(&self) -> bool {
        self.is_member
    }

    /// The address the node reports.
    pub fn ip(&self) -> IpAddr {
        self.ctx.host_ips[0]
    }

    /// What its kubelet API serves with.
    pub fn serving(&self) -> Serving {
        self.serving.clone()
    }

    /// Ends the node's Pods within the time they are given: the host is going down.
    pub async fn end_pods(&self, grace: Grace) {
        shutdown::run(&self.ctx, grace).await;
    }

    /// Stops the agent within `deadline`; its Pods run on and are taken back at the next start.
    pub async fn shutdown(mut self, deadline: Duration) {
        self.ctx.shutdown.cancel();
        let drained = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(deadline, drained).await.is_err() {
            tracing::warn!(
                ?deadline,
                "some of the agent's tasks did not end in time and are abandoned"
            );
        }
    }
}

/// Beside the Pods: one shim that does not answer would hold up all of them.
async fn tidy_shims(ctx: Arc<Context>) {
    let run_dir = &ctx.options.run_dir;
    let tidy = async {
        shims::dismiss(run_dir).await;
        shims::sweep(run_dir).await;
    };
    ctx.shutdown.run_until_cancelled(tidy).await;
}

fn spawn_all(
    ctx: &Arc<Context>,
    member: Option<k8s_openapi::api::core::v1::Node>,
    registration: Registration,
    evicted: mpsc::Receiver<Eviction>,
    tasks: &mut JoinSet<()>,
) {
    let client = ctx.options.client.clone();
    let name = ctx.options.node_name.clone();
    let shutdown = || ctx.shutdown.clone();
    tasks.spawn(join::stay(ctx.clone(), Arc::new(registration), member));
    let resolver = Arc::new(dns::Resolver::new(ctx.network.gateway()));
    let (names, narrower) = (resolver.clone(), ctx.narrower.clone());
    let listener = move |lists: &network::services::Lists| {
        names.learn(&lists.services, &lists.slices);
        narrower.learn(lists);
    };
    tasks.spawn(network::services::run(
        ctx.network.clone(),
        client,
        name,
        Box::new(listener),
        ctx.recorder.clone(),
        shutdown(),
    ));
    tasks.spawn(dns::run(resolver, shutdown()));
    tasks.spawn(narrowing::run(ctx.clone()));
    tasks.spawn(csi::run(
        ctx.csi.clone(),
        ctx.options.client.clone(),
        ctx.options.node_name.clone(),
        shutdown(),
    ));
    tasks.spawn(manager::run(ctx.clone(), evicted));
}

fn make_directories(options: &NodeOptions) -> Result<(), StartError> {
    let path = options.run_dir.clone();
    std::fs::create_dir_all(&path).map_err(|source| StartError::Directory { path, source })?;
    let execs = Execs::new(&options.run_dir, TaskClients::default());
    let path = options.run_dir.clone();
    execs
        .forget_old()
        .map_err(|source| StartError::Directory { path, source })?;
    Ok(())
}

fn server_options(options: &NodeOptions, serving: Serving) -> Result<ServerOptions, StartError> {
    if let Some(pair) = &options.tls.pair {
        serving.set(pair).map_err(ServeError::Tls)?;
    }
    let data = options.layout.root();
    let disk = host::disk(data).map_err(|source| StartError::Directory {
        path: data.to_owned(),
        source,
    })?;
    Ok(ServerOptions {
        listen: options.kubelet_listen,
        serving,
        ca_pem: options.tls.ca_pem.clone(),
        run_dir: options.run_dir.clone(),
        client: Some(options.client.clone()),
        storage_dir: options.layout.storage(),
        configuration: configuration(options, disk.bytes),
    })
}

/// Where what the node uses is read.
fn station(
    options: &NodeOptions,
    table: &Table,
    images: &Images,
    probes: &ProbeCounts,
) -> Result<Station, network::OpenError> {
    Ok(Station::new(
        Arc::new(table.clone()),
        (options.cluster.clone(), options.node_name.clone()),
        network::Names::new(&options.id)?,
        Disks::new(options.layout.clone(), Some(images.clone())),
        probes.clone(),
    ))
}

/// Whether this host has room for a cluster's Services and, where it is known which addresses they have, its Pods. To be asked before
/// anything is written down or made for the cluster of this id.
///
/// # Errors
/// [`StartError::Network`] and [`StartError::NotIpv4`].
pub async fn check_ranges(id: &str, pods: Option<IpNet>, services: IpNet) -> Result<(), StartError> {
    let pods = pods.map(v4).transpose()?;
    Ok(network::check_ranges(id, pods, v4(services)?).await?)
}

fn v4(net: IpNet) -> Result<Ipv4Net, StartError> {
    match net {
        IpNet::V4(net) => Ok(net),
        IpNet::V6(_) => Err(StartError::NotIpv4(net)),
    }
}

async fn open_network(options: &NodeOptions, pod_cidr: IpNet) -> Result<Network, StartError> {
    let config = NetworkConfig {
        cluster_id: options.id.clone(),
        pod_cidr: v4(pod_cidr)?,
        service_cidr: v4(options.service_cidr)?,
        run_dir: options.run_dir.clone(),
        data_dir: options.layout.data().to_owned(),
    };
    Ok(Network::open(config).await?)
}

fn open_images(options: &NodeOptions) -> Result<Images, StoreError> {
    let images = ImagesOptions {
        mirrors: options.registry_mirrors.clone(),
        pull_mirrors: options.pull_mirrors.clone(),
        default_registry: options.default_registry.clone(),
        insecure_registries: options.insecure_registries.iter().cloned().collect(),
        wasm_shim: options.wasm_shim.clone(),
        keeps_access: true,
        ..ImagesOptions::default()
    };
    Images::open(&options.layout.images(), images)
}

/// Keeps a copy of all Services, for environments.
fn follow_services(
    options: &NodeOptions,
    tasks: &mut JoinSet<()>,
    shutdown: &CancellationToken,
) -> reflector::Store<Service> {
    let (services, changes) = reflect::<Service>(options.client.clone(), |_| {});
    let shutdown = shutdown.clone();
    tasks.spawn(async move {
        let follow = futures::StreamExt::for_each(changes, |change| async move {
            if let Err(error) = change {
                tracing::warn!(%error, "watching Services failed; trying again");
            }
        });
        shutdown.run_until_cancelled(follow).await;
    });
    services
}

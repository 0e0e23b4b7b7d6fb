//! One function a command. Refuses to know more than which parts a command needs.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use amphipod_control::{ControlOptions, ControlPlane, RegistryOptions};
use amphipod_node::pressure::thresholds::{self, Limits};
use amphipod_node::shutdown::Grace;
use amphipod_node::{DownOptions, Node, NodeOptions, NodeTls};
use anyhow::{Context, Result, anyhow, bail};
use kube::Client;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::cli::{AgentArgs, ClusterArgs, Command, ControlArgs, DownArgs, KubeconfigArgs, NodeArgs};
use crate::cluster::{self, Cluster, DataDir};
use crate::progress::{Progress, print_line};
use crate::{identity, image, kubeconfig, shims, signals, text, up};

/// How long each half of a cluster has to stop in order. Shims are not waited for: they outlive us.
pub const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// Upstream's default `--service-node-port-range`.
const NODE_PORTS: std::ops::RangeInclusive<u16> = 30000..=32767;

/// Open files of an API server: as many connections as it takes, and what else it has open.
const DESCRIPTORS: u64 = 20_480;

/// Runs a command to its end.
pub async fn run(command: Command) -> Result<()> {
    match command {
        Command::Up(args) => up::run(args).await,
        Command::Down(args) => down(&args).await,
        Command::Control(args) => control(&args).await,
        Command::Node(args) => node(&args).await,
        Command::Kubeconfig(args) => write_kubeconfig(&args),
        Command::Image(command) => {
            let registry = |data_dir: &Path| {
                cluster::read_cluster(data_dir)
                    .ok()
                    .flatten()
                    .map(|it| it.local_registry())
            };
            Ok(image::cli::run(command, registry, shims::own("wasm-shim")?).await?)
        }
        Command::Version => {
            print_line(concat!("amphipod ", env!("CARGO_PKG_VERSION")));
            Ok(())
        }
        Command::LinuxShim | Command::WasmShim => {
            bail!("shims are started by the node agent, as the first word")
        }
    }
}

/// Said before anything is made, instead of failing half-way.
pub fn need_root(command: &str) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("`{command}` makes namespaces, mounts, cgroups and network links: it must run as root");
    }
    Ok(())
}

/// Starts the control plane of a cluster and writes the kubeconfigs that lead to it.
pub async fn start_control(data: &DataDir, cluster: &Cluster, args: &ClusterArgs) -> Result<ControlPlane> {
    let options = ControlOptions {
        data_dir: data.path.join("control"),
        listen: cluster.listen,
        registry: Some(RegistryOptions {
            listen: cluster.registry,
            dir: data.path.join("registry"),
        }),
        pod_cidr: cluster.pod_cidr,
        node_cidr_mask_size: args.node_cidr_mask_size,
        service_cidr: cluster.service_cidr,
        node_ports: NODE_PORTS,
        audit_policy: args.audit_policy_file.clone(),
        extra_sans: Vec::new(),
        pod_security: cluster.pod_security,
        patience: Default::default(),
    };
    raise_descriptors();
    let control = ControlPlane::start(options)
        .await
        .context("starting the control plane")?;
    data.record(cluster)?;
    let admin = kubeconfig::admin(control.pki(), &cluster.local_server())?;
    cluster::replace_file(&data.path.join("kubeconfig"), admin.as_bytes())?;
    if let Some(file) = &args.kubeconfig {
        cluster::replace_file(file, admin.as_bytes())?;
    }
    Ok(control)
}

/// A connection is a descriptor, and what shells and service managers allow of them is for other programs. Where more
/// are not to be had, the API server serves fewer clients at once.
fn raise_descriptors() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        let wanted = DESCRIPTORS.min(hard);
        match soft < wanted {
            true => setrlimit(Resource::RLIMIT_NOFILE, wanted, hard),
            false => Ok(()),
        }
    });
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files cannot be raised");
    }
}

async fn control(args: &ControlArgs) -> Result<()> {
    let stop = signals::on_interrupt()?;
    let data = DataDir::open(&args.cluster.data_dir)?;
    let cluster = data.settle(&args.cluster, None)?;
    let control = start_control(&data, &cluster, &args.cluster).await?;
    let progress = Progress::new();
    progress.say(&format!(
        "control plane on {}, registry on {}",
        cluster.local_server(),
        cluster.local_registry()
    ));
    progress.say(&format!(
        "  kubectl --kubeconfig {} get nodes",
        data.path.join("kubeconfig").display()
    ));
    text::keep_small();
    stop.cancelled().await;
    control.shutdown(STOP_DEADLINE).await;
    Ok(())
}

async fn node(args: &NodeArgs) -> Result<()> {
    need_root("amphipod node")?;
    let stop = signals::on_interrupt()?;
    let data = DataDir::open(&args.data_dir)?;
    let cluster = data.settle(&joining(args), args.node_name.as_deref())?;
    let cluster = cluster.placed(&args.agent);
    // Of a command line that cannot be followed here nothing is written down.
    data.check_layout(&cluster)?;
    let free = amphipod_node::check_ranges(&cluster.id, args.pod_cidr, cluster.service_cidr).await;
    free.context("starting the node agent")?;
    let place = identity::Place {
        file: args.kubeconfig.clone(),
        served: (args.rotate_server_certificates).then(|| data.path.join("kubelet-server.pem")),
        server: args.server.clone(),
        node: cluster.node_name.clone(),
    };
    let joined = identity::join(place.clone(), args.bootstrap_kubeconfig.as_deref());
    let Some(joined) = stop.run_until_cancelled(joined).await else {
        return Ok(());
    };
    let (client, tls) = joined?;
    data.record(&cluster)?;
    let common = node_options(&data, &cluster, &args.agent, &args.registry, client.clone(), tls)?;
    let options = NodeOptions {
        node_ip: args.node_ip,
        pod_cidr: args.pod_cidr,
        ..common
    };
    let Some(started) = stop.run_until_cancelled(Node::start(options)).await else {
        return Ok(());
    };
    let node = started.context("starting the node agent")?;
    let (name, server) = (&cluster.node_name, &args.server);
    Progress::new().say(&match node.is_member() {
        true => format!("node {name} joined {server}"),
        false => format!("node {name} runs its static Pods; {server} does not answer yet"),
    });
    identity::serve(place, client, &node);
    text::keep_small();
    stop.cancelled().await;
    if let Some(grace) = pods_grace(&args.agent) {
        node.end_pods(grace).await;
    }
    node.shutdown(STOP_DEADLINE).await;
    Ok(())
}

/// A node that joins makes things on its host too, under an id of its own.
fn joining(args: &NodeArgs) -> ClusterArgs {
    ClusterArgs {
        data_dir: args.data_dir.clone(),
        kubeconfig: None,
        listen: None,
        registry: None,
        pod_cidr: args.pod_cidr,
        node_cidr_mask_size: None,
        service_cidr: Some(args.service_cidr),
        audit_policy_file: None,
        pod_security_default: None,
    }
}

/// What every node agent of this binary has in common. `registry` is the URL that `amphipod.local/` names mean.
pub fn node_options(
    data: &DataDir,
    cluster: &Cluster,
    agent: &AgentArgs,
    registry: &str,
    client: Client,
    tls: NodeTls,
) -> Result<NodeOptions> {
    Ok(NodeOptions {
        cluster: cluster.name(),
        id: cluster.id.clone(),
        node_name: cluster.node_name.clone(),
        layout: data.layout(cluster),
        run_dir: cluster.run_dir(),
        client,
        tls,
        node_ip: None,
        pod_cidr: None,
        service_cidr: cluster.service_cidr,
        kubelet_listen: (Ipv4Addr::UNSPECIFIED, agent.kubelet_port).into(),
        registry_mirrors: [(image::cli::CLUSTER_REGISTRY.to_owned(), registry.to_owned())].into(),
        pull_mirrors: pull_mirrors(&agent.registry_mirror),
        default_registry: agent.default_registry.clone(),
        insecure_registries: agent.insecure_registry.clone(),
        linux_shim: shims::linux()?,
        wasm_shim: shims::own("wasm-shim")?,
        max_pods: agent.max_pods.unwrap_or(amphipod_node::DEFAULT_MAX_PODS),
        pids_limit: amphipod_node::PidsLimit::of(agent.pod_max_pids),
        allowed_unsafe_sysctls: agent.allowed_unsafe_sysctls.clone(),
        static_pod_path: static_pods(data, agent)?,
        pressure: pressure(agent)?,
        labels: Default::default(),
    })
}

/// By registry, in the order they were given.
fn pull_mirrors(given: &[(String, String)]) -> BTreeMap<String, Vec<String>> {
    let mut mirrors: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (registry, url) in given {
        mirrors.entry(registry.clone()).or_default().push(url.clone());
    }
    mirrors
}

/// The time that the Pods have, if the host goes down and they are to end with it.
pub fn pods_grace(agent: &AgentArgs) -> Option<Grace> {
    let total = Duration::from_secs(agent.shutdown_grace_period);
    if total.is_zero() || !signals::host_is_ending() {
        return None;
    }
    let critical = Duration::from_secs(agent.shutdown_grace_period_critical_pods);
    Some(Grace { total, critical })
}

fn pressure(agent: &AgentArgs) -> Result<Limits> {
    let common = Limits::default();
    let soft = agent.eviction_soft.clone().unwrap_or_default();
    let grace = agent.eviction_soft_grace_period.clone().unwrap_or_default();
    let soft = thresholds::soft(soft, &grace).map_err(anyhow::Error::msg)?;
    Ok(Limits {
        soft,
        most_grace: agent.eviction_max_pod_grace_period,
        hard: agent.eviction_hard.clone().unwrap_or(common.hard),
        reclaim: agent.eviction_minimum_reclaim.clone().unwrap_or_default(),
        transition: Duration::from_secs(agent.eviction_pressure_transition_period),
    })
}

/// Where manifests of static Pods are; the directory in ours is there for who wants to put one in.
fn static_pods(data: &DataDir, agent: &AgentArgs) -> Result<PathBuf> {
    if let Some(path) = &agent.pod_manifest_path {
        return Ok(path.clone());
    }
    let path = data.path.join("manifests");
    std::fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
    Ok(path)
}

async fn down(args: &DownArgs) -> Result<()> {
    need_root("amphipod down")?;
    if !args.data_dir.exists() {
        bail!(
            "there is no data directory {}; give the cluster's --data-dir",
            args.data_dir.display()
        );
    }
    let data = DataDir::open(&args.data_dir)?;
    let Some(cluster) = data.cluster()? else {
        bail!("no cluster was ever started in {}", data.path.display())
    };
    remove(&data, &cluster, args.purge).await?;
    print_line(&format!("{} is gone from this host", cluster.name()));
    Ok(())
}

/// Ends a cluster's Pods and removes what it made on this host; with `purge` its data too.
pub async fn remove(data: &DataDir, cluster: &Cluster, purge: bool) -> Result<()> {
    let options = DownOptions {
        cluster: cluster.name(),
        id: cluster.id.clone(),
        layout: data.layout(cluster),
        run_dir: cluster.run_dir(),
        linux_shim: shims::linux()?,
        wasm_shim: shims::own("wasm-shim")?,
    };
    amphipod_node::down(&options)
        .await
        .with_context(|| format!("removing what {} made on this host", cluster.name()))?;
    if purge {
        std::fs::remove_dir_all(&data.path).with_context(|| format!("removing {}", data.path.display()))?;
    }
    Ok(())
}

fn write_kubeconfig(args: &KubeconfigArgs) -> Result<()> {
    let cluster = cluster::read_cluster(&args.data_dir)?.ok_or_else(|| {
        anyhow!(
            "no cluster was ever started in {}; give its --data-dir",
            args.data_dir.display()
        )
    })?;
    let server = args.server.clone().unwrap_or_else(|| cluster.local_server());
    let pki = kubeconfig::open_pki(&args.data_dir.join("control"))?;
    let text = match &args.node {
        Some(name) => kubeconfig::node(&pki, &server, name)?,
        None => kubeconfig::admin(&pki, &server)?,
    };
    print_line(text.trim_end());
    Ok(())
}

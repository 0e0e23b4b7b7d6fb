//! The command line: what can be said, with help for every flag. Refuses to know what the commands do.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use std::collections::BTreeMap;

use amphipod_control::admission::PodSecurityLevel;
use amphipod_node::images::{Endpoints, ImageReference};
use amphipod_node::network::sysctl;
use amphipod_node::pressure::thresholds::{self, Amount, Signal, Threshold};
use clap::{Args, Parser, Subcommand};
use ipnet::IpNet;
use tracing_subscriber::EnvFilter;

/// Where a cluster lives when nothing else is said.
pub const DEFAULT_DATA_DIR: &str = "/var/lib/amphipod";

/// Whoever watches says himself what is wrong with it, once; kube_runtime says it at every try.
const DEFAULT_LOG: &str = "warn,kube_runtime=error";

/// A Kubernetes-compatible orchestrator whose Pods run Wasm and native Linux containers side by side.
#[derive(Parser)]
#[command(name = "amphipod", version, propagate_version = true)]
pub struct Cli {
    /// What to log to standard error, as a tracing filter (`info`, `amphipod_node=debug`).
    #[arg(
        long,
        global = true,
        env = "AMPHIPOD_LOG",
        default_value = DEFAULT_LOG,
        value_name = "FILTER"
    )]
    pub log: EnvFilter,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Start a whole cluster on this machine, and apply manifests to it. Stays until Ctrl-C; Pods outlive it.
    Up(UpArgs),
    /// Remove everything a cluster made on this host: Pods, mounts, links, rules, cgroups. Keeps its data.
    Down(DownArgs),
    /// Start only the control plane: API server, scheduler, controllers, registry.
    Control(ControlArgs),
    /// Start only a node agent, for a control plane somewhere else.
    Node(NodeArgs),
    /// Write a kubeconfig for a cluster's administrator, or for a node that is to join.
    Kubeconfig(KubeconfigArgs),
    /// Push, pull and list images.
    #[command(subcommand)]
    Image(crate::image::cli::ImageCommand),
    /// Print the version.
    Version,
    /// Run native containers for the node agent (containerd's shim command line follows).
    #[command(hide = true)]
    LinuxShim,
    /// Run Wasm containers for the node agent (containerd's shim command line follows).
    #[command(hide = true)]
    WasmShim,
}

/// Where the cluster lives, and what it listens on. What is not said is what the cluster had before, or the default.
#[derive(Args, Clone)]
pub struct ClusterArgs {
    /// Directory of everything that lasts: objects, images, Pods' volumes and logs.
    #[arg(long, env = "AMPHIPOD_DATA_DIR", default_value = DEFAULT_DATA_DIR, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Write the administrator's kubeconfig here too (always: DIR/kubeconfig).
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Where the API server listens [default: 0.0.0.0:6443]
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,
    /// Where the embedded image registry listens [default: 127.0.0.1:5050]
    #[arg(long, value_name = "ADDR:PORT")]
    pub registry: Option<SocketAddr>,
    /// Addresses for Pods; fixed at the cluster's first start [default: 10.42.0.0/16]
    #[arg(long, value_name = "CIDR")]
    pub pod_cidr: Option<IpNet>,
    /// Prefix length of what each node gets of --pod-cidr when it joins [default: 24, of IPv6 64; in `up` what --max-pods needs]
    #[arg(long, value_name = "BITS", value_parser = clap::value_parser!(u8).range(8..=126))]
    pub node_cidr_mask_size: Option<u8>,
    /// Addresses for Services; fixed at the cluster's first start [default: 10.43.0.0/16]
    #[arg(long, value_name = "CIDR")]
    pub service_cidr: Option<IpNet>,
    /// What the audit log in DIR/control/audit shows: a file of kind Policy, audit.k8s.io/v1 [default: all at Metadata]
    #[arg(long, value_name = "FILE")]
    pub audit_policy_file: Option<PathBuf>,
    /// Pod Security of namespaces without labels: privileged, baseline or restricted [default: privileged]
    #[arg(long, value_name = "LEVEL")]
    pub pod_security_default: Option<PodSecurityLevel>,
}

/// What flags of eviction say; names, since a flag would otherwise be given once for each element.
type Thresholds = Vec<Threshold>;
type Reclaim = BTreeMap<Signal, Amount>;
type Lasting = BTreeMap<Signal, Duration>;

/// How the node agent works.
#[derive(Args, Clone)]
pub struct AgentArgs {
    /// Where Pods' volumes, sockets of CSI drivers and seccomp profiles are: /var/lib/kubelet is what drivers of others look for. One
    /// agent's alone; kept for the next start [default: DIR/node]
    #[arg(long, value_name = "DIR", value_parser = absolute)]
    pub root_dir: Option<PathBuf>,
    /// Where containers' logs are: /var/log/pods is what collectors look for, who have links in /var/log/containers too. Kept for the
    /// next start [default: DIR/node/logs]
    #[arg(long, value_name = "DIR", value_parser = absolute)]
    pub pod_logs_dir: Option<PathBuf>,
    /// Pods this node takes at most; the control plane's --node-cidr-mask-size must leave addresses for them [default: 110]
    #[arg(long, value_name = "NUMBER")]
    pub max_pods: Option<u32>,
    /// Processes and threads that the containers of a Pod may have together, -1 for as many as they like [default: 4096 for each
    /// container]
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    pub pod_max_pids: Option<i64>,
    /// Port of the node's kubelet API, on all addresses; 10250 is usual. 0 takes any that is free, for several agents live on
    /// one host; the Node object tells the API server which one it is
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    pub kubelet_port: u16,
    /// Manifests of static Pods: a directory, or one file [default: DIR/manifests]
    #[arg(long, value_name = "PATH")]
    pub pod_manifest_path: Option<PathBuf>,
    /// URL that pulls from a registry ask before the registry itself, without credentials (repeat for more)
    #[arg(long, value_name = "REGISTRY=URL", value_parser = mirror)]
    pub registry_mirror: Vec<(String, String)>,
    /// Registry that is spoken to over plain HTTP (repeat for more)
    #[arg(long, value_name = "HOST[:PORT]")]
    pub insecure_registry: Vec<String>,
    /// Registry of image names that give none [default: docker.io]
    #[arg(long, value_name = "HOST[:PORT]", value_parser = registry)]
    pub default_registry: Option<String>,
    /// Kernel settings beyond the safe ones that Pods may choose, or what some begin with, and `*`
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', value_parser = sysctl::pattern)]
    pub allowed_unsafe_sysctls: Vec<String>,
    /// Below which amounts Pods are evicted [default: memory.available<100Mi,nodefs.available<10%,nodefs.inodesFree<5%,imagefs.available<15%,imagefs.inodesFree<5%; of a disk at most 1Gi]
    #[arg(long, value_name = "SIGNAL<AMOUNT,…", value_parser = thresholds::parse_hard)]
    pub eviction_hard: Option<Thresholds>,
    /// Below which amounts Pods are evicted once it has lasted, and with time to end
    #[arg(long, value_name = "SIGNAL<AMOUNT,…", value_parser = thresholds::parse_hard)]
    pub eviction_soft: Option<Thresholds>,
    /// How long each threshold of --eviction-soft has to last
    #[arg(long, value_name = "SIGNAL=DURATION,…", value_parser = thresholds::parse_grace)]
    pub eviction_soft_grace_period: Option<Lasting>,
    /// Seconds a Pod evicted by --eviction-soft has at most
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub eviction_max_pod_grace_period: u32,
    /// How much is reclaimed at least, once a threshold was met
    #[arg(long, value_name = "SIGNAL=AMOUNT,…", value_parser = thresholds::parse_reclaim)]
    pub eviction_minimum_reclaim: Option<Reclaim>,
    /// Seconds a condition of pressure stays after it was last observed
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub eviction_pressure_transition_period: u64,
    /// Seconds the Pods have to end when the host goes down: on SIGTERM, under systemd only while it stops the host.
    /// 0 leaves them running
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub shutdown_grace_period: u64,
    /// Of these, the seconds left to system-critical Pods, which end last
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub shutdown_grace_period_critical_pods: u64,
}

#[derive(Args)]
pub struct UpArgs {
    /// Manifests to apply: YAML or JSON files, or directories of them. An images.yaml beside them names local images.
    #[arg(value_name = "MANIFEST|DIR")]
    pub manifests: Vec<PathBuf>,
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// Name of this machine's Node [default: the host name]
    #[arg(long, value_name = "NAME", value_parser = node_name)]
    pub node_name: Option<String>,
    #[command(flatten)]
    pub agent: AgentArgs,
    /// On a clean stop, end the Pods and remove everything the cluster made on this host, its data directory included.
    #[arg(long)]
    pub rm: bool,
}

#[derive(Args)]
pub struct DownArgs {
    /// The cluster's data directory.
    #[arg(long, env = "AMPHIPOD_DATA_DIR", default_value = DEFAULT_DATA_DIR, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Remove the data directory too: objects, images, volumes, logs.
    #[arg(long)]
    pub purge: bool,
}

#[derive(Args)]
pub struct ControlArgs {
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

#[derive(Args)]
pub struct NodeArgs {
    /// URL of the API server.
    #[arg(long, value_name = "URL")]
    pub server: String,
    /// Kubeconfig with the node's identity: a client certificate (`amphipod kubeconfig --node NAME` writes one), a token or a program.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: PathBuf,
    /// Kubeconfig that may ask for the node's certificate, if there is none, or one that has ended, in --kubeconfig: what comes of it
    /// is written there, and renewed in time.
    #[arg(long, value_name = "FILE")]
    pub bootstrap_kubeconfig: Option<PathBuf>,
    /// Ask for the certificate of the kubelet API too, and renew it; somebody has to approve each of these requests (signer
    /// kubernetes.io/kubelet-serving). Until then the node has no logs and exec [default: what --kubeconfig has, or one of its own]
    #[arg(long)]
    pub rotate_server_certificates: bool,
    /// Directory of images, Pods' volumes and logs.
    #[arg(
        long,
        env = "AMPHIPOD_DATA_DIR",
        default_value = "/var/lib/amphipod-node",
        value_name = "DIR"
    )]
    pub data_dir: PathBuf,
    /// Name of this machine's Node: the one the certificate was made for [default: the host name]
    #[arg(long, value_name = "NAME", value_parser = node_name)]
    pub node_name: Option<String>,
    /// Address that other nodes and the API server reach this node by [default: that of the default route]
    #[arg(long, value_name = "ADDR")]
    pub node_ip: Option<IpAddr>,
    /// URL of the registry that amphipod.local/ names mean [default: http://127.0.0.1:5050]
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:5050")]
    pub registry: String,
    /// Addresses for this node's Pods [default: what the control plane gives]
    #[arg(long, value_name = "CIDR")]
    pub pod_cidr: Option<IpNet>,
    /// Addresses of Services: the control plane's --service-cidr.
    #[arg(long, value_name = "CIDR", default_value = crate::cluster::DEFAULT_SERVICE_CIDR)]
    pub service_cidr: IpNet,
    #[command(flatten)]
    pub agent: AgentArgs,
}

#[derive(Args)]
pub struct KubeconfigArgs {
    /// The cluster's data directory.
    #[arg(long, env = "AMPHIPOD_DATA_DIR", default_value = DEFAULT_DATA_DIR, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Make it for this node instead of the administrator.
    #[arg(long, value_name = "NAME", value_parser = node_name)]
    pub node: Option<String>,
    /// URL of the API server to write into it [default: https://127.0.0.1 and the cluster's port]
    #[arg(long, value_name = "URL")]
    pub server: Option<String>,
}

fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = std::path::absolute(text).map_err(|error| error.to_string())?;
    // Paths are compared by their names.
    Ok(path.components().collect())
}

fn mirror(text: &str) -> Result<(String, String), String> {
    let (host, url) = text.split_once('=').ok_or("expected REGISTRY=URL")?;
    let endpoints = Endpoints {
        mirrors: [(host.to_owned(), url.to_owned())].into(),
        ..Endpoints::default()
    };
    endpoints.resolve(host).map_err(|error| error.to_string())?;
    Ok((registry(host)?, url.to_owned()))
}

/// A registry's name is what stands before the first slash of an image's.
fn registry(text: &str) -> Result<String, String> {
    let named = text.contains(['.', ':']) || text == "localhost";
    let image: Result<ImageReference, _> = format!("{text}/image").parse();
    match image.is_ok_and(|image| named && image.registry() == text) {
        true => Ok(text.to_owned()),
        false => Err("a registry is HOST or HOST:PORT, with a dot or a port or as localhost".to_owned()),
    }
}

/// A Node's name is a DNS subdomain (RFC 1123), as all names of objects without a narrower rule.
fn node_name(text: &str) -> Result<String, String> {
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let label = |label: &str| {
        label.starts_with(edge) && label.ends_with(edge) && label.chars().all(|c| edge(c) || c == '-')
    };
    match text.len() <= 253 && text.split('.').all(label) {
        true => Ok(text.to_owned()),
        false => Err(
            "a node's name is a lowercase RFC 1123 subdomain: lower case letters, digits, '-' and '.', \
                      beginning and ending with a letter or digit, 253 characters at most"
                .to_owned(),
        ),
    }
}

/// Logs go to standard error; standard output is for what the user asked for.
pub fn init_log(filter: &EnvFilter) {
    tracing_subscriber::fmt()
        .with_env_filter(filter.clone())
        .with_writer(std::io::stderr)
        .init();
}

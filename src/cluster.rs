//! A cluster's data directory: its format, its lock, its identity and settings. Refuses to know what parts put in it.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use amphipod_control::admission::PodSecurityLevel;
use amphipod_node::Layout;
use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::cli::{AgentArgs, ClusterArgs};

/// The layout described in ARCHITECTURE.md, "Data directory".
const FORMAT: &str = "1";

pub const DEFAULT_LISTEN: &str = "0.0.0.0:6443";
pub const DEFAULT_REGISTRY: &str = "127.0.0.1:5050";
pub const DEFAULT_POD_CIDR: &str = "10.42.0.0/16";
pub const DEFAULT_SERVICE_CIDR: &str = "10.43.0.0/16";

/// A range of Services has 8 addresses at least, as upstream demands.
const MIN_SERVICE_BITS: u8 = 3;

/// What a cluster is and listens on; kept in `DATA/cluster.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cluster {
    /// 8 hex digits, in the name of everything the cluster makes on the host.
    pub id: String,
    pub node_name: String,
    pub listen: SocketAddr,
    pub registry: SocketAddr,
    pub pod_cidr: IpNet,
    pub service_cidr: IpNet,
    /// The Pod Security level of namespaces whose labels say none.
    #[serde(default)]
    pub pod_security: PodSecurityLevel,
    /// Where this machine's node keeps what drivers look for, and its logs, if that is elsewhere than in the data directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_dir: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_logs_dir: Option<PathBuf>,
}

impl Cluster {
    /// `amphipod-<id>`.
    pub fn name(&self) -> String {
        name(&self.id)
    }

    /// URL by which this machine reaches the API server.
    pub fn local_server(&self) -> String {
        local_url("https", self.listen)
    }

    /// URL by which this machine reaches the embedded registry.
    pub fn local_registry(&self) -> String {
        local_url("http", self.registry)
    }

    pub fn run_dir(&self) -> PathBuf {
        run_dir(&self.id)
    }

    /// With what the command line says of the node's directories.
    #[must_use]
    pub fn placed(self, agent: &AgentArgs) -> Self {
        Cluster {
            root_dir: agent.root_dir.clone().or(self.root_dir),
            pod_logs_dir: agent.pod_logs_dir.clone().or(self.pod_logs_dir),
            ..self
        }
    }
}

pub fn name(id: &str) -> String {
    format!("amphipod-{id}")
}

/// On a tmpfs: what is in it is gone after a reboot, as are the processes it speaks of.
pub fn run_dir(id: &str) -> PathBuf {
    Path::new("/run/amphipod").join(name(id))
}

/// A wildcard address is reached by loopback.
fn local_url(scheme: &str, address: SocketAddr) -> String {
    let host = match address.ip() {
        ip if ip.is_unspecified() && ip.is_ipv6() => "[::1]".to_owned(),
        ip if ip.is_unspecified() => "127.0.0.1".to_owned(),
        std::net::IpAddr::V6(ip) => format!("[{ip}]"),
        ip => ip.to_string(),
    };
    format!("{scheme}://{host}:{}", address.port())
}

/// A data directory held by this process; dropping it lets the next one in.
#[derive(Debug)]
pub struct DataDir {
    pub path: PathBuf,
    _lock: Flock<File>,
}

impl DataDir {
    /// Makes the directory when there is none, checks its format, and takes its lock.
    pub fn open(path: &Path) -> Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .with_context(|| format!("making the data directory {}", path.display()))?;
        let path = path
            .canonicalize()
            .with_context(|| format!("finding the data directory {}", path.display()))?;
        let lock = take_lock(&path)?;
        check_format(&path)?;
        Ok(Self { path, _lock: lock })
    }

    /// What the directory's cluster is; `None` before its first start.
    pub fn cluster(&self) -> Result<Option<Cluster>> {
        read_cluster(&self.path)
    }

    /// Where this machine's node of a cluster in this directory keeps things.
    pub fn layout(&self, cluster: &Cluster) -> Layout {
        let own = Layout::below(self.path.join("node"));
        own.with(cluster.root_dir.clone(), cluster.pod_logs_dir.clone())
    }

    /// Whether its node can be as `cluster` says, which has Pods where it was before.
    pub fn check_layout(&self, cluster: &Cluster) -> Result<()> {
        let before = self.cluster()?;
        let before = self.layout(before.as_ref().unwrap_or(cluster));
        self.layout(cluster)
            .check(&before, &cluster.name())
            .context("starting the node agent")
    }

    /// The directory's cluster with what the command line asks for.
    pub fn settle(&self, args: &ClusterArgs, node_name: Option<&str>) -> Result<Cluster> {
        settle(self.cluster()?.as_ref(), args, node_name)
    }

    /// Writes down what the cluster is: once its addresses are taken, before anything on the host carries its name.
    pub fn record(&self, cluster: &Cluster) -> Result<()> {
        if self.cluster()?.as_ref() == Some(cluster) {
            return Ok(());
        }
        let text = serde_json::to_vec_pretty(cluster).context("writing down the cluster's settings")?;
        replace_file(&self.path.join("cluster.json"), &text)
    }
}

/// Reads `DATA/cluster.json` without taking the lock, as commands beside a running cluster do.
pub fn read_cluster(data_dir: &Path) -> Result<Option<Cluster>> {
    let file = data_dir.join("cluster.json");
    match fs::read(&file) {
        Ok(text) => serde_json::from_slice(&text).map(Some).with_context(|| {
            format!(
                "{} is not what amphipod wrote; restore it, or start with a new --data-dir",
                file.display()
            )
        }),
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(why) => Err(why).with_context(|| format!("reading {}", file.display())),
    }
}

fn take_lock(path: &Path) -> Result<Flock<File>> {
    let file = path.join("lock");
    let mut open = OpenOptions::new();
    let open = open
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600);
    let handle = open
        .open(&file)
        .with_context(|| format!("opening {}", file.display()))?;
    match Flock::lock(handle, FlockArg::LockExclusiveNonblock) {
        Ok(mut lock) => {
            lock.set_len(0)
                .and_then(|()| writeln!(lock, "{}", std::process::id()))
                .context("writing the lock file")?;
            Ok(lock)
        }
        Err((mut handle, nix::errno::Errno::EWOULDBLOCK)) => {
            let mut holder = String::new();
            handle
                .read_to_string(&mut holder)
                .context("reading the lock file")?;
            bail!(
                "the data directory {} is in use by a running amphipod (process {}); stop it, or give this cluster its own --data-dir",
                path.display(),
                holder.trim()
            )
        }
        Err((_, why)) => Err(why).with_context(|| format!("locking {}", file.display())),
    }
}

fn check_format(path: &Path) -> Result<()> {
    let file = path.join("version");
    match fs::read_to_string(&file) {
        Ok(found) if found.trim() == FORMAT => Ok(()),
        Ok(found) => bail!(
            "the data directory {} has format {:?}, and this amphipod ({}) reads format {FORMAT}; use the version that wrote it, or another --data-dir",
            path.display(),
            found.trim(),
            env!("CARGO_PKG_VERSION")
        ),
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => {
            refuse_foreign(path)?;
            replace_file(&file, format!("{FORMAT}\n").as_bytes())
        }
        Err(why) => Err(why).with_context(|| format!("reading {}", file.display())),
    }
}

/// A directory with somebody else's files in it is most likely a mistake on the command line.
fn refuse_foreign(path: &Path) -> Result<()> {
    for entry in fs::read_dir(path).with_context(|| format!("listing {}", path.display()))? {
        let name = entry
            .with_context(|| format!("listing {}", path.display()))?
            .file_name();
        if name != "lock" {
            bail!(
                "{} is not an amphipod data directory and not empty (it holds {:?}); give an empty or new --data-dir",
                path.display(),
                name
            );
        }
    }
    Ok(())
}

/// Readers see the old content or the new one; a crash leaves one of them.
pub fn replace_file(file: &Path, content: &[u8]) -> Result<()> {
    let fresh = file.with_extension("new");
    let write = || -> std::io::Result<()> {
        let mut handle = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&fresh)?;
        handle.write_all(content)?;
        handle.sync_all()?;
        fs::rename(&fresh, file)
    };
    write().with_context(|| format!("writing {}", file.display()))
}

/// Flags win over what was; what was wins over defaults. Addresses that objects carry cannot change.
fn settle(before: Option<&Cluster>, args: &ClusterArgs, node_name: Option<&str>) -> Result<Cluster> {
    let was = |pick: fn(&Cluster) -> IpNet| before.map(pick);
    let cluster = Cluster {
        id: before.map_or_else(new_id, |cluster| cluster.id.clone()),
        node_name: match node_name
            .map(str::to_owned)
            .or_else(|| before.map(|cluster| cluster.node_name.clone()))
        {
            Some(name) => name,
            None => host_name()?,
        },
        listen: pick(args.listen, before.map(|cluster| cluster.listen), DEFAULT_LISTEN)?,
        registry: pick(
            args.registry,
            before.map(|cluster| cluster.registry),
            DEFAULT_REGISTRY,
        )?,
        pod_cidr: pick(args.pod_cidr, was(|cluster| cluster.pod_cidr), DEFAULT_POD_CIDR)?,
        service_cidr: pick(
            args.service_cidr,
            was(|cluster| cluster.service_cidr),
            DEFAULT_SERVICE_CIDR,
        )?,
        pod_security: args
            .pod_security_default
            .or(before.map(|cluster| cluster.pod_security))
            .unwrap_or_default(),
        root_dir: before.and_then(|cluster| cluster.root_dir.clone()),
        pod_logs_dir: before.and_then(|cluster| cluster.pod_logs_dir.clone()),
    };
    check_fixed(before, &cluster)?;
    Ok(cluster)
}

fn pick<T: std::str::FromStr>(said: Option<T>, before: Option<T>, default: &str) -> Result<T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    said.or(before).map_or_else(
        || {
            default
                .parse()
                .with_context(|| format!("reading the default {default}"))
        },
        Ok,
    )
}

fn check_fixed(before: Option<&Cluster>, now: &Cluster) -> Result<()> {
    if now.pod_cidr.contains(&now.service_cidr.network())
        || now.service_cidr.contains(&now.pod_cidr.network())
    {
        bail!(
            "--pod-cidr {} and --service-cidr {} overlap; choose two that do not",
            now.pod_cidr,
            now.service_cidr
        );
    }
    if now.service_cidr.max_prefix_len() - now.service_cidr.prefix_len() < MIN_SERVICE_BITS {
        bail!(
            "--service-cidr {} is too small: Services need 8 addresses at least",
            now.service_cidr
        );
    }
    let Some(before) = before else { return Ok(()) };
    for (flag, was, is) in [
        ("--pod-cidr", before.pod_cidr, now.pod_cidr),
        ("--service-cidr", before.service_cidr, now.service_cidr),
    ] {
        if was != is {
            bail!(
                "{flag} was {was} at this cluster's first start and cannot become {is}; leave it out, or use a new --data-dir"
            );
        }
    }
    Ok(())
}

fn new_id() -> String {
    hex::encode(rand::random::<[u8; 4]>())
}

/// The host's name as a Node name: lower case, as kubelet does it.
pub fn host_name() -> Result<String> {
    let name = nix::unistd::gethostname().context("asking for the host name; give --node-name")?;
    let name = name.to_string_lossy().to_lowercase();
    if name.is_empty() {
        bail!("this host has no name; give --node-name");
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> ClusterArgs {
        ClusterArgs {
            data_dir: PathBuf::new(),
            kubeconfig: None,
            listen: None,
            registry: None,
            pod_cidr: None,
            node_cidr_mask_size: None,
            service_cidr: None,
            audit_policy_file: None,
            pod_security_default: None,
        }
    }

    #[test]
    fn a_second_start_keeps_what_the_first_one_chose() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let first = data
            .settle(
                &ClusterArgs {
                    listen: "127.0.0.1:7443".parse().ok(),
                    pod_security_default: Some(PodSecurityLevel::Baseline),
                    ..args()
                },
                Some("n"),
            )
            .unwrap();
        data.record(&first).unwrap();
        let second = data.settle(&args(), None).unwrap();
        assert_eq!(first, second);
        assert_eq!(first.pod_security, PodSecurityLevel::Baseline);
        assert_eq!(second.local_server(), "https://127.0.0.1:7443");
    }

    #[test]
    fn cidrs_of_a_living_cluster_do_not_change() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let first = data.settle(&args(), Some("n")).unwrap();
        data.record(&first).unwrap();
        let why = data
            .settle(
                &ClusterArgs {
                    pod_cidr: "10.9.0.0/16".parse().ok(),
                    ..args()
                },
                None,
            )
            .unwrap_err();
        assert!(why.to_string().contains("cannot become 10.9.0.0/16"), "{why}");
        let overlap = ClusterArgs {
            service_cidr: "10.42.8.0/24".parse().ok(),
            ..args()
        };
        assert!(
            settle(None, &overlap, Some("n"))
                .unwrap_err()
                .to_string()
                .contains("overlap")
        );
    }

    #[test]
    fn a_start_that_failed_fixes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let ranges = |pods: &str, services: &str| ClusterArgs {
            pod_cidr: pods.parse().ok(),
            service_cidr: services.parse().ok(),
            ..args()
        };
        data.settle(&ranges("10.9.0.0/16", "10.8.0.0/16"), Some("n"))
            .unwrap();
        data.settle(&ranges("10.7.0.0/16", "10.6.0.0/16"), Some("n"))
            .unwrap();
        let why = data
            .settle(&ranges("10.7.0.0/16", "10.6.0.0/30"), Some("n"))
            .unwrap_err();
        assert!(why.to_string().contains("too small"), "{why}");
    }

    #[test]
    fn one_holder_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataDir::open(dir.path()).unwrap();
        let why = DataDir::open(dir.path()).unwrap_err();
        assert!(
            why.to_string()
                .contains(&format!("process {}", std::process::id())),
            "{why}"
        );
        drop(first);
        DataDir::open(dir.path()).unwrap();
    }

    #[test]
    fn other_formats_and_other_directories_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("version"), "99").unwrap();
        assert!(
            DataDir::open(dir.path())
                .unwrap_err()
                .to_string()
                .contains("format \"99\"")
        );
        let foreign = tempfile::tempdir().unwrap();
        fs::write(foreign.path().join("thesis.tex"), "").unwrap();
        assert!(
            DataDir::open(foreign.path())
                .unwrap_err()
                .to_string()
                .contains("not an amphipod data directory")
        );
    }

    #[test]
    fn wildcards_are_reached_by_loopback() {
        for (listen, url) in [
            ("0.0.0.0:1", "https://127.0.0.1:1"),
            ("[::]:2", "https://[::1]:2"),
            ("10.0.0.1:3", "https://10.0.0.1:3"),
        ] {
            assert_eq!(local_url("https", listen.parse().unwrap()), url);
        }
    }
}

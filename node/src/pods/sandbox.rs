//! What a Pod's containers share: directories, files of the name service, volumes, namespaces. Each step may
//! be repeated: what is there is taken as it is.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use futures::future::join_all;
use k8s_openapi::api::core::v1::{PodSpec, Volume};

use super::cgroup::{self, PodCgroupError};
use super::context::{Context, PodDirs};
use super::dynamic_resources::{self, ResourcesError};
use super::environment::services_are_known;
use super::handler::{self, HandlerError};
use super::hostname::{self, HostNameError};
use super::image_volumes;
use super::mounting;
use super::resolver;
use super::unmounted::{Cause, Missing, Told, Unmounted};
use super::uses::Uses;
use super::view::PodView;
use crate::bundle::Namespaces;
use crate::csi::CsiError;
use crate::env::objects::Names;
use crate::events::Severity::Warning;
use crate::files::write_of_this_boot;
use crate::network::Origin;
use crate::network::SetupError;
use crate::reflect::is_ready;
use crate::users::UsersError;
use crate::volumes::tokens::{TokenError, Wish};
use crate::volumes::{self, host::HostError};

/// The Pod object as last seen, for cleaning up after it when it is gone. Not synced: a machine that lost power may leave
/// half a file, as if the Pod had not been written down (`leftovers`).
pub const POD_FILE: &str = "pod.json";
/// The directory of a Pod's volumes, there from its first preparation until it is torn down.
pub const VOLUMES: &str = "volumes";
/// The resolver file of a Pod, below its directory.
const RESOLV_CONF: &str = "resolv.conf";
/// Volumes of one Pod that are made side by side: most wait for the API server or a driver.
const AT_ONCE: usize = 8;

/// A Pod's shared surroundings.
#[derive(Clone, Debug)]
pub struct Surroundings {
    pub ips: Vec<IpAddr>,
    pub namespaces: Namespaces,
    /// The namespaces were found alive.
    pub adopted: bool,
    /// The runtime handler of the Pod's class.
    pub handler: String,
}

/// Why a Pod's surroundings could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    #[error(transparent)]
    Volumes(#[from] Unmounted),
    #[error(transparent)]
    Host(#[from] HostError),
    #[error("{step} {path}: {source}")]
    File {
        step: &'static str,
        path: String,
        source: io::Error,
    },
    #[error("failed to set up the network of the sandbox: {0}")]
    Network(#[from] SetupError),
    #[error(transparent)]
    Users(#[from] UsersError),
    #[error(transparent)]
    Handler(#[from] HandlerError),
    #[error(transparent)]
    HostName(#[from] HostNameError),
    #[error("Failed to prepare dynamic resources: {0}")]
    Resources(#[from] ResourcesError),
    #[error("whether the Pod suits this node is not known: {0}")]
    Node(kube::Error),
}

/// A preparation that failed.
#[derive(Debug)]
pub struct Unprepared {
    pub error: PrepareError,
    /// It made new namespaces all the same: whatever ran in earlier ones has lost them.
    pub rebuilt: bool,
}

impl PrepareError {
    /// The event that upstream records for it; of volumes there are several.
    pub fn told(&self) -> Told {
        match self {
            Self::Resources(_) => ("FailedPrepareDynamicResources", self.to_string()),
            _ => (
                "FailedCreatePodSandBox",
                format!("Failed to create pod sandbox: {self}"),
            ),
        }
    }
}

/// Makes everything a Pod's containers share.
pub async fn prepare(ctx: &Context, pod: PodView<'_>) -> Result<Surroundings, Unprepared> {
    let mut rebuilt = false;
    let made = make(ctx, pod, &mut rebuilt).await;
    made.map_err(|error| Unprepared { error, rebuilt })
}

async fn make(ctx: &Context, pod: PodView<'_>, rebuilt: &mut bool) -> Result<Surroundings, PrepareError> {
    let dirs = ctx.dirs(pod);
    volumes::host::make_dir(&dirs.root, 0o755)?;
    volumes::host::make_dir(&dirs.volumes(), 0o755)?;
    save_pod(&dirs, pod)?;
    // Both wait, for others. The network begins: a thread of its own makes it, while this one asks for what volumes show. That
    // volumes are not there is told first.
    let network = async {
        let handler = handler::of(ctx, pod).await?;
        network(ctx, pod, handler).await
    };
    let uses = Uses::of(pod);
    let (network, volumes) = tokio::join!(network, set_up_volumes(ctx, pod, &[], &uses));
    *rebuilt = network.as_ref().is_ok_and(|made| !made.adopted);
    volumes?;
    dynamic_resources::look(ctx, pod).await?;
    let surroundings = network?;
    services_are_known(ctx, pod).await;
    write_files(ctx, pod, &dirs, &surroundings)?;
    Ok(surroundings)
}

fn save_pod(dirs: &PodDirs, pod: PodView<'_>) -> Result<(), PrepareError> {
    let path = dirs.file(POD_FILE);
    let bytes = serde_json::to_vec(pod.pod).map_err(io::Error::from);
    bytes
        .and_then(|b| write_of_this_boot(&path, &b))
        .map_err(file_error("write", &path))
}

fn file_error<'a>(step: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> PrepareError + 'a {
    move |source| PrepareError::File {
        step,
        path: path.display().to_string(),
        source,
    }
}

/// Makes or refreshes volumes of the Pod that containers show, a few side by side; one that fails keeps none of the others back.
pub async fn set_up_volumes(
    ctx: &Context,
    pod: PodView<'_>,
    ips: &[IpAddr],
    uses: &Uses<'_>,
) -> Result<(), Unmounted> {
    let mut missing = Vec::new();
    for some in uses.among(pod).chunks(AT_ONCE) {
        let made = join_all(some.iter().map(|volume| set_up_volume(ctx, pod, ips, volume))).await;
        missing.extend(made.into_iter().filter_map(Result::err));
    }
    Unmounted::of(missing)
}

/// Makes what a container shows that was added to the Pod since it was prepared: no other may have shown it.
pub async fn set_up_volumes_of_added(
    ctx: &Context,
    pod: PodView<'_>,
    container: &str,
    ips: &[IpAddr],
) -> Result<(), Unmounted> {
    match pod.ephemeral().iter().find(|added| added.name == container) {
        Some(added) => set_up_volumes(ctx, pod, ips, &Uses::of_added(added)).await,
        None => Ok(()),
    }
}

async fn set_up_volume(
    ctx: &Context,
    pod: PodView<'_>,
    ips: &[IpAddr],
    volume: &Volume,
) -> Result<(), Missing> {
    // Each for itself: one that hangs holds up nobody who does not show it.
    let key = format!("{}/{}", pod.uid(), volume.name);
    let _only_one = ctx.mounting.lock(&key).await;
    let made = make_volume(ctx, pod, ips, volume).await;
    made.map_err(|cause| Missing {
        name: volume.name.clone(),
        cause,
    })
}

async fn make_volume(ctx: &Context, pod: PodView<'_>, ips: &[IpAddr], volume: &Volume) -> Result<(), Cause> {
    if mounting::set_up(ctx, pod, volume).await? {
        return Ok(());
    }
    let names = Names::of_volume(volume);
    let objects = names.fetch(&ctx.options.client, pod.namespace()).await?;
    let objects = objects.with_tokens(tokens(ctx, pod, volume).await?);
    let dir = ctx.dirs(pod).volumes();
    Ok(volumes::set_up(&dir, volume, &ctx.facts(pod, ips), &objects)?)
}

async fn tokens(
    ctx: &Context,
    pod: PodView<'_>,
    volume: &Volume,
) -> Result<BTreeMap<Wish, String>, TokenError> {
    let mut tokens = BTreeMap::new();
    for wish in Wish::of_volume(volume) {
        let token = ctx.tokens.get(&ctx.options.client, pod, &wish).await?;
        tokens.insert(wish, token.token);
    }
    Ok(tokens)
}

async fn network(ctx: &Context, pod: PodView<'_>, handler: String) -> Result<Surroundings, PrepareError> {
    let host_pid = pod.spec.host_pid == Some(true);
    if pod.spec.host_network == Some(true) {
        let namespaces = Namespaces {
            host_pid,
            ..Namespaces::default()
        };
        return Ok(Surroundings {
            ips: ctx.host_ips.clone(),
            namespaces,
            adopted: true,
            handler,
        });
    }
    let security = pod.spec.security_context.as_ref();
    let sysctls = security.into_iter().flat_map(|s| s.sysctls.iter().flatten());
    let sysctls = sysctls.map(|s| (s.name.clone(), s.value.clone())).collect();
    let name = hostname::told(pod)?;
    let users = match pod.spec.host_users {
        Some(false) => Some(ctx.users.acquire(pod.uid()).await?),
        _ => None,
    };
    let made = ctx.network.setup_pod(pod.uid(), &name, &sysctls, users).await?;
    ctx.network
        .open_ports(pod.uid(), made.ip)
        .map_err(SetupError::from)?;
    let ipc = if pod.spec.host_ipc == Some(true) {
        None
    } else {
        Some(made.ipc_path)
    };
    Ok(Surroundings {
        ips: vec![made.ip.into()],
        namespaces: Namespaces {
            net: Some(made.net_path),
            ipc,
            uts: Some(made.uts_path),
            pid: None,
            host_pid,
            user: made.user_path.zip(users),
        },
        adopted: made.origin == Origin::Adopted,
        handler,
    })
}

/// Writes `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf` of the Pod.
fn write_files(
    ctx: &Context,
    pod: PodView<'_>,
    dirs: &PodDirs,
    made: &Surroundings,
) -> Result<(), PrepareError> {
    let host_network = pod.spec.host_network == Some(true);
    let resolv = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let hosts = match host_network {
        true => host_hosts(&fs::read_to_string("/etc/hosts").unwrap_or_default()) + &aliases(pod.spec),
        false => hosts(pod, &made.ips),
    };
    let hostname = hostname::told(pod)?;
    let server = ctx.cluster_dns();
    let resolv = resolver::resolv_conf(pod, server.as_deref(), &resolv);
    for omitted in resolv.omitted {
        ctx.recorder.pod(pod, Warning, "DNSConfigForming", omitted);
    }
    // An agent that cannot ask who the cluster's DNS is leaves a Pod that runs the one it has.
    let stays = server.is_none() && !is_ready(&ctx.services) && dirs.file(RESOLV_CONF).exists();
    for (name, text) in [
        ("etc-hosts", hosts),
        ("hostname", hostname + "\n"),
        (RESOLV_CONF, resolv.text),
    ] {
        if stays && name == RESOLV_CONF {
            continue;
        }
        let path = dirs.file(name);
        // Written in place: running containers have the very file mounted.
        fs::write(&path, text).map_err(file_error("write", &path))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644))
            .map_err(file_error("open up", &path))?;
    }
    tracing::debug!(pod = %pod.full_name(), ips = ?made.ips, node = %ctx.options.node_name, "sandbox is ready");
    Ok(())
}

/// `/etc/hosts` of a Pod with a network of its own, in upstream's layout.
fn hosts(pod: PodView<'_>, ips: &[IpAddr]) -> String {
    let mut text = String::from(
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
    );
    let name = hostname::short(pod);
    for ip in ips {
        let _ = match hostname::full(pod) {
            Some(full) => writeln!(text, "{ip}\t{full}\t{name}"),
            None => writeln!(text, "{ip}\t{name}"),
        };
    }
    text + &aliases(pod.spec)
}

/// The host's own file, for a Pod in the host's network.
fn host_hosts(own: &str) -> String {
    format!("# Kubernetes-managed hosts file (host network).\n{own}")
}

fn aliases(spec: &PodSpec) -> String {
    let mut text = String::new();
    let all = spec.host_aliases.iter().flatten();
    for (position, alias) in all.enumerate() {
        if position == 0 {
            text.push_str("\n# Entries added by HostAliases.\n");
        }
        let _ = writeln!(
            text,
            "{}\t{}",
            alias.ip,
            alias
                .hostnames
                .iter()
                .flatten()
                .cloned()
                .collect::<Vec<_>>()
                .join("\t")
        );
    }
    text
}

/// Why a Pod's surroundings could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum TearDownError {
    #[error(transparent)]
    Host(#[from] HostError),
    #[error("failed to tear down the network of the sandbox: {0}")]
    Network(#[from] crate::network::TeardownError),
    #[error("UnmountVolume.TearDown failed: {0}")]
    Csi(#[from] CsiError),
    #[error(transparent)]
    Users(#[from] UsersError),
    #[error("unmounting devices was given up: {0}")]
    Join(#[from] tokio::task::JoinError),
    #[error("failed to end the cgroup of the Pod: {0}")]
    Cgroup(#[from] PodCgroupError),
}

/// Takes away namespaces, volumes and mounts; records and logs stay.
pub async fn tear_down(ctx: &Context, pod: PodView<'_>) -> Result<(), TearDownError> {
    let dirs = ctx.dirs(pod);
    cgroup::remove(ctx, pod.uid()).await?;
    ctx.network.teardown_pod(pod.uid()).await?;
    ctx.tokens.forget(pod.uid());
    volumes::host::remove_tree(&dirs.sub_paths())?;
    ctx.csi.unmount_all(&dirs.root).await?;
    volumes::host::remove_tree(&dirs.volumes())?;
    volumes::host::remove_tree(&dirs.devices())?;
    let disks = ctx.disks.clone();
    // What is written yet may have to be waited for.
    tokio::task::spawn_blocking(move || disks.release_unused()).await??;
    image_volumes::release(ctx, pod);
    volumes::host::remove_tree(&dirs.shm())?;
    // Last: whoever gets the ids next must be the only one who has them.
    Ok(ctx.users.release(pod.uid())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    fn pod() -> Pod {
        serde_json::from_value(
            json!({"metadata": {"name": "web-0", "namespace": "n", "uid": "u"}, "spec": {
            "containers": [], "hostAliases": [{"ip": "192.0.2.1", "hostnames": ["a", "b"]}],
            "dnsPolicy": "None", "dnsConfig": {"nameservers": ["192.0.2.53"], "searches": ["x", "y"],
                "options": [{"name": "ndots", "value": "5"}, {"name": "edns0"}]}}}),
        )
        .unwrap()
    }

    #[test]
    fn hosts_file() {
        let pod = pod();
        let text = hosts(PodView::new(&pod).unwrap(), &["10.42.0.9".parse().unwrap()]);
        assert!(
            text.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"),
            "{text}"
        );
        assert!(
            text.ends_with("10.42.0.9\tweb-0\n\n# Entries added by HostAliases.\n192.0.2.1\ta\tb\n"),
            "{text}"
        );
    }

    #[test]
    fn a_subdomain_gives_a_full_name() {
        let mut pod = pod();
        pod.spec.as_mut().unwrap().subdomain = Some("sub".into());
        let text = hosts(PodView::new(&pod).unwrap(), &["10.42.0.9".parse().unwrap()]);
        assert!(
            text.contains("10.42.0.9\tweb-0.sub.n.svc.cluster.local\tweb-0\n"),
            "{text}"
        );
        assert!(
            host_hosts("127.0.0.1 x\n").starts_with("# Kubernetes-managed hosts file (host network).\n127")
        );
    }
}

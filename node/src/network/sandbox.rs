//! The namespaces of one Pod: made by a thread of their own, pinned by bind mounts, found again later.
//!
//! A namespace lives as long as something holds it; here that is a bind mount under the run directory,
//! so a Pod needs no pause process, and a new agent finds the namespaces where the old one left them.
//! The network namespace is pinned last: where its pin is, everything inside is complete.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::{NSFS_MAGIC, statfs};
use tokio::sync::{Semaphore, oneshot};

use super::links::{LinkError, Links, PodEnd};
use super::names::pod_address;
use super::sysctl::{self, SysctlError};
use crate::mounts;
use crate::sys::Holder;
use crate::users::IdRange;

/// In the order they are pinned.
const KINDS: [&str; 3] = ["ipc", "uts", "net"];
/// The user namespace that the others belong to, pinned before them; only of a Pod that has one.
const USER: &str = "user";

/// So many Pods' namespaces are made at once. More threads wait for each other at the kernel's locks, and each has memory of
/// its own that the allocator takes back slowly.
static AT_ONCE: Semaphore = Semaphore::const_new(8);

/// The name a Pod knows its interface by.
const POD_LINK: &str = "eth0";

/// Why a Pod's namespaces could not be made or removed.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    #[error("cannot {step}: {reason}")]
    Step { step: String, reason: String },
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
}

/// What the namespaces of a Pod are made with.
#[derive(Clone, Debug)]
pub struct Blueprint {
    pub dir: PathBuf,
    /// Fits the kernel's field.
    pub hostname: String,
    pub ip: Ipv4Addr,
    pub gateway: Ipv4Addr,
    /// The hardware address of the host's end, where the gateway is.
    pub host_address: [u8; 6],
    pub veth: String,
    pub mtu: Option<u32>,
    /// All settings to write, already checked.
    pub sysctls: BTreeMap<String, String>,
    /// The ids of a user namespace of the Pod's own.
    pub users: Option<IdRange>,
}

/// Makes the directory Pods' namespaces are pinned under a mount of its own that shares nothing with
/// other mount namespaces: a pin is seen, and released, in one place only.
pub fn prepare_root(root: &Path) -> Result<(), SandboxError> {
    fs::create_dir_all(root).map_err(|e| step(format!("create {}", root.display()), e))?;
    let is_mounted = mounts::is_point(root).map_err(|e| step(format!("look at {}", root.display()), e))?;
    if !is_mounted {
        mount(Some(root), root, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .map_err(|e| step(format!("bind {} on itself", root.display()), e.into()))?;
    }
    mount(
        None::<&str>,
        root,
        None::<&str>,
        MsFlags::MS_PRIVATE,
        None::<&str>,
    )
    .map_err(|e| step(format!("make {} a private mount", root.display()), e.into()))
}

/// Makes and pins the namespaces. What an earlier attempt left must have been removed before.
pub async fn create(blueprint: Blueprint) -> Result<(), SandboxError> {
    let (done, result) = oneshot::channel();
    // Nobody closes it.
    let place = AT_ONCE.acquire().await.ok();
    std::thread::Builder::new()
        .name("pod-sandbox".into())
        .spawn(move || {
            // The receiver is gone when the caller was cancelled; the pins are found at the next attempt.
            let _ = done.send(create_on_this_thread(&blueprint));
            drop(place);
        })
        .map_err(|e| step("start a thread for new namespaces".into(), e))?;
    result.await.map_err(|_| SandboxError::Step {
        step: "make namespaces".into(),
        reason: "the thread making them ended early".into(),
    })?
}

/// Leaves the calling thread in the new namespaces: it must do nothing else afterwards.
fn create_on_this_thread(blueprint: &Blueprint) -> Result<(), SandboxError> {
    let host = File::open("/proc/thread-self/ns/net")
        .map_err(|e| step("open the host's network namespace".into(), e))?;
    let holder = match blueprint.users {
        Some(range) => Some(enter_owned(range)?),
        None => {
            unshare(NAMESPACES).map_err(|e| step("unshare net, ipc and uts".into(), e.into()))?;
            None
        }
    };
    let hostname = &blueprint.hostname;
    nix::unistd::sethostname(hostname).map_err(|e| step(format!("set host name {hostname}"), e.into()))?;
    for (name, value) in &blueprint.sysctls {
        sysctl::write(name, value)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| step("start a runtime for the new network namespace".into(), e))?;
    runtime.block_on(connect(blueprint, &host))?;
    pin(blueprint, holder.as_ref())
}

const NAMESPACES: CloneFlags = CloneFlags::CLONE_NEWNET
    .union(CloneFlags::CLONE_NEWIPC)
    .union(CloneFlags::CLONE_NEWUTS);

/// Brings the calling thread into namespaces that belong to a new user namespace with these ids. The thread stays the
/// host's root: a process with threads cannot enter a user namespace.
fn enter_owned(range: IdRange) -> Result<Holder, SandboxError> {
    let holder = Holder::new(NAMESPACES | CloneFlags::CLONE_NEWUSER)
        .map_err(|e| step("make a user namespace".into(), e))?;
    for map in ["uid_map", "gid_map"] {
        fs::write(holder.file(map), range.map())
            .map_err(|e| step(format!("map ids {} and more ({map})", range.first), e))?;
    }
    for kind in KINDS {
        let path = holder.file("ns").join(kind);
        let file = File::open(&path).map_err(|e| step(format!("open {}", path.display()), e))?;
        setns(file, CloneFlags::empty())
            .map_err(|e| step(format!("enter a new {kind} namespace"), e.into()))?;
    }
    Ok(holder)
}

/// Configures the Pod's network from inside: lo, and eth0 whose other end appears on the host.
///
/// The address has no prefix (/32): all a Pod sends goes to its gateway, also what is for a neighbour; where that is, it is told.
async fn connect(blueprint: &Blueprint, host: &File) -> Result<(), SandboxError> {
    let links = Links::open()?;
    links.up(&links.get("lo").await?).await?;
    let end = PodEnd {
        name: POD_LINK,
        address: pod_address(blueprint.ip),
        mtu: blueprint.mtu,
        peer: &blueprint.veth,
        peer_address: blueprint.host_address,
        peer_namespace: host.as_fd(),
    };
    links.add_veth(end).await?;
    let eth0 = links.get(POD_LINK).await?;
    links.add_address(&eth0, blueprint.ip, 32).await?;
    links.up(&eth0).await?;
    let (gateway, address) = (blueprint.gateway, blueprint.host_address);
    links.introduce(&eth0, gateway, address).await?;
    links.route_through(&eth0, gateway).await?;
    Ok(())
}

fn pin(blueprint: &Blueprint, holder: Option<&Holder>) -> Result<(), SandboxError> {
    let dir = &blueprint.dir;
    fs::create_dir_all(dir).map_err(|e| step(format!("create {}", dir.display()), e))?;
    let note = note(blueprint.ip, blueprint.users);
    fs::write(dir.join("ip"), note).map_err(|e| step("note the Pod's address".into(), e))?;
    if let Some(holder) = holder {
        pin_one(&holder.file("ns").join(USER), &dir.join(USER))?;
    }
    for kind in KINDS {
        pin_one(&PathBuf::from("/proc/thread-self/ns").join(kind), &dir.join(kind))?;
    }
    Ok(())
}

fn pin_one(source: &Path, target: &Path) -> Result<(), SandboxError> {
    File::create(target).map_err(|e| step(format!("create {}", target.display()), e))?;
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .map_err(|e| step(format!("pin a namespace at {}", target.display()), e.into()))
}

/// What a sandbox was made for: its address, and the first of its ids.
fn note(ip: Ipv4Addr, users: Option<IdRange>) -> String {
    match users {
        Some(range) => format!("{ip} {}", range.first),
        None => ip.to_string(),
    }
}

/// Where the Pod's user namespace is pinned, if it has one.
pub fn user_path(dir: &Path, users: Option<IdRange>) -> Option<PathBuf> {
    users.map(|_| dir.join(USER))
}

/// Whether all namespaces of a Pod are pinned and were made for this address and these ids.
pub fn is_alive(dir: &Path, ip: Ipv4Addr, users: Option<IdRange>) -> bool {
    let mut kinds = KINDS.into_iter().chain(users.map(|_| USER));
    let pinned = kinds.all(|kind| statfs(&dir.join(kind)).is_ok_and(|s| s.filesystem_type() == NSFS_MAGIC));
    pinned && fs::read_to_string(dir.join("ip")).is_ok_and(|noted| noted == note(ip, users))
}

/// Unpins what is pinned in a directory and removes it; what is gone already is no error.
pub fn unpin(dir: &Path) -> Result<(), SandboxError> {
    for kind in KINDS.into_iter().chain([USER]) {
        let pin = dir.join(kind);
        mounts::release(&pin).map_err(|e| step(format!("unmount {}", pin.display()), e))?;
    }
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(step(format!("remove {}", dir.display()), e)),
        _ => Ok(()),
    }
}

fn step(step: String, source: io::Error) -> SandboxError {
    SandboxError::Step {
        step,
        reason: source.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_without_pins_is_not_alive_and_unpinning_it_is_no_error() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: unmounting needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let pod = dir.path().join("uid");
        assert!(!is_alive(&pod, Ipv4Addr::LOCALHOST, None));
        fs::create_dir(&pod).unwrap();
        fs::write(pod.join("net"), "").unwrap();
        assert!(!is_alive(&pod, Ipv4Addr::LOCALHOST, None));
        unpin(&pod).unwrap();
        unpin(&pod).unwrap();
        assert!(!pod.exists());
    }
}

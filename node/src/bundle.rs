//! The one place where a Pod becomes an OCI runtime bundle (runtime-spec `config.json`). Pure: everything it
//! refers to was made before. Refuses to know shims; speaks to them only by the annotations of the contract.

pub mod guest;
pub mod identity;
pub mod mounts;
mod paths;
pub mod process;
pub mod resources;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use amphipod_shim_api::annotations;
use amphipod_shim_api::network::NetworkRules;
use amphipod_shim_api::systemd::names;
use k8s_openapi::api::core::v1::{Container, SeccompProfile};
use oci_spec::runtime::{
    Linux, LinuxDevice, LinuxIdMappingBuilder, LinuxNamespace, LinuxNamespaceType, LinuxSeccomp, Root, Spec,
};

use crate::env::Environment;
use crate::images::ImageConfig;
use crate::network::sysctl;
use crate::pods::view::PodView;
use crate::users::{IDS_PER_POD, IdRange};
use identity::Identity;
use mounts::Bind;

/// Version of the runtime specification written.
const OCI_VERSION: &str = "1.2.0";

/// Everything a bundle is made from.
pub struct Parts<'a> {
    pub pod: PodView<'a>,
    pub container: &'a Container,
    /// Id of the task.
    pub id: &'a str,
    /// `amphipod-<id>`.
    pub cluster: &'a str,
    pub image: &'a ImageConfig,
    pub environment: &'a Environment,
    pub identity: &'a Identity,
    pub runtime: Runtime<'a>,
    /// Files every native container gets: hosts, hostname, resolv.conf, shm, the termination log. A Wasm guest's names
    /// come from them too.
    pub files: &'a [Bind],
    pub volumes: &'a [Bind],
    /// Where a Wasm command leaves its last words and has nothing else.
    pub message: Option<&'a Path>,
    pub namespaces: &'a Namespaces,
    /// The runtime handler of the Pod's class.
    pub handler: &'a str,
    pub hostname: &'a str,
    /// Bytes of memory of the node.
    pub memory_capacity: u64,
    pub cgroups: resources::CgroupFacts,
    /// The host's device nodes, for a privileged container.
    pub devices: &'a [LinuxDevice],
    /// Those of claims that the container asks for.
    pub claimed_devices: &'a [LinuxDevice],
    /// A seccomp profile of the node's that the container names.
    pub seccomp: Option<&'a LinuxSeccomp>,
    /// The AppArmor profile to take on.
    pub apparmor: Option<&'a str>,
    /// Socket at which a native container's output is told as it comes.
    pub attach: &'a Path,
    /// Whom a guest may meet.
    pub rules: &'a NetworkRules,
}

/// Which runtime runs the container.
#[derive(Clone, Copy, Debug)]
pub enum Runtime<'a> {
    Native,
    Wasm {
        /// The artifact's own, with its digest; without it the command line names a file of the image.
        module: Option<(&'a Path, &'a str)>,
        cache: &'a Path,
        /// It is one of its image's files, which are the guest's root.
        has_root: bool,
    },
}

/// Paths of the Pod's pinned namespaces; `None` is the host's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespaces {
    pub net: Option<PathBuf>,
    pub ipc: Option<PathBuf>,
    pub uts: Option<PathBuf>,
    /// Another container's processes; `None` is the container's own namespace.
    pub pid: Option<PathBuf>,
    pub host_pid: bool,
    /// The user namespace that owns the others, and its ids; only for native containers.
    pub user: Option<(PathBuf, IdRange)>,
}

impl Namespaces {
    /// The Pod's own ids, if it has any.
    pub fn ids(&self) -> Option<IdRange> {
        self.user.as_ref().map(|(_, ids)| *ids)
    }
}

/// Builds `config.json`.
pub fn spec(parts: &Parts<'_>) -> Spec {
    let mut spec = Spec::default();
    let read_only = security(parts.container).and_then(|s| s.read_only_root_filesystem) == Some(true);
    let mut root = Root::default();
    root.set_path("rootfs".into()).set_readonly(Some(read_only));
    let mounts = match parts.runtime {
        Runtime::Native => {
            let own_ids = parts.namespaces.user.is_some();
            mounts::native(
                parts.files,
                parts.volumes,
                is_privileged(parts.container),
                own_ids,
            )
        }
        Runtime::Wasm { has_root: true, .. } => mounts::rooted(parts.files, parts.volumes),
        Runtime::Wasm { .. } => mounts::wasm(parts.files, parts.volumes),
    };
    spec.set_version(OCI_VERSION.into())
        .set_root(Some(root))
        .set_process(Some(process::process(parts)))
        .set_mounts(Some(mounts))
        .set_linux(Some(linux(parts)))
        .set_annotations(Some(notes(parts)));
    if parts.namespaces.uts.is_none() {
        spec.set_hostname(None);
    } else {
        spec.set_hostname(Some(parts.hostname.to_owned()));
    }
    spec
}

fn security(container: &Container) -> Option<&k8s_openapi::api::core::v1::SecurityContext> {
    container.security_context.as_ref()
}

/// `securityContext.privileged`.
pub fn is_privileged(container: &Container) -> bool {
    security(container).and_then(|s| s.privileged) == Some(true)
}

fn linux(parts: &Parts<'_>) -> Linux {
    let privileged = is_privileged(parts.container);
    let mut linux = Linux::default();
    let uid = parts.pod.uid();
    let path = match parts.cgroups.systemd {
        true => names::container(parts.cluster, uid, parts.id),
        false => format!("/{}/pod{uid}/{}", parts.cluster, parts.id),
    };
    linux
        .set_cgroups_path(Some(path.into()))
        .set_namespaces(Some(namespaces(parts.namespaces)))
        .set_resources(Some(resources::resources(
            parts.container,
            parts.pod.spec.resources.as_ref(),
            privileged,
            parts.claimed_devices,
            parts.cgroups,
        )));
    let hosts = if privileged { parts.devices } else { &[] };
    let devices = [hosts, parts.claimed_devices].concat();
    if !devices.is_empty() && matches!(parts.runtime, Runtime::Native) {
        linux.set_devices(Some(devices));
    }
    let unmasked = security(parts.container).and_then(|s| s.proc_mount.as_deref()) == Some("Unmasked");
    let covered = !privileged && !unmasked;
    linux
        .set_masked_paths(covered.then(paths::masked))
        .set_readonly_paths(covered.then(paths::read_only))
        .set_seccomp(parts.seccomp.cloned());
    if let (Runtime::Native, Some((path, ids))) = (parts.runtime, &parts.namespaces.user) {
        own_users(&mut linux, path, *ids);
        linux.set_sysctl(Some(owners_sysctls(parts.pod)));
    }
    linux
}

/// The Pod's user namespace; its maps are told to those who map mounts by them.
fn own_users(linux: &mut Linux, path: &Path, ids: IdRange) {
    let map = LinuxIdMappingBuilder::default()
        .container_id(0_u32)
        .host_id(ids.first)
        .size(IDS_PER_POD);
    // Every field is set; an empty map would be refused.
    let map = map.build().unwrap_or_default();
    linux
        .set_uid_mappings(Some(vec![map]))
        .set_gid_mappings(Some(vec![map]));
    let mut user = LinuxNamespace::default();
    user.set_typ(LinuxNamespaceType::User)
        .set_path(Some(path.to_owned()));
    let mut namespaces = linux.namespaces().clone().unwrap_or_default();
    namespaces.push(user);
    linux.set_namespaces(Some(namespaces));
}

/// Settings of the Pod that only its own root may write.
fn owners_sysctls(pod: PodView<'_>) -> HashMap<String, String> {
    let security = pod.spec.security_context.as_ref();
    let asked = security.into_iter().flat_map(|s| s.sysctls.iter().flatten());
    asked
        .filter(|s| sysctl::is_owners(&s.name))
        .map(|s| (s.name.clone(), s.value.clone()))
        .collect()
}

fn namespaces(given: &Namespaces) -> Vec<LinuxNamespace> {
    let of = |kind, path: Option<&PathBuf>| {
        let mut namespace = LinuxNamespace::default();
        namespace.set_typ(kind).set_path(path.cloned());
        namespace
    };
    let mut made = vec![
        of(LinuxNamespaceType::Mount, None),
        of(LinuxNamespaceType::Cgroup, None),
    ];
    if !given.host_pid {
        made.push(of(LinuxNamespaceType::Pid, given.pid.as_ref()));
    }
    let shared = [
        (LinuxNamespaceType::Network, &given.net),
        (LinuxNamespaceType::Ipc, &given.ipc),
        (LinuxNamespaceType::Uts, &given.uts),
    ];
    let pinned = shared
        .into_iter()
        .filter_map(|(kind, path)| path.as_ref().map(|p| of(kind, Some(p))));
    made.extend(pinned);
    made
}

fn notes(parts: &Parts<'_>) -> HashMap<String, String> {
    let mut notes = HashMap::from([
        (annotations::CONTAINER_TYPE.to_owned(), "container".to_owned()),
        (annotations::SANDBOX_ID.to_owned(), parts.pod.uid().to_owned()),
        (annotations::SANDBOX_UID.to_owned(), parts.pod.uid().to_owned()),
        (annotations::SANDBOX_NAME.to_owned(), parts.pod.name().to_owned()),
        (
            annotations::SANDBOX_NAMESPACE.to_owned(),
            parts.pod.namespace().to_owned(),
        ),
        (
            annotations::CONTAINER_NAME.to_owned(),
            parts.container.name.clone(),
        ),
        (
            annotations::IMAGE_NAME.to_owned(),
            parts.container.image.clone().unwrap_or_default(),
        ),
        (annotations::SECCOMP.to_owned(), seccomp(parts).to_owned()),
        (annotations::ATTACH.to_owned(), parts.attach.display().to_string()),
    ]);
    if matches!(parts.runtime, Runtime::Native) && shares_processes(parts) {
        let of_sandbox = annotations::PROCESSES_OF_SANDBOX.to_owned();
        notes.insert(annotations::PROCESSES.to_owned(), of_sandbox);
    }
    notes.extend(guest::notes(parts));
    notes
}

/// `shareProcessNamespace`. A container that joins another one's processes is in the same namespace by that.
fn shares_processes(parts: &Parts<'_>) -> bool {
    parts.pod.spec.share_process_namespace == Some(true)
        && !parts.namespaces.host_pid
        && parts.namespaces.pid.is_none()
}

/// `seccompProfile` of the container, else of its Pod.
pub fn seccomp_profile<'a>(pod: PodView<'a>, container: &'a Container) -> Option<&'a SeccompProfile> {
    let own = security(container).and_then(|s| s.seccomp_profile.as_ref());
    let shared = pod.spec.security_context.as_ref();
    own.or(shared.and_then(|s| s.seccomp_profile.as_ref()))
}

/// The seccomp profile by name: the runtime's default unless told otherwise. One of the node's own goes before it.
fn seccomp(parts: &Parts<'_>) -> &'static str {
    match seccomp_profile(parts.pod, parts.container).map(|p| p.type_.as_str()) {
        _ if is_privileged(parts.container) => annotations::SECCOMP_UNCONFINED,
        Some("Unconfined") => annotations::SECCOMP_UNCONFINED,
        _ => annotations::SECCOMP_RUNTIME_DEFAULT,
    }
}

#[cfg(test)]
#[path = "bundle/tests.rs"]
mod tests;

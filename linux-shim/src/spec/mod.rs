//! Reading a bundle: config.json becomes a [`ContainerPlan`], checked before any process is made.
//!
//! Owns what this runtime accepts of the OCI runtime specification. Refuses to know how it is carried out.

mod devices;
mod lenient;
mod process;
mod read;

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use amphipod_shim_api::cgroup::{CgroupError, CgroupHost, Limits};
use amphipod_shim_api::systemd::Unit;
use nix::sched::CloneFlags;
use oci_spec::runtime::{Linux, LinuxIntelRdt, LinuxNamespaceType, Spec};

use crate::hooks::Subject;
use crate::id_map::{IdMapError, IdMaps};
use crate::init::devices::Device;
use crate::init::entrance::Entrance;
use crate::init::{CLONE_NEWTIME, ContainerPlan, Propagation, labels};
use crate::mount_plan::{self, Around, MountPlanError};
use crate::process_spec::{hooks, net_devices};
use crate::rootfs_plan::RootfsMount;
use crate::seccomp::SeccompError;
use crate::sysctl::{self, Own, SysctlError};
pub use devices::changes;
use devices::{device, device_rules};
pub use lenient::{mend_process, without_effect};
pub use process::{KEEP_GROUPS, process_plan};
pub use read::{Config, load, read};

/// A bundle that cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    #[error("cannot read {path:?}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path:?} is no OCI runtime configuration: {source}")]
    Parse {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error("config.json has no {0}")]
    Missing(&'static str),
    #[error("config.json asks for {0}, which this runtime does not offer")]
    Unsupported(String),
    #[error(transparent)]
    Mount(#[from] MountPlanError),
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Ids(#[from] IdMapError),
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    #[error("{0:?} is no capability this runtime knows")]
    Capability(String),
    #[error("config.json names {0} twice")]
    Twice(String),
    #[error("{0:?} is no list of processors")]
    Processors(String),
    #[error("{0:?} is no name of a network device")]
    NetDevice(String),
    #[error("{0:?} is no list of memory nodes")]
    Nodes(String),
    #[error("process.user.{0} is {1}: ids are in the range 0-{MAX}", MAX = process::LAST_ID)]
    Id(&'static str, u32),
}

/// The cgroup a container of this spec lives in: `linux.cgroupsPath`, or one named after it.
pub fn cgroup_path(spec: &Spec, namespace: &str, id: &str) -> String {
    let asked = spec.linux().as_ref().and_then(|l| l.cgroups_path().as_ref());
    match asked {
        Some(path) if !path.as_os_str().is_empty() => systemd_path(&path.to_string_lossy()),
        _ => format!("/{namespace}/{id}"),
    }
}

/// What hooks and listeners are told about a container.
pub fn subject(spec: &Spec, id: &str, bundle: &Path) -> Subject {
    Subject {
        version: spec.version().clone(),
        id: id.into(),
        bundle: bundle.into(),
        annotations: spec.annotations().clone().unwrap_or_default(),
    }
}

/// The value of an annotation.
pub fn annotation<'a>(spec: &'a Spec, name: &str) -> Option<&'a str> {
    spec.annotations().as_ref()?.get(name).map(String::as_str)
}

/// True for the cgroup of a container in a Pod's cgroup of this cluster (`/amphipod-1234/podUID/ID`).
pub fn is_below(path: &str, namespace: &str) -> bool {
    path.strip_prefix('/')
        .and_then(|p| p.strip_prefix(namespace))
        .and_then(|p| p.strip_prefix('/'))
        .is_some_and(|rest| rest.contains('/'))
}

/// containerd with systemd as the manager writes `slice:prefix:name`; where systemd is not, that is a plain path.
fn systemd_path(path: &str) -> String {
    Unit::parse(path).map_or_else(|| path.to_owned(), |unit| unit.path())
}

/// Everything about the container, decided.
pub fn plan(
    spec: &Spec,
    bundle: &Path,
    cgroup_path: &str,
    rootfs_mounts: Vec<RootfsMount>,
) -> Result<(ContainerPlan, Limits), SpecError> {
    check_version(spec.version())?;
    let linux = spec.linux().as_ref().ok_or(SpecError::Missing("linux section"))?;
    refuse_unsupported(spec, linux)?;
    let root = spec.root().as_ref().ok_or(SpecError::Missing("root"))?;
    let process = spec.process().as_ref().ok_or(SpecError::Missing("process"))?;
    let namespaces = namespaces(linux)?;
    let ids = ids(linux, &namespaces)?;
    let around = Around {
        bundle,
        ids: ids.as_ref(),
        label: mount_label(linux),
    };
    let mounts = spec
        .mounts()
        .iter()
        .flatten()
        .map(|mount| mount_plan::parse(mount, around))
        .collect::<Result<_, _>>()?;
    let mut limits = linux.resources().as_ref().map(Limits::from).unwrap_or_default();
    let asked: Vec<Device> = linux
        .devices()
        .iter()
        .flatten()
        .map(device)
        .collect::<Result<_, _>>()?;
    limits.devices = device_rules(&limits.devices);
    let sysctls: Vec<(String, String)> = linux
        .sysctl()
        .iter()
        .flatten()
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    let (hostname, domainname) = names(spec, namespaces.own.uts)?;
    sysctls
        .iter()
        .try_for_each(|(name, _)| sysctl::check(name, namespaces.own))?;
    let plan = ContainerPlan {
        cgroup: CgroupHost::known()?.cgroup_everywhere(cgroup_path)?,
        new_namespaces: namespaces.new,
        join: namespaces.join,
        new_cgroup_namespace: namespaces.new_cgroup,
        entrance: entrance(namespaces.new),
        new_time_namespace: time_offsets(linux, namespaces.new_time)?,
        ids,
        rootfs: bundle.join(root.path()),
        rootfs_mounts,
        rootfs_read_only: root.readonly().unwrap_or_default(),
        rootfs_propagation: rootfs_propagation(linux)?,
        mounts,
        devices: asked,
        masked: linux.masked_paths().clone().unwrap_or_default(),
        read_only: linux.readonly_paths().clone().unwrap_or_default(),
        sysctls,
        hostname,
        domainname,
        net_devices: net_devices(linux, namespaces.own.network)?,
        hooks: hooks(spec, bundle)?,
        subject: Subject::default(),
        process: process::first_process_plan(process, spec)?,
    };
    Ok((plan, limits))
}

/// Every version 1 can be read: later ones only add to it (semver 2.0.0, as the runtime specification asks).
fn check_version(version: &str) -> Result<(), SpecError> {
    let numbers = version.split(['-', '+']).next().unwrap_or_default();
    let mut parts = numbers.split('.').map(str::parse::<u32>);
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(Ok(1)), Some(Ok(_)), Some(Ok(_)), None) => Ok(()),
        _ => Err(SpecError::Unsupported(format!(
            "version {version:?} of the runtime specification"
        ))),
    }
}

/// Where SELinux is not, nothing has a label: then this one asks for nothing, as to crun and runc.
fn mount_label(linux: &Linux) -> Option<&str> {
    let label = linux.mount_label().as_deref();
    label.filter(|label| !label.is_empty() && labels::has_selinux())
}

/// What would be dropped silently is refused instead.
fn refuse_unsupported(spec: &Spec, linux: &Linux) -> Result<(), SpecError> {
    let cases = [
        (
            linux
                .intel_rdt()
                .as_ref()
                .is_some_and(|rdt| *rdt != LinuxIntelRdt::default()),
            "Intel RDT",
        ),
        (spec.vm().is_some(), "a virtual machine"),
    ];
    match cases.iter().find(|(asked, _)| *asked) {
        Some((_, what)) => Err(SpecError::Unsupported((*what).into())),
        None => Ok(()),
    }
}

#[derive(Debug)]
struct Namespaces {
    new: CloneFlags,
    join: Vec<(CloneFlags, PathBuf)>,
    new_cgroup: bool,
    new_time: bool,
    /// Which are not the host's.
    own: Own,
}

fn entrance(new: CloneFlags) -> Entrance {
    match new.contains(CloneFlags::CLONE_NEWNS) {
        true => Entrance::Pivot,
        false => Entrance::Chroot,
    }
}

fn namespaces(linux: &Linux) -> Result<Namespaces, SpecError> {
    let mut out = Namespaces {
        new: CloneFlags::empty(),
        join: Vec::new(),
        new_cgroup: false,
        new_time: false,
        own: Own::default(),
    };
    let mut seen = HashSet::new();
    for namespace in linux.namespaces().iter().flatten() {
        if !seen.insert(namespace.typ()) {
            return Err(SpecError::Twice(namespace.typ().to_string()));
        }
        let path = namespace.path().clone().filter(|p| !p.as_os_str().is_empty());
        let own = |name| path.as_ref().is_none_or(|p| !sysctl::is_hosts(name, p));
        match namespace.typ() {
            LinuxNamespaceType::Ipc => out.own.ipc = own("ipc"),
            LinuxNamespaceType::Network => out.own.network = own("net"),
            LinuxNamespaceType::User => out.own.user = own("user"),
            LinuxNamespaceType::Uts => out.own.uts = own("uts"),
            _ => {}
        }
        let flag = match (namespace.typ(), &path) {
            (LinuxNamespaceType::Cgroup, None) => {
                out.new_cgroup = true;
                continue;
            }
            (LinuxNamespaceType::Time, None) => {
                out.new_time = true;
                continue;
            }
            (LinuxNamespaceType::Mount, _) => CloneFlags::CLONE_NEWNS,
            (LinuxNamespaceType::Pid, _) => CloneFlags::CLONE_NEWPID,
            (LinuxNamespaceType::Network, _) => CloneFlags::CLONE_NEWNET,
            (LinuxNamespaceType::Ipc, _) => CloneFlags::CLONE_NEWIPC,
            (LinuxNamespaceType::Uts, _) => CloneFlags::CLONE_NEWUTS,
            (LinuxNamespaceType::Cgroup, _) => CloneFlags::CLONE_NEWCGROUP,
            (LinuxNamespaceType::User, _) => CloneFlags::CLONE_NEWUSER,
            (LinuxNamespaceType::Time, _) => CLONE_NEWTIME,
        };
        match path {
            Some(path) => out.join.push((flag, path)),
            None => out.new |= flag,
        }
    }
    let joins_user = out
        .join
        .iter()
        .any(|(kind, _)| *kind == CloneFlags::CLONE_NEWUSER);
    let has_user = joins_user || out.new.contains(CloneFlags::CLONE_NEWUSER);
    if has_user && !out.new.contains(CloneFlags::CLONE_NEWNS) {
        return Err(SpecError::Missing(
            "new mount namespace, which a container with a user namespace cannot do without",
        ));
    }
    Ok(out)
}

/// The maps a container's user namespace is said to have.
pub fn id_maps(spec: &Spec) -> Result<Option<IdMaps>, SpecError> {
    match spec.linux() {
        Some(linux) => Ok(IdMaps::parse(
            linux.uid_mappings().as_ref(),
            linux.gid_mappings().as_ref(),
        )?),
        None => Ok(None),
    }
}

/// The maps of the container's user namespace: a new one needs them, one that is joined has its own.
fn ids(linux: &Linux, namespaces: &Namespaces) -> Result<Option<IdMaps>, SpecError> {
    let maps = IdMaps::parse(linux.uid_mappings().as_ref(), linux.gid_mappings().as_ref())?;
    let user = CloneFlags::CLONE_NEWUSER;
    let joined = namespaces.join.iter().any(|(kind, _)| *kind == user);
    match (namespaces.new.contains(user), &maps) {
        (true, None) => Err(SpecError::Missing(
            "uidMappings and gidMappings for its user namespace",
        )),
        (false, Some(_)) if !joined => Err(SpecError::Missing("user namespace its id mappings are for")),
        _ => Ok(maps),
    }
}

/// The names of the host and the domain, which are those of a UTS namespace: the host's own keep theirs.
fn names(spec: &Spec, own: bool) -> Result<(Option<String>, Option<String>), SpecError> {
    let given = |name: &Option<String>| name.clone().filter(|n| !n.is_empty());
    let names = (given(spec.hostname()), given(spec.domainname()));
    match names {
        (None, None) => Ok(names),
        _ if own => Ok(names),
        _ => Err(SpecError::Missing(
            "UTS namespace of its own for its hostname or domainname",
        )),
    }
}

fn time_offsets(linux: &Linux, new: bool) -> Result<Option<String>, SpecError> {
    let offsets = linux.time_offsets().iter().flatten();
    let mut lines = String::new();
    for (clock, offset) in offsets {
        if clock != "monotonic" && clock != "boottime" {
            return Err(SpecError::Unsupported(format!(
                "an offset of the clock {clock:?}"
            )));
        }
        let (secs, nanos) = (offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0));
        lines.push_str(&format!("{clock} {secs} {nanos}\n"));
    }
    if !new && !lines.is_empty() {
        return Err(SpecError::Missing("new time namespace its offsets are for"));
    }
    Ok(new.then_some(lines))
}

fn rootfs_propagation(linux: &Linux) -> Result<Option<Propagation>, SpecError> {
    let Some(name) = linux.rootfs_propagation().as_deref().filter(|n| !n.is_empty()) else {
        return Ok(None);
    };
    match mount_plan::propagation(name) {
        Some(kind) => Ok(Some(Propagation {
            kind,
            recursive: name.starts_with('r'),
        })),
        None => Err(SpecError::Unsupported(format!("the propagation {name:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: &str) -> Spec {
        serde_json::from_str(json).unwrap()
    }

    const MINIMAL: &str = r#"{"ociVersion":"1.0.2","root":{"path":"rootfs"},
        "process":{"cwd":"/","args":["/bin/true"],"user":{"uid":0,"gid":0}},
        "linux":{"namespaces":[{"type":"mount"},{"type":"pid"},{"type":"cgroup"},{"type":"network","path":"/n"}]}}"#;

    #[test]
    fn namespaces_are_made_or_joined() {
        let spec = spec(MINIMAL);
        let got = namespaces(spec.linux().as_ref().unwrap()).unwrap();
        assert_eq!(got.new, CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID);
        assert_eq!(got.join, [(CloneFlags::CLONE_NEWNET, "/n".into())]);
        assert!(got.new_cgroup && !got.own.uts && got.own.network);
    }

    #[test]
    fn what_is_not_offered_is_said() {
        let user = MINIMAL.replace(r#"{"type":"pid"}"#, r#"{"type":"user"}"#);
        let no_args = MINIMAL.replace(r#""args":["/bin/true"],"#, "");
        let version = MINIMAL.replace("1.0.2", "2.0.0");
        for json in [user, no_args, version] {
            assert!(
                plan(&spec(&json), Path::new("/b"), "/c", vec![]).is_err(),
                "{json}"
            );
        }
    }

    #[test]
    fn a_name_needs_a_namespace_and_no_name_none() {
        for (name, own, fits) in [
            (r#""hostname":"h","#, true, true),
            (r#""hostname":"h","#, false, false),
            (r#""domainname":"d","#, false, false),
            (r#""hostname":"","#, false, true),
            ("", false, true),
        ] {
            let spec = spec(&MINIMAL.replacen('{', &format!("{{{name}"), 1));
            assert_eq!(names(&spec, own).is_ok(), fits, "{name} {own}");
        }
    }

    #[test]
    fn intel_rdt_that_asks_for_nothing_is_none() {
        let refused = |rdt: &str| {
            let text = MINIMAL.replace(r#""linux":{"#, &format!(r#""linux":{{"intelRdt":{rdt},"#));
            let spec = spec(&text);
            refuse_unsupported(&spec, spec.linux().as_ref().unwrap()).is_err()
        };
        assert!(!refused("{}") && refused(r#"{"closID":"guests"}"#));
    }

    #[test]
    fn cgroup_paths() {
        let minimal = spec(MINIMAL);
        assert_eq!(cgroup_path(&minimal, "ns", "c1"), "/ns/c1");
        assert_eq!(
            systemd_path("kubepods.slice:cri-containerd:x"),
            "/kubepods.slice/cri-containerd-x.scope"
        );
        assert_eq!(systemd_path("/a/b"), "/a/b");
        assert!(is_below("/ns/pod1/c1", "ns"));
        assert!(
            !is_below("/ns/c1", "ns")
                && !is_below("/nsx/pod/c1", "ns")
                && !is_below("/kubepods/pod/c1", "ns")
        );
    }
}

//! Reading a bundle: config.json becomes a [`ContainerPlan`], checked before any process is made.
//!
//! Owns what this runtime accepts of the OCI runtime specification. Refuses to know how it is carried out.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use amphipod_shim_api::annotations;
use amphipod_shim_api::cgroup::{CgroupError, CgroupHost, Limits};
use caps::CapsHashSet;
use nix::sched::CloneFlags;
use nix::sys::resource::Resource;
use nix::sys::stat::SFlag;
use oci_spec::runtime::{
    Capabilities as OciCapabilities, Linux, LinuxDevice, LinuxDeviceType, LinuxNamespaceType,
    PosixRlimitType, Process, Spec,
};

use crate::init::devices::{self, Device};
use crate::init::identity::{Capabilities, Identity};
use crate::init::{ContainerPlan, ProcessPlan};
use crate::mount_plan::{self, MountPlanError};
use crate::rootfs_plan::RootfsMount;
use crate::seccomp::{self, SeccompError};

/// config.json as large as this is no config.json.
const CONFIG_LIMIT: u64 = 8 << 20;

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
    #[error("{0:?} is no capability this runtime knows")]
    Capability(String),
}

/// Reads `config.json` of a bundle.
pub fn load(bundle: &Path) -> Result<Spec, SpecError> {
    let path = bundle.join("config.json");
    let size = fs::metadata(&path)
        .map_err(|source| SpecError::Read {
            path: path.clone(),
            source,
        })?
        .len();
    if size > CONFIG_LIMIT {
        let source = io::Error::other(format!("larger than {CONFIG_LIMIT} bytes"));
        return Err(SpecError::Read { path, source });
    }
    let bytes = fs::read(&path).map_err(|source| SpecError::Read {
        path: path.clone(),
        source,
    })?;
    serde_json::from_slice(&bytes).map_err(|source| SpecError::Parse { path, source })
}

/// The cgroup a container of this spec lives in: `linux.cgroupsPath`, or one named after it.
pub fn cgroup_path(spec: &Spec, namespace: &str, id: &str) -> String {
    let asked = spec.linux().as_ref().and_then(|l| l.cgroups_path().as_ref());
    match asked {
        Some(path) if !path.as_os_str().is_empty() => systemd_path(&path.to_string_lossy()),
        _ => format!("/{namespace}/{id}"),
    }
}

/// True for the cgroup of a container in a Pod's cgroup of this cluster (`/amphipod-1234/podUID/ID`).
pub fn is_below(path: &str, namespace: &str) -> bool {
    path.strip_prefix('/')
        .and_then(|p| p.strip_prefix(namespace))
        .and_then(|p| p.strip_prefix('/'))
        .is_some_and(|rest| rest.contains('/'))
}

/// containerd with systemd as the manager writes `slice:prefix:name`; here that is a plain path.
fn systemd_path(path: &str) -> String {
    match path.split(':').collect::<Vec<_>>()[..] {
        [slice, prefix, name] if !prefix.is_empty() => format!("/{slice}/{prefix}-{name}.scope"),
        _ => path.to_owned(),
    }
}

/// Everything about the container, decided.
pub fn plan(
    spec: &Spec,
    bundle: &Path,
    cgroup_path: &str,
    rootfs_mounts: Vec<RootfsMount>,
) -> Result<(ContainerPlan, Limits), SpecError> {
    let linux = spec.linux().as_ref().ok_or(SpecError::Missing("linux section"))?;
    refuse_unsupported(spec, linux)?;
    let root = spec.root().as_ref().ok_or(SpecError::Missing("root"))?;
    let process = spec.process().as_ref().ok_or(SpecError::Missing("process"))?;
    let namespaces = namespaces(linux)?;
    let mounts = spec
        .mounts()
        .iter()
        .flatten()
        .map(mount_plan::parse)
        .collect::<Result<_, _>>()?;
    let mut limits = linux.resources().as_ref().map(Limits::from).unwrap_or_default();
    let asked: Vec<Device> = linux
        .devices()
        .iter()
        .flatten()
        .map(device)
        .collect::<Result<_, _>>()?;
    limits.devices = device_rules(&limits.devices, &asked);
    let sysctls = linux
        .sysctl()
        .iter()
        .flatten()
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    let plan = ContainerPlan {
        cgroup: CgroupHost::discover()?.cgroup(cgroup_path)?,
        new_namespaces: namespaces.new,
        join: namespaces.join,
        join_pid: namespaces.join_pid,
        new_cgroup_namespace: namespaces.new_cgroup,
        rootfs: bundle.join(root.path()),
        rootfs_mounts,
        rootfs_read_only: root.readonly().unwrap_or_default(),
        rootfs_propagation: linux
            .rootfs_propagation()
            .as_deref()
            .and_then(mount_plan::propagation),
        mounts,
        devices: asked,
        masked: linux.masked_paths().clone().unwrap_or_default(),
        read_only: linux.readonly_paths().clone().unwrap_or_default(),
        sysctls,
        hostname: spec
            .hostname()
            .clone()
            .filter(|h| !h.is_empty() && namespaces.own_uts),
        domainname: spec
            .domainname()
            .clone()
            .filter(|d| !d.is_empty() && namespaces.own_uts),
        process: process_plan(process, spec)?,
    };
    Ok((plan, limits))
}

/// What would be dropped silently is refused instead.
fn refuse_unsupported(spec: &Spec, linux: &Linux) -> Result<(), SpecError> {
    let hooks = spec.hooks().as_ref().is_some_and(|h| {
        let some = |list: &Option<Vec<_>>| list.as_ref().is_some_and(|l| !l.is_empty());
        some(h.create_runtime())
            || some(h.create_container())
            || some(h.start_container())
            || some(h.poststart())
    });
    let mappings = [linux.uid_mappings(), linux.gid_mappings()];
    let cases = [
        (hooks, "hooks"),
        (
            mappings.iter().any(|m| m.as_ref().is_some_and(|m| !m.is_empty())),
            "user namespace mappings",
        ),
        (linux.time_offsets().is_some(), "time offsets"),
        (linux.intel_rdt().is_some(), "Intel RDT"),
        (linux.personality().is_some(), "a personality"),
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
    join_pid: Option<PathBuf>,
    new_cgroup: bool,
    /// The UTS namespace is not the host's.
    own_uts: bool,
}

fn namespaces(linux: &Linux) -> Result<Namespaces, SpecError> {
    let mut out = Namespaces {
        new: CloneFlags::empty(),
        join: Vec::new(),
        join_pid: None,
        new_cgroup: false,
        own_uts: false,
    };
    for namespace in linux.namespaces().iter().flatten() {
        let path = namespace.path().clone().filter(|p| !p.as_os_str().is_empty());
        out.own_uts |= namespace.typ() == LinuxNamespaceType::Uts;
        let flag = match (namespace.typ(), &path) {
            (LinuxNamespaceType::Pid, Some(_)) => {
                out.join_pid = path;
                continue;
            }
            (LinuxNamespaceType::Cgroup, None) => {
                out.new_cgroup = true;
                continue;
            }
            (LinuxNamespaceType::Mount, Some(_)) => {
                return Err(SpecError::Unsupported("joining a mount namespace".into()));
            }
            (LinuxNamespaceType::User | LinuxNamespaceType::Time, _) => {
                return Err(SpecError::Unsupported(format!("a {} namespace", namespace.typ())));
            }
            (LinuxNamespaceType::Mount, _) => CloneFlags::CLONE_NEWNS,
            (LinuxNamespaceType::Pid, _) => CloneFlags::CLONE_NEWPID,
            (LinuxNamespaceType::Network, _) => CloneFlags::CLONE_NEWNET,
            (LinuxNamespaceType::Ipc, _) => CloneFlags::CLONE_NEWIPC,
            (LinuxNamespaceType::Uts, _) => CloneFlags::CLONE_NEWUTS,
            (LinuxNamespaceType::Cgroup, _) => CloneFlags::CLONE_NEWCGROUP,
        };
        match path {
            Some(path) => out.join.push((flag, path)),
            None => out.new |= flag,
        }
    }
    if !out.new.contains(CloneFlags::CLONE_NEWNS) {
        return Err(SpecError::Missing(
            "new mount namespace; a container without one would change the host's mounts",
        ));
    }
    Ok(out)
}

/// A process of config.json, or of an Exec request in the same container.
pub fn process_plan(process: &Process, spec: &Spec) -> Result<ProcessPlan, SpecError> {
    let user = process.user();
    let capabilities = capabilities(process)?;
    let seccomp = filters(spec, &capabilities)?;
    if process
        .apparmor_profile()
        .as_ref()
        .is_some_and(|p| !p.is_empty() && p != "unconfined")
    {
        return Err(SpecError::Unsupported("an AppArmor profile".into()));
    }
    if !process.cwd().is_absolute() {
        return Err(SpecError::Missing("absolute process.cwd"));
    }
    let args = process.args().clone().unwrap_or_default();
    if args.is_empty() {
        return Err(SpecError::Missing("process.args"));
    }
    let size = process.console_size();
    let side = |n: u64| u16::try_from(n).unwrap_or(u16::MAX);
    let dimensions = size
        .as_ref()
        .map_or((0, 0), |s| (side(s.width()), side(s.height())));
    Ok(ProcessPlan {
        args,
        env: process.env().clone().unwrap_or_default(),
        cwd: process.cwd().clone(),
        terminal: process.terminal().unwrap_or_default().then_some(dimensions),
        identity: Identity {
            uid: user.uid(),
            gid: user.gid(),
            groups: user.additional_gids().clone().unwrap_or_default(),
            umask: user.umask().unwrap_or(0o022),
            capabilities,
            no_new_privileges: process.no_new_privileges().unwrap_or_default(),
            rlimits: process.rlimits().iter().flatten().filter_map(rlimit).collect(),
            oom_score_adj: process.oom_score_adj(),
            seccomp,
        },
    })
}

/// config.json's own profile, or the one named by annotation; with neither there is no filter (runtime-spec).
fn filters(spec: &Spec, capabilities: &Capabilities) -> Result<Vec<seccompiler::BpfProgram>, SpecError> {
    if let Some(profile) = spec.linux().as_ref().and_then(|l| l.seccomp().as_ref()) {
        return Ok(seccomp::compile(profile)?);
    }
    let named = spec
        .annotations()
        .as_ref()
        .and_then(|a| a.get(annotations::SECCOMP))
        .map(String::as_str);
    match named {
        Some(annotations::SECCOMP_RUNTIME_DEFAULT) => Ok(seccomp::runtime_default(&capabilities.bounding)?),
        None | Some(annotations::SECCOMP_UNCONFINED) => Ok(Vec::new()),
        Some(other) => Err(SpecError::Unsupported(format!("the seccomp profile {other:?}"))),
    }
}

fn capabilities(process: &Process) -> Result<Capabilities, SpecError> {
    let Some(sets) = process.capabilities() else {
        return Ok(Capabilities::default());
    };
    let set = |from: &Option<OciCapabilities>| -> Result<CapsHashSet, SpecError> {
        from.iter().flatten().map(capability).collect()
    };
    Ok(Capabilities {
        bounding: set(sets.bounding())?,
        effective: set(sets.effective())?,
        permitted: set(sets.permitted())?,
        inheritable: set(sets.inheritable())?,
        ambient: set(sets.ambient())?,
    })
}

fn capability(oci: &oci_spec::runtime::Capability) -> Result<caps::Capability, SpecError> {
    let name = caps::to_canonical(&oci.to_string());
    name.parse().map_err(|_| SpecError::Capability(name))
}

fn rlimit(limit: &oci_spec::runtime::PosixRlimit) -> Option<(Resource, u64, u64)> {
    let resource = match limit.typ() {
        PosixRlimitType::RlimitCpu => Resource::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => Resource::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => Resource::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => Resource::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => Resource::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => Resource::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => Resource::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => Resource::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => Resource::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => Resource::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => Resource::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => Resource::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => Resource::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => Resource::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => Resource::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => Resource::RLIMIT_RTTIME,
    };
    Some((resource, limit.soft(), limit.hard()))
}

fn device(oci: &LinuxDevice) -> Result<Device, SpecError> {
    let kind = match oci.typ() {
        LinuxDeviceType::B => SFlag::S_IFBLK,
        LinuxDeviceType::C | LinuxDeviceType::U => SFlag::S_IFCHR,
        LinuxDeviceType::P => SFlag::S_IFIFO,
        LinuxDeviceType::A => {
            return Err(SpecError::Unsupported(format!(
                "a device of no type at {:?}",
                oci.path()
            )));
        }
    };
    Ok(Device {
        path: oci.path().clone(),
        kind,
        major: oci.major().cast_unsigned(),
        minor: oci.minor().cast_unsigned(),
        mode: oci.file_mode().unwrap_or(0o666) & 0o7777,
        uid: oci.uid().unwrap_or(0),
        gid: oci.gid().unwrap_or(0),
    })
}

/// What every container may use beyond the default nodes: making nodes (opening them is another matter), the
/// console, terminals.
const ALWAYS_ALLOWED: [&str; 5] = ["c *:* m", "b *:* m", "c 5:1 rwm", "c 136:* rwm", "c 5:2 rwm"];

/// Everything is denied first, then the bundle's rules, then what a container cannot do without. A bundle that
/// allows everything (privileged) has no rules at all.
fn device_rules(asked: &[(bool, String)], nodes: &[Device]) -> Vec<(bool, String)> {
    if asked.iter().any(|(allow, rule)| *allow && rule == "a") {
        return Vec::new();
    }
    let node = |d: &Device| {
        let letter = if d.kind == SFlag::S_IFBLK { 'b' } else { 'c' };
        (true, format!("{letter} {}:{} rwm", d.major, d.minor))
    };
    let mut seen = HashSet::new();
    let mut rules = vec![(false, "a".to_owned())];
    rules.extend(asked.iter().filter(|(_, rule)| rule != "a").cloned());
    rules.extend(ALWAYS_ALLOWED.map(|rule| (true, rule.to_owned())));
    rules.extend(
        devices::defaults()
            .iter()
            .chain(nodes)
            .filter(|d| d.kind != SFlag::S_IFIFO)
            .map(node),
    );
    rules.retain(|rule| seen.insert(rule.clone()));
    rules
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
        assert!(got.new_cgroup && !got.own_uts);
    }

    #[test]
    fn what_is_not_offered_is_said() {
        let no_mount = MINIMAL.replace(r#"{"type":"mount"},"#, "");
        let user = MINIMAL.replace(r#"{"type":"pid"}"#, r#"{"type":"user"}"#);
        let no_args = MINIMAL.replace(r#""args":["/bin/true"],"#, "");
        for json in [no_mount, user, no_args] {
            assert!(
                plan(&spec(&json), Path::new("/b"), "/c", vec![]).is_err(),
                "{json}"
            );
        }
    }

    #[test]
    fn devices_are_denied_unless_allowed() {
        let rules = device_rules(&[(false, "a".into()), (true, "c 10:200 rwm".into())], &[]);
        assert_eq!(rules[0], (false, "a".into()));
        assert!(
            rules.contains(&(true, "c 10:200 rwm".into())) && rules.contains(&(true, "c 1:3 rwm".into()))
        );
        assert!(device_rules(&[(true, "a".into())], &[]).is_empty());
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

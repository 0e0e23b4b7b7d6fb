//! The process of a container, or one more of an exec: capabilities, limits, seccomp, personality.
//! Owns what `process` and `linux.seccomp` of config.json mean. Refuses to know how it is carried out.
use super::{SpecError, annotation};
use crate::init::ProcessPlan;
use crate::init::identity::{Capabilities, Identity};
use crate::overseer::Listener;
use crate::process_spec::{labels, memory_policy, scheduling};
use crate::seccomp::{self};
use amphipod_shim_api::annotations;
use caps::CapsHashSet;
use nix::sys::personality::Persona;
use nix::sys::resource::Resource;
use oci_spec::runtime::{
    Capabilities as OciCapabilities, LinuxPersonalityDomain, PosixRlimitType, Process, Spec, User,
};
use std::collections::HashSet;

pub(super) fn personality(spec: &Spec) -> Result<Option<Persona>, SpecError> {
    let Some(asked) = spec.linux().as_ref().and_then(|l| l.personality().as_ref()) else {
        return Ok(None);
    };
    if asked.flags().as_ref().is_some_and(|f| !f.is_empty()) {
        return Err(SpecError::Unsupported("flags of a personality".into()));
    }
    Ok(Some(match asked.domain() {
        LinuxPersonalityDomain::PerLinux => Persona::empty(),
        LinuxPersonalityDomain::PerLinux32 => Persona::from_bits_retain(PER_LINUX32),
    }))
}

/// crun's word for it, which podman's `--group-add keep-groups` writes.
pub const KEEP_GROUPS: &str = "run.oci.keep_original_groups";
/// `PER_LINUX32` of personality(2).
const PER_LINUX32: i32 = 8;

/// The last user or group. Of those beyond, which runc refuses too, −1 would leave the process the runtime's own
/// (setresuid(2)).
pub(super) const LAST_ID: u32 = 0x7fff_ffff;

/// The container's own process, for which `execCPUAffinity` is not (runtime-spec, config.md, "Process").
pub(super) fn first_process_plan(process: &Process, spec: &Spec) -> Result<ProcessPlan, SpecError> {
    let mut plan = process_plan(process, spec)?;
    plan.scheduling.processors = None;
    plan.scheduling.initial_processors = None;
    Ok(plan)
}

/// A process of config.json, or of an Exec request in the same container.
pub fn process_plan(process: &Process, spec: &Spec) -> Result<ProcessPlan, SpecError> {
    let user = process.user();
    check_ids(user)?;
    let capabilities = capabilities(process)?;
    let seccomp = filters(spec, &capabilities)?;
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
        personality: personality(spec)?,
        memory: spec
            .linux()
            .as_ref()
            .and_then(|l| l.memory_policy().as_ref())
            .map(memory_policy)
            .transpose()?,
        scheduling: scheduling(process)?,
        labels: labels(process)?,
        keyring: None,
        identity: Identity {
            uid: user.uid(),
            gid: user.gid(),
            groups: user.additional_gids().clone().unwrap_or_default(),
            keeps_groups: annotation(spec, KEEP_GROUPS).is_some_and(|value| value != "0"),
            umask: user.umask().unwrap_or(0o022),
            capabilities,
            no_new_privileges: process.no_new_privileges().unwrap_or_default(),
            rlimits: rlimits(process)?,
            oom_score_adj: process.oom_score_adj(),
            seccomp,
        },
        listener: listener(spec),
    })
}

fn check_ids(user: &User) -> Result<(), SpecError> {
    let groups = user.additional_gids().iter().flatten();
    let groups = groups.map(|gid| ("additionalGids", *gid));
    let mut ids = [("uid", user.uid()), ("gid", user.gid())]
        .into_iter()
        .chain(groups);
    match ids.find(|(_, id)| *id > LAST_ID) {
        Some((name, id)) => Err(SpecError::Id(name, id)),
        None => Ok(()),
    }
}

/// config.json's own profile, or the one named by annotation; with neither there is no filter (runtime-spec).
fn filters(spec: &Spec, capabilities: &Capabilities) -> Result<Vec<seccomp::Filter>, SpecError> {
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

/// Where a seccomp listener waits.
fn listener(spec: &Spec) -> Option<Listener> {
    let profile = spec.linux().as_ref()?.seccomp().as_ref()?;
    Some(Listener {
        path: profile.listener_path().clone()?,
        metadata: profile.listener_metadata().clone().unwrap_or_default(),
    })
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

pub(super) fn capability(oci: &oci_spec::runtime::Capability) -> Result<caps::Capability, SpecError> {
    let name = caps::to_canonical(&oci.to_string());
    name.parse().map_err(|_| SpecError::Capability(name))
}

fn rlimits(process: &Process) -> Result<Vec<(Resource, u64, u64)>, SpecError> {
    let mut seen = HashSet::new();
    let limits = process.rlimits().iter().flatten();
    limits
        .map(|limit| match seen.insert(limit.typ().to_string()) {
            true => Ok(rlimit(limit)),
            false => Err(SpecError::Twice(limit.typ().to_string())),
        })
        .collect()
}

fn rlimit(limit: &oci_spec::runtime::PosixRlimit) -> (Resource, u64, u64) {
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
    (resource, limit.soft(), limit.hard())
}

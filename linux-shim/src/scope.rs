//! A container whose cgroup systemd makes: a transient scope, its limits as properties, and what is below it ours
//! (`Delegate=`, systemd.scope(5)).
//!
//! A scope begins with a process, and the container's own is born in a cgroup that is there: so a [`Keeper`] goes before
//! it and ends when it is there.

use std::path::Path;

use amphipod_shim_api::cgroup::{Cgroup, CgroupError, CgroupHost, Limits};
use amphipod_shim_api::systemd::{self, Manager, Property, SystemdError, Unit, asked_by_annotations};
use amphipod_shim_api::{Standing, TaskError};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, pause};
use oci_spec::runtime::Spec;

use crate::spec;
use crate::sys::clone::{CloneError, SingleThread, spawn};
use crate::sys::process::close_all_but;

/// A process of ours that does nothing, for as long as this program runs.
#[derive(Debug)]
pub struct Keeper(Pid);

impl Keeper {
    pub fn begin() -> Result<Self, CloneError> {
        let single = SingleThread::check()?;
        let child = spawn(&single, 0, None, |_| {
            let bound = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
            if bound.is_err() || close_all_but(&[], 0).is_err() {
                return 1;
            }
            loop {
                pause();
            }
        });
        child.map(Self)
    }

    pub fn pid(&self) -> Pid {
        self.0
    }

    pub fn number(&self) -> u32 {
        self.0.as_raw().cast_unsigned()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // Whoever waits for children waits for it. It is gone already (ESRCH) when the container was killed with it.
        let _ = kill(self.0, Signal::SIGKILL);
    }
}

/// What systemd is told of a container: its limits, and what its annotations ask for.
pub fn properties(spec: &Spec, limits: &Limits) -> Result<Vec<Property>, SystemdError> {
    let mut all = systemd::properties(limits);
    all.extend(asked_by_annotations(spec.annotations().iter().flatten())?);
    Ok(all)
}

/// The unit a container's `cgroupsPath` asks for, where systemd runs the host; elsewhere it stands for a path.
pub fn of(spec: &Spec) -> Option<Unit> {
    let asked = spec.linux().as_ref()?.cgroups_path().as_ref()?;
    Unit::parse(&asked.to_string_lossy()).filter(|_| systemd::is_running())
}

/// As [`of`], for a caller who says that systemd is to be the manager (containerd's option `SystemdCgroup`).
pub fn demanded(spec: &Spec) -> Result<(), TaskError> {
    let asked = spec.linux().as_ref().and_then(|l| l.cgroups_path().as_ref());
    let asked = asked
        .map(|path| path.to_string_lossy().into_owned())
        .unwrap_or_default();
    let error = match (of(spec), systemd::is_running()) {
        (Some(_), _) => return Ok(()),
        (None, true) => SystemdError::Path(asked),
        (None, false) => SystemdError::Absent,
    };
    Err(TaskError::InvalidArgument(error.to_string()))
}

/// Has systemd make a container's scope: the host's for root, for others one of their own.
pub async fn start(spec: &Spec, unit: &Unit, limits: &Limits) -> Result<Keeper, TaskError> {
    let failed = |e: SystemdError| TaskError::Internal(e.to_string());
    let properties = properties(spec, limits).map_err(|e| TaskError::InvalidArgument(e.to_string()))?;
    let keeper = Keeper::begin().map_err(|e| TaskError::internal("make a process", e))?;
    let mut manager = manager().await.map_err(failed)?;
    let made = manager.start_scope(unit, &[keeper.number()], properties).await;
    made.map_err(failed).map(|()| keeper)
}

/// Tells systemd of other limits of a container.
pub async fn update(unit: &Unit, limits: &Limits) -> Result<(), TaskError> {
    let properties = systemd::properties(limits);
    if properties.is_empty() {
        return Ok(());
    }
    let told = async { manager().await?.set(&unit.name, &properties).await };
    told.await
        .map_err(|e: SystemdError| TaskError::Internal(e.to_string()))
}

/// Ends a scope whose processes have been killed; to be called while its cgroup is there.
pub async fn stop(unit: &Unit) -> Result<(), SystemdError> {
    manager().await?.stop(&unit.name).await
}

async fn manager() -> Result<Manager, SystemdError> {
    Manager::of(Standing::of_this_process()).await
}

/// Where a process's scope is, below the hierarchy's mount.
pub fn cgroup_of(pid: u32) -> Result<String, SystemdError> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    parse_cgroup(&text).ok_or(SystemdError::ScopeWithoutCgroup)
}

/// The one hierarchy of v2, or systemd's own of v1.
fn parse_cgroup(text: &str) -> Option<String> {
    let named = text.lines().find_map(|l| l.split_once(":name=systemd:"));
    let unified = text.lines().find_map(|l| l.strip_prefix("0::"));
    let path = named.map(|(_, path)| path).or(unified)?;
    path.ends_with(".scope").then(|| path.to_owned())
}

/// How often the kernel has killed for memory in a container's cgroup, if it has one. systemd removes that of a scope as
/// soon as nobody is in it: then the slice around it, which counts what is below it (v2), tells what came on top of
/// `before`.
pub fn oom_kills(cgroup: &Cgroup, slice: Option<&str>, before: u64) -> Result<u64, CgroupError> {
    // Asked before anything else: between a look and a read the cgroup may go.
    Ok(match (cgroup.known_oom_kills()?, slice) {
        (Some(kills), _) => kills,
        (None, Some(slice)) => kills_in(slice).saturating_sub(before),
        (None, None) => 0,
    })
}

/// The slice that tells of a scope's processes when the scope is gone. One that nobody asked for is full of others', whose
/// memory may have run out meanwhile: it tells nothing.
pub fn slice_around<'a>(unit: &Unit, scope: &'a str) -> Option<&'a str> {
    unit.slice.as_ref()?;
    Path::new(scope).parent()?.to_str()
}

/// How often in a slice; one whose count cannot be read has none.
pub fn kills_in(slice: &str) -> u64 {
    let cgroup = CgroupHost::known().and_then(|host| host.cgroup(slice));
    cgroup.and_then(|c| c.oom_kills()).unwrap_or(0)
}

/// Where a container's cgroup is.
pub fn path(spec: &Spec, namespace: &str, id: &str) -> String {
    match of(spec) {
        Some(unit) => unit.path(),
        None => spec::cgroup_path(spec, namespace, id),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_that_was_not_asked_for_tells_nothing() {
        let asked = |path: &str| slice_around(&Unit::parse(path).unwrap(), "/a.slice/p-c.scope").is_some();
        assert!(asked("a.slice:p:c"));
        assert!(!asked(":p:c"));
    }

    #[test]
    fn the_scope_is_found_on_v1_and_v2() {
        let v2 = "0::/machine.slice/x.scope\n";
        assert_eq!(parse_cgroup(v2).unwrap(), "/machine.slice/x.scope");
        let v1 = "3:cpu:/\n1:name=systemd:/system.slice/x.scope\n0::/\n";
        assert_eq!(parse_cgroup(v1).unwrap(), "/system.slice/x.scope");
        assert_eq!(parse_cgroup("0::/user.slice\n"), None);
    }
}

//! A container whose cgroup systemd makes: a transient scope, its limits as properties, and what is below it ours
//! (`Delegate=`, systemd.scope(5)).
//!
//! A scope begins with a process, and the container's own is born in a cgroup that is there: so a [`Keeper`] goes before
//! it and ends when it is there.

use amphipod_shim_api::TaskError;
use amphipod_shim_api::cgroup::{Cgroup, Limits};
use amphipod_shim_api::systemd::{self, Manager, Property, SystemdError, Unit, asked_by_annotations};
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

/// Has the host's systemd make a container's scope.
pub async fn start(spec: &Spec, unit: &Unit, limits: &Limits) -> Result<Keeper, TaskError> {
    let failed = |e: SystemdError| TaskError::Internal(e.to_string());
    let properties = properties(spec, limits).map_err(|e| TaskError::InvalidArgument(e.to_string()))?;
    let keeper = Keeper::begin().map_err(|e| TaskError::internal("make a process", e))?;
    let mut manager = Manager::of_host().await.map_err(failed)?;
    let made = manager.start_scope(unit, &[keeper.number()], properties).await;
    made.map_err(failed).map(|()| keeper)
}

/// Tells systemd of other limits of a container.
pub async fn update(unit: &Unit, limits: &Limits) -> Result<(), TaskError> {
    let properties = systemd::properties(limits);
    if properties.is_empty() {
        return Ok(());
    }
    let told = async { Manager::of_host().await?.set(&unit.name, &properties).await };
    told.await
        .map_err(|e: SystemdError| TaskError::Internal(e.to_string()))
}

/// Ends a scope whose processes have been killed; to be called while its cgroup is there.
pub async fn stop(unit: &Unit) -> Result<(), SystemdError> {
    Manager::of_host().await?.stop(&unit.name).await
}

/// How often the kernel has killed for memory in a container's cgroup. systemd removes the cgroup of a scope as soon as
/// nobody is in it: then the slice around it, which counts what is below it (v2), tells what came on top of `before`.
pub fn oom_kills(
    cgroup: &Cgroup,
    unit: Option<&Unit>,
    before: u64,
) -> Result<u64, amphipod_shim_api::cgroup::CgroupError> {
    match unit {
        Some(unit) if !cgroup.exists() => Ok(around(unit).saturating_sub(before)),
        _ => cgroup.oom_kills(),
    }
}

/// How often in the slice around a unit; one whose count cannot be read has none.
pub fn around(unit: &Unit) -> u64 {
    let Some(slice) = unit.slice.as_deref() else {
        return 0;
    };
    let host = amphipod_shim_api::cgroup::CgroupHost::known();
    let cgroup = host.and_then(|h| h.cgroup(&systemd::names::slice_path(slice)));
    cgroup.and_then(|c| c.oom_kills()).unwrap_or(0)
}

/// Where a container's cgroup is.
pub fn path(spec: &Spec, namespace: &str, id: &str) -> String {
    match of(spec) {
        Some(unit) => unit.path(),
        None => spec::cgroup_path(spec, namespace, id),
    }
}

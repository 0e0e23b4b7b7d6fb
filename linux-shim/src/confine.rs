//! The cgroup of a container of the shim: made by files or by systemd, limited, and gone with a container that is not to
//! be. Without root it is what can be had (`rootless`), and what is different is said in the shim's log.

use amphipod_shim_api::cgroup::{Cgroup, CgroupError, CgroupHost, Limits};
use amphipod_shim_api::systemd::Unit;
use amphipod_shim_api::{Standing, TaskError};
use oci_spec::runtime::Spec;

use crate::device_filter::{self, LimitError};
use crate::init::ContainerPlan;
use crate::reaper::Reaper;
use crate::rootless::{self, ConfineError, without_devices};
use crate::scope::{self, Keeper};

/// Where a container is.
#[derive(Debug)]
pub struct Confined {
    /// Of its cgroup; empty where it has none.
    pub path: String,
    /// What systemd calls it, if it is the cgroup's manager.
    pub unit: Option<Unit>,
    /// There until the container's own process is.
    keeper: Option<Keeper>,
}

pub fn failed(error: CgroupError) -> TaskError {
    TaskError::Internal(format!("cgroup: {error}"))
}

/// The cgroup that was written down of a container; none where it had none.
pub fn recorded(path: &str) -> Result<Cgroup, CgroupError> {
    match path {
        "" => Ok(Cgroup::none()),
        path => CgroupHost::known()?.cgroup_everywhere(path),
    }
}

/// Where a container's cgroup is to be.
pub fn path(standing: Standing, spec: &Spec, namespace: &str, id: &str) -> String {
    let near = standing.makes_do().then(|| format!("{namespace}-{id}"));
    near.and_then(|name| rootless::near_own(spec, &name))
        .unwrap_or_else(|| scope::path(spec, namespace, id))
}

/// Whether anybody is in a cgroup, which need not exist.
pub fn is_used(cgroup: &Cgroup) -> Result<bool, CgroupError> {
    Ok(cgroup.exists() && !cgroup.pids()?.is_empty())
}

/// What a container ends with is everybody in its cgroup: one that holds others is not for it (runc refuses it alike).
pub fn unused(cgroup: &Cgroup) -> Result<(), TaskError> {
    match is_used(cgroup).map_err(failed)? {
        false => Ok(()),
        true => Err(TaskError::FailedPrecondition(
            "the container's cgroup is not empty: give it another in linux.cgroupsPath".into(),
        )),
    }
}

impl Confined {
    /// Makes the planned cgroup, or has it made, and sets its limits. On failure nothing of it is left.
    pub async fn make(
        reaper: &Reaper,
        standing: Standing,
        spec: &Spec,
        path: String,
        plan: &mut ContainerPlan,
        limits: Limits,
    ) -> Result<Self, TaskError> {
        let mut this = Self {
            path,
            unit: None,
            keeper: None,
        };
        // What is not ours yet is not ours to end: a unit of that name may be there.
        if let Some(unit) = scope::of(spec) {
            this.keeper = Some(scope::start(spec, &unit, &limits).await?);
            this.unit = Some(unit);
        }
        let limited = match (&this.keeper, standing.makes_do()) {
            (_, false) => limit(&plan.cgroup, &limits),
            (Some(keeper), true) => {
                let found = scope::cgroup_of(keeper.number());
                found
                    .map_err(|e| TaskError::Internal(e.to_string()))
                    .and_then(|path| {
                        this.path = path;
                        limit_own(&this.path, plan, limits)
                    })
            }
            (None, true) => match rootless::confine(plan, limits) {
                Err(ConfineError::Rootless(error)) => {
                    return Err(TaskError::InvalidArgument(error.to_string()));
                }
                Err(ConfineError::Cgroup(error)) => Err(failed(error)),
                Ok(None) => Ok(()),
                Ok(Some(said)) => {
                    tracing::info!(id = plan.subject.id, "{said}");
                    this.path = String::new();
                    Ok(())
                }
            },
        };
        if let Err(error) = limited {
            this.settled(reaper).await;
            this.discard(&plan.cgroup).await;
            return Err(error);
        }
        Ok(this)
    }

    /// To be called when the container's process is there, or is not to be.
    pub async fn settled(&mut self, reaper: &Reaper) {
        let Some(keeper) = self.keeper.take() else { return };
        let ended = reaper.adopt(keeper.pid());
        drop(keeper);
        // It was killed: how it ended says nothing. Waited for, so that nobody but the container's own is in its cgroup.
        let _ = ended.await;
    }

    /// Kills and removes the cgroup of a container that is not to be.
    pub async fn discard(&self, cgroup: &Cgroup) {
        if let Some(unit) = &self.unit
            && let Err(error) = scope::stop(unit).await
        {
            tracing::warn!(%error, "end the scope of a failed container");
        }
        if !cgroup.exists() {
            return;
        }
        if let Err(error) = cgroup.kill() {
            tracing::warn!(%error, "kill a failed container");
        }
        if let Err(error) = cgroup.remove().await {
            tracing::warn!(%error, "remove the cgroup of a failed container");
        }
    }
}

/// Plans with, and limits, the cgroup that a user's own systemd has made, if this process may send others there.
fn limit_own(path: &str, plan: &mut ContainerPlan, limits: Limits) -> Result<(), TaskError> {
    let host = CgroupHost::known().map_err(failed)?;
    plan.cgroup = host.cgroup_everywhere(path).map_err(failed)?;
    if !host.may_enter(&plan.cgroup) {
        return Err(TaskError::FailedPrecondition(
            "your systemd has made a cgroup that this shim may begin no process in: it was started outside of what is \
             delegated to you"
                .into(),
        ));
    }
    plan.cgroup.apply(&without_devices(limits)).map_err(failed)
}

fn limit(cgroup: &Cgroup, limits: &Limits) -> Result<(), TaskError> {
    device_filter::limit(cgroup, limits).map_err(|e| match e {
        LimitError::Cgroup(error) => failed(error),
        LimitError::Devices(error) => TaskError::Internal(error.to_string()),
    })
}

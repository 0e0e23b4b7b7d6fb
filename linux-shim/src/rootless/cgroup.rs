//! The cgroup of a container without root: what is delegated to its user, else none, which is said.

use amphipod_shim_api::cgroup::{Cgroup, CgroupError, CgroupHost, Limits};
use oci_spec::runtime::Spec;

use super::RootlessError;
use crate::init::ContainerPlan;

/// Why a container cannot be confined as it is to be.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    #[error(transparent)]
    Rootless(#[from] RootlessError),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
}

/// Where the cgroup of a container is for which config.json names none: near this process's own.
pub fn near_own(spec: &Spec, name: &str) -> Option<String> {
    let asked = spec.linux().as_ref().and_then(|l| l.cgroups_path().as_ref());
    if asked.is_some_and(|path| !path.as_os_str().is_empty()) {
        return None;
    }
    CgroupHost::known().ok()?.path_near_own(name)
}

/// Makes the planned cgroup and sets its limits. Where it is not delegated to us the container has none: that is
/// answered, in words, and limits are refused.
pub fn confine(plan: &mut ContainerPlan, limits: Limits) -> Result<Option<String>, ConfineError> {
    let limits = without_devices(limits);
    let why = match delegated(&plan.cgroup) {
        Ok(()) => {
            plan.cgroup.apply(&limits)?;
            return Ok(None);
        }
        Err(why) => why,
    };
    if limits != Limits::default() {
        return Err(RootlessError::Limits(why).into());
    }
    plan.cgroup = Cgroup::none();
    Ok(Some(format!(
        "the container has no cgroup of its own: it can be neither limited nor paused ({why})"
    )))
}

/// In a user namespace no device can be made, and those shown there have the host's permissions: rules of devices would
/// forbid nothing, and the kernel takes them from root alone.
pub fn without_devices(limits: Limits) -> Limits {
    Limits {
        devices: Vec::new(),
        ..limits
    }
}

/// Makes it, or says why it cannot be had.
fn delegated(cgroup: &Cgroup) -> Result<(), String> {
    let host = CgroupHost::known().map_err(|e| e.to_string())?;
    if !host.is_v2() {
        return Err("this host has cgroup v1, of which nothing can be delegated".into());
    }
    if !host.may_enter(cgroup) {
        return Err("the cgroup above it and yours does not let you move processes".into());
    }
    cgroup.create().map_err(|e| e.to_string())
}

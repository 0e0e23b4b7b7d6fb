//! The cgroup of a container: what root asks for; for others what is delegated to them, else none, which is said.

use amphipod_shim_api::cgroup::{Cgroup, CgroupHost, Limits};
use oci_spec::runtime::Spec;

use super::{Call, OciError};
use crate::init::ContainerPlan;
use crate::rootless::RootlessError;
use crate::{device_filter, spec};

/// The cgroup of containers that name none is below this.
const PARENT: &str = "amphipod-oci";

/// Where the container's cgroup is to be.
pub fn path(call: &Call, spec: &Spec, id: &str) -> String {
    let asked = spec.linux().as_ref().and_then(|l| l.cgroups_path().as_ref());
    let named = asked.is_some_and(|path| !path.as_os_str().is_empty());
    let near = || CgroupHost::known().ok()?.path_near_own(&format!("{PARENT}-{id}"));
    match near().filter(|_| call.standing.makes_do() && !named) {
        Some(near) => near,
        None => spec::cgroup_path(spec, PARENT, id),
    }
}

/// Makes the container's cgroup and sets its limits; `false` when it has none.
pub fn confine(call: &Call, plan: &mut ContainerPlan, limits: Limits) -> Result<bool, OciError> {
    if !call.standing.makes_do() {
        device_filter::limit(&plan.cgroup, &limits)?;
        return Ok(true);
    }
    // In a user namespace no device can be made, and those shown there have the host's permissions: rules of devices
    // would forbid nothing, and the kernel takes them from root alone.
    let limits = Limits {
        devices: Vec::new(),
        ..limits
    };
    let why = match delegated(&plan.cgroup) {
        Ok(()) => {
            plan.cgroup.apply(&limits)?;
            return Ok(true);
        }
        Err(why) => why,
    };
    if limits != Limits::default() {
        return Err(RootlessError::Limits(why).into());
    }
    call.log.warn(&format!(
        "the container has no cgroup of its own: it can be neither limited nor paused ({why})"
    ));
    plan.cgroup = Cgroup::none();
    Ok(false)
}

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

//! The cgroup of a container: what root asks for; for others what is delegated to them, else none, which is said.

use amphipod_shim_api::cgroup::{Cgroup, CgroupHost, Limits};
use oci_spec::runtime::Spec;

use super::systemd::{self, Scope};
use super::{Call, OciError};
use crate::init::ContainerPlan;
use crate::rootless::RootlessError;
use crate::{device_filter, scope, spec};

/// The cgroup of containers that name none is below this.
const PARENT: &str = "amphipod-oci";

/// Where the container's cgroup is to be.
pub fn path(call: &Call, spec: &Spec, id: &str) -> String {
    let asked = spec.linux().as_ref().and_then(|l| l.cgroups_path().as_ref());
    let named = asked.is_some_and(|path| !path.as_os_str().is_empty());
    if call.systemd {
        // Only systemd knows, once it has made it; until then it stands for something.
        return format!("/{PARENT}/{id}");
    }
    let near = || CgroupHost::known().ok()?.path_near_own(&format!("{PARENT}-{id}"));
    match near().filter(|_| call.standing.makes_do() && !named) {
        Some(near) => near,
        None => spec::cgroup_path(spec, PARENT, id),
    }
}

/// Where a container is.
#[derive(Debug)]
pub struct Confined {
    /// Of its cgroup; empty where it has none.
    pub path: String,
    /// The unit of systemd that cgroup is.
    pub unit: Option<String>,
    /// To be kept until the container's process is there.
    scope: Option<Scope>,
}

/// Makes the container's cgroup, or has it made, and sets its limits.
pub fn confine(
    call: &Call,
    spec: &Spec,
    path: String,
    plan: &mut ContainerPlan,
    limits: Limits,
) -> Result<Confined, OciError> {
    if call.systemd {
        return by_systemd(call, spec, plan, limits);
    }
    let done = |path| Confined {
        path,
        unit: None,
        scope: None,
    };
    if !call.standing.makes_do() {
        device_filter::limit(&plan.cgroup, &limits)?;
        return Ok(done(path));
    }
    let limits = without_devices(limits);
    let why = match delegated(&plan.cgroup) {
        Ok(()) => {
            plan.cgroup.apply(&limits)?;
            return Ok(done(path));
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
    Ok(done(String::new()))
}

/// In a user namespace no device can be made, and those shown there have the host's permissions: rules of devices would
/// forbid nothing, and the kernel takes them from root alone.
fn without_devices(limits: Limits) -> Limits {
    Limits {
        devices: Vec::new(),
        ..limits
    }
}

fn by_systemd(
    call: &Call,
    spec: &Spec,
    plan: &mut ContainerPlan,
    limits: Limits,
) -> Result<Confined, OciError> {
    let asked = spec.linux().as_ref().and_then(|l| l.cgroups_path().as_ref());
    let asked = asked.map(|path| path.to_string_lossy()).unwrap_or_default();
    let unit = systemd::unit(&asked, PARENT, &plan.subject.id)?;
    let scope = Scope::start(call, &unit, scope::properties(spec, &limits)?)?;
    let set = set_limits(call, &scope, plan, limits);
    let confined = Confined {
        path: scope.path.clone(),
        unit: Some(unit.name),
        scope: Some(scope),
    };
    match set {
        Ok(()) => Ok(confined),
        Err(error) => {
            confined.discard(call);
            Err(error)
        }
    }
}

fn set_limits(call: &Call, scope: &Scope, plan: &mut ContainerPlan, limits: Limits) -> Result<(), OciError> {
    let host = CgroupHost::known()?;
    plan.cgroup = host.cgroup(&scope.path)?;
    if !call.standing.makes_do() {
        return Ok(device_filter::limit(&plan.cgroup, &limits)?);
    }
    if !host.may_enter(&plan.cgroup) {
        systemd::come_in(call)?;
    }
    if !host.may_enter(&plan.cgroup) {
        return Err(OciError::OutsideScope);
    }
    Ok(plan.cgroup.apply(&without_devices(limits))?)
}

impl Confined {
    /// Nothing of a container that is not to be is left with systemd.
    pub fn discard(mut self, call: &Call) {
        drop(self.scope.take());
        let stopped = self.unit.as_ref().map(|unit| systemd::stop(call, unit));
        if let Some(Err(error)) = stopped {
            call.log.warn(&error.to_string());
        }
    }
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

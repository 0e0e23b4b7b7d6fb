//! The cgroup of a container: what root asks for; for others what is delegated to them, else none, which is said.

use std::path::Path;

use amphipod_shim_api::cgroup::{Cgroup, CgroupError, CgroupHost, Limits};
use amphipod_shim_api::systemd::Unit;
use oci_spec::runtime::Spec;

use super::store::Place;
use super::systemd::{self, Scope};
use super::{Call, Manager, OciError};
use crate::init::ContainerPlan;
use crate::rootless::{self, without_devices};
use crate::{device_filter, scope, spec};

/// The cgroup of containers that name none is below this.
const PARENT: &str = "amphipod-oci";

/// Where the container's cgroup is to be.
pub fn path(call: &Call, spec: &Spec, id: &str) -> String {
    if call.manager == Manager::Systemd {
        // Only systemd knows, once it has made it; until then it stands for something.
        return format!("/{PARENT}/{id}");
    }
    let near = call.standing.makes_do().then(|| format!("{PARENT}-{id}"));
    near.and_then(|name| rootless::near_own(spec, &name))
        .unwrap_or_else(|| spec::cgroup_path(spec, PARENT, id))
}

/// The same, to be found again if we are killed before the container is made.
pub fn place(call: &Call, spec: &Spec, path: &str, id: &str) -> Result<Place, OciError> {
    let by = |cgroup, unit| Place { cgroup, unit };
    Ok(match call.manager {
        Manager::Ourselves => by(path.to_owned(), None),
        Manager::Systemd => {
            let unit = unit(spec, id)?;
            by(unit.path(), Some(unit.name))
        }
        Manager::Nobody => by(String::new(), None),
    })
}

fn unit(spec: &Spec, id: &str) -> Result<Unit, OciError> {
    let asked = spec.linux().as_ref().and_then(|l| l.cgroups_path().as_ref());
    let asked = asked.map(|path| path.to_string_lossy()).unwrap_or_default();
    Ok(systemd::unit(&asked, PARENT, id)?)
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
    let done = |path| Confined {
        path,
        unit: None,
        scope: None,
    };
    match call.manager {
        Manager::Systemd => return by_systemd(call, spec, plan, limits),
        Manager::Nobody => return without(call, plan, limits).map(|()| done(String::new())),
        Manager::Ourselves => {}
    }
    if !call.standing.makes_do() {
        make_room(&plan.cgroup, &path, &limits)?;
        device_filter::limit(&plan.cgroup, &limits)?;
        return Ok(done(path));
    }
    Ok(match rootless::confine(plan, limits)? {
        None => done(path),
        Some(said) => {
            call.log.warn(&said);
            done(String::new())
        }
    })
}

/// Nobody but us makes the cgroup above those that config.json does not name: it has room for what they ask of it.
pub fn make_room(cgroup: &Cgroup, path: &str, limits: &Limits) -> Result<(), CgroupError> {
    let above = Path::new(path)
        .parent()
        .and_then(|above| above.strip_prefix("/").ok());
    match above == Some(Path::new(PARENT)) {
        true => cgroup.make_realtime_room(limits),
        false => Ok(()),
    }
}

/// Leaves the container in the cgroup it is made in.
fn without(call: &Call, plan: &mut ContainerPlan, limits: Limits) -> Result<(), OciError> {
    if without_devices(limits) != Limits::default() {
        return Err(OciError::NothingLimits);
    }
    plan.cgroup = Cgroup::none();
    call.log.warn(
        "the container has no cgroup of its own: it can be neither limited nor paused, and may open what devices it can \
         make",
    );
    Ok(())
}

fn by_systemd(
    call: &Call,
    spec: &Spec,
    plan: &mut ContainerPlan,
    limits: Limits,
) -> Result<Confined, OciError> {
    let unit = unit(spec, &plan.subject.id)?;
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
    plan.cgroup = host.cgroup_everywhere(&scope.path)?;
    if !call.standing.makes_do() {
        return Ok(device_filter::limit(&plan.cgroup, &limits)?);
    }
    go_near(call, &plan.cgroup)?;
    Ok(plan.cgroup.apply(&without_devices(limits))?)
}

/// Goes where processes may be sent from to a cgroup that a user's own systemd has made.
pub fn go_near(call: &Call, cgroup: &Cgroup) -> Result<(), OciError> {
    let host = CgroupHost::known()?;
    if !call.standing.makes_do() || host.may_enter(cgroup) {
        return Ok(());
    }
    systemd::come_in(call)?;
    match host.may_enter(cgroup) {
        true => Ok(()),
        false => Err(OciError::OutsideScope),
    }
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

//! systemd as the manager of cgroups (`--systemd-cgroup`): a container is a transient scope, as in the shim
//! ([`crate::scope`]). Root asks the host's systemd, everybody else his own.

use amphipod_shim_api::cgroup::Limits;
use amphipod_shim_api::systemd::{Manager, Property, SystemdError, Unit, properties, waiting};
use nix::sys::wait::waitpid;

use super::{Call, OciError};
use crate::scope::{Keeper, cgroup_of};

/// The unit that a `cgroupsPath` asks for; nothing is asked for by an empty one.
pub fn unit(cgroups_path: &str, prefix: &str, id: &str) -> Result<Unit, SystemdError> {
    let path = match cgroups_path {
        "" => &format!(":{prefix}:{id}"),
        path => path,
    };
    Unit::parse(path).ok_or_else(|| SystemdError::Path(path.into()))
}

/// A scope that is kept until this is dropped, or until it has processes of its own.
#[derive(Debug)]
pub struct Scope {
    keeper: Option<Keeper>,
    /// Below the hierarchy's mount.
    pub path: String,
}

impl Scope {
    /// Has a scope made; it is there when this returns.
    pub fn start(call: &Call, unit: &Unit, properties: Vec<Property>) -> Result<Self, OciError> {
        // Before there is an event loop, so that the copy has none.
        let keeper = Keeper::begin().map_err(crate::launch::LaunchError::from)?;
        let number = keeper.number();
        let mut this = Self {
            keeper: Some(keeper),
            path: String::new(),
        };
        waiting(async {
            let mut manager = Manager::of(call.standing).await?;
            manager.start_scope(unit, &[number], properties).await
        })?;
        this.path = cgroup_of(number)?;
        Ok(this)
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        if let Some(keeper) = self.keeper.take() {
            let pid = keeper.pid();
            drop(keeper);
            // One that was killed with the container has ended too.
            let _ = waitpid(pid, None);
        }
    }
}

/// Goes where one's own systemd may have processes come from: an ordinary user may move them only below what was
/// delegated to him (cgroups(7)), and a session of his is not there. systemd itself may, as for `systemd-run --scope`.
pub fn come_in(call: &Call) -> Result<(), SystemdError> {
    let own = std::process::id();
    let unit = Unit {
        slice: None,
        name: format!("amphipod-oci-call-{own}.scope"),
    };
    waiting(async {
        Manager::of(call.standing)
            .await?
            .start_scope(&unit, &[own], Vec::new())
            .await
    })
}

/// Has limits of a running container changed.
pub fn update(call: &Call, unit: &str, limits: &Limits) -> Result<(), SystemdError> {
    let properties = properties(limits);
    if properties.is_empty() {
        return Ok(());
    }
    waiting(async { Manager::of(call.standing).await?.set(unit, &properties).await })
}

/// Ends a scope whose processes have been killed. To be called while its cgroup is there.
pub fn stop(call: &Call, unit: &str) -> Result<(), SystemdError> {
    waiting(async { Manager::of(call.standing).await?.stop(unit).await })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_asked_for_is_a_name_of_our_own() {
        assert_eq!(
            unit("", "amphipod-oci", "c1").unwrap().name,
            "amphipod-oci-c1.scope"
        );
        assert_eq!(
            unit("machine.slice:libpod:abc", "", "").unwrap().name,
            "libpod-abc.scope"
        );
        assert!(unit("/a/b", "amphipod-oci", "c1").is_err());
    }
}

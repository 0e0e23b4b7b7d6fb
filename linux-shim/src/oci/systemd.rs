//! systemd as the manager of cgroups (`--systemd-cgroup`): a container is a transient scope, as in the shim
//! ([`crate::scope`]). Root asks the host's systemd, everybody else his own.

use amphipod_shim_api::cgroup::Limits;
use amphipod_shim_api::systemd::{Manager, Property, SystemdError, Unit, properties, waiting};
use nix::sys::wait::waitpid;

use super::{Call, OciError};
use crate::rootless::Standing;
use crate::scope::Keeper;

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
            let mut manager = manager(call).await?;
            manager.start_scope(unit, &[number], properties).await
        })?;
        this.path = cgroup_of(number).ok_or(OciError::ScopeWithoutCgroup)?;
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
    waiting(async { manager(call).await?.start_scope(&unit, &[own], Vec::new()).await })
}

/// Has limits of a running container changed.
pub fn update(call: &Call, unit: &str, limits: &Limits) -> Result<(), SystemdError> {
    let properties = properties(limits);
    if properties.is_empty() {
        return Ok(());
    }
    waiting(async { manager(call).await?.set(unit, &properties).await })
}

/// Ends a scope whose processes have been killed. To be called while its cgroup is there.
pub fn stop(call: &Call, unit: &str) -> Result<(), SystemdError> {
    waiting(async { manager(call).await?.stop(unit).await })
}

async fn manager(call: &Call) -> Result<Manager, SystemdError> {
    match call.standing {
        Standing::Root => Manager::of_host().await,
        _ => Manager::of_user().await,
    }
}

fn cgroup_of(pid: u32) -> Option<String> {
    parse_cgroup(&std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?)
}

/// The one hierarchy of v2, or systemd's own of v1.
fn parse_cgroup(text: &str) -> Option<String> {
    let named = text.lines().find_map(|l| l.split_once(":name=systemd:"));
    let unified = text.lines().find_map(|l| l.strip_prefix("0::"));
    let path = named.map(|(_, path)| path).or(unified)?;
    path.ends_with(".scope").then(|| path.to_owned())
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

    #[test]
    fn the_scope_is_found_on_v1_and_v2() {
        let v2 = "0::/machine.slice/x.scope\n";
        assert_eq!(parse_cgroup(v2).unwrap(), "/machine.slice/x.scope");
        let v1 = "3:cpu:/\n1:name=systemd:/system.slice/x.scope\n0::/\n";
        assert_eq!(parse_cgroup(v1).unwrap(), "/system.slice/x.scope");
        assert_eq!(parse_cgroup("0::/user.slice\n"), None);
    }
}

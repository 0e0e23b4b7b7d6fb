//! Where a new server is among cgroups: not where its starter happened to be.

use super::server::ServeError;
use crate::Standing;
use crate::cgroup::{CgroupError, CgroupHost};
use crate::systemd::{self, Manager, SystemdError, names};

/// The cgroup of a cluster's shims, below the cluster's own: a leaf, since v2 lets processes be in leaves only.
pub const SHIMS: &str = "shims";

/// Puts a new server where neither its starter's memory limit nor the end of its starter's service reaches it. That of
/// somebody without root stays where it is unless a systemd is his, or he is root where cgroups are.
pub(super) fn leave_starter(
    standing: Standing,
    cluster: &str,
    name: &str,
    server: u32,
) -> Result<(), ServeError> {
    if systemd::is_running() && systemd::waiting(own_scope(standing, cluster, name, server))? {
        return Ok(());
    }
    match standing {
        Standing::Root => join_shims(cluster, server),
        // Where cgroups are not delegated to it there is nowhere to go.
        Standing::NamespaceRoot => join_shims(cluster, server).or(Ok(())),
        Standing::User => Ok(()),
    }
}

/// The same by files.
fn join_shims(cluster: &str, server: u32) -> Result<(), ServeError> {
    let host = match CgroupHost::discover() {
        Err(CgroupError::NoHierarchy) => return Ok(()),
        other => other?,
    };
    let cgroup = host.cgroup_everywhere(&format!("{cluster}/{SHIMS}"))?;
    cgroup.create()?;
    Ok(cgroup.join(server)?)
}

/// Puts it where containerd wants it.
pub(super) fn join_asked(path: Option<&str>, server: u32) -> Result<(), ServeError> {
    let Some(path) = path else { return Ok(()) };
    let cgroup = CgroupHost::discover()?.cgroup(path)?;
    cgroup.create()?;
    Ok(cgroup.join(server)?)
}

/// A scope of the server's own, whose end is its end. `false` where there is no manager to make one.
async fn own_scope(standing: Standing, cluster: &str, name: &str, server: u32) -> Result<bool, SystemdError> {
    let mut manager = match Manager::of(standing).await {
        Err(error) if error.is_absence() => return Ok(false),
        other => other?,
    };
    let unit = names::cluster_scope(cluster, &format!("shim-{name}"));
    match manager.start_scope(&unit, &[server], Vec::new()).await {
        // That of a server of this group which died a moment ago, and of which systemd has not heard yet.
        Err(SystemdError::Taken(_)) => {
            manager.stop(&unit.name).await?;
            manager.start_scope(&unit, &[server], Vec::new()).await?;
        }
        other => other?,
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_goes_where_containerd_wants_it() {
        let path = format!("/amphipod-unit-shims-{}", std::process::id());
        let mut server = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let joined = join_asked(Some(&path), server.id());
        let seen = std::fs::read_to_string(format!("/proc/{}/cgroup", server.id())).unwrap();
        server.kill().unwrap();
        server.wait().unwrap();
        if let Ok(cgroup) = CgroupHost::discover().and_then(|host| host.cgroup(&path)) {
            cgroup.remove_waiting().unwrap();
        }
        match joined {
            Ok(()) => assert!(seen.contains(&path), "{seen}"),
            Err(error) => eprintln!("skipped: needs root and cgroups ({error})"),
        }
    }
}

//! The PID namespace that containers of a Pod share (`shareProcessNamespace`): made when the first of them is, by a
//! process of the shim's that is its init. What that process does is in [`crate::init::keeper`].

use std::path::PathBuf;
use std::sync::Arc;

use nix::sched::CloneFlags;
use tokio::sync::Mutex;

use crate::init::ContainerPlan;
use crate::process::{ContainerProcess, ProcessError};
use crate::reaper::Reaper;

/// The namespace of one group of containers, once there is one. It lasts as long as the shim.
#[derive(Debug, Default)]
pub struct SharedProcesses {
    keeper: Mutex<Option<Arc<ContainerProcess>>>,
}

impl SharedProcesses {
    /// Gives a container the shared namespace in the place of one of its own. Its init is in the container's other
    /// namespaces, as far as those are joined and not new: the Pod's, then.
    pub async fn give(&self, reaper: &Reaper, plan: &mut ContainerPlan) -> Result<(), ProcessError> {
        let mut keeper = self.keeper.lock().await;
        let alive = keeper.as_ref().filter(|k| k.exit().is_none());
        let pid = match alive {
            Some(keeper) => keeper.pid(),
            None => {
                let made = ContainerProcess::keeper(reaper, &plan.join).await?;
                keeper.insert(made.follow(|| (), |_| ())).pid()
            }
        };
        plan.new_namespaces.remove(CloneFlags::CLONE_NEWPID);
        let path = PathBuf::from(format!("/proc/{pid}/ns/pid"));
        plan.join.push((CloneFlags::CLONE_NEWPID, path));
        Ok(())
    }
}

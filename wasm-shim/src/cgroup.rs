//! The cgroup of this process: `/<cluster>/wasm-<Kubernetes namespace>`, or a scope of systemd's of that name, or, for a further
//! process of a namespace, one of its own beside that.
//!
//! Owns when it is joined. It bounds nothing by itself (budgets and quotas of guests are kept inside the process); it is
//! where the host sees, and may bound, what all Wasm of a namespace uses.

use crate::bundle::{annotations_of, read_spec};
use amphipod_shim_api::annotations::SANDBOX_NAMESPACE;
use amphipod_shim_api::cgroup::{CgroupError, CgroupHost};
use amphipod_shim_api::start::SHIMS;
use amphipod_shim_api::systemd::{self, Manager, SystemdError, names};
use std::path::Path;
use std::sync::OnceLock;

/// The calling process, to a cgroup's `cgroup.procs`.
const SELF: u32 = 0;

/// Why this process is where its starter was.
#[derive(Debug, thiserror::Error)]
enum JoinError {
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Systemd(#[from] SystemdError),
    #[error("the thread that asks systemd ended")]
    Thread,
}

/// Joins the cgroup of the first container's namespace: all containers of a process are of one.
pub struct NamespaceCgroup {
    cluster: String,
    /// The namespace, once it is known.
    joined: OnceLock<String>,
}

impl NamespaceCgroup {
    /// For a process of this containerd namespace (the cluster's name).
    pub fn new(cluster: &str) -> Self {
        Self {
            cluster: cluster.to_owned(),
            joined: OnceLock::new(),
        }
    }

    /// Joins, the first time it is called. Without cgroups guests run all the same, so a failure is only told.
    pub fn join_once(&self, bundle: &Path) {
        if self.joined.get().is_some() {
            return;
        }
        // A bundle that cannot be read is refused by Create, with the reason.
        let Ok(spec) = read_spec(bundle) else { return };
        let Some(namespace) = annotations_of(&spec).remove(SANDBOX_NAMESPACE) else {
            return;
        };
        if self.joined.set(namespace.clone()).is_ok()
            && let Err(error) = self.join(&namespace)
        {
            tracing::warn!(%error, namespace, "this shim is in no cgroup of its own");
        }
    }

    /// Before this process ends: back to where shims are when they have no namespace, so that nothing is left of it
    /// when this was the last one there. systemd sees to that by itself.
    pub fn leave(&self) {
        let Some(namespace) = self.joined.get().filter(|_| !systemd::is_running()) else {
            return;
        };
        let left = CgroupHost::discover().and_then(|host| {
            let shims = host.cgroup(&format!("/{}/{SHIMS}", self.cluster))?;
            if shims.exists() {
                shims.join(SELF)?;
                host.cgroup(&format!("/{}/wasm-{namespace}", self.cluster))?
                    .try_remove()?;
            }
            Ok(())
        });
        if let Err(error) = left {
            tracing::debug!(%error, namespace, "the namespace's cgroup stays");
        }
    }

    fn join(&self, namespace: &str) -> Result<(), JoinError> {
        if systemd::is_running() {
            return self.have_scope(namespace);
        }
        let cgroup = CgroupHost::discover()?.cgroup(&format!("/{}/wasm-{namespace}", self.cluster))?;
        cgroup.create()?;
        Ok(cgroup.join(SELF)?)
    }

    /// On a thread of its own: the caller's has an event loop, which is to wait for this.
    fn have_scope(&self, namespace: &str) -> Result<(), JoinError> {
        let own = std::process::id();
        let unit = |name: String| names::cluster_scope(&self.cluster, &name);
        let ask = || {
            systemd::waiting(async {
                let mut manager = Manager::of_host().await?;
                let first = unit(format!("wasm-{namespace}"));
                match manager.start_scope(&first, &[own], Vec::new()).await {
                    // A scope takes no one in later. No namespace has a dot in its name.
                    Err(SystemdError::Taken(_)) => {
                        let further = unit(format!("wasm-{namespace}.{own}"));
                        manager.start_scope(&further, &[own], Vec::new()).await
                    }
                    started => started,
                }
            })
        };
        let asked = std::thread::scope(|threads| threads.spawn(ask).join());
        Ok(asked.map_err(|_| JoinError::Thread)??)
    }
}

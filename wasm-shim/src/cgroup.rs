//! The cgroup of this process: `/<cluster>/wasm-<Kubernetes namespace>`.
//!
//! Owns when it is joined. It bounds nothing by itself (budgets and quotas of guests are kept inside the process); it is
//! where the host sees, and may bound, what all Wasm of a namespace uses.

use crate::bundle::{annotations_of, read_spec};
use amphipod_shim_api::annotations::SANDBOX_NAMESPACE;
use amphipod_shim_api::cgroup::{CgroupError, CgroupHost};
use std::path::Path;
use std::sync::Once;

/// The calling process, to a cgroup's `cgroup.procs`.
const SELF: u32 = 0;

/// Joins the cgroup of the first container's namespace: all containers of a process are of one.
pub struct NamespaceCgroup {
    cluster: String,
    joined: Once,
}

impl NamespaceCgroup {
    /// For a process of this containerd namespace (the cluster's name).
    pub fn new(cluster: &str) -> Self {
        Self {
            cluster: cluster.to_owned(),
            joined: Once::new(),
        }
    }

    /// Joins, the first time it is called. Without cgroups guests run all the same, so a failure is only told.
    pub fn join_once(&self, bundle: &Path) {
        self.joined.call_once(|| {
            // A bundle that cannot be read is refused by Create, with the reason.
            let Ok(spec) = read_spec(bundle) else { return };
            let Some(namespace) = annotations_of(&spec).remove(SANDBOX_NAMESPACE) else {
                return;
            };
            if let Err(error) = self.join(&namespace) {
                tracing::warn!(%error, namespace, "this shim is in no cgroup of its own");
            }
        });
    }

    fn join(&self, namespace: &str) -> Result<(), CgroupError> {
        let cgroup = CgroupHost::discover()?.cgroup(&format!("/{}/wasm-{namespace}", self.cluster))?;
        cgroup.create()?;
        cgroup.join(SELF)
    }
}

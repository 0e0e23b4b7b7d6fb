//! `delete`: what is left of a container whose shim died is killed and removed, and its `poststop` hooks run.
//!
//! Only the cgroup is left on the host: every mount was made in the container's own namespace. Without root there may be
//! none: then the container is found by what its shim wrote down.

use std::io::Write;
use std::path::Path;

use amphipod_shim_api::api::DeleteResponse;
use amphipod_shim_api::api::protobuf::{Message, MessageField};
use amphipod_shim_api::cgroup::{CgroupError, CgroupHost};
use amphipod_shim_api::client::Exit;
use amphipod_shim_api::start::Invocation;
use amphipod_shim_api::systemd::{SystemdError, waiting};
use oci_spec::runtime::Spec;

use crate::rootless::{Trace, TraceError};
use crate::serve::{ShimError, bundle};
use crate::{hooks, process_spec, scope, spec};

/// A container that ends this way ended by SIGKILL.
const KILLED: u32 = 128 + 9;

/// Why a dead shim's container could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum DeleteError {
    #[error(transparent)]
    Shim(#[from] ShimError),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Trace(#[from] TraceError),
    #[error(transparent)]
    Systemd(#[from] SystemdError),
    #[error("cannot encode the answer: {0}")]
    Encode(amphipod_shim_api::api::protobuf::Error),
}

/// Answers an encoded `DeleteResponse`. A bundle that is gone leaves nothing to find.
pub fn delete(call: &Invocation) -> Result<Vec<u8>, DeleteError> {
    let bundle = bundle(call)?;
    if let Ok(spec) = spec::load(&bundle) {
        let path = scope::path(&spec, &call.namespace, &call.id);
        let (ran, cgroup) = match Trace::load(&bundle)? {
            Some(trace) => (trace.kill()?, trace.cgroup()?),
            None => (false, CgroupHost::discover()?.cgroup_everywhere(&path)?),
        };
        // containerd asks also when the shim has removed the container before it went.
        let was_there = ran || cgroup.exists();
        if cgroup.exists() {
            cgroup.kill()?;
        }
        if let Some(unit) = scope::of(&spec) {
            waiting(scope::stop(&unit))?;
        }
        if cgroup.exists() {
            cgroup.remove_waiting()?;
        }
        if spec::is_below(&path, &call.namespace) {
            cgroup.remove_parent();
        }
        if was_there {
            run_hooks(&spec, &call.id, &bundle);
        }
    }
    let exit = Exit {
        status: KILLED,
        at: jiff::Timestamp::now(),
    };
    let answer = DeleteResponse {
        exit_status: exit.status,
        exited_at: MessageField::some(exit.wire_time()),
        ..Default::default()
    };
    answer.write_to_bytes().map_err(DeleteError::Encode)
}

/// What goes wrong with them changes nothing any more, and is only said.
fn run_hooks(spec: &Spec, id: &str, bundle: &Path) {
    let state = spec::subject(spec, id, bundle).state("stopped", 0);
    let errors = match process_spec::hooks(spec, bundle) {
        Ok(hooks) => hooks::run_all(&hooks.poststop, &state),
        // Such a container was never made.
        Err(_) => Vec::new(),
    };
    for error in errors {
        // Nobody is left to tell when standard error is closed.
        let _ = writeln!(std::io::stderr(), "{error}");
    }
}

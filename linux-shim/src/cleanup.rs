//! `delete`: what is left of a container whose shim died is killed and removed.
//!
//! Only the cgroup is left on the host: every mount was made in the container's own namespace. Without root there may be
//! none: then the container is found by what its shim wrote down.

use amphipod_shim_api::api::DeleteResponse;
use amphipod_shim_api::api::protobuf::{Message, MessageField};
use amphipod_shim_api::cgroup::{CgroupError, CgroupHost};
use amphipod_shim_api::client::Exit;
use amphipod_shim_api::start::Invocation;
use amphipod_shim_api::systemd::{SystemdError, waiting};

use crate::rootless::{Trace, TraceError};
use crate::serve::{ShimError, bundle};
use crate::{scope, spec};

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
        let cgroup = match Trace::load(&bundle)? {
            Some(trace) => {
                trace.kill()?;
                trace.cgroup()?
            }
            None => CgroupHost::discover()?.cgroup_everywhere(&path)?,
        };
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

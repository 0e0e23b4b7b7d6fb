//! Running without root's privileges: what an ordinary user may have, and what takes the place of what he may not.
//!
//! A container of an ordinary user lives in a user namespace of his (user_namespaces(7)), where he is root over what is
//! made there and over nothing else. [`adapt`] turns a configuration into one that can be had, and says what is
//! different; `launch` and `init` then enter the user namespace before everything else.

mod adapt;
mod cgroup;
mod outlook;
mod subordinate;
mod trace;
mod write;

pub use adapt::{RootlessError, adapt_layers};
pub use cgroup::{ConfineError, confine, near_own, without_devices};
pub use outlook::outlook;
pub use trace::{Trace, TraceError};
pub use write::{MapError, write_maps};

use std::path::Path;

use amphipod_shim_api::Standing;
use amphipod_shim_api::cgroup::CgroupHost;
use oci_spec::runtime::Spec;

use crate::spec::{self, Config, SpecError};
use subordinate::Facts;

/// What a container is made from.
#[derive(Debug)]
pub struct Configuration {
    /// config.json with what was put right, or for an ordinary user what he can have of it.
    pub bytes: Vec<u8>,
    pub spec: Spec,
    /// What is different.
    pub said: Vec<String>,
}

/// Why there is no configuration of which a container could be made.
#[derive(Debug, thiserror::Error)]
pub enum ConfigurationError {
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error(transparent)]
    Rootless(#[from] RootlessError),
}

/// Reads a bundle's config.json as somebody of this standing can have it.
pub fn configuration(bundle: &Path, standing: Standing) -> Result<Configuration, ConfigurationError> {
    let Config {
        bytes,
        spec,
        mut said,
    } = spec::read(bundle)?;
    let is_v2 = CgroupHost::known().is_ok_and(CgroupHost::is_v2);
    said.extend(spec::without_effect(&spec, is_v2));
    if standing != Standing::User {
        return Ok(Configuration { bytes, spec, said });
    }
    let unlike = |source| SpecError::Parse {
        path: bundle.join("config.json"),
        source,
    };
    let mut value = serde_json::from_slice(&bytes).map_err(unlike)?;
    said.extend(adapt::adapt(&mut value, &Facts::of_this_user())?);
    let bytes = value.to_string().into_bytes();
    let spec = serde_json::from_value(value).map_err(unlike)?;
    Ok(Configuration { bytes, spec, said })
}

//! Starting a shim: the command line both sides speak (containerd's shim v2), and the socket it is found by.

mod agent;
mod args;
mod dead;
mod lock;
mod presence;
mod server;
mod starter;

pub use agent::{ShimCommand, StartShimError};
pub use args::{Action, ArgsError, Invocation};
pub use dead::{forget_all_dead, forget_dead};
pub use server::{ServeError, Served, ensure_server, forget_server, full_mark, take_listener};
pub use starter::SHIMS;

use serde::{Deserialize, Serialize};

/// Where a shim listens and which Task API it speaks; worth keeping on disk to find it again.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ShimAddress {
    /// `unix:///path`.
    pub address: String,
    /// 2 or 3: which name of the Task service to call.
    pub version: u32,
}

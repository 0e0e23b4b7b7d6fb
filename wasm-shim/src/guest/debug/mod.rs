//! What a container that asks for it leaves behind for people: core dumps of traps, and a profile.
//!
//! Owns what is written and its bounds. Refuses to know tasks. Both go to a mount of the container, where whoever may
//! `kubectl exec` into it reaches them. Containers that ask for neither pay for neither: code of those that do is loaded
//! by an engine of its own.

mod dump;
mod files;
mod profile;

pub use dump::{Dumps, told};
pub use files::Files;
pub use profile::Profile;

use std::sync::Arc;

/// What a container asks for.
#[derive(Debug, Default)]
pub struct Debugging {
    pub dumps: Option<Arc<Dumps>>,
    /// Where its profile goes.
    pub profiles: Option<Files>,
}

impl Debugging {
    /// Whether it asks for anything.
    pub fn wanted(&self) -> bool {
        self.dumps.is_some() || self.profiles.is_some()
    }
}

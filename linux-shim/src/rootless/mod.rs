//! Running without root's privileges: what an ordinary user may have, and what takes the place of what he may not.
//!
//! A container of an ordinary user lives in a user namespace of his (user_namespaces(7)), where he is root over what is
//! made there and over nothing else. [`adapt`] turns a configuration into one that can be had, and says what is
//! different; `launch` and `init` then enter the user namespace before everything else.

mod adapt;
mod subordinate;
mod write;

pub use adapt::{RootlessError, adapt};
pub use subordinate::Facts;
pub use write::{MapError, write_maps};

use std::path::PathBuf;

use nix::unistd::Uid;

/// Where records of containers are, for root.
const ROOTS: &str = "/run/amphipod/oci";
/// What a process of the host's own user namespace finds in its `uid_map`.
const EVERY_ID: [&str; 3] = ["0", "0", "4294967295"];

/// Who runs this program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The host's root.
    Root,
    /// Root of a user namespace, as below podman without root.
    NamespaceRoot,
    User,
}

impl Standing {
    pub fn of_this_process() -> Self {
        let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        Self::of(Uid::effective().as_raw(), &map)
    }

    fn of(uid: u32, map: &str) -> Self {
        let host = map.is_empty() || map.split_whitespace().eq(EVERY_ID);
        match (uid, host) {
            (0, true) => Self::Root,
            (0, false) => Self::NamespaceRoot,
            _ => Self::User,
        }
    }

    /// Whether what root may do and we may not is to be made do without.
    pub fn makes_do(self) -> bool {
        self != Self::Root
    }

    /// Where records are unless told otherwise; `None` for a user who has no directory for such things.
    pub fn default_root(self) -> Option<PathBuf> {
        let own = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty());
        let own = own.map(|dir| PathBuf::from(dir).join("amphipod/oci"));
        match self {
            Self::Root => Some(ROOTS.into()),
            Self::NamespaceRoot => own.or_else(|| Some(ROOTS.into())),
            Self::User => own,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_told_from_root_of_a_namespace() {
        let host = "         0          0 4294967295\n";
        assert_eq!(Standing::of(0, host), Standing::Root);
        assert_eq!(
            Standing::of(0, ""),
            Standing::Root,
            "a kernel without user namespaces"
        );
        assert_eq!(
            Standing::of(0, "0 1000 1\n1 100000 65536\n"),
            Standing::NamespaceRoot
        );
        assert_eq!(Standing::of(1000, host), Standing::User);
    }
}

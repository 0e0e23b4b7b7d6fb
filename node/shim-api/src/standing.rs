//! Whether this program has the rights of the host's root, and where its sockets and records are if it has not.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::{AccessFlags, Uid, access};

/// Below this is what root's runtimes leave; short, because a socket's path must fit `sun_path`.
const RUN: &str = "/run/amphipod";
/// The same of others, below `XDG_RUNTIME_DIR`.
const OWN_RUN: &str = "amphipod";
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

    /// Where sockets and records are unless told otherwise; `None` for a user who has no directory for such things.
    pub fn run_dir(self) -> Option<PathBuf> {
        let own = own_runtime_dir().map(|dir| dir.join(OWN_RUN));
        match self {
            Self::Root => Some(RUN.into()),
            // Whether a service or somebody who logged in has started it: each finds what the other left.
            Self::NamespaceRoot if can_be_had(Path::new(RUN)) => Some(RUN.into()),
            Self::NamespaceRoot => own.or_else(|| Some(RUN.into())),
            Self::User => own,
        }
    }
}

/// Whether we may write in a directory, or make it.
fn can_be_had(dir: &Path) -> bool {
    match access(dir, AccessFlags::W_OK) {
        Err(Errno::ENOENT) => dir
            .parent()
            .is_some_and(|above| access(above, AccessFlags::W_OK).is_ok()),
        found => found.is_ok(),
    }
}

/// `XDG_RUNTIME_DIR`; an empty one is none, and so is one that depends on where one is (XDG Base Directory Specification).
pub(crate) fn own_runtime_dir() -> Option<PathBuf> {
    given(std::env::var_os("XDG_RUNTIME_DIR"))
}

fn given(dir: Option<OsString>) -> Option<PathBuf> {
    dir.map(PathBuf::from).filter(|dir| dir.is_absolute())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_of_ones_own_is_an_absolute_path() {
        assert_eq!(given(Some("/run/user/7".into())), Some("/run/user/7".into()));
        for none in [None, Some("".into()), Some("run".into())] {
            assert_eq!(given(none), None);
        }
    }

    #[test]
    fn a_directory_can_be_had_that_is_there_or_can_be_made() {
        let home = tempfile::tempdir().unwrap();
        assert!(can_be_had(home.path()) && can_be_had(&home.path().join("new")));
        assert!(!can_be_had(&home.path().join("not/there")));
    }

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
        assert!(Standing::User.makes_do() && !Standing::Root.makes_do());
    }
}

//! Whether mounts can pass between a volume and a container as `mountPropagation` asks: the kernel passes none where the
//! volume lies on a private mount, and whoever mounted there would write to the directory beneath.

use std::fs;
use std::path::{Path, PathBuf};

use crate::bundle::mounts::{Bind, Propagation};
use crate::mounts::{self, Peers};

/// Why mounts would not pass, in containerd's words.
#[derive(Debug, thiserror::Error)]
pub enum PropagationError {
    #[error("path {path:?} is mounted on {point:?} but it is not a shared mount")]
    NotShared { path: PathBuf, point: PathBuf },
    #[error("path {path:?} is mounted on {point:?} but it is not a shared or slave mount")]
    NeitherSharedNorSlave { path: PathBuf, point: PathBuf },
    #[error("cannot read how {path:?} is mounted: {source}")]
    Table { path: PathBuf, source: std::io::Error },
}

/// Refuses binds that would do less than they say.
///
/// # Errors
/// The first that would.
pub fn check(binds: &[Bind]) -> Result<(), PropagationError> {
    let mut asking = binds.iter().filter(|bind| bind.propagation != Propagation::None);
    asking.try_for_each(check_one)
}

fn check_one(bind: &Bind) -> Result<(), PropagationError> {
    let path = &bind.source;
    let told = |source| PropagationError::Table {
        path: path.clone(),
        source,
    };
    let real = fs::canonicalize(path).map_err(told)?;
    let (point, peers) = mounts::peers_of(&real).map_err(told)?;
    judge(bind.propagation, path, point, peers)
}

fn judge(asked: Propagation, path: &Path, point: PathBuf, peers: Peers) -> Result<(), PropagationError> {
    let path = path.to_owned();
    match asked {
        Propagation::Bidirectional if !peers.shared => Err(PropagationError::NotShared { path, point }),
        Propagation::HostToContainer if !peers.shared && !peers.slave => {
            Err(PropagationError::NeitherSharedNorSlave { path, point })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_pass_where_the_kernel_passes_them() {
        use Propagation::{Bidirectional, HostToContainer, None};
        for (asked, shared, slave, passes) in [
            (None, false, false, true),
            (HostToContainer, false, false, false),
            (HostToContainer, false, true, true),
            (HostToContainer, true, false, true),
            (Bidirectional, false, false, false),
            (Bidirectional, false, true, false),
            (Bidirectional, true, false, true),
            (Bidirectional, true, true, true),
        ] {
            let judged = judge(asked, Path::new("/a/b"), "/a".into(), Peers { shared, slave });
            assert_eq!(judged.is_ok(), passes, "{asked:?} {shared} {slave}");
        }
        let why = judge(Bidirectional, Path::new("/a/b"), "/a".into(), Peers::default()).unwrap_err();
        assert_eq!(
            why.to_string(),
            "path \"/a/b\" is mounted on \"/a\" but it is not a shared mount"
        );
    }
}

//! The bind mounts of a bundle, in our terms. All other mounts show a kernel, which a guest has not.

use oci_spec::runtime::Mount;
use std::path::PathBuf;

/// A file or directory of the host that is shown at a path of the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    pub source: PathBuf,
    pub destination: PathBuf,
    /// What is mounted below the source comes with it.
    pub whole: bool,
    pub read_only: bool,
    /// So is what is mounted below it.
    pub all_read_only: bool,
    /// What the host mounts below the source later appears too.
    pub follows: bool,
}

impl Bind {
    /// `None` for another kind of mount.
    pub fn of(mount: &Mount) -> Option<Self> {
        let has = |wanted: &str| mount.options().iter().flatten().any(|option| option == wanted);
        let is_bind = mount.typ().as_deref() == Some("bind") || has("bind") || has("rbind");
        let source = mount.source().clone().filter(|_| is_bind)?;
        Some(Self {
            source,
            destination: mount.destination().clone(),
            whole: has("rbind"),
            read_only: has("ro") || has("rro"),
            all_read_only: has("rro"),
            follows: ["slave", "rslave", "shared", "rshared"].into_iter().any(has),
        })
    }

    /// Whether this one's place is below the other's.
    pub fn is_inside(&self, other: &Self) -> bool {
        self.destination != other.destination && self.destination.starts_with(&other.destination)
    }
}

/// The bind mounts among `mounts`, in their order.
pub fn binds(mounts: &[Mount]) -> Vec<Bind> {
    mounts.iter().filter_map(Bind::of).collect()
}

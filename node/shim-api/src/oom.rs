//! How an agent learns that a container was killed for memory: a file in the bundle.
//!
//! The Task API has no field for it (containerd publishes an event instead, which an absent agent would miss).
//! The file is written before the exit becomes visible through State or Wait, and goes with the bundle.

use std::path::{Path, PathBuf};
use std::{fs, io};

const FILE: &str = "oom-killed";

fn path(bundle: &Path) -> PathBuf {
    bundle.join(FILE)
}

/// Records that the container of this bundle ran out of memory.
pub fn mark(bundle: &Path) -> io::Result<()> {
    fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path(bundle))
        .map(drop)
}

/// True when the container of this bundle ran out of memory.
pub fn happened(bundle: &Path) -> bool {
    path(bundle).exists()
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_mark_is_seen_and_may_be_set_twice() {
        let bundle = tempfile::tempdir().unwrap();
        assert!(!super::happened(bundle.path()));
        super::mark(bundle.path()).unwrap();
        super::mark(bundle.path()).unwrap();
        assert!(super::happened(bundle.path()));
    }
}

//! The network namespace of a Pod, which is opened when threads are to enter it: thousands of containers that nobody asks
//! have no descriptor for it.
//!
//! Owns that it is the same each time. Whoever made it keeps it where it was found, which only they may change; and while a
//! socket is in it, as a server's listener is, no other namespace has its number.

use nix::sys::statfs::{PROC_SUPER_MAGIC, statfs};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A namespace that was there when its container was made.
#[derive(Debug)]
pub struct Namespace {
    path: PathBuf,
    device: u64,
    number: u64,
    /// Where it would be gone with a process, or with a descriptor of somebody's.
    held: Option<Arc<File>>,
}

impl Namespace {
    /// What is at `path` now.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn find(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let seen = file.metadata()?;
        let above = path.parent().unwrap_or(path);
        let may_go = statfs(above)?.filesystem_type() == PROC_SUPER_MAGIC;
        Ok(Self {
            path: path.to_owned(),
            device: seen.dev(),
            number: seen.ino(),
            held: may_go.then(|| Arc::new(file)),
        })
    }

    /// A descriptor of it, for `setns(2)`.
    ///
    /// # Errors
    /// When it is not there any more, or another is, or descriptors are used up.
    pub fn open(&self) -> io::Result<Arc<File>> {
        if let Some(held) = &self.held {
            return Ok(Arc::clone(held));
        }
        let file = File::open(&self.path)?;
        let seen = file.metadata()?;
        if (seen.dev(), seen.ino()) == (self.device, self.number) {
            Ok(Arc::new(file))
        } else {
            let path = self.path.display();
            Err(io::Error::other(format!(
                "{path} is not the network namespace of the Pod any more"
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_in_its_place_is_not_entered() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("net");
        std::fs::write(&path, "one").unwrap();
        let found = Namespace::find(&path).unwrap();
        assert!(found.held.is_none());
        found.open().unwrap();
        std::fs::rename(&path, home.path().join("moved")).unwrap();
        assert_eq!(found.open().unwrap_err().kind(), io::ErrorKind::NotFound);
        std::fs::write(&path, "another").unwrap();
        assert!(found.open().is_err());
    }

    #[test]
    fn that_of_a_process_is_held() {
        let found = Namespace::find(Path::new("/proc/self/ns/net")).unwrap();
        assert!(Arc::ptr_eq(&found.open().unwrap(), &found.open().unwrap()));
    }
}
